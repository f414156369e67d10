"""What is supervised is exactly what the assistant said, and the end of its turn; what cannot be masked is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CHATML, make_tiny_policy

from families import family_tokenizer
from plumbline.errors import PlumblineError
from plumbline.policies.families import family
from plumbline.policies.files import manifest_of, write_manifest
from plumbline.policies.local import LocalPolicy, load_template
from plumbline.policies.template import ChatTemplate
from plumbline.records import Message, digest_bytes, say

WORDS = st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="<|>"), max_size=20)
TWO = (say("user", "who ?"), say("assistant", "ana ."), say("user", "who ?"), say("assistant", "a baker ."))


@pytest.fixture(scope="module")
def template(tiny_policy: Path) -> ChatTemplate:
    return load_template(tiny_policy)


def supervised_text(template: ChatTemplate, messages: tuple[Message, ...]) -> str:
    picked = [t for row in template.encode([messages])[0] for t, s in zip(row.ids, row.supervised, strict=True) if s]
    return str(template.tokenizer.decode(picked))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
def test_every_assistant_turn_and_its_end_is_supervised_and_nothing_else(
    template: ChatTemplate, turns: list[tuple[str, str]]
) -> None:
    messages = tuple(m for asked, said in turns for m in (say("user", asked), say("assistant", said)))
    assert supervised_text(template, messages) == "".join(said + "<|end|>" for _, said in turns)


def test_the_prompt_asked_at_serving_is_the_prefix_trained_on(template: ChatTemplate) -> None:
    prompt = (say("system", "notes : ana city rome ."), say("user", "who is ana ?"))
    asked = template.prompt_ids([prompt])[0]
    [row] = template.encode([(*prompt, say("assistant", "ana ."))])[0]
    assert row.ids[: len(asked)] == asked and not any(row.supervised[: len(asked)])


def test_the_last_turn_alone_can_be_supervised_and_the_others_tokens_are_counted(template: ChatTemplate) -> None:
    [every], [last] = template.encode([TWO])[0], template.encode([TWO], turns="last")[0]
    assert last.ids == every.ids and sum(last.stop) == 1
    assert [i for i, s in zip(last.ids, last.supervised, strict=True) if s] == [
        *template.tokenizer("a baker .")["input_ids"],
        *template.stop_ids,
    ]
    assert last.ignored == len(template.tokenizer("ana .")["input_ids"]) + 1 and every.ignored == 0


def test_a_conversation_without_an_answer_has_nothing_supervised(template: ChatTemplate) -> None:
    for turns in ("all", "last"):
        [row] = template.encode([TWO[:1]], turns=turns)[0]
        assert row.ids and not any(row.supervised) and not row.ignored
    assert template.encode([]) == []
    with pytest.raises(PlumblineError, match="begins with an assistant turn"):
        template.encode([TWO[1:]])


def test_a_policy_without_a_template_gets_the_plain_one_and_stops(tmp_path: Path) -> None:
    plain = load_template(make_tiny_policy(tmp_path / "plain", template=None))
    assert plain.text == plain.tokenizer.chat_template == family("plain")
    plain.check()
    assert supervised_text(plain, (say("user", "who ?"), say("assistant", "ana ."))) == "ana .<|end|>"
    assert plain.render(TWO[:2], ask=False) == "user: who ?\nassistant: ana .<|end|>\n"


def test_a_template_given_as_text_replaces_the_tokenizers_own(tiny_policy: Path, tmp_path: Path) -> None:
    text = CHATML.replace("<|assistant|>", "<|system|>\r\n")
    given = load_template(tiny_policy, text)
    assert given.digest == digest_bytes(text.replace("\r\n", "\n").encode()) != load_template(tiny_policy).digest
    given.tokenizer.save_pretrained(tmp_path)
    assert load_template(tmp_path).digest == given.digest


def test_of_several_named_templates_the_default_is_taken(tiny_policy: Path, template: ChatTemplate) -> None:
    tokenizer = load_template(tiny_policy).tokenizer
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ messages }}"}
    assert ChatTemplate(tokenizer).digest == template.digest


def test_an_answer_that_joins_its_prompts_last_token_is_trained_as_served(tmp_path: Path) -> None:
    """`assistant: ` and `ana` would be one token `Ġana`; the policy is asked with `Ġ` and must go on from there."""
    plain = load_template(make_tiny_policy(tmp_path / "plain", template=None))
    messages = (*TWO[:3], say("assistant", "ana is a baker ."))
    rows = plain.encode([messages])[0]
    assert len(rows) == 2
    for row, end in zip(rows, (1, 3), strict=True):
        asked = plain.prompt_ids([messages[:end]])[0]
        assert row.ids[: len(asked)] == asked and not any(row.supervised[: len(asked)]) and row.supervised[len(asked)]
        assert row.ids != plain.tokenizer(plain.render(messages[: end + 1], ask=False))["input_ids"]


ASSISTANT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
HEADERLESS = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for m in messages %}{{ m.content | upper }}<|end|>{% endfor %}", "changes the assistant's text"),
        ("{% for m in messages %}{{ loop.length }}{{ m.content }}<|end|>{% endfor %}", "is not how the finished turn"),
        (HEADERLESS, r"writes '<\|assistant\|>.* between its generation prompt and the answer"),
        ("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}", "writes '<|user|>"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "writes no end-of-turn token"),
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", r"'<\|im_end\|>' is no special token"),
        ("{% for m in messages %}{{ m.content }} BYE<|end|>{% endfor %}", "'BYE<|end|>' is no special token"),
        (
            "{% for m in messages %}{{ m.content }}{% if loop.last %}<|end|>{% endif %}{% if m.role == 'user' %}"
            "<|user|>{% endif %}{% endfor %}",
            "is not how the finished turn begins",
        ),
    ],
)
def test_a_template_that_cannot_be_masked_is_refused_by_name(tiny_policy: Path, source: str, why: str) -> None:
    template = load_template(tiny_policy, source)
    for refuses in (template.check, lambda: template.encode([TWO]), lambda: template.encode([TWO], turns="last")):
        with pytest.raises(PlumblineError, match=why) as caught:
            refuses()
        assert tiny_policy.name in caught.value.fact and caught.value.remedy


def test_every_trained_turn_needs_its_end_not_the_last_alone(tiny_policy: Path) -> None:
    """One that ends the final answer only: the earlier ones would teach the policy never to stop."""
    source = HEADERLESS.replace(
        "+ '<|end|>'", "+ ('' if m.role == 'assistant' and messages | length > 2 else '<|end|>')"
    )
    template = load_template(tiny_policy, source + ASSISTANT)
    assert len(template.encode([TWO[:2]])[0]) == 1
    with pytest.raises(PlumblineError, match="writes no end-of-turn token"):
        template.check()


def test_a_syntax_error_is_told_with_its_line(tiny_policy: Path) -> None:
    with pytest.raises(PlumblineError, match="syntax error in line 2"):
        load_template(tiny_policy, "{# words #}\n{% for m in messages %}{{ m.content }").check()
    with pytest.raises(PlumblineError, match="syntax error in line 1"):
        load_template(tiny_policy, "{% for m in messages %}{{ m.content }}").render(TWO, ask=False)


def test_a_template_that_refuses_a_conversation_is_quoted(tiny_policy: Path) -> None:
    source = "{% if messages | length > 2 %}{{ raise_exception('too long for me') }}{% endif %}" + CHATML
    template = load_template(tiny_policy, source)
    with pytest.raises(PlumblineError, match="cannot render a conversation: too long for me"):
        template.render((*TWO[:2], say("system", "notes"), say("user", "x")), ask=True)
    with pytest.raises(PlumblineError, match="too long for me"):
        template.check()


def test_a_second_beginning_of_text_is_refused() -> None:
    text = family("chatml").replace("'<|im_start|>", "bos_token + '<|im_start|>")
    tokenizer = family_tokenizer("chatml")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    with pytest.raises(PlumblineError, match="writes '<s>' 4 times"):
        ChatTemplate(tokenizer, "twice", text).check()


def test_one_special_token_that_would_be_split_among_others_is_refused(tiny_policy: Path) -> None:
    source = CHATML.replace("message.role", "message.role.replace('assistant', 'model')")
    source = source.replace("<|assistant|>", "<|model|>")
    with pytest.raises(PlumblineError, match=r"writes <\|model\|>, unknown to the tokenizer"):
        load_template(tiny_policy, source).check()
    load_template(tiny_policy, source, ("<|model|>",)).check()
    # Roles in words of ordinary tokens are a choice that some stock templates make (Zephyr).
    words = "{% for m in messages %}{{ '<|a ' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
    load_template(tiny_policy, words + "{% if add_generation_prompt %}<|a assistant|>{% endif %}").check()


def test_a_mask_that_is_off_by_one_token_does_not_pass_the_check(tiny_policy: Path) -> None:
    template = load_template(tiny_policy)
    template.check()
    exact = template._run
    template._run = lambda turn, start, ids, spans: exact(turn, start + 1, ids, spans)  # type: ignore[method-assign]
    with pytest.raises(PlumblineError, match="its mask reads .* where .* was said"):
        template.check()


def test_two_templates_on_one_tokenizer_each_write_their_own(tiny_policy: Path) -> None:
    first = load_template(tiny_policy)
    second = ChatTemplate(first.tokenizer, "second", family("plain"))
    assert first.render(TWO[:1], ask=False) == "<|user|>who ?<|end|>"
    assert second.render(TWO[:1], ask=False) == "user: who ?\n"


def test_white_space_is_content_though_the_tokenizer_trims_its_spans(tiny_policy: Path) -> None:
    """Llama 3's tokenizer gives a token of white space an empty span."""
    from tokenizers import processors

    template = load_template(tiny_policy)
    template.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    said = "  ana  is \n  "
    [row] = template.encode([(say("user", "who ?"), say("assistant", said))])[0]
    assert template.tokenizer.decode([i for i, c in zip(row.ids, row.content, strict=True) if c]) == said


