"""What users notice of a shadow, beside Envoy's and nginx's mirrors; and the predictor beside plain `generate`.

    python tests/benchmarks/shadow.py                      all, about 25 minutes
    python tests/benchmarks/shadow.py --parts added        added latency at 50, 200 and 1,000 requests per second
    python tests/benchmarks/shadow.py --parts stream       added time to first token, of server-sent events
    python tests/benchmarks/shadow.py --parts harm         the shadow slow, hanging, dead
    python tests/benchmarks/shadow.py --parts predictor    requests and tokens per second at concurrency 1, 8, 32
    ... --quick --sides direct plumbline --rates 200 --rounds 2 --seconds 3 --no-pin

Open loop: requests leave at fixed times and latency counts from these. Each round runs every side at every rate, in an
order that rotates; *added* is a side's percentile minus that of the direct call of the same round, and what is printed
is the median over rounds. `late` is how late the load itself was (p99): where it is large, or where a direct call does
not keep up, a row says nothing about sides. Envoy and nginx keep no pairs: `pairs` is what the shadow answered to the
end, per request, for them thrown away, for ours kept with consent.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import options, show, target
from shadow_load import GRACE_S
from shadow_sides import SIDES, Cores, Side, asked, missing, policy, subjects

HERE = Path(__file__).parent
PARTS = ("added", "stream", "harm", "predictor")
MODES = ("ok", "slow", "hang", "dead")
Row = dict[str, Any]


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument(
        "--rates", nargs="+", type=float, help="requests per second (default: 50 200 1000; quick: 50 200)"
    )
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--seconds", type=float, help="of each run; default 10, quick 2")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the predictors")
    parser.add_argument("--no-pin", action="store_true", help="leave all processes on all cores")
    chosen = parser.parse_args()
    left_out = [reason for side in chosen.sides if (reason := missing(side)) is not None]
    sides = ["direct", *(side for side in chosen.sides if side != "direct" and missing(side) is None)]
    plan = Plan(
        sides=sides,
        rates=chosen.rates or ([50.0, 200.0] if chosen.quick else [50.0, 200.0, 1000.0]),
        rounds=chosen.rounds or (2 if chosen.quick else 5),
        seconds=chosen.seconds or (2.0 if chosen.quick else 10.0),
        cores=Cores.chosen(not chosen.no_pin),
    )
    rows: list[Row] = []
    targets: list[Row] = []
    for part in chosen.parts:
        if part == "predictor":
            from shadow_predictor import measure

            found, ratio = measure(chosen.quick, chosen.threads)
            targets.append(
                target("tokens per second at concurrency 8", ratio, "times plain generate", 4, at_least=True)
            )
        else:
            found, more = {"added": added, "stream": stream, "harm": harm}[part](plan)
            targets += more
        rows += [{"part": part, **row} for row in found]
        if not chosen.json:
            print(f"\n{part}")
            show(found, [], False)
    show(rows if chosen.json else [], targets, chosen.json)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)


@dataclass(frozen=True)
class Plan:
    sides: list[str]
    rates: list[float]
    rounds: int
    seconds: float
    cores: Cores


@dataclass
class Run:
    """One side at one rate in one round, in milliseconds from the scheduled time."""

    p50: float
    p99: float
    first50: float
    first99: float
    late: float
    answered: float
    statuses: dict[str, int]
    bodies: frozenset[str]


@dataclass
class Setting:
    """Every side in front of one reference and one aligned policy, until `close`."""

    plan: Plan
    mode: str = "ok"
    sides: dict[str, Side] = field(default_factory=dict)
    shadows: dict[str, int] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Setting":
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def _start(self) -> None:
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="plumbline-bench-")))
        reference = self._open.enter_context(policy("ok", self.plan.cores))
        for name in self.plan.sides:
            (folder / name).mkdir()
            self.shadows[name] = self._open.enter_context(policy(self.mode, self.plan.cores))
            side = SIDES[name](reference, self.shadows[name], folder / name, self.plan.cores)
            self.sides[name] = self._open.enter_context(side)
            self.run(name, 20, 1.0)  # connections, caches, first fsync
            self.sides[name].begin()

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def run(self, name: str, rate: float, seconds: float, *, stream: bool = False) -> Run:
        side = self.sides[name]
        wanted = {"port": side.port, "rate": rate, "seconds": seconds, "stream": stream, "subjects": subjects()}
        command = [sys.executable, str(HERE / "shadow_load.py"), json.dumps(wanted)]
        pin = ["taskset", "-c", ",".join(map(str, self.plan.cores.others))] if self.plan.cores.others else []
        timeout = seconds + GRACE_S + 30
        done = subprocess.run([*pin, *command], capture_output=True, text=True, timeout=timeout, check=True)
        found = json.loads(done.stdout)
        side.sent += found["sent"]
        side.watch()
        latency, first = found["latency"] or [float("inf")], found["first"] or [float("inf")]
        return Run(
            p50=percentile(latency, 0.5),
            p99=percentile(latency, 0.99),
            first50=percentile(first, 0.5),
            first99=percentile(first, 0.99),
            late=percentile(found["late"], 0.99),
            answered=len(found["latency"]) / found["sent"],
            statuses=found["statuses"],
            bodies=frozenset(found["bodies"]),
        )

    def drained(self, name: str, timeout_s: float = 120.0) -> Row:
        """What became of the requests on the shadow's leg: pairs per request, and whether all are accounted for."""
        side = self.sides[name]
        if name == "direct":
            return {"pairs": "", "accounted": "", "shed": ""}
        if side.spool is None:
            answered = 0 if self.mode == "dead" else asked(self.shadows[name])["answered"]
            return {"pairs": round(answered / side.sent, 4), "accounted": "none kept", "shed": "unknown"}
        from plumbline.shadow import Spool

        spool = Spool.existing(side.spool)
        until = time.monotonic() + timeout_s
        while (counts := spool.counts()).spooled < side.sent or (counts.pending and self.mode in ("ok", "slow")):
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        spool.close()
        return {
            "pairs": round(counts.paired / side.sent, 4),
            "accounted": round(counts.spooled / side.sent, 4) if counts.balanced else "DOES NOT BALANCE",
            "shed": " ".join(f"{reason} {n}" for reason, n in counts.shed.items()) or f"0, {counts.pending} pending",
        }


