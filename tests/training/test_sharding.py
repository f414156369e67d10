"""Sharded over two ranks and over three, training is the training of one process; its checkpoints fit any number."""

import json
import multiprocessing
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from plumbline.errors import PlumblineError
from plumbline.training import sharding
from sharding_worker import (
    CLIP,
    KINDS,
    SAVED_AT,
    STEPS,
    TRAINED,
    Root,
    backward,
    make_optimiser,
    make_root,
    tag,
    train,
    work,
)

WORLDS = (2, 3)
SECONDS = 150  # for all ranks to finish: one that waits for another for ever is a failure, not a hang

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that one process, then two ranks, then three, wrote."""
    folder = tmp_path_factory.mktemp("sharded")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in TRAINED:
        root = make_root(kind)
        optimiser = make_optimiser(root)
        norms = train(root, optimiser, range(SAVED_AT), 0, 1)
        sharding.save_shards(folder / f"{kind}-1", 0, 1, root.model, optimiser, tag(kind))
        save_file(trainable(root.model), folder / f"{kind}-1-saved.safetensors")
        norms += train(root, optimiser, range(SAVED_AT, STEPS), 0, 1)
        save_file(trainable(root.model), folder / f"{kind}-1-trained.safetensors")
        (folder / f"{kind}-1-0.json").write_text(json.dumps({"norms": norms}))
    # one process imports what all ranks need, and they fork from it: seconds each on a small machine
    multiprocessing.set_forkserver_preload(
        ["plumbline.training.sharding", "transformers.models.llama.modeling_llama", "peft"]
    )
    ranks = torch.multiprocessing.start_processes(
        work, (WORLDS, folder), nprocs=max(WORLDS), join=False, start_method="forkserver"
    )
    until = time.monotonic() + SECONDS
    while not ranks.join(timeout=1):
        if time.monotonic() > until:
            for process in ranks.processes:
                process.kill()
            pytest.fail(f"the ranks did not finish in {SECONDS} s")
    torch.set_num_threads(threads)
    return folder


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def weights(runs: Path, kind: str, world: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(runs / f"{kind}-{world}-{name}.safetensors")


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys() and ours
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def size(root: Root) -> int:
    return sum(p.numel() for p in root.parameters())


@pytest.mark.parametrize("accumulate", [True, False], ids=["last", "each"])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_ragged_ranks_have_the_gradient_of_one_process(runs: Path, kind: str, world: int, accumulate: bool) -> None:
    root = make_root(kind)
    backward(root, 0, 0, 1)
    whole = {name: p.grad for name, p in root.model.named_parameters() if p.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert furthest(weights(runs, kind, world, f"gradient-{accumulate}"), whole) < 1e-5 * max(largest, 1.0)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", TRAINED)
def test_five_sharded_steps_are_five_steps(runs: Path, kind: str, world: int) -> None:
    alone = weights(runs, kind, 1, "trained")
    assert furthest(weights(runs, kind, world, "trained"), alone) < 1e-5
    assert furthest(alone, weights(runs, kind, 1, "saved")) > 1e-4, "two steps that move nothing would prove nothing"


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", TRAINED)
def test_every_rank_clips_by_the_norm_of_the_whole_gradient(runs: Path, kind: str, world: int) -> None:
    alone = json.loads((runs / f"{kind}-1-0.json").read_text())["norms"]
    assert min(alone) > CLIP
    for rank in range(world):
        norms = json.loads((runs / f"{kind}-{world}-{rank}.json").read_text())["norms"]
        assert norms[0] == pytest.approx(alone[0], rel=1e-6)  # the same weights; after that rounding grows
        assert norms == pytest.approx(alone, rel=1e-4)


def test_clipping_without_shards_is_torchs() -> None:
    ours, theirs = make_root("untied"), make_root("untied")
    backward(ours, 0, 0, 1)
    backward(theirs, 0, 0, 1)
    assert sharding.clip(ours.parameters(), CLIP) == pytest.approx(
        float(torch.nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)), rel=1e-6
    )
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", TRAINED)
def test_a_rank_holds_its_rows_of_weights_and_moments_and_no_more(runs: Path, kind: str, world: int) -> None:
    ranks = [json.loads((runs / f"{kind}-{world}-{rank}.json").read_text()) for rank in range(world)]
    root = make_root(kind)
    trains = sum(p.numel() for p in root.parameters() if p.requires_grad)
    assert sum(rank["numbers"] for rank in ranks) == size(root)
    assert sum(rank["moments"] for rank in ranks) == 2 * trains
    assert max(rank["numbers"] for rank in ranks) < 1.1 * size(root) / world
    assert [rank["kept"] > 0 for rank in ranks] == [True] + [False] * (world - 1)


@pytest.mark.parametrize("world", WORLDS)
def test_a_validation_forward_leaves_nothing_gathered(runs: Path, world: int) -> None:
    assert json.loads((runs / f"untied-{world}-0.json").read_text())["whole_after_validation"] == []


@pytest.mark.parametrize("kind", TRAINED)
def test_two_ranks_resume_bitwise_what_two_ranks_saved(runs: Path, kind: str) -> None:
    resumed, straight = weights(runs, kind, 2, "resumed-2"), weights(runs, kind, 2, "trained")
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.parametrize(("origin", "world"), [(1, 2), (2, 3)])
@pytest.mark.parametrize("kind", TRAINED)
def test_a_checkpoint_is_read_by_another_number_of_ranks(runs: Path, kind: str, origin: int, world: int) -> None:
    assert furthest(weights(runs, kind, world, f"loaded-{origin}"), weights(runs, kind, origin, "saved")) == 0
    assert furthest(weights(runs, kind, world, f"resumed-{origin}"), weights(runs, kind, origin, "trained")) < 1e-5


@pytest.mark.parametrize("origin", [1, 2, 3])
@pytest.mark.parametrize("kind", TRAINED)
def test_one_process_without_shards_reads_any_checkpoint(runs: Path, kind: str, origin: int) -> None:
    root = resumable(kind)
    optimiser = make_optimiser(root)
    sharding.load_shards(runs / f"{kind}-{origin}", root.model, optimiser, tag(kind))
    assert furthest(trainable(root.model), weights(runs, kind, origin, "saved")) == 0
    train(root, optimiser, range(SAVED_AT, STEPS), 0, 1)
    apart = furthest(trainable(root.model), weights(runs, kind, origin, "trained"))
    assert apart == 0 if origin == 1 else apart < 1e-5


def test_whole_weights_without_shards_are_what_trains() -> None:
    model = make_root("frozen").model
    assert furthest(sharding.whole_weights(model), trainable(model)) == 0
    assert sharding.whole_weights(model, keep=False) == {}


def test_equal_copies_share_the_writing_and_are_one_checkpoint(tmp_path: Path) -> None:
    root = make_root("tied")
    optimiser = make_optimiser(root)
    train(root, optimiser, range(1), 0, 1)
    for rank in range(3):
        sharding.save_shards(tmp_path, rank, 3, root.model, optimiser)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 3 and max(sizes) < sum(sizes) / 2
    other = make_root("tied", seed=1)
    fresh = make_optimiser(other)
    sharding.load_shards(tmp_path, other.model, fresh)
    assert furthest(trainable(other.model), trainable(root.model)) == 0
    for mine, theirs in zip(other.parameters(), root.parameters(), strict=True):
        for key, value in optimiser.state[theirs].items():
            assert torch.equal(fresh.state[mine][key], value)


def resumable(kind: str) -> Root:
    """Other weights where a checkpoint brings its own, and the base policy's where it does not."""
    root = make_root(kind, seed=1)
    if kind in ("lora", "frozen"):
        root.load_state_dict(make_root(kind).state_dict())
    return root


