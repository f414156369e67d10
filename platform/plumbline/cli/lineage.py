"""`plumb lineage`: from a person's event to the release that serves a policy, and back. Answers after erasure too.

Everything printed comes from the content-free skeleton in the ledger: sequences, addresses, digests, intervals.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from plumbline.cli.options import as_json, open_ledger, print_json, stores, tenant_key
from plumbline.cli.references import find_version

if TYPE_CHECKING:
    from rich.tree import Tree

    from plumbline.stores import Ledger


@click.group()
def lineage() -> None:
    """Trace a subject, an event, an example, a dataset version or a policy, both ways."""


@lineage.command()
@click.argument("identity")
@as_json
@stores
def subject(identity: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Everything that IDENTITY became part of, and the exports that still hold them.

    IDENTITY is the person as their source knows them, their pseudonym (s-...), or the digest of that pseudonym.
    """
    from plumbline.cli.trees import subject_tree
    from plumbline.stores.projections import resolve_subject

    store = open_ledger(ledger, must_exist=True)
    identity = resolve_subject(store, identity)
    found = store.lineage.of_subject(tenant_key(ledger, store, identity=identity).of(identity))
    exports = store.exports.holding(found.subject)
    if not (found.events or found.memberships or store.consent.entries(found.subject)):
        click.echo("nobody in the ledger is known by this name", err=True)
    _say(json_out, {**plain(found), "exports": list(map(plain, exports))}, lambda: subject_tree(store, found, exports))


@lineage.command()
@click.argument("address")
@as_json
@stores
def example(address: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """The example at ADDRESS: the event and the hands it came from, the versions and policies it went into."""
    from plumbline.cli.trees import example_tree

    store = open_ledger(ledger, must_exist=True)
    if re.fullmatch("sha256:[0-9a-f]{64}", address) is None:
        _unknown(f"{address!r} is no example's address", "pass it whole: sha256: and 64 hexadecimal digits")
    found = store.lineage.example(address)
    if found is None:
        _unknown(f"no dataset ever held the example {address}", "see `plumb dataset diff A B --examples` for addresses")
    reviewers = store.reviews.reviewers_of(found.event.sequence) if found.event else ()
    runs = list(map(plain, _runs(store, found.memberships)))
    in_json = {**plain(found), "runs": runs, "reviewers": list(reviewers)}
    _say(json_out, in_json, lambda: example_tree(store, found))


@lineage.command()
@click.argument("event")
@as_json
@stores
def event(event: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What an event became: EVENT is its place in the inbox, or SOURCE/ID (the id after the last slash)."""
    from plumbline.cli.trees import event_tree

    store = open_ledger(ledger, must_exist=True)
    if event.isascii() and event.isdigit() and len(event) < 19:
        found = store.lineage.events(int(event))
    else:
        source, _, name = event.rpartition("/")
        found = store.lineage.events(source=source, id=name)
    if not found:
        last = store.inbox.last_sequence()
        have = f"the inbox holds events 1 to {last}; pass a number, or SOURCE/ID" if last else "the inbox is empty"
        _unknown(f"the inbox holds no event {event!r}", have)
    said = store.reviews.reviewers_of
    in_json = [{**plain(one), "reviewers": list(said(one.event.sequence))} for one in found]
    _say(json_out, in_json, *(functools.partial(event_tree, store, one) for one in found))


@lineage.command()
@click.argument("reference")
@as_json
@stores
def dataset(reference: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What a version (NAME, NAME@3, a digest) was made of, what was made of it, and where its copies are."""
    from plumbline.cli.trees import dataset_tree

    store = open_ledger(ledger, must_exist=True)
    found = store.lineage.dataset(find_version(store, reference))
    exports = store.exports.of_version(found.version.dataset, found.version.version)
    _say(json_out, {**plain(found), "exports": list(map(plain, exports))}, lambda: dataset_tree(store, found, exports))


@lineage.command()
@click.argument("digest")
@as_json
@stores
def policy(digest: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What made a policy (a digest, its start, or a name): dataset versions, base, releases, remediation."""
    from plumbline.cli.trees import policy_tree

    store = open_ledger(ledger, must_exist=True)
    found = store.lineage.of_policy(_policy(store, digest))
    assert found is not None
    _say(json_out, plain(found), lambda: policy_tree(store, found))


def _policy(store: "Ledger", given: str) -> str:
    """A policy's digest from the digest, its first eight digits or more, or a name that one policy has."""
    known = {manifest.digest: manifest.name for manifest in store.releases.policies()}
    start = given.removeprefix("sha256:")
    fits = [one for one in known if len(start) >= 8 and one.removeprefix("sha256:").startswith(start)]
    found = fits or [one for one, name in known.items() if name == given]
    if len(found) == 1:
        return found[0]
    from plumbline.records import short

    have = ", ".join(f"{name} ({short(one)})" for one, name in list(known.items())[-8:])
    if found:
        _unknown(f"{len(found)} policies go by {given!r}", f"pass one's digest: {have}")
    remedy = f"name one of: {have}" if have else "train one, or see plumbline.json beside its weights"
    _unknown(f"the ledger knows no policy {given}", remedy)


def _runs(store: "Ledger", memberships: Any) -> list[Any]:
    found = [store.publications.find(one.dataset, one.added_in) for one in memberships]
    return [store.lineage.run(one.run_key) for one in found if one is not None]


def plain(value: Any) -> Any:
    """Records as JSON has them: named fields, also of named tuples."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _say(json_out: bool, in_json: Any, *trees: "Callable[[], Tree]") -> None:
    """JSON, or trees. A line is never cut: the terminal may wrap it, and a pipe gets it whole."""
    from rich.console import Console

    if json_out:
        print_json(in_json)
        return
    console = Console(width=1000, highlight=False, soft_wrap=True)
    for tree in trees:
        console.print(tree())


def _unknown(fact: str, remedy: str) -> NoReturn:
    from plumbline.errors import PlumblineError

    raise PlumblineError(fact, consequence="there is no lineage to print", remedy=remedy)
