"""`plumb shadow join`: pairs from KServe's payload logger, for those who want no router in the path."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.options import as_json, open_ledger, print_json, stores, tenant_key

if TYPE_CHECKING:
    from plumbline.records import FeedbackEvent
    from plumbline.shadow import Experiment
    from plumbline.stores import Ledger

PAGE = 1000


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--reference", required=True, help="Name of the reference's InferenceService (--inbox: its source).")
@click.option("--aligned", required=True, help="Name of the aligned policy's InferenceService (--inbox: its source).")
@click.option("--inbox", is_flag=True, help="Join what the collector took, instead of FILES.")
@click.option(
    "--spool", type=click.Path(path_type=Path), required=True, help="Directory for the pairs, with no spool in it yet."
)
@click.option("--experiment", default="joined", show_default=True, help="Its name, or a JSON file that describes it.")
@click.option("--assume-decoder", is_flag=True, help="What requests leave open was the experiment's, on both legs.")
@click.option("--reference-policy", default="", help="The reference's digest, where no annotation names it.")
@click.option("--aligned-policy", default="", help="The aligned policy's digest, where no annotation names it.")
@as_json
@stores
def join(
    files: tuple[Path, ...],
    reference: str,
    aligned: str,
    inbox: bool,
    spool: Path,
    experiment: str,
    assume_decoder: bool,
    reference_policy: str,
    aligned_policy: str,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Join the payload logger's events of both InferenceServices to pairs, by ce-id, and state the yield.

    FILES hold CloudEvents (a line each, or as they came over the wire), or are folders of them. The pairs are read like
    any spool's. Without consent in the ledger, or without the header X-Plumbline-Subject among the logger's
    metadataHeaders, no request becomes a pair.
    """
    from plumbline.errors import PlumblineError
    from plumbline.shadow.captured import from_inbox, read_captured
    from plumbline.shadow.joining import Joiner, in_words

    if bool(files) == inbox:
        raise click.UsageError("name either FILES or --inbox")
    settings = described(experiment)
    store = open_ledger(ledger, must_exist=True)
    joiner = Joiner(reference, aligned)
    joiner.add(from_inbox(logged(store)) if inbox else read_captured(files))

    if not joiner.used:
        raise PlumblineError(
            f"none of {joiner.events} events is of {reference!r} or {aligned!r}: {dict(joiner.ignored)}",
            consequence="no pairs were joined and no spool was made",
            remedy="name both InferenceServices as the events do (ce-inferenceservicename; --inbox: the source)",
        )

    def consents(subject: str) -> bool:
        at = store.consent.head().sequence
        return store.consent.covers(subject, "evaluation", at, store.database.clock()).covered

    found = joiner.write(
        spool,
        settings,
        consent=consents,
        subject_of=pseudonym(ledger, store),
        assume_decoder=assume_decoder,
        policies=(reference_policy, aligned_policy),
    )
    if json_out:
        print_json({**found.model_dump(mode="json"), "share": found.share, "spool": str(spool)})
    else:
        click.echo("\n".join(in_words(found)))


def described(experiment: str) -> "Experiment":
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError, first_fault
    from plumbline.shadow import Experiment, read_experiment

    if (file := Path(experiment)).is_file():
        return read_experiment(file)
    try:
        return Experiment(name=experiment, salt=experiment)
    except ValidationError as error:
        raise PlumblineError(
            f"{experiment!r} is no experiment: {first_fault(error)}",
            consequence="nothing was joined",
            remedy="name it with letters, digits, dot, dash and underscore, or name a JSON file that exists",
        ) from error


def logged(store: "Ledger") -> "Iterator[FeedbackEvent]":
    """Everything in the inbox that still has its words."""
    for start in range(1, store.inbox.last_sequence() + 1, PAGE):
        yield from (queued.event for queued in store.inbox.read(start, start + PAGE - 1) if queued.event is not None)


def pseudonym(place: Path, store: "Ledger") -> Callable[[str], str]:
    """Pseudonyms stay what they are; the key is asked for only when somebody is named in plain."""
    from plumbline.feedback.pseudonyms import PSEUDONYM

    def of(name: str) -> str:
        return name if PSEUDONYM.match(name) else tenant_key(place, store, identity=name).of(name)

    return of
