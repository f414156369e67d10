"""Who is compared in ingestion.py: one function per side, over the same file and the same list of people who withdrew.

A side reads a file of events and writes a dataset; its own work is timed, imports are not. It says what it kept, by
event id, and the texts it wrote, so that neither "the same work" nor "redacted" is a claim.

    ours                 land (durable inbox, keyed pseudonyms, schema, duplicates and conflicts), ingest (all stages, a
                         published version), verify (every payload read back); split, guards and review included
    polars, duckdb       a plain script: parse, drop what is malformed, duplicates by (source, id, type), people who
                         withdrew, equal texts of one person; replace personal data by regular expressions; Parquet.
                         No consent ledger, no pseudonyms, no checksums of cards, nothing durable, no near-copies.
    polars + datatrove   the same, and datatrove's MinHash pipeline over what is left: the near-copies too

The plain scripts do less than ours on purpose: they are what a team writes first, and the floor for what it costs.
"""

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from events_generator import SOURCE, Stream

from plumbline.feedback import (
    GuardLimits,
    Ingestion,
    IngestionConfig,
    Pseudonyms,
    import_file,
    load_version,
    verify,
)
from plumbline.records import TYPE_PREFIX, Notice, digest_of
from plumbline.stores import Approval, Ledger, LocalBlobs

DATASET, RUBRIC = "benchmark", digest_of("the rubric of the benchmark")
UNLIMITED = GuardLimits(per_user=10**9, per_source=10**9, user_share=1, burst_from=10**9)  # no other side has caps
FINDS = {  # what a plain script replaces, in the syntax that Rust's regex crate and RE2 share
    "PRIVATE_KEY": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s]+(?:-----END [A-Z ]{0,30}KEY-----)?",
    "SECRET": r"\b(?:A(?:KIA|SIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|sk-[A-Za-z0-9_-]{20,255}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,255}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,255})",
    "EMAIL": r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}",
    "IBAN": r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?\b",
    "CARD": r"\b\d(?:[ -]?\d){12,18}\b",
    "IP": r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b(?:[0-9A-Fa-f]{1,4}:){2,7}[0-9A-Fa-f]{1,4}\b",
    "PHONE": r"(?:\+|\b00)\d{1,3}(?:[ .()/-]{0,2}\d{1,5}){1,6}|\b\d{3}[ .-]\d{3}[ .-]\d{4}\b"
    r"|\b0\d{8,10}\b|\b\d{10,11}\b",
}
KINDS = [TYPE_PREFIX + kind for kind in ("rating", "rewrite", "comparison", "comment", "report")]


