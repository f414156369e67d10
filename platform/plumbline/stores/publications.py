"""The one transaction that makes a dataset version exist.

Blobs come first: immutable, durable, and invisible until a row here names them. `publish` then checks and writes
everything in one serial transaction, so that *no version published after an acknowledged withdrawal contains
that person*: a withdrawal either committed before (and is seen) or commits after (and the next version, which
only removes, follows).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from plumbline.errors import PlumblineError
from plumbline.records import DatasetChanges, DatasetManifest, Member, Split
from plumbline.records.merkle import named, raw
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Database
from plumbline.stores.payloads import Packed, Payloads
from plumbline.stores.runs import Lease, Runs
from plumbline.stores.tree import Tree, TreeChange


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


class NewExample(NamedTuple):
    """What the ledger keeps about a new member beside the manifest's own row: where it came from, and where its payload
    lies in the pack that is published with it."""

    origin: str
    event_sequence: int | None
    place: int
    length: int


@dataclass(frozen=True)
class NewExamples:
    """A version's new examples in the order of its changes, the first id reserved for them, and their pack."""

    first_id: int
    examples: tuple[NewExample, ...]
    pack: Packed


class Membership(NamedTuple):
    """One example's time in a dataset: from version `added_in` until `removed_in` (None: still there). `pack` is None
    once its payload is erased."""

    id: int
    dataset: str
    address: str
    subject: str | None
    origin: str
    split: Split
    slice: str
    cluster: str
    licence: str
    event_sequence: int | None
    pack: int | None
    place: int | None
    length: int | None
    added_in: int
    removed_in: int | None

    @property
    def facts(self) -> dict[str, str | None]:
        """What a version's changes say of the example."""
        return {
            "address": self.address, "split": self.split, "slice": self.slice, "cluster": self.cluster,
            "subject": self.subject, "licence": self.licence,
        }  # fmt: skip

    @property
    def member(self) -> Member:
        return Member.model_validate(self.facts)


@dataclass(frozen=True)
class Anchor:
    """Where somebody's published examples are: a side of the split, and a cluster."""

    subject: str
    split: Split
    cluster: str


_COLUMNS = ", ".join(Membership._fields)


