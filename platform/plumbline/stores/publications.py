"""The one transaction that makes a dataset version exist.

Blobs come first: immutable, durable, and invisible until a row here names them. `publish` then checks and writes
everything in one serial transaction, so that *no version published after an acknowledged withdrawal contains
that person*: a withdrawal either committed before (and is seen) or commits after (and the next version, which
only removes, follows).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.records import DatasetManifest, Split
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Database
from plumbline.stores.runs import Lease, Runs


class ConsentLost(PlumblineError):
    """Consent of somebody in the candidate ended since it was built: build it again without them."""


class HeadMoved(PlumblineError):
    """Another version was published on the candidate's parent: build the candidate again on the new head."""


@dataclass(frozen=True)
class Published:
    """A row of the publication table. `replayed` is true when it was there before the call that returns it."""

    dataset: str
    version: int
    digest: str
    parent: str | None
    run_key: str
    consent_sequence: int
    reason: str
    replayed: bool = False


@dataclass(frozen=True)
class Signature:
    """Keyed hashes that find equal and similar texts again without keeping the text. Erased with the example."""

    text_key: str
    prompt_key: str
    conversation_key: str
    bands: bytes


@dataclass(frozen=True)
class MemberDetail:
    """What the ledger keeps about a new member beside the manifest's own row."""

    origin: str
    signature: Signature
    event_sequence: int | None = None


@dataclass(frozen=True)
class Membership:
    """One example's time in a dataset: from version `added_in` until `removed_in` (None: still there)."""

    dataset: str
    address: str
    subject: str | None
    origin: str
    split: Split
    slice: str
    cluster: str
    event_sequence: int | None
    added_in: int
    removed_in: int | None