def rounds(
    plan: Plan, setting: Setting, rates: list[float], *, stream: bool = False
) -> dict[tuple[str, float], list[Run]]:
    """Every side at every rate in every round, the order of sides rotating."""
    found: dict[tuple[str, float], list[Run]] = defaultdict(list)
    for number in range(plan.rounds):
        turn = number % len(plan.sides)
        for rate in rates:
            for name in plan.sides[turn:] + plan.sides[:turn]:
                found[name, rate].append(setting.run(name, rate, plan.seconds, stream=stream))
    return found


def added(plan: Plan) -> tuple[list[Row], list[Row]]:
    with Setting(plan) as setting:
        found = rounds(plan, setting, plan.rates)
        kept = {name: setting.drained(name) for name in plan.sides}
        cost = {name: setting.sides[name].cost() for name in plan.sides}
    rows = [row_of(name, rate, found, "p") | cost[name] | kept[name] for name, rate in found]
    targets = []
    rate = 200.0 if 200.0 in plan.rates else plan.rates[0]
    if {"plumbline", "envoy"} <= set(plan.sides):
        more = [a.p99 - b.p99 for a, b in zip(found["plumbline", rate], found["envoy", rate], strict=True)]
        name = f"added p99 at {rate:g} requests/s, plumbline minus Envoy's mirror"
        targets.append(target(name, statistics.median(more), "ms", 2.0))
    if "plumbline" in plan.sides:
        share = kept["plumbline"]["accounted"]
        share = share if isinstance(share, float) else 0.0
        targets.append(target("requests accounted", 100 * share, "%", 100, at_least=True))
        targets.append(target("requests paired", 100 * kept["plumbline"]["pairs"], "%", 100, at_least=True))
    return rows, targets


def stream(plan: Plan) -> tuple[list[Row], list[Row]]:
    rate = 50.0
    with Setting(plan) as setting:
        found = rounds(plan, setting, [rate], stream=True)
        kept = {name: setting.drained(name) for name in plan.sides}
    return [row_of(name, rate, found, "first") | kept[name] for name, _ in found], []


def harm(plan: Plan) -> tuple[list[Row], list[Row]]:
    """The same load with the shadow well, ten times slower, hanging, and dead: what users see of it."""
    rows: list[Row] = []
    worst = 0.0
    same = True
    rate = 200.0 if 200.0 in plan.rates else plan.rates[0]
    for mode in MODES:
        with Setting(plan, mode) as setting:
            found = rounds(plan, setting, [rate])
            whole = found["direct", rate][0].bodies
            for name in plan.sides:
                runs = found[name, rate]
                alike = all(run.bodies == whole and set(run.statuses) == {"200"} for run in runs)
                kept = setting.drained(name, 10.0)
                rows.append({"shadow": mode, **row_of(name, rate, found, "p"), "as direct": alike, **kept})
                if name == "plumbline":
                    same = same and alike
                    well = next(row for row in rows if row["side"] == name)  # the first mode
                    worst = max(worst, rows[-1]["added p99"] - well["added p99"])
    if "plumbline" not in plan.sides:
        return rows, []
    return rows, [
        target("statuses and bodies as of a direct call, whatever the shadow does", float(same), "", 1, at_least=True),
        target("added p99 with the shadow slow, hanging or dead, above its being well", worst, "ms", 2.0),
    ]


def row_of(name: str, rate: float, found: dict[tuple[str, float], list[Run]], what: str) -> Row:
    """Medians over rounds, and what is added to the direct call of the same round. `what` is p or first (token)."""
    runs, base = found[name, rate], found["direct", rate]
    highest = [getattr(run, what + "99") for run in runs]

    def median(percent: str, *, less: bool = False) -> float:
        values = [getattr(run, what + percent) for run in runs]
        if less:
            values = [value - getattr(b, what + percent) for value, b in zip(values, base, strict=True)]
        return round(statistics.median(values), 2)

    label = "" if what == "p" else "first token "
    return {
        "side": name,
        "rate": rate,
        f"{label}p50 ms": median("50"),
        f"{label}p99 ms": median("99"),
        "added p50": median("50", less=True),
        "added p99": median("99", less=True),
        "range p99": f"{min(highest):.1f}-{max(highest):.1f}",
        "late": round(statistics.median(run.late for run in runs), 2),
        "answered": round(min(run.answered for run in runs), 4),
    }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


if __name__ == "__main__":
    main()
