"""`plumb shadow replay | trip | forget`: what is done to a spool by hand, beside a running router or later."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import AT_LEAST_ONE, PORT, open_ledger, stores, tenant_key
from plumbline.cli.shadow import (
    BELOW,
    FOLDER,
    MODES,
    OWN_KEY,
    TOKEN,
    base_url,
    consent_for_evaluation,
    consenting,
    experiment_from,
    leaving,
    watching,
)

if TYPE_CHECKING:
    from plumbline.records import ShadowCounts
    from plumbline.shadow import Spool

SPOOL = click.Path(path_type=Path, exists=True, file_okay=False)
BEING_MADE_S = 5.0


@click.command()
@click.option("--spool", type=click.Path(path_type=Path), required=True, help="Directory of the spool.")
@click.option("--aligned", callback=base_url, help="URL of the aligned policy, ending in /v1.")
@click.option("--reference", callback=base_url, help="URL of the reference: with --requests, and in modes aa and ab.")
@click.option("--requests", type=TOKEN, help="JSONL of chat requests: ask both policies, then pair them in the spool.")
@click.option("--experiment", help="With --requests: the experiment's name, or a JSON file that describes it.")
@click.option("--mode", type=MODES, help="With --requests: shadow (default), or aa, which asks the reference twice.")
@click.option("--salt", envvar="PLUMBLINE_EXPERIMENT_SALT", help="With --requests: salt of the sessions' pseudonyms.")
@click.option("--reference-model", help="With --requests: the reference's model name (default: reference).")
@click.option("--aligned-model", help="With --requests: the aligned policy's model name (default: aligned).")
@click.option("--consented-by", metavar="NOTE", help="With --requests: who says that the people in it consented.")
@click.option("--concurrency", type=AT_LEAST_ONE, default=8, show_default=True, help="Requests at a time.")
@click.option("--deadline", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds for an answer.")
@click.option("--follow", is_flag=True, help="Stay beside a running router: wait for more until SIGTERM or Ctrl-C.")
@click.option("--monitor-port", type=PORT, help="With --follow: serve the monitor here (status, metrics, kill switch).")
@click.option("--host", default="127.0.0.1", show_default=True, help="With --monitor-port: the address.")
@click.option("--spools-below", type=FOLDER, help=BELOW)
@click.option("--judge", type=TOKEN, help="With --monitor-port: a judge that `plumb judge fit` wrote.")
@click.option("--beside", type=int, hidden=True, help="The monitor's inherited socket, of the router that we end with.")
@click.option("--reference-token-file", type=TOKEN, help=OWN_KEY.format("reference"))
@click.option("--aligned-token-file", type=TOKEN, help=OWN_KEY.format("aligned"))
@stores
def replay(
    spool: Path,
    aligned: str | None,
    reference: str | None,
    requests: Path | None,
    consented_by: str | None,
    concurrency: int,
    deadline: float,
    follow: bool,
    monitor_port: int | None,
    host: str,
    spools_below: Path | None,
    judge: Path | None,
    beside: int | None,
    reference_token_file: Path | None,
    aligned_token_file: Path | None,
    ledger: Path,
    blobs: Path,
    **described: Any,
) -> None:
    """Ask the other policy everything that waits in the spool, then stop (or, with --follow, wait for more).

    With --requests, ask both policies what a file holds, by the same record path: each line a chat request, with
    session, slice and subject where they are known. Stopped half-way, the same command goes on.

    The ledger must be there, unless --consented-by says who vouches: a record whose person does not consent is shed and
    its content erased. What people said who withdrew, or were erased, is looked for first, and with --follow again and
    again; it goes from the spool, pairs included.
    """
    from plumbline.shadow import Spool
    from plumbline.shadow.experiment import replay as drain
    from plumbline.shadow.sweeping import Sweeper

    shared: dict[str, Any] = {
        "reference_url": reference,
        "reference_token": reference_token_file,
        "aligned_token": aligned_token_file,
        "concurrency": concurrency,
        "deadline_s": deadline,
    }
    if monitor_port is not None and not follow:
        raise click.UsageError("--monitor-port goes with --follow")
    if requests is not None:
        if follow:
            raise click.UsageError("--requests is a file that ends; leave --follow out")
        offline(spool, aligned, requests, consented_by, ledger, described, shared)
        return
    offered = [name for name in ("experiment", "mode", "reference_model", "aligned_model") if described[name]]
    if offered or consented_by:
        raise click.UsageError(f"--{(offered or ['consented-by'])[0].replace('_', '-')} goes with --requests")
    if beside is not None:
        from plumbline.processes import leave_with_parent

        leave_with_parent()
        os.nice(10)  # users before their shadow
    people = open_ledger(ledger, must_exist=True)
    with contextlib.closing(awaited(spool) if follow else Spool.existing(spool)) as store:
        shared |= watched(store, judge, host, monitor_port, beside)
        shared["sweeper"] = Sweeper(store, leaving(people), below=[spools_below] if spools_below else ())
        drain(store, aligned, consent=consenting(lambda: people), follow=follow, **shared)
        counts = store.counts()
    click.echo(accounting(counts), err=beside is not None)


def awaited(directory: Path) -> "Spool":
    """The spool, once a router that starts beside us has made it. A file that is no spool is refused after a while."""
    from plumbline.errors import PlumblineError
    from plumbline.shadow import Spool

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the worker has handlers of its own
    file, there_since = directory / "spool.sqlite", None
    if not file.exists():
        click.echo(f"waiting for a router to make the spool {directory}", err=True)
    while True:
        try:
            return Spool.existing(directory)
        except PlumblineError:
            if file.exists() and there_since is None:
                there_since = time.monotonic()
            if there_since is not None and time.monotonic() - there_since > BEING_MADE_S:
                raise
            time.sleep(0.2)


def watched(
    spool: "Spool", judge: Path | None, host: str, monitor_port: int | None, beside: int | None
) -> dict[str, Any]:
    """What a worker needs to be watched by a monitor in its process; nothing where none is asked for."""
    if monitor_port is None and beside is None:
        return {}
    from plumbline.cli.shadow_verdict import labels_of
    from plumbline.evaluation import TextJudge
    from plumbline.metrics import Metrics
    from plumbline.sockets import listen

    metrics, counted_by = Metrics(), TextJudge()
    bound = listen(host, monitor_port or 0) if beside is None else socket.socket(fileno=beside)
    if beside is None:
        click.echo(f"status and metrics at http://{host}:{bound.getsockname()[1]}", err=True)
    return {
        "metrics": metrics,
        "judge": lambda text: counted_by.act(text).value,
        "monitor": (watching(spool, metrics, labels_of(judge)), bound),
    }


def offline(
    directory: Path,
    aligned: str | None,
    requests: Path,
    consented_by: str | None,
    ledger: Path,
    described: dict[str, Any],
    shared: dict[str, Any],
) -> None:
    """Both policies, from a file."""
    from plumbline.shadow import Spool
    from plumbline.shadow.experiment import comparable, worker_for
    from plumbline.shadow.legs import token, upstream
    from plumbline.shadow.offline import OFFLINE, ask_both, read_requests
    from plumbline.shadow.sweeping import Sweeper

    for name, value in (("experiment", described["experiment"]), ("reference", shared["reference_url"])):
        if value is None:
            raise click.UsageError(f"Missing option '--{name}': --requests needs it.")
    experiment = experiment_from(described["experiment"], described)
    if experiment.mode == "ab":
        raise click.UsageError("mode ab assigns users; a file of requests has none: use shadow or aa")
    if aligned is None and experiment.mode != "aa":
        raise click.UsageError("Missing option '--aligned'.")
    people = None if consented_by else open_ledger(ledger, must_exist=True)
    consent = (lambda subject: True) if people is None else consenting(lambda: people)
    lines = read_requests(requests, experiment, subject=OFFLINE if consented_by else "")
    reference = upstream(experiment, "reference", shared["reference_url"], token(shared["reference_token"]))
    for words in comparable(experiment, reference, aligned, token(shared["aligned_token"]))[2]:
        click.echo(f"note: {words}", err=True)
    with contextlib.closing(Spool(directory, experiment)) as store:
        if consented_by:
            store.note(f"consented by: {consented_by}")
        sweeper = None if people is None else Sweeper(store, leaving(people))
        worker = worker_for(store, aligned, consent=consent, sweeper=sweeper, **shared)
        rest = {name: shared[name] for name in ("concurrency", "deadline_s")}
        head = None if people is None else lambda: people.consent.head().sequence
        asked = ask_both(lines, store, reference, worker, consent=consent, head=head, **rest)
        counts = store.counts()
    click.echo(f"{len(lines)} requests, {len(lines) - asked} of them asked before", err=True)
    click.echo(accounting(counts))


@click.command()
@click.argument("spool", type=SPOOL)
@click.option("--reason", required=True, help="Why; kept with the switch.")
@click.option("--actor", required=True, help="Who throws it, for the record.")
def trip(spool: Path, reason: str, actor: str) -> None:
    """Throw the kill switch of SPOOL. Within a second an A/B experiment gives nobody the aligned policy any more, and
    workers ask nobody; records wait, and are counted as pending."""
    with opened(spool) as store:
        store.trip(f"{actor}: {reason}")
        click.echo(f"tripped: {store.tripped()}")


@click.command()
@click.argument("spool", type=SPOOL)
@click.argument("identity", required=False)
@click.option("--withdrawn", is_flag=True, help="Everyone in it whose consent to evaluation holds no more.")
@stores
def forget(spool: Path, identity: str | None, withdrawn: bool, ledger: Path, blobs: Path) -> None:
    """Erase what IDENTITY said from SPOOL: requests, answers of both policies, and who it was. Counts stay.

    IDENTITY is the person as their source knows them, or their pseudonym (s-...). `plumb erase --spool SPOOL` does
    it with everything else; this is for a spool alone, or regularly with --withdrawn.
    """
    if (identity is None) != withdrawn:
        raise click.UsageError("name one IDENTITY, or pass --withdrawn")
    with opened(spool) as store:
        if identity is not None:
            people = [tenant_key(ledger, open_ledger(ledger, must_exist=True), identity=identity).of(identity)]
        else:
            from plumbline.shadow.offline import gone

            people = gone(store, consent_for_evaluation(ledger, must_exist=True))
        erased = sum(store.forget(subject) for subject in people)
    click.echo(f"{erased} records of {len(people)} {'person' if len(people) == 1 else 'people'} erased; counts stay")


@contextlib.contextmanager
def opened(directory: Path) -> "Iterator[Spool]":
    from plumbline.shadow import Spool

    with contextlib.closing(Spool.existing(directory)) as store:
        yield store


def accounting(counts: "ShadowCounts") -> str:
    shed = " + ".join(f"{n} shed: {reason}" for reason, n in sorted(counts.shed.items())) or "0 shed"
    return f"{counts.spooled} spooled = {counts.paired} paired + {counts.pending} pending + {shed}"