@dataclass
class Outcome:
    """Seconds by the clock and of the processor, by part; ids kept and the texts written for them."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    redactions: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    peak_mib: float = 0.0
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, spent = time.perf_counter(), processor()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.cpu[name] = self.cpu.get(name, 0.0) + processor() - spent

    @property
    def wall(self) -> float:
        return sum(self.seconds.values())

    @property
    def burnt(self) -> float:
        return sum(self.cpu.values())


def processor() -> float:
    """CPU seconds of this process, its threads and the children that it has waited for."""
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


# --- ours -------------------------------------------------------------------------------------------------------------


class House:
    """Ours, open on a directory: people have consented, and those of the stream who withdraw will."""

    def __init__(self, root: Path, stream: Stream) -> None:
        self.stream = stream
        self.ledger = Ledger(root / "ledger.db", secret=b"a benchmark repeats itself")
        self.blobs = LocalBlobs(root / "blobs")
        self.names = Pseudonyms(b"tenant key of the benchmark")
        self.notice: Notice = self.ledger.consent.register_notice("training", "1", "we train on what you write")

    def everybody(self, action: Any, people: Any) -> None:
        """One ledger entry a person, many to a commit: how they came to consent is not what is measured."""
        names, people = self.names, list(people)
        for start in range(0, len(people), 5_000):
            with self.ledger.database.transaction():
                for person in people[start : start + 5_000]:
                    subject = names.of(self.stream.name(person))
                    self.ledger.consent.append(subject, action, ["training"], self.notice)

    def land(self, path: Path) -> Any:
        return import_file(self.ledger, self.names, path, SOURCE)

    def ingest(self) -> Any:
        ingestion = Ingestion(self.ledger, self.blobs, IngestionConfig(guards=UNLIMITED))
        return ingestion.run(DATASET, RUBRIC, approve=lambda *_: Approval("data-owner", True, "benchmark"))

    def close(self) -> None:
        self.ledger.close()


def ours(path: Path, stream: Stream) -> Outcome:
    return _ours(path, stream)


def without_safety(path: Path, stream: Stream) -> Outcome:
    """Ours with nothing durable (no fsync, `synchronous=OFF`) and the consent chain taken at its word."""
    os.fsync = os.fdatasync = lambda _: None  # type: ignore[assignment]
    return _ours(path, stream, safe=False)


def _ours(path: Path, stream: Stream, *, safe: bool = True) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        house, found = House(Path(folder), stream), Outcome()
        house.everybody("given", range(stream.people))
        if not safe:
            house.ledger.database.rows("PRAGMA synchronous=OFF")
            house.ledger.consent.require_valid = lambda *_: house.ledger.consent.head()  # type: ignore[method-assign]
        with found.part("land"):
            counts = house.land(path)
        house.everybody("withdrawn", sorted(stream.withdrawn))
        with found.part("ingest"):
            result = house.ingest()
        with found.part("verify"):
            check = verify(house.ledger, house.blobs, result.manifest)
        found.peak_mib = _peak()
        found.stages = result.seconds
        found.redactions = result.redactions
        landed = {"malformed line": len(counts.refused), "redelivered": counts.duplicate, "conflict": counts.conflict}
        found.refused = landed | result.rejected
        found.problems = list(check.problems)
        if result.accepted + sum(result.rejected.values()) != result.sealed:
            found.problems.append("the run does not balance")
        found.kept = kept_texts(house)
        house.close()
    return found


def kept_texts(house: House) -> dict[str, str]:
    """Event id and target of every example in the head version."""
    ledger = house.ledger
    ids = {one.sequence: one.event.id for one in ledger.inbox.read(1, ledger.inbox.last_sequence()) if one.event}
    origin = {
        one.address: ids[one.event_sequence] for one in ledger.publications.members(DATASET) if one.event_sequence
    }
    version = load_version(ledger, house.blobs, DATASET)
    return {origin[member.address]: example.target for member, example in version.examples}


# --- plain scripts ----------------------------------------------------------------------------------------------------


def with_polars(path: Path, stream: Stream) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        found, out = Outcome(), Path(folder) / "dataset.parquet"
        with found.part("script"):
            polars_script(path, _withdrawn(stream), out)
        found.peak_mib = _peak()
        found.kept = _parquet(out)
    return found


def polars_script(path: Path, withdrawn: list[str], out: Path) -> None:
    """polars' own NDJSON reader stops at a broken line, so lines are read as text, whole ones decoded."""
    import polars as pl

    message = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    words = dict.fromkeys(("answer", "slice", "conversation", "policy", "text", "rejected", "preferred"), pl.String)
    data = pl.Struct({"messages": message, **words, "score": pl.Float64})
    names = dict.fromkeys(("specversion", "id", "source", "type", "subject", "time", "datacontenttype"), pl.String)
    text = pl.col("text")
    for name, pattern in FINDS.items():
        text = text.str.replace_all(pattern, f"[{name}]")
    (
        pl.scan_lines(path, name="line")
        .filter(pl.col("line").str.ends_with("}}"))
        .select(pl.col("line").str.json_decode(pl.Struct({**names, "data": data})).alias("event"))
        .unnest("event")
        .unnest("data")
        .filter(pl.col("type").is_in(KINDS), pl.col("subject").is_not_null(), pl.col("messages").list.len() > 0)
        .filter((pl.col("type") == TYPE_PREFIX + "rating") | pl.col("text").is_not_null())
        .unique(["source", "id", "type"], keep="any")
        .filter(~pl.col("subject").is_in(withdrawn), pl.col("type") == TYPE_PREFIX + "rewrite")
        .unique(["subject", "messages", "text"], keep="any")
        .select("id", "source", "subject", "messages", text)
        .sink_parquet(out)
    )


