"""What a step costs, against what torch counts and what a step really keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny_policy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_model, load_template
from plumbline.records import Adapter, KlTerm, Truncation
from plumbline.training.attention import use_document_attention
from plumbline.training.batch import MicroBatch
from plumbline.training.cost import (
    Shape,
    attention_flops,
    bound,
    memory,
    peak_flops,
    saving,
    shape_of,
    step_flops,
)
from plumbline.training.loss import WeightedLoss
from plumbline.training.prepare import prepare
from training_helpers import global_gradient, make_examples

LLAMA_8B = Shape(
    body=6_979_588_096, head=525_336_576, hidden=4096, layers=32, vocabulary=128_256, parameters=8_030_261_248,
    trained=8_030_261_248, attention=4096, key_value=1024, inner=14_336,
)  # fmt: skip


def write_config(folder: Path, config: Any) -> Path:
    config.save_pretrained(folder)
    return folder


def small_llama(**changes: Any) -> LlamaConfig:
    settings = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    return LlamaConfig(**{**settings, **changes})


@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_counts_what_the_built_model_holds(tmp_path: Path, make_objective: Any, tied: bool) -> None:
    config = small_llama(tie_word_embeddings=tied)
    model = LlamaForCausalLM(config)
    shape = shape_of(write_config(tmp_path, config), make_objective())
    assert shape.parameters == sum(p.numel() for p in model.parameters()) == shape.trained
    assert shape.head == 96 * 32
    assert shape.body == shape.parameters - shape.head * (1 if tied else 2)
    assert (shape.attention, shape.key_value, shape.inner, shape.layers) == (64, 32, 64, 2)


def test_frozen_parameters_are_not_counted_as_trained(tmp_path: Path, make_objective: Any) -> None:
    base = write_config(tmp_path, small_llama())
    whole = shape_of(base, make_objective())
    part = shape_of(base, make_objective(frozen=("model.layers.0.", "model.embed_tokens")))
    layer = sum(p.numel() for p in LlamaForCausalLM(small_llama()).model.layers[0].parameters())
    assert part.trained == whole.trained - layer - 96 * 32
    assert part.parameters == whole.parameters


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_by_formula_are_as_many_as_peft_makes(tmp_path: Path, make_objective: Any, kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = Adapter(kind=kind, rank=3, targets=("q_proj", "v_proj", "down_proj"))
    shape = shape_of(write_config(tmp_path, small_llama()), make_objective(adapter=adapter))
    made = get_peft_model(
        LlamaForCausalLM(small_llama()),
        LoraConfig(r=3, target_modules=list(adapter.targets), use_dora=kind == "dora", task_type="CAUSAL_LM"),
    )
    assert shape.trained == sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert shape.adapted == 2 * (32 * 64 + 32 * 32 + 32 * 64)


def test_an_adapter_with_nothing_to_sit_on_is_refused_by_name(tmp_path: Path, make_objective: Any) -> None:
    base = write_config(tmp_path, small_llama())
    with pytest.raises(PlumblineError, match="wqkv"):
        shape_of(base, make_objective(adapter=Adapter(kind="lora", targets=("wqkv",))))


def test_of_a_mixture_only_the_experts_that_a_token_uses_count(tmp_path: Path, make_objective: Any) -> None:
    config = MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2, tie_word_embeddings=False,
    )  # fmt: skip
    shape = shape_of(write_config(tmp_path, config), make_objective())
    experts = 2 * 8 * 3 * 32 * 64
    assert not shape.upper_bound
    assert shape.body == shape.parameters - 2 * shape.head - experts * 6 // 8


def test_a_folder_that_is_no_language_model_is_refused(tmp_path: Path, make_objective: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PlumblineError, match="no causal language model"):
        shape_of(tmp_path, make_objective())


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_step_flops_agree_with_what_torch_counts_through_the_loss(
    tmp_path: Path, make_objective: Any, layout: str
) -> None:
    """Nothing is padded: one row a micro-batch, or all of them packed into one. Torch counts no product of attention
    on a CPU (sdpa), nor do we here."""
    base = make_tiny_policy(tmp_path / "policy", vocab=400)
    store = prepare(make_examples(12), load_template(base), Truncation(max_tokens=200, max_share=1.0), {}).store
    objective = make_objective(layout=layout, micro_batch_examples=1)
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # torch's own list lacks it
    model = load_model(base)[1]
    with FlopCounterMode(display=False, custom_mapping=in_place) as trials:  # once a run, before its first step
        if layout == "packed":
            use_document_attention(model)
        WeightedLoss(model, objective, len(store.slice_names))
    with FlopCounterMode(display=False, custom_mapping=in_place) as counted:
        global_gradient(load_model(base)[1], store, objective)
    shape = shape_of(base, objective)
    tokens, supervised = int(store.lengths.sum()), int(store.targets.sum())
    expected = step_flops(shape, tokens, supervised, frozen_body=False)
    assert expected == pytest.approx(counted.get_total_flops() - trials.get_total_flops(), rel=0.02)
    assert bound(shape, tokens, supervised) == pytest.approx(expected / supervised)


def test_a_body_under_adapters_forms_no_gradient_of_its_weights(tmp_path: Path, make_objective: Any) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = Adapter(kind="lora", rank=2)
    base = write_config(tmp_path, small_llama(num_hidden_layers=6, hidden_size=64))
    shape = shape_of(base, make_objective(adapter=adapter))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=list(adapter.targets), task_type="CAUSAL_LM"))
    ids = torch.arange(40).reshape(1, 40)
    with FlopCounterMode(display=False) as counted:
        wrapped(ids, use_cache=False).logits.sum().backward()
    # the first layer's input needs no gradient: a part of a layer in six
    assert step_flops(shape, 40, 40, frozen_body=True) == pytest.approx(counted.get_total_flops(), rel=0.06)
    assert step_flops(shape, 40, 40, frozen_body=False) > 1.3 * counted.get_total_flops()


def test_the_reference_costs_a_forward_pass() -> None:
    plain = step_flops(LLAMA_8B, 1000, 300, frozen_body=False)
    with_kl = step_flops(LLAMA_8B, 1000, 300, frozen_body=False, kl_tokens=500, kl_supervised=100)
    assert with_kl - plain == 2 * (LLAMA_8B.body * 500 + LLAMA_8B.head * 100)


def test_savings_are_those_of_the_published_ratios() -> None:
    """Llama-3.1-8B, real over padded 0.6, supervised over real 0.3: 1.75; 0.4 and 0.34: 2.6."""
    assert saving(LLAMA_8B, 1000, 600, 180) == pytest.approx(1.75, abs=0.01)
    assert saving(LLAMA_8B, 1000, 400, 136) == pytest.approx(2.6, abs=0.05)


def test_attention_grows_with_the_square_of_each_document_not_of_the_row() -> None:
    assert attention_flops(LLAMA_8B, [2000]) == 2 * attention_flops(LLAMA_8B, [1000, 1000])
    # 4 products of 2 * n * n * width forward and backward each, halved by the causal mask
    assert attention_flops(LLAMA_8B, [1000]) == 12 * 32 * 4096 * 1000 * 1000 / 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("widths", [(64, 128, 4, 4, 16), (128, 256, 8, 2, 32)])
def test_activations_are_what_a_step_really_keeps(
    tmp_path: Path, make_objective: Any, precision: str, widths: tuple[int, int, int, int, int]
) -> None:
    hidden, inner, heads, kv, head_dim = widths
    config = small_llama(
        hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads, num_key_value_heads=kv,
        head_dim=head_dim, num_hidden_layers=4,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # the tensors stay alive, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        model.model(torch.zeros(1, 256, dtype=torch.long), use_cache=False)
    seen = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    shape = shape_of(write_config(tmp_path, config), make_objective())
    said = memory(shape, make_objective(precision=precision), micro_tokens=256)
    copies = 2 * shape.body if precision == "bfloat16" else 0  # autocast's, counted with the weights
    assert said.activations + copies == pytest.approx(seen, rel=0.1)


@pytest.mark.parametrize(("precision", "checkpointing"), [("float32", False), ("bfloat16", False), ("float32", True)])
def test_memory_is_what_a_step_takes(tmp_path: Path, make_objective: Any, precision: str, checkpointing: bool) -> None:
    """Torch's own tracker, over two steps through the loss, on a CPU: every tensor that lives at the peak."""
    from torch.distributed._tools.mem_tracker import MemTracker

    config = small_llama(
        vocab_size=4000, hidden_size=128, intermediate_size=384, num_hidden_layers=4, head_dim=32
    )  # fmt: skip
    objective = make_objective(precision=precision, gradient_checkpointing=checkpointing)
    model = LlamaForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    rows, length = 4, 256
    targets = torch.arange(rows * (length - 1)).reshape(rows, -1) % 2 == 0
    count = int(targets.sum())
    batch = MicroBatch(
        ids=torch.randint(0, 4000, (rows, length)), targets=targets, weights=torch.ones(count),
        kl=torch.zeros(count, dtype=torch.bool), slices=torch.zeros(count, dtype=torch.long), tokens=rows * length,
    )  # fmt: skip
    root = WeightedLoss(model, objective, slices=1)
    tracker = MemTracker()
    tracker.track_external(model, optimiser)
    with tracker:
        for _ in range(2):
            tracker.reset_mod_stats()
            root(batch)[0].backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=False)
    [peak] = tracker.get_tracker_snapshot("peak").values()
    said = memory(
        shape_of(write_config(tmp_path, config), objective),
        objective,
        micro_tokens=rows * length,
        micro_supervised=count,
    )
    assert said.total == pytest.approx(peak["Total"], rel=0.2)


