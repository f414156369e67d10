"""RayJob entry point for a back-fill: a large file of feedback events into the inbox, by Ray Data and one writer.

    python /app/jobs/backfill.py --plan FILE --run-name NAME --storage DIR

The plan names the file (JSON lines or Parquet, on storage that all nodes mount) and its source. PLUMBLINE_LEDGER says
where the ledger is, which the head alone opens; PLUMBLINE_WORKERS (N or MIN:MAX) how many read at a time. Killed
anywhere, the same command goes on behind what has landed. `plumb ingest` then makes a dataset version of it, the same
one as after `plumb feedback import` of that file.
"""

import json
import os
from contextlib import closing
from pathlib import Path

from plumbline.cli.entry import entry, on_storage, read_record, workers_of
from plumbline.cli.options import open_ledger, tenant_key
from plumbline.errors import PlumblineError
from plumbline.feedback.backfill import backfill, with_ray_data
from plumbline.policies.files import write_durably
from plumbline.reconcile.plans import BackfillPlan
from plumbline.training.job import alone
from plumbline.training.runners import ray_session

LOST_NODE_SECONDS = 120.0  # a retry may begin before the storage has noticed that the last head is gone


def main() -> None:
    entry("backfill", __doc__, "--plan", run)


def run(document: Path, name: str, storage: Path) -> str:
    """Land the file, or go on with it."""
    plan = read_record(
        document, BackfillPlan, "a back-fill's plan", "write it with `plumb render rayjob --kind backfill`"
    )
    workers, file = workers_of("PLUMBLINE_WORKERS"), on_storage(plan.file, storage)
    place = os.environ.get("PLUMBLINE_LEDGER", "")
    if not place:
        raise PlumblineError(
            "PLUMBLINE_LEDGER is not set",
            consequence="there is no inbox to land in, so nothing was read",
            remedy="render the RayJob with the values of the chart that runs the ledger",
        )
    folder = storage / "jobs" / name
    with alone(folder, patience=LOST_NODE_SECONDS), closing(open_ledger(located(place))) as ledger, ray_session():
        names = tenant_key(located(place), ledger, create=True)
        refused = (folder / "refused.jsonl").open("a", buffering=1, encoding="utf-8")
        with refused:
            state = backfill(
                ledger,
                names,
                file,
                plan.source,
                read=with_ray_data(workers),
                on_refused=lambda line, why: print(json.dumps({"line": line, "why": why}), file=refused),
            )
    events, reasons = dict(state.counts), dict(state.reasons)
    write_durably(
        folder / "result.json",
        json.dumps({"run": state.run, "lines": state.lines, **events, "refused": reasons}, indent=2).encode() + b"\n",
    )
    said = ", ".join(f"{events.get(kind, 0)} {kind}" for kind in ("accepted", "duplicate", "conflict"))
    return f"{said}, {sum(reasons.values())} refused; next: plumb ingest DATASET"


def located(place: str) -> Path | str:
    return place if "://" in place else Path(place)


if __name__ == "__main__":
    main()
