"""The loss is one sum over one denominator, however it is cut into micro-batches, laid out and dealt to ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.policies.local import load_model
from plumbline.training import head
from plumbline.training.batch import collate, micro_batches
from plumbline.training.loss import KL, LOSS, SUPERVISED, TOKENS, Sums, WeightedLoss
from token_stores import random_store
from training_helpers import an_objective, global_gradient, with_kl

STORE = random_store(24, longest=60)
PLAIN: dict[str, Any] = {"slice_weights": {"a": 2.0, "b": 0.5}, "layout": "padded"}


@pytest.fixture(scope="module")
def anchor(tiny_policy: Path) -> Any:
    """A KL reference that is not the policy."""
    model = load_model(tiny_policy)[1].eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model


def close(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference as a share of the largest gradient."""
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("normaliser", ["tokens", "examples"])
@pytest.mark.parametrize("kl", [None, with_kl(0.7, "b")])
@pytest.mark.parametrize("layout", ["padded", "bucketed", "packed"])
def test_any_layout_split_and_number_of_ranks_gives_the_same_gradient(
    tiny_policy: Path, anchor: Any, normaliser: str, kl: Any, layout: str
) -> None:
    """T15 to T18: the whole batch at once against every way of cutting it, slice weights and KL included."""
    more = {"kl": kl} if kl else {}
    model = load_model(tiny_policy)[1]
    whole = global_gradient(
        model, STORE, an_objective(**PLAIN, **more, normaliser=normaliser, micro_batch_examples=24), reference=anchor
    )
    for rows, tokens, ranks in ((1, 60, 1), (5, 200, 1), (24, 16384, 2), (3, 90, 3)):
        cut = an_objective(
            **{**PLAIN, "layout": layout}, **more, normaliser=normaliser, micro_batch_examples=rows,
            micro_batch_tokens=tokens, truncation={"max_tokens": 60},
        )  # fmt: skip
        fresh = load_model(tiny_policy)[1]
        found = global_gradient(fresh, STORE, cut, ranks=ranks, reference=anchor)
        assert close(whole, found) < 1e-5, (layout, rows, ranks)


def test_the_loss_is_the_weighted_mean_over_supervised_tokens(tiny_policy: Path) -> None:
    model = load_model(tiny_policy)[1]
    objective = an_objective(**PLAIN)
    weights = STORE.token_weights(objective)
    loss, tally = WeightedLoss(model, objective, 2)(collate(STORE, np.arange(24), weights, objective, "cpu"))
    wanted, nll, tokens = 0.0, [0.0, 0.0], [0, 0]
    for i in range(24):
        ids, mask = torch.tensor(STORE.ids[STORE.row(i)]).long(), STORE.supervised[STORE.row(i)]
        logp = model(ids[None]).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if mask[t]:
                one = -float(logp[t - 1, ids[t]].detach())
                wanted += weights[i] * one
                nll[STORE.slices[i]] += one
                tokens[STORE.slices[i]] += 1
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert float(tally[LOSS]) == pytest.approx(wanted, rel=1e-5)
    assert (int(tally[SUPERVISED]), int(tally[TOKENS])) == (int(STORE.targets.sum()), len(STORE.ids))
    sums = Sums()
    sums.add(tally.tolist(), 1.0, 0.5)
    assert sums.by_slice(("a", "b")) == pytest.approx({"a": nll[0] / tokens[0], "b": nll[1] / tokens[1]}, rel=1e-5)


def test_reported_loss_is_a_ratio_of_sums_not_a_mean_of_means() -> None:
    """T20: two steps of very unequal weight."""
    window = Sums()
    window.add([10.0, 0, 0, 1, 1, 10.0, 0.0, 1, 0], 1.0, 0.1)
    window.add([90.0, 0, 0, 99, 99, 0.0, 90.0, 0, 99], 99.0, 0.1)
    assert window.mean == pytest.approx(1.0)
    assert window.by_slice(("a", "b")) == pytest.approx({"a": 10.0, "b": 90 / 99})


def test_a_micro_batch_with_nothing_supervised_is_an_exact_zero(tiny_policy: Path) -> None:
    """T19, in the layouts that can meet one: a rank without rows, and rows whose targets are all masked."""
    for layout in ("padded", "packed"):
        model, objective = load_model(tiny_policy)[1], an_objective(**{**PLAIN, "layout": layout})
        nothing = random_store(3, share=0.0)
        nothing.supervised[:] = False
        for store, rows in ((STORE, np.zeros(0, dtype=np.int64)), (nothing, np.arange(3))):
            root = WeightedLoss(model, objective, 2)
            loss, tally = root(collate(store, rows, store.token_weights(objective), objective, "cpu"))
            loss.backward()
            assert float(loss.detach()) == 0.0 and float(tally[LOSS]) == 0.0
            assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_kl_to_itself_is_zero_and_to_another_is_positive(tiny_policy: Path, anchor: Any) -> None:
    objective = an_objective(kl=with_kl(1.0, "a"))
    micro = collate(STORE, np.arange(24), STORE.token_weights(objective), objective, "cpu")
    model, same = load_model(tiny_policy)[1], load_model(tiny_policy)[1]
    assert float(WeightedLoss(model, objective, 2, same)(micro)[1][KL]) == pytest.approx(0.0, abs=1e-4)
    assert float(WeightedLoss(model, objective, 2, anchor)(micro)[1][KL]) > 0.1


def test_bfloat16_is_close_to_float32_and_not_equal(tiny_policy: Path) -> None:
    model, losses = load_model(tiny_policy)[1], []
    for precision in ("float32", "bfloat16"):
        objective = an_objective(precision=precision)
        micro = collate(STORE, np.arange(24), STORE.token_weights(objective), objective, "cpu")
        losses.append(float(WeightedLoss(model, objective, 2)(micro)[0].detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]


def test_only_supervised_positions_meet_the_output_layer_also_without_gradients(
    tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T29 and T30: by count, and in chunks."""
    seen: list[int] = []
    plain = head.linear
    monkeypatch.setattr(head, "linear", lambda *a: seen.append(len(a[0])) or plain(*a))  # type: ignore[func-returns-value]
    monkeypatch.setattr(head, "chunk_rows", lambda vocabulary: 50)
    model, objective = load_model(tiny_policy)[1], an_objective(**PLAIN, micro_batch_examples=8)
    weights = STORE.token_weights(objective)
    for training in (True, False):
        seen.clear()
        with torch.set_grad_enabled(training):
            for rows in micro_batches(np.arange(24), STORE.lengths, objective):
                WeightedLoss(model, objective, 2)(collate(STORE, rows, weights, objective, "cpu"))
        assert sum(seen) == STORE.targets.sum() and max(seen) <= 50
