"""Ingestion: from a file of events to a published, verified version; against plain scripts and datatrove; as it grows.

*Speed.* The same file through each side of `ingestion_peers.py`, each in a fresh process with one thread, the order
forth and back over the repeats. Rates count every line of the file, duplicates and malformed ones too, per CPU second
("per core": a machine with other work stretches the clock, not the processor's account); the clock's rate stands
beside it. A side's row counts only if what it kept is what may be kept (`events_generator.Truth`), one of each group
of near-copies where its work includes them, and if no planted personal data is left in what it wrote; otherwise the
row says VOID and why. Ours must also find what was planted, class by class; what it finds beyond that is counted.

*Safety.* The same without fsync, with `synchronous=OFF` and without recomputing the consent chain: what durability and
the ledger's proof cost, as a share of the time of the safe run, from the fastest repeat of each side (other work on
the machine only ever adds).

*History.* One store grows in batches to `--history` events (1,000,000; `--full`: 10,000,000). At 100,000, 1,000,000
and 10,000,000 events, three batches of 10,000 new ones are landed and ingested; the median is compared with building
everything again (the sum of all batches before), and with the time at 100,000.

*Answers.* Withdrawal, collector and lineage, by `collecting.py` and `lineage_query.py` beside this file.

Texts are invented (see `events_generator.py`); one source, no cap on people or sources, reviews left out. Figures are
printed, no time is asserted. polars, duckdb, datatrove and xxhash are in the extra `bench`; without one, its rows are
left out.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from events_generator import MIXES, Batch, Stream, Truth, batch
from ingestion_peers import EXACT_ONLY, NEEDS, SIDES, House, Outcome, processor
from measuring import options, show, target

from plumbline.feedback import verify

OURS, UNSAFE = list(SIDES)[:2]
MARKS, NEW, STEP = (100_000, 1_000_000, 10_000_000), 10_000, 100_000


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--full", action="store_true", help="a history of 10,000,000 events (hours, 40 GB of disk)")
    parser.add_argument("--events", type=int, help="events of the speed part (200,000; with --quick 20,000)")
    parser.add_argument("--history", type=int, help="events of history (1,000,000; with --quick 100,000)")
    parser.add_argument("--parts", nargs="+", choices=("speed", "history", "answers"), help="only these")
    chosen = parser.parse_args()
    os.environ.update(POLARS_MAX_THREADS="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    parts = chosen.parts or ("speed", "history", "answers")
    load = os.getloadavg()[0]
    tables: list[list[dict[str, Any]]] = []
    targets: list[dict[str, Any]] = []
    if "speed" in parts:
        lines = chosen.events or (20_000 if chosen.quick else 200_000)
        for mix in MIXES:
            rows, stages, met = speed(mix, lines, 1 if chosen.quick else 3, chosen)
            tables += [rows, stages]
            targets += met
    if "history" in parts:
        length = chosen.history or (100_000 if chosen.quick else MARKS[2] if chosen.full else MARKS[1])
        rows, met = history(length, chosen)
        tables.append(rows)
        targets += met
    if "answers" in parts:
        found, met = answers(chosen)
        tables += found
        targets += met
    if chosen.json:
        show([row for table in tables for row in table], targets, True)
    else:
        for table in tables:
            show(table, [], False)
            print()
        show([], targets, False)
    say(f"load average (1 min): {load:.2f} at the start, {os.getloadavg()[0]:.2f} at the end", chosen)


def say(words: str, chosen: argparse.Namespace) -> None:
    print(words, file=sys.stderr if chosen.json else sys.stdout, flush=True)


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(
    mix: str, lines: int, repeats: int, chosen: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """One row a side, one row of seconds by stage of ours, and the targets."""
    stream = Stream(mix, people=max(500, lines // 10))
    data = batch(stream, 0, lines)
    size = data.path.stat().st_size / 2**20
    say(f"{mix}: {lines} lines, {size:.0f} MiB, {len(stream.withdrawn)} of {stream.people} people withdraw", chosen)
    names = [name for name in SIDES if all(find_spec(module) for module in NEEDS.get(name, ()))]
    for missing in [name for name in SIDES if name not in names]:
        say(f"{missing}: not installed (pip install 'plumbline[bench]'), its rows are left out", chosen)
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else names[::-1]:
            found[name].append(alone(name, data.path, stream))
            say(f"  {name}: {found[name][-1].wall:.1f} s, {found[name][-1].burnt:.1f} CPU s", chosen)
    rows = [row(mix, name, found[name], data.truth) for name in names]
    mine = found[OURS]
    best = min(mine, key=lambda one: one.burnt)
    stages = [{"mix": mix, "part": part, "seconds": round(s, 2), "us/event": round(1e6 * s / lines, 1)}
              for part, s in [("land", best.seconds["land"]), *best.stages.items(), ("verify", best.seconds["verify"])]
              ]  # fmt: skip
    void = faults(OURS, mine[0], data.truth)
    rate = 0.0 if void else statistics.median(lines / one.burnt for one in mine)
    safety = 1 - min(one.wall for one in found[UNSAFE]) / min(one.wall for one in mine)
    targets = [
        target(f"{mix}: events per CPU second, land to verified version", rate, "/s", 20_000, at_least=True),
        target(f"{mix}: durability and consent chain, share of the time", safety, "", 0.15),
    ]
    if (peer := "polars + datatrove") in names and not faults(peer, found[peer][0], data.truth) and not void:
        ratio = statistics.median(b.burnt / a.burnt for a, b in zip(mine, found[peer], strict=True))
        targets.append(target(f"{mix}: events per CPU second over {peer}", ratio, "x", 1.0, at_least=True))
        near = statistics.median(b.seconds["near-copies"] / a.stages["deduplicated"] for a, b in
                                 zip(mine, found[peer], strict=True))  # fmt: skip
        name = f"{mix}: near-copies of the same documents, datatrove's time over ours (all of `deduplicated`)"
        targets.append(target(name, near, "x", 1.0, at_least=True))
    return rows, stages, targets


def row(mix: str, name: str, runs: list[Outcome], truth: Truth) -> dict[str, Any]:
    why = faults(name, runs[0], truth)
    rates = [truth.lines / run.burnt for run in runs]
    return {
        "mix": mix,
        "side": name + (" VOID" if why else ""),
        "near-copies": "kept" if name in EXACT_ONLY else "found",
        "events/s/core": "-" if why else round(statistics.median(rates)),
        "range": "-" if why else f"{min(rates):.0f}..{max(rates):.0f}",
        "events/s": "-" if why else round(statistics.median(truth.lines / run.wall for run in runs)),
        "CPU s": round(statistics.median(run.burnt for run in runs), 2),
        "peak MiB": round(statistics.median(run.peak_mib for run in runs)),
        "kept": len(runs[0].kept),
        "false finds": sum(false_finds(runs[0], truth).values()) if runs[0].redactions else "-",
        "parts": ", ".join(f"{part} {seconds:.1f}" for part, seconds in runs[0].cpu.items()),
        "void because": "; ".join(why) or "-",
    }


def faults(name: str, run: Outcome, truth: Truth) -> list[str]:
    """Why a side's row does not count: what it kept is not what it had to keep, or is not clean."""
    why = list(run.problems)
    strangers = run.kept.keys() - truth.kept.keys()
    groups = {truth.kept[id] for id in run.kept.keys() & truth.kept.keys()}
    if strangers:
        why.append(f"{len(strangers)} kept that may not be")
    if missing := len(truth.originals - groups):
        why.append(f"{missing} not kept that should be")
    if name not in EXACT_ONLY and (copies := len(run.kept) - len(strangers) - len(groups)):
        why.append(f"{copies} near-copies kept")
    if left := sum(text in run.kept.get(id, "") for id, text in truth.planted.items()):
        why.append(f"{left} planted personal data left")
    if missed := sum(false_finds(run, truth, -1).values()):
        why.append(f"{missed} planted personal data not found")
    return why


