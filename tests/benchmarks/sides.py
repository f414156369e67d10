"""Who is compared in training.py: one function per side, all over the same rows, global batch, weights and optimiser.

Each side builds the same policy from the same seed, takes `steps` optimizer steps over the same global batch, and tells
its `Watch` when the policy stands, when a step's gradient is whole (before clipping), and when a step is done. Ours is
the step of `plumbline.training.loop` with its own parts and nothing around it; the others are their own `train()`.

The others never see other examples than ours in a step: rows come in the store's order (sequential sampling), and
per-device batch times accumulation is the global batch. Two of them would regroup examples *across* global batches if
left alone, which is another objective, so their effect is made inside the global batch: `group_by_length` as rows
sorted by length beforehand, TRL's packing by TRL's own `pack_dataset` over the rows of one global batch.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from plumbline.records import Objective, Optimiser, digest_of
from plumbline.training.store import TokenStore

IGNORED = -100


@dataclass(frozen=True)
class Case:
    """A policy's shape and one global batch of `rows` rows. ragged: lognormal lengths about `median`, the last third
    or so of each row is the answer. uniform: every row `median` long and every token but the first a target, so that
    neither padding nor the head leaves anything to save."""

    data: str
    vocabulary: int
    device: str = "cpu"
    rows: int = 32
    micro_rows: int = 8
    median: int = 32
    longest: int = 160
    hidden: int = 256
    layers: int = 12
    inner: int = 704
    heads: int = 4

    def store(self) -> TokenStore:
        draw = np.random.default_rng(7)
        lengths = np.full(self.rows, self.median)
        if self.data == "ragged":
            lengths = np.clip(draw.lognormal(np.log(self.median), 0.8, self.rows).astype(int), 8, self.longest)
        prompts = np.ones(self.rows, dtype=int)
        if self.data == "ragged":
            prompts = np.clip(np.round(lengths * draw.uniform(0.4, 0.9, self.rows)).astype(int), 1, lengths - 1)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        inside = [np.arange(length) >= prompt for length, prompt in zip(lengths, prompts, strict=True)]
        return TokenStore(
            ids=draw.integers(2, self.vocabulary, int(starts[-1])).astype(np.int32),
            supervised=np.concatenate(inside),
            starts=starts,
            slices=np.zeros(self.rows, np.int16),
            slice_names=("all",),
        )

    def objective(self, layout: str) -> Objective:
        nothing = digest_of("nothing")
        return Objective(
            dataset=nothing,
            base_policy=nothing,
            template=nothing,
            rubric=nothing,
            layout=layout,
            batch_examples=self.rows,
            micro_batch_examples=self.micro_rows,
            micro_batch_tokens=packed_tokens(self) if layout == "packed" else 2**20,
            truncation={"max_tokens": self.longest},
            precision="bfloat16" if self.device == "cuda" else "float32",
            optimiser=Optimiser(learning_rate=1e-4, schedule="constant", warmup_steps=0),
        )

    def config(self) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            pad_token_id=0,
            eos_token_id=1,
        )

    def policy(self, attention: str = "sdpa") -> Any:
        """The same random Llama every time, in float32."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(self.config(), attn_implementation=attention)
        return model.to(self.device).train()


def packed_tokens(case: Case) -> int:
    """Tokens of a packed micro-batch: the global batch in as many packs as the other layouts have micro-batches, and
    a little room, since documents are not cut."""
    lengths = case.store().lengths
    return max(int(lengths.max()), case.longest, round(1.05 * int(lengths.sum()) * case.micro_rows / case.rows))


class Watch(Protocol):
    """`clip`: whether the side clips its gradient (it does when timed, not when its gradient is compared)."""

    clip: bool

    def built(self, model: Any) -> None: ...

    def gradient(self, model: Any) -> None: ...

    def stepped(self, loss: float) -> None: ...


Side = Callable[[Case, int, Watch], None]


