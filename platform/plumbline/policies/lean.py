"""The forward pass of Llama-shaped models in few tensor operations, over the model's own weights.

Of a small policy's step most is not arithmetic: for 12 rows of the micro-world's reference, two layers of width 128,
transformers' pass takes 1.1 ms and this one 0.6; to read a prompt of 67 tokens 1.5 and 0.9. So where the architecture
is known to the last detail it is written out here; other architectures, wrapped layers, hooks, other number formats
and other devices keep their own pass, and so does a model for which this one turns out to say something else
(`decoding.slots_work`).

    step   one token per row. Attention only in those rows up to the last busy one; products in all, as their last bits
           depend on the number of rows
    read   whole prompts. Of the last layer nothing but keys and values is needed before a prompt's last token

Weights are looked up when a `Lean` is made and not copied: make a new one after weights were replaced.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plumbline.policies.scoring import plain_attention

KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
STEADY = ("default", "linear", "llama3", "yarn")  # rotary angles that depend on the position alone
TABLE = 1024  # positions whose angles are computed at once, always the same ones, as last bits depend on that too

Pair = tuple[Tensor, Tensor]  # keys and values [rows, heads, tokens, size]


@dataclass(frozen=True)
class _Product:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class _Norm:
    """x / sqrt(mean(x^2) + epsilon) * weight, in five operations where F.rms_norm takes nine on a CPU."""

    weight: Tensor
    epsilon: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self.epsilon, length, length, value=1 / len(self.weight)).rsqrt_() * self.weight


@dataclass(frozen=True)
class _Layer:
    before: _Norm
    query: _Product
    key: _Product
    value: _Product
    query_norm: _Norm | None
    key_norm: _Norm | None
    out: _Product
    between: _Norm
    gate: _Product
    up: _Product
    down: _Product

    def close(self, x: Tensor, attended: Tensor) -> Tensor:
        """The residual stream after this layer, from what it was before and what attention found."""
        x = x + self.out(attended)
        seen = self.between(x)
        return x + self.down(F.silu(self.gate(seen)) * self.up(seen))


class Lean:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = model.device
        body, config = model.model, model.config
        self.size = int(body.layers[0].self_attn.head_dim)
        self.heads, self.kept = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._embedding: Tensor = body.embed_tokens.weight
        self._layers = [_layer(layer) for layer in body.layers]
        self._norm = _norm(body.norm)
        self._head = _product(model.lm_head)
        self._rotary = body.rotary_emb
        self._cos = self._sin = torch.zeros(0, 1, self.size)

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """None where the model's own pass must be taken."""
        if type(model).__name__ not in KNOWN or not type(model).__module__.startswith("transformers.models."):
            return None
        try:
            return cls(model) if all(_as_expected(model)) else None
        except AttributeError:  # another version of transformers calls its parts otherwise
            return None

    def step(self, last: Sequence[int], at: Sequence[int], seen: int, kept: Sequence[Pair], busy: int) -> Tensor:
        """Logits [rows, vocabulary] after the `last` token of each row, which stands at the place `at`, and is written
        there into `kept` for the first `busy` rows; these see the first `seen` places."""
        rows, places = len(last), torch.tensor(at)
        self._turn_up_to(seen)
        cos, sin = self._cos[places], self._sin[places]
        mine, numbers = places[:busy], torch.arange(busy)
        mask = _hidden(torch.arange(seen) > mine[:, None])
        x = F.embedding(torch.tensor(last), self._embedding)
        for layer, (keys, values) in zip(self._layers, kept, strict=True):
            h = layer.before(x)
            turned = self._turned(torch.cat((self._queries(layer, h), self._keys(layer, h)), 1), cos, sin)
            keys[numbers, :, mine] = turned[:busy, self.heads :]
            values[numbers, :, mine] = layer.value(h)[:busy].view(busy, -1, self.size)
            found = self._look(turned[:busy, : self.heads], (keys[:busy, :, :seen], values[:busy, :, :seen]), mask)
            x = layer.close(x, found if busy == rows else F.pad(found, (0, 0, 0, rows - busy)))
        return self._head(self._norm(x))

    def read(self, ids: Tensor, ends: Sequence[int], rows: int) -> tuple[Tensor, list[Pair]]:
        """Logits [prompts, vocabulary] after the tokens at `ends` of ids [prompts, length], padded on the right, and
        keys and values of all. What follows the last layer's keys is computed for `rows` prompts at a time."""
        number, length = ids.shape
        self._turn_up_to(length)
        cos, sin = self._cos[:length].repeat(number, 1, 1), self._sin[:length].repeat(number, 1, 1)
        x = h = F.embedding(ids.reshape(-1), self._embedding)
        pairs: list[Pair] = []
        for layer in self._layers:
            h = layer.before(x)
            keys = self._turned(self._keys(layer, h), cos, sin)
            values = layer.value(h).view(-1, self.kept, self.size)
            pairs.append((_apart(keys, number), _apart(values, number)))
            if len(pairs) < len(self._layers):
                queries = _apart(self._turned(self._queries(layer, h), cos, sin), number)
                grouped = self.heads != self.kept
                found = F.scaled_dot_product_attention(queries, *pairs[-1], is_causal=True, enable_gqa=grouped)
                x = layer.close(x, found.transpose(1, 2).reshape(number * length, -1))
        places = torch.tensor(ends)
        flat = places + torch.arange(number) * length
        mask = _hidden(torch.arange(length) > places[:, None])
        logits: list[Tensor] = []
        for start in range(0, number, rows):  # always as many rows, so that neighbours change nothing
            some = slice(start, start + rows)
            missing = max(0, start + rows - number)
            filled = F.pad(flat[some], (0, missing))
            queries = self._turned(self._queries(self._layers[-1], h[filled]), cos[filled], sin[filled])
            keys, values = pairs[-1]
            found = self._look(queries[: rows - missing], (keys[some], values[some]), mask[some])
            end = self._layers[-1].close(x[filled], F.pad(found, (0, 0, 0, missing)))
            logits.append(self._head(self._norm(end))[: rows - missing])
        return torch.cat(logits), pairs

    def _queries(self, layer: _Layer, h: Tensor) -> Tensor:
        found = layer.query(h).view(-1, self.heads, self.size)
        return found if layer.query_norm is None else layer.query_norm(found)

    def _keys(self, layer: _Layer, h: Tensor) -> Tensor:
        found = layer.key(h).view(-1, self.kept, self.size)
        return found if layer.key_norm is None else layer.key_norm(found)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary positions of x [tokens, heads, size]; `sin` has the first half's sign changed."""
        first, second = x.chunk(2, -1)
        return torch.addcmul(x * cos, torch.cat((second, first), -1), sin)

    def _look(self, queries: Tensor, pair: Pair, mask: Tensor) -> Tensor:
        """What one query [rows, heads, size] per row finds among its row's keys. Heads that share keys stand there as
        if they were more places."""
        rows = len(queries)
        grouped = queries.view(rows, self.kept, -1, self.size)
        return F.scaled_dot_product_attention(grouped, *pair, attn_mask=mask).reshape(rows, -1)

    def _turn_up_to(self, length: int) -> None:
        while len(self._cos) < length:
            places = torch.arange(len(self._cos), len(self._cos) + TABLE)[None]
            cos, sin = (part[0, :, None] for part in self._rotary(torch.zeros(1), places))
            first, second = sin.chunk(2, -1)
            self._cos = torch.cat((self._cos, cos))
            self._sin = torch.cat((self._sin, torch.cat((-first, second), -1)))


