"""What trains is what the objective names, it begins the same every time, and every kind of adapter learns."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_model
from plumbline.records import Adapter, KlTerm, Objective
from plumbline.training.adapters import quantise
from plumbline.training.trainee import Trainee, build

MakeObjective = Callable[..., Objective]
KINDS = ("none", "lora", "dora", "qlora")


def trainable(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def ids(trainee: Trainee) -> torch.Tensor:
    rows = trainee.model.get_input_embeddings().weight.shape[0]
    return torch.randint(0, rows, (4, 16), generator=torch.Generator().manual_seed(0))


def loss(trainee: Trainee) -> torch.Tensor:
    """The loss as the engine takes it: hidden states, then the output layer as a module of its own."""
    model, batch = trainee.model, ids(trainee)
    hidden = model.base_model(batch, use_cache=False).last_hidden_state[:, :-1]
    return torch.nn.functional.cross_entropy(
        model.get_output_embeddings()(hidden).flatten(0, 1), batch[:, 1:].flatten()
    )


def learn(trainee: Trainee, steps: int = 5, half: bool = False) -> list[float]:
    trainee.model.train()
    optimiser = torch.optim.AdamW([p for p in trainee.model.parameters() if p.requires_grad], lr=1e-2)
    seen = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            value = loss(trainee)
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append(float(value.detach()))
    return seen


def gradients(trainee: Trainee) -> dict[str, torch.Tensor]:
    trainee.model.train()
    loss(trainee).backward()
    return {n: p.grad for n, p in trainee.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [(), ("<|think|>",)])
def test_every_kind_learns_and_moves_only_what_it_says(
    make_objective: MakeObjective, tiny_policy: Path, kind: Any, added: tuple[str, ...]
) -> None:
    trainee = build(make_objective(adapter=Adapter(kind=kind, rank=4), added_tokens=added), tiny_policy, "cpu")
    before = {name: p.detach().clone() for name, p in trainee.model.named_parameters()}
    seen = learn(trainee)
    assert seen[-1] < 0.8 * seen[0]
    moved = {name for name, p in trainee.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= trainable(trainee.model)
    if kind != "none":
        assert {n for n in moved if "lora_" not in n} == ({"model.embed_tokens.weight"} if added else set())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_objective_begins_with_bitwise_the_same_weights(
    make_objective: MakeObjective, tiny_policy: Path, kind: Any
) -> None:
    objective = make_objective(adapter=Adapter(kind=kind, rank=4), added_tokens=("<|think|>",))
    first = build(objective, tiny_policy, "cpu").model.state_dict()
    torch.manual_seed(99)
    drawn = torch.randn(3)
    torch.manual_seed(99)
    again = build(objective, tiny_policy, "cpu").model.state_dict()
    assert torch.equal(torch.randn(3), drawn), "building draws from nobody else's generator"
    assert first.keys() == again.keys() and all(torch.equal(first[n], again[n]) for n in first)
    other = build(objective.model_copy(update={"seed": 6}), tiny_policy, "cpu").model.state_dict()
    assert any(not torch.equal(first[n], other[n]) for n in first) == (kind != "none")


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_begins_as_the_base_policy(make_objective: MakeObjective, tiny_policy: Path, kind: Any) -> None:
    trainee = build(make_objective(adapter=Adapter(kind=kind, rank=4)), tiny_policy, "cpu")
    _, base = load_model(tiny_policy)
    with torch.no_grad():
        assert torch.allclose(trainee.model.eval()(ids(trainee)).logits, base(ids(trainee)).logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [(), ("<|think|>",)])
def test_gradient_checkpointing_changes_no_gradient(
    make_objective: MakeObjective, tiny_policy: Path, kind: Any, added: tuple[str, ...]
) -> None:
    settings: dict[str, Any] = {"adapter": Adapter(kind=kind, rank=4), "added_tokens": added}
    plain = gradients(build(make_objective(**settings), tiny_policy, "cpu"))
    trainee = build(make_objective(gradient_checkpointing=True, **settings), tiny_policy, "cpu")
    assert trainee.model.is_gradient_checkpointing
    saved = gradients(trainee)
    assert plain and plain.keys() == saved.keys()
    assert all(torch.allclose(plain[n], saved[n], rtol=1e-5, atol=1e-7) for n in plain)


def test_added_tokens_begin_at_the_mean_and_a_tied_head_stays_tied(
    make_objective: MakeObjective, tiny_policy: Path
) -> None:
    tokenizer, base = load_model(tiny_policy)
    rows = base.get_input_embeddings().weight
    model = build(make_objective(added_tokens=("<|a|>", "<|b|>", "<|user|>")), tiny_policy, "cpu").model
    grown = model.get_input_embeddings().weight
    assert grown.shape[0] == len(tokenizer) + 2 == model.config.vocab_size, "<|user|> is known and keeps its row"
    assert torch.equal(grown[: len(tokenizer)], rows)
    assert torch.allclose(grown[len(tokenizer) :], rows.mean(0).expand(2, -1), atol=1e-6)
    assert model.get_output_embeddings().weight is grown


def test_an_untied_head_grows_by_its_own_mean_and_trains_with_an_adapter(
    make_objective: MakeObjective, untied_policy: Path
) -> None:
    tokenizer, base = load_model(untied_policy)
    settings: dict[str, Any] = {"added_tokens": ("<|a|>",), "adapter": Adapter(kind="lora", rank=4)}
    model = build(make_objective(**settings), untied_policy, "cpu").model
    for grown, old in (
        (model.get_input_embeddings(), base.get_input_embeddings()),
        (model.get_output_embeddings(), base.get_output_embeddings()),
    ):
        assert torch.allclose(grown.weight[len(tokenizer)], old.weight.mean(0), atol=1e-6)
        assert grown.weight.requires_grad
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


def test_added_tokens_that_take_padding_rows_begin_at_the_mean_of_the_rows_in_use(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    tokenizer, base = load_model(tiny_policy)
    used = base.get_input_embeddings().weight.detach().clone()
    base.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    base.get_input_embeddings().weight.data[len(tokenizer) :] = 100.0
    base.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = build(make_objective(added_tokens=("<|a|>",)), tmp_path, "cpu").model
    rows = model.get_input_embeddings().weight
    assert rows.shape[0] == len(tokenizer) + 8
    assert torch.allclose(rows[len(tokenizer)], used.mean(0), atol=1e-6)
    assert bool((rows[len(tokenizer) + 1 :] == 100.0).all())


def test_the_kl_reference_is_the_base_policy_over_the_same_vocabulary(
    make_objective: MakeObjective, tiny_policy: Path
) -> None:
    objective = make_objective(kl=KlTerm(weight=0.1, slices=("facts",)), added_tokens=("<|a|>",))
    trainee = build(objective, tiny_policy, "cpu")
    reference = trainee.reference
    assert reference is not None and not any(p.requires_grad for p in reference.parameters())
    with torch.no_grad():
        start = trainee.model.eval()(ids(trainee)).logits.clone()
        assert torch.equal(reference(ids(trainee)).logits, start)
        learn_with_grad(trainee)
        assert torch.equal(reference(ids(trainee)).logits, start), "it stays when the policy moves"
    assert build(objective, tiny_policy, "cpu", with_reference=False).reference is None
    assert build(make_objective(), tiny_policy, "cpu").reference is None


@torch.enable_grad()
def learn_with_grad(trainee: Trainee) -> None:
    learn(trainee, steps=1)


@pytest.mark.parametrize(
    ("kind", "tied"), [("lora", True), ("lora", False), ("dora", False), ("qlora", True), ("qlora", False)]
)
def test_an_adapter_on_the_output_layer_gets_its_gradient(
    make_objective: MakeObjective, tiny_policy: Path, untied_policy: Path, kind: Any, tied: bool
) -> None:
    """A loss that multiplies by the output layer's weight, instead of calling it, would train nothing there."""
    adapter = Adapter(kind=kind, rank=4, targets=("q_proj", "lm_head"))
    found = gradients(build(make_objective(adapter=adapter), tiny_policy if tied else untied_policy, "cpu"))
    assert float(found["lm_head.lora_B.default.weight"].abs().max()) > 0


