"""A back-fill puts into the inbox what importing the same file would, however it is cut and wherever it is killed."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import Pseudonyms, import_file
from plumbline.feedback.backfill import backfill, here
from plumbline.feedback.collect.spans import spans_of
from plumbline.records import TYPE_PREFIX
from plumbline.stores import Ledger

NAMES = Pseudonyms(bytes(range(32)))
SIZE = 4096


def event(number: int, **more: Any) -> dict[str, Any]:
    said = {
        "messages": [{"role": "user", "content": f"who is ana {number} ?"}],
        "answer": "no",
        "text": "ana is a baker",
    }
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "app",
        "type": TYPE_PREFIX + "rewrite",
        "subject": f"person-{number % 13}@example.org",
        "data": said,
        **more,
    }


def awkward(file: Path, events: int = 400) -> Path:
    """Duplicates, conflicts, other sources, empty and endless lines, a byte-order mark, no newline at the end."""
    rng = random.Random(11)
    lines = [b"\xef\xbb\xbf" + json.dumps(event(0)).encode()]
    for number in range(1, events):
        said = json.dumps(event(number)).encode()
        odd = rng.randrange(12)
        if odd == 0:
            said = json.dumps(event(rng.randrange(number))).encode()
        elif odd == 1:
            said = json.dumps(event(rng.randrange(number), subject="eve")).encode()
        elif odd == 2:
            said = json.dumps(event(number, source="other")).encode()
        elif odd == 3:
            said = rng.choice([b"", b"  ", b"{", b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}", b"x" * 70_000])
        lines.append(said)
    file.write_bytes(b"\n".join(lines))
    return file


def held(ledger: Ledger) -> Any:
    """What the inbox holds, but for moments."""
    queued = [entry._replace(received_at="") for entry in ledger.inbox.read(1, 10**9)]
    apart = [entry._replace(received_at="") for entry in ledger.inbox.quarantine_entries(10**6)]
    return queued, apart, ledger.inbox.refused()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file, what importing it leaves behind, and what it said."""
    file = awkward(tmp_path_factory.mktemp("events") / "events.jsonl")
    with Ledger(":memory:", secret=b"reproducible") as ledger:
        counts = import_file(ledger, NAMES, file, "app")
        return file, held(ledger), counts


@pytest.mark.parametrize("size", [257, SIZE, 1 << 30])
def test_however_a_file_is_cut_the_inbox_holds_what_an_import_leaves(imported: Any, size: int) -> None:
    file, wanted, said = imported
    refused: list[tuple[int, str]] = []
    with Ledger(":memory:", secret=b"reproducible") as ledger:
        state = backfill(
            ledger, NAMES, file, "app", size=size, on_refused=lambda line, why: refused.append((line, why))
        )
        assert held(ledger) == wanted
        assert state.done and refused == said.refused and state.reasons == said.reasons
        assert state.counts == {"accepted": said.accepted, "duplicate": said.duplicate, "conflict": said.conflict}
        assert backfill(ledger, NAMES, file, "app", size=size) == state, "once is enough"
        assert held(ledger) == wanted