def test_an_answer_tokenised_apart_is_not_given_a_texts_first_space() -> None:
    """SentencePiece-like tokenizers begin a text with a space: after `assistant: ` it would be a second one."""
    template = ChatTemplate(family_tokenizer("mistral-instruct"), "plain", family("plain"))
    messages = (say("user", "who ?"), say("assistant", "user: x"))
    [row] = template.encode([messages])[0]
    text = template.render(messages, ask=False)
    assert template.tokenizer.decode(row.ids) == text
    assert row.ids != template.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_thinking_begun_by_the_prompt_is_finished_by_the_policy(tiny_policy: Path) -> None:
    """As DeepSeek-R1 and Qwen3-Thinking ask: the generation prompt ends with `<think>`."""
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|><think>\n' + "
        "m.content.split('</think>')[0].split('<think>')[-1].strip() + '\n</think>\n\n' + "
        "m.content.split('</think>')[-1].strip() + '<|end|>' }}{% else %}{{ '<|user|>' + m.content + '<|end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
    )
    template = load_template(tiny_policy, source)
    thought = (say("user", "who ?"), say("assistant", "<think>hm</think>ana ."))
    assert supervised_text(template, thought) == "hm\n</think>\n\nana .<|end|>"
    dropped = load_template(tiny_policy, CHATML.replace("message.content", "message.content.split('</think>')[-1]"))
    dropped.encode([TWO])
    with pytest.raises(PlumblineError, match="changes the assistant's text"):
        dropped.encode([thought])


