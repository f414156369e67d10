"""Lineage as a tree in the terminal. Foreign text is shown with its control characters made visible, never obeyed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from plumbline.cli.printing import many
from plumbline.console.words import visible
from plumbline.records import short
from plumbline.stores.departures import departures

if TYPE_CHECKING:
    from plumbline.stores import Ledger, Membership, Published, TrainedOn
    from plumbline.stores.exports import Export
    from plumbline.stores.lineage import (
        DatasetLineage,
        EventLineage,
        EventTrace,
        ExampleLineage,
        PolicyLineage,
        SubjectLineage,
    )

SHOWN = 20  # of a kind; --json lists all


def subject_tree(store: "Ledger", found: "SubjectLineage", exports: "Sequence[Export]") -> Tree:
    tree = _root(found.subject, _erased(found.erased_at))
    events = _branch(tree, many(len(found.events), "event"))
    for sequence in found.events[:SHOWN]:
        events.add(_line(f"event {sequence}{_reviewed(store, sequence)}"))
    _more(events, len(found.events))
    examples = _branch(tree, many(len(found.memberships), "example"))
    for one in found.memberships[:SHOWN]:
        examples.add(_line(f"{one.address}  {_stay(one)}"))
    _more(examples, len(found.memberships))
    _versions(tree, store, found.versions)
    _policies(tree, store, found.policies, found.releases, subject=found.subject)
    _exports(tree, exports, "of their words left the house: delete, or export again")
    return tree


def example_tree(store: "Ledger", found: "ExampleLineage") -> Tree:
    first = found.memberships[0]
    tree = _root(found.address, _erased(found.erased_at))
    if found.event is None:
        tree.add(_line(f"from no event: {first.origin}, licence {visible(first.licence)}"))
    else:
        _event(tree, store, found.event)
    if first.subject is not None:
        tree.add(_line(f"carried by the consent of {first.subject}"))
    for one in found.memberships:
        stay = _branch(tree, _stay(one) + _left(store, one))
        _run(stay, store, store.publications.find(one.dataset, one.added_in))
    _policies(tree, store, found.policies, found.releases, subject=first.subject)
    return tree


def event_tree(store: "Ledger", found: "EventLineage") -> Tree:
    event = found.event
    tree = _root(f"event {event.sequence}", "words erased" if event.erased else "")
    _event(tree, store, event)
    tree.add(_line(f"of {event.subject}, under entry {event.consent_sequence} of the consent ledger"))
    if not found.memberships:
        tree.add(_line("no example was made of it: it was refused, is a signal only, or still waits"))
    for one in found.memberships:
        tree.add(_line(f"{one.address}  {_stay(one)}"))
    _versions(tree, store, found.versions)
    _policies(tree, store, found.policies, found.releases, subject=event.subject)
    return tree


def dataset_tree(store: "Ledger", found: "DatasetLineage", exports: "Sequence[Export]") -> Tree:
    version = found.version
    tree = _root(_name(version), f"{version.digest}, published {found.published_at[:19]}")
    _run(tree, store, version)
    before = _branch(tree, f"made from {many(len(found.ancestors), 'earlier version')}")
    for one in found.ancestors[:SHOWN]:
        before.add(_line(f"{_name(one)}  {short(one.digest)}  {one.reason}"))
    _more(before, len(found.ancestors))
    _policies(tree, store, found.policies, found.releases)
    _exports(tree, exports, "of it left the house")
    return tree


def policy_tree(store: "Ledger", found: "PolicyLineage") -> Tree:
    tree = _root(visible(found.name), found.policy)
    if found.objective:
        tree.add(_line(f"objective {found.objective}"))
    people = many(found.subjects, "person", "people")
    made = _branch(tree, f"trained on {many(len(found.datasets), 'version')}, its bases' included: {people}")
    for digest, dataset, number in found.datasets[:SHOWN]:
        version = store.publications.by_digest(digest)
        node = _branch(
            made, f"{visible(dataset)}@{number}  {short(digest)}" if dataset else f"{digest}  not in this ledger"
        )
        _run(node, store, version)
    _more(made, len(found.datasets))
    bases = _branch(tree, f"built on {many(len(found.ancestors), 'policy', 'policies')}")
    for ancestor in found.ancestors:
        manifest = store.releases.policy(ancestor)
        bases.add(_line(f"{visible(manifest.name) if manifest else 'not in this ledger'}  {short(ancestor)}"))
    _policies(tree, store, found.descendants, (), what="built on it")
    for release, sequence, _ in found.releases:
        tree.add(_line(f"released as {visible(release)}, move {sequence}"))
    for remediation, reason in found.remediations:
        tree.add(_line(f"flagged: {remediation}, because {visible(reason)}"))
    return tree


# --- branches -----------------------------------------------------------------------------------------------------


def _event(tree: Tree, store: "Ledger", event: "EventTrace") -> None:
    kind = event.type.rsplit(".", 1)[-1]
    node = _branch(tree, f"from event {event.sequence}: {visible(event.source)}/{visible(event.id)}, a {kind}")
    node.add(_line(f"received {event.received_at[:19]}{', its words are erased' if event.erased else ''}"))
    reviewers = store.reviews.reviewers_of(event.sequence)
    if reviewers:
        node.add(_line(f"answer approved by {', '.join(visible(name) for name in reviewers)}"))


def _run(tree: Tree, store: "Ledger", version: "Published | None") -> None:
    """The run that made a version, and who agreed."""
    if version is None:
        return
    run = store.lineage.run(version.run_key)
    events = f"events {run.from_sequence} to {run.to_sequence}" if run.to_sequence else f"no events ({version.reason})"
    node = _branch(tree, f"run {short(run.run_key)}: {events}")
    for one in run.approvals:
        word = "approved" if one.approved else "refused"
        node.add(
            _line(f"candidate {short(run.candidate or '')} {word} by {visible(one.approver)}: {visible(one.reason)}")
        )


def _versions(tree: Tree, store: "Ledger", versions: "Sequence[Published]") -> None:
    node = _branch(tree, many(len(versions), "dataset version"))
    for version in versions[:SHOWN]:
        _run(_branch(node, f"{_name(version)}  {short(version.digest)}"), store, version)
    _more(node, len(versions))


def _policies(
    tree: Tree,
    store: "Ledger",
    policies: "Sequence[TrainedOn]",
    releases: Sequence[tuple[str, int, str]],
    *,
    subject: str | None = None,
    what: str = "trained on it",
) -> None:
    node = _branch(tree, f"{many(len(policies), 'policy', 'policies')} {what}")
    for one in policies[:SHOWN]:
        how = "" if one.direct else "  through its base"
        policy = _branch(node, f"{visible(one.name)}  {short(one.policy)}{how}")
        for release, sequence, policy_digest in releases:
            if policy_digest == one.policy:
                policy.add(_line(f"released as {visible(release)}, move {sequence}"))
        if subject is not None:
            for flagged, remediation, reason in store.releases.flags(one.policy):
                if flagged == subject:
                    policy.add(_line(f"flagged: {remediation}, because {visible(reason)}"))
    _more(node, len(policies))


def _exports(tree: Tree, exports: "Sequence[Export]", what: str) -> None:
    if not exports:
        return
    node = _branch(tree, f"{many(len(exports), 'copy', 'copies')} {what}")
    for one in exports:
        gone = f"  {one.ended_because} {str(one.ended_at)[:19]}" if one.ended_at else ""
        node.add(_line(f"{visible(one.location)}  {one.format} of {visible(one.dataset)}@{one.version}{gone}"))


def _stay(one: "Membership") -> str:
    """An example's time in a dataset, in words."""
    last = one.removed_in - 1 if one.removed_in is not None else None
    until = " on" if last is None else " only" if last == one.added_in else f" to @{last}"
    event = f", event {one.event_sequence}" if one.event_sequence is not None else ""
    side = "train" if one.split == "train" else "held-out"
    return f"{visible(one.dataset)}@{one.added_in}{until}, {side}, {visible(one.slice)}, {one.origin}{event}"


def _left(store: "Ledger", one: "Membership") -> str:
    """Why an example left, as the consent ledger has it."""
    if one.removed_in is None:
        return ""
    gone = departures(store.database, store.consent, one.dataset, one.removed_in - 1, one.removed_in)
    return f"; left in version {one.removed_in}: {gone[one.address].why}" if one.address in gone else ""


def _reviewed(store: "Ledger", sequence: int) -> str:
    names = store.reviews.reviewers_of(sequence)
    return f", answer approved by {', '.join(visible(name) for name in names)}" if names else ""


def _name(version: "Published") -> str:
    return f"{visible(version.dataset)}@{version.version}"


def _erased(at: str | None) -> str:
    return f"erased on {at[:10]}" if at else ""


def _root(name: str, said: str) -> Tree:
    return Tree(Text.assemble((name, "bold"), f"  {said}" if said else ""))


def _branch(tree: Tree, said: str) -> Tree:
    return tree.add(Text(said))


def _line(said: str) -> Text:
    return Text(said)


def _more(tree: Tree, count: int) -> None:
    if count > SHOWN:
        tree.add(Text(f"and {count - SHOWN} more; --json lists all", style="dim"))
