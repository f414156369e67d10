"""The fused loss is the plain one, gradient and all, and never holds all logits."""

import pytest
import torch

from plumbline.training import head as heads
from plumbline.training.head import head_loss, sums_from_logits

N, HIDDEN, VOCABULARY = 37, 16, 101


def layer(seed: int, bias: bool) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(HIDDEN, VOCABULARY, bias=bias)


def case(n: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(n, HIDDEN, generator=generator, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (n,), generator=generator)
    weights = torch.rand(n, generator=generator) * 3
    anchors = (torch.rand(n, generator=generator) > 0.5).float() * 0.7
    there = torch.randn(n, HIDDEN, generator=generator)
    return hidden, labels, weights, anchors, there


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_loss_and_gradient_equal_autograds(
    monkeypatch: pytest.MonkeyPatch, bias: bool, anchored: bool, rows: int
) -> None:
    monkeypatch.setattr(heads, "CHUNK_ELEMENTS", rows * VOCABULARY)
    head, other = layer(0, bias), layer(3, bias)
    hidden, labels, weights, anchors, there = case()
    reference = (other, there) if anchored else None
    loss, nll, kl = head_loss(head, hidden, labels, weights, anchors, reference)
    (loss / 7).backward()  # type: ignore[no-untyped-call]
    seen = [hidden.grad, head.weight.grad, head.bias.grad if bias else None]

    head.zero_grad()
    hidden.grad = None
    plain_nll, plain_kl = sums_from_logits(head(hidden), labels, other(there).detach() if anchored else None)
    plain = (weights * plain_nll + anchors * plain_kl).sum()
    (plain / 7).backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    assert torch.allclose(nll, plain_nll.detach(), atol=1e-5)
    if anchored:
        assert torch.allclose(kl * (anchors > 0), plain_kl.detach() * (anchors > 0), atol=1e-5)
    for ours, theirs in zip(seen, [hidden.grad, head.weight.grad, head.bias.grad if bias else None], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_kl_term_agrees_with_torchs_own() -> None:
    head, other = layer(0, False), layer(3, False)
    hidden, labels, weights, _, there = case()
    _, _, kl = head_loss(head, hidden, labels, weights, torch.ones(N), (other, there))
    wanted = torch.nn.functional.kl_div(
        head(hidden).log_softmax(-1), other(there).log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(kl, wanted.detach(), atol=1e-5)


def test_nothing_supervised_is_an_exact_zero_with_zero_gradients() -> None:
    for head in (layer(0, True), torch.nn.Sequential(layer(0, True))):
        hidden, labels, weights, anchors, _ = case(0)
        loss, nll, kl = head_loss(head, hidden, labels, weights, anchors, None)
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == 0.0 and len(nll) == len(kl) == 0
        assert hidden.grad is not None and hidden.grad.shape == (0, HIDDEN)
        assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_an_output_layer_that_is_not_plain_is_called_as_it_is() -> None:
    """Say, an adapter on it: what it adds must be in the loss and get a gradient (TRL's fused head refuses these)."""

    class Adapted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = layer(0, False)
            self.added = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.base(hidden) + self.added(hidden)

    head = Adapted()
    hidden, labels, weights, anchors, there = case()
    loss, _, _ = head_loss(head, hidden, labels, weights, anchors, (head, there))
    loss.backward()  # type: ignore[no-untyped-call]
    assert head.added.weight.grad is not None and head.added.weight.grad.abs().sum() > 0
    nll, kl = sums_from_logits(head(hidden), labels, head(there))
    wanted = (weights * nll + anchors * kl).sum()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_logits_are_formed_for_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = heads.linear
    monkeypatch.setattr(heads, "linear", lambda *a: seen.append(len(a[0])) or plain(*a))  # type: ignore[func-returns-value]
    monkeypatch.setattr(heads, "CHUNK_ELEMENTS", 8 * VOCABULARY)
    hidden, labels, weights, anchors, _ = case()
    head_loss(layer(0, False), hidden, labels, weights, anchors, None)
    assert seen == [8, 8, 8, 8, 5]


def test_without_gradients_none_are_made() -> None:
    hidden, labels, weights, anchors, _ = case()
    with torch.no_grad():
        loss, _, _ = head_loss(layer(0, False), hidden, labels, weights, anchors, None)
    assert not loss.requires_grad
