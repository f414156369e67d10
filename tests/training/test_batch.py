"""However a global batch is cut and dealt, every row is in it once, within the limits, and the cut repeats."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline.training.batch import collate, micro_batches, shares
from plumbline.training.store import TokenStore
from token_stores import random_store
from training_helpers import an_objective, with_kl

LAYOUTS = st.sampled_from(["padded", "bucketed", "packed"])


@given(st.integers(1, 60), st.integers(0, 5), LAYOUTS, st.integers(1, 9), st.integers(40, 300), st.integers(1, 5))
def test_every_row_is_in_one_micro_batch_of_one_rank(
    rows: int, seed: int, layout: str, examples: int, tokens: int, world: int
) -> None:
    store = random_store(rows, seed=seed)
    objective = an_objective(
        layout=layout, micro_batch_examples=examples, micro_batch_tokens=tokens, truncation={"max_tokens": 40}
    )
    batch = np.random.default_rng(seed).permutation(rows)
    dealt = shares(batch, store.lengths, world)
    cuts = [cut for share in dealt for cut in micro_batches(share, store.lengths, objective)]
    assert sorted(np.concatenate(cuts)) == list(range(rows))
    for cut in cuts:
        lengths = store.lengths[cut]
        held = lengths.sum() if layout == "packed" else lengths.max() * len(cut)
        assert held <= tokens or len(cut) == 1
        assert layout == "packed" or len(cut) <= examples
    again = [
        cut for share in shares(batch, store.lengths, world) for cut in micro_batches(share, store.lengths, objective)
    ]
    assert [c.tolist() for c in cuts] == [c.tolist() for c in again]


@given(st.integers(20, 200), st.integers(2, 6))
def test_ranks_get_shares_of_equal_size_and_nearly_equal_work(rows: int, world: int) -> None:
    store = random_store(rows, seed=rows)
    dealt = shares(np.arange(rows), store.lengths, world)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    work = [store.lengths[share].sum() for share in dealt]
    assert max(work) - min(work) <= 2 * store.lengths.max()


@given(st.integers(1, 30), st.integers(0, 5), LAYOUTS)
def test_every_layout_has_the_same_supervised_tokens(rows: int, seed: int, layout: str) -> None:
    """T14: the multiset of (label, weight, slice); T13: no label crosses from one document into the next."""
    store = random_store(rows, seed=seed)
    objective = an_objective(
        layout=layout, slice_weights={"a": 2.0}, micro_batch_tokens=100, truncation={"max_tokens": 40}
    )
    weights = store.token_weights(objective)
    seen: list[tuple[int, float, int]] = []
    for cut in micro_batches(np.arange(rows), store.lengths, objective):
        micro = collate(store, cut, weights, objective, "cpu")
        seen += zip(micro.labels.tolist(), micro.weights.tolist(), micro.slices.tolist(), strict=True)
    wanted = [
        (int(store.ids[t]), 2.0 if store.slices[row] == 0 else 1.0, int(store.slices[row]))
        for row in range(rows)
        for t in range(int(store.starts[row]) + 1, int(store.starts[row + 1]))
        if store.supervised[t]
    ]
    assert sorted(seen) == sorted(wanted)
    assert len(seen) == store.targets.sum()


def test_the_first_token_of_a_packed_document_is_no_target() -> None:
    store = TokenStore(
        ids=np.arange(6, dtype=np.int32),
        supervised=np.array([True, True, True, True, False, True]),
        starts=np.array([0, 2, 6]),
        slices=np.zeros(2, dtype=np.int16),
        slice_names=("a",),
    )
    objective = an_objective(layout="packed")
    micro = collate(store, np.arange(2), store.token_weights(objective), objective, "cpu")
    assert micro.labels.tolist() == [1, 3, 5]
    assert micro.positions is not None and micro.positions.tolist() == [[0, 1, 0, 1, 2, 3]]
    assert micro.documents is not None and micro.documents.tolist() == [0, 2, 6]


def test_padding_is_told_by_position_not_by_its_token() -> None:
    """T4: token 0 pads, and where it is an answer's own token (pad == end of turn) it keeps its label."""
    store = TokenStore(
        ids=np.array([5, 6, 0, 5, 0], dtype=np.int32),
        supervised=np.array([False, True, True, False, True]),
        starts=np.array([0, 3, 5]),
        slices=np.zeros(2, dtype=np.int16),
        slice_names=("a",),
    )
    objective = an_objective(layout="padded")
    micro = collate(store, np.arange(2), store.token_weights(objective), objective, "cpu")
    assert micro.ids.tolist() == [[5, 6, 0], [5, 0, 0]]
    assert micro.labels.tolist() == [6, 0, 0]


def test_the_examples_normaliser_gives_each_row_the_weight_of_its_slice() -> None:
    store = random_store(20, seed=1)
    objective = an_objective(normaliser="examples", slice_weights={"b": 3.0}, kl=with_kl(1.0, "a"))
    weights = store.token_weights(objective)
    micro = collate(store, np.arange(20), weights, objective, "cpu")
    by_row = torch.split(micro.weights, store.targets.tolist())
    assert [float(part.sum()) for part in by_row] == pytest.approx([3.0 if s else 1.0 for s in store.slices], rel=1e-5)
    anchored = torch.split(micro.kl, store.targets.tolist())
    assert [float(part.sum()) for part in anchored] == pytest.approx(
        [0.0 if s else 1.0 for s in store.slices], rel=1e-5
    )


def test_no_rows_make_a_micro_batch_in_which_nothing_is_supervised() -> None:
    store, objective = random_store(3), an_objective(layout="packed")
    micro = collate(store, np.zeros(0, dtype=np.int64), store.token_weights(objective), objective, "cpu")
    assert micro.ids.shape == (1, 2) and micro.labels.numel() == 0 and micro.tokens == 0
