"""What is supervised is exactly what the assistant said, and the end of its turn."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tiny_policy

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_template
from plumbline.policies.template import PLAIN_TEMPLATE, ChatTemplate
from plumbline.records import Message, say

WORDS = st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="<|>"), max_size=20)


@pytest.fixture(scope="module")
def template(tiny_policy: Path) -> ChatTemplate:
    return load_template(tiny_policy)


def supervised_text(template: ChatTemplate, messages: tuple[Message, ...]) -> str:
    encoded = template.encode([messages])[0]
    return str(template.tokenizer.decode([t for t, s in zip(encoded.ids, encoded.supervised, strict=True) if s]))


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
    assert template.encode([(*prompt, say("assistant", "ana ."))])[0].ids[: len(asked)] == asked


def test_a_policy_without_a_template_gets_the_plain_one_and_stops(tmp_path: Path) -> None:
    plain = load_template(make_tiny_policy(tmp_path / "plain", template=None))
    assert plain.tokenizer.chat_template == PLAIN_TEMPLATE
    assert supervised_text(plain, (say("user", "who ?"), say("assistant", "ana ."))) == "ana .<|end|>"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for m in messages %}{{ m.content | upper }}<|end|>{% endfor %}", "changes the assistant's text"),
        ("{% for m in messages %}{{ loop.length }}{{ m.content }}<|end|>{% endfor %}", "rewrites earlier turns"),
        ("{% for m in messages %}{{ m.content }}", "cannot render"),
    ],
)
def test_a_template_that_cannot_be_masked_is_refused_by_name(tiny_policy: Path, source: str, why: str) -> None:
    template = load_template(tiny_policy)
    template.tokenizer.chat_template = source
    with pytest.raises(PlumblineError, match=why):
        template.encode([(say("user", "who ?"), say("assistant", "ana."), say("user", "who ?"), say("assistant", "b"))])
