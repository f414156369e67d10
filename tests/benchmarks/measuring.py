"""What the benchmarks share: running a loop under a watch, and printing rows and targets."""

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PLUMB = str(Path(sys.executable).with_name("plumb"))


@dataclass(frozen=True)
class Measured:
    """Wall seconds and the peak resident memory (MiB) of a process and all its descendants, shared pages counted once
    per process."""

    seconds: float
    peak_mib: float
    code: int


def measure(arguments: list[str]) -> Measured:
    """Run a command to its end and watch its process tree."""
    started = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.is_set():
            total = 0
            try:
                root = psutil.Process(process.pid)
                for one in [root, *root.children(recursive=True)]:
                    try:
                        total += one.memory_info().rss
                    except psutil.Error:
                        continue
            except psutil.Error:
                break
            peak = max(peak, total / 2**20)
            ended.wait(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    ended.set()
    watcher.join()
    return Measured(time.monotonic() - started, peak, code)


def options(description: str, devices: tuple[str, ...] = ("cpu",)) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of the whole")
    parser.add_argument("--json", action="store_true", help="print rows and targets as JSON")
    parser.add_argument("--device", default="cpu", choices=devices, help="where it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    return parser


def target(name: str, value: float, unit: str, limit: float, *, at_least: bool = False) -> dict[str, Any]:
    met = value >= limit if at_least else value <= limit
    return {"name": name, "value": round(value, 3), "unit": unit, "target": limit, "met": met}


def show(rows: list[dict[str, Any]], targets: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"rows": rows, "targets": targets}, indent=2))
        return
    if rows:
        names = list(rows[0])
        widths = {n: max(len(n), *(len(str(row[n])) for row in rows)) for n in names}
        print("  ".join(n.ljust(widths[n]) for n in names))
        for row in rows:
            print("  ".join(str(row[n]).ljust(widths[n]) for n in names))
    for one in targets:
        verdict = "met" if one["met"] else "NOT met"
        print(f"{one['name']}: {one['value']} {one['unit']} (target {one['target']}, {verdict})")