def test_memory_adds_up_and_shrinks_where_it_should(make_objective: Any) -> None:
    plain = memory(LLAMA_8B, make_objective(), micro_tokens=4096)
    assert (plain.weights, plain.gradients, plain.optimiser) == tuple(n * LLAMA_8B.parameters for n in (4, 4, 8))
    assert plain.reference == 0
    assert plain.total == plain.weights + plain.gradients + plain.optimiser + plain.activations + plain.logits
    chunk = plain.logits - 8 * LLAMA_8B.head  # the head's gradient, twice
    assert chunk == pytest.approx(12 * 2**24, rel=0.01)  # all 4,096 rows of 128,256 would be thirty times that
    checkpointed = memory(LLAMA_8B, make_objective(gradient_checkpointing=True), micro_tokens=4096)
    assert checkpointed.activations < plain.activations / 10
    sharded = memory(LLAMA_8B, make_objective(), micro_tokens=4096, workers=8, sharded=True)
    assert sharded.optimiser == plain.optimiser // 8
    assert plain.weights / 8 < sharded.weights < plain.weights / 6  # and one gathered layer
    with_kl = memory(LLAMA_8B, make_objective(kl=KlTerm(weight=0.1, slices=("replay",))), micro_tokens=4096)
    assert with_kl.reference == 4 * LLAMA_8B.parameters