def test_killed_at_every_part_it_lands_each_event_once_and_counts_it_once(imported: Any) -> None:
    """The writer dies just before and just after each commit."""
    file, wanted, said = imported

    class Killed(Exception):
        pass

    with Ledger(":memory:", secret=b"reproducible") as ledger:
        kills = 0
        for fatal in range(1, 10**6):
            left = [fatal % 3 + 1]

            def dies(*_: object, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

            def read(*given: Any, dies: Any = dies, fatal: int = fatal) -> Any:
                for found in here(*given):
                    if fatal % 2:
                        dies()
                    yield found

            try:
                state = backfill(
                    ledger,
                    NAMES,
                    file,
                    "app",
                    size=SIZE,
                    read=read,
                    on_landed=dies if not fatal % 2 else lambda _: None,
                )
                break
            except Killed:
                kills += 1
        assert kills > 20 and held(ledger) == wanted
        assert state.counts == {"accepted": said.accepted, "duplicate": said.duplicate, "conflict": said.conflict}
        assert state.reasons == said.reasons


def test_two_writers_of_one_file_do_not_both_land_a_part(imported: Any) -> None:
    file, wanted, _ = imported
    with Ledger(":memory:", secret=b"reproducible") as ledger:

        def overtaken(*given: Any) -> Any:
            backfill(ledger, NAMES, file, "app", size=SIZE)
            yield from here(*given)

        with pytest.raises(PlumblineError, match="another writer"):
            backfill(ledger, NAMES, file, "app", size=SIZE, read=overtaken)
        assert held(ledger) == wanted


def test_rows_of_a_parquet_file_are_events_by_the_same_rules(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = [event(number) for number in range(50)] + [event(3), event(4, subject="eve"), event(60, source="other")]
    lines = tmp_path / "events.jsonl"
    bad = json.dumps(event(61)).replace('"answer"', '"text": "twice", "answer"')
    lines.write_text("\n".join([*map(json.dumps, events), bad]))
    with Ledger(":memory:", secret=b"reproducible") as ledger:
        import_file(ledger, NAMES, lines, "app")
        wanted = held(ledger)
    names = [name for name in event(0) if name != "data"]
    columns = {name: [one[name] for one in [*events, event(61)]] for name in names}
    data = [json.dumps(one["data"]) for one in events] + [json.dumps(json.loads(bad)["data"])]
    data[-1] = data[-1].replace('"answer"', '"text": "twice", "answer"')
    shapes = {
        "attributes": {**columns, "data": data},
        "event": {"event": [*map(json.dumps, events), bad]},
    }
    for name, shape in shapes.items():
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(shape), file, row_group_size=20)
        assert len(spans_of(file)) == 3
        with Ledger(":memory:", secret=b"reproducible") as ledger:
            assert backfill(ledger, NAMES, file, "app").done
            assert held(ledger) == wanted, name
    struct = tmp_path / "struct.parquet"
    pq.write_table(
        pa.table({**{k: v[:50] for k, v in columns.items()}, "data": [e["data"] for e in events[:50]]}), struct
    )
    with Ledger(":memory:", secret=b"reproducible") as ledger:
        assert backfill(ledger, NAMES, struct, "app").counts == {"accepted": 50}
        assert held(ledger)[0] == wanted[0]


def test_a_row_cannot_smuggle_attributes_in_with_its_data(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    one = event(1)
    del one["subject"]
    one["data"] = json.dumps(one["data"]) + ', "subject": "eve"'
    pq.write_table(pa.table({name: [value] for name, value in one.items()}), tmp_path / "smuggled.parquet")
    with Ledger(":memory:") as ledger:
        assert backfill(ledger, NAMES, tmp_path / "smuggled.parquet", "app").counts == {}


def test_a_file_that_is_not_there_or_not_whole_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with Ledger(":memory:") as ledger:
        for name in ("absent.jsonl", "torn.parquet"):
            with pytest.raises(PlumblineError) as error:
                backfill(ledger, NAMES, tmp_path / name, "app")
            assert error.value.remedy
        (tmp_path / "empty.jsonl").write_bytes(b"")
        assert backfill(ledger, NAMES, tmp_path / "empty.jsonl", "app").done


def test_the_dataset_version_after_a_backfill_is_the_one_after_an_import_by_digest(
    house_class: Any, tmp_path: Path
) -> None:
    lines = []
    for number in range(160):
        said = event(number, subject=f"person-{number % 40}")
        said["data"] |= {"text": f"ana is baker number {number} of her town .", "slice": "facts"}
        lines.append(json.dumps(said))
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines))
    versions = []
    for way in ("import", "backfill"):
        (tmp_path / way).mkdir()
        house = house_class(tmp_path / way)
        house.consent(*(f"person-{number}" for number in range(40)))
        house.publish_seeds()
        if way == "import":
            import_file(house.ledger, house.names, file, "app")
        else:
            backfill(house.ledger, house.names, file, "app", size=SIZE)
        result = house.ingest()
        assert result.version is not None and result.accepted > 0
        versions.append((result.version.digest, result.accepted, result.rejected, result.redactions))
        house.ledger.close()
    assert versions[0] == versions[1]
