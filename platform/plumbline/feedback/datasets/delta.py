"""Delta: a table that shows one version of a dataset, for those who read with Spark, DuckDB or Polars.

The table is a projection; its log is no evidence. Two measured traps shape the recipe:

- delta-rs does not make a repeated transaction id idempotent: two writers that follow each other with the same id both
  add their rows. So the handle is opened, *it* is asked which transaction it has seen, and the write goes through that
  same handle. A rival between the two makes the write fail, and the question is asked again.
- delta-rs does not fsync on a local directory. So we do, file by file.

The transaction number is (version, examples left out), and grows with both: the same version adds nothing, an older
version is refused, and the same version after an erasure replaces what the table showed. Files that older commits name
stay until a VACUUM; until then the ledger lists the older copies as standing.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.feedback.datasets.export import (
    SPLITS,
    Exported,
    ExportManifest,
    Extract,
    arrow_schema,
    batches,
    extract,
    fsync,
    require_arrow,
)
from plumbline.feedback.datasets.reading import load_manifest
from plumbline.stores import BlobStore, Ledger

APP = "plumbline"
LEFT_OUT_BITS = 32
ATTEMPTS = 5


def export_delta(
    ledger: Ledger,
    blobs: BlobStore,
    dataset: str,
    version: int,
    out: str,
    *,
    with_subjects: bool = False,
    vacuum: bool = False,
) -> Exported:
    """Make the table at a folder or URI show a version. With `vacuum`, files of older commits are deleted at once."""
    deltalake = require_deltalake()
    arrow = require_arrow()
    location = out if "://" in out else str(Path(out).resolve())
    manifest = load_manifest(ledger, blobs, dataset, version)
    schema = arrow_schema(with_subjects=with_subjects)
    handle = _open(deltalake, location, dataset, schema)
    register = ledger.exports
    begun = register.begin(manifest, "delta", location, with_subjects=with_subjects)
    try:
        taken = extract(ledger, blobs, begun)
        written = ExportManifest(
            dataset=dataset,
            version=version,
            dataset_digest=manifest.digest,
            root=manifest.root,
            format="delta",
            with_subjects=with_subjects,
            erased=len(taken.data.erased),
            withheld=taken.withheld,
            writer=f"deltalake {deltalake.__version__}",
            files={},
        )
        added = _show(deltalake, arrow, handle, location, schema, taken, written)
        if vacuum:
            handle = deltalake.DeltaTable(location)
            handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    except BaseException:
        register.abandon(begun)
        raise
    if not added and not vacuum:
        register.abandon(begun)
        standing = [one for one in register.of_version(dataset, version) if one.location == location and one.digest]
        return Exported(standing[-1] if standing else begun, written, added=False)
    done = register.complete(
        begun, written.digest, examples=len(taken.data.examples), left_out=written.left_out, replaces=vacuum
    )
    return Exported(done, written, added=added)


def transaction(written: ExportManifest) -> int:
    """What the table has seen, as one number: the version, then how many of its examples are gone."""
    return (written.version << LEFT_OUT_BITS) + written.left_out


def require_deltalake() -> Any:
    try:
        import deltalake
    except ImportError as error:
        raise PlumblineError(
            "deltalake is not installed",
            consequence="nothing was exported",
            remedy="pip install 'plumbline[delta]', or export with --format parquet",
        ) from error
    return deltalake


def _show(
    deltalake: Any, arrow: Any, handle: Any, location: str, schema: Any, taken: Extract, written: ExportManifest
) -> bool:
    """Write through the handle that was asked. False when the table shows this already."""
    app, number = f"{APP}/{written.dataset}", transaction(written)
    for _ in range(ATTEMPTS):
        seen = handle.transaction_version(app)
        if seen == number and _shape(handle) == schema.names:
            return False
        if seen is not None and seen >> LEFT_OUT_BITS > written.version:
            raise PlumblineError(
                f"the table at {location} shows version {seen >> LEFT_OUT_BITS} of {written.dataset}",
                consequence=f"version {written.version} was not exported over a newer one",
                remedy="export the newer version, or name another place with --out",
            )
        properties = deltalake.CommitProperties(
            app_transactions=[deltalake.Transaction(app, number)],
            custom_metadata={"plumbline.export": written.digest, "plumbline.dataset": written.dataset_digest},
            max_commit_retries=0,
        )
        table = (arrow.RecordBatch.from_pylist(list(some), schema=schema) for some in _batches(taken))
        try:
            deltalake.write_deltalake(
                handle,
                arrow.RecordBatchReader.from_batches(schema, table),
                mode="overwrite",
                schema_mode="overwrite",
                commit_properties=properties,
            )
        except deltalake.exceptions.CommitFailedError:
            handle = deltalake.DeltaTable(location)  # a rival committed: ask again what the table shows now
            continue
        if "://" not in location:
            _make_durable(Path(location))
        return True
    raise PlumblineError(
        f"the table at {location} is being written by somebody else",
        consequence="the version was not exported; the table is as the other writer left it",
        remedy="wait for the other writer and start the same command again",
    )


def _batches(taken: Extract) -> Iterator[Any]:
    return batches(itertools.chain.from_iterable(taken.rows(split) for split in SPLITS))


def _open(deltalake: Any, location: str, dataset: str, schema: Any) -> Any:
    """The dataset's table, made empty when the place is. What belongs to somebody else is refused."""
    name = f"{APP}/{dataset}"
    if not deltalake.DeltaTable.is_deltatable(location):
        there = Path(location)
        if "://" not in location and there.exists() and (not there.is_dir() or any(there.iterdir())):
            raise _foreign(location, "something that is no Delta table")
        try:
            deltalake.DeltaTable.create(location, schema, mode="error", name=name)
        except deltalake.exceptions.DeltaError:
            if not deltalake.DeltaTable.is_deltatable(location):  # else a rival made it first
                raise
    handle = deltalake.DeltaTable(location)
    if handle.metadata().name != name:
        raise _foreign(location, f"the table {handle.metadata().name or 'of somebody else'}")
    return handle


def _foreign(location: str, what: str) -> PlumblineError:
    return PlumblineError(
        f"{location} already holds {what}",
        consequence="nothing was exported and nothing there was touched",
        remedy="name an empty place with --out, or the dataset's own table",
    )


def _shape(handle: Any) -> list[str]:
    return [field.name for field in handle.schema().fields]


def _make_durable(table: Path) -> None:
    for folder, _, files in os.walk(table):
        for name in files:
            fsync(Path(folder) / name)
        fsync(Path(folder))