def damaged(folder: Path, kind: str, how: str) -> str:
    """Spoil a checkpoint of three shards in one way; returns what the message must name."""
    second = "shard-00001-of-00003.safetensors"
    if how == "missing":
        (folder / second).unlink()
    elif how == "cut short":
        (folder / second).write_bytes((folder / second).read_bytes()[:-100])
    elif how == "not ours":
        save_file({"x": torch.zeros(1)}, folder / second)
    elif how == "under another's name":
        shutil.copy(folder / "shard-00000-of-00003.safetensors", folder / second)
    elif how == "beside another checkpoint":
        second = "shard-00001-of-00004.safetensors"
        (folder / second).touch()
    elif how in ("of another step", "of another run"):
        root = make_root(kind)
        optimiser = make_optimiser(root)
        train(root, optimiser, range(2), 0, 1)
        sharding.save_shards(folder, 1, 3, root.model, optimiser, tag(kind) if how == "of another step" else "run 7")
    return second


@pytest.mark.parametrize(
    "how",
    [
        "missing", "cut short", "not ours", "under another's name", "beside another checkpoint", "of another step",
        "of another run",
    ],
)  # fmt: skip
def test_a_shard_that_does_not_belong_is_named_and_nothing_is_restored(tmp_path: Path, how: str) -> None:
    root = make_root("untied")
    optimiser = make_optimiser(root)
    train(root, optimiser, range(1), 0, 1)
    for rank in range(3):
        sharding.save_shards(tmp_path, rank, 3, root.model, optimiser, tag("untied"))
    name = damaged(tmp_path, "untied", how)
    other = make_root("untied", seed=1)
    before = trainable(other.model)
    with pytest.raises(PlumblineError, match=name):
        sharding.load_shards(tmp_path, other.model, make_optimiser(other))
    assert furthest(trainable(other.model), before) == 0


