"""A local policy answers the same whatever it is batched with, and scores what it says."""

import math
from pathlib import Path

import pytest
import torch

from plumbline.errors import PlumblineError
from plumbline.policies.files import MANIFEST, manifest_of, write_durably, write_manifest
from plumbline.policies.local import LocalPolicy, load_model, logits_at, treats_logits
from plumbline.policies.template import with_answer
from plumbline.records import DecoderSettings, Message, say

PROMPTS = [(say("user", text),) for text in ("who is ana ?", "who ?", "ana", "héllo wörld", "who is ben ?")]
SHORT = DecoderSettings(max_tokens=8)


@pytest.fixture(scope="module")
def policy(tiny_policy: Path) -> LocalPolicy:
    return LocalPolicy.load(tiny_policy)


def test_batching_never_changes_an_answer(policy: LocalPolicy) -> None:
    together = policy.generate(PROMPTS * 3, SHORT)
    alone = [policy.generate([prompt], SHORT)[0] for prompt in PROMPTS]
    assert together == alone * 3


def test_greedy_decoding_equals_transformers_generate(policy: LocalPolicy) -> None:
    ids = torch.tensor(policy.template.prompt_ids(PROMPTS[:1]))
    wanted = policy.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    text = policy.tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)
    assert policy.generate(PROMPTS[:1], SHORT)[0].text == text


def test_sampling_depends_on_the_seed_and_not_on_the_neighbours(policy: LocalPolicy) -> None:
    hot = DecoderSettings(max_tokens=8, temperature=1.5, seed=3)
    alone = policy.generate(PROMPTS[:1], hot)[0]
    assert policy.generate(PROMPTS, hot)[0] == alone
    others = {policy.generate(PROMPTS[:1], hot.model_copy(update={"seed": s}))[0].text for s in range(8)}
    assert len(others) > 1


def test_a_stream_joined_is_the_answer(policy: LocalPolicy) -> None:
    for prompt in PROMPTS:
        assert "".join(policy.stream(prompt, SHORT)) == policy.generate([prompt], SHORT)[0].text


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(policy: LocalPolicy) -> None:
    whole = policy.generate(PROMPTS[:1], SHORT)[0].text
    stop = whole[2:4]
    cut = policy.generate(PROMPTS[:1], SHORT.model_copy(update={"stop": (stop,)}))[0]
    assert cut.text == whole[: whole.find(stop)] and cut.finish == "stop"
    assert "".join(policy.stream(PROMPTS[0], SHORT.model_copy(update={"stop": (stop,)}))) == cut.text


def test_log_likelihood_is_the_sum_over_the_answers_tokens(policy: LocalPolicy) -> None:
    pairs = [(prompt, answer) for prompt in PROMPTS for answer in ("ana .", "a baker . ana is")]
    scores = policy.log_likelihood(pairs)
    for (prompt, answer), score in zip(pairs, scores, strict=True):
        encoded = policy.template.encode([with_answer(prompt, answer)])[0][0]
        with torch.no_grad():
            logp = policy.model(torch.tensor([encoded.ids])).logits[0].float().log_softmax(-1)
        places = [i for i, wanted in enumerate(encoded.content) if wanted]
        total = sum(float(logp[i - 1, encoded.ids[i]]) for i in places)
        assert score.total == pytest.approx(total, abs=1e-4)
        assert score.tokens == len(places) and score.bytes == len(answer.encode())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "cohere"])
def test_selected_logits_are_the_models_own_whatever_it_does_to_them(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50, "pad_token_id": 0}
    if kind == "granite":
        more["logits_scaling"] = 8.0
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more)).eval()
    ids = torch.randint(1, 50, (2, 9))
    wanted = torch.rand(2, 8) > 0.5
    with torch.no_grad():
        seen = logits_at(model, ids, wanted, treated=treats_logits(model))
        assert torch.allclose(seen, model(ids).logits[:, :-1][wanted], atol=1e-5)
    assert treats_logits(model) == (kind != "llama")


def test_a_treatment_that_no_configuration_names_is_found_by_trying(tiny_policy: Path) -> None:
    model = load_model(tiny_policy)[1]
    assert not treats_logits(model)
    model.register_forward_hook(lambda module, args, out: setattr(out, "logits", out.logits * 0.5) or out)
    assert treats_logits(model)


def test_a_model_that_looks_ahead_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(vocab_size=50, initializer_range=0.5, **sizes))
    with pytest.raises(PlumblineError, match="not a causal language model"):
        treats_logits(model)


def test_a_prompt_too_long_is_cut_from_the_left_and_counted(policy: LocalPolicy) -> None:
    before = policy.truncated_prompts
    assert len(policy.generate([(say("user", "x " * 400),)], SHORT)) == 1
    assert policy.truncated_prompts == before + 1


