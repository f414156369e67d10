"""Exports: a dataset version as files that other tools read. Projections, never the truth.

A folder holds one file a split (Parquet, or JSON lines of `messages`), `manifest.json` with their digests, the card as
`README.md` and, for Parquet, `croissant.json`. It is written beside the target under a name that says "partial", made
durable, and moved into place whole: a killed export leaves nothing that looks like one. The same version gives the same
data files, byte for byte, under the same writer; the card may say more as time goes by.

An export is a copy that erasure does not reach. So it is written into the ledger before its first byte, it leaves out
everyone whose consent has ended, and it carries no pseudonym unless somebody asks for them.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError

from plumbline.errors import PlumblineError
from plumbline.feedback.datasets.card import gather_card
from plumbline.feedback.datasets.card_text import markdown
from plumbline.feedback.datasets.croissant import croissant
from plumbline.feedback.datasets.reading import DatasetVersionData, load_manifest, load_version
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.records import Digest, Example, Member, Record, Split, as_dicts
from plumbline.stores import BlobStore, Ledger
from plumbline.stores.exports import Export, ExportFormat

MANIFEST, CARD, CROISSANT = "manifest.json", "README.md", "croissant.json"
ROWS = 10_000  # a row group, and what is held in memory a second time
SPLITS: tuple[Split, ...] = get_args(Split)
Row = dict[str, Any]


class ExportedFile(Record):
    schema_id = "plumbline.dev/exported-file/v1"

    sha256: Digest
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)


class ExportManifest(Record):
    """What an export holds. `erased` and `withheld` examples of the version are not in it: their words are gone, or
    the consent that carried them ended. `writer` is named because another one may write other bytes."""

    schema_id = "plumbline.dev/export-manifest/v1"

    dataset: str
    version: int
    dataset_digest: Digest
    root: Digest
    format: ExportFormat
    with_subjects: bool
    erased: int = Field(ge=0)
    withheld: int = Field(ge=0)
    writer: str
    files: dict[str, ExportedFile]

    @property
    def examples(self) -> int:
        return sum(file.rows for file in self.files.values())

    @property
    def left_out(self) -> int:
        return self.erased + self.withheld


@dataclass(frozen=True)
class Exported:
    """`export` is the ledger's entry; `manifest` what was written; `added` is false when it was there already."""

    export: Export
    manifest: ExportManifest
    added: bool = True


@dataclass(frozen=True)
class Extract:
    """What of a version may leave the house. `withheld` counts examples whose consent ended since."""

    data: DatasetVersionData
    withheld: int
    with_subjects: bool

    def rows(self, split: Split) -> Iterator[Row]:
        for member, example in self.data.examples:
            if member.split == split:
                yield row_of(member, example, with_subject=self.with_subjects)


def extract(ledger: Ledger, blobs: BlobStore, begun: Export) -> Extract:
    """Read a version as an export that was begun may have it."""
    data = load_version(ledger, blobs, begun.dataset, begun.version)
    subjects = {member.subject for member, _ in data.examples if member.subject is not None}
    gone = ledger.exports.withheld(subjects, begun)
    allowed = tuple((member, example) for member, example in data.examples if member.subject not in gone)
    return Extract(replace(data, examples=allowed), len(data.examples) - len(allowed), begun.with_subjects)


def row_of(member: Member, example: Example, *, with_subject: bool = False) -> Row:
    """One example as a row. Without subjects, a pseudonym among the hands it went through becomes `person`."""
    made = example.provenance

    def hand(name: str) -> str:
        return "person" if PSEUDONYM.match(name) and not with_subject else name

    row: Row = {
        "address": member.address,
        "messages": as_dicts(example.messages),
        "split": member.split,
        "slice": member.slice,
        "language": example.language,
        "phrasing": example.phrasing,
        "cluster": member.cluster,
        "origin": made.origin,
        "author": hand(made.author),
        "source": made.source,
        "event": made.event,
        "filtered_by": [hand(name) for name in made.filtered_by],
        "approved_by": [hand(name) for name in made.approved_by],
        "licence": made.licence,
    }
    if with_subject:
        row |= {"subject": member.subject}
    return row


