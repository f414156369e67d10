"""RayJob entry point for an evaluation: a suite's items answered by reference and aligned, sharded with Ray Data.

    python /app/jobs/evaluate.py --plan FILE --run-name NAME --storage DIR

The plan names two policies, suites and a rubric; relative paths lie below DIR, which all nodes share. Finished answers
go to DIR/evaluations/NAME/answers, so a retry asks only what is missing; report.json and decision.json are those that
`plumb evaluate` and `plumb gate` would write, by digest. PLUMBLINE_WORKERS (N or MIN:MAX) and
PLUMBLINE_GPUS_PER_WORKER size the run. The verdict is in decision.json and never in the exit code: a REGRESSED policy
is a finished evaluation, which a RayJob must not try again.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from plumbline.cli.entry import entry, on_storage, read_record, workers_of
from plumbline.cli.evaluating import Asked, Leg, carry_out
from plumbline.cli.options import FOLDER, open_blobs, open_ledger
from plumbline.policies.files import write_durably
from plumbline.reconcile.plans import EvaluationPlan
from plumbline.training.job import alone
from plumbline.training.runners import ray_session

LOST_NODE_SECONDS = 120.0  # a retry may begin before the storage has noticed that the last head is gone
REMOTE = {"api_key_env": None, "reference_revision": "", "aligned_revision": "", "tokenizer": None}


def main() -> None:
    entry("evaluate", __doc__, "--plan", run)


def run(document: Path, name: str, storage: Path) -> str:
    """Ask, compare and decide, or go on with it."""
    from plumbline.evaluation import decide

    plan = read_record(
        document, EvaluationPlan, "an evaluation's plan", "write it with `plumb render rayjob --kind evaluate`"
    )
    workers = workers_of("PLUMBLINE_WORKERS")
    device = "cuda" if os.environ.get("PLUMBLINE_GPUS_PER_WORKER", "0") != "0" else "cpu"
    out = storage / "evaluations" / name
    ledger, blobs = located("PLUMBLINE_LEDGER", FOLDER / "ledger.sqlite"), located("PLUMBLINE_BLOBS", FOLDER / "blobs")
    remote = {**REMOTE, "timeout": 60.0, "concurrency": 8}
    placed = [text if "://" in text else str(on_storage(text, storage)) for text in (plan.reference, plan.aligned)]
    legs = Leg.find("reference", placed[0], device, remote), Leg.find("aligned", placed[1], device, remote)
    variants = plan.variants if plan.variants in (None, "builtin") else str(on_storage(plan.variants, storage))
    asked = Asked(
        suites=tuple(on_storage(suite, storage) for suite in plan.suites),
        rubric=plan.rubric,
        max_tokens=plan.max_tokens,
        datasets=plan.datasets,
        judge=on_storage(plan.judge, storage) if plan.judge else None,
        labels=on_storage(plan.labels, storage) if plan.labels else None,
        variants=variants,
        actor=name,
    )
    with alone(out, patience=LOST_NODE_SECONDS):
        done = carry_out(legs, asked, out, (ledger, blobs), sharded(workers), suite_digest=plan.suite)
        decision = decide(done.report, plan.rubric)
        write_durably(out / "decision.json", decision.model_dump_json(indent=2).encode() + b"\n")
        if plan.record:  # the blobs first: a decision in the ledger can always show its report
            open_blobs(blobs).put(done.report.canonical_bytes())
            with closing(open_ledger(ledger, must_exist=True)) as store:
                store.releases.record_decision(decision)
    for line in (*done.said, f"report {done.report.digest} in {out / 'report.json'}"):
        print(line)
    return f"{decision.verdict.value}  (decision {decision.digest}{', recorded' if plan.record else ''})"


@contextlib.contextmanager
def sharded(workers: int | tuple[int, int]) -> Iterator[Any]:
    from plumbline.evaluation.asking.sharded import RayDataCrew

    with ray_session():
        yield lambda leg: RayDataCrew(leg.path, leg.manifest, workers=workers, device=leg.device)


def located(variable: str, default: Path) -> Any:
    place = os.environ.get(variable, "")
    return place if "://" in place else Path(place) if place else default


if __name__ == "__main__":
    main()
