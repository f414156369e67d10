"""`plumb release`: the one mutable pointer, and its history."""

import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.options import as_json, open_ledger, print_json, stores

if TYPE_CHECKING:
    from plumbline.records.shadow import ReleaseAudit
    from plumbline.stores.release_requests import Refused


@click.group()
def release() -> None:
    """Which policy serves users, and why."""


@release.command()
@click.argument("name", default="default")
@click.option("--refused", is_flag=True, help="Instead: requests by a Release object that the operator refused.")
@as_json
@stores
def history(name: str, refused: bool, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Every move of a release, oldest first, and what allowed it."""
    opened = open_ledger(ledger, must_exist=True)
    entries, refusals = opened.releases.release_audit(name), opened.release_requests.refused(name)
    if json_out:
        print_json([asdict(one) for one in refusals] if refused else [entry.model_dump() for entry in entries])
        return
    for line in map(unmoved, refusals) if refused else map(said, entries):
        click.echo(line)
    if refused and not refusals:
        click.echo(f"no request to move release {name!r} was refused")
    elif not refused and not entries:
        click.echo(f"release {name!r} names no policy yet")
    elif not refused and refusals:
        many = "1 request by object was" if len(refusals) == 1 else f"{len(refusals)} requests by object were"
        click.echo(f"{many} refused: --refused shows them", err=True)


@release.command()
@click.argument("policy")
@click.option("--name", default="default", show_default=True)
@click.option("--decision", help="Digest of a passing gate decision about POLICY (default: the newest about it).")
@click.option(
    "--max-age",
    type=click.IntRange(1, 3650),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="The oldest shadow verdict to rest on.",
)
@click.option("--without-shadow", metavar="REASON", help="Promote without a shadow verdict; REASON is kept for good.")
@click.option("--reason", required=True)
@click.option("--actor", required=True, help="Who promotes it, for the record.")
@as_json
@stores
def promote(
    policy: str,
    name: str,
    decision: str | None,
    max_age: int,
    without_shadow: str | None,
    reason: str,
    actor: str,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Give POLICY (a digest) to users: with a gate decision and a shadow verdict that say PASS about that very digest.

    Both compare it with what users have now. The first policy of a release needs neither.
    """
    from plumbline.errors import PlumblineError

    _require_digest(policy)
    if without_shadow is not None and not without_shadow.strip():
        raise PlumblineError(
            "--without-shadow gives no reason",
            consequence="users keep the policy they have",
            remedy="say why there is no shadow verdict; the reason stays in the release's history",
        )
    entry = open_ledger(ledger, must_exist=True).releases.promote(
        name,
        policy,
        decision=decision,
        without_shadow=without_shadow,
        max_age=timedelta(days=max_age),
        reason=reason,
        actor=actor,
    )
    _show(entry, json_out)


@release.command()
@click.option("--name", default="default", show_default=True)
@click.option("--to", metavar="POLICY", help="Digest of the policy to go back to (default: the one before).")
@click.option("--reason", required=True)
@click.option("--actor", required=True, help="Who rolls back, for the record.")
@as_json
@stores
def rollback(name: str, to: str | None, reason: str, actor: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Give users the policy that they had before; again, the one before that. It needs a reason and no verdict."""
    if to is not None:
        _require_digest(to)
    _show(open_ledger(ledger, must_exist=True).releases.rollback(name, to=to, reason=reason, actor=actor), json_out)


def said(entry: "ReleaseAudit") -> str:
    """One move in a line."""
    from plumbline.records import short

    decision = f"decision {short(entry.decision)}" if entry.decision else "no decision (first)"
    if entry.shadow:
        shadow = f", shadow {short(entry.shadow)}"
    elif entry.without_shadow is not None:
        shadow = f", WITHOUT SHADOW ({entry.without_shadow})"
    else:
        shadow = ", no shadow" if entry.action == "move" and entry.previous else ""
    back = f" back from {short(entry.previous)}" if entry.action == "rollback" and entry.previous else ""
    return (
        f"{entry.sequence}  {entry.recorded_at}  {entry.action}  policy {short(entry.policy)}{back}  {decision}{shadow}"
        f"  {entry.actor}: {entry.reason}"
    )


def unmoved(refused: "Refused") -> str:
    """One refused request in a line."""
    from plumbline.records import short

    return (
        f"{refused.recorded_at}  refused  policy {short(refused.policy)}"
        f"  {refused.requested_by}: {refused.reason}  because: {refused.why}"
    )


def _show(entry: "ReleaseAudit", json_out: bool) -> None:
    if json_out:
        print_json(entry.model_dump())
    else:
        click.echo(f"release {entry.release!r} names {entry.policy} since move {entry.sequence} ({entry.action})")


def _require_digest(policy: str) -> None:
    from plumbline.errors import PlumblineError

    if re.fullmatch("sha256:[0-9a-f]{64}", policy) is None:
        raise PlumblineError(
            f"{policy!r} is no policy's digest",
            consequence="users keep the policy they have",
            remedy="pass the full digest that `plumb train` printed: sha256: and 64 hexadecimal digits",
        )