class Publications:
    def __init__(self, database: Database, consent: ConsentLedger, runs: Runs) -> None:
        self._database = database
        self._consent = consent
        self._runs = runs

    def publish(
        self, manifest: DatasetManifest, details: Mapping[str, MemberDetail], *, lease: Lease | None = None
    ) -> Published:
        """Make a version exist, or raise and change nothing.

        `details` has an entry for every member that the parent does not have. Publishing a run key again returns
        the version it already made. Raises StaleLease, HeadMoved, ConsentLost, or PlumblineError for a manifest
        that does not balance or whose root is not its members'.
        """
        _check_arithmetic(manifest)
        with self._database.transaction():
            existing = self._published("SELECT * FROM publication WHERE run_key = ?", (manifest.run_key,))
            if existing is not None:
                return existing
            self._runs.check_lease(lease)
            self._check_head(manifest)
            self._check_consent(manifest)
            self._write(manifest, details, lease)
            found = self._published("SELECT * FROM publication WHERE run_key = ?", (manifest.run_key,), replayed=False)
            assert found is not None
            return found

    def head(self, dataset: str) -> Published | None:
        return self._published(
            "SELECT publication.* FROM publication JOIN head USING (dataset, version) WHERE dataset = ?", (dataset,)
        )

    def find(self, dataset: str, version: int | str | None = None) -> Published | None:
        """A version by number or digest; the head when none is named."""
        if version is None:
            return self.head(dataset)
        column = "version" if isinstance(version, int) else "digest"
        return self._published(f"SELECT * FROM publication WHERE dataset = ? AND {column} = ?", (dataset, version))

    def by_digest(self, digest: str) -> Published | None:
        return self._published("SELECT * FROM publication WHERE digest = ?", (digest,))

    def by_run(self, run_key: str) -> Published | None:
        return self._published("SELECT * FROM publication WHERE run_key = ?", (run_key,))

    def versions(self, dataset: str) -> list[Published]:
        rows = self._database.rows("SELECT * FROM publication WHERE dataset = ? ORDER BY version", (dataset,))
        return [_published_row(row) for row in rows]

    def datasets(self) -> list[str]:
        return [row[0] for row in self._database.rows("SELECT dataset FROM head ORDER BY dataset")]

    def current_members(self, dataset: str) -> list[Membership]:
        return self.memberships("dataset = ? AND removed_in IS NULL", (dataset,))

    def sizes(self, dataset: str) -> dict[str, int]:
        """Examples in the head version by split; both splits are always named."""
        rows = self._database.rows(
            "SELECT split, COUNT(*) FROM membership WHERE dataset = ? AND removed_in IS NULL GROUP BY split", (dataset,)
        )
        return {"train": 0, "held_out": 0} | {row[0]: row[1] for row in rows}

    def memberships(self, where: str, parameters: Sequence[Any]) -> list[Membership]:
        """Membership rows; `where` is a literal of this package, never input."""
        rows = self._database.rows(f"SELECT * FROM membership WHERE {where} ORDER BY dataset, address", parameters)
        return [Membership(**dict(row)) for row in rows]

    def uncovered(self, dataset: str) -> set[str]:
        """Subjects in the head version whose consent to training no longer holds: they must be removed."""
        head = self.head(dataset)
        if head is None:
            return set()
        subjects = {member.subject for member in self.current_members(dataset) if member.subject is not None}
        return self._lost(subjects, head.consent_sequence)

    # --- the checks and writes of `publish` -------------------------------------------------------------------

    def _check_head(self, manifest: DatasetManifest) -> None:
        head = self.head(manifest.dataset)
        version, digest = (head.version, head.digest) if head is not None else (0, None)
        if manifest.version != version + 1 or manifest.parent != digest:
            raise HeadMoved(
                f"{manifest.dataset} stands at version {version}, not at the parent of this candidate",
                consequence="the candidate is not published: it was built on an older head",
                remedy="start the run again; it is built on the new head",
            )

    def _check_consent(self, manifest: DatasetManifest) -> None:
        if self._consent.head_at(manifest.consent_sequence).digest != manifest.consent_head:
            raise PlumblineError(
                f"the consent ledger has no entry {manifest.consent_sequence} with the manifest's digest",
                consequence="the version is not published: it was checked against another ledger",
                remedy="verify the consent ledger, then start the run again",
            )
        subjects = {member.subject for member in manifest.members if member.subject is not None}
        lost = self._lost(subjects, manifest.consent_sequence)
        if lost:
            raise ConsentLost(
                f"consent of {len(lost)} subject(s) in the candidate does not hold now",
                consequence="the candidate is not published",
                remedy="start the run again; it is built without them",
            )

    def _lost(self, subjects: set[str], since: int) -> set[str]:
        now, head = self._database.clock(), self._consent.head().sequence
        withdrawn = self._consent.withdrawn_between("training", since, head)
        return {
            subject
            for subject in subjects
            if subject in withdrawn or not self._consent.covers(subject, "training", head, now).covered
        }

    def _write(self, manifest: DatasetManifest, details: Mapping[str, MemberDetail], lease: Lease | None) -> None:
        dataset, version, digest = manifest.dataset, manifest.version, manifest.digest
        self._database.insert(
            "publication",
            dataset=dataset,
            version=version,
            digest=digest,
            parent=manifest.parent,
            run_key=manifest.run_key,
            root=manifest.root,
            reason=manifest.reason,
            consent_sequence=manifest.consent_sequence,
            consent_head=manifest.consent_head,
            fencing_token=0 if lease is None else lease.token,
            published_at=self._database.now(),
        )
        members = {member.address: member for member in manifest.members}
        current = {member.address for member in self.current_members(dataset)}
        self._database.insert_many(
            "UPDATE membership SET removed_in = ? WHERE dataset = ? AND address = ? AND removed_in IS NULL",
            [(version, dataset, address) for address in sorted(current - members.keys())],
        )
        added = [(member, details[address]) for address, member in members.items() if address not in current]
        self._database.insert_many(
            "INSERT INTO membership VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            [
                (dataset, new.address, new.subject, kept.origin, new.split, new.slice, new.cluster,
                 kept.event_sequence, version)
                for new, kept in added
            ],
        )  # fmt: skip
        self._database.insert_many(
            "INSERT INTO signature VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (new.address, dataset, kept.signature.text_key, kept.signature.prompt_key,
                 kept.signature.conversation_key, kept.signature.bands)
                for new, kept in added
            ],
        )  # fmt: skip
        self._database.execute(
            "INSERT INTO head VALUES (?, ?, ?)"
            " ON CONFLICT (dataset) DO UPDATE SET version = excluded.version, digest = excluded.digest",
            (dataset, version, digest),
        )
        self._runs.advance_run(manifest.run_key, "published", state="published")

    def _published(self, sql: str, parameters: Sequence[Any], *, replayed: bool = True) -> Published | None:
        row = self._database.row(sql, parameters)
        return None if row is None else _published_row(row, replayed=replayed)


def _published_row(row: Any, *, replayed: bool = True) -> Published:
    fields = ("dataset", "version", "digest", "parent", "run_key", "consent_sequence", "reason")
    return Published(**{name: row[name] for name in fields}, replayed=replayed)


def _check_arithmetic(manifest: DatasetManifest) -> None:
    if not manifest.balanced:
        raise PlumblineError(
            f"{manifest.sealed} events were sealed, but {manifest.accepted} accepted and "
            f"{sum(manifest.rejected.values())} rejected",
            consequence="the version is not published: some event is unaccounted for",
            remedy="this is a fault in plumbline; report it with the run key",
        )
    addresses = {member.address for member in manifest.members}
    if len(addresses) != len(manifest.members) or manifest.computed_root() != manifest.root:
        raise PlumblineError(
            "the manifest's root is not the Merkle root of its members, or a member appears twice",
            consequence="the version is not published: it could not be verified later",
            remedy="build the manifest again from its members",
        )
