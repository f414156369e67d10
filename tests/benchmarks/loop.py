"""Wall time and peak memory of `plumb loop`, cold (the reference is trained) and warm (it is cached).

Also the time of `plumb --help`. `--quick` runs the warm loop only once the reference is there. Repeats are medians.
"""

import shutil
import statistics
import subprocess
import time

from measuring import PLUMB, measure, options, show, target


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args()
    cache, out = chosen.out / "loop-cache", chosen.out / "loop"
    rows = []
    for repeat in range(chosen.repeats):
        for kind in ("warm",) if chosen.quick else ("cold", "warm"):
            if kind == "cold":
                shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
            run = measure([PLUMB, "loop", "--seed", str(chosen.seed), "--out", str(out), "--cache", str(cache)])
            rows.append(
                {"loop": kind, "repeat": repeat, "seconds": round(run.seconds, 1), "peak MiB": round(run.peak_mib)}
            )
    helps = []
    for _ in range(7):
        started = time.monotonic()
        subprocess.run([PLUMB, "--help"], capture_output=True, check=True)
        helps.append(time.monotonic() - started)
    targets = []
    for kind, limit in (("cold", 240.0), ("warm", 120.0)):
        seconds = [float(row["seconds"]) for row in rows if row["loop"] == kind]
        if seconds:
            targets.append(target(f"plumb loop, {kind}", statistics.median(seconds), "s", limit))
    targets.append(target("plumb --help", statistics.median(helps), "s", 0.5))
    show(rows, targets, chosen.json)


if __name__ == "__main__":
    main()
