"""The loss is one sum over one denominator, however it is cut into micro-batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_model, load_template
from plumbline.records import KlTerm, Truncation, say
from plumbline.training.loss import collate, weighted_loss
from plumbline.training.prepare import TokenStore, prepare
from training_helpers import gradients, make_examples


@pytest.fixture(scope="module")
def store(tiny_policy: Path) -> TokenStore:
    return prepare(make_examples(12), load_template(tiny_policy), Truncation(), {}).store


def test_micro_batches_of_any_size_give_the_same_gradient(tiny_policy: Path, store: TokenStore) -> None:
    whole = gradients(tiny_policy, store, rows=12)
    for rows in (1, 3, 5):
        cut = gradients(tiny_policy, store, rows=rows)
        assert torch.allclose(whole, cut, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_mean_over_supervised_tokens(tiny_policy: Path, store: TokenStore) -> None:
    _, model = load_model(tiny_policy)
    weights = np.where(store.slices == store.slice_names.index("refusals"), 2.0, 1.0)
    micro = collate(store, np.arange(12), weights, KlTerm(), "cpu")
    loss, sums = weighted_loss(model, micro, KlTerm(), None)
    wanted, denominator = 0.0, 0.0
    for i in range(12):
        a, b = store.starts[i], store.starts[i + 1]
        ids, mask = torch.tensor(store.ids[a:b]).long(), store.supervised[a:b]
        logp = model(ids[None]).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if mask[t]:
                wanted -= weights[i] * float(logp[t - 1, ids[t]].detach())
                denominator += weights[i]
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert sums.weight == pytest.approx(denominator)


def test_kl_to_itself_is_zero_and_to_another_is_positive(tiny_policy: Path, store: TokenStore) -> None:
    _, model = load_model(tiny_policy)
    _, other = load_model(tiny_policy)
    kl = KlTerm(weight=1.0, slices=("facts",))
    micro = collate(store, np.arange(12), np.ones(12), kl, "cpu")
    assert weighted_loss(model, micro, kl, other)[1].kl == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert weighted_loss(model, micro, kl, other)[1].kl > 0.01


def test_the_ledger_counts_what_the_loss_sees(tiny_policy: Path) -> None:
    prepared = prepare(make_examples(30), load_template(tiny_policy), Truncation(), {"refusals": 3.0})
    rows = prepared.ledger
    assert rows["all"].examples == 30 == rows["facts"].examples + rows["refusals"].examples
    assert rows["all"].supervised_tokens == int(prepared.store.targets.sum())
    assert rows["all"].stop_supervised == 30
    assert rows["facts"].loss_share + rows["refusals"].loss_share == pytest.approx(1.0, abs=1e-5)
    assert rows["refusals"].loss_share > rows["refusals"].supervised_tokens / rows["all"].supervised_tokens


def test_an_answer_is_never_cut_and_every_cut_is_counted(tiny_policy: Path) -> None:
    examples = make_examples(20)
    long = examples[0].model_copy(update={"messages": (say("user", "ana " * 150), say("assistant", "ana ."))})
    endless = examples[1].model_copy(update={"messages": (say("user", "who ?"), say("assistant", "ana " * 200))})
    template = load_template(tiny_policy)
    cut = Truncation(max_tokens=128, policy="truncate_prompt_left", max_share=0.2)
    prepared = prepare([*examples, long, endless], template, cut, {})
    assert (prepared.ledger["all"].truncated, prepared.ledger["all"].dropped) == (1, 1)
    assert prepared.kept == tuple(range(21))
    assert prepared.store.lengths.max() <= 128
    with pytest.raises(PlumblineError, match="2 of 22 examples are longer than 128 tokens"):
        prepare([*examples, long, endless], template, cut.model_copy(update={"max_share": 0.01}), {})


def test_bfloat16_is_close_to_float32_and_not_equal(tiny_policy: Path, store: TokenStore) -> None:
    _, model = load_model(tiny_policy)
    micro = collate(store, np.arange(12), np.ones(12), KlTerm(), "cpu")
    full, _ = weighted_loss(model, micro, KlTerm(), None, "float32")
    half, _ = weighted_loss(model, micro, KlTerm(), None, "bfloat16")
    assert half.item() == pytest.approx(full.item(), rel=0.02) and half.item() != full.item()
