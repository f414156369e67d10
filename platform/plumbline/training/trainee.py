"""The model that trains: the base policy, its added tokens, what is frozen, its adapter, and the KL reference.

Built from the objective and the base alone, it is the same every time, bitwise: each rank builds its own, a resume
builds it again, and so does the export.
"""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_model
from plumbline.records import Objective
from plumbline.training.adapters import require_libraries, with_adapter

SMALL = 5_000_000  # parameters: below this, one CPU thread is faster than two


@dataclass
class Trainee:
    """`model` is the causal language model: its named_parameters() name what trains. `whole` is peft's wrapper around
    it where there is an adapter (it knows how to merge and save), or the model itself. `reference` is the base policy
    that the KL term measures against, frozen and in eval mode; None where nothing needs it."""

    model: Any
    whole: Any
    reference: Any | None


def build(objective: Objective, base: Path, device: str, *, with_reference: bool = True) -> Trainee:
    """Load the base policy in float32, grow it by the added tokens, freeze, add the adapter, move to `device`.

    Raises PlumblineError when the base cannot be read, a `frozen` prefix or adapter target names nothing, nothing is
    left to train, or the adapter's library is missing (said before anything is loaded).
    """
    require_libraries(objective.adapter)
    with torch.random.fork_rng(devices=[]):  # loading draws weights that the files then replace
        tokenizer, model = load_model(base)
        if device == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL:
            torch.set_num_threads(1)
        add_tokens(tokenizer, model, objective.added_tokens)
        reference = copy.deepcopy(model) if with_reference and objective.kl.weight else None
        freeze(model, objective.frozen)
        whole = with_adapter(model, objective)
    if objective.gradient_checkpointing:
        _checkpoint_activations(model)
    if reference is not None:
        reference = reference.requires_grad_(False).to(device).eval()
    return Trainee(model.to(device), whole, reference)


def add_tokens(tokenizer: Any, model: Any, tokens: tuple[str, ...]) -> None:
    """Add special tokens to the tokenizer and rows to the embeddings, in place; the same base gives the same rows.

        embeddings   [ rows of the tokenizer's own tokens ]  mean ->  [ one row per new token ]

    The new rows are the mean of the rows in use: also where the base is padded to more rows than its tokenizer has
    tokens, and the new tokens take padding rows that were never trained. A tied output layer stays tied; one of its
    own grows by its own mean, its bias too. A token that the tokenizer knows keeps its row.
    """
    vocabulary = tokenizer.get_vocab()
    new = [token for token in dict.fromkeys(tokens) if token not in vocabulary]
    if not new:
        return
    known = max(vocabulary.values()) + 1
    tokenizer.add_tokens(new, special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(new)
    embeddings = model.get_input_embeddings()
    if max(ids) >= embeddings.weight.shape[0]:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    tables = [embeddings.weight]
    if head is not None and head.weight is not embeddings.weight:
        tables.append(head.weight)
    if head is not None and head.bias is not None:
        tables.append(head.bias)
    with torch.no_grad():
        for table in tables:
            table[ids] = (table[:known].sum(0, dtype=torch.float64) / known).to(table.dtype)


def freeze(model: Any, prefixes: tuple[str, ...]) -> None:
    """Stop the parameters whose names begin with one of `prefixes`. A tied matrix has two names, and either stops it.

    Raises PlumblineError when a prefix names nothing, or when nothing is left to train.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    idle = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name, _ in named)]
    if idle:
        raise PlumblineError(
            f"frozen names {', '.join(idle)}, and no parameter of this policy begins so",
            consequence="nothing was trained: what was meant to stay would have moved",
            remedy=f"use names such as {named[0][0]} or {named[-1][0]}",
        )
    for name, parameter in named:
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for _, parameter in named):
        raise PlumblineError(
            "frozen names every parameter of this policy",
            consequence="nothing was trained: nothing could move",
            remedy="freeze less, or train an adapter",
        )


def _checkpoint_activations(model: Any) -> None:
    """Keep a layer's input and compute the layer again for its gradient. Not re-entrant, so that frozen embeddings do
    not cut the gradient; the hook serves layers that look at their input's requires_grad, as the 4-bit ones do."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*gradient_checkpointing_enable.*"
        )  # transformers 5.0 knows no other
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not model.get_input_embeddings().weight.requires_grad:
        model.enable_input_require_grads()
