"""`plumb shadow evaluate`: A/A, plan, pairs and verdict from a file, in one go or by step (a cluster's Jobs)."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.gate import read_rubric
from plumbline.cli.options import as_json, open_blobs, open_ledger, print_json, stores
from plumbline.cli.shadow import OWN_KEY, TOKEN, base_url, consent_for_evaluation
from plumbline.cli.shadow_verdict import JUDGE, RUBRIC, labels_of, shares, show_verdict

if TYPE_CHECKING:
    from plumbline.records.shadow import ShadowStep

STEP = click.Choice(["aa", "plan", "pairs", "verdict"])


class Digest(click.ParamType[str]):
    """A digest, as everything has that is identified."""

    name = "sha256:..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        import re

        from plumbline.records.canonical import DIGEST_PATTERN

        if not isinstance(value, str) or re.fullmatch(DIGEST_PATTERN, value) is None:
            self.fail(f"{value!r} is no digest: write sha256: and 64 hexadecimal digits", param, ctx)
        return value


@click.command()
@click.argument("step", type=STEP, required=False)
@click.option("--experiment", required=True, help="Name of the experiment; its first verdict on two policies stands.")
@click.option("--reference", callback=base_url, required=True, help="URL of the reference, ending in /v1.")
@click.option("--aligned", callback=base_url, required=True, help="URL of the aligned policy, ending in /v1.")
@click.option("--reference-policy", type=Digest(), required=True, help="Digest of the policy that users have.")
@click.option("--aligned-policy", type=Digest(), required=True, help="Digest of the policy to compare with it.")
@click.option("--requests", required=True, metavar="FILE|sha256:...", help="JSONL of chat requests: a file, or a blob.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where spools are kept."
)
@click.option("--key", type=Digest(), help="What the steps are reported under (default: a digest of the rest).")
@click.option("--consented-by", metavar="NOTE", default="", help="Who says that the people in it consented.")
@click.option("--margin", "margins", multiple=True, metavar="NAME=SHARE", help="In the rubric's place. Repeatable.")
@click.option("--aa-sessions", type=click.IntRange(min=20), default=100, show_default=True, help="Of the A/A run.")
@click.option("--sessions", type=click.IntRange(min=0), default=0, help="Least sessions of each requirement.")
@click.option("--salt", envvar="PLUMBLINE_EXPERIMENT_SALT", default="", help="Salt of the sessions' pseudonyms.")
@click.option("--deadline", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds for an answer.")
@click.option("--patience", type=click.FloatRange(0), default=60.0, show_default=True, help="Seconds for an endpoint.")
@click.option("--reference-token-file", type=TOKEN, help=OWN_KEY.format("reference"))
@click.option("--aligned-token-file", type=TOKEN, help=OWN_KEY.format("aligned"))
@RUBRIC
@JUDGE
@as_json
@stores
def evaluate(
    step: str | None,
    reference: str,
    aligned: str,
    reference_policy: str,
    aligned_policy: str,
    requests: str,
    key: str | None,
    consented_by: str,
    margins: tuple[str, ...],
    sessions: int,
    deadline: float,
    patience: float,
    rubric: Path | None,
    judge: Path | None,
    json_out: bool,
    ledger: Path,
    blobs: Path,
    **given: Any,
) -> None:
    """Compare two policies on a file of requests: A/A run, plan, pairs and verdict, each after the one before.

    Stopped anywhere, the same command goes on. With STEP only that one is done, and reported to the ledger: this is
    what the Jobs of a ShadowEvaluation run. Exit code: the verdict's (PASS 0, REGRESSED 1, ERROR 2, INCONCLUSIVE 3);
    with STEP 0 once it is done and reported, whatever the verdict.
    """
    from plumbline.reconcile import shadow_steps
    from plumbline.records.canonical import digest_of

    wanted = shares(margins, "--margin")
    described = [
        given["experiment"],
        reference_policy,
        aligned_policy,
        requests,
        wanted,
        given["aa_sessions"],
        sessions,
    ]
    task = shadow_steps.EvaluationTask(
        key=key or digest_of(described),
        reference=reference_policy,
        aligned=aligned_policy,
        reference_url=reference,
        aligned_url=aligned,
        requests=requests if requests.startswith("sha256:") else Path(requests),
        rubric=read_rubric(rubric),
        margins=wanted,
        planned_sessions=sessions,
        vouched=consented_by,
        reference_token=given.pop("reference_token_file"),
        aligned_token=given.pop("aligned_token_file"),
        deadline_s=deadline,
        unreachable_s=patience,
        **given,
    )
    with contextlib.closing(open_ledger(ledger)) as store:
        steps = shadow_steps.Steps(
            task,
            store,
            lambda: open_blobs(blobs, must_exist=True),
            labels=lambda: labels_of(judge),
            consent=consent_for_evaluation(ledger, must_exist=True),
        )
        if step is not None:
            done = steps.carry_out(step)  # type: ignore[arg-type]  # click.Choice knows no Literal
            print_json(done.model_dump(mode="json")) if json_out else tell(step, done)
            return
        said = shadow_steps.evaluate(steps, told=(lambda name, one: None) if json_out else tell)
    if json_out:
        print_json({"digest": said.digest, **json.loads(said.model_dump_json())})
    else:
        show_verdict(said)
    sys.exit(said.verdict.exit_code)


def tell(step: str, done: "ShadowStep") -> None:
    """One line of what a step came to."""
    counts = done.counts
    words = f"{counts.spooled} spooled = {counts.paired} paired + {sum(counts.shed.values())} shed" if counts else ""
    if step == "aa":
        noise = "it seemed to DIFFER from itself" if done.alarm else "no difference from itself"
        words = f"{words}; {done.sessions} sessions, {noise}"
    if step == "plan":
        words = f"a verdict takes about {done.planned} sessions of this traffic"
    click.echo(f"{step}: {words}", err=True)
