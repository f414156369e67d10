"""Public formats are read whole or refused with file and line; comparisons never become targets."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import import_dataset, load_version, read_examples, read_preferences
from plumbline.records import digest_of

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.exists(), reason="the real data beside the project is absent")


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_messages_keep_roles_and_turns(tmp_path: Path) -> None:
    turns = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"},
             {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"},
             {"role": "assistant", "content": "bye"}]  # fmt: skip
    (example,) = read_examples(write(tmp_path / "m.jsonl", {"messages": turns}), "messages", licence="MIT")
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert (example.provenance.origin, example.provenance.licence, example.consent) == ("import", "MIT", None)


@pytest.mark.parametrize("lines", [True, False])
def test_alpaca_is_read_as_array_or_lines(tmp_path: Path, lines: bool) -> None:
    rows = [
        {"instruction": "add", "input": "1 and 2", "output": "3"},
        {"instruction": "greet", "input": "", "output": "hi"},
    ]
    path = write(tmp_path / "a.json", *rows) if lines else write(tmp_path / "a.json", rows)
    first, second = read_examples(path, "alpaca", licence="CC-BY-4.0")
    assert (first.prompt[0].content, first.target) == ("add\n\n1 and 2", "3")
    assert second.prompt[0].content == "greet"


def test_self_instruct_gives_one_example_per_instance(tmp_path: Path) -> None:
    row = {"instruction": "say", "instances": [{"input": "a", "output": "1"}, {"input": "b", "output": "2"}],
           "is_classification": True}  # fmt: skip
    found = read_examples(write(tmp_path / "s.jsonl", row), "self-instruct", licence="Apache-2.0")
    assert [(example.target, example.slice) for example in found] == [("1", "classification"), ("2", "classification")]


@pytest.mark.parametrize(
    ("format", "line", "says"),
    [
        ("messages", "{", "not JSON"),
        ("messages", {"messages": [{"role": "user", "content": "hi"}]}, "must be the assistant's"),
        ("messages", {"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}, "role"),
        ("messages", {"text": "hi"}, "'messages' is missing"),
        (
            "messages",
            '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "y"}]}',
            "",
        ),
        ("alpaca", {"instruction": "add", "output": " "}, "a text is missing or empty"),
        ("alpaca", [1, 2], "not alpaca"),
        ("self-instruct", {"instruction": "say", "instances": []}, "`instances` is empty"),
        ("self-instruct", {"instruction": "say", "instances": [{"input": "x"}]}, "'output' is missing"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(tmp_path: Path, format: Any, line: Any, says: str) -> None:
    good = {
        "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "alpaca": {"instruction": "a", "output": "b"},
        "self-instruct": {"instruction": "a", "instances": [{"input": "", "output": "b"}]},
    }[format]
    path = write(tmp_path / "bad.jsonl", good, "", line)
    with pytest.raises(PlumblineError, match="bad.jsonl:3: ") as caught:
        read_examples(path, format, licence="MIT")
    assert says in caught.value.fact


def test_an_unknown_format_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlumblineError, match="not a dataset format"):
        read_examples(tmp_path / "x", "csv", licence="MIT")  # type: ignore[arg-type]
    with pytest.raises(PlumblineError, match="cannot be read"):
        read_examples(tmp_path / "absent", "alpaca", licence="MIT")
    broken = tmp_path / "broken.gz"
    broken.write_bytes(b"\x1f\x8b not gzip at all")
    with pytest.raises(PlumblineError, match="cannot be read"):
        read_preferences(broken)


def test_preference_pairs_share_their_dialogue(tmp_path: Path) -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: help me"
    path = tmp_path / "hh.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(
        {"chosen": f"{start}\n\nAssistant: gladly", "rejected": f"{start}\n\nAssistant: no"}).encode()))  # fmt: skip
    (pair,), skipped = read_preferences(path)
    assert skipped == []
    assert [message.content for message in pair.messages] == ["hi", "hello", "help me"]
    assert (pair.chosen, pair.rejected, pair.tie) == ("gladly", "no", False)


def test_an_import_needs_a_licence_or_consent(house: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"instruction": "a", "output": "b"})
    with pytest.raises(PlumblineError, match="neither a licence nor a consent"):
        import_dataset(house.ledger, house.blobs, path, "alpaca", "d", licence="", rubric=digest_of("r"))


@real_data
def test_both_self_instruct_files_are_imported_and_importing_again_changes_nothing(house: Any) -> None:
    def take(name: str) -> Any:
        return import_dataset(
            house.ledger, house.blobs, REAL / "self-instruct" / name, "self-instruct", "real",
            licence="Apache-2.0", rubric=digest_of("r"),
        )  # fmt: skip

    assert take("seed_tasks.jsonl").version == 1
    assert take("user_oriented_instructions.jsonl").version == 2
    assert take("seed_tasks.jsonl").replayed
    version = load_version(house.ledger, house.blobs, "real")
    assert len(version.examples) == 427
    assert 20 <= len(version.held_out) <= 70
    assert version.manifest.licence == "Apache-2.0"


@real_data
def test_all_preference_pairs_are_read() -> None:
    pairs, skipped = read_preferences(REAL / "hh-rlhf" / "harmless-test.jsonl.gz")
    assert len(pairs) + len(skipped) == 2312
    assert len(skipped) == 5
    assert all(pair.messages[-1].role == "user" for pair in pairs)