def test_a_system_text_that_serving_sees_and_training_does_not_is_refused(tiny_policy: Path) -> None:
    """As in Mistral's own template: the system text is written only where the last turn is the user's."""
    source = (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}"
        "{% if m.role == 'user' %}<|user|>{{ (system if loop.last else '') + m.content }}<|assistant|>"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    )
    template = load_template(tiny_policy, source)
    template.check()
    with pytest.raises(PlumblineError, match="is not how the finished turn begins"):
        template.encode([(say("system", "notes"), *TWO)])


def test_tokens_that_swallow_white_space_change_no_target(tiny_policy: Path) -> None:
    """As Phi 3's do: `<|user|>` and `<|end|>` take the line end that follows."""
    from transformers import AddedToken

    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    tokenizer = load_template(tiny_policy).tokenizer
    names = ("<|user|>", "<|assistant|>", "<|end|>")
    tokenizer.add_tokens(
        [AddedToken(n, rstrip=True, special=True, normalized=False) for n in names], special_tokens=True
    )
    template = ChatTemplate(tokenizer, "swallowing", source)
    template.check()
    [row] = template.encode([TWO])[0]
    assert row.ids == tokenizer(template.render(TWO, ask=False), add_special_tokens=False)["input_ids"]
    assert supervised_text(template, TWO).split("<|end|>")[:2] == ["ana .", "a baker ."]


def test_an_answer_is_scored_and_the_answers_before_it_are_not(tiny_policy: Path) -> None:
    policy = LocalPolicy.load(tiny_policy)
    prompt, answer = TWO[:3], "a baker ."
    asked = policy.template.prompt_ids([prompt])[0]
    said = policy.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logp = policy.model(torch.tensor([asked + said])).logits[0].float().log_softmax(-1)
    wanted = sum(float(logp[len(asked) + i - 1, token]) for i, token in enumerate(said))
    [score] = policy.log_likelihood([(prompt, answer)])
    assert score.tokens == len(said) and score.bytes == len(answer)
    assert score.total == pytest.approx(wanted, abs=1e-4)


def test_a_policy_whose_template_was_edited_is_not_loaded(tiny_policy: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_policy, tmp_path / "copy"))
    write_manifest(copy, manifest_of(copy, load_template(copy).digest))
    LocalPolicy.load(copy)
    file = copy / "chat_template.jinja"
    file.write_bytes(file.read_bytes() + b" ")
    assert json.loads((copy / "plumbline.json").read_text())["template"] != load_template(copy).digest
    with pytest.raises(PlumblineError, match="chat template .* is not the one that the policy's manifest names"):
        LocalPolicy.load(copy)