def with_duckdb(path: Path, stream: Stream) -> Outcome:
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        found, out = Outcome(), Path(folder) / "dataset.parquet"
        text = "text"
        for name, pattern in FINDS.items():
            text = f"regexp_replace({text}, '{pattern}', '[{name}]', 'g')"
        words = ", ".join(f"{w} VARCHAR" for w in ("answer", "slice", "conversation", "policy", "text", "rejected"))
        data = f"STRUCT(messages STRUCT(role VARCHAR, content VARCHAR)[], {words}, preferred VARCHAR, score DOUBLE)"
        names = ", ".join(f"{name}: 'VARCHAR'" for name in ("specversion", "id", "source", "type", "subject", "time"))
        with found.part("script"), duckdb.connect(config={"threads": 1}) as database:
            database.execute("CREATE TABLE withdrawn AS SELECT unnest(?) AS subject", [_withdrawn(stream)])
            database.execute(f"""
                COPY (
                    WITH event AS (
                        SELECT DISTINCT ON (source, id, type) id, source, type, subject, data.messages, data.text
                        FROM read_ndjson('{path}', ignore_errors = true, columns = {{{names}, data: '{data}'}})
                        WHERE type IN {tuple(KINDS)} AND subject IS NOT NULL AND len(data.messages) > 0
                        AND (type = '{TYPE_PREFIX}rating' OR data.text IS NOT NULL)
                    )
                    SELECT DISTINCT ON (subject, messages, text) id, source, subject, messages, {text} AS text
                    FROM event
                    WHERE type = '{TYPE_PREFIX}rewrite' AND subject NOT IN (SELECT subject FROM withdrawn)
                ) TO '{out}' (FORMAT parquet)
            """)
        found.peak_mib = _peak()
        found.kept = _parquet(out)
    return found


# --- near-copies by datatrove -----------------------------------------------------------------------------------------


def with_polars_and_datatrove(path: Path, stream: Stream) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        found, root = Outcome(), Path(folder)
        (root / "in").mkdir()
        with found.part("script"):
            polars_script(path, _withdrawn(stream), root / "in" / "dataset.parquet")
        datatrove_minhash(root, found)
        found.peak_mib = _peak()
        for file in sorted((root / "out").glob("*.jsonl")):
            documents = map(json.loads, file.read_text("utf-8").splitlines())
            found.kept |= {one["id"]: one["text"].partition("\nassistant: ")[2] for one in documents}
    return found


def datatrove_minhash(root: Path, found: Outcome) -> None:
    """Signatures, buckets, clusters, filter: 16 bands of 8 rows over word 3-grams, as ours, in one worker. Words are
    split at white space, which costs datatrove less than the tokenizer it would load for English."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.logging import logger
    from datatrove.utils.word_tokenizers import WordTokenizer

    class WhiteSpace(WordTokenizer):  # type: ignore[misc]
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    def document(_: Any, data: dict[str, Any], __: str, ___: int | str) -> dict[str, Any]:
        prompt = "\n".join(f"{one['role']}: {one['content']}" for one in data["messages"])
        return {"id": data["id"], "text": f"{prompt}\nassistant: {data['text']}", "metadata": {}}

    logger.remove()
    config = MinhashConfig(n_grams=3, num_buckets=16, hashes_per_bucket=8)
    reader = ParquetReader(str(root / "in"), adapter=document)
    steps: tuple[tuple[int, list[Any]], ...] = (
        (1, [reader, MinhashDedupSignature(str(root / "sig"), config=config, language=WhiteSpace())]),
        (16, [MinhashDedupBuckets(str(root / "sig"), str(root / "buckets"), config=config)]),
        (1, [MinhashDedupCluster(str(root / "buckets"), str(root / "remove"), config=config)]),
        (1, [reader, MinhashDedupFilter(str(root / "remove")), JsonlWriter(str(root / "out"), compression=None)]),
    )
    with found.part("near-copies"):
        for number, (tasks, step) in enumerate(steps):
            executor = LocalPipelineExecutor(step, tasks=tasks, workers=1, logging_dir=str(root / f"log-{number}"))
            executor.run()


SIDES: dict[str, Callable[[Path, Stream], Outcome]] = {
    "ours": ours,
    "ours without durability and consent chain": without_safety,
    "polars": with_polars,
    "duckdb": with_duckdb,
    "polars + datatrove": with_polars_and_datatrove,
}
NEEDS = {"polars": ("polars",), "duckdb": ("duckdb",), "polars + datatrove": ("polars", "datatrove")}
EXACT_ONLY = ("polars", "duckdb")  # these keep near-copies


def _withdrawn(stream: Stream) -> list[str]:
    return sorted(stream.name(person) for person in stream.withdrawn)


def _parquet(path: Path) -> dict[str, str]:
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["id", "text"])
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
