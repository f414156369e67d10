"""Training speed: ours against transformers.Trainer and TRL's SFTTrainer, one table, the same examples in every step.

What is equal on all sides: token ids, labels, the global batch of every optimizer step, initial weights, AdamW and
its settings, clipping, precision, rows per micro-batch, threads (one, unless `--threads` says more). `sides.py` says
how each side is driven. A row counts only when the gradient of one global batch, before clipping, is ours (the padded
layout's) to 1e-5 of its largest element in float32; otherwise it is printed as VOID, with the difference.

How it is measured. Time: all policies stand at once in one process, each side waits in its own thread, and they take
turns step by step, forth and back (on CUDA one side after the other: a GPU holds few at once). A step is everything
from the end of one to the end of the next, data included; the first warms up. Median and range over the repeats,
ratios from paired repeats; CPU seconds of a step stand beside them, and swing less on a machine with other work.
FLOPs: torch's FlopCounterMode over products with weights (mm, addmm); attention is left out on all sides alike, since
its CPU kernel is not counted by it. `x bound` divides by `cost.bound`. Peak memory: what a fresh process that takes
one step grows by, over its policy's weights (resident memory; on CUDA, allocated memory).

Read with care: TRL's fused head leaves out positions without a label on Triton devices only
(`trl/kernels/chunked_logprob.py`, `_use_triton`: cuda or xpu). On a CPU it scores every position, forms every logit
twice, and counts entropies in torch: the TRL rows of a CPU table measure its fallback. The policy is small for its
vocabulary (body and head are printed), which flatters every side that leaves logits out.

Figures are printed, no time is asserted. TRL is in the extra `bench`; without it its rows are left out.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from measuring import options, show, target
from sides import SIDES, Case, Side

from plumbline.training.cost import Shape, attention_flops, bound, peak_flops, shape_of, step_flops

OURS = [name for name in SIDES if name.startswith("ours")]
PLAIN = "transformers.Trainer"
EQUAL = 1e-5  # largest difference of a gradient, as a share of its largest element


def main() -> None:
    parser = options(__doc__ or "", ("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="threads of every side")
    chosen = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(chosen.threads):  # read when torch is imported, which it is by now
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(chosen.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    warnings.filterwarnings("ignore")
    names = [name for name in SIDES if find_spec("trl") or not name.startswith("TRL")]
    say(f"{chosen.threads} thread(s) a side, {'float32' if chosen.device == 'cpu' else 'bfloat16 autocast'}", chosen)
    say("trl is not installed (pip install 'plumbline[bench]'): its rows are left out", chosen, not find_spec("trl"))
    say("TRL's fused head has no CPU kernel: here it scores every position", chosen, chosen.device == "cpu")
    load = os.getloadavg()[0]
    rows, targets = [], []
    for case in cases(chosen.device, chosen.quick):
        found, met = compare(case, names, repeats=3 if chosen.quick else 7, chosen=chosen)
        rows += found
        targets += met
        for one in met:
            say(f"  {one['name']}: {one['value']}", chosen)
    if chosen.device == "cpu":
        targets += [memory_target(OURS[0])]
        if not chosen.quick:
            say(f"the same for {PLAIN}: {memory_target(PLAIN)['value']} of one float32 copy of full logits", chosen)
    show(rows, targets, chosen.json)
    say(f"load average (1 min): {load:.2f} at the start, {os.getloadavg()[0]:.2f} at the end", chosen)


def cases(device: str, quick: bool) -> list[Case]:
    """On CUDA a policy of about 1B parameters (Llama 3.2's shape, with as many key heads as query heads)."""
    large: dict[str, Any] = {}
    if device == "cuda":
        large = {"hidden": 2048, "layers": 16, "inner": 8192, "heads": 32, "median": 700, "longest": 4096}
    sizes = (32_000,) if quick else (32_000, 128_000)
    return [Case(data, size, device, **large) for size in sizes for data in ("ragged", "uniform")]


def say(words: str, chosen: argparse.Namespace, really: bool = True) -> None:
    if really:
        print(words, file=sys.stderr if chosen.json else sys.stdout, flush=True)


# one case: probes, then the race


def compare(
    case: Case, names: list[str], *, repeats: int, chosen: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    store, shape = case.store(), shape_in_numbers(case)
    tokens, supervised = int(store.lengths.sum()), int(store.targets.sum())
    padded = sum(int(store.lengths[i : i + case.micro_rows].max()) * case.micro_rows for i in first_rows(case))
    where = f"{case.data}, V {case.vocabulary // 1000}k"
    say(
        f"{where}: body {shape.body / 1e6:.1f}M, head {shape.head / 1e6:.1f}M; {case.rows} rows, {tokens} tokens, "
        f"{supervised} supervised, {padded} padded in order (r {tokens / padded:.2f}, s {supervised / tokens:.2f})",
        chosen,
    )
    least = bound(shape, tokens, supervised)
    with tempfile.TemporaryDirectory() as folder:
        probes = {name: probed(case, name, Path(folder) / str(place)) for place, name in enumerate(names)}
        differences = {
            name: gradient_difference(Path(folder) / str(names.index(OURS[0])), Path(folder) / str(place))
            for place, name in enumerate(names)
        }
    limit = EQUAL if case.device == "cpu" else 0.05
    times, burnt, losses = race(case, names, repeats)
    rows = []
    for name in names:
        void = differences[name] > limit
        each = statistics.median(times[name])
        row = {
            "case": where,
            "side": name + (" VOID" if void else ""),
            "supervised tok/s": "-" if void else round(supervised / each),
            "range": "-" if void else f"{supervised / max(times[name]):.0f}..{supervised / min(times[name]):.0f}",
            "real tok/s": "-" if void else round(tokens / each),
            "CPU s/step": "-" if void else round(statistics.median(burnt[name]), 2),
            "MFLOP/supervised": round(probes[name]["flops"] / supervised / 1e6, 1),
            "x bound": round(probes[name]["flops"] / supervised / least, 3),
            "peak MiB": round(probes[name]["peak_mib"]),
            "last loss": round(losses[name], 5),
            "gradient off by": f"{differences[name]:.1e}",
        }
        if case.device == "cuda":
            row["MFU"] = utilisation(case, shape, each)
        rows.append(row)
    mine = [name for name in OURS if differences[name] <= limit]
    best = min(mine, key=lambda name: statistics.median(times[name]))
    ratio = statistics.median(a / b for a, b in zip(times[PLAIN], times[best], strict=True))
    met = [
        target(
            f"{where}: supervised tokens/s over {PLAIN} ({best})",
            ratio,
            "x",
            2.0 if case.data == "ragged" else 0.95,
            at_least=True,
        )
    ]
    if case.data == "ragged":
        waste = min(probes[name]["flops"] for name in mine) / supervised / least
        met.append(target(f"{where}: FLOPs per supervised token over the bound, best layout", waste, "x", 1.1))
    if case.device == "cuda" and (fast := "TRL, packed, no checkpointing") in names:
        ratio = statistics.median(times[fast]) / statistics.median(times[best])
        met.append(target(f"{where}: supervised tokens/s over TRL packed ({best})", ratio, "x", 1.0, at_least=True))
    return rows, met


def first_rows(case: Case) -> range:
    return range(0, case.rows, case.micro_rows)


def shape_in_numbers(case: Case) -> Shape:
    with tempfile.TemporaryDirectory() as folder:
        case.config().save_pretrained(folder)
        return shape_of(Path(folder), case.objective("padded"))


def utilisation(case: Case, shape: Shape, seconds: float) -> str:
    """MFU: what the step needs at least, attention included, over what the device is sold with."""
    import torch

    store = case.store()
    need = step_flops(shape, int(store.lengths.sum()), int(store.targets.sum()), frozen_body=False)
    peak = peak_flops(torch.cuda.get_device_name(), "bfloat16")
    return f"{(need + attention_flops(shape, store.lengths.tolist())) / seconds / peak:.1%}" if peak else "-"


def gradient_difference(one: Path, other: Path) -> float:
    a, b = np.fromfile(one, np.float32), np.fromfile(other, np.float32)
    return float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else float("inf")


# a probe: one step in a fresh process, for its gradient, its FLOPs and its memory


def probed(case: Case, side: str, gradient: Path | None) -> dict[str, float]:
    """`probe` in a process of its own, forked from one that has done nothing but import."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["transformers.trainer", "transformers.models.llama.modeling_llama", "trl.trainer.sft_trainer"]
    )
    with ProcessPoolExecutor(1, context) as one:
        return one.submit(probe, case, side, gradient).result()


def probe(case: Case, side: str, gradient: Path | None) -> dict[str, float]:
    """One step of one side: its FLOPs and its memory; the gradient goes to a file."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def addmm(_: tuple[int, int], a: tuple[int, int], b: tuple[int, int], **__: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    aten = torch.ops.aten  # of which the counter does not know the in-place product, which both fused heads use
    watch = ProbeWatch(case.device, gradient)
    with FlopCounterMode(display=False, custom_mapping={aten.addmm_: addmm}) as counter:
        SIDES[side](case, 1, watch)
    counts = counter.get_flop_counts()["Global"]
    return {"flops": float(sum(counts.get(op, 0) for op in (aten.mm, aten.addmm, aten.addmm_))), "peak_mib": watch.peak}


class ProbeWatch:
    """Writes the gradient, and sees how far memory grows from the policy's weights to the end of the step."""

    clip = False

    def __init__(self, device: str, gradient: Path | None) -> None:
        self.device, self.path, self.peak, self.before = device, gradient, 0.0, 0.0

    def built(self, model: Any) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident now
        self.before = self._memory("VmRSS")

    def gradient(self, model: Any) -> None:
        if self.path:
            with open(self.path, "wb") as file:  # one at a time: a copy of them all would show as memory
                for parameter in model.parameters():
                    file.write(memoryview(parameter.grad.detach().cpu().float().contiguous().numpy()).cast("B"))

    def stepped(self, loss: float) -> None:
        self.peak = self._memory("VmHWM") - self.before

    def _memory(self, which: str) -> float:
        if self.device == "cuda":
            import torch

            return (torch.cuda.max_memory_allocated() if which == "VmHWM" else torch.cuda.memory_allocated()) / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(which))) / 1024