def ours(layout: str, case: Case, steps: int, watch: Watch) -> None:
    """loop.py's step: micro-batches, closed-form head, one denominator, clip, fused AdamW."""
    import torch

    from plumbline.training import sharding
    from plumbline.training.attention import use_document_attention
    from plumbline.training.batch import collate, micro_batches
    from plumbline.training.loss import LOSS, WeightedLoss, global_weight
    from plumbline.training.optimise import fill_gradients, make_optimiser

    model, store, objective = case.policy(), case.store(), case.objective(layout)
    if layout == "packed":
        use_document_attention(model)
    watch.built(model)
    root = WeightedLoss(model, objective, len(store.slice_names))
    parameters = list(model.parameters())
    optimiser = make_optimiser(parameters, objective.optimiser)
    weights, batch = store.token_weights(objective), np.arange(len(store))
    for _ in range(steps):
        weight = global_weight(batch, store.targets, weights)
        tally = torch.zeros(root.tally_size, dtype=torch.float64, device=case.device)
        for rows in micro_batches(batch, store.lengths, objective):
            loss, part = root(collate(store, rows, weights, objective, case.device))
            (loss / weight).backward()
            tally += part
        fill_gradients(parameters)
        watch.gradient(model)
        if watch.clip:
            sharding.clip(parameters, objective.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        watch.stepped(tally.tolist()[LOSS] / weight)


def plain_trainer(grouped: bool, case: Case, steps: int, watch: Watch) -> None:
    """transformers.Trainer: padded, full logits, its own loss; `grouped`: rows of the global batch sorted by length."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model = case.policy()
    watch.built(model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**arguments(case, steps, watch, folder)),
            train_dataset=rows_of(case.store(), grouped) * steps,
            data_collator=DataCollatorForSeq2Seq(any_tokenizer(), label_pad_token_id=IGNORED),
        )
        run(trainer, watch)


def trl_default(case: Case, steps: int, watch: Watch) -> None:
    """TRL's SFTTrainer as it comes: padded, fused head, gradient checkpointing on."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = case.policy()
    watch.built(model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(case, steps, watch, folder), max_length=case.longest),
            train_dataset=Dataset.from_list(rows_of(case.store(), False) * steps),
            processing_class=any_tokenizer(),
        )
        run(trainer, watch)


def trl_packed(case: Case, steps: int, watch: Watch) -> None:
    """TRL with packing=True and no gradient checkpointing: one pack per micro-batch, as many packs per step as the
    other sides have micro-batches. `pack_dataset` with the least length that gives so many."""
    from datasets import Dataset, concatenate_datasets
    from trl import SFTConfig, SFTTrainer
    from trl.data_utils import pack_dataset

    model = case.policy(fast_attention(case))
    watch.built(model)
    rows, packs = Dataset.from_list(rows_of(case.store(), False)), case.rows // case.micro_rows
    lengths = case.store().lengths
    length = max(int(lengths.max()), -(-int(lengths.sum()) // packs))
    while len(packed := pack_dataset(rows, length, "bfd")) > packs:
        length += 1
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **arguments(case, steps, watch, folder),
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": len(packed),
            "packing": True,
            "max_length": length,
            "gradient_checkpointing": False,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings),
            train_dataset=concatenate_datasets([packed] * steps),
            processing_class=any_tokenizer(),
        )
        run(trainer, watch)


SIDES: dict[str, Side] = {
    "ours, padded": partial(ours, "padded"),
    "ours, bucketed": partial(ours, "bucketed"),
    "ours, packed": partial(ours, "packed"),
    "transformers.Trainer": partial(plain_trainer, False),
    "transformers.Trainer, by length": partial(plain_trainer, True),
    "TRL": trl_default,
    "TRL, packed, no checkpointing": trl_packed,
}


def arguments(case: Case, steps: int, watch: Watch, folder: str) -> dict[str, Any]:
    """Training arguments that both trainers get: our optimiser's, and no logging, saving or shuffling of their own."""
    settings = case.objective("padded").optimiser
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": case.micro_rows,
        "gradient_accumulation_steps": case.rows // case.micro_rows,
        "train_sampling_strategy": "sequential",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": settings.beta1,
        "adam_beta2": settings.beta2,
        "adam_epsilon": settings.epsilon,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip_norm if watch.clip else 0.0,
        "optim": "adamw_torch_fused",
        "bf16": case.device == "cuda",
        "use_cpu": case.device == "cpu",
        "dataloader_pin_memory": case.device == "cuda",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows_of(store: TokenStore, by_length: bool) -> list[dict[str, list[int]]]:
    """The store as the trainers take it: input_ids, and labels that are -100 where a token is no target."""
    order = np.argsort(store.lengths, kind="stable") if by_length else np.arange(len(store))
    rows = []
    for row in order:
        ids, supervised = store.ids[store.row(row)], store.supervised[store.row(row)]
        rows.append({"input_ids": ids.tolist(), "labels": np.where(supervised, ids, IGNORED).tolist()})
    return rows


def any_tokenizer() -> Any:
    """The trainers want one to pad with; no text is tokenised here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def run(trainer: Any, watch: Watch) -> None:
    """Train, and tell the watch. A step's loss is logged when all else of the step is done."""
    from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Told(TrainerCallback):
        def on_pre_optimizer_step(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
        ) -> None:
            watch.gradient(more["model"])

        def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
            if "loss" in more["logs"]:
                watch.stepped(float(more["logs"]["loss"]))

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Told())
    trainer.train()


def fast_attention(case: Case) -> str:
    """TRL's packing wants a variable-length kernel; without a GPU, or the flash-attn package, it falls back to a dense
    mask over the whole pack."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if case.device == "cuda" and is_flash_attn_2_available() else "sdpa"
