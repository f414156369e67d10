"""Lineage: from a person to every release that served a policy trained on them, and back.

Answers come from a content-free skeleton (addresses, sequences, digests, intervals), so they are the same after
erasure as before it.

Nothing here walks the versions of a dataset row by row. A row says from which version until which it was in; the
intervals of a subject are merged, and the policies, which are few, are asked whether their version lies inside. So
"which policies saw this subject" costs a few steps in an index and the list of policies, however long the history is
and however many examples the person wrote.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plumbline.stores.database import Database
from plumbline.stores.publications import Membership, Publications, Published
from plumbline.stores.runs import Approval

Spans = Mapping[str, Sequence[tuple[int, int]]]  # dataset -> disjoint [first version, first version without), sorted
STILL = sys.maxsize


@dataclass(frozen=True)
class TrainedOn:
    """A policy and why it counts: `direct` when a version holding the example trained it, else through its base."""

    policy: str
    name: str
    direct: bool


@dataclass(frozen=True)
class SubjectLineage:
    """Everything that one subject's words reached. `policies` counts training splits only: held-out trains none."""

    subject: str
    events: tuple[int, ...]
    memberships: tuple[Membership, ...]
    versions: tuple[Published, ...]
    policies: tuple[TrainedOn, ...]
    releases: tuple[tuple[str, int, str], ...]
    erased: bool
    erased_at: str | None = None


@dataclass(frozen=True)
class EventTrace:
    """An inbox event without its words: who sent it when, and what the consent ledger said then."""

    sequence: int
    source: str
    id: str
    type: str
    subject: str
    received_at: str
    consent_sequence: int
    erased: bool


@dataclass(frozen=True)
class RunTrace:
    """The run behind a version: which events it sealed, and who agreed to its candidate. Seeds and imports have a key
    and no run of events."""

    run_key: str
    from_sequence: int | None = None
    to_sequence: int | None = None
    candidate: str | None = None
    approvals: tuple[Approval, ...] = ()


@dataclass(frozen=True)
class ExampleLineage:
    """One example, both ways: the event it came from, and the versions and policies it went into."""

    address: str
    memberships: tuple[Membership, ...]
    event: EventTrace | None
    versions: tuple[Published, ...]
    policies: tuple[TrainedOn, ...]
    releases: tuple[tuple[str, int, str], ...]
    erased_at: str | None


@dataclass(frozen=True)
class EventLineage:
    """One event and the examples that it became (none, when it was refused or still waits)."""

    event: EventTrace
    memberships: tuple[Membership, ...]
    versions: tuple[Published, ...]
    policies: tuple[TrainedOn, ...]
    releases: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class DatasetLineage:
    """A version: what it was made of (`ancestors`, nearest first) and what was made of it."""

    version: Published
    published_at: str
    run: RunTrace
    ancestors: tuple[Published, ...]
    policies: tuple[TrainedOn, ...]
    releases: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class PolicyLineage:
    """What made a policy: its dataset versions, its base and their versions in turn, and where it was released."""

    policy: str
    name: str
    base_policy: str | None
    objective: str | None
    datasets: tuple[tuple[str, str, int | None], ...]  # (dataset digest, dataset name, version); unknown: ("", None)
    ancestors: tuple[str, ...]
    releases: tuple[tuple[str, int, str], ...]
    subjects: int
    remediations: tuple[tuple[str, str], ...]
    descendants: tuple[TrainedOn, ...] = ()