def test_an_unreadable_policy_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlumblineError, match="config.json or"):
        LocalPolicy.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not a policy")
    with pytest.raises(PlumblineError, match="cannot be read"):
        LocalPolicy.load(tmp_path)
    with pytest.raises(PlumblineError, match="no directory and the hub does not give it"):
        LocalPolicy.load("nobody/nothing-here")


def test_weights_that_are_not_the_manifests_are_refused(tmp_path: Path, tiny_policy: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_policy.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = manifest_of(copy, LocalPolicy.load(copy).template.digest)
    write_manifest(copy, manifest)
    assert LocalPolicy.load(copy).manifest == manifest
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(PlumblineError, match="weights .* not those of its manifest"):
        LocalPolicy.load(copy)
    (copy / MANIFEST).write_text("{")
    with pytest.raises(PlumblineError, match="not a policy manifest"):
        LocalPolicy.load(copy)


def test_a_device_or_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(PlumblineError, match="is no ordinary file"):
            write_durably(place, b"text")
    assert Path("/dev/null").is_char_device()


def ragged(n: int) -> list[tuple[Message, ...]]:
    return [(say("user", "ana is a baker . who ? " * (1 + i * 7 % 13) + str(i)),) for i in range(n)]


def test_neighbours_do_not_change_a_bit_of_a_score(policy: LocalPolicy) -> None:
    pairs = [(prompt, answer) for prompt in ragged(12) for answer in ("a", "a baker .", "ana is a baker .")]
    together = policy.log_likelihood(pairs)
    items = [pairs[start : start + 3] for start in range(0, len(pairs), 3)]
    assert [score for item in items for score in policy.log_likelihood(item)] == together
    turned = policy.log_likelihood([pair for item in items[::-1] for pair in item])
    assert [score for start in range(0, len(pairs), 3)[::-1] for score in turned[start : start + 3]] == together
    assert policy.log_likelihood(pairs[6:21]) == together[6:21]
    other = (say("user", pairs[0][0][0].content),)
    twice = [*pairs[:3], *[(other, answer) for _, answer in pairs[:3]]]
    assert policy.log_likelihood(twice)[:3] == together[:3], "another item with the same question is a neighbour"


def test_choices_in_one_row_score_as_each_in_its_own(policy: LocalPolicy) -> None:
    from plumbline.policies import scoring

    assert policy._branching
    pairs = [(prompt, answer) for prompt in ragged(8) for answer in ("a", "a baker .", "héllo wörld .")]
    rows = [row for [row] in policy.template.encode([with_answer(*pair) for pair in pairs], turns="last")]
    asked = [scoring.Scored(tuple(row.ids[: row.stop.index(True)]), row.content.index(True)) for row in rows]
    plain = scoring.score(policy.model, asked, treated=False, branching=False)
    assert [score.total for score in policy.log_likelihood(pairs)] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_slots_are_refilled_and_answers_stay_what_they_are_alone(
    policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    from plumbline.policies import decoding

    decoder = DecoderSettings(max_tokens=24, temperature=temperature, seed=5)
    prompts = ragged(40)
    assert policy._shapes is not None
    many = policy.generate(prompts, decoder)
    monkeypatch.setitem(decoding.SLOTS, "cpu", 16)
    assert policy.generate(prompts, decoder) == many
    assert [policy.generate([prompt], decoder)[0] for prompt in prompts[::5]] == many[::5]
    monkeypatch.setattr(policy, "_shapes", None)
    assert policy.generate(prompts, decoder) == many, "by equal length, the texts are the same"


def test_a_window_of_attention_is_seen_and_answers_take_turns_by_length(tiny_policy: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    template = LocalPolicy.load(tiny_policy).template
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "vocab_size": len(template.tokenizer), "sliding_window": 8}
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(initializer_range=0.5, eos_token_id=1, **sizes, **more))
    policy = LocalPolicy(model, template, LocalPolicy.load(tiny_policy).manifest)
    assert not policy._branching and policy._shapes is None
    prompts = ragged(6)
    answers = policy.generate(prompts, SHORT)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor(policy.template.prompt_ids([prompt]))
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert answer.text == policy._text(wanted[0, ids.shape[1] :].tolist())


def test_an_answer_too_long_has_no_score_and_a_prompt_too_long_is_cut(policy: LocalPolicy) -> None:
    before = policy.truncated_prompts
    prompt = (say("user", "x " * 400),)
    long, short = policy.log_likelihood([(prompt, "y " * 400), (prompt, "ana")])
    assert math.isnan(long.total) and math.isfinite(short.total)
    assert policy.truncated_prompts == before + 2


def test_an_adapter_alone_is_refused_with_the_command_that_merges_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PlumblineError, match="adapter alone") as refused:
        LocalPolicy.load(tmp_path)
    assert "plumb export JOB --out DIR --form merged" in refused.value.remedy
