"""Attention for packed batches: every document attends to itself, by construction, and nothing is computed for others.

transformers finds packed documents by their restarting positions, but only when there is no attention mask and no
cache (masking_utils.py); with either, documents silently see each other. And its mask is dense: O(length^2) for the
whole pack. Here the boundaries are given, and each document is its own causal attention; on CUDA in half precision,
torch's variable-length flash attention does the same in one kernel.

Not supported, and refused by name: architectures that do not call transformers' attention interface (state-space and
hybrid models), and logit caps or sinks inside attention (Gemma 2, gpt-oss).
"""

from itertools import pairwise
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention

from plumbline.errors import PlumblineError

NAME = "plumbline_documents"
TOLERANCE = 1e-4
HALF_TOLERANCE = 0.1


def use_document_attention(model: Any, longest: int = 32, *, half: bool = False) -> None:
    """Switch `model` to document attention, and prove on it that it is the same attention and bounded by documents.

    Raises PlumblineError when it is not: a random document as long as the run's `longest` must have the hidden states
    that the architecture's own attention gives it, and the logits of a document packed after another must be its
    logits alone, both to 1e-4 of their scale (and `half`: also in bfloat16, to a tenth, since kernels differ there).
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    own = _states(model, longest, {})
    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    try:
        model.set_attn_implementation(NAME)
        worst = _contamination(model)
        moved = _states(model, longest, document_arguments([longest], own.device))
        drift = float((moved - own).abs().max() / own.abs().max().clamp_min(1e-6))
    except PlumblineError:
        raise
    except Exception as error:  # an architecture that knows no such attention says so in its own way
        raise _refused(f"its attention cannot be given documents ({str(error).splitlines()[0]})") from error
    if not worst <= TOLERANCE:
        raise _refused(f"packed documents see each other (logits move by {worst:.1e} of their scale)")
    if half:
        with torch.autocast(own.device.type, dtype=torch.bfloat16):
            worst = _contamination(model)
        if not worst <= HALF_TOLERANCE:
            raise _refused(f"packed documents see each other in bfloat16 (logits move by {worst:.1e} of their scale)")
    if not drift <= TOLERANCE:
        raise _refused(f"its own attention is another (hidden states move by {drift:.1e} of their scale)")


def document_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """query [batch, heads, length, size], key and value with their own number of heads -> [batch, length, heads, size].

    `cu_seq_lens_q` [documents + 1] says where each begins; without it every row is one document.
    """
    for option in ("softcap", "s_aux"):
        if more.get(option) is not None:
            raise _refused(f"its attention uses {option}")
    if cu_seq_lens_q is None:
        return _causal(query, key, value, scaling, dropout, sliding_window).transpose(1, 2).contiguous(), None
    longest = int(max_length_q or query.shape[2])
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(
            query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1),
            cu_seq_lens_q, cu_seq_lens_q, longest, longest,
            scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
            window_size=(sliding_window - 1 if sliding_window else -1, 0),
        )  # fmt: skip
        return cast(torch.Tensor, out)[None], None
    cuts = cu_seq_lens_q.tolist()
    pieces = [
        _causal(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], scaling, dropout, sliding_window)
        for a, b in pairwise(cuts)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    length, grouped = query.shape[2], query.shape[1] != key.shape[1]
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": grouped}
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, **options)


def _no_mask(*_: Any, **__: Any) -> None:
    """Document attention needs no mask: it is causal and bounded by itself."""


def _states(model: Any, length: int, boundaries: dict[str, Any]) -> torch.Tensor:
    """Last hidden states of one random document of this length."""
    training, device = model.training, next(model.parameters()).device
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(1)).to(device)
    model.eval()
    with torch.no_grad():
        states = cast(torch.Tensor, model.base_model(ids, **boundaries, use_cache=False)[0])
    model.train(training)
    return states


def _contamination(model: Any) -> float:
    """Largest change of a document's logits when another is packed before it, as a share of their scale."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    first, second = (torch.randint(0, vocabulary, (1, n), generator=generator).to(device) for n in (5, 7))
    training = model.training
    model.eval()
    with torch.no_grad():
        alone = model(second, **document_arguments([7], device), use_cache=False).logits
        packed = model(torch.cat([first, second], 1), **document_arguments([5, 7], device), use_cache=False).logits
    model.train(training)
    return float((packed[:, 5:] - alone).abs().max() / alone.abs().max().clamp_min(1e-6))


def document_arguments(lengths: list[int], device: Any) -> dict[str, Any]:
    """What a forward pass takes for a packed row of documents of these lengths."""
    cuts = torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    return forward_arguments(positions, cuts, max(lengths))


def forward_arguments(positions: torch.Tensor, documents: torch.Tensor, longest: int) -> dict[str, Any]:
    """The names under which transformers hands packed boundaries to attention (its FlashAttentionKwargs)."""
    return {
        "position_ids": positions,
        "cu_seq_lens_q": documents,
        "cu_seq_lens_k": documents,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _refused(why: str) -> PlumblineError:
    return PlumblineError(
        f"layout packed does not suit this policy: {why}",
        consequence="examples would learn from each other, so nothing was trained",
        remedy="use layout: bucketed, which gives the same gradient",
    )
