"""Every token is accounted for: kept, cut, split or dropped; answers are never cut in silence."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_template
from plumbline.policies.template import Encoded
from plumbline.records import Example, Truncation, say
from plumbline.training.job import prepare_job
from plumbline.training.prepare import ledger_lines, prepare, split
from training_helpers import make_examples


@st.composite
def encoded(draw: st.DrawFn) -> Encoded:
    """A row of prompts and answers in turn; every answer ends with its stop token."""
    supervised, stop = [False] * draw(st.integers(1, 30)), [False]
    stop = [False] * len(supervised)
    for _ in range(draw(st.integers(1, 4))):
        answer = draw(st.integers(1, 40))
        supervised += [True] * answer
        stop += [False] * (answer - 1) + [True]
        gap = draw(st.integers(1, 12))
        supervised += [False] * gap
        stop += [False] * gap
    ids = list(range(len(supervised)))
    content = [s and not e for s, e in zip(supervised, stop, strict=True)]
    return Encoded(ids, supervised, content, stop, 0)


@given(encoded(), st.integers(8, 64))
def test_split_trains_every_supervised_token_once_within_the_limit(row: Encoded, size: int) -> None:
    parts, lost = split(row, size)
    targets = [i for part in parts for i, target in zip(part.ids, part.supervised, strict=True) if target]
    assert targets == [i for i, target in zip(row.ids, row.supervised, strict=True) if target]
    assert all(len(part.ids) <= size for part in parts)
    assert all(not part.supervised[0] for part in parts), "the first token of a row cannot be predicted"
    carried = {i for part in parts for i in part.ids}
    assert lost == len(row.ids) - len(carried)
    stops = [i for part in parts for i, mark in zip(part.ids, part.stop, strict=True) if mark]
    assert stops == [i for i, mark in zip(row.ids, row.stop, strict=True) if mark], "each stop once, none invented"


@given(encoded(), st.integers(16, 64))
def test_split_never_cuts_an_answer_that_fits_in_half_a_row(row: Encoded, size: int) -> None:
    parts, _ = split(row, size)
    homes = {i: n for n, part in enumerate(parts) for i, t in zip(part.ids, part.supervised, strict=True) if t}
    start = None
    for i in range(len(row.ids)):
        if row.supervised[i] and (i == 0 or not row.supervised[i - 1]):
            start = i
        if row.stop[i] and start is not None and i + 1 - start <= size // 2:
            assert len({homes[j] for j in range(start, i + 1)}) == 1


def long_ones() -> list[Example]:
    examples = make_examples(20)
    wordy = examples[0].model_copy(update={"messages": (say("user", "ana " * 150), say("assistant", "ana ."))})
    endless = examples[1].model_copy(update={"messages": (say("user", "who ?"), say("assistant", "ana " * 300))})
    return [*examples, wordy, endless]


def test_an_answer_is_never_cut_and_every_cut_is_counted(tiny_policy: Path) -> None:
    template = load_template(tiny_policy)
    cut = Truncation(max_tokens=128, policy="truncate_prompt_left", max_share=0.2)
    prepared = prepare(long_ones(), template, cut, {})
    total = prepared.ledger["all"]
    assert (total.truncated, total.dropped, total.examples) == (1, 1, 21)
    assert prepared.kept == tuple(range(21))
    assert prepared.store.lengths.max() <= 128
    fates = [mask.fate for mask in prepared.examples]
    assert fates == ["kept"] * 20 + ["truncated", "dropped"]
    whole = sum(len(row.ids) for rows in template.encode([e.messages for e in long_ones()]) for row in rows)
    assert total.prompt_tokens + total.supervised_tokens + total.truncated_tokens == whole, (
        "no token is unaccounted for"
    )


def test_split_keeps_what_drop_leaves_out(tiny_policy: Path) -> None:
    template = load_template(tiny_policy)
    dropped = prepare(long_ones(), template, Truncation(max_tokens=128, max_share=0.2), {})
    parts = prepare(long_ones(), template, Truncation(max_tokens=128, policy="split", max_share=0.2), {})
    assert (dropped.ledger["all"].dropped, parts.ledger["all"].dropped, parts.ledger["all"].split) == (2, 0, 2)
    assert parts.ledger["all"].stop_supervised == 22 and parts.ledger["all"].rows > 22
    assert parts.store.lengths.max() <= 128


def test_more_than_the_objective_allows_is_refused_or_told(tiny_policy: Path) -> None:
    strict = Truncation(max_tokens=128, policy="truncate_prompt_left", max_share=0.01)
    with pytest.raises(PlumblineError, match="2 of 22 examples are longer than 128 tokens"):
        prepare(long_ones(), load_template(tiny_policy), strict, {})
    told = prepare(long_ones(), load_template(tiny_policy), strict, {}, refuse=False)
    assert told.refusal is not None and "2 of 22" in str(told.refusal)
    hopeless = Truncation(max_tokens=8, max_share=1.0)
    with pytest.raises(PlumblineError, match="no example is left"):
        prepare(make_examples(3), load_template(tiny_policy), hopeless, {})


def test_only_the_last_turn_is_trained_where_the_mask_says_so(tiny_policy: Path) -> None:
    turns = (say("user", "who is ana ?"), say("assistant", "ana is a baker ."))
    talk = make_examples(1)[0].model_copy(
        update={"messages": (*turns, say("user", "sure ?"), say("assistant", "yes ."))}
    )
    both = prepare([talk], load_template(tiny_policy), Truncation(), {}).ledger["all"]
    last = prepare([talk], load_template(tiny_policy), Truncation(), {}, turns="last").ledger["all"]
    assert (both.stop_supervised, last.stop_supervised) == (2, 1)
    assert both.supervised_tokens == last.supervised_tokens + last.ignored_tokens
    assert both.ignored_tokens == 0
    assert both.prompt_tokens + both.supervised_tokens == last.prompt_tokens + last.supervised_tokens


def test_the_ledger_counts_what_the_loss_sees(tiny_policy: Path) -> None:
    prepared = prepare(make_examples(30), load_template(tiny_policy), Truncation(), {"refusals": 3.0})
    rows = prepared.ledger
    assert rows["all"].examples == 30 == rows["facts"].examples + rows["refusals"].examples
    assert rows["all"].supervised_tokens == int(prepared.store.targets.sum())
    assert rows["all"].stop_supervised == 30
    assert rows["facts"].loss_share + rows["refusals"].loss_share == pytest.approx(1.0, abs=1e-5)
    assert rows["refusals"].loss_share > rows["refusals"].supervised_tokens / rows["all"].supervised_tokens
    lines = [json.loads(line) for line in ledger_lines(prepared.examples)]
    assert sum(line["supervised"] for line in lines) == rows["all"].supervised_tokens


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"slice_weights": {"refusal": 2.0}}, "slice_weights names refusal"),
        ({"kl": {"weight": 1.0, "slices": ("factz",)}}, "kl.slices names factz"),
        ({"slice_weights": {"facts": 0.0, "refusals": 0.0}}, "every slice the weight 0"),
        ({"slice_weights": {"facts": 0.0}, "kl": {"weight": 1.0, "slices": ("facts",)}}, "whose slice weight is 0"),
    ],
)
def test_slices_that_cannot_mean_what_they_say_are_refused(
    changes: dict[str, Any], fact: str, make_objective: Any, tiny_policy: Path, tmp_path: Path
) -> None:
    with pytest.raises(PlumblineError, match=fact):
        job(make_objective(**changes), tiny_policy, tmp_path)


def test_a_row_longer_than_the_policys_positions_is_refused(
    make_objective: Any, tiny_policy: Path, tmp_path: Path
) -> None:
    objective = make_objective(truncation=Truncation(max_tokens=4000, max_share=0.2), slice_weights={})
    with pytest.raises(PlumblineError, match="the base policy has 256 positions"):
        job(objective, tiny_policy, tmp_path, long_ones())


def test_a_label_outside_the_vocabulary_is_refused(make_objective: Any, tiny_policy: Path, tmp_path: Path) -> None:
    """A tokenizer that belongs to other weights: it knows a token more than the policy has rows."""
    template = load_template(tiny_policy)
    template.tokenizer.add_tokens(["baker"])
    with pytest.raises(PlumblineError, match="outside the base policy's vocabulary"):
        prepare_job(tmp_path / "job", make_objective(), make_examples(6), (), tiny_policy, template)


def test_the_order_of_training_follows_the_words_and_not_their_provenance(
    make_objective: Any, tiny_policy: Path, tmp_path: Path
) -> None:
    examples = make_examples(12)
    other = [
        e.model_copy(update={"provenance": e.provenance.model_copy(update={"filtered_by": ("another release",)})})
        for e in reversed(examples)
    ]
    one = job(make_objective(), tiny_policy, tmp_path / "one", examples)
    two = job(make_objective(), tiny_policy, tmp_path / "two", other)
    assert one.store.digest == two.store.digest
    lines = [json.loads(line) for line in (tmp_path / "one" / "mask_ledger.jsonl").read_text().splitlines()]
    assert sorted(line["example"] for line in lines) == list(range(12)), "places in the dataset version"
    assert all(line["slice"] == examples[line["example"]].slice for line in lines)


def job(objective: Any, base: Path, folder: Path, examples: list[Example] | None = None) -> Any:
    return prepare_job(folder, objective, examples or make_examples(12), (), base, load_template(base))