def export_version(
    ledger: Ledger,
    blobs: BlobStore,
    dataset: str,
    version: int,
    format: ExportFormat,
    out: str,
    *,
    with_subjects: bool = False,
    vacuum: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write a version to `out`: a folder, or for Delta also a URI.

    Errors: PlumblineError when the place holds something else, when the format's library is not installed, or when the
    disk refuses; then nothing is left there and what was there before is untouched.
    """
    from plumbline.feedback.datasets.delta import export_delta

    if format == "delta":
        return export_delta(ledger, blobs, dataset, version, out, with_subjects=with_subjects, vacuum=vacuum)
    if "://" in out:
        raise PlumblineError(
            f"{out} is a URI, and {format} is written to a folder",
            consequence="nothing was exported",
            remedy="name a folder with --out and copy it from there, or export with --format delta",
        )
    target = Path(out).resolve()
    writer, name = _writer(format)
    require_own_folder(target)
    register = ledger.exports
    manifest = load_manifest(ledger, blobs, dataset, version)
    begun = register.begin(manifest, format, str(target), with_subjects=with_subjects)
    try:
        with _partial(target) as folder:
            on_step("reading")
            taken = extract(ledger, blobs, begun)
            files = {}
            for split in SPLITS:
                on_step(f"writing {split}")
                file, rows = writer(folder, split, taken)
                files[file.name] = ExportedFile(sha256=file_digest(file), bytes=file.stat().st_size, rows=rows)
            written = ExportManifest(
                dataset=dataset,
                version=version,
                dataset_digest=manifest.digest,
                root=manifest.root,
                format=format,
                with_subjects=with_subjects,
                erased=len(taken.data.erased),
                withheld=taken.withheld,
                writer=name,
                files=files,
            )
            on_step("describing")
            card = gather_card(ledger, blobs, taken.data)
            (folder / CARD).write_text(markdown(card, dict(zip(SPLITS, files, strict=True))), "utf-8")
            if format == "parquet":
                described = croissant(card, files, with_subjects=with_subjects)
                (folder / CROISSANT).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", "utf-8")
            text = json.dumps({**written.canonical(), "digest": written.digest}, indent=1, sort_keys=True)
            (folder / MANIFEST).write_text(text + "\n", "utf-8")
            _move_into_place(folder, target)
    except BaseException:
        register.abandon(begun)
        raise
    done = register.complete(begun, written.digest, examples=written.examples, left_out=written.left_out)
    return Exported(done, written)


def read_manifest(folder: Path) -> ExportManifest | None:
    """The manifest of an export; None when the folder holds none that can be read."""
    try:
        return ExportManifest.from_canonical((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def damaged(folder: Path) -> list[str]:
    """Files of an export whose bytes are not those of its manifest. PlumblineError when there is no export."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise PlumblineError(
            f"{folder} holds no export",
            consequence="there is nothing to check",
            remedy="name the folder that `plumb dataset export` wrote",
        )
    return [
        name
        for name, file in sorted(manifest.files.items())
        if not (folder / name).is_file() or file_digest(folder / name) != file.sha256
    ]


# --- writers ------------------------------------------------------------------------------------------------------


def _writer(format: ExportFormat) -> tuple[Callable[[Path, Split, Extract], tuple[Path, int]], str]:
    if format == "messages":
        return _write_messages, "plumbline"
    arrow = require_arrow()
    return _write_parquet, f"pyarrow {arrow.__version__}"


def require_arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PlumblineError(
            "pyarrow is not installed",
            consequence="nothing was exported",
            remedy="pip install 'plumbline[parquet]', or export with --format messages",
        ) from error
    return pyarrow


