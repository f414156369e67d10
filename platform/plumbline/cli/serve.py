"""`plumb serve`: a policy behind KServe's Python server. Stops on SIGTERM.

`python -m plumbline.cli.serve` is `python -m plumbline.serving.predictor` with guardrails: serving knows what it asks
of one, and the two rooms meet only here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.options import AT_LEAST_ONE, PORT

if TYPE_CHECKING:
    from datetime import datetime

    from plumbline.guardrail import Decision, Guardrail
    from plumbline.records import Message
    from plumbline.serving.guards import Guard

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("policy")
@click.option("--name", help="Model name in requests (default: the directory's).")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8080, show_default=True)
@click.option("--leg", type=click.Choice(["reference", "aligned"]), help="Label of its metrics.")
@click.option(
    "--guardrail",
    "guardrails",
    type=FILE,
    multiple=True,
    help="Check requests, answers or both with this guardrail; its card must hold for the policy. Repeatable.",
)
@click.option("--threads", type=AT_LEAST_ONE, help="Torch threads (default: torch's choice).")
@click.option("--max-waiting", type=AT_LEAST_ONE, default=1024, show_default=True, help="More are told to come again.")
def serve(
    policy: str,
    name: str | None,
    host: str,
    port: int,
    leg: str | None,
    guardrails: tuple[Path, ...],
    threads: int | None,
    max_waiting: int,
) -> None:
    """Serve POLICY with KServe's Python server, OpenAI-compatible at /openai/v1, streaming too."""
    from plumbline.policies.files import resolve
    from plumbline.serving.predictor import read_policies
    from plumbline.serving.predictor import serve as run
    from plumbline.sockets import listen

    policies = read_policies([policy], name)
    resolve(policy.rpartition("=")[2])
    load_guards = guards_from(guardrails)
    if threads:
        import torch

        torch.set_num_threads(threads)
    bound = listen(host, port)
    url = f"http://{host}:{bound.getsockname()[1]}/openai/v1"
    click.echo(f"serving {', '.join(policies)} at {url} (once loaded); Ctrl-C stops it", err=True)
    run(policies, bound, leg=leg, load_guards=load_guards, max_waiting=max_waiting)


def guards_from(files: Sequence[Path]) -> "Callable[[str], Sequence[Guard]]":
    """Loads the guardrails of these files for a policy of a given digest. PlumblineError when a card does not hold."""

    def load_for(policy: str) -> "Sequence[Guard]":
        from plumbline.guardrail import load

        return [Dated(load(file, policy=policy)) for file in files]

    return load_for


@dataclass(frozen=True)
class Dated:
    """A guardrail with the day on which the first of its cards expires."""

    guardrail: "Guardrail"

    @property
    def name(self) -> str:
        return self.guardrail.name

    @property
    def digest(self) -> str:
        return self.guardrail.digest

    @property
    def sides(self) -> "Sequence[str]":
        return self.guardrail.sides

    @property
    def expires(self) -> "datetime":
        return min(side.card.expires for side in self.guardrail.file.sides)

    def check(self, messages: "Sequence[Message]", answer: str | None = None) -> "Decision":
        return self.guardrail.check(messages, answer)


def main(argv: Sequence[str] | None = None) -> None:
    from plumbline.serving.predictor import main as predict

    predict(argv, guards_from)


if __name__ == "__main__":
    main()