class Publications:
    def __init__(self, database: Database, consent: ConsentLedger, runs: Runs, payloads: Payloads) -> None:
        self._database = database
        self._consent = consent
        self._runs = runs
        self._payloads = payloads
        self.tree = Tree(database)

    def publish(
        self,
        manifest: DatasetManifest,
        changes: DatasetChanges,
        tree: TreeChange,
        new: NewExamples | None = None,
        *,
        lease: Lease | None = None,
    ) -> Published:
        """Make a version exist, or raise and change nothing.

        `new` has an example for every added member, in their order; `tree` was planned on the parent. Publishing a run
        key again returns the version it already made. Raises StaleLease, HeadMoved, ConsentLost, PackGone, or
        PlumblineError for a manifest that does not balance or is not of these changes.
        """
        _check_arithmetic(manifest, changes, tree)
        with self._database.transaction():
            existing = self._published("SELECT * FROM publication WHERE run_key = ?", (manifest.run_key,))
            if existing is not None:
                return _of(manifest.dataset, existing)
            self._runs.check_lease(lease)
            self._check_head(manifest)
            self._check_consent(manifest, changes)
            self._write(manifest, changes, tree, new, lease)
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

    def sizes(self, dataset: str) -> dict[str, int]:
        """Examples in the head version by split; both splits are always named."""
        rows = self._database.rows(
            "SELECT split, SUM(members) AS n FROM person WHERE dataset = ? GROUP BY split", (dataset,)
        )
        return {"train": 0, "held_out": 0} | {row["split"]: int(row["n"]) for row in rows}

    def members(self, dataset: str, version: int | None = None) -> list[Membership]:
        """The examples of a version (default: the head), in address order. Reads all of them."""
        inside, parameters = "removed_in IS NULL", [dataset]
        if version is not None:
            inside = f"added_in <= {version:d} AND (removed_in IS NULL OR removed_in > {version:d})"
        found = self.memberships(f"dataset = ? AND {inside}", parameters)
        return sorted(found, key=lambda member: member.address)

    def memberships(self, where: str, parameters: Sequence[Any]) -> list[Membership]:
        """Example rows, oldest first; `where` is a literal of this package, never input."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM example WHERE {where} ORDER BY id", parameters)
        return [_membership(row) for row in rows]

    def by_ids(self, ids: Sequence[int]) -> dict[int, Membership]:
        rows = self._database.rows_in(f"SELECT {_COLUMNS} FROM example WHERE id IN ({{marks}})", ids)
        return {row["id"]: _membership(row) for row in rows}

    def places_of_events(self, ids: Sequence[int]) -> dict[int, tuple[Split, str]]:
        """Side and cluster of those of these examples that came from an event. Long conversations ask for many."""
        rows = self._database.rows_in(
            "SELECT id, split, cluster FROM example WHERE event_sequence IS NOT NULL AND id IN ({marks})", ids
        )
        return {number: (split, cluster) for number, split, cluster in rows}

    def find_address(self, address: str) -> list[Membership]:
        """Every time an example was in a dataset: looked up for heads, searched for among what was removed."""
        wanted = raw(address)
        found: list[Membership] = []
        for dataset in self.datasets():
            found += self.by_ids(list(self.tree.find(dataset, [wanted]).values())).values()
        found += self.memberships("removed_in IS NOT NULL AND address = ?", (wanted,))
        return found

    def reserve(self, count: int) -> int:
        """The first of `count` example ids that nobody else will use; those of a failed publication stay unused."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO counter VALUES ('example', ?) ON CONFLICT (name) DO UPDATE SET last = counter.last + ?",
                (count, count),
            )
            return int(self._database.value("SELECT last FROM counter WHERE name = 'example'")) - count + 1

    def in_head(self, dataset: str, addresses: Sequence[str]) -> dict[str, int]:
        """Those addresses that are in the head, with their examples' ids."""
        found = self.tree.find(dataset, [raw(address) for address in addresses])
        return {named(address): number for address, number in found.items()}

    def by_address(self, dataset: str, addresses: Sequence[str]) -> list[Membership]:
        """The head's examples at these addresses."""
        return list(self.by_ids(list(self.in_head(dataset, addresses).values())).values())

    def anchors(self, dataset: str, subjects: Sequence[str]) -> list[Anchor]:
        """On which sides, and in which clusters, people have examples that came from what they did."""
        rows = self._database.rows_in(
            "SELECT DISTINCT subject, split, cluster FROM person WHERE dataset = ? AND seed = 0"
            " AND subject IN ({marks})",
            subjects,
            before=(dataset,),
        )
        return [Anchor(row["subject"], row["split"], row["cluster"]) for row in rows]

    def with_members(self, dataset: str, subjects: Sequence[str]) -> set[str]:
        """Those of these people who have examples in the head."""
        rows = self._database.rows_in(
            "SELECT DISTINCT subject FROM person WHERE dataset = ? AND subject IN ({marks})",
            subjects,
            before=(dataset,),
        )
        return {row["subject"] for row in rows}

    def of_subjects(self, dataset: str, subjects: Sequence[str]) -> list[Membership]:
        """The head's examples of these people."""
        rows = self._database.rows_in(
            f"SELECT {_COLUMNS} FROM example WHERE dataset = ? AND removed_in IS NULL AND subject IN ({{marks}})",
            subjects,
            before=(dataset,),
        )
        return sorted((_membership(row) for row in rows), key=lambda member: member.address)

    def removed_with_words(self, dataset: str) -> list[int]:
        """Ids of examples that left the dataset and whose payloads are still there."""
        rows = self._database.rows(
            "SELECT id FROM example WHERE dataset = ? AND removed_in IS NOT NULL AND pack IS NOT NULL", (dataset,)
        )
        return [row["id"] for row in rows]

    def uncovered(self, dataset: str) -> set[str]:
        """Subjects in the head version whose consent to training no longer holds: they must be removed."""
        head = self.head(dataset)
        if head is None:
            return set()
        ended = self._consent.ended(
            "training", after=head.consent_sequence, now=self._database.clock(), checked=self._checked(head)
        )
        return self.with_members(dataset, sorted(ended))

    def _checked(self, head: Published) -> datetime:
        """When nobody in a version had lapsed: an hour before it was published, to be on the safe side."""
        at = self._database.value("SELECT published_at FROM publication WHERE digest = ?", (head.digest,))
        return datetime.fromisoformat(at) - timedelta(hours=1)

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

    def _check_consent(self, manifest: DatasetManifest, changes: DatasetChanges) -> None:
        if self._consent.head_at(manifest.consent_sequence).digest != manifest.consent_head:
            raise PlumblineError(
                f"the consent ledger has no entry {manifest.consent_sequence} with the manifest's digest",
                consequence="the version is not published: it was checked against another ledger",
                remedy="verify the consent ledger, then start the run again",
            )
        now, head = self._database.clock(), self._consent.head().sequence
        # Who stays was checked when the parent was: whatever ended since then counts, also before this candidate.
        parent = self.head(manifest.dataset)
        since = min(manifest.consent_sequence, parent.consent_sequence if parent else manifest.consent_sequence)
        added = {member.subject for member in changes.added if member.subject is not None}
        standings = self._consent.standings(sorted(added), "training")
        lost = {
            subject
            for subject in added
            if not standings[subject].covers(head, now).covered
            or standings[subject].withdrawn_between(manifest.consent_sequence, head)
        }
        checked = self._checked(parent) if parent else None
        ended = self._consent.ended("training", after=since, now=now, checked=checked)
        staying = self.with_members(manifest.dataset, sorted(ended))
        if staying:
            going = set(changes.removed)
            here = self.of_subjects(manifest.dataset, sorted(staying))
            lost |= {str(member.subject) for member in here if member.address not in going}
        if lost:
            raise ConsentLost(
                f"consent of {len(lost)} subject(s) in the candidate does not hold now",
                consequence="the candidate is not published",
                remedy="start the run again; it is built without them",
            )

    def _write(
        self,
        manifest: DatasetManifest,
        changes: DatasetChanges,
        tree: TreeChange,
        new: NewExamples | None,
        lease: Lease | None,
    ) -> None:
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
        self._remove(dataset, version, changes.removed)
        self.tree.write(dataset, tree, {} if new is None else self._add(dataset, version, changes.added, new))
        self._database.execute(
            "INSERT INTO head VALUES (?, ?, ?)"
            " ON CONFLICT (dataset) DO UPDATE SET version = excluded.version, digest = excluded.digest",
            (dataset, version, digest),
        )
        self._runs.advance_run(manifest.run_key, "published", state="published")

    def _add(self, dataset: str, version: int, added: Sequence[Member], new: NewExamples) -> dict[bytes, int]:
        """Rows for new members, with consecutive ids; the ids by address."""
        stored = self._payloads.publish(new.pack)
        addresses = [raw(member.address) for member in added]
        self._database.insert_many(
            "INSERT INTO example VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            [
                (new.first_id + number, dataset, addresses[number], member.subject, kept.origin, member.split,
                 member.slice, member.cluster, member.licence, kept.event_sequence, stored, kept.place, kept.length,
                 version)
                for number, (member, kept) in enumerate(zip(added, new.examples, strict=True))
            ],
        )  # fmt: skip
        counts: dict[tuple[str, str, str, int], int] = defaultdict(int)
        for member, kept in zip(added, new.examples, strict=True):
            counts[(member.subject or "", member.split, member.cluster, int(kept.event_sequence is None))] += 1
        self._count(dataset, counts)
        return {address: new.first_id + number for number, address in enumerate(addresses)}

    def _remove(self, dataset: str, version: int, removed: Sequence[str]) -> None:
        going = self.by_ids(list(self.in_head(dataset, removed).values()))
        self._database.insert_many(
            "UPDATE example SET removed_in = ? WHERE id = ?", [(version, number) for number in going]
        )
        gone: dict[tuple[str, str, str, int], int] = defaultdict(int)
        for member in going.values():
            gone[(member.subject or "", member.split, member.cluster, int(member.event_sequence is None))] -= 1
        self._count(dataset, gone)
        self._database.insert_many(
            "DELETE FROM person WHERE dataset = ? AND subject = ? AND split = ? AND cluster = ? AND seed = ?"
            " AND members = 0",
            [(dataset, *who) for who in gone],
        )

    def _count(self, dataset: str, changes: Mapping[tuple[str, str, str, int], int]) -> None:
        self._database.insert_many(
            "INSERT INTO person VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (dataset, subject, split, cluster, seed)"
            " DO UPDATE SET members = person.members + excluded.members",
            [(dataset, *who, count) for who, count in changes.items()],
        )

    def _published(self, sql: str, parameters: Sequence[Any], *, replayed: bool = True) -> Published | None:
        row = self._database.row(sql, parameters)
        return None if row is None else _published_row(row, replayed=replayed)


