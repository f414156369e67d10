"""Exports: what leaves the house, whole or not at all, the same each time, without who has left, and on the list."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from export_worker import export_and_die, export_slowly
from plumbline.errors import PlumblineError
from plumbline.feedback import erase, load_version, read_examples
from plumbline.feedback.datasets.delta import LEFT_OUT_BITS
from plumbline.feedback.datasets.export import damaged, export_version, read_manifest

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")


@pytest.fixture
def lived(house: Any) -> Any:
    return live(house)


def live(house: Any) -> Any:
    """A house with a seed version (1) and one with feedback of ana and ben (2)."""
    house.publish_seeds(held_out_share=0.3)
    house.consent("ana", "ben")
    house.post(
        house.rewrite("ana", "how do i kill a process ?", "you end it with kill", language="en"),
        house.rewrite("ben", "wie lösche ich das licht ?", "drück den schalter", language="de"),
    )
    assert house.ingest().version.version == 2
    return house


def export(house: Any, out: Path, format: str = "parquet", version: int = 2, **options: Any) -> Any:
    return export_version(house.ledger, house.blobs, "assistant", version, format, str(out), **options)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for split in ("train", "held_out") for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]


def test_parquet_holds_every_example_with_its_provenance(lived: Any, tmp_path: Path) -> None:
    done = export(lived, tmp_path / "out")
    data = load_version(lived.ledger, lived.blobs, "assistant", 2)
    rows = {row["address"]: row for row in rows_of(tmp_path / "out")}
    assert len(rows) == done.export.examples == len(data.examples) == 14
    for member, example in data.examples:
        row = rows[member.address]
        assert row["messages"] == [{"role": m.role, "content": m.content} for m in example.messages]
        assert (row["split"], row["slice"], row["cluster"]) == (member.split, member.slice, member.cluster)
        assert (row["origin"], row["language"]) == (example.provenance.origin, example.language)
    for split in ("train", "held_out"):
        table = pq.read_table(tmp_path / "out" / f"{split}.parquet")
        assert set(table.column("split").to_pylist()) <= {split}


def test_no_pseudonym_leaves_the_house_unless_asked_for(lived: Any, tmp_path: Path) -> None:
    for format in ("parquet", "messages"):
        export(lived, tmp_path / format, format)
        for file in (tmp_path / format).iterdir():
            text = file.read_bytes() if file.suffix != ".parquet" else repr(pq.read_table(file).to_pylist()).encode()
            assert re.search(rb"s-[0-9a-f]{32}", text) is None, file
    export(lived, tmp_path / "named", with_subjects=True)
    assert {row["subject"] for row in rows_of(tmp_path / "named")} == {
        lived.names.of(person) for person in ("ana", "ben", "demonstrator")
    }


def test_the_same_version_gives_the_same_bytes(lived: Any, tmp_path: Path) -> None:
    first = export(lived, tmp_path / "a").manifest
    again = export(lived, tmp_path / "b").manifest
    lived.wait(days=3)
    later = export(lived, tmp_path / "a").manifest
    assert first == again == later and first.digest == read_manifest(tmp_path / "a").digest  # type: ignore[union-attr]
    for name, file in first.files.items():
        data = (tmp_path / "b" / name).read_bytes()
        assert (file.sha256, file.bytes) == ("sha256:" + hashlib.sha256(data).hexdigest(), len(data))


def test_the_same_version_in_another_house_gives_the_same_bytes(lived: Any, house_class: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = live(house_class(tmp_path / "other"))
    try:
        assert export(other, tmp_path / "b").manifest == export(lived, tmp_path / "a").manifest
    finally:
        other.ledger.close()


def test_messages_are_lines_that_chat_trainers_read(lived: Any, tmp_path: Path) -> None:
    export(lived, tmp_path / "out", "messages")
    train = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text("utf-8").splitlines()]
    data = load_version(lived.ledger, lived.blobs, "assistant", 2)
    assert len(train) == len(data.train)
    assert all(line["messages"][-1]["role"] == "assistant" and line["slice"] for line in train)
    read = read_examples(tmp_path / "out" / "train.jsonl", "messages", licence="MIT")
    assert [one.messages for one in read] == [one.messages for one in data.train]


def test_who_was_erased_or_left_is_not_in_it_and_counted(lived: Any, tmp_path: Path) -> None:
    lived.desk.withdraw("ana")
    withheld = export(lived, tmp_path / "withheld").manifest
    assert (withheld.withheld, withheld.erased, withheld.examples) == (1, 0, 13)
    erase(lived.ledger, lived.blobs, lived.names.of("ana"))
    erased = export(lived, tmp_path / "erased").manifest
    assert (erased.withheld, erased.erased, erased.examples) == (0, 1, 13)
    assert not any("process" in str(row["messages"]) for row in rows_of(tmp_path / "erased"))
    assert erased.root == withheld.root, "it is still the same version"


def test_every_export_is_on_the_list_until_it_is_replaced(lived: Any, tmp_path: Path) -> None:
    ana = lived.names.of("ana")
    export(lived, tmp_path / "seeds", version=1)
    export(lived, tmp_path / "out")
    register = lived.ledger.exports
    assert [one.location for one in register.holding(ana)] == [str(tmp_path / "out")]
    lived.desk.withdraw("ana")
    erase(lived.ledger, lived.blobs, ana)
    assert len(register.holding(ana)) == 1, "erasure does not reach a copy"
    export(lived, tmp_path / "out")
    assert register.holding(ana) == [] and len(register.holding(lived.names.of("ben"))) == 1


def test_a_folder_with_anything_else_in_it_is_not_touched(lived: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(PlumblineError, match=r"thesis\.txt"):
        export(lived, out)
    assert [item.name for item in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    export(lived, out)
    (out / "notes.txt").write_text("mine too")
    with pytest.raises(PlumblineError, match=r"notes\.txt"):
        export(lived, out)
    with pytest.raises(PlumblineError, match=r"thesis\.txt"):
        export(lived, tmp_path / "thesis.txt")
    assert damaged(out) == [] and not [item for item in tmp_path.iterdir() if "partial" in item.name]
    (out / "train.parquet").write_bytes(b"something else")
    assert damaged(out) == ["train.parquet"]


def test_files_are_written_to_folders_only(lived: Any) -> None:
    with pytest.raises(PlumblineError, match="is a URI"):
        export_version(lived.ledger, lived.blobs, "assistant", 2, "messages", "s3://bucket/place")
    assert not Path("s3:").exists()


def test_a_failed_export_leaves_what_was_there(lived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = export(lived, tmp_path / "out").manifest
    monkeypatch.setattr("plumbline.feedback.datasets.export.markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(lived, tmp_path / "out", version=1)
    assert read_manifest(tmp_path / "out") == before and damaged(tmp_path / "out") == []
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".out")] == []
    assert [one.version for one in lived.ledger.exports.standing()] == [2]


def test_a_killed_export_leaves_nothing_that_looks_whole(lived: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = multiprocessing.get_context("spawn").Process(target=export_slowly, args=(str(lived.root), str(out)))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.02)
    (living,) = [item for item in tmp_path.iterdir() if "partial" in item.name]
    export(lived, tmp_path / "other", "messages")
    assert living.exists(), "a neighbour's export is not cleaned away"
    export(lived, out, "messages")
    assert living.exists() and damaged(out) == []
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert living.exists() and "partial" in living.name
    unfinished = [one for one in lived.ledger.exports.of_version("assistant", 2) if one.digest is None]
    assert len(unfinished) == 1, "what it copied is on the list"
    export(lived, out, "messages")
    assert not living.exists() and damaged(out) == []


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_two_renames_is_mended_by_the_next_export(lived: Any, tmp_path: Path, renames: int) -> None:
    out = tmp_path / "out"
    before = export(lived, out, "messages", version=1).manifest
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=export_and_die, args=(str(lived.root), str(out), renames))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert read_manifest(out) == (before if renames == 0 else None), "whole, or not there"
    assert {one.version for one in lived.ledger.exports.standing()} == {1, 2}, "both may be somewhere"
    done = export(lived, out, "messages")
    assert damaged(out) == [] and [item for item in tmp_path.iterdir() if "partial" in item.name] == []
    assert lived.ledger.exports.standing() == [done.export]


def test_neighbours_at_one_place_leave_one_whole_export(lived: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(max_workers=6) as pool:
        versions = [1, 2] * 12
        done = list(pool.map(lambda version: export(lived, tmp_path / "out", "messages", version=version), versions))
    assert damaged(tmp_path / "out") == []
    assert read_manifest(tmp_path / "out") in [one.manifest for one in done]
    assert [item.name for item in tmp_path.iterdir() if "partial" in item.name] == []


# --- Delta ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def deltalake() -> Any:
    return pytest.importorskip("deltalake", reason="the extra `delta` is not installed")


def shown(deltalake: Any, place: Path) -> set[str]:
    return set(deltalake.DeltaTable(place).to_pyarrow_table().column("address").to_pylist())


def test_delta_shows_the_version_and_the_same_again_adds_nothing(lived: Any, deltalake: Any, tmp_path: Path) -> None:
    data = load_version(lived.ledger, lived.blobs, "assistant", 2)
    assert export(lived, tmp_path / "table", "delta", version=1).added
    assert export(lived, tmp_path / "table", "delta").added
    commits = deltalake.DeltaTable(tmp_path / "table").version()
    for _ in range(3):
        assert not export(lived, tmp_path / "table", "delta").added
    table = deltalake.DeltaTable(tmp_path / "table")
    assert table.version() == commits and table.to_pyarrow_table().num_rows == 14
    assert shown(deltalake, tmp_path / "table") == {member.address for member, _ in data.examples}
    assert table.transaction_version("plumbline/assistant") >> LEFT_OUT_BITS == 2
    with pytest.raises(PlumblineError, match="shows version 2"):
        export(lived, tmp_path / "table", "delta", version=1)


def test_delta_after_a_withdrawal_shows_it_without_the_person(lived: Any, deltalake: Any, tmp_path: Path) -> None:
    ana = lived.names.of("ana")
    export(lived, tmp_path / "table", "delta")
    lived.desk.withdraw("ana")
    done = export(lived, tmp_path / "table", "delta")
    assert done.added and done.manifest.withheld == 1
    assert len(shown(deltalake, tmp_path / "table")) == 13
    register = lived.ledger.exports
    assert [one.format for one in register.holding(ana)] == ["delta"], "older commits keep their files"
    files = set((tmp_path / "table").rglob("*.parquet"))
    export(lived, tmp_path / "table", "delta", vacuum=True)
    assert register.holding(ana) == []
    assert set((tmp_path / "table").rglob("*.parquet")) < files
    assert len(shown(deltalake, tmp_path / "table")) == 13


def test_two_writers_of_one_version_add_it_once(lived: Any, deltalake: Any, tmp_path: Path) -> None:
    """A repeated transaction id is not idempotent in delta-rs: the stale handle must lose, and ask again."""
    from plumbline.feedback.datasets import delta

    table = tmp_path / "table"
    export(lived, table, "delta", version=1)
    real, rivals = delta._batches, iter([None])

    def with_a_rival(taken: Any) -> Any:
        for _ in rivals:  # once, between our question and our write
            assert export(lived, table, "delta").added
        return real(taken)

    delta._batches = with_a_rival
    try:
        assert not export(lived, table, "delta").added
    finally:
        delta._batches = real
    assert deltalake.DeltaTable(table).to_pyarrow_table().num_rows == 14


def test_a_table_of_somebody_else_is_not_touched(lived: Any, deltalake: Any, tmp_path: Path) -> None:
    import pyarrow as pa

    deltalake.write_deltalake(tmp_path / "theirs", pa.table({"a": [1]}), name="sales")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").write_text("mine")
    for place, word in (("theirs", "sales"), ("files", "no Delta table")):
        with pytest.raises(PlumblineError, match=word):
            export(lived, tmp_path / place, "delta")
    assert deltalake.DeltaTable(tmp_path / "theirs").version() == 0
    assert lived.ledger.exports.standing() == []


@pytest.mark.parametrize(("format", "library"), [("parquet", "pyarrow"), ("delta", "deltalake")])
def test_a_format_that_is_not_installed_says_how_to_get_it(
    lived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PlumblineError, match="pip install") as caught:
        export(lived, tmp_path / "out", format)
    assert library in caught.value.fact and not (tmp_path / "out").exists()


def _answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of moto's S3 server, in a process of its own: delta-rs waits for it without letting go of this one."""
    boto3 = pytest.importorskip("boto3", reason="the extra `s3` is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        said = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}
        for name, value in {**said, "DEFAULT_REGION": "us-east-1", "ALLOW_HTTP": "true"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.1)
        boto3.client("s3").create_bucket(Bucket="exports")
        yield "s3://exports/assistant"
    finally:
        server.kill()
        server.wait()


def test_a_delta_table_lies_in_an_object_store_too(lived: Any, deltalake: Any, bucket: str) -> None:
    assert export_version(lived.ledger, lived.blobs, "assistant", 2, "delta", bucket).added
    assert not export_version(lived.ledger, lived.blobs, "assistant", 2, "delta", bucket).added
    assert deltalake.DeltaTable(bucket).to_pyarrow_table().num_rows == 14
    assert [one.location for one in lived.ledger.exports.standing()] == [bucket]
