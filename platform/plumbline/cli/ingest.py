"""`plumb ingest`: turn collected events into the next dataset version.

Exit codes: 0 published, nothing new, or waiting for approval (`--json` says which), 2 an error with a remedy.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.erase import finish as finish_erasures
from plumbline.cli.options import as_json, dataset_name, open_blobs, open_ledger, print_json, stores, tenant_key
from plumbline.errors import PlumblineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plumbline.feedback import IngestionResult
    from plumbline.records import Rubric
    from plumbline.stores import BlobStore, Ledger


@click.command()
@click.argument("name")
@click.option("--run-key", help="Name of the run from outside (a reconciler's Job).")
@click.option("--up-to", type=int, help="Last inbox sequence to seal (default: all that is there).")
@click.option("--approve", "approve_reason", help="Approve the candidate with this reason and publish.")
@click.option("--approver", default="data-owner", show_default=True, help="Who approves, with --approve.")
@click.option("--approvals", type=click.IntRange(1, 20), default=1, show_default=True, help="How many must approve.")
@click.option("--rubric", help="The rubric in force: a YAML file or a digest (default: the micro-world's).")
@click.option("--samples", is_flag=True, help="Show a few of the run's texts, as redaction left them.")
@click.option("--removal", is_flag=True, help="Only remove everyone whose consent ended.")
@as_json
@stores
def ingest(
    name: str,
    run_key: str | None,
    up_to: int | None,
    approve_reason: str | None,
    approver: str,
    approvals: int,
    rubric: str | None,
    samples: bool,
    removal: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Bring a dataset's open run as far as it gets: seal, check, redact, guard, split, wait for approval, publish.

    Killed anywhere, the same command goes on from the last finished stage.
    """
    from plumbline.console.words import visible
    from plumbline.feedback import Ingestion
    from plumbline.stores import Approval

    in_force = read_rubric_in_force(rubric)
    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs)
    finish_erasures(store, kept)
    head = store.publications.head(dataset_name(name))
    if head is None:
        click.echo(f"{name} has no version yet: this is for its first", err=True)
    if removal or (run_key is None and store.publications.uncovered(name)):
        _remove(store, kept, name, run_key, alone=removal, json_out=json_out)
        if removal:
            return

    def agree(*_: object) -> Approval:
        return Approval(approver, True, str(approve_reason))

    known_as = pseudonyms(ledger, store)
    result = Ingestion(store, kept).run(
        name,
        in_force if isinstance(in_force, str) else in_force.digest,
        approvals_required=approvals,
        approve=agree if approve_reason else None,
        up_to=up_to,
        run_key=run_key,
        pseudonym=known_as,
        policy_text=None if isinstance(in_force, str) else policy_text_of(in_force),
    )
    agreed = approvers(store, result, known_as)
    if json_out:
        print_json({**in_json(result), "approvals": in_words(result, agreed, approvals)})
    else:
        tell(result, agreed, approvals, store.inbox.last_sequence() - store.runs.sealed_sequence(name))
    for text in result.redacted_samples if samples else ():
        click.echo(f"  redacted, for example: {visible(text)}", err=json_out)
    if samples and not result.redacted_samples:
        click.echo("  no text of this run was redacted", err=json_out)


def pseudonyms(ledger: Path | str, store: "Ledger") -> "Callable[[str], str]":
    """As whom the ledger would know somebody; without the tenant key everybody is only who they say."""
    try:
        return tenant_key(ledger, store).of
    except PlumblineError:
        return str


def approvers(store: "Ledger", result: "IngestionResult", known_as: "Callable[[str], str]") -> tuple[str, ...]:
    """Whose word for the candidate counts: nobody's who wrote any of it."""
    from plumbline.stores.projections import authors_of

    if result.state == "published" and result.manifest is not None:
        return result.manifest.approved_by
    run = store.runs.run(result.run_key)
    if result.candidate is None or run is None:
        return ()
    authors = authors_of(store, run)
    agreed = [word.approver for word in store.runs.approvals(result.candidate.digest) if word.approved]
    return tuple(one for one in agreed if not {one, known_as(one)} & authors)


