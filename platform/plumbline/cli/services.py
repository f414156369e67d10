"""Long-running services: the predictor, the shadow router and worker, the collector. Each stops on SIGTERM."""

from collections.abc import Callable
from pathlib import Path

import click

from plumbline.cli.options import open_ledger, stores, tenant_key


@click.command()
@click.argument("policy")
@click.option("--name", help="Model name in requests (default: the directory's).")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--leg", type=click.Choice(["reference", "aligned"]), help="Label of its metrics.")
def serve(policy: str, name: str | None, host: str, port: int, leg: str | None) -> None:
    """Serve POLICY with KServe's Python server, OpenAI-compatible at /openai/v1, streaming too."""
    from plumbline.serving.predictor import main

    arguments = ["--policy", policy, "--host", host, "--port", str(port)]
    arguments += ["--name", name] if name else []
    arguments += ["--leg", leg] if leg else []
    main(arguments)


@click.command()
@click.option("--reference", required=True, help="URL of the reference, ending in /v1.")
@click.option("--aligned", help="URL of the aligned policy; without it only the router runs.")
@click.option("--experiment", required=True, help="Name of the experiment, or a JSON file that describes it.")
@click.option("--spool", type=click.Path(path_type=Path), required=True, help="Directory of the spool.")
@click.option("--salt", envvar="PLUMBLINE_EXPERIMENT_SALT", help="Salt of the session sample (default: the name).")
@click.option("--share", default=1.0, show_default=True, help="Share of sessions to pair.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
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
    from plumbline.shadow import Experiment, read_experiment
    from plumbline.shadow.experiment import ShadowRun

    described = Path(experiment)
    if described.is_file():
        settings = read_experiment(described)
    else:
        settings = Experiment(name=experiment, salt=salt or experiment, share=share)
    run = ShadowRun(settings, reference, aligned, spool, consent=consent_for_evaluation(ledger), host=host, port=port)
    run.serve()


@click.command("shadow-worker")
@click.option("--spool", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--aligned", required=True, help="URL of the aligned policy, ending in /v1.")
@click.option("--concurrency", default=8, show_default=True)
@stores
def shadow_worker(spool: Path, aligned: str, concurrency: int, ledger: Path, blobs: Path) -> None:
    """Ask the aligned policy everything that waits in the spool, then stop."""
    from plumbline.shadow import Spool, replay

    store = Spool.existing(spool)
    replay(store, aligned, consent=consent_for_evaluation(ledger), concurrency=concurrency)
    counts = store.counts()
    click.echo(f"spooled {counts.spooled} = paired {counts.paired} + pending {counts.pending} + shed {counts.shed}")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8090, show_default=True)
@click.option(
    "--sources", type=click.Path(path_type=Path), envvar="PLUMBLINE_SOURCES", help="JSON file: source -> token."
)
@stores
def collector(host: str, port: int, sources: Path | None, ledger: Path, blobs: Path) -> None:
    """Receive feedback events (CloudEvents) and consent over HTTP; answers 202 once an event is durable."""
    import json

    from plumbline.errors import PlumblineError
    from plumbline.feedback import CollectorConfig, run_collector

    if sources is None or not sources.is_file():
        raise PlumblineError(
            "no sources are named, so nobody could post events",
            consequence="the collector was not started",
            remedy='pass --sources FILE with {"SOURCE": "TOKEN"} (mounted from a secret), mode 0600',
        )
    tokens = json.loads(sources.read_text("utf-8"))
    run_collector(open_ledger(ledger), tenant_key(ledger), CollectorConfig(tokens), host=host, port=port)


def consent_for_evaluation(ledger: Path) -> Callable[[str], bool]:
    """The router's consent check: default deny, by the ledger, for the purpose `evaluation`."""
    store = open_ledger(ledger)

    def consents(subject: str) -> bool:
        at = store.consent.head().sequence
        return store.consent.covers(subject, "evaluation", at, store.database.clock()).covered

    return consents
