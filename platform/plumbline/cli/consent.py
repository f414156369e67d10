"""`plumb consent`: give, withdraw, refuse, show, verify, head, and the notices that people agree to."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plumbline.cli.options import as_json, open_ledger, print_json, read_text, stores, tenant_key

if TYPE_CHECKING:
    from plumbline.records import ConsentEntry, Notice
    from plumbline.stores import ConsentHead, Ledger

F = TypeVar("F", bound=Callable[..., Any])
PURPOSES = ("training", "evaluation", "service_improvement")


def purposes_option(command: F) -> F:
    return click.option(
        "--purpose",
        "purposes",
        type=click.Choice(PURPOSES),
        multiple=True,
        default=("training", "evaluation"),
        show_default=True,
    )(command)


@click.group()
def consent() -> None:
    """The append-only, hash-chained ledger of who agreed to what, under which notice."""


@consent.command()
@click.argument("identity")
@purposes_option
@click.option("--notice", required=True, help="ID@VERSION of a notice; registered with --notice-text when new.")
@click.option(
    "--notice-text", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="File with the notice's text."
)
@click.option("--language", default="en", show_default=True, help="Language of the notice that was shown.")
@click.option("--valid-until", help="When the consent ends, with an offset: 2027-01-31T00:00:00Z.")
@click.option("--reaffirm", is_flag=True, help="Say again what still stands, perhaps with a later end.")
@click.option("--controller", default="", help="Who decides on the processing.")
@click.option("--category", "categories", multiple=True, help="A data category (default: conversation, feedback).")
@click.option("--legal-basis", default="consent", show_default=True)
@click.option("--jurisdiction", default="", help="ISO 3166, such as DE or US-CA.")
@click.option("--age-band", type=click.Choice(["unstated", "adult", "minor"]), default="unstated", show_default=True)
@click.option("--guardian", help="Identity of who agrees for a minor; without one a minor's consent covers nothing.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File that shows the agreement; only its digest is kept.",
)
@as_json
@stores
def give(
    identity: str,
    purposes: tuple[str, ...],
    notice: str,
    notice_text: Path | None,
    language: str,
    valid_until: str | None,
    reaffirm: bool,
    guardian: str | None,
    evidence: Path | None,
    json_out: bool,
    ledger: Path,
    blobs: Path,
    **terms: Any,
) -> None:
    """Record that IDENTITY consents. The ledger keeps a keyed pseudonym only."""
    from plumbline.feedback.consent import ConsentDesk

    require_named(identity, notice)
    until = None if valid_until is None else moment(valid_until)
    said = consent_terms(evidence=evidence, **terms)
    text = None
    if notice_text is not None:
        text = read_text(notice_text, "a notice's text", consequence="no consent was recorded")
    if text is None and isinstance(ledger, Path) and not ledger.exists():
        raise no_notice(notice, ledger)
    store = open_ledger(ledger, must_exist=text is None)
    desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity, create=True))
    known = notice_named(store, notice, language, text)
    entry = desk.give(
        identity,
        purposes,  # type: ignore[arg-type]
        known,
        valid_until=until,
        method="command line",
        terms=said,
        guardian=guardian,
        action="reaffirmed" if reaffirm else "given",
    )
    did = "reaffirmed" if reaffirm else "gave"
    say(entry, f"{did} consent to {', '.join(entry.purposes)} under {notice}", json_out)
    if said.age_band == "minor" and guardian is None:
        click.echo("it covers nothing: a minor's consent needs a --guardian", err=True)


@consent.command()
@click.argument("identity")
@purposes_option
@click.option("--notice", required=True, help="ID@VERSION of the notice that was shown.")
@click.option("--language", default="en", show_default=True, help="Language of the notice that was shown.")
@as_json
@stores
def refuse(
    identity: str, purposes: tuple[str, ...], notice: str, language: str, json_out: bool, ledger: Path, blobs: Path
) -> None:
    """Record that IDENTITY was asked and said no."""
    from plumbline.feedback.consent import ConsentDesk

    require_named(identity, notice)
    store = open_ledger(ledger, must_exist=True)
    desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity, create=True))
    known = notice_named(store, notice, language, None)
    entry = desk.refuse(identity, purposes, known, method="command line")  # type: ignore[arg-type]
    say(entry, f"refused {', '.join(entry.purposes)}", json_out)


@consent.command()
@click.argument("identity")
@click.option("--purpose", "purposes", type=click.Choice(PURPOSES), multiple=True, help="Only this (default: all).")
@as_json
@stores
def withdraw(identity: str, purposes: tuple[str, ...], json_out: bool, ledger: Path, blobs: Path) -> None:
    """Withdraw what IDENTITY consented to. Durable when this returns."""
    from plumbline.feedback.consent import ConsentDesk

    store = open_ledger(ledger, must_exist=True)
    desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity))
    entry = desk.withdraw(identity, purposes, method="command line")  # type: ignore[arg-type]
    say(entry, f"withdrew {', '.join(entry.purposes)}", json_out)
    if not json_out and "training" in entry.purposes:
        click.echo("no version published from now on contains this subject; `plumb ingest DATASET` makes the removal")
        click.echo("earlier versions and the inbox still hold their words; `plumb erase` erases them everywhere")


@consent.command()
@click.argument("identity")
@as_json
@stores
def show(identity: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """All entries about IDENTITY, oldest first."""
    from plumbline.feedback.consent import ConsentDesk

    store = open_ledger(ledger, must_exist=True)
    entries = ConsentDesk(store, tenant_key(ledger, store, identity=identity)).show(identity)
    if json_out:
        print_json([entry.model_dump(mode="json") for entry in entries])
        return
    for entry in entries:
        until = f"  until {entry.valid_until}" if entry.valid_until else ""
        flaw = f"  covers nothing: {entry.terms.flaw.replace('_', ' ')}" if entry.terms.flaw else ""
        purposes = ", ".join(entry.purposes)
        click.echo(f"{entry.sequence}  {entry.action:10}  {purposes}  {entry.recorded_at}{until}{flaw}")
    if not entries:
        click.echo("no consent is recorded: nothing of theirs may be used")


@consent.command()
@click.option("--pin", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A head written earlier.")
@click.option("--quick", is_flag=True, help="Only what came after the last time that the whole chain was read.")
@as_json
@stores
def verify(pin: Path | None, quick: bool, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Check the whole hash chain; exit 2 when an entry was changed, removed or reordered."""
    import sys

    pinned = None if pin is None else read_pin(pin)
    consent_ledger = open_ledger(ledger, must_exist=True).consent
    last = consent_ledger.last_full() if quick else None
    if json_out:
        check = consent_ledger.verify(pinned) if last is None else consent_ledger.verify_since(last.head, pinned)
        full = consent_ledger.last_full()
        said = {"valid": check.valid, "problem": check.problem, "last_full": full.verified_at if full else None}
        print_json({**said, "sequence": check.head.sequence, "digest": check.head.digest})
        sys.exit(0 if check.valid else 2)
    head = consent_ledger.require_valid(pinned, since=last.head if last else None)
    since = f" (from entry {last.head.sequence} on, read whole at {last.verified_at})" if last else ""
    click.echo(f"the chain of {head.sequence} entries verifies{since}; head {head.digest}")