def _apart(x: Tensor, number: int) -> Tensor:
    """[tokens, heads, size] of several prompts as [prompts, heads, tokens, size]."""
    return x.view(number, -1, *x.shape[1:]).transpose(1, 2)


def _hidden(beyond: Tensor) -> Tensor:
    """An additive mask [rows, 1, 1, keys]."""
    return torch.where(beyond, torch.finfo(torch.float32).min, 0.0)[:, None, None]


def _product(layer: Any) -> _Product:
    return _Product(layer.weight, layer.bias)


def _norm(layer: Any) -> _Norm:
    return _Norm(layer.weight, torch.tensor(layer.variance_epsilon))


def _layer(layer: Any) -> _Layer:
    own, mlp = layer.self_attn, layer.mlp
    return _Layer(
        before=_norm(layer.input_layernorm),
        query=_product(own.q_proj),
        key=_product(own.k_proj),
        value=_product(own.v_proj),
        query_norm=_norm(own.q_norm) if hasattr(own, "q_norm") else None,
        key_norm=_norm(own.k_norm) if hasattr(own, "k_norm") else None,
        out=_product(own.o_proj),
        between=_norm(layer.post_attention_layernorm),
        gate=_product(mlp.gate_proj),
        up=_product(mlp.up_proj),
        down=_product(mlp.down_proj),
    )


def _as_expected(model: Any) -> Iterator[bool]:
    """Everything on which this pass relies, and that a model might have otherwise."""
    config, body = model.config, model.model
    yield plain_attention(config)
    yield config.hidden_act in ("silu", "swish")
    yield body.rotary_emb.rope_type in STEADY
    turned = body.rotary_emb(torch.zeros(1), torch.zeros(1, 1, dtype=torch.long))[0]
    yield turned.shape[-1] == body.layers[0].self_attn.head_dim
    products = [m for m in model.modules() if hasattr(m, "weight") and m.weight.dim() == 2]
    yield all(type(m) in (nn.Linear, nn.Embedding) for m in products)
    yield all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    yield not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
