"""Lineage: from a person to every release that served a policy trained on them, and back.

Answers come from a content-free skeleton (addresses, sequences, digests, intervals), so they are the same after
erasure as before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from plumbline.stores.database import Database
from plumbline.stores.publications import Membership, Publications, Published


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


class Lineage:
    def __init__(self, database: Database, publications: Publications) -> None:
        self._database = database
        self._publications = publications

    def of_subject(self, subject: str) -> SubjectLineage:
        events = self._database.rows("SELECT sequence FROM inbox WHERE subject = ? ORDER BY sequence", (subject,))
        memberships = self._publications.memberships("subject = ?", (subject,))
        trained = [member for member in memberships if member.split == "train"]
        policies = self._trained_on(self._versions(trained))
        erased = self._database.value("SELECT 1 FROM erasure WHERE subject = ?", (subject,)) is not None
        return SubjectLineage(
            subject=subject,
            events=tuple(row["sequence"] for row in events),
            memberships=tuple(memberships),
            versions=tuple(self._versions(memberships)),
            policies=tuple(policies),
            releases=self._releases(found.policy for found in policies),
            erased=erased,
        )

    def of_example(self, address: str) -> list[Membership]:
        """Every time an example was in a dataset."""
        return self._publications.memberships("address = ?", (address,))

    def of_event(self, sequence: int) -> list[Membership]:
        """The examples that an inbox event became."""
        return self._publications.memberships("event_sequence = ?", (sequence,))

    def of_dataset(self, digest: str) -> list[TrainedOn]:
        """Policies trained on a version, or built on one that was."""
        found = self._publications.by_digest(digest)
        return [] if found is None else self._trained_on([found])

    def of_policy(self, policy: str) -> PolicyLineage | None:
        row = self._database.row("SELECT * FROM policy WHERE policy = ?", (policy,))
        if row is None:
            return None
        datasets: list[tuple[str, str, int | None]] = []
        subjects: set[str] = set()
        ancestors = self._ancestors(policy)
        for trained in (policy, *ancestors):
            for use in self._database.rows(
                "SELECT DISTINCT dataset_digest FROM policy_dataset WHERE policy = ? ORDER BY dataset_digest",
                (trained,),
            ):
                version = self._publications.by_digest(use[0])
                datasets.append((use[0], version.dataset, version.version) if version else (use[0], "", None))
                subjects |= self._subjects(version) if version else set()
        flags = self._database.rows(
            "SELECT DISTINCT remediation, reason FROM remediation WHERE policy = ? ORDER BY sequence", (policy,)
        )
        return PolicyLineage(
            policy=policy,
            name=row["name"],
            base_policy=row["base_policy"],
            objective=row["objective"],
            datasets=tuple(dict.fromkeys(datasets)),
            ancestors=tuple(ancestors),
            releases=self._releases([policy]),
            subjects=len(subjects),
            remediations=tuple((flag[0], flag[1]) for flag in flags),
        )

    def _versions(self, memberships: Iterable[Membership]) -> list[Published]:
        found: dict[str, Published] = {}
        for member in memberships:
            for version in self._publications.versions(member.dataset):
                inside = version.version >= member.added_in
                if inside and (member.removed_in is None or version.version < member.removed_in):
                    found[version.digest] = version
        return sorted(found.values(), key=lambda version: (version.dataset, version.version))

    def _subjects(self, version: Published) -> set[str]:
        rows = self._database.rows(
            "SELECT DISTINCT subject FROM membership WHERE dataset = ? AND subject IS NOT NULL AND split = 'train'"
            " AND added_in <= ? AND (removed_in IS NULL OR removed_in > ?)",
            (version.dataset, version.version, version.version),
        )
        return {row["subject"] for row in rows}

    def _trained_on(self, versions: Iterable[Published]) -> list[TrainedOn]:
        direct: dict[str, str] = {}
        for version in versions:
            for row in self._database.rows(
                "SELECT policy, name FROM policy JOIN policy_dataset USING (policy) WHERE dataset_digest = ?",
                (version.digest,),
            ):
                direct[row["policy"]] = row["name"]
        through: dict[str, str] = {}
        frontier = list(direct)
        while frontier:
            base = frontier.pop()
            for row in self._database.rows("SELECT policy, name FROM policy WHERE base_policy = ?", (base,)):
                if row["policy"] not in direct and row["policy"] not in through:
                    through[row["policy"]] = row["name"]
                    frontier.append(row["policy"])
        found = [TrainedOn(policy, name, True) for policy, name in direct.items()]
        found += [TrainedOn(policy, name, False) for policy, name in through.items()]
        return sorted(found, key=lambda item: (item.name, item.policy))

    def _ancestors(self, policy: str) -> list[str]:
        chain: list[str] = []
        base = self._database.value("SELECT base_policy FROM policy WHERE policy = ?", (policy,))
        while base is not None and base not in chain:
            chain.append(base)
            base = self._database.value("SELECT base_policy FROM policy WHERE policy = ?", (base,))
        return chain

    def _releases(self, policies: Iterable[str]) -> tuple[tuple[str, int, str], ...]:
        found = []
        for policy in policies:
            rows = self._database.rows("SELECT release, sequence FROM release WHERE policy = ?", (policy,))
            found += [(row["release"], row["sequence"], policy) for row in rows]
        return tuple(sorted(found))
