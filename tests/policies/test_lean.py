"""The lean pass says what transformers' own pass says, for every architecture that it knows, and stands aside for all
others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from plumbline.policies import decoding
from plumbline.policies.decoding import ROWS, SlotCache
from plumbline.policies.lean import Lean
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, say

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"vocab_size": 60, "initializer_range": 0.4, "max_position_embeddings": 4096}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama with shared keys, biases and stretched positions": {
        "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-2,
        "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 1024},
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 16},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}  # fmt: skip


def made(kind: str, **more: Any) -> Any:
    torch.manual_seed(2)
    config = AutoConfig.for_model(kind.split()[0], **{**SIZES, **KINDS[kind], **more})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases too begin as something other than 1 and 0
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_steps_give_the_logits_of_the_models_own_pass(kind: str) -> None:
    """Prompts of several lengths, far beyond one table of positions, and slots between them that are empty."""
    model = made(kind)
    lean = Lean.of(model)
    assert lean is not None and decoding.try_out(lean, False) is not None
    prompts = [[(i * k + 3) % 60 for i in range(n)] for k, n in ((1, 1), (7, 16), (11, 17), (13, 1100))]
    first, pairs = decoding.read_prompts(lean, prompts, False)
    slots = [0, 2, 3, 5]
    cache = SlotCache(ROWS, 1110, model.device)
    cache.fill(slots, [len(prompt) for prompt in prompts], pairs)
    last = [0] * ROWS
    tokens = [slot + 1 for slot in slots]
    for slot, token in zip(slots, tokens, strict=True):
        last[slot] = token
    second = decoding.step(lean, cache, last, 1101)
    cache.move_on(slots)
    third = decoding.step(lean, cache, last, 1102)
    with torch.no_grad():
        for n, prompt in enumerate(prompts):
            own = model(torch.tensor([[*prompt, tokens[n], tokens[n]]])).logits[0, -3:]
            found = torch.stack([first[n], second[slots[n]], third[slots[n]]])
            assert float((found - own).abs().max()) < 1e-4 * float(own.abs().max())


def test_weights_are_not_copied() -> None:
    model = made("llama")
    lean = Lean.of(model)
    assert lean is not None
    before = decoding.read_prompts(lean, [[1, 2, 3]], False)[0]
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    after, anew = (decoding.read_prompts(made_then, [[1, 2, 3]], False)[0] for made_then in (lean, Lean.of(model)))
    assert not torch.equal(before, after) and torch.equal(after, anew)


def test_what_is_not_as_expected_keeps_its_own_pass() -> None:
    from peft import LoraConfig, get_peft_model

    assert Lean.of(made("mistral", sliding_window=8)) is None
    assert Lean.of(made("llama", hidden_act="gelu")) is None
    assert Lean.of(made("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})) is None
    assert Lean.of(made("llama").to(torch.bfloat16)) is None
    adapted = get_peft_model(made("llama"), LoraConfig(target_modules=["up_proj"]))
    assert Lean.of(adapted) is None and Lean.of(adapted.base_model.model) is None
    hooked = made("llama")
    handle = hooked.model.layers[1].register_forward_hook(lambda *_: None)
    assert Lean.of(hooked) is None
    handle.remove()
    assert Lean.of(hooked) is not None
    gpt = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=60))
    assert Lean.of(gpt) is None


def test_a_lean_pass_that_says_something_else_is_not_taken(tiny_policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LocalPolicy.load(tiny_policy)
    prompts = [(say("user", "who is ana ? " * n),) for n in range(1, 5)]
    assert policy._lean is not None
    expected = policy.generate(prompts, DecoderSettings(max_tokens=8))
    real = Lean.step
    monkeypatch.setattr(Lean, "step", lambda *given: 1.01 * real(*given))
    other = LocalPolicy.load(tiny_policy)
    assert other._lean is None and other._shapes is not None
    assert other.generate(prompts, DecoderSettings(max_tokens=8)) == expected
