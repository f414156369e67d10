"""What the operator costs: per idle resource and per reconcile, with a thousand DatasetLines.

    python tests/benchmarks/operating.py --quick
    python tests/benchmarks/operating.py --json

The real operator, as its own process, against kmock's API server (tests/operators/emulator.py) and a SQLite ledger with
a consent chain that every look verifies. Processor time is the operator's own, from the kernel; kmock's is not in it.
Three parts: nothing to do (the process, its watches, its lease and the list of what may be released), lines that appear
(each is looked at, and gets its conditions, Events and status), and lines that rest (each is looked at once per resync,
and nothing is written). Not named operator.py: Python's own module of that name would be hidden from every benchmark.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import psutil

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "operators")]

from emulator import TESTS as TESTS_AGENT  # noqa: E402
from emulator import ApiServerEmulator  # noqa: E402
from kmock import Server  # noqa: E402
from measuring import options, show, target  # noqa: E402
from operator_tools import LINES, RUBRIC, Cluster, Desk, operator  # noqa: E402

PEOPLE = 200
Row = dict[str, Any]


@attrs.define(kw_only=True)
class Counting(ApiServerEmulator):
    """Counts what is asked by others than the benchmark: the operator, through kopf and by itself."""

    asked: Counter[str] = attrs.field(factory=Counter, init=False)

    async def _handle(self, request: Any) -> Any:
        if request.resource is not None and request.headers.get("User-Agent") != TESTS_AGENT:
            name = "" if request.name else " (list)"
            self.asked[f"{request.method.value} {request.resource.plural}{name}"] += 1
        return await super()._handle(request)


class Watched:
    """The operator's processor time and memory, and what it asked the API server, between two moments."""

    def __init__(self, pid: int, asked: Counter[str]) -> None:
        self.process = psutil.Process(pid)
        self.asked = asked
        self.begin()

    def begin(self) -> None:
        self.at, self.cpu, self.before = time.monotonic(), self._cpu(), Counter(self.asked)

    def row(self, part: str, lines: int) -> Row:
        seconds, cpu, asked = time.monotonic() - self.at, self._cpu() - self.cpu, self.asked - self.before
        looks = asked["GET datasetlines"]
        writes = sum(count for what, count in asked.items() if what.split()[0] in ("POST", "PATCH", "PUT"))
        return {
            "part": part,
            "lines": lines,
            "seconds": round(seconds, 1),
            "looks": looks,
            "requests": sum(asked.values()),
            "writes": writes,
            "cpu_s": round(cpu, 2),
            "cpu_ms_per_look": round(1000 * cpu / looks, 2) if looks else "",
            "cores": round(cpu / seconds, 3),
            "rss_mib": round(self.process.memory_info().rss / 2**20),
        }

    def _cpu(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)


async def settled(cluster: Cluster, lines: int, patience_s: float = 480.0) -> None:
    """Until every line has a status, and none was written for two seconds."""
    until, last, since = time.monotonic() + patience_s, -1, time.monotonic()
    while time.monotonic() < until:
        await asyncio.sleep(0.2)
        written = len(cluster.emulator.patched)
        if written != last:
            last, since = written, time.monotonic()
        if time.monotonic() - since > 2 and all("status" in doc for doc in cluster.objects(LINES)):
            return
    raise TimeoutError(f"{lines} lines were not looked at within {patience_s:g} s")


async def measure(lines: int, resync: float, folder: Path) -> list[Row]:
    desk = Desk(folder)
    for person in range(PEOPLE):
        desk.consent(f"person-{person}")
    rows = []
    async with Counting() as emulator, Server(emulator):
        cluster = Cluster(emulator, str(emulator.url).rstrip("/"))
        await cluster.guard()
        async with operator(cluster, desk, resync=resync, lease=15) as running:
            while "holds the lease" not in running.log.read_text():
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)
            watched = Watched(running.process.pid, emulator.asked)
            await asyncio.sleep(10)
            rows.append(watched.row("nothing to do", 0))

            watched.begin()
            for number in range(lines):
                await cluster.create_line(f"line-{number:04}", rubric=RUBRIC)
            await settled(cluster, lines)
            rows.append(watched.row("lines appear", lines))

            watched.begin()
            await asyncio.sleep(resync)
            rows.append(watched.row("lines rest", lines))
    return rows


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--lines", type=int, help="DatasetLines (1,000; 100 with --quick)")
    given = parser.parse_args()
    lines = given.lines or (100 if given.quick else 1_000)
    folder = Path(tempfile.mkdtemp(prefix="plumbline-operating-"))
    try:
        rows = asyncio.run(measure(lines, 20.0 if given.quick else 60.0, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rests, appears = rows[2], rows[1]
    idle = 1000 * rests["cpu_s"] / lines  # the last part is one resync long
    targets = [
        target("processor time per idle line and resync", idle, "ms", 15),
        target("processor time per look at a new line", float(appears["cpu_ms_per_look"]), "ms", 20),
        target("resident memory with all lines", rests["rss_mib"], "MiB", 256),
    ]
    show(rows, targets, given.json)


if __name__ == "__main__":
    main()
