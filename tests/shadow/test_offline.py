"""A file of requests becomes the same pairs as live traffic, once, however often the command is cut short."""

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import ShadowCounts
from plumbline.shadow import Experiment, Spool, start_shadow
from plumbline.shadow.experiment import worker_for
from plumbline.shadow.legs import upstream
from plumbline.shadow.offline import ask_both, read_requests
from shadow.client import ask, chat, until

EXPERIMENT = Experiment(name="e", salt="grain")


def write(folder: Path, lines: list[Any]) -> Path:
    file = folder / "requests.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def line(i: int, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": f"q{i}"}], "session": f"s{i // 2}", "slice": "benign"}
    return asked | {"subject": "ana"} | more


def pair_up(
    file: Path, folder: Path, reference: Any, aligned: Any, experiment: Experiment = EXPERIMENT, **more: Any
) -> ShadowCounts:
    given: dict[str, Any] = {"consent": lambda subject: True} | more
    spool = Spool(folder, experiment)
    try:
        worker = worker_for(spool, aligned and aligned.url, reference_url=reference.url, consent=given["consent"])
        lines = read_requests(file, experiment)
        ask_both(lines, spool, upstream(experiment, "reference", reference.url), worker, unreachable_s=0.4, **given)
        return spool.counts()
    finally:
        spool.close()


def test_the_pairs_are_those_of_live_traffic(tmp_path: Path, reference: Any, aligned: Any) -> None:
    file = write(tmp_path, [line(i, temperature=0.5, seed=i, stream=i % 2 == 0) for i in range(10)])
    counts = pair_up(file, tmp_path / "offline", reference, aligned)
    assert (counts.spooled, counts.paired, counts.shed) == (10, 10, {})
    with start_shadow(reference.url, aligned.url, tmp_path / "live", EXPERIMENT, consent=lambda subject: True) as run:
        for i in range(10):
            body = chat(f"q{i}", temperature=0.5, seed=i, stream=i % 2 == 0)
            named = {"x_plumbline_subject": "ana", "x_plumbline_session": f"s{i // 2}", "x_plumbline_slice": "benign"}
            ask(run.openai_url, body, **named)
        assert run.drain()
        live = run.pairs()
    offline = Spool.existing(tmp_path / "offline")

    def essence(pairs: Any) -> list[Any]:
        """All of a pair but how long it took and which request it was."""
        kept = []
        for pair in pairs:
            spooled = pair.spooled.model_dump(exclude={"request": True, "answer": {"latency_ms", "first_ms"}})
            kept.append(json.dumps([spooled, pair.replayed.model_dump(exclude={"latency_ms", "first_ms"})]))
        return sorted(kept)

    assert essence(offline.pairs()) == essence(live)
    offline.close()


def test_malformed_lines_are_named_by_number_and_nobody_is_asked(tmp_path: Path, reference: Any) -> None:
    good = line(0)
    bad = ["{", "[1]", {"messages": []}, {"prompt": "x"}, good | {"session": 7}, good | {"slice": "a b"}]
    bad += [good | {"temperature": 99}, "\x00", good | {"subject": "white space"}]
    file = write(tmp_path, [good, "", *bad, good])
    with pytest.raises(PlumblineError) as refused:
        read_requests(file, EXPERIMENT)
    fact = refused.value.fact
    assert "holds 9 malformed lines" in fact and refused.value.exit_code == 2
    assert all(f"line {number}: " in fact for number in range(3, 11)) and "and 1 more" in fact
    assert "line 1:" not in fact and "line 12:" not in fact
    write(tmp_path, [])
    with pytest.raises(PlumblineError, match="holds no request"):
        read_requests(file, EXPERIMENT)
    with pytest.raises(PlumblineError, match="cannot be read"):
        read_requests(tmp_path / "absent", EXPERIMENT)


def test_nobody_is_asked_the_words_of_people_who_did_not_consent(tmp_path: Path, reference: Any, aligned: Any) -> None:
    file = write(tmp_path, [line(0), line(1, subject="ben"), {"messages": line(2)["messages"]}, line(3, n=2)])
    counts = pair_up(file, tmp_path / "spool", reference, aligned, consent=lambda subject: subject == "ana")
    assert (counts.spooled, counts.paired, counts.shed) == (4, 1, {"no_consent": 2, "unsupported": 1})
    assert len(reference.seen) == len(aligned.seen) == 1


def test_a_file_asked_again_asks_nothing_again_and_goes_on_where_it_grew(
    tmp_path: Path, reference: Any, aligned: Any
) -> None:
    lines = [line(i) for i in range(6)]
    for n in (4, 4, 6):
        counts = pair_up(write(tmp_path, lines[:n]), tmp_path / "spool", reference, aligned)
        assert (counts.spooled, counts.paired) == (n, n)
    assert len(reference.seen) == len(aligned.seen) == 6


