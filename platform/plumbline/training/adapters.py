"""Adapters by peft, and the 4-bit base under QLoRA by bitsandbytes.

What trains, by kind (W is a frozen base weight, B and A the low-rank pair, m one magnitude per output row):

    lora    W x + (alpha / rank) B A x                    B, A
    dora    m * (W + (alpha / rank) B A) x / norm         B, A, m
    qlora   lora over W kept in 4-bit NormalFloat         B, A

Added tokens are rows of the embeddings (and of the output layer, where it is a matrix of its own); under an adapter
those matrices train whole, or the new rows would stay at the mean where they began.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from plumbline.errors import PlumblineError
from plumbline.records import Adapter, Objective


def require_libraries(adapter: Adapter) -> None:
    """Raise PlumblineError when this adapter needs a library that is not installed. Loads no model."""
    # On import (peft imports it too) bitsandbytes advises to fetch a kernel from the hub; its own code is enough.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if adapter.kind != "qlora":
        return
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise PlumblineError(
            f"adapter.kind is qlora, and bitsandbytes cannot be imported: {error}",
            consequence="nothing was trained: 4-bit weights are made and multiplied by that library",
            remedy="install the extra (pip install 'plumbline[qlora]'), or choose adapter.kind lora",
        ) from error


def with_adapter(model: Any, objective: Objective) -> Any:
    """Inject the objective's adapter into `model`, in place; returns peft's wrapper, or the model without an adapter.

    The same objective begins with the same adapter, bitwise: its draws come from `seed` alone. Raises PlumblineError
    when a target is not there, or when added tokens and the adapter would train the same matrix twice.
    """
    adapter = objective.adapter
    if adapter.kind == "none":
        return model
    _require_targets(model, adapter, added_tokens=bool(objective.added_tokens))
    if adapter.kind == "qlora":
        quantise(model, objective)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets),
        use_dora=adapter.kind == "dora",
        task_type="CAUSAL_LM",
    )
    try:
        torch.manual_seed(objective.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # the export unties them
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*")  # a name that peft still uses
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")  # GPT-2's layers; peft adjusts to them
            wrapper = get_peft_model(model, config)
    except ValueError as error:
        raise PlumblineError(
            f"the adapter cannot be added to this policy: {str(error).splitlines()[0]}",
            consequence="nothing was trained",
            remedy="name the policy's own linear layers in adapter.targets, or train without an adapter",
        ) from error
    _require_directions(model)
    if objective.added_tokens:
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.requires_grad_(True)
    return wrapper


def quantise(model: Any, objective: Objective) -> None:
    """Replace the linear layers that the adapter targets by bitsandbytes' NF4 layers, in place: blocks of 64 weights,
    the blocks' scales quantised too (Dettmers et al. 2023, section 3). Products are computed in the objective's
    precision.

    Quantised on the CPU, wherever it runs later: the same base weights give the same 4-bit weights.
    """
    import bitsandbytes

    compute = torch.bfloat16 if objective.precision == "bfloat16" else torch.float32
    for name, layer in list(_targeted(model, objective.adapter)):
        if type(layer) is not torch.nn.Linear:
            raise PlumblineError(
                f"adapter.targets names {name}, which is a {type(layer).__name__}",
                consequence="nothing was trained: QLoRA keeps linear layers in 4 bits, and nothing else",
                remedy="leave it out of adapter.targets, or choose adapter.kind lora",
            )
        small = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=compute, quant_type="nf4", device="meta"
        )
        weight = layer.weight.detach().cpu().clone()
        small.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=small).to("cpu")
        small.quant_state = small.weight.quant_state
        small.bias = layer.bias
        # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks the weight at the first forward pass in eval mode: from
        # then on it computes in bfloat16 and passes no gradient, and widths that are no multiple of 64 fail. The
        # plain path is exact.
        small.support_avx512bf16_for_cpu = False
        model.set_submodule(name, small)
    model.is_loaded_in_4bit = True  # how peft knows to put its 4-bit adapter layers over these


def _targeted(model: Any, adapter: Adapter) -> Iterator[tuple[str, Any]]:
    """The modules that adapter.targets name, by peft's rule: a whole name, or its last parts."""
    for name, module in model.named_modules():
        if any(name == target or name.endswith(f".{target}") for target in adapter.targets):
            yield name, module


def _require_targets(model: Any, adapter: Adapter, *, added_tokens: bool) -> None:
    """Every target names something: an adapter on half of what was asked for is another objective."""
    names = {name for name, _ in _targeted(model, adapter)}
    absent = [t for t in adapter.targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if absent or not adapter.targets:
        linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        raise PlumblineError(
            f"adapter.targets names {', '.join(absent) or 'nothing'}, and this policy has no such layer",
            consequence="nothing was trained",
            remedy=f"name the policy's own linear layers in adapter.targets: {', '.join(sorted(linear))}",
        )
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    twice = [name for name, module in _targeted(model, adapter) if any(module is end for end in ends)]
    if added_tokens and twice:
        raise PlumblineError(
            f"adapter.targets names {', '.join(twice)}, and added_tokens train it whole",
            consequence="nothing was trained: an adapter over a matrix that moves itself has no meaning of its own",
            remedy="leave it out of adapter.targets, or add no tokens",
        )


def _require_directions(model: Any) -> None:
    """DoRA divides by the norm of each output row: a row of zeros (the padding token's, in a tied output layer) has no
    direction, and every gradient would be NaN."""
    for name, magnitude in model.named_parameters():
        if ".lora_magnitude_vector." in f".{name}" and not bool((magnitude > 0).all()):
            raise PlumblineError(
                f"{name.split('.lora_magnitude_vector')[0]} has rows that are all zero, and adapter.kind is dora",
                consequence="nothing was trained: DoRA divides by the norm of each row",
                remedy="leave that layer out of adapter.targets, or choose adapter.kind lora",
            )
