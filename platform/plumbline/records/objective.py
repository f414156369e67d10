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


class Mask(Record):
    """Which tokens are targets: the text of assistant turns and their end-of-turn token, never a prompt's or a tool's.

    turns: `all` trains every assistant turn, `last` only the last one (earlier answers are context).
    """

    schema_id = "plumbline.dev/mask/v1"

    turns: Literal["all", "last"] = "all"


class Adapter(Record):
    """`none` trains the policy's own weights; `lora` adds low-rank adapters (Hu et al. 2021, arXiv 2106.09685) to the
    linear layers named by `targets`; `dora` splits them into magnitude and direction (Liu et al. 2024, 2402.09353);
    `qlora` keeps the base weights of those layers in 4-bit NormalFloat (Dettmers et al. 2023, 2305.14314)."""

    schema_id = "plumbline.dev/adapter/v2"

    kind: Literal["none", "lora", "qlora", "dora"] = "none"
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip


class Optimiser(Record):
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up (at most half of the run), then by `schedule` a cosine or
    a straight line towards `final_share` of the peak rate, or the peak rate to the end."""

    schema_id = "plumbline.dev/optimiser/v2"

    schedule: Literal["cosine", "linear", "constant"] = "cosine"

    learning_rate: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    final_share: float = Field(default=0.02, ge=0, le=1)


class Truncation(Record):
    """What happens to a conversation longer than `max_tokens`.

    drop: leave the example out. truncate_prompt_left: cut prompt tokens from the left, never the answer; an
    answer that alone is too long is dropped. split: several rows of at most `max_tokens`, each supervised token in
    exactly one of them, with up to half a row of what came before it as context; a cut answer carries no stop token
    where it is cut. Every case is counted, and a run that would touch more than `max_share` of its examples is
    refused.
    """

    schema_id = "plumbline.dev/truncation/v2"

    max_tokens: int = Field(default=512, ge=8)
    policy: Literal["drop", "truncate_prompt_left", "split"] = "drop"
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


ProbeName = Literal[
    "refusal_benign", "refusal_harmful", "sycophancy_flip", "abstention_unknown", "base_skill"
]  # fmt: skip


class ProbePlan(Record):
    """Behaviour probes and samples every `every` steps, on `items` held-out items per probe of the suite named.

    `margins` stops the run early: when a probe is worse than the base policy's own rate by more than its margin (a
    difference of rates, 0 to 1), the policy is the last probed checkpoint before that, however late the news came.
    """

    schema_id = "plumbline.dev/probe-plan/v1"

    suite: Digest | None = None
    every: int = Field(default=100, ge=1)
    items: int = Field(default=32, ge=1)
    margins: dict[ProbeName, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _margins_are_of_a_suite(self) -> "ProbePlan":
        if self.margins and self.suite is None:
            raise ValueError("probes.margins need a probes.suite to be measured on")
        if any(not 0 <= margin <= 1 for margin in self.margins.values()):
            raise ValueError("a margin in probes.margins is a difference of rates, from 0 to 1")
        return self


class Objective(Record):
    """Sum over supervised tokens of weight times NLL, divided by the weight of the whole global batch, over
    micro-batches and ranks alike.

    normaliser: `tokens` gives every supervised token the weight of its slice; `examples` gives every row (an example,
    or each part of one that is split or expanded) the weight of its slice, shared equally among its supervised tokens.
    `batch_examples` counts rows too. layout: how a global batch is cut into
    micro-batches: `padded` in order, `bucketed` by length, `packed` end to end without padding (documents never see
    each other); all three give the same gradient to rounding. `replay` names a second dataset version mixed in to
    `replay_share` of all examples. `frozen` lists parameter-name prefixes that do not move. `added_tokens` are added
    to the tokenizer as special tokens, their embeddings begun at the mean. `seed` orders the batches, initialises
    adapters and drives dropout (whose draws, alone of all, depend on the number of ranks). Not supported here:
    preference losses.
    """

    schema_id = "plumbline.dev/objective/v2"

    dataset: Digest
    base_policy: Digest
    template: Digest
    rubric: Digest
    added_tokens: tuple[str, ...] = ()
    mask: Mask = Mask()
    truncation: Truncation = Truncation()
    batch_examples: int = Field(default=32, ge=1)
    layout: Literal["padded", "bucketed", "packed"] = "bucketed"
    micro_batch_examples: int = Field(default=8, ge=1)
    micro_batch_tokens: int = Field(default=16384, ge=8)
    normaliser: Literal["tokens", "examples"] = "tokens"
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
    gradient_checkpointing: bool = False
    checkpoint: CheckpointChoice = CheckpointChoice()
    checkpoint_every: int = Field(default=200, ge=1)
    probes: ProbePlan = ProbePlan()
    seed: int = Field(default=0, ge=0, lt=2**32)
    samples: DecoderSettings = DecoderSettings()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Objective":
        if (self.replay_share > 0) != (self.replay is not None):
            raise ValueError("replay and replay_share go together: name the replay dataset or set the share to 0")
        if self.adapter.kind != "none" and self.frozen:
            raise ValueError("an adapter trains nothing but itself: leave frozen empty")
        if any(not token or token != "".join(token.split()) for token in self.added_tokens):
            raise ValueError("added_tokens are texts without white space")
        if any(weight < 0 for weight in self.slice_weights.values()):
            raise ValueError("slice weights are not negative")
        if self.truncation.max_tokens > self.micro_batch_tokens:
            raise ValueError("micro_batch_tokens is less than truncation.max_tokens: one example would not fit")
        if self.probes.margins and self.checkpoint.rule != "last":
            raise ValueError("probes.margins choose the checkpoint: leave checkpoint.rule at last")
        return self


class MaskTotals(Record):
    """One row of the mask ledger: a slice's counts (or everybody's).

    `examples` that are trained on, in `rows` (more when examples are split, or expanded: one row per answer, where a
    template rewrites history or an answer's first token would swallow its prompt's end); tokens of these rows that are
    context (`prompt_tokens`) and supervised; `ignored_tokens` of answers that the mask leaves out; examples cut on the
    left, split, expanded, dropped; `truncated_tokens` that no row carries; supervised end-of-turn tokens.
    """

    schema_id = "plumbline.dev/mask-totals/v2"

    examples: int
    rows: int = 0
    prompt_tokens: int
    supervised_tokens: int
    ignored_tokens: int = 0
    truncated: int
    truncated_tokens: int = 0
    split: int = 0
    expanded: int = 0
    dropped: int
    stop_supervised: int
    loss_share: float


class TrainingRecord(Record):
    """What a finished run measured: not part of any identity, kept beside the policy's manifest."""

    schema_id = "plumbline.dev/training-record/v2"

    objective: Digest
    steps: int
    examples_seen: int
    supervised_tokens: int
    tokens: int = 0
    first_loss: float
    last_loss: float
    chosen_step: int
    stopped_by: str = ""
    mask_ledger: dict[str, MaskTotals]
    wall_seconds: float
    workers: int
