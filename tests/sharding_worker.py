"""What a rank of the sharding tests does: the same small training as one process, on its rows, with gloo.

Results go to files, because the tests that judge them run in another process.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from plumbline.training import sharding

KINDS = ("untied", "tied", "lora", "frozen", "checkpointing", "bfloat16", "sometimes")
TRAINED = ("untied", "tied", "lora", "frozen")  # the kinds that are trained too; of the others only the gradient
STEPS, SAVED_AT, EXAMPLES = 5, 3, 7
CLIP = 0.05  # small enough to bind at every step


class HeadLoss(torch.autograd.Function):
    """Weighted negative log-likelihood over a head's weight, logits formed again in the backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, labels: Any, weights: Any) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, labels, weights)
        logits = hidden.float() @ weight.float().T
        return (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum()

    @staticmethod
    def backward(ctx: Any, *above: Any) -> Any:
        hidden, weight, labels, weights = ctx.saved_tensors
        logits = hidden.float() @ weight.float().T
        slope = torch.softmax(logits, -1) - torch.nn.functional.one_hot(labels, logits.shape[1])
        slope = slope * weights[:, None] * above[0]
        by_weight = slope.T @ hidden.float() if ctx.needs_input_grad[1] else None
        return (slope @ weight.float()).to(hidden.dtype), by_weight, None, None


class Root(nn.Module):
    """The language model, called through its base, and the loss over its head."""

    def __init__(self, model: Any, kind: str) -> None:
        super().__init__()
        self.model, self.bfloat16, self.sometimes = model, kind == "bfloat16", kind == "sometimes"
        if self.sometimes:
            model.gain = nn.Parameter(torch.linspace(0.5, 2.0, model.config.hidden_size))

    def forward(self, ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            if self.sometimes and ids.shape[1] % 2:  # of two ranks, the first meets even lengths only
                hidden = hidden * self.model.gain
            chosen = hidden[:, :-1][targets]
            loss: torch.Tensor = HeadLoss.apply(chosen, self.model.lm_head.weight, ids[:, 1:][targets], weights)
        return loss


def make_root(kind: str, seed: int = 0) -> Root:
    """Three layers whose sizes (35, 61, 97, 6) suit neither two ranks nor three; LoRA of rank 1 has one row."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=35,
        intermediate_size=61,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=6,
        max_position_embeddings=64,
        tie_word_embeddings=kind == "tied",
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).train()
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "down_proj"]
        get_peft_model(model, LoraConfig(r=1, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"))
    if kind == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(("model.embed_tokens", "model.layers.1.", "lm_head")))
    if kind == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Root(model, kind)


def micro_batches(step: int, rank: int, world: int) -> tuple[list[Any], float]:
    """This rank's examples, one to a micro-batch, as many on every rank: what is wanting is made up by micro-batches
    without a supervised token. And the weight of the whole global batch."""
    drawn = torch.Generator().manual_seed(step)
    batch, total = [], 0.0
    for number in range(EXAMPLES):
        ids = torch.randint(97, (1, 6 + 3 * number), generator=drawn)
        targets = torch.rand(1, ids.shape[1] - 1, generator=drawn) < 0.2 + 0.1 * number
        weights = torch.full((int(targets.sum()),), 1.0 + number % 2)
        batch.append((ids, targets, weights))
        total += float(weights.sum())
    mine = batch[rank::world]
    ids, targets, _ = batch[0]
    return mine + [(ids, torch.zeros_like(targets), torch.zeros(0))] * (-(-EXAMPLES // world) - len(mine)), total


def backward(root: Root, step: int, rank: int, world: int, accumulate: bool = True) -> None:
    """The gradient of one global batch."""
    mine, total = micro_batches(step, rank, world)
    for number, micro in enumerate(mine):
        if world > 1 and accumulate:
            sharding.accumulate(root, last=number == len(mine) - 1)
        (root(*micro) / total).backward()


def make_optimiser(root: Root) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [p for p in root.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )


def train(root: Root, optimiser: torch.optim.Optimizer, steps: range, rank: int, world: int) -> list[float]:
    """Steps of AdamW; returns the norms before clipping."""
    norms = []
    for step in steps:
        backward(root, step, rank, world)
        norms.append(sharding.clip(root.parameters(), CLIP))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return norms


def tag(kind: str) -> str:
    return f"{kind}, step {SAVED_AT}"


@contextmanager
def process_group(rank: int, world: int, folder: Path) -> Iterator[Any]:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = f"file://{folder / f'rendezvous-{world}'}"
    dist.init_process_group("gloo", store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        yield init_device_mesh("cpu", (world,))
    finally:
        dist.destroy_process_group()


def work(rank: int, worlds: tuple[int, ...], folder: Path) -> None:
    """Every kind in every world that has this rank: gradients both ways, five steps with a checkpoint after three,
    resumes from the checkpoints of others."""
    for world in worlds:
        if rank < world:
            with process_group(rank, world, folder) as mesh:
                for kind in KINDS:
                    _work_on(kind, mesh, rank, world, folder)


def _work_on(kind: str, mesh: Any, rank: int, world: int, folder: Path) -> None:
    def keep(name: str, tensors: dict[str, torch.Tensor]) -> None:
        if rank == 0:
            save_file(tensors, folder / f"{kind}-{world}-{name}.safetensors")

    root = make_root(kind)
    sharding.shard(root, root.model, mesh)
    for accumulate in (True, False):
        backward(root, 0, rank, world, accumulate)
        gradients = {n: p.grad.full_tensor() for n, p in root.model.named_parameters() if p.grad is not None}
        keep(f"gradient-{accumulate}", gradients)
        root.zero_grad(set_to_none=True)
    if kind not in TRAINED:
        return

    optimiser = make_optimiser(root)
    norms = train(root, optimiser, range(SAVED_AT), rank, world)
    checkpoint = folder / f"{kind}-{world}"
    sharding.save_shards(checkpoint, rank, world, root.model, optimiser, tag(kind))
    keep("saved", sharding.whole_weights(root.model))
    norms += train(root, optimiser, range(SAVED_AT, STEPS), rank, world)
    with torch.no_grad():
        root(*micro_batches(STEPS, 0, 1)[0][0])
    weights = sharding.whole_weights(root.model, keep=rank == 0)
    keep("trained", weights)
    seen = {
        "norms": norms,
        "kept": len(weights),
        "whole_after_validation": [n for n, p in root.named_parameters() if not isinstance(p, DTensor)],
        "numbers": sum(_here(p) for p in root.parameters()),
        "moments": sum(_here(v) for s in optimiser.state.values() for v in s.values() if v.ndim),
    }
    (folder / f"{kind}-{world}-{rank}.json").write_text(json.dumps(seen))

    dist.barrier()
    for origin in (1, 2) if world == 2 else (2,):
        other = make_root(kind, seed=1)
        if kind in ("lora", "frozen"):  # what does not train is no part of a checkpoint
            other.load_state_dict(make_root(kind).state_dict())
        sharding.shard(other, other.model, mesh)
        optimiser = make_optimiser(other)
        sharding.load_shards(folder / f"{kind}-{origin}", other.model, optimiser, tag(kind))
        keep(f"loaded-{origin}", sharding.whole_weights(other.model))
        train(other, optimiser, range(SAVED_AT, STEPS), rank, world)
        keep(f"resumed-{origin}", sharding.whole_weights(other.model))


def _here(tensor: torch.Tensor) -> int:
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()