def false_finds(run: Outcome, truth: Truth, sign: int = 1) -> dict[str, int]:
    """Finds of a class beyond what was planted of it (with `sign` -1: short of it)."""
    found = {name: sign * (count - truth.personal.get(name, 0)) for name, count in run.redactions.items()}
    return {name: count for name, count in found.items() if count > 0}


def alone(name: str, path: Path, stream: Stream) -> Outcome:
    """A side in a process of its own, forked from one that has done nothing but import."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["ingestion_peers", "polars", "duckdb", "pyarrow.parquet"])
    with ProcessPoolExecutor(1, context) as one:
        return one.submit(_quietly, name, path, stream).result()


def _quietly(name: str, path: Path, stream: Stream) -> Outcome:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # datatrove reports at length
        os.dup2(nowhere.fileno(), 2)
        return SIDES[name](path, stream)


# --- history ----------------------------------------------------------------------------------------------------------


def history(length: int, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A store that grows to `length` events; the median time of three new batches at each mark."""
    marks = [mark for mark in MARKS if mark <= length] or [length]
    stream = Stream("feedback", people=max(500, length // 20))
    rows: list[dict[str, Any]] = []
    built = cpu = 0.0
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder), stream)) as house:
        house.everybody("given", range(stream.people))
        house.everybody("withdrawn", sorted(stream.withdrawn))
        number = events = 0
        for mark in [*marks, *([length] if length not in marks else [])]:
            while events < mark:
                size = min(STEP, mark - events)
                data = batch(stream, number, size, Path(folder) / "events")
                seconds, spent, _ = grow(house, data)
                number, events, built, cpu = number + 1, events + size, built + seconds, cpu + spent
                say(f"  {events} events: batch of {size} took {seconds:.1f} s", chosen)
            times, spents = [], []
            stages: dict[str, float] = {}
            for _ in range(3):
                seconds, spent, stages = grow(house, batch(stream, number, NEW, Path(folder) / "events"))
                number += 1
                times.append(seconds)
                spents.append(spent)
            rows.append({
                "history": events,
                "rebuild s": round(built, 1),
                "rebuild CPU s": round(cpu, 1),
                f"{NEW} new, s": round(statistics.median(times), 2),
                "range": f"{min(times):.2f}..{max(times):.2f}",
                "CPU s": round(statistics.median(spents), 2),
                "x rebuild": round(cpu / statistics.median(spents), 1),
                "slowest stages": ", ".join(f"{n} {s:.2f}" for n, s in sorted(stages.items(), key=lambda p: -p[1])[:4]),
            })  # fmt: skip
            say(f"  {rows[-1]}", chosen)
        began, manifest = time.perf_counter(), house.ingest().manifest
        sound = verify(house.ledger, house.blobs, manifest)
        say(f"  the whole version verified in {time.perf_counter() - began:.1f} s: {list(sound.problems) or 'sound'}",
            chosen)  # fmt: skip
    last = rows[-1]
    met = [target(f"{NEW} new on {last['history']} against a rebuild (CPU)", last["x rebuild"], "x", 50, at_least=True)]
    if len(rows) > 1:
        growth = last["CPU s"] / rows[0]["CPU s"]
        met.append(target(f"a batch at {last['history']} over one at {rows[0]['history']} (CPU)", growth, "x", 1.3))
    met.append(target("problems that verifying the whole version found", len(sound.problems), "", 0))
    return rows, met