def test_four_bit_weights_are_only_those_that_the_adapter_names(tmp_path: Path, make_objective: Any) -> None:
    base = write_config(tmp_path, small_llama())
    lora, qlora = (make_objective(adapter=Adapter(kind=kind, rank=2)) for kind in ("lora", "qlora"))
    shape = shape_of(base, lora)
    less = memory(shape, lora, micro_tokens=64).weights - memory(shape, qlora, micro_tokens=64).weights
    assert less == pytest.approx(shape.adapted * (4 - 4.127 / 8), abs=1)


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA B200", "bfloat16", 2250.0),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "tfloat32", 156.0),
        ("NVIDIA A100 80GB PCIe", "float32", 19.5),
        ("NVIDIA A10", "bfloat16", 125.0),
        ("NVIDIA L40S", "bfloat16", 362.0),
        ("NVIDIA L4", "bfloat16", 121.0),
        ("Tesla T4", "float32", 8.1),
        ("Tesla V100-PCIE-16GB", "float32", 14.0),
    ],
)
def test_the_peak_of_a_known_device_is_its_dense_one(name: str, precision: Any, teraflops: float) -> None:
    assert peak_flops(name, precision) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("cpu", "float32"),
        ("NVIDIA A10G", "bfloat16"),
        ("NVIDIA L40", "bfloat16"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16"),
        ("Tesla T4", "bfloat16"),
    ],
)
def test_a_peak_that_is_not_known_is_not_guessed(name: str, precision: Any) -> None:
    assert peak_flops(name, precision) is None