def memory_target(side: str) -> dict[str, Any]:
    """Double a micro-batch at two vocabularies. What the larger vocabulary adds to that growth is what scales with
    vocabulary times tokens (weights, body and their gradients cancel); full logits would add at least their float32."""
    case, small = Case("uniform", 128_000, rows=16, micro_rows=16, median=128, layers=2), 32_000
    peaks = [
        probed(replace(case, vocabulary=size, rows=rows, micro_rows=rows), side, None)["peak_mib"]
        for size in (case.vocabulary, small)
        for rows in (2 * case.rows, case.rows)
    ]
    grows = (peaks[0] - peaks[1]) - (peaks[2] - peaks[3])
    full = (case.vocabulary - small) * case.rows * case.median * 4 / 2**20
    name = f"memory that {case.rows * case.median} more tokens take for V 128k over V 32k, as a share of full logits'"
    return target(f"{name} ({full:.0f} MiB)", grows / full, "", 0.1)


# the race


class Racer:
    """A side in its own thread, stopped at the end of every step until it is its turn again."""

    clip = True

    def __init__(self, case: Case, side: Side, steps: int) -> None:
        self.turn, self.over = threading.Semaphore(0), threading.Semaphore(0)
        self.loss, self.cuda = 0.0, case.device == "cuda"
        self.failed: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(side, case, steps), daemon=True)
        self.thread.start()

    def _run(self, side: Callable[..., None], case: Case, steps: int) -> None:
        self.turn.acquire()
        try:
            side(case, steps, self)
        except Exception as error:
            self.failed = error
        self.over.release()

    def built(self, model: Any) -> None: ...

    def gradient(self, model: Any) -> None: ...

    def stepped(self, loss: float) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()
        self.loss = loss
        self.over.release()
        self.turn.acquire()

    def step(self) -> tuple[float, float]:
        """Seconds of one step, by the clock and of the processor."""
        began, spent = time.perf_counter(), time.process_time()
        self.turn.release()
        self.over.acquire()
        if self.failed is not None:
            raise self.failed
        return time.perf_counter() - began, time.process_time() - spent

    def end(self) -> None:
        self.turn.release()
        self.thread.join()


def race(
    case: Case, names: list[str], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, float]]:
    """Each side's seconds and CPU seconds by step, and its last loss."""
    times: dict[str, list[float]] = {name: [] for name in names}
    burnt: dict[str, list[float]] = {name: [] for name in names}
    losses = {}
    for group in [names] if case.device == "cpu" else [[name] for name in names]:
        racers = {name: Racer(case, SIDES[name], repeats + 1) for name in group}
        for name in group:
            racers[name].step()  # builds, and warms up
        for repeat in range(repeats):
            for name in group if repeat % 2 == 0 else group[::-1]:
                seconds, spent = racers[name].step()
                times[name].append(seconds)
                burnt[name].append(spent)
        for name in group:
            losses[name] = racers[name].loss
            racers[name].end()
    return times, burnt, losses


if __name__ == "__main__":
    main()