def grow(house: House, data: Batch) -> tuple[float, float, dict[str, float]]:
    """Land and ingest one batch; its file is not needed after. Seconds, CPU seconds, seconds by stage."""
    began, spent = time.perf_counter(), processor()
    house.land(data.path)
    landed = time.perf_counter() - began
    result = house.ingest()
    found = time.perf_counter() - began, processor() - spent, {"land": landed, **result.seconds}
    if result.accepted != len(data.truth.originals):
        raise SystemExit(f"{result.accepted} accepted, {len(data.truth.originals)} expected: {result.rejected}")
    data.path.unlink()
    return found


# --- answers ----------------------------------------------------------------------------------------------------------


def answers(chosen: argparse.Namespace) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Withdrawal, collector and lineage, measured by the files beside this one, smaller with `--quick`."""
    import collecting
    import lineage_query

    rows = 100_000 if chosen.quick else 10_000_000 if chosen.full else 1_000_000
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"lineage-{rows}.sqlite"
    lineage_query.build(path, rows)
    asked = lineage_query.measure(path, rows, queries=1_000 if chosen.quick else 5_000)
    taken = collecting.measure_collector(seconds=2.0 if chosen.quick else 5.0)
    left = collecting.measure_withdrawals(100 if chosen.quick else 500)
    worst = max(one["p99 ms"] for one in asked if one["question"] == "which policies")
    targets = [target(f"withdrawal acknowledged, p99, load: {one['load']}", one["p99_ms"], "ms", 50) for one in left]
    targets.append(target(f"which policies saw a subject, p99 at {rows} rows", worst, "ms", 10))
    return [taken, left, asked], targets


if __name__ == "__main__":
    main()
