"""The output layer and the loss in one, chunk by chunk: logits exist for a chunk of supervised positions at a time.

    L = sum over positions of  w_i * NLL_i  +  lambda_i * KL(q_i || p_i)
    dL/dlogits_i = (w_i + lambda_i) * p_i  -  w_i * onehot(label_i)  -  lambda_i * q_i

The gradient has a closed form, so it is made on the way forward, while the chunk's logits exist, and no second pass
through the output layer is needed (the idea of Liger kernel and Apple's Cut Cross-Entropy, arXiv 2411.09009). Peak
memory is O(chunk x vocabulary) instead of O(positions x vocabulary): in float32 on a CPU one buffer, written over and
over, from logits to log-probabilities to their gradient (fresh memory of this size is paid for page by page, and took
a third of the time).

    hidden [n, H], weight [V, H], bias [V] | None -> scalar loss; n may be 0, which gives an exact zero
"""

from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24  # logits per chunk: 64 MiB in float32


def chunk_rows(vocabulary: int) -> int:
    """Supervised positions whose logits are formed together."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


class ChunkedLoss(torch.autograd.Function):
    """loss, nll [n], kl [n] of a plain linear output layer. `reference` is (hidden, weight, bias) of the KL reference.
    Matrix products run in `dtype`; softmax, loss and sums in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor,
        anchors: torch.Tensor,
        reference: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n, rows = len(hidden), chunk_rows(len(weight))
        new = torch.empty_like if n else torch.zeros_like  # the first chunk writes, later ones add
        nll, kl = hidden.new_zeros(n, dtype=torch.float32), hidden.new_zeros(n, dtype=torch.float32)
        grad_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = new(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            table, space = weight.to(dtype), hidden.new_empty(min(n, rows), len(weight), dtype=dtype)
            for start in range(0, n, rows):
                part = slice(start, start + rows)
                inputs = hidden[part].to(dtype)
                logits = linear(inputs, table, _to(bias, dtype), space[: len(inputs)])
                logp = _log_softmax(logits.float())
                nll[part] = -logp.gather(-1, labels[part, None])[:, 0]
                pull, anchored = weights[part], anchors[part]
                wanted = None
                if reference is not None and bool(anchored.any()):
                    there, its_weight, its_bias = reference
                    wanted = torch.log_softmax(
                        linear(there[part].to(dtype), its_weight.to(dtype), _to(its_bias, dtype)).float(), -1
                    )
                    kl[part] = (wanted.exp() * (wanted - logp)).sum(-1) * (anchored > 0)
                if grad_hidden is None and grad_weight is None:
                    continue
                slope = logp.exp_().mul_((pull + anchored if wanted is not None else pull)[:, None])
                slope.scatter_add_(-1, labels[part, None], -pull[:, None])
                if wanted is not None:
                    slope -= wanted.exp_() * anchored[:, None]
                flat = slope if slope.dtype == dtype else logits.copy_(slope)
                if grad_hidden is not None:
                    grad_hidden[part] = (flat @ table).to(grad_hidden.dtype)
                if grad_weight is not None:
                    if start == 0 and dtype == grad_weight.dtype:
                        torch.mm(flat.T, inputs, out=grad_weight)
                    elif start == 0:
                        grad_weight.copy_(flat.T @ inputs)
                    elif dtype == grad_weight.dtype:
                        grad_weight.addmm_(flat.T, inputs)
                    else:
                        grad_weight += (flat.T @ inputs).to(grad_weight.dtype)
                if grad_bias is not None:
                    grad_bias += slope.sum(0).to(grad_bias.dtype)
                del logp, slope, flat, wanted  # or they would live on beside the next chunk's
        ctx.made = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll, kl)
        return (weights * nll + anchors * kl).sum(), nll, kl

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        # in place: the head's gradient may be gigabytes, and the graph is walked once
        hidden, weight, bias = (None if made is None else made.mul_(grads[0]) for made in ctx.made)
        del ctx.made  # so that a parameter can take the tensor over as its gradient, without a copy
        return hidden, weight, bias, None, None, None, None, None


def head_loss(
    head: Any,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    anchors: torch.Tensor,
    reference: tuple[Any, torch.Tensor] | None,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, nll [n], kl [n]) of `hidden` under the output layer `head`; `reference` is (its head, its hidden).

    A plain linear layer takes the fused path. Any other module (an adapter on the output layer, a 4-bit one) is called
    as it is, chunk by chunk with recomputation, so that nothing it does is bypassed.
    """
    if type(head) is torch.nn.Linear and (reference is None or type(reference[0]) is torch.nn.Linear):
        anchor = (reference[1], reference[0].weight, reference[0].bias) if reference is not None else None
        arguments = (hidden, head.weight, head.bias, labels, weights, anchors, anchor, dtype)
        return cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor], ChunkedLoss.apply(*arguments))  # type: ignore[no-untyped-call]
    losses, nlls, kls = [hidden.sum() * 0.0], [], []
    rows = chunk_rows(int(getattr(head, "out_features", 1)))
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        its = None if reference is None else (reference[0], reference[1][part])
        loss, nll, kl = checkpoint(
            _plain, head, hidden[part], labels[part], weights[part], anchors[part], its, use_reentrant=False
        )
        losses.append(loss)
        nlls.append(nll.detach())
        kls.append(kl.detach())
    empty = hidden.new_zeros(0, dtype=torch.float32)
    return torch.stack(losses).sum(), torch.cat([empty, *nlls]), torch.cat([empty, *kls])


def _plain(
    head: Any,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    anchors: torch.Tensor,
    reference: tuple[Any, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One chunk by autograd."""
    logits = head(hidden).float()
    nll, kl = sums_from_logits(logits, labels, None if reference is None else reference[0](reference[1]).float())
    kl = kl * (anchors > 0)
    return (weights * nll + anchors * kl).sum(), nll, kl


def sums_from_logits(
    logits: torch.Tensor, labels: torch.Tensor, reference: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(nll [n], kl [n]) from logits [n, V]: the definition that the fused path is tested against."""
    logp = torch.log_softmax(logits, -1)
    nll = -logp.gather(-1, labels[:, None])[:, 0]
    if reference is None:
        return nll, torch.zeros_like(nll)
    wanted = torch.log_softmax(reference, -1)
    return nll, (wanted.exp() * (wanted - logp)).sum(-1)


def linear(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """torch's linear [n, H] -> [n, V], written into `out` where there is one."""
    if bias is None:
        return torch.mm(inputs, weight.t(), out=out)
    return torch.addmm(bias, inputs, weight.t(), out=out)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of logits [n, V]; on a CPU in place, a few rows at a time, so that it needs little memory."""
    if logits.device.type != "cpu":
        return torch.log_softmax(logits, -1)
    for some in torch.split(logits, max(1, 2**20 // logits.shape[1])):
        some -= torch.logsumexp(some, -1, keepdim=True)
    return logits


def _to(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if bias is None else bias.to(dtype)
