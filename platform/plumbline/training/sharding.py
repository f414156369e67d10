"""Sharded training: every rank holds its rows of each parameter, of its gradient and of AdamW's moments (FSDP2).

What it is for: a policy whose weights, gradients and moments (16 bytes a parameter in float32) do not fit on one
device. A decoder layer is gathered whole when it runs and let go when it has run; what lies outside the layers
(embedding, last norm, head) is gathered once per forward and kept until its backward, where it is needed first.

Gradients are *summed* over ranks. FSDP2 averages unless told otherwise, and telling it is a setting of each group of
parameters, not of the tree: set on the root alone, the layers would go on averaging. A divide factor of 1 by itself
asks for a reduction that NCCL has and gloo has not (PREMUL_SUM), hence the plain sum that `shard` asks for.

    rows of one parameter of 7 rows      checkpoint of 2 ranks                    read by 3 ranks
      rank 0 of 2   [0 1 2 3]     ->  shard-00000-of-00002.safetensors   ->   [0 1 2] [3 4 5] [6]
      rank 1 of 2   [4 5 6]       ->  shard-00001-of-00002.safetensors

A checkpoint is one safetensors file per rank, whose header says of each tensor its whole shape and its first row, so
that any number of ranks reads it, one rank without sharding included.

Under autocast each matrix product keeps its bfloat16 copy of the weight until the backward: 2 bytes for every parameter
of the layers, whole, on every rank (2.04 measured; 0.01 with gradient checkpointing). A sharded bfloat16 run therefore
wants gradient checkpointing. FSDP2's own bfloat16 policy would not keep them either, but it also rounds the residual
stream, so that sharding a run would change its loss.

Not supported here: a mesh of more than one dimension, parameters without a dimension, generation from a sharded
model (export it first: outside the root's forward there are no whole weights).
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from plumbline.errors import PlumblineError

HEADER = "plumbline.dev/shard/v1"


def shard(root: nn.Module, model: Any, mesh: DeviceMesh) -> None:
    """Shard `root` in place over a one-dimensional mesh, each decoder layer of the Hugging Face `model` inside it a
    group of its own and the rest one more; gradients become sums over ranks.

    Every rank must hold equal weights before; afterwards parameters are DTensors, so an optimiser is built after
    this call. `root` may still be on the CPU: layers move to the mesh's device one at a time. Parameters that do not
    require gradients are sharded too and cost no reduction. All forwards go through `root`, and every rank calls it
    and its backward equally often (a micro-batch without supervised tokens gives a zero that has a gradient).
    Raises PlumblineError when the model does not name its decoder layers.
    """
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    if not layers:
        raise PlumblineError(
            f"{type(model).__name__} does not say which of its modules are decoder layers",
            consequence="sharded, it would be gathered whole at every step, so nothing was sharded",
            remedy="train it without sharding, or give its class `_no_split_modules`",
        )
    for module in [*reversed(layers), root]:  # inner before outer, as fully_shard wants it
        group = cast(FSDPModule, fully_shard(module, mesh=mesh))
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)
        # a parameter that one rank's rows do not touch still takes its place in that rank's reduction
        group.set_reduce_scatter_unused_params(True)
    root.register_forward_hook(_let_go_without_gradients)


def _let_go_without_gradients(root: nn.Module, inputs: Any, output: Any) -> None:
    """After a forward that no backward follows (validation), shard the root's own parameters again: otherwise the
    next look at `named_parameters` would see gathered copies that no optimiser knows."""
    if not torch.is_grad_enabled():
        cast(FSDPModule, root).reshard()


def accumulate(root: nn.Module, last: bool) -> None:
    """Say before a micro-batch's forward whether it is the `last` of its global batch: only the last one communicates
    gradients. Exact: sums over micro-batches and over ranks merely change places. The price is memory: until the last
    micro-batch each rank holds gradients as large as the whole trainable policy. Without any call to this function
    every micro-batch is reduced to the rank's rows at once: least memory, one reduction per micro-batch.
    """
    group = cast(FSDPModule, root)
    group.set_requires_gradient_sync(last)
    group.set_is_last_backward(last)


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients in place so that their norm over all parameters and ranks is at most `max_norm`; returns the
    norm before. Sharded or not, squares are summed in float64, so the number of ranks does not show in the result.
    A collective when parameters are sharded: every rank calls it.
    """
    parameters = list(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    apart = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    device = _local(parameters[0]).device if parameters else torch.device("cpu")
    squares = torch.stack([_squares(apart, device), _squares(whole, device)])
    mesh = next((p.device_mesh for p in parameters if isinstance(p, DTensor)), None)
    if mesh is not None:
        dist.all_reduce(squares[:1], group=mesh.get_group())
    norm = float(squares.sum().sqrt())
    scale = min(1.0, max_norm / (norm + 1e-6)) if norm == norm else norm
    if scale != 1.0:
        for gradient in [*apart, *whole]:
            gradient.mul_(scale)
    return norm


def _squares(gradients: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return torch.stack(norms).square().sum() if norms else torch.zeros((), dtype=torch.float64, device=device)


def whole_weights(model: Any, keep: bool = True) -> dict[str, torch.Tensor]:
    """The parameters that train, whole, on the CPU, by name: sharded or not.

    A collective: every rank calls it. A rank that says `keep=False` takes part and gets an empty dictionary, which
    spares a machine with several ranks as many copies of the policy.
    """
    weights = {}
    for name, parameter in _trainable(model):
        tensor = parameter.detach()
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            weights[name] = whole.to("cpu", copy=True).contiguous()
    return weights


def put_whole(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Copy whole weights into a model's parameters by name, sharded or not; every name must exist. No collective."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            first, last = _rows(parameters[name])
            _local(parameters[name]).copy_(tensor[first:last] if tensor.ndim else tensor)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def shard_name(rank: int, world: int) -> str:
    """The file of one rank: `shard-00000-of-00002.safetensors`."""
    return f"shard-{rank:05d}-of-{world:05d}.safetensors"


def save_shards(
    folder: Path, rank: int, world: int, model: Any, optimiser: torch.optim.Optimizer, tag: str = ""
) -> None:
    """Write this rank's rows of every parameter that trains and of its optimiser state. No collective: a checkpoint
    is whole when all `world` files are there.

    Parameters that are not sharded count as `world` equal copies, of which each rank writes its part. `tag` says what
    the checkpoint belongs to (an objective id and a step, say): files with different tags are never mixed. Raises
    PlumblineError when the file cannot be written; no half-written file is left under its name.
    """
    tensors, places = {}, {}
    for name, parameter in _trainable(model):
        first, last = _rows(parameter, rank, world)
        for key, value in {"": parameter, **optimiser.state.get(parameter, {})}.items():
            key = f"{name}|{key}" if key else name
            if value.ndim == 0:  # AdamW's step count: every rank writes it
                tensors[key], places[key] = value.detach().cpu(), {"shape": [], "row": 0}
            elif first < last:
                mine = value.to_local() if isinstance(value, DTensor) else value[first:last]
                tensors[key] = mine.detach().cpu().contiguous()
                places[key] = {"shape": list(value.shape), "row": first}
    header = {HEADER: json.dumps({"rank": rank, "world": world, "tag": tag, "tensors": places})}
    name = shard_name(rank, world)
    write_tensors(folder / name, tensors, header, what=f"the checkpoint's shard {name} in {folder}")


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None, *, what: str
) -> None:
    """Write a safetensors file so that it is absent, old or whole, its folder too if need be. Raises PlumblineError,
    which says `what` it is, when it cannot be written."""
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except Exception as error:  # safetensors wraps I/O errors in its own kind
        temporary.unlink(missing_ok=True)
        raise PlumblineError(
            f"{what} could not be written: {error}",
            consequence="training stopped; the previous checkpoint is intact",
            remedy="free space on that disk and run the same command: it goes on from the previous checkpoint",
        ) from error


def load_shards(folder: Path, model: Any, optimiser: torch.optim.Optimizer, tag: str = "") -> None:
    """Restore what `save_shards` wrote, under any number of ranks: each reads its rows only. No collective.

    Raises PlumblineError, before the model is touched, when a shard is missing, unreadable, of another checkpoint
    (or not of `tag`, if one is given), or was written for other parameters.
    """
    parameters = dict(_trainable(model))
    with ExitStack() as stack:
        shards = _open(folder, stack, tag)
        _require_fit(shards, parameters)
        restored = {name: _read(shards, name, *_rows(p)) for name, p in parameters.items()}
        keys = {key for each in shards for key in each.places if "|" in key}
        moments = {key: _read(shards, key, *_rows(parameters[key.rpartition("|")[0]])) for key in keys}
    with torch.no_grad():
        for name, parameter in parameters.items():
            _local(parameter).copy_(restored[name])
            optimiser.state.pop(parameter, None)
        for key in sorted(keys):
            name, _, what = key.rpartition("|")
            parameter, value = parameters[name], moments[key].to(_local(parameters[name]).device)
            if value.ndim:
                state = torch.zeros_like(parameter)
                _local(state).copy_(value)
                value = state
            optimiser.state[parameter][what] = value


@dataclass(frozen=True)
class _Shard:
    """An open shard: per tensor its whole shape and the first of the rows that are here."""

    path: Path
    file: Any
    places: dict[str, dict[str, Any]]

    def rows(self, key: str) -> tuple[int, int]:
        first = self.places[key]["row"]
        return first, first + self.file.get_slice(key).get_shape()[0]


def _open(folder: Path, stack: ExitStack, tag: str) -> list[_Shard]:
    """All shards of the one checkpoint in a folder, in the order of their ranks."""
    found = sorted(path.name for path in folder.glob(f"shard-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors"))
    if not found:
        raise _refused(f"there is no shard of a checkpoint in {folder}", "name a folder that a sharded run wrote")
    world = int(found[0].removesuffix(".safetensors").rpartition("-")[2])
    wanted = [shard_name(rank, world) for rank in range(world)]
    if missing := sorted(set(wanted) - set(found)):
        raise _refused(
            f"the checkpoint at {folder} has {len(wanted) - len(missing)} of {world} shards: "
            f"{', '.join(missing)} is missing",
            "restore that file, or go on from an earlier checkpoint",
        )
    if foreign := sorted(set(found) - set(wanted)):
        raise _refused(
            f"{', '.join(foreign)} at {folder} is no part of the checkpoint that {found[0]} belongs to",
            "remove the files of one of the two checkpoints",
        )
    shards: list[_Shard] = []
    for rank, name in enumerate(wanted):
        try:
            file = stack.enter_context(safe_open(folder / name, framework="pt"))
            header = json.loads((file.metadata() or {})[HEADER])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise _refused(
                f"{name} at {folder} is no readable shard ({type(error).__name__}: {error})",
                "restore that file, or go on from an earlier checkpoint",
            ) from error
        tag = tag or header["tag"]
        if (header["rank"], header["world"], header["tag"]) != (rank, world, tag):
            raise _refused(
                f"{name} at {folder} is shard {header['rank']} of {header['world']} of '{header['tag']}', "
                f"not {rank} of {world} of '{tag}'",
                "restore the file that was written under this name, or go on from an earlier checkpoint",
            )
        shards.append(_Shard(folder / name, file, header["tensors"]))
    return shards


def _require_fit(shards: list[_Shard], parameters: dict[str, nn.Parameter]) -> None:
    """The shards hold every trainable parameter, in its shape, all rows once, and agree on scalars; nothing else."""
    keys = {key: each for each in shards for key in each.places}
    for key, each in keys.items():
        name = key.rpartition("|")[0] or key
        if name not in parameters:
            raise _refused(
                f"{each.path.name} at {each.path.parent} holds {name}, which does not train here",
                "resume with the objective (adapter, frozen parameters) that the checkpoint was written under",
            )
    for key in [*parameters, *keys]:
        holders = [each for each in shards if key in each.places]
        shape = list(parameters[key.rpartition("|")[0] or key].shape)
        seen = 0
        for each in holders:
            place = each.places[key]
            if not place["shape"] and "|" in key:
                if not torch.equal(each.file.get_tensor(key), holders[0].file.get_tensor(key)):
                    raise _refused(
                        f"{each.path.name} and {holders[0].path.name} at {each.path.parent} are of different steps",
                        "restore the files of one checkpoint, or go on from an earlier one",
                    )
                continue
            first, last = each.rows(key)
            if place["shape"] != shape or first != seen:
                raise _refused(
                    f"{each.path.name} at {each.path.parent} holds rows {first} to {last} of {key} of shape "
                    f"{place['shape']}; row {seen} of shape {shape} was expected",
                    "resume with the base policy and objective that the checkpoint was written under",
                )
            seen = last
        if not holders or (seen != shape[0] and holders[0].places[key]["shape"]):
            raise _refused(
                f"the shards at {shards[0].path.parent} hold {seen} of {shape[0]} rows of {key} "
                f"(the last one read is {(holders or shards)[-1].path.name})",
                "restore the files of one checkpoint, or go on from an earlier one",
            )


def _read(shards: list[_Shard], key: str, first: int, last: int) -> torch.Tensor:
    """Rows `first` to `last` of a tensor, from whichever shards hold them; a scalar as it is."""
    holders = [each for each in shards if key in each.places]
    if not holders[0].places[key]["shape"]:
        return cast(torch.Tensor, holders[0].file.get_tensor(key))
    parts = [holders[0].file.get_slice(key)[0:0]]  # of the right shape and type when no row is asked for
    for each in holders:
        begin, end = each.rows(key)
        low, high = max(first, begin), min(last, end)
        if low < high:
            parts.append(each.file.get_slice(key)[low - begin : high - begin])
    return torch.cat(parts)


def _rows(parameter: torch.Tensor, rank: int = 0, world: int = 1) -> tuple[int, int]:
    """First row and the one past the last of what is here: of a sharded parameter by its mesh, of a whole one as rank
    `rank` of `world`. FSDP2 cuts like torch.chunk: equal parts, rounded up, the last ones shorter or empty."""
    if isinstance(parameter, DTensor):
        rank, world = parameter.device_mesh.get_local_rank(), parameter.device_mesh.size()
    total = parameter.shape[0] if parameter.ndim else 1
    part = -(-total // world)
    return min(rank * part, total), min((rank + 1) * part, total)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The memory behind a tensor on this rank; writing to it writes to the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _trainable(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which files a folder has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refused(fact: str, remedy: str) -> PlumblineError:
    return PlumblineError(fact, consequence="nothing was restored, and training did not start", remedy=remedy)