def arrow_schema(*, with_subjects: bool) -> Any:
    """Columns of a Parquet or Delta export; see docs/datasets.md."""
    pa = require_arrow()
    text, texts = pa.string(), pa.list_(pa.string())
    message = pa.struct([pa.field("role", text, nullable=False), pa.field("content", text, nullable=False)])
    names = ("split", "slice", "language", "phrasing", "cluster", "origin", "author", "source")
    fields = [
        pa.field("address", text, nullable=False),
        pa.field("messages", pa.list_(message), nullable=False),
        *(pa.field(name, text, nullable=False) for name in names),
        pa.field("event", text),
        pa.field("filtered_by", texts, nullable=False),
        pa.field("approved_by", texts, nullable=False),
        pa.field("licence", text, nullable=False),
    ]
    return pa.schema(fields + ([pa.field("subject", text)] if with_subjects else []))


def _write_parquet(folder: Path, split: Split, taken: Extract) -> tuple[Path, int]:
    pa = require_arrow()
    schema, file, rows = arrow_schema(with_subjects=taken.with_subjects), folder / f"{split}.parquet", 0
    with pa.parquet.ParquetWriter(file, schema, compression="zstd", store_schema=False) as writer:
        for some in batches(taken.rows(split)):
            writer.write_table(pa.Table.from_pylist(list(some), schema=schema), row_group_size=ROWS)
            rows += len(some)
    return file, rows


def _write_messages(folder: Path, split: Split, taken: Extract) -> tuple[Path, int]:
    """Lines that chat trainers read; the address lets a line be found again when somebody leaves."""
    file, rows = folder / f"{split}.jsonl", 0
    kept = ("messages", "slice", "address") + (("subject",) if taken.with_subjects else ())
    with file.open("w", encoding="utf-8") as lines:
        for row in taken.rows(split):
            lines.write(json.dumps({name: row[name] for name in kept}, ensure_ascii=False) + "\n")
            rows += 1
    return file, rows


def batches(rows: Iterator[Row]) -> Iterator[Sequence[Row]]:
    some: list[Row] = []
    for row in rows:
        some.append(row)
        if len(some) == ROWS:
            yield some
            some = []
    if some:
        yield some


# --- the folder -----------------------------------------------------------------------------------------------------


def require_own_folder(target: Path) -> None:
    """An export replaces an export, or fills an empty place; it never touches anything else."""
    foreign = _foreign(target)
    while foreign and (again := _foreign(target)) != foreign:  # a neighbour's export took its place while we looked
        foreign = again
    if foreign:
        raise PlumblineError(
            f"{target} already holds something else: {', '.join(foreign[:5])}",
            consequence="nothing was exported and nothing there was touched",
            remedy="name a new folder with --out, or one that holds an export and nothing more",
        )


def _foreign(target: Path) -> list[str]:
    """Names at the target that no export of ours wrote there."""
    try:
        manifest = read_manifest(target) if target.is_dir() else None
        own = {MANIFEST, CARD, CROISSANT, *manifest.files} if manifest is not None else set()
        return sorted(item.name for item in target.iterdir() if item.name not in own)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return [target.name]


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A folder beside the target, locked while its writer lives. What killed writers left there is removed first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    start = f".{target.name}.partial-"
    for left in [item for item in target.parent.iterdir() if item.name.startswith(start)]:
        with _lock(left) as dead:
            if dead:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        folder = target.parent / f"{start}{secrets.token_hex(8)}"
        folder.mkdir()
        with _lock(folder) as held:
            if not held or not folder.exists():  # a neighbour cleaned up between the two lines above
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Whether the folder's lock could be had; it ends with the process that holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
    finally:
        os.close(handle)


def _move_into_place(folder: Path, target: Path) -> None:
    """Make the files durable, set an older export aside, and give the folder its name. A neighbour who put another
    export there meanwhile is set aside too: the last one stands."""
    for path in [*folder.iterdir(), folder]:
        fsync(path)
    asides: list[Path] = []
    while True:
        aside = folder.with_name(f"{folder.name}-old{len(asides)}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, aside)
            asides.append(aside)
        try:
            os.rename(folder, target)
            break
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            if asides:
                os.rename(asides[-1], target)
            raise
    fsync(target.parent)
    for aside in asides:
        shutil.rmtree(aside, ignore_errors=True)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