def in_words(result: "IngestionResult", agreed: "Sequence[str]", required: int) -> dict[str, object]:
    """`missing` counts the people who must still approve before the candidate is published."""
    waits = result.state == "awaiting_approval"
    return {"required": required, "approved_by": list(agreed), "missing": required - len(agreed) if waits else 0}


def in_json(result: "IngestionResult") -> dict[str, object]:
    return {
        "state": result.state,
        "run_key": result.run_key,
        "version": result.version.version if result.version else None,
        "digest": result.version.digest if result.version else None,
        "candidate": result.candidate.digest if result.candidate else None,
        "sealed": result.sealed,
        "accepted": result.accepted,
        "rejected": result.rejected,
        "redactions": result.redactions,
        "not_detected": list(_not_detected()),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
    }


def tell(result: "IngestionResult", agreed: "Sequence[str]", required: int, waiting: int) -> None:
    """What a run did, for people: the account of every event, what was redacted, and what is next."""
    if result.state == "no_change" and not result.sealed:
        newest = f"; the newest version is {result.version.version}: {result.version.digest}" if result.version else ""
        click.echo(f"{result.dataset}: the inbox holds nothing new{newest}")
        return
    click.echo(f"{result.dataset}: {result.state.replace('_', ' ')}")
    click.echo(f"  {result.sealed} sealed = {result.accepted} accepted + {sum(result.rejected.values())} refused")
    for reason, count in sorted(result.rejected.items()):
        hint = "  (plumb review open)" if reason == "selected_for_review" else ""
        click.echo(f"    {count:6d}  {reason}{hint}")
    if result.sealed:
        found = ", ".join(f"{count} {name}" for name, count in sorted(result.redactions.items())) or "nothing found"
        click.echo(f"  redacted: {found}; not detected: {', '.join(_not_detected())} (recall: plumb redact check)")
    if result.state == "awaiting_approval" and result.candidate is not None:
        click.echo(f"  candidate {result.candidate.digest} waits for approval")
        by = f" ({', '.join(agreed)})" if agreed else ""
        click.echo(f"  approved by {len(agreed)} of {required}{by}; {required - len(agreed)} missing")
        again = f"plumb ingest {result.dataset} --approve REASON --approver WHO"
        again += f" --approvals {required}" if required > 1 else ""
        click.echo(f"  {'to approve and publish' if required - len(agreed) == 1 else 'to approve'}: {again}")
    if result.version is not None:
        click.echo(f"  version {result.version.version}: {result.version.digest}")
    if result.state == "published" and waiting > 0:
        click.echo(f"  {waiting} events wait for the next run: the same command seals them")


def read_rubric_in_force(named: str | None) -> "Rubric | str":
    """The rubric in force: a digest, the file that is named, or the default."""
    from plumbline.cli.gate import read_rubric

    if named and re.fullmatch("sha256:[0-9a-f]{64}", named):
        return named
    return read_rubric(Path(named) if named else None)


def policy_text_of(rubric: "Rubric") -> str:
    from plumbline.records import policy_text_digest

    return policy_text_digest(rubric)


def _remove(
    store: "Ledger", blobs: "BlobStore", name: str, run_key: str | None, *, alone: bool, json_out: bool
) -> None:
    """The version without everyone whose consent ended. `alone`: nothing is ingested after it."""
    from plumbline.feedback import publish_removal

    if store.publications.head(name) is None:
        raise PlumblineError(
            f"dataset {name!r} has no version",
            consequence="there is nobody to remove from it",
            remedy="see `plumb dataset list` for the names",
        )
    removed = publish_removal(store, blobs, name, run_key=run_key)
    if removed is not None:
        said = f"{name} version {removed.version}: everyone who withdrew is removed; {removed.digest}"
        click.echo(said, err=json_out)
    head = store.publications.head(name)
    if alone and json_out:
        print_json({"state": "published" if removed else "no_change", "version": head.version if head else None})
    elif alone and removed is None:
        click.echo(f"{name}: nobody is to be removed")


def _not_detected() -> tuple[str, ...]:
    from plumbline.feedback import NOT_DETECTED

    return NOT_DETECTED
