"""Every bundled family: what it teaches, token for token, on whatever is said."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import KINDS, family_template, family_tokenizer, save_family_tokenizer
from plumbline.errors import PlumblineError
from plumbline.policies.families import FAMILIES, family, family_tokens
from plumbline.policies.local import load_template
from plumbline.policies.template import ChatTemplate, Encoded
from plumbline.records import Conversation, as_dicts, digest_bytes, say

SYSTEM = [name for name in FAMILIES if name != "gemma"]
# Exact but for what is markup to some family, and for the character by which SentencePiece writes a space.
SAID = st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="<|>[]▁"), max_size=12)
SPACED = st.tuples(
    st.sampled_from(["", " ", "\n", "\n\n ", "\t", "\N{NO-BREAK SPACE}"]), SAID, st.sampled_from(["", " ", "\n "])
)
CONTENT = st.one_of(SAID, SPACED.map("".join))
THOUGHT = "<think>\n\n</think>\n\n"

DIALOGUE = (
    say("user", "who is ana ?"),
    say("assistant", "ana is a baker ."),
    say("user", "ünï 猫"),
    say("assistant", "no 🙂"),
)
WITH_SYSTEM = (say("system", "notes : one two"), *DIALOGUE)
WITH_TOOL = (
    say("user", "who is ana ?"), say("assistant", "asking"), say("tool", '{"ana": "baker"}'),
    say("assistant", "a baker ."), say("user", "and five ?"), say("assistant", "no"),
)  # fmt: skip


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    return {name: family_template(name) for name in FAMILIES}


def picked(template: ChatTemplate, row: Encoded, mask: list[bool]) -> str:
    return str(template.tokenizer.decode([i for i, wanted in zip(row.ids, mask, strict=True) if wanted]))


def learnt(template: ChatTemplate, messages: Conversation) -> str:
    return "".join(picked(template, row, row.supervised) for row in template.encode([messages])[0])


def bare(text: str) -> str:
    return "".join(text.split())


def answers(messages: Conversation) -> list[int]:
    return [index for index, message in enumerate(messages) if message.role == "assistant"]


def runs(row: Encoded) -> list[int]:
    """Where each supervised answer of a row begins."""
    before = zip([False, *row.supervised], [False, *row.stop], strict=False)
    return [
        i for i, (was, stopped) in enumerate(before) if i < len(row.ids) and row.supervised[i] and (not was or stopped)
    ]


def expected(name: str, template: ChatTemplate, content: str) -> str:
    """What the family makes of an answer, its end-of-turn token included."""
    [stop] = template.stop_ids
    if name in ("llama-3", "gemma", "mistral-instruct"):
        content = content.strip()
    if name == "qwen-thinking":
        content = THOUGHT + content.lstrip("\n")
    return (" " if name == "mistral-instruct" else "") + content + str(template.tokenizer.decode([stop]))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_passes_its_own_check_and_names_its_stop_token(name: str, templates: dict[str, ChatTemplate]) -> None:
    templates[name].check()
    [stop] = templates[name].stop_ids
    wanted = {"llama-3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral-instruct": "</s>", "plain": "<|endoftext|>"}
    assert templates[name].tokenizer.convert_ids_to_tokens(stop) == wanted.get(name, "<|im_end|>")


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3))
def test_every_answer_and_its_end_is_learnt_after_the_ids_that_serving_asks_with(
    name: str, templates: dict[str, ChatTemplate], turns: list[tuple[str, str]]
) -> None:
    template = templates[name]
    messages = tuple(m for asked, said in turns for m in (say("user", asked), say("assistant", said)))
    rows = template.encode([messages])[0]
    read = "".join(picked(template, row, row.supervised) for row in rows)
    wanted = "".join(expected(name, template, said) for _, said in turns)
    # SentencePiece's decoder drops the space that a text begins with, so there only the rest is compared.
    assert (bare(read) == bare(wanted)) if name == "mistral-instruct" else (read == wanted)
    assert sum(sum(row.stop) for row in rows) == len(turns) and not any(row.ignored for row in rows)
    starts = [(row, start) for row in rows for start in runs(row)]
    for index, (row, start) in zip(answers(messages), starts, strict=True):
        assert row.ids[:start] == template.prompt_ids([messages[:index]])[0]
    [last] = template.encode([messages], turns="last")[0]
    assert last.ids == rows[-1].ids and runs(last) == runs(rows[-1])[-1:]
    assert sum(last.supervised) + last.ignored == sum(sum(row.supervised) for row in rows)


@pytest.mark.parametrize("conversation", [DIALOGUE, WITH_SYSTEM, WITH_TOOL], ids=["dialogue", "system", "tool"])
@pytest.mark.parametrize("name", FAMILIES)
def test_system_user_and_tool_turns_are_never_learnt(
    name: str, conversation: Conversation, templates: dict[str, ChatTemplate]
) -> None:
    template = templates[name]
    if name == "gemma" and conversation is not DIALOGUE:
        return
    wanted = "".join(expected(name, template, conversation[i].content) for i in answers(conversation))
    assert bare(learnt(template, conversation)) == bare(wanted)
    contents = [picked(template, row, row.content) for row in template.encode([conversation])[0]]
    assert bare("".join(contents)) == bare("".join(conversation[i].content for i in answers(conversation)))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "plain"])
def test_rows_are_what_the_tokenizer_makes_of_the_conversation_with_one_bos(
    name: str, templates: dict[str, ChatTemplate]
) -> None:
    template = templates[name]
    conversations = [DIALOGUE] if name == "gemma" else [DIALOGUE, WITH_SYSTEM, WITH_TOOL]
    for conversation, rows in zip(conversations, template.encode(conversations), strict=True):
        ends = [index + 1 for index in answers(conversation)][-len(rows) :]
        for end, row in zip(ends, rows, strict=True):
            whole = template.tokenizer.apply_chat_template(as_dicts(conversation[:end]), tokenize=True)["input_ids"]
            assert row.ids == whole
            if template.tokenizer.bos_token_id is not None:
                assert (
                    row.ids.count(template.tokenizer.bos_token_id) == 1
                    and row.ids[0] == template.tokenizer.bos_token_id
                )


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_with_the_end_of_text_token_changes_no_target(name: str, templates: dict[str, ChatTemplate]) -> None:
    shared = family_template(name, pad_is_eos=True)
    assert shared.tokenizer.pad_token_id == shared.tokenizer.eos_token_id
    assert shared.encode([DIALOGUE]) == templates[name].encode([DIALOGUE])


def test_the_mask_is_the_one_that_generation_markers_give(templates: dict[str, ChatTemplate]) -> None:
    template = templates["generation"]
    for conversation in (DIALOGUE, WITH_SYSTEM, WITH_TOOL):
        theirs = template.tokenizer.apply_chat_template(
            as_dicts(conversation), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        [ours] = template.encode([conversation])[0]
        assert [int(wanted) for wanted in ours.supervised] == theirs["assistant_masks"]


def test_a_thinking_policy_learns_each_answer_in_the_context_that_it_will_see(
    templates: dict[str, ChatTemplate],
) -> None:
    template = templates["qwen-thinking"]
    thoughtful = (
        say("user", "one"), say("assistant", "<think>\nhm\n</think>\n\ntwo"), say("user", "three"),
        say("assistant", "<think>four</think>five"), say("user", "six"), say("assistant", "no"),
    )  # fmt: skip
    rows = template.encode([thoughtful])[0]
    assert [picked(template, row, row.supervised) for row in rows] == [
        "<think>\nhm\n</think>\n\ntwo<|im_end|>", "<think>\nfour\n</think>\n\nfive<|im_end|>", THOUGHT + "no<|im_end|>",
    ]  # fmt: skip
    for row in rows:
        text = template.tokenizer.decode(row.ids)
        assert text.count("<think>") == text.count("</think>") == 1 and sum(row.stop) == 1
    assert "hm" not in template.tokenizer.decode(rows[1].ids)
    assert [picked(template, row, row.content) for row in rows][1:] == ["<think>\nfour\n</think>\n\nfive", "no"]


def test_a_conversation_without_history_to_rewrite_is_one_row(templates: dict[str, ChatTemplate]) -> None:
    for name in FAMILIES:
        assert len(templates[name].encode([DIALOGUE[:2]])[0]) == 1
    counts = {name: len(templates[name].encode([WITH_SYSTEM])[0]) for name in SYSTEM}
    # Mistral moves the system text to the last user turn; `plain` ends its prompt with a space that joins the answer.
    assert {name for name, rows in counts.items() if rows > 1} == {"mistral-instruct", "plain", "qwen-thinking"}


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_family_without_a_role_says_so_and_what_to_do(role: Any, templates: dict[str, ChatTemplate]) -> None:
    conversation = WITH_SYSTEM if role == "system" else WITH_TOOL
    with pytest.raises(PlumblineError, match=f"'gemma' cannot render a {role} turn") as caught:
        templates["gemma"].encode([conversation])
    assert "use a template that has this role" in caught.value.remedy


@pytest.mark.parametrize("name", [name for name in FAMILIES if family_tokens(name)])
def test_a_tokenizer_without_the_familys_tokens_is_refused_until_they_are_added(name: str, tmp_path: Path) -> None:
    tokenizer = family_tokenizer(name, special=False)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PlumblineError, match="unknown to the tokenizer") as caught:
        load_template(tmp_path, family(name)).check()
    assert "added_tokens" in caught.value.remedy and all(token in caught.value.fact for token in family_tokens(name))
    template = load_template(tmp_path, family(name), family_tokens(name))
    template.check()
    # The order of those that are new is the order given; those that were there keep their ids.
    assert len(template.tokenizer) == len(tokenizer) + len(family_tokens(name))
    ids = template.tokenizer.convert_tokens_to_ids(list(family_tokens(name)))
    assert ids == sorted(ids) and ids[0] == len(tokenizer)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_template_is_the_one_used_byte_for_byte(name: str, tmp_path: Path) -> None:
    save_family_tokenizer(tmp_path, name)
    assert (tmp_path / "chat_template.jinja").read_bytes() == family(name).encode()
    loaded = load_template(tmp_path)
    assert loaded.text == family(name) and loaded.digest == digest_bytes(family(name).encode())
    assert loaded.encode([DIALOGUE]) == family_template(name).encode([DIALOGUE])


def test_an_unknown_family_is_answered_with_the_names_there_are() -> None:
    assert set(KINDS) == set(FAMILIES)
    for ask in (family, family_tokens):
        with pytest.raises(PlumblineError, match="no template family 'alpaca'") as caught:
            ask("alpaca")
        assert all(name in caught.value.remedy for name in FAMILIES)