@pytest.mark.parametrize(("written", "read"), [("untied", "tied"), ("tied", "untied"), ("untied", "lora")])
def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path, written: str, read: str) -> None:
    saved, other = make_root(written), make_root(read)
    sharding.save_shards(tmp_path, 0, 1, saved.model, make_optimiser(saved))
    with pytest.raises(PlumblineError, match="shard-00000-of-00001"):
        sharding.load_shards(tmp_path, other.model, make_optimiser(other))


def test_a_checkpoint_of_another_tag_or_none_at_all_is_refused(tmp_path: Path) -> None:
    root = make_root("tied")
    optimiser: Any = make_optimiser(root)
    with pytest.raises(PlumblineError, match="no shard"):
        sharding.load_shards(tmp_path, root.model, optimiser)
    sharding.save_shards(tmp_path, 0, 1, root.model, optimiser, "objective a")
    with pytest.raises(PlumblineError, match="objective a.*not 0 of 1 of 'objective b'"):
        sharding.load_shards(tmp_path, root.model, optimiser, "objective b")


def test_a_full_disk_is_a_plain_error_and_keeps_the_shard_that_was_there(tmp_path: Path) -> None:
    root = make_root("tied")
    optimiser = make_optimiser(root)
    sharding.save_shards(tmp_path, 0, 1, root.model, optimiser)
    (shard,) = tmp_path.iterdir()
    before = shard.read_bytes()
    train(root, optimiser, range(1), 0, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # the write after that fails, as on a full disk
    try:
        with pytest.raises(PlumblineError, match="shard-00000-of-00001.*could not be written"):
            sharding.save_shards(tmp_path, 0, 1, root.model, optimiser)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [shard.name] and shard.read_bytes() == before


def test_whole_weights_are_put_back_by_name() -> None:
    root, other = make_root("tied"), make_root("tied", seed=1)
    sharding.put_whole(other.model, sharding.whole_weights(root.model))
    assert furthest(trainable(other.model), trainable(root.model)) == 0


def test_a_model_that_names_no_layers_is_not_gathered_whole() -> None:
    root = make_root("tied")
    root.model._no_split_modules = None
    with pytest.raises(PlumblineError, match="decoder layers"):
        sharding.shard(root, root.model, None)  # type: ignore[arg-type]