def test_only_the_target_layers_are_kept_in_four_bits_and_they_are_bitsandbytes_own(
    make_objective: MakeObjective, tiny_policy: Path
) -> None:
    import bitsandbytes

    objective = make_objective(adapter=Adapter(kind="qlora", targets=("q_proj", "down_proj")))
    _, base = load_model(tiny_policy)
    weights = {name: module.weight.detach().clone() for name, module in base.named_modules() if "proj" in name}
    quantise(base, objective)
    for name, weight in weights.items():
        layer = base.get_submodule(name)
        if name.endswith(("q_proj", "down_proj")):
            packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            assert torch.equal(layer.weight.data, packed)
            x = torch.randn(2, weight.shape[1])
            wanted = torch.nn.functional.linear(x, bitsandbytes.functional.dequantize_4bit(packed, state))
            assert torch.allclose(layer(x), wanted, atol=1e-6)
            assert not torch.allclose(wanted, torch.nn.functional.linear(x, weight), atol=1e-4)
        else:
            assert type(layer) is torch.nn.Linear and torch.equal(layer.weight, weight)


def test_a_validation_pass_leaves_four_bit_weights_and_their_gradients_as_they_were(
    make_objective: MakeObjective, tiny_policy: Path
) -> None:
    """bitsandbytes repacks CPU weights for bfloat16 at the first forward pass in eval mode, if it is let."""
    objective = make_objective(adapter=Adapter(kind="qlora", rank=4))
    plain, looked = build(objective, tiny_policy, "cpu"), build(objective, tiny_policy, "cpu")
    with torch.no_grad():
        seen = looked.model.eval()(ids(looked)).logits
        assert torch.equal(plain.model.train()(ids(plain)).logits, seen)
    one, two = gradients(plain), gradients(looked)
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def test_bfloat16_under_qlora_is_the_precision_of_the_products(
    make_objective: MakeObjective, tiny_policy: Path
) -> None:
    adapter = Adapter(kind="qlora", rank=4)
    trainee = build(make_objective(adapter=adapter, precision="bfloat16"), tiny_policy, "cpu")
    layer = trainee.model.model.layers[0].self_attn.q_proj.base_layer
    assert layer.compute_dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in trainee.model.parameters() if p.requires_grad)
    seen = learn(trainee, half=True)
    assert seen[-1] < 0.8 * seen[0]