class Lineage:
    def __init__(self, database: Database, publications: Publications) -> None:
        self._database = database
        self._publications = publications

    def policies_of(self, subject: str) -> tuple[TrainedOn, ...]:
        """Which policies saw a subject: trained on a version whose training split held them, or built on one that
        was. The question that must be quick."""
        return self._trained_on(self._trained_spans(subject))

    def of_subject(self, subject: str) -> SubjectLineage:
        events = self._database.rows("SELECT sequence FROM inbox WHERE subject = ? ORDER BY sequence", (subject,))
        memberships = self._publications.memberships("subject = ?", (subject,))
        policies = self.trained_on(memberships)
        erased_at = self.erased_at(subject)
        return SubjectLineage(
            subject=subject,
            events=tuple(row["sequence"] for row in events),
            memberships=tuple(memberships),
            versions=self._versions(_spans_of(memberships)),
            policies=policies,
            releases=self._releases(policies),
            erased=erased_at is not None,
            erased_at=erased_at,
        )

    def trained_on(self, memberships: Iterable[Membership]) -> tuple[TrainedOn, ...]:
        """Policies trained on a version whose training split held one of these examples, or built on one that was."""
        return self._trained_on(_spans_of(memberships, trained=True))

    def of_example(self, address: str) -> list[Membership]:
        """Every time an example was in a dataset."""
        return self._publications.find_address(address)

    def example(self, address: str) -> ExampleLineage | None:
        memberships = self.of_example(address)
        if not memberships:
            return None
        policies = self.trained_on(memberships)
        sequence, subject = memberships[0].event_sequence, memberships[0].subject
        return ExampleLineage(
            address=address,
            memberships=tuple(memberships),
            event=None if sequence is None else next(iter(self._events("sequence = ?", (sequence,))), None),
            versions=self._versions(_spans_of(memberships)),
            policies=policies,
            releases=self._releases(policies),
            erased_at=None if subject is None else self.erased_at(subject),
        )

    def of_event(self, sequence: int) -> list[Membership]:
        """The examples that an inbox event became."""
        return self._publications.memberships("event_sequence = ?", (sequence,))

    def events(self, sequence: int | None = None, *, source: str = "", id: str = "") -> list[EventLineage]:
        """Events by their place in the inbox, or by source and id (one id may have several types)."""
        if sequence is not None:
            found = self._events("sequence = ?", (sequence,))
        else:
            found = self._events("source = ? AND id = ?", (source, id))
        return [self._event(trace) for trace in found]

    def of_dataset(self, digest: str) -> list[TrainedOn]:
        """Policies trained on a version, or built on one that was."""
        found = self._publications.by_digest(digest)
        return [] if found is None else list(self._trained_on(_spans_of_version(found)))

    def dataset(self, published: Published) -> DatasetLineage:
        policies = self._trained_on(_spans_of_version(published))
        earlier = [v for v in self._publications.versions(published.dataset) if v.version < published.version]
        return DatasetLineage(
            version=published,
            published_at=self.published_at(published),
            run=self.run(published.run_key),
            ancestors=tuple(reversed(earlier)),
            policies=policies,
            releases=self._releases(policies),
        )

    def published_at(self, published: Published) -> str:
        return str(self._database.value("SELECT published_at FROM publication WHERE digest = ?", (published.digest,)))

    def run(self, run_key: str) -> RunTrace:
        row = self._database.row("SELECT * FROM run WHERE run_key = ?", (run_key,))
        if row is None:
            return RunTrace(run_key)
        agreed = self._database.rows(
            "SELECT approver, approved, reason FROM approval WHERE candidate = ? ORDER BY approver", (row["candidate"],)
        )
        approvals = tuple(Approval(one[0], bool(one[1]), one[2]) for one in agreed)
        return RunTrace(run_key, row["from_sequence"], row["to_sequence"], row["candidate"], approvals)

    def of_policy(self, policy: str) -> PolicyLineage | None:
        row = self._database.row("SELECT * FROM policy WHERE policy = ?", (policy,))
        if row is None:
            return None
        ancestors = self._ancestors(policy)
        datasets: list[tuple[str, str, int | None]] = []
        versions: list[tuple[str, int, int | None]] = []
        for trained in (policy, *ancestors):
            for use in self._database.rows(
                "SELECT DISTINCT dataset_digest FROM policy_dataset WHERE policy = ? ORDER BY dataset_digest",
                (trained,),
            ):
                version = self._publications.by_digest(use[0])
                datasets.append((use[0], version.dataset, version.version) if version else (use[0], "", None))
                versions += [(version.dataset, version.version, version.version + 1)] if version else []
        flags = self._database.rows(
            "SELECT remediation, reason FROM remediation WHERE policy = ? GROUP BY remediation, reason"
            " ORDER BY MIN(sequence)",
            (policy,),
        )
        return PolicyLineage(
            policy=policy,
            name=row["name"],
            base_policy=row["base_policy"],
            objective=row["objective"],
            datasets=tuple(dict.fromkeys(datasets)),
            ancestors=tuple(ancestors),
            releases=self._releases([TrainedOn(policy, row["name"], True)]),
            subjects=self._subjects(versions),
            remediations=tuple((flag[0], flag[1]) for flag in flags),
            descendants=self._built_on({policy: row["name"]}),
        )

    def erased_at(self, subject: str) -> str | None:
        """When a subject's words were last erased; None when they never were."""
        found = self._database.value("SELECT MAX(completed_at) FROM erasure WHERE subject = ?", (subject,))
        return None if found is None else str(found)

    # --- steps of the graph -----------------------------------------------------------------------------------

    def _trained_spans(self, subject: str) -> Spans:
        """When training splits held somebody, by dataset. The first example that is still there says all of the time
        after it, so of a person's many only those that left before it came are read."""
        rows: list[tuple[str, int, int | None]] = []
        theirs = "FROM example WHERE subject = ? AND split = 'train'"
        dataset = self._database.value(f"SELECT MIN(dataset) {theirs}", (subject,))
        while dataset is not None:
            held = f"{theirs} AND dataset = ?"
            still = self._database.value(
                f"SELECT added_in {held} AND removed_in IS NULL ORDER BY added_in LIMIT 1", (subject, dataset)
            )
            left = self._database.rows(
                f"SELECT DISTINCT added_in, removed_in {held} AND removed_in IS NOT NULL AND added_in < ?",
                (subject, dataset, STILL if still is None else still),
            )
            rows += [(dataset, row["added_in"], row["removed_in"]) for row in left]
            rows += [] if still is None else [(dataset, still, None)]
            dataset = self._database.value(f"SELECT MIN(dataset) {theirs} AND dataset > ?", (subject, dataset))
        return _spans(rows)

    def _event(self, trace: EventTrace) -> EventLineage:
        memberships = self.of_event(trace.sequence)
        policies = self.trained_on(memberships)
        return EventLineage(
            trace, tuple(memberships), self._versions(_spans_of(memberships)), policies, self._releases(policies)
        )

    def _events(self, where: str, parameters: Sequence[Any]) -> list[EventTrace]:
        rows = self._database.rows(
            "SELECT sequence, source, id, type, subject, received_at, consent_sequence, body IS NULL AS erased"
            f" FROM inbox WHERE {where} ORDER BY sequence",
            parameters,
        )
        return [EventTrace(**{**dict(row), "erased": bool(row["erased"])}) for row in rows]

    def _versions(self, spans: Spans) -> tuple[Published, ...]:
        """Versions inside the spans, in order: one query a dataset."""
        return tuple(
            version
            for dataset in sorted(spans)
            for version in self._publications.versions(dataset)
            if _inside(spans[dataset], version.version)
        )

    def _subjects(self, versions: Iterable[tuple[str, int, int | None]]) -> int:
        """How many people the training splits of some versions hold together."""
        found: set[str] = set()
        for dataset, first, _ in set(versions):
            rows = self._database.rows(
                "SELECT DISTINCT subject FROM example WHERE dataset = ? AND subject IS NOT NULL AND split = 'train'"
                " AND added_in <= ? AND (removed_in IS NULL OR removed_in > ?)",
                (dataset, first, first),
            )
            found |= {row["subject"] for row in rows}
        return len(found)

    def _trained_on(self, spans: Spans) -> tuple[TrainedOn, ...]:
        """Policies trained on a version inside the spans, and all that were built on them."""
        hits: set[str] = set()
        for dataset, merged in spans.items():
            rows = self._database.rows(  # the policies lead, whatever the planner thinks: they are few
                "SELECT policy_dataset.policy, publication.version FROM policy_dataset CROSS JOIN publication"
                " WHERE publication.digest = policy_dataset.dataset_digest AND publication.dataset = ?",
                (dataset,),
            )
            hits |= {row["policy"] for row in rows if _inside(merged, row["version"])}
        named = self._database.rows_in("SELECT policy, name FROM policy WHERE policy IN ({marks})", sorted(hits))
        direct = {row["policy"]: row["name"] for row in named}
        found = [TrainedOn(policy, name, True) for policy, name in direct.items()]
        return tuple(sorted([*found, *self._built_on(direct)], key=lambda item: (item.name, item.policy)))

    def _built_on(self, direct: Mapping[str, str]) -> tuple[TrainedOn, ...]:
        """Policies whose base is one of these, or one built on these, generation by generation."""
        through: dict[str, str] = {}
        frontier = list(direct)
        while frontier:
            rows = self._database.rows_in("SELECT policy, name FROM policy WHERE base_policy IN ({marks})", frontier)
            fresh = {row["policy"]: row["name"] for row in rows}
            frontier = [policy for policy in fresh if policy not in direct and policy not in through]
            through |= {policy: fresh[policy] for policy in frontier}
        return tuple(
            sorted((TrainedOn(p, n, False) for p, n in through.items()), key=lambda one: (one.name, one.policy))
        )

    def _ancestors(self, policy: str) -> list[str]:
        chain: list[str] = []
        base = self._database.value("SELECT base_policy FROM policy WHERE policy = ?", (policy,))
        while base is not None and base not in chain:
            chain.append(base)
            base = self._database.value("SELECT base_policy FROM policy WHERE policy = ?", (base,))
        return chain

    def _releases(self, policies: Iterable[TrainedOn]) -> tuple[tuple[str, int, str], ...]:
        rows = self._database.rows_in(
            "SELECT release, sequence, policy FROM release WHERE policy IN ({marks})", [one.policy for one in policies]
        )
        return tuple(sorted((row["release"], row["sequence"], row["policy"]) for row in rows))


def _spans(rows: Iterable[tuple[str, int, int | None]]) -> Spans:
    """Merge (dataset, added in, removed in) into disjoint spans by dataset."""
    merged: dict[str, list[tuple[int, int]]] = {}
    for dataset, first, removed in sorted(rows, key=lambda row: (row[0], row[1])):
        spans, end = merged.setdefault(dataset, []), STILL if removed is None else removed
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((first, end))
    return merged


def _spans_of(memberships: Iterable[Membership], *, trained: bool = False) -> Spans:
    return _spans((m.dataset, m.added_in, m.removed_in) for m in memberships if not trained or m.split == "train")


def _spans_of_version(published: Published) -> Spans:
    return {published.dataset: [(published.version, published.version + 1)]}


def _inside(spans: Sequence[tuple[int, int]], version: int) -> bool:
    at = bisect_right(spans, (version, STILL)) - 1
    return at >= 0 and version < spans[at][1]
