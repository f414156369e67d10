"""`plumb collector`: feedback and consent over HTTP. Stops on SIGTERM."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import PORT, open_ledger, read_text, stores, tenant_key

if TYPE_CHECKING:
    from plumbline.feedback.collect.access import Source

RATE = click.FloatRange(min=0.001, max=1e9)
SHORTEST = 16  # characters of a token or secret
_KEYS = {"token", "hmac_secret", "may", "consent_for"}


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8090, show_default=True)
@click.option(
    "--sources", type=click.Path(path_type=Path), envvar="PLUMBLINE_SOURCES", help="JSON file: who may send what."
)
@click.option(
    "--source-rate", type=RATE, default=5000.0, show_default=True, help="Events a second of a source (burst: x4)."
)
@click.option(
    "--subject-rate", type=RATE, default=50.0, show_default=True, help="Events a second about a person (burst: x20)."
)
@stores
def collector(
    host: str,
    port: int,
    sources: Path | None,
    source_rate: float,
    subject_rate: float,
    ledger: Path,
    blobs: Path,
) -> None:
    """Receive feedback events (CloudEvents) and consent over HTTP; answers 202 once an event is durable.

    SOURCES is a JSON object. A plain token may send events only; an object says more:

    \b
    {"app": "TOKEN",
     "console": {"token": "TOKEN", "hmac_secret": "SECRET",
                 "may": ["events", "consent"], "consent_for": "own"}}

    `consent_for` is "own" (people of whom this source spoke first) or "any".
    """
    import signal
    import sys
    import threading

    from plumbline.feedback import CollectorConfig, start_collector

    known = read_sources(sources)
    store = open_ledger(ledger)
    sys.setswitchinterval(0.001)  # a withdrawal is answered between two slices of somebody's batch
    config = CollectorConfig(
        known,
        source_rate=source_rate,
        source_burst=max(1, int(source_rate * 4)),
        subject_rate=subject_rate,
        subject_burst=max(1, int(subject_rate * 20)),
    )
    running = start_collector(store, tenant_key(ledger, store, create=True), config, host=host, port=port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    click.echo(f"taking events of {', '.join(sorted(known))} at {running.url}; Ctrl-C stops it", err=True)
    stop.wait()
    running.stop()
    store.close()


def read_sources(file: Path | None) -> "dict[str, Source]":
    """Who may send what, and by which token. Tokens and secrets are secrets: no message repeats them."""
    import json

    from plumbline.errors import PlumblineError

    consequence = "the collector was not started"
    remedy = (
        'pass --sources FILE with {"SOURCE": "TOKEN"} (mounted from a secret), tokens of 16 characters or more;'
        " `plumb collector --help` shows what else a source may say"
    )
    if file is None:
        raise PlumblineError(
            "no sources are named, so nobody could post events", consequence=consequence, remedy=remedy
        )
    try:
        read: Any = json.loads(read_text(file, "a sources file", consequence=consequence))
    except (ValueError, RecursionError) as error:
        raise PlumblineError(f"{file} is not JSON", consequence=consequence, remedy=remedy) from error
    try:
        if not isinstance(read, dict) or not read:
            raise ValueError("names no source")
        sources = {name: _source(name, given) for name, given in read.items()}
        if len({source.token for source in sources.values()}) != len(sources):
            raise ValueError("gives two sources one token")
    except ValueError as error:
        raise PlumblineError(f"{file} {error}", consequence=consequence, remedy=remedy) from error
    return sources


def _source(name: str, given: Any) -> "Source":
    """One entry of the file. ValueError says what is wrong with it, without its secrets."""
    from plumbline.feedback.collect.access import Source
    from plumbline.stores.inbox import HOUSE_SOURCE

    said = given if isinstance(given, dict) else {"token": given}
    token, secret = said.get("token"), said.get("hmac_secret")
    may, consent_for = said.get("may", ["events"]), said.get("consent_for", "own")
    if not 1 <= len(name) <= 200 or not name.isprintable() or name == HOUSE_SOURCE:
        raise ValueError("has a source whose name cannot be used")
    if not isinstance(token, str) or len(token) < SHORTEST:
        raise ValueError(f"does not give {name!r} a token of {SHORTEST} characters or more")
    if secret is not None and (not isinstance(secret, str) or len(secret) < SHORTEST):
        raise ValueError(f"gives {name!r} an hmac_secret of fewer than {SHORTEST} characters")
    if not isinstance(may, list) or not may or not all(one in ("events", "consent") for one in may):
        raise ValueError(f'lets {name!r} do something else than ["events", "consent"]')
    if consent_for not in ("own", "any"):
        raise ValueError(f'gives {name!r} a consent_for that is neither "own" nor "any"')
    if set(said) - _KEYS:
        raise ValueError(f"says of {name!r} what no source has: it has {', '.join(sorted(_KEYS))}")
    return Source(token, secret, frozenset(may), consent_for)
