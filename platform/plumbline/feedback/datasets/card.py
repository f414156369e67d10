"""The facts of a dataset card: what a version holds, whose words, by what right, and who had a hand in it.

Nothing here is written by hand, so nothing can be forgotten or flattered: every figure is counted in the manifest, the
consent ledger or the examples themselves. What the card says about them, and what no record answers, is in
card_text.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plumbline.feedback.datasets.reading import DatasetVersionData, load_manifest, verify
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.records import DatasetManifest
from plumbline.stores import BlobStore, Ledger
from plumbline.stores.departures import departures


@dataclass(frozen=True)
class ConsentSummary:
    """Of the people in a version, as of the consent ledger's entry that it was published under.

    `people` by their pseudonyms, counted; `purposes` and `notices` (id@version, language) by people; `earliest_expiry`
    of those that run out; `withdrawn` and `expired` people who were in an earlier version of the dataset and are not in
    this one.
    """

    people: int = 0
    examples_of_nobody: int = 0
    purposes: dict[str, int] = field(default_factory=dict)
    notices: dict[str, int] = field(default_factory=dict)
    earliest_expiry: str | None = None
    without_expiry: int = 0
    withdrawn: int = 0
    expired: int = 0


@dataclass(frozen=True)
class Recall:
    """Share of one class of personal data that redaction finds, with a 95 % interval, on `n` labelled places."""

    recall: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class DatasetCard:
    """All that the card says, as figures.

    `authors`, `filters` and `approvers` count examples by whose hands they went through, people as `person`; who
    approved the candidate that brought an example in approved the example. `sealed`, `accepted`, `rejected` and
    `redactions` are sums over this version and all before it; the manifest's own are those of its run. `not_shown`
    examples are in the version and not in what was read: erased, or their consent ended.
    """

    manifest: DatasetManifest
    published_at: str
    sizes: dict[str, int]
    origins: dict[str, int]
    authors: dict[str, int]
    filters: dict[str, int]
    approvers: dict[str, int]
    languages: dict[str, int]
    licences: dict[str, int]
    sources: dict[str, int]
    events: tuple[int, int] | None
    consent: ConsentSummary
    recalls: dict[str, Recall]
    problems: tuple[str, ...]
    sealed: int
    accepted: int
    rejected: dict[str, int]
    redactions: dict[str, int]
    not_shown: int
    policies: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.manifest.dataset}@{self.manifest.version}"

    @property
    def refused(self) -> int:
        return sum(self.rejected.values())


def gather_card(ledger: Ledger, blobs: BlobStore, data: DatasetVersionData) -> DatasetCard:
    """The card of a version that was read. Erased examples are counted, and nothing of them is said."""
    manifest = data.manifest
    members = [member for member, _ in data.examples]
    examples = [example for _, example in data.examples]
    run = ledger.lineage.run(manifest.run_key)
    versions = [one.version for one in ledger.publications.versions(manifest.dataset) if one.version < manifest.version]
    line = [*(load_manifest(ledger, blobs, manifest.dataset, version) for version in versions), manifest]
    agreed = {one.version: one.approved_by for one in line}
    added = {row.address: row.added_in for row in ledger.publications.members(manifest.dataset, manifest.version)}
    approvers = (
        hand
        for member, example in data.examples
        for hand in {*_hands(example.provenance.approved_by), *_hands(agreed[added[member.address]])}
    )
    return DatasetCard(
        manifest=manifest,
        published_at=ledger.lineage.published_at(data.published),
        sizes=_counted(member.split for member in members),
        origins=_counted(example.provenance.origin for example in examples),
        authors=_counted(hand for example in examples for hand in _hands([example.provenance.author])),
        filters=_counted(hand for example in examples for hand in _hands(example.provenance.filtered_by)),
        approvers=_counted(approvers),
        languages=_counted(example.language for example in examples),
        licences=_counted(example.provenance.licence for example in examples),
        sources=_counted(example.provenance.source for example in examples),
        events=None if run.from_sequence is None or run.to_sequence is None else (run.from_sequence, run.to_sequence),
        consent=consent_summary(ledger, data),
        recalls=measured_recall(),
        problems=verify(ledger, blobs, manifest).problems,
        sealed=sum(one.sealed for one in line),
        accepted=sum(one.accepted for one in line),
        rejected=_sum(one.rejected for one in line),
        redactions=_sum(one.redactions for one in line),
        not_shown=manifest.size - len(examples),
        policies=tuple(trained.name for trained in ledger.lineage.of_dataset(data.digest)),
    )


def consent_summary(ledger: Ledger, data: DatasetVersionData) -> ConsentSummary:
    """What the people in a version agreed to, as of its consent entry, in one pass over the ledger."""
    manifest = data.manifest
    subjects = {member.subject for member, _ in data.examples if member.subject is not None}
    latest: dict[str, Any] = {}
    purposes: dict[str, set[str]] = {subject: set() for subject in subjects}
    for entry in ledger.consent.entries():
        if entry.sequence > manifest.consent_sequence or entry.subject not in subjects:
            continue
        if entry.action in ("given", "reaffirmed"):
            purposes[entry.subject] |= set(entry.purposes)
            if "training" in entry.purposes:
                latest[entry.subject] = entry
        else:
            purposes[entry.subject] -= set(entry.purposes)
    expiries = sorted(entry.valid_until for entry in latest.values() if entry.valid_until is not None)
    notices = (f"{entry.notice.id}@{entry.notice.version} ({entry.notice.language})" for entry in latest.values())
    left = departures(ledger.database, ledger.consent, manifest.dataset, 0, manifest.version).values()
    return ConsentSummary(
        people=len(subjects),
        examples_of_nobody=sum(member.subject is None for member, _ in data.examples),
        purposes=_counted(purpose for found in purposes.values() for purpose in found),
        notices=_counted(notices),
        earliest_expiry=expiries[0] if expiries else None,
        without_expiry=len(latest) - len(expiries),
        withdrawn=len({one.subject for one in left if one.why == "withdrawn"}),
        expired=len({one.subject for one in left if one.why == "expired"}),
    )


def measured_recall() -> dict[str, Recall]:
    """Recall of redaction by class, measured on the labelled set that comes with the platform."""
    from plumbline.feedback.redaction.check import recall_summary

    return {
        name: Recall(float(found["recall"]), float(found["low"]), float(found["high"]), int(found["n"]))
        for name, found in recall_summary().items()
    }


def _hands(names: Iterable[str]) -> list[str]:
    """Who had a hand in an example; a pseudonym becomes `person`: the card counts people and never lists them."""
    return ["person" if PSEUDONYM.match(name) else name for name in names]


def _counted(values: Iterable[str]) -> dict[str, int]:
    """Counts, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted((+total).items(), key=lambda item: (-item[1], item[0])))