def _published_row(row: Any, *, replayed: bool = True) -> Published:
    fields = ("dataset", "version", "digest", "parent", "run_key", "consent_sequence", "reason")
    return Published(**{name: row[name] for name in fields}, replayed=replayed)


def _of(dataset: str, published: Published) -> Published:
    """A replayed publication, if it is this dataset's."""
    if published.dataset == dataset:
        return published
    raise PlumblineError(
        f"the run key {published.run_key} made version {published.version} of {published.dataset!r}",
        consequence=f"nothing was published for {dataset!r}",
        remedy="name every run by a key of its own",
    )


def _membership(row: Any) -> Membership:
    id, dataset, address, *rest = row
    return Membership(id, dataset, named(address), *rest)


def _check_arithmetic(manifest: DatasetManifest, changes: DatasetChanges, tree: TreeChange) -> None:
    if not manifest.balanced:
        raise PlumblineError(
            f"{manifest.sealed} events were sealed, but {manifest.accepted} accepted and "
            f"{sum(manifest.rejected.values())} rejected",
            consequence="the version is not published: some event is unaccounted for",
            remedy="this is a fault in plumbline; report it with the run key",
        )
    addresses = {member.address for member in changes.added}
    whole = len(addresses) == len(changes.added) and manifest.changes == changes.digest
    if not whole or manifest.root != tree.root:
        raise PlumblineError(
            "the manifest's root is not that of its parent with these changes, or a member appears twice",
            consequence="the version is not published: it could not be verified later",
            remedy="build the manifest again from its members",
        )
