"""`plumb release`: the one mutable pointer, and its history."""

import re
from pathlib import Path

import click

from plumbline.cli.options import as_json, open_ledger, print_json, stores


@click.group()
def release() -> None:
    """Which policy serves users, and why."""


@release.command()
@click.argument("name", default="default")
@as_json
@stores
def history(name: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Every move of a release, oldest first."""
    from plumbline.records import short

    entries = open_ledger(ledger, must_exist=True).releases.release_history(name)
    if json_out:
        print_json([entry.model_dump() for entry in entries])
        return
    for entry in entries:
        decision = short(entry.decision) if entry.decision else "none (first)"
        click.echo(
            f"{entry.sequence}  policy {short(entry.policy)}  decision {decision}  {entry.actor}: {entry.reason}"
        )
    if not entries:
        click.echo(f"release {name!r} names no policy yet")


@release.command()
@click.argument("policy")
@click.option("--name", default="default", show_default=True)
@click.option("--decision", help="Digest of a passing decision about POLICY.")
@click.option("--reason", required=True)
@click.option("--actor", required=True, help="Who moves it, for the record.")
@stores
def move(policy: str, name: str, decision: str | None, reason: str, actor: str, ledger: Path, blobs: Path) -> None:
    """Point the release at POLICY (a digest). Refused without a stored PASS for that very digest."""
    from plumbline.errors import PlumblineError

    if re.fullmatch("sha256:[0-9a-f]{64}", policy) is None:
        raise PlumblineError(
            f"{policy!r} is no policy's digest",
            consequence="users keep the policy they have",
            remedy="pass the full digest that `plumb train` printed: sha256: and 64 hexadecimal digits",
        )
    entry = open_ledger(ledger, must_exist=True).releases.move_release(name, policy, decision, reason, actor)
    click.echo(f"release {name!r} names {entry.policy} since move {entry.sequence}")
