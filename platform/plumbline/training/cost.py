"""What a step costs, before anybody pays for it: parameters, floating-point operations, bytes.

A trainer that only says "tokens per second" hides two kinds of waste: padding that goes through the body, and
positions without a label that meet the vocabulary. So the model here counts them apart:

    FLOPs of a step  =  6 * body * (tokens through the body)  +  6 * head * (rows that meet the head)

where 6 is 2 for the forward product, 2 for the gradient of its input and 2 for the gradient of its weight (Kaplan et
al. 2020, arXiv 2001.08361, section 2.1). Nothing is loaded for it: shapes come from `config.json`, on torch's meta
device.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plumbline.errors import PlumblineError
from plumbline.records import Objective

NF4_BITS = 4.127  # a weight in 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, section 3)


@dataclass(frozen=True)
class Shape:
    """A policy in numbers.

    body: parameters that every token goes through (no embedding table, no head); of a mixture of experts, those that
    one token uses, or all of them where `upper_bound` says so. head: hidden * vocabulary. parameters: all, tied ones
    once, without adapters. trained: those that get a gradient. adapters: those that an adapter adds. adapted: base
    parameters of the layers that it sits on. attention, key_value, inner: widths of the queries, of the keys, and of
    the feed-forward layer; only the estimate of activations uses the last two. head_trained: the head gets a gradient.
    every_row: the architecture caps or scales its logits, so that its own forward pass forms them for every token.
    """

    body: int
    head: int
    hidden: int
    layers: int
    vocabulary: int
    parameters: int
    trained: int
    adapters: int = 0
    adapted: int = 0
    attention: int = 0
    key_value: int = 0
    inner: int = 0
    head_trained: bool = True
    every_row: bool = False
    upper_bound: bool = False


def shape_of(base: Path, objective: Objective) -> Shape:
    """The shape of the policy in directory `base` as `objective` trains it. Reads `config.json`, loads no weights.

    Adapters are counted by formula, rank * (in + out) a layer (and `out` more for DoRA's magnitudes). `added_tokens`
    are left out: they are a few rows, and the table often has spare ones. Raises PlumblineError when the directory's
    configuration describes no causal language model, or no layer bears a name in `adapter.targets`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from plumbline.policies.local import says_treated

    try:
        config = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # OSError, ValueError, KeyError and more, by architecture
        raise PlumblineError(
            f"{base / 'config.json'} describes no causal language model: {(str(error).splitlines() or [''])[0]}",
            consequence="what a step would cost cannot be counted",
            remedy="name a policy directory that transformers' AutoModelForCausalLM can build",
        ) from error
    text = config.get_text_config()
    known: dict[str, Any] = text.to_dict()
    hidden, vocabulary = int(text.hidden_size), int(text.vocab_size)
    named = dict(model.named_parameters(remove_duplicate=False))  # a tied matrix has two names
    sizes = {id(parameter): parameter.numel() for parameter in named.values()}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))
    experts = sum(parameter.numel() for name, parameter in named.items() if ".experts." in name)
    used, there = known.get("num_experts_per_tok"), known.get("num_experts") or known.get("num_local_experts")
    active = used / there if experts and used and there else 1.0
    adapted = _adapted(model, objective)
    adapters = sum(objective.adapter.rank * (rows + columns) for rows, columns in adapted)
    adapters += sum(rows for rows, _ in adapted) if objective.adapter.kind == "dora" else 0
    if objective.adapter.kind != "none":
        learning = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        learning = learning if objective.added_tokens else set()
    else:
        learning = set(sizes) - {id(p) for name, p in named.items() if name.startswith(objective.frozen)}
    heads = int(known.get("num_attention_heads") or 1)
    width = int(known.get("head_dim") or hidden // heads)
    return Shape(
        body=sum(n for key, n in sizes.items() if key not in tables) - round(experts * (1 - active)),
        head=hidden * vocabulary,
        hidden=hidden,
        layers=int(known.get("num_hidden_layers") or known.get("n_layer") or 0),
        vocabulary=vocabulary,
        parameters=sum(sizes.values()),
        trained=sum(sizes[key] for key in learning) + adapters,
        adapters=adapters,
        adapted=sum(rows * columns for rows, columns in adapted),
        attention=heads * width,
        key_value=int(known.get("num_key_value_heads") or heads) * width,
        inner=int(known.get("intermediate_size") or 4 * hidden),
        head_trained=id(model.get_output_embeddings().weight) in learning,
        every_row=says_treated(text),
        upper_bound=bool(experts) and active == 1.0,
    )


def _adapted(model: Any, objective: Objective) -> list[tuple[int, int]]:
    """(out, in) of every layer that the adapter sits on; peft matches the last parts of a layer's name."""
    if objective.adapter.kind == "none":
        return []
    endings = tuple(f".{target}" for target in objective.adapter.targets)
    found = [
        (int(module.weight.shape[0]), int(module.weight.shape[1]))  # Conv1D has them swapped; their sum is the same
        for name, module in model.named_modules()
        if f".{name}".endswith(endings) and "weight" in module._parameters and module.weight.ndim == 2
    ]
    if not found:
        raise PlumblineError(
            f"no layer of this policy bears a name in adapter.targets ({', '.join(objective.adapter.targets)})",
            consequence="there is nothing to put an adapter on, so nothing was counted or trained",
            remedy="name the policy's own linear layers in adapter.targets, or train without an adapter",
        )
    return found


def step_flops(
    shape: Shape, tokens: float, supervised: float, *, frozen_body: bool, kl_tokens: float = 0, kl_supervised: float = 0
) -> float:
    """Floating-point operations of matrix products with parameters, forward and backward, for one step.

    tokens go through the body (padding counts: it is computed), supervised rows meet the head. Under adapters
    (`frozen_body`) no gradient of a base weight is formed, so 4 instead of 6, and the adapters' own parameters cost
    6; so it is for a head that does not train. The reference of a KL term sees `kl_tokens` and `kl_supervised` rows,
    forward only: 2. Attention's products of activations with activations are `attention_flops`. What gradient
    checkpointing computes a second time is not counted: it is no progress, and a utilisation (MFU) should not rise
    by it.
    """
    body = 4 * shape.body + 6 * shape.adapters if frozen_body else 6 * shape.body
    head = (6 if shape.head_trained else 4) * shape.head
    own = body * tokens + head * supervised
    return float(own + 2 * (shape.body * kl_tokens + shape.head * kl_supervised))


def attention_flops(shape: Shape, lengths: Iterable[float]) -> float:
    """12 * layers * width * sum(length^2) / 2: scores and their values (4 forward, 8 backward), half of it masked.

    lengths: tokens of each document. A kernel that computes the masked half too does twice this.
    """
    return 12.0 * shape.layers * (shape.attention or shape.hidden) * sum(n * n for n in lengths) / 2


def bound(shape: Shape, tokens: float, supervised: float, *, frozen_body: bool = False) -> float:
    """The least FLOPs per supervised token: no padding through the body, no row without a label through the head.

    tokens are real ones. What a layout needs, divided by this, is its waste; 1.0 cannot be beaten.
    """
    return step_flops(shape, tokens, supervised, frozen_body=frozen_body) / supervised if supervised else float("nan")


def saving(shape: Shape, padded: float, tokens: float, supervised: float) -> float:
    """How many times fewer FLOPs the bound needs than "pad everything, form all logits": (B + H) / (r B + r s H)."""
    everything = step_flops(shape, padded, padded, frozen_body=False)
    return everything / step_flops(shape, tokens, supervised, frozen_body=False) if tokens else float("nan")


# Dense peaks in teraFLOP/s: bfloat16 on tensor cores, tf32 on tensor cores, float32 without them. None: has none.
_PEAKS: tuple[tuple[frozenset[str], tuple[float | None, float | None, float]], ...] = (
    (frozenset({"t4"}), (None, None, 8.1)),
    (frozenset({"v100", "pcie"}), (None, None, 14.0)),
    (frozenset({"v100"}), (None, None, 15.7)),
    (frozenset({"a10"}), (125.0, 62.5, 31.2)),
    (frozenset({"a30"}), (165.0, 82.0, 10.3)),
    (frozenset({"a100"}), (312.0, 156.0, 19.5)),
    (frozenset({"l4"}), (121.0, 60.0, 30.3)),
    (frozenset({"l40s"}), (362.0, 183.0, 91.6)),
    (frozenset({"h100", "pcie"}), (756.0, 378.0, 51.0)),
    (frozenset({"h100", "nvl"}), (835.0, 417.0, 60.0)),
    (frozenset({"h100"}), (989.4, 494.7, 66.9)),
    (frozenset({"h200", "nvl"}), (835.0, 417.0, 60.0)),
    (frozenset({"h200"}), (989.4, 494.7, 66.9)),
    (frozenset({"b200"}), (2250.0, 1100.0, 75.0)),
)


def peak_flops(device_name: str, precision: Literal["float32", "tfloat32", "bfloat16"]) -> float | None:
    """FLOP/s that the device is sold with, dense, for a utilisation (MFU); None when it is unknown or a CPU.

    device_name as `torch.cuda.get_device_name` says it. float32 means without tf32, torch's default for matrix
    products. T4 and V100 have no bfloat16 tensor cores: None rather than a figure for another format. A slice of a
    device (MIG) has no figure of its own: None.

    Source: NVIDIA's data sheets of T4, V100, A10, A30, A100, L4, L40S, H100, H200 and HGX B200, their "with
    sparsity" figures halved, H100 SXM from the Hopper white paper (989.4 and 494.7 dense).
    """
    words = set(device_name.lower().replace("-", " ").replace("_", " ").split())
    if "mig" in words:
        return None
    for known, (bfloat16, tf32, float32) in _PEAKS:
        if known <= words:
            peak = {"bfloat16": bfloat16, "tfloat32": tf32, "float32": float32}[precision]
            return None if peak is None else peak * 1e12
    return None


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs, by what holds them."""

    weights: int
    gradients: int
    optimiser: int
    reference: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.reference + self.activations + self.logits


def memory(
    shape: Shape,
    objective: Objective,
    *,
    micro_tokens: int,
    micro_supervised: int | None = None,
    workers: int = 1,
    sharded: bool = False,
) -> Memory:
    """Bytes per device; micro_tokens is the largest micro-batch, padding included, and micro_supervised the most rows
    with a label in one (all, where it is not given).

    weights      4 a parameter (float32 in either precision), 4.127 bits for the targets of `qlora`, 4 for adapters;
                 in bfloat16 2 more for the copies of body and head that autocast keeps until the backward pass
    gradients    4 a trained parameter
    optimiser    8 a trained parameter: AdamW's two moments
    reference    4 a parameter when a KL term needs one
    activations  per token and layer, Llama's block measured with torch's saved-tensor hooks and attention that keeps
                 no square: 24 hidden + 8 (queries + keys) + 16 inner bytes in float32, 26, 4 and 8 in bfloat16. With
                 gradient checkpointing 4 hidden a layer, and what one whole layer takes beyond the logits, which
                 are gone when layers are computed again
    logits       8 for each of a chunk's at most 2**24 logits (they and their log-probabilities), 4 more where a chunk
                 came before (6 in bfloat16) and 4 with a KL term; and 8 a parameter of a head that trains: its gradient
                 is made with the loss, then handed on scaled

    Exact: gradients, optimiser, weights in float32. Estimates: activations (other blocks than Llama's differ, and so
    do kernels), logits, and with `sharded` (weights, gradients, moments and reference divided by `workers`) the one
    layer that is gathered at a time. Against torch's own tracker on small Llamas the total was within a quarter. Not
    counted: the CUDA context (about 0.5 GB), fragmentation, buckets for communication, and the square of attention
    where no fused kernel runs.
    """
    from plumbline.training.head import chunk_rows

    mixed = objective.precision == "bfloat16"
    small = shape.adapted if objective.adapter.kind == "qlora" else 0
    weights = 4 * (shape.parameters - small) + NF4_BITS / 8 * small + 4 * shape.adapters
    reference = 4.0 * shape.parameters if objective.kl.weight else 0.0
    gradients, optimiser = 4 * shape.trained, 8 * shape.trained
    gathered = 0.0
    if sharded:
        weights, reference = weights / workers, reference / workers
        gradients, optimiser = gradients // workers, optimiser // workers
        gathered = 4 * shape.body / max(1, shape.layers)
    copies = 2 * (shape.body + shape.head) if mixed else 0
    hidden, widths, inner = (26, 4, 8) if mixed else (24, 8, 16)
    layer = hidden * shape.hidden + widths * (shape.attention + shape.key_value) + inner * shape.inner
    labelled = micro_tokens if micro_supervised is None or shape.every_row else micro_supervised
    chunk = labelled if shape.every_row else chunk_rows(shape.vocabulary)
    each = 8 + ((6 if mixed else 4) if labelled > chunk else 0) + (4 if objective.kl.weight else 0)
    logits = min(chunk, labelled) * shape.vocabulary * each + (8 * shape.head if shape.head_trained else 0)
    activations = micro_tokens * layer * shape.layers
    if objective.gradient_checkpointing:
        activations = micro_tokens * 4 * shape.hidden * shape.layers + max(0, micro_tokens * layer - logits)
    return Memory(
        weights=round(weights + copies + gathered),
        gradients=gradients,
        optimiser=optimiser,
        reference=round(reference),
        activations=activations,
        logits=logits,
    )