def test_a_small_spool_is_filled_no_further_than_it_has_room(tmp_path: Path, reference: Any, aligned: Any) -> None:
    small = EXPERIMENT.model_copy(update={"max_pending": 3})
    counts = pair_up(write(tmp_path, [line(i) for i in range(20)]), tmp_path / "spool", reference, aligned, small)
    assert (counts.paired, counts.shed) == (20, {})


def test_in_mode_aa_the_reference_answers_twice(tmp_path: Path, reference: Any) -> None:
    twice = EXPERIMENT.model_copy(update={"mode": "aa"})
    counts = pair_up(write(tmp_path, [line(i) for i in range(5)]), tmp_path / "spool", reference, None, twice)
    assert counts.paired == 5
    assert {body["model"] for _, body in reference.seen} == {"reference"} and len(reference.seen) == 10
    spool = Spool.existing(tmp_path / "spool")
    assert all(pair.reference.text == pair.aligned.text for pair in spool.pairs())
    spool.close()


@pytest.mark.parametrize("dead", ["reference", "aligned"])
def test_an_end_that_is_down_ends_it_with_a_remedy_and_loses_nothing(
    tmp_path: Path, reference: Any, aligned: Any, dead: str
) -> None:
    file, down = write(tmp_path, [line(i) for i in range(5)]), {"reference": reference, "aligned": aligned}[dead]
    down.stop()
    with pytest.raises(PlumblineError, match="nothing has listened") as ended:
        pair_up(file, tmp_path / "spool", reference, aligned)
    assert ended.value.exit_code == 2
    down.start()
    counts = pair_up(file, tmp_path / "spool", reference, aligned)
    assert (counts.spooled, counts.paired, counts.shed) == (5, 5, {})
    assert len(reference.seen) == 5


def test_a_thrown_switch_ends_it_with_a_remedy(tmp_path: Path, reference: Any, aligned: Any) -> None:
    small = EXPERIMENT.model_copy(update={"max_pending": 2})
    spool = Spool(tmp_path / "spool", small)
    spool.trip("harm")
    spool.close()
    with pytest.raises(PlumblineError, match="kill switch .* is thrown: harm"):
        pair_up(write(tmp_path, [line(i) for i in range(5)]), tmp_path / "spool", reference, aligned, small)
    assert not aligned.seen


def test_the_command_says_who_vouched_and_accounts_for_every_line(
    tmp_path: Path, reference: Any, aligned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from plumbline.cli.main import main

    file = write(tmp_path, [{"messages": line(i)["messages"]} for i in range(4)])
    asked = ["shadow", "replay", "--requests", str(file), "--spool", str(tmp_path / "spool"), "--experiment", "e"]
    asked += ["--reference", reference.url, "--aligned", aligned.url, "--consented-by", "the owner, 2026-11-21"]
    for already in ("0", "4"):
        main(asked)
        said = capsys.readouterr()
        assert said.out == "4 spooled = 4 paired + 0 pending + 0 shed\n"
        assert f"4 requests, {already} of them asked before" in said.err and "were not compared" in said.err
    spool = Spool.existing(tmp_path / "spool")
    assert spool.notes() == ["consented by: the owner, 2026-11-21"] and spool.subjects() == ["offline"]
    assert len({pair.spooled.session for pair in spool.pairs()}) == 4, "a line without a session is one of its own"
    spool.close()


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import shadow.test_offline as t
class At: pass
reference, aligned = At(), At()
reference.url, aligned.url = sys.argv[4:6]
t.pair_up(Path(sys.argv[2]), Path(sys.argv[3]), reference, aligned)
"""


def test_killed_with_9_at_any_moment_and_started_again_every_line_is_paired_once(
    tmp_path: Path, reference: Any, aligned: Any
) -> None:
    reference.delay_s = aligned.delay_s = 0.005
    file, folder = write(tmp_path, [line(i) for i in range(200)]), tmp_path / "spool"
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), str(file), str(folder)]
    for paired in (20, 90, 150):
        process = subprocess.Popen([*command, reference.url, aligned.url])
        until(lambda: (folder / "spool.sqlite").exists() and counts_of(folder).paired >= paired)  # noqa: B023
        process.kill()
        process.wait()
        counts = counts_of(folder)
        assert counts.balanced and not counts.shed
    counts = pair_up(file, folder, reference, aligned)
    assert (counts.spooled, counts.paired, counts.shed) == (200, 200, {})
    spool = Spool.existing(folder)
    texts = Counter(pair.spooled.messages[0].content for pair in spool.pairs())
    spool.close()
    assert texts == Counter(f"q{i}" for i in range(200))
    assert threading.active_count() < 50


def counts_of(folder: Path) -> ShadowCounts:
    try:
        spool = Spool.existing(folder)
    except PlumblineError:  # it is being made
        return ShadowCounts(experiment="e", spooled=0, paired=0)
    try:
        return spool.counts()
    finally:
        spool.close()
