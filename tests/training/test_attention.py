"""Packed documents never see each other, whatever the architecture, or packing is refused."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline.errors import PlumblineError
from plumbline.training.attention import document_arguments, use_document_attention

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**{**SMALL, "sliding_window": 6})),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_document_has_its_logits_alone(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    lengths = [5, 1, 17, 9]
    documents = [torch.randint(0, 64, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
    with torch.no_grad():
        alone = [model(ids, use_cache=False).logits[0] for ids in documents]  # the architecture's own attention
        use_document_attention(model)
        packed = model(torch.cat(documents, 1), **document_arguments(lengths, "cpu"), use_cache=False).logits[0]
    for mine, wanted in zip(packed.split(lengths), alone, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5), float((mine - wanted).abs().max())


def test_without_boundaries_it_is_ordinary_causal_attention() -> None:
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    ids = torch.randint(0, 64, (3, 11))
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
        use_document_attention(model)
        assert torch.allclose(model(ids, use_cache=False).logits, wanted, atol=1e-5)


def test_attention_with_capped_scores_is_refused_by_name() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(**SMALL))
    with pytest.raises(PlumblineError, match="softcap") as error:
        use_document_attention(model)
    assert "layout: bucketed" in str(error.value)


def test_a_model_whose_documents_see_each_other_is_refused() -> None:
    """An architecture that ignores boundaries: a running sum of the inputs is mixed in, as in a state-space layer."""
    torch.manual_seed(0)
    model = MODELS["llama"]()

    def leak(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output.cumsum(1)

    model.model.embed_tokens.register_forward_hook(leak)
    with pytest.raises(PlumblineError, match="packed documents see each other"):
        use_document_attention(model)