@consent.command()
@click.option("--pin", type=click.Path(path_type=Path, dir_okay=False), help="Write the head to this file.")
@as_json
@stores
def head(pin: Path | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """The last sequence and digest: keep it elsewhere to notice a rewritten ledger.

    --pin replaces the file in one step, and only by a head that follows the one in it.
    """
    store = open_ledger(ledger, must_exist=True)
    found = store.consent.head()
    if pin is not None:
        if pin.exists():
            store.consent.require_valid(since=read_pin(pin))
        write_pin(pin, found, store.database.now())
    if json_out:
        print_json({"sequence": found.sequence, "digest": found.digest})
    else:
        click.echo(f"{found.sequence} {found.digest}")


@consent.group("notice")
def notice_() -> None:
    """The texts that people agree to. A text never changes: a new one is a new version."""


@notice_.command("add")
@click.argument("name", metavar="ID@VERSION")
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--language", default="en", show_default=True)
@as_json
@stores
def add_notice(name: str, text: Path, language: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Register the notice in the file TEXT."""
    require_named("somebody", name)
    words = read_text(text, "a notice's text", consequence="no notice was registered")
    made = notice_named(open_ledger(ledger), name, language, words)
    if json_out:
        print_json(made.model_dump(mode="json"))
    else:
        click.echo(f"{made.id}@{made.version} ({made.language})  {made.text_digest}")


@notice_.command("list")
@as_json
@stores
def list_notices(json_out: bool, ledger: Path, blobs: Path) -> None:
    """Every registered notice."""
    notices = open_ledger(ledger, must_exist=True).consent.notices()
    if json_out:
        print_json([{**made.model_dump(mode="json"), "text": text} for made, text in notices])
        return
    for made, text in notices:
        first = text.strip().splitlines()[0][:60] if text.strip() else ""
        click.echo(f"{made.id}@{made.version} ({made.language})  {first}")
    if not notices:
        click.echo("no notice is registered: nobody can consent to anything yet")


# --- what the commands share ----------------------------------------------------------------------------------------


def say(entry: "ConsentEntry", did: str, json_out: bool) -> None:
    if json_out:
        print_json(entry.model_dump(mode="json"))
    else:
        click.echo(f"{entry.sequence}: {entry.subject} {did}")


def require_named(identity: str, notice: str) -> None:
    from plumbline.errors import PlumblineError

    if not identity.strip() or not notice.partition("@")[0].strip():
        raise PlumblineError(
            "the identity or the notice is empty",
            consequence="no consent was recorded: it must say who agreed to what",
            remedy="name both: plumb consent give IDENTITY --notice ID@VERSION",
        )


def notice_named(store: "Ledger", name: str, language: str, text: str | None) -> "Notice":
    """The notice ID@VERSION (version 1 when it is left out), registered first when its text is given."""
    id, _, version = name.partition("@")
    if text is None:
        return store.consent.find_notice(id, version or "1", language=language)
    return store.consent.register_notice(id, version or "1", text, language=language)


def no_notice(name: str, ledger: Path) -> Exception:
    from plumbline.errors import PlumblineError

    return PlumblineError(
        f"there is no ledger at {ledger}, so nobody knows the notice {name}",
        consequence="no consent was recorded: consent to an unknown text is no consent",
        remedy=f"register its text first: `plumb consent notice add {name} FILE`, or pass --notice-text FILE",
    )


def consent_terms(*, evidence: Path | None, categories: tuple[str, ...], **terms: Any) -> Any:
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError, first_fault
    from plumbline.records import ConsentTerms, digest_bytes

    if evidence is not None:
        terms["evidence"] = digest_bytes(evidence.read_bytes())
    if categories:
        terms["data_categories"] = categories
    try:
        return ConsentTerms(**terms)
    except ValidationError as error:
        raise PlumblineError(
            f"the terms of the consent are unclear: {first_fault(error)}",
            consequence="no consent was recorded",
            remedy="give terms such as --legal-basis consent --jurisdiction DE",
        ) from error


def moment(text: str) -> datetime:
    from plumbline.errors import PlumblineError

    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise PlumblineError(
            f"--valid-until {text!r} is no time",
            consequence="no consent was recorded",
            remedy="give a time with an offset, for example 2027-01-31T00:00:00Z",
        ) from error


def read_pin(file: Path) -> "ConsentHead":
    import json

    from plumbline.errors import PlumblineError
    from plumbline.stores import ConsentHead

    try:
        read = json.loads(read_text(file, "a pinned head", consequence="nothing was checked"))
        sequence, digest = read["sequence"], read["digest"]
        if not isinstance(sequence, int) or not isinstance(digest, str):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise PlumblineError(
            f"{file} is not a pinned head",
            consequence="nothing was checked and the file is as it was",
            remedy="name a file that `plumb consent head --pin FILE` wrote",
        ) from error
    return ConsentHead(sequence, digest)


def write_pin(file: Path, head: "ConsentHead", time: str) -> None:
    """In one step: whoever reads the file sees the old pin or the new one, also after a crash."""
    import json
    import os
    import tempfile

    text = json.dumps({"sequence": head.sequence, "digest": head.digest, "time": time}) + "\n"
    folder = file.resolve().parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=".pin-")
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, file.resolve())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)
