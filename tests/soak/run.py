"""The soak: kills, rivals, replays and interleavings in numbers that a test suite has no time for. `make soak`

Figures are printed; anything that was lost, doubled, torn or stale is a finding, is printed, and ends it with 1.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from soak.kills import MEMORY, soak
from soak.replays import replays
from soak.rivals import rivalry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, default=3000, metavar="KILLS", help="about how many kills (3000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of rivals and of replays (5)")
    parser.add_argument("--seed", type=int, default=5, help="of the random moments")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = parser.parse_args()

    def say(words: str) -> None:
        print(words, file=sys.stderr if chosen.json else sys.stdout, flush=True)

    began, load = time.monotonic(), os.getloadavg()[0]
    kills = soak(chosen.soak, seed=chosen.seed, say=say)
    figures: dict[str, Any] = {
        "kills": kills.total,
        "by kind": kills.killed,
        "steps enumerated": kills.steps,
        "recovery, median s": round(statistics.median(kills.recovery), 4),
        "recovery, longest s": round(max(kills.recovery), 4),
    }
    findings = list(kills.findings)
    refused = stale = versions = rounds = 0
    for _ in range(chosen.rounds):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
            found = rivalry(Path(folder))
        refused, stale, versions = refused + found.refused, stale + found.stale, versions + found.versions
        rounds += found.rounds
        findings += found.findings
    figures |= {
        "rounds of rivals": rounds,
        "woken workers refused": refused,
        "versions they made": versions,
        "stale commits": stale,
    }
    for turn in range(chosen.rounds):
        findings += replays(seed=chosen.seed + turn)
    figures |= {"replays, three times and shuffled": chosen.rounds, "findings": len(findings)}
    figures |= {"seconds": round(time.monotonic() - began), "load at the start": round(load, 2)}
    for finding in findings:
        say(finding)
    if chosen.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
    sys.exit(1 if findings or stale else 0)


if __name__ == "__main__":
    main()
