"""The register of exports: copies that erasure does not reach, so that somebody can.

An export is written down before its first byte, like a payload: even what a killed export left behind is on the list.
It stays there until the place holds a newer one, or until a person says that it is gone. Whether it holds somebody is a
question about order: an export that was made after their withdrawal left them out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from plumbline.errors import PlumblineError
from plumbline.records import DatasetManifest
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Database

ExportFormat = Literal["parquet", "messages", "delta"]
FORMATS: tuple[str, ...] = get_args(ExportFormat)


@dataclass(frozen=True)
class Export:
    """One copy of a version outside ledger and blobs.

    `location` is an absolute path or a URI. `digest`, `examples` and `left_out` (people whose consent had ended, or
    whose words were erased) are None while it is being written, or for ever when it was killed. `ended_at` is set once
    the copy is gone.
    """

    sequence: int
    dataset: str
    version: int
    dataset_digest: str
    format: ExportFormat
    location: str
    with_subjects: bool
    consent_sequence: int
    begun_at: str
    digest: str | None = None
    examples: int | None = None
    left_out: int | None = None
    ended_at: str | None = None
    ended_because: str | None = None


class Exports:
    def __init__(self, database: Database, consent: ConsentLedger) -> None:
        self._database = database
        self._consent = consent

    def begin(
        self, manifest: DatasetManifest, format: ExportFormat, location: str, *, with_subjects: bool = False
    ) -> Export:
        """Note that a copy is about to be written. What it must heed is the consent ledger as it stands now."""
        with self._database.transaction():
            sequence = self._database.insert(
                "export",
                dataset=manifest.dataset,
                version=manifest.version,
                dataset_digest=manifest.digest,
                format=format,
                location=location,
                with_subjects=int(with_subjects),
                consent_sequence=self._consent.head().sequence,
                begun_at=self._database.now(),
            )
            (begun,) = self._exports("sequence = ?", (sequence,))
            return begun

    def complete(self, export: Export, digest: str, *, examples: int, left_out: int, replaces: bool = True) -> Export:
        """Note what was written. With `replaces`, older copies at the same place are over: their bytes are gone."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE export SET digest = ?, examples = ?, left_out = ? WHERE sequence = ?",
                (digest, examples, left_out, export.sequence),
            )
            if replaces:
                self._end("location = ? AND sequence < ?", (export.location, export.sequence), "replaced")
            (completed,) = self._exports("sequence = ?", (export.sequence,))
            return completed

    def end(self, location: str, because: str) -> list[Export]:
        """Somebody deleted the copies at a place. PlumblineError when none is on the list."""
        with self._database.transaction():
            ended = self._exports("location = ? AND ended_at IS NULL", (location,))
            if not ended:
                standing = sorted({export.location for export in self.standing()})
                raise PlumblineError(
                    f"no export at {location} is on the list",
                    consequence="nothing was changed",
                    remedy=f"name one of: {', '.join(standing)}" if standing else "there is none to name",
                )
            self._end("location = ?", (location,), because)
            return self._exports(f"sequence IN ({', '.join('?' * len(ended))})", [one.sequence for one in ended])

    def standing(self, dataset: str | None = None) -> list[Export]:
        """Copies that may still be there, oldest first."""
        if dataset is None:
            return self._exports("ended_at IS NULL", ())
        return self._exports("ended_at IS NULL AND dataset = ?", (dataset,))

    def abandon(self, export: Export) -> None:
        """What a failed export wrote was removed again."""
        self._end("sequence = ?", (export.sequence,), "not finished")

    def of_version(self, dataset: str, version: int) -> list[Export]:
        return self._exports("dataset = ? AND version = ?", (dataset, version))

    def holding(self, subject: str) -> list[Export]:
        """Copies that may still be there and hold a subject's words: what to delete or to export again."""
        stays = self._database.rows(
            "SELECT DISTINCT dataset, added_in, removed_in FROM example WHERE subject = ?", (subject,)
        )
        return [
            export
            for export in self.standing()
            if any(
                stay["dataset"] == export.dataset
                and stay["added_in"] <= export.version
                and (stay["removed_in"] is None or export.version < stay["removed_in"])
                for stay in stays
            )
            and not self.withheld([subject], export)
        ]

    def withheld(self, subjects: Iterable[str], export: Export) -> set[str]:
        """Whose words an export leaves out: consent did not hold when it was begun, or was withdrawn since the version
        was published (a later consent does not bring old words back)."""
        published = self._database.value(
            "SELECT consent_sequence FROM publication WHERE dataset = ? AND version = ?",
            (export.dataset, export.version),
        )
        at, since = export.consent_sequence, int(published or 0)
        standings = self._consent.standings(sorted(set(subjects)), "training")
        return {
            subject
            for subject, standing in standings.items()
            if standing.withdrawn_between(since, at) or not standing.covers(at, export.begun_at).covered
        }

    def _end(self, where: str, parameters: tuple[Any, ...], because: str) -> None:
        self._database.execute(
            f"UPDATE export SET ended_at = ?, ended_because = ? WHERE ended_at IS NULL AND {where}",
            (self._database.now(), because, *parameters),
        )

    def _exports(self, where: str, parameters: Any) -> list[Export]:
        rows = self._database.rows(f"SELECT * FROM export WHERE {where} ORDER BY sequence", parameters)
        return [Export(**{**dict(row), "with_subjects": bool(row["with_subjects"])}) for row in rows]
