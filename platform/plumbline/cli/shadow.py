"""The shadow router and its worker. Each stops on SIGTERM."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import click

from plumbline.cli.options import AT_LEAST_ONE, PORT, first_fault, open_ledger, stores


def base_url(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A URL that requests can be sent to. Found out at the first request, the fault would be a user's."""
    if value is not None and not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} is no http:// or https:// URL")
    return value


@click.command()
@click.option("--reference", required=True, callback=base_url, help="URL of the reference, ending in /v1.")
@click.option("--aligned", callback=base_url, help="URL of the aligned policy; without it only the router runs.")
@click.option("--experiment", required=True, help="Name of the experiment, or a JSON file that describes it.")
@click.option("--spool", type=click.Path(path_type=Path), required=True, help="Directory of the spool.")
@click.option("--salt", envvar="PLUMBLINE_EXPERIMENT_SALT", help="Salt of the session sample (default: the name).")
@click.option("--share", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of sessions to pair.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8080, show_default=True)
@stores
def router(
    reference: str,
    aligned: str | None,
    experiment: str,
    spool: Path,
    salt: str | None,
    share: float,
    host: str,
    port: int,
    ledger: Path,
    blobs: Path,
) -> None:
    """Answer users from the reference; record what consenting users asked, for the aligned policy to answer too."""
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError
    from plumbline.evaluation import TextJudge
    from plumbline.shadow import Experiment, read_experiment
    from plumbline.shadow.experiment import ShadowRun

    described = Path(experiment)
    if described.is_file():
        settings = read_experiment(described)
    else:
        try:
            settings = Experiment(name=experiment, salt=salt or experiment, share=share)
        except ValidationError as error:
            raise PlumblineError(
                f"{experiment!r} is no experiment: {first_fault(error)}",
                consequence="no router was started",
                remedy="name it with letters, digits, dot, dash and underscore, or name a JSON file that exists",
            ) from error
    judge = TextJudge()
    run = ShadowRun(
        settings,
        reference,
        aligned,
        spool,
        consent=consent_for_evaluation(ledger),
        judge=lambda text: judge.act(text).value,
        host=host,
        port=port,
    )
    click.echo(f"experiment {settings.name}: users ask {run.openai_url}; Ctrl-C stops it", err=True)
    run.serve()


@click.command("shadow-worker")
@click.option("--spool", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--aligned", required=True, callback=base_url, help="URL of the aligned policy, ending in /v1.")
@click.option("--concurrency", type=AT_LEAST_ONE, default=8, show_default=True, help="Requests at a time.")
@click.option("--follow", is_flag=True, help="Stay beside a running router: wait for more until SIGTERM or Ctrl-C.")
@stores
def shadow_worker(spool: Path, aligned: str, concurrency: int, follow: bool, ledger: Path, blobs: Path) -> None:
    """Ask the aligned policy everything that waits in the spool, then stop (or, with --follow, wait for more).

    The ledger must be there: a record whose person does not consent is shed and its content erased.
    """
    from plumbline.shadow import Spool, replay

    consent = consent_for_evaluation(ledger, must_exist=True)
    with contextlib.closing(Spool.existing(spool)) as store:
        replay(store, aligned, consent=consent, concurrency=concurrency, follow=follow)
        counts = store.counts()
    shed = " + ".join(f"{n} shed: {reason}" for reason, n in sorted(counts.shed.items())) or "0 shed"
    click.echo(f"{counts.spooled} spooled = {counts.paired} paired + {counts.pending} pending + {shed}")


def consent_for_evaluation(ledger: Path, *, must_exist: bool = False) -> Callable[[str], bool]:
    """The router's consent check: default deny, by the ledger, for the purpose `evaluation`."""
    store = open_ledger(ledger, must_exist=must_exist)

    def consents(subject: str) -> bool:
        at = store.consent.head().sequence
        return store.consent.covers(subject, "evaluation", at, store.database.clock()).covered

    return consents
