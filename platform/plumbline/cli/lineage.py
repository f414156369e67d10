"""`plumb lineage`: from a subject to policies and back; answers after erasure too, from what has no content."""

from dataclasses import asdict
from pathlib import Path

import click

from plumbline.cli.options import open_ledger, print_json, stores, tenant_key


@click.group()
def lineage() -> None:
    """Trace a subject or a policy through events, examples, versions and releases."""


@lineage.command()
@click.argument("identity")
@stores
def subject(identity: str, ledger: Path, blobs: Path) -> None:
    """Everything that IDENTITY (or a pseudonym) became part of."""
    store = open_ledger(ledger, must_exist=True)
    print_json(asdict(store.lineage.of_subject(tenant_key(ledger, store, identity=identity).of(identity))))


@lineage.command()
@click.argument("digest")
@stores
def policy(digest: str, ledger: Path, blobs: Path) -> None:
    """What made a policy: dataset versions, base policy, releases, remediation."""
    from plumbline.errors import PlumblineError

    found = open_ledger(ledger, must_exist=True).lineage.of_policy(digest)
    if found is None:
        raise PlumblineError(
            f"the ledger knows no policy {digest}",
            consequence="there is no lineage to print",
            remedy="pass the policy's full digest (see plumbline.json beside its weights)",
        )
    print_json(asdict(found))