def test_qlora_without_its_library_is_said_before_anything_is_loaded(
    make_objective: MakeObjective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PlumblineError, match=r"bitsandbytes cannot be imported(.|\n)*plumbline\[qlora\]"):
        build(make_objective(adapter=Adapter(kind="qlora")), tmp_path / "no-such-policy", "cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frozen": ("model.embed", "model.layer.0")}, "frozen names model.layer.0, and no parameter"),
        ({"frozen": ("model", "lm_head")}, "every parameter"),
        ({"adapter": Adapter(kind="lora", targets=("q_proj", "wq"))}, "adapter.targets names wq, (.|\n)*gate_proj"),
        ({"adapter": Adapter(kind="lora", targets=())}, "adapter.targets names nothing"),
        ({"adapter": Adapter(kind="dora", targets=("input_layernorm",))}, "the adapter cannot be added"),
        ({"adapter": Adapter(kind="dora", targets=("lm_head",))}, "lm_head has rows that are all zero"),
        ({"adapter": Adapter(kind="qlora", targets=("embed_tokens",))}, "embed_tokens, which is a Embedding"),
        ({"adapter": Adapter(kind="lora", targets=("lm_head",)), "added_tokens": ("<|a|>",)}, "train it whole"),
    ],
)
def test_what_names_nothing_or_means_nothing_is_refused(
    make_objective: MakeObjective, tiny_policy: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlumblineError, match=words):
        build(make_objective(**changes), tiny_policy, "cpu")


def test_either_name_of_a_tied_matrix_freezes_it(make_objective: MakeObjective, tiny_policy: Path) -> None:
    for name in ("lm_head", "model.embed_tokens"):
        trainee = build(make_objective(frozen=(name,)), tiny_policy, "cpu")
        assert "model.embed_tokens.weight" not in trainable(trainee.model)
