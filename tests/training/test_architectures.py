"""Over many architectures: our loss and gradient are those of the model's own forward pass and torch's cross-entropy,
in every layout that is not refused by name. Rows are longer than the windows that some of them attend over."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from plumbline.errors import PlumblineError
from token_stores import random_store
from training_helpers import an_objective, global_gradient

STORE = random_store(6, vocabulary=90, shortest=20, longest=40)
LLAMA: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT: dict[str, Any] = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
OPT: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "word_embed_proj_dim": 16, "max_position_embeddings": 128, "dropout": 0.0,
}  # fmt: skip
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
# name -> (model type, configuration, words of the refusal when packed, if it is)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", LLAMA, ""),
    "qwen3": ("qwen3", LLAMA, ""),
    "mistral, window 8": ("mistral", {**LLAMA, "sliding_window": 8}, ""),
    "gemma3, window 8": ("gemma3_text", {**LLAMA, "sliding_window": 8}, ""),
    "olmo2": ("olmo2", LLAMA, ""),
    "phi, partial rotation": ("phi", {**LLAMA, "partial_rotary_factor": 0.5, "num_key_value_heads": 4}, ""),
    "granite, scaled": ("granite", {**LLAMA, "logits_scaling": 4.0, "attention_multiplier": 0.3}, ""),
    "cohere, scaled": ("cohere", {**LLAMA, "logit_scale": 0.25}, ""),
    "gpt2, learned positions": ("gpt2", {**GPT, **NO_DROPOUT}, ""),
    "opt, projected states": ("opt", OPT, ""),
    "gemma2, capped": ("gemma2", {**LLAMA, "sliding_window": 8, "final_logit_softcapping": 2.0}, "softcap"),
    "bloom, ALiBi": ("bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "packed"),
    "bert as decoder": ("bert", {**LLAMA, "is_decoder": True, "hidden_dropout_prob": 0.0,
                                 "attention_probs_dropout_prob": 0.0}, ""),
    "qwen2-moe, windows by layer": ("qwen2_moe", {**LLAMA, "use_sliding_window": True, "sliding_window": 8,
                                                  "max_window_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
                                                  "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
                                    "its own attention is another"),
}  # fmt: skip


def own_gradient(model: Any) -> torch.Tensor:
    """Row by row, by the model's own logits."""
    model.zero_grad()
    total = torch.zeros(())
    for row in range(len(STORE)):
        ids = torch.tensor(STORE.ids[STORE.row(row)]).long()
        wanted = torch.tensor(STORE.supervised[STORE.row(row)])[1:]
        logits = model(ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=False).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")[wanted].sum()
    (total / int(STORE.targets.sum())).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradient_are_the_models_own(name: str) -> None:
    kind, configuration, refusal = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **configuration)).train()
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for caps, windows and positions to show
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    model.tie_weights()
    wanted = own_gradient(model)
    for layout in ("padded", "bucketed", "packed"):
        objective = an_objective(layout=layout, micro_batch_examples=3)
        fresh = copy.deepcopy(model)
        if layout == "packed" and refusal:
            with pytest.raises(PlumblineError, match=refusal):
                global_gradient(fresh, STORE, objective)
            continue
        found = global_gradient(fresh, STORE, objective)
        assert found.shape == wanted.shape
        difference = float((found - wanted).abs().max() / wanted.abs().max())
        assert difference < 2e-5, (layout, difference)
    assert np.isfinite(float(wanted.abs().max()))
