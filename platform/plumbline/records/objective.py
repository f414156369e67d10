"""The objective: everything that changes the effective loss. Its digest is the objective id.

Two runs with the same objective id minimise the same function over the same batches in the same order; a resume
under another id is refused. Nothing here says *where* the run happens (workers, devices): that changes time,
not the loss.
"""

from typing import Literal

from pydantic import Field, model_validator

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.decoding import DecoderSettings


class Adapter(Record):
    """`none` trains the policy's own weights; `lora` adds low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    schema_id = "plumbline.dev/adapter/v1"

    kind: Literal["none", "lora"] = "none"
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip


class Optimiser(Record):
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up and a cosine to `final_share` of the peak rate."""

    schema_id = "plumbline.dev/optimiser/v1"

    learning_rate: float = Field(gt=0)
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    final_share: float = Field(default=0.02, ge=0, le=1)


class Truncation(Record):
    """What happens to a conversation longer than `max_tokens`.

    drop: leave the example out. truncate_prompt_left: cut prompt tokens from the left, never the answer; an
    answer that alone is too long is dropped. Every case is counted, and a run that would touch more than
    `max_share` of its examples is refused.
    """

    schema_id = "plumbline.dev/truncation/v1"

    max_tokens: int = Field(default=512, ge=8)
    policy: Literal["drop", "truncate_prompt_left"] = "drop"
    max_share: float = Field(default=0.02, ge=0, le=1)


class KlTerm(Record):
    """Adds `weight` * KL(reference || policy), in nats per supervised token, on the named slices."""

    schema_id = "plumbline.dev/kl-term/v1"

    weight: float = Field(default=0.0, ge=0)
    slices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _applies_somewhere(self) -> "KlTerm":
        if (self.weight > 0) != bool(self.slices):
            raise ValueError("kl.weight and kl.slices go together: name the slices that the term is for")
        return self


class CheckpointChoice(Record):
    """How the exported weights are picked: the last step's, or the best mean validation loss seen at
    `every` steps (validation examples are neither trained on nor held out for the gate)."""

    schema_id = "plumbline.dev/checkpoint-choice/v1"

    rule: Literal["last", "best_validation_loss"] = "last"
    every: int = Field(default=100, ge=1)
    validation_share: float = Field(default=0.0, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _has_what_it_looks_at(self) -> "CheckpointChoice":
        if (self.rule == "best_validation_loss") != (self.validation_share > 0):
            raise ValueError("rule best_validation_loss and a validation_share above 0 go together")
        return self


class Objective(Record):
    """Sum over supervised tokens of slice weight times NLL, divided by the weighted supervised-token count of
    the whole global batch, over micro-batches and ranks alike.

    Supervised tokens are the contents of every assistant turn and its end-of-turn token. `replay` names a second
    dataset version mixed in to `replay_share` of all examples. `frozen` lists parameter-name prefixes that do
    not move. Not supported here: packing, preference losses, QLoRA.
    """

    schema_id = "plumbline.dev/objective/v1"

    dataset: Digest
    base_policy: Digest
    template: Digest
    rubric: Digest
    truncation: Truncation = Truncation()
    batch_examples: int = Field(default=32, ge=1)
    micro_batch_examples: int = Field(default=32, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    slice_weights: dict[str, float] = Field(default_factory=dict)
    replay: Digest | None = None
    replay_share: float = Field(default=0.0, ge=0, lt=1)
    kl: KlTerm = KlTerm()
    adapter: Adapter = Adapter()
    optimiser: Optimiser
    frozen: tuple[str, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint: CheckpointChoice = CheckpointChoice()
    checkpoint_every: int = Field(default=200, ge=1)
    seed: int = 0
    samples: DecoderSettings = DecoderSettings()

    @model_validator(mode="after")
    def _replay_is_named(self) -> "Objective":
        if (self.replay_share > 0) != (self.replay is not None):
            raise ValueError("replay and replay_share go together: name the replay dataset or set the share to 0")
        if self.adapter.kind != "none" and self.frozen:
            raise ValueError("an adapter trains nothing but itself: leave frozen empty")
        if any(weight < 0 for weight in self.slice_weights.values()):
            raise ValueError("slice weights are not negative")
        return self


class MaskTotals(Record):
    """One row of the mask ledger: token counts of a slice (or of all), and how many stop tokens are supervised."""

    schema_id = "plumbline.dev/mask-totals/v1"

    examples: int
    prompt_tokens: int
    supervised_tokens: int
    truncated: int
    dropped: int
    stop_supervised: int
    loss_share: float


class TrainingRecord(Record):
    """What a finished run measured: not part of any identity, kept beside the policy's manifest."""

    schema_id = "plumbline.dev/training-record/v1"

    objective: Digest
    steps: int
    examples_seen: int
    supervised_tokens: int
    first_loss: float
    last_loss: float
    chosen_step: int
    mask_ledger: dict[str, MaskTotals]
    wall_seconds: float
    workers: int
