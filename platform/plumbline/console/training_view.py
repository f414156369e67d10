"""A training run as one watches it: how far, how long still, what each slice's loss does, what the probes say.

On a terminal a display that repaints itself a few times a second, so that the clock moves between two reports; anywhere
else (a file, a Pod's log) a plain line every few seconds. What is shown is what the run reported, nothing is computed
twice: the ETA alone counts down between reports. Names of slices come from data and are shown through `visible`.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from plumbline.console.words import humanise, number, percent, visible

Line = Mapping[str, Any]

SLICES_SHOWN = 8
PROBES_SHOWN = 8
TREND = 24  # reports in a sparkline
SPARKS = "▁▂▃▄▅▆▇"  # without the full block: rows would touch
PLAIN_SECONDS = 5.0  # without a terminal, at most one line in so many seconds
REPAINTS = 4  # per second


@dataclass
class _Loss:
    """One loss over the last reports, oldest first."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=TREND))

    @property
    def change(self) -> float | None:
        """Since the report before; None before there are two numbers."""
        if len(self.values) < 2:
            return None
        change = self.values[-1] - self.values[-2]
        return change if math.isfinite(change) else None


class TrainingView:
    """Shows a run while the block lasts: `with TrainingView("sft-1", Console(stderr=True)) as view: ...`.

    `enabled=False` shows nothing (a command whose output is JSON). Both feeding methods may be called from any thread.
    """

    def __init__(
        self, run: str, console: Console, *, enabled: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._console, self._clock = run, console, clock
        self._enabled = enabled
        self._started = self._reported = clock()
        self._line: Line | None = None
        self._probe: Line | None = None
        self._whole, self._slices = _Loss(), dict[str, _Loss]()
        self._printed = -math.inf
        self._unprinted = False
        self._live: Live | None = None

    def __enter__(self) -> "TrainingView":
        if self._enabled and self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=REPAINTS)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._unprinted:
            self._print()

    def progress(self, line: Line) -> None:
        """Take a line of progress.jsonl."""
        self._reported = self._clock()
        if self._line is not None and line["step"] <= self._line["step"]:  # the run went back to a checkpoint
            self._whole, self._slices = _Loss(), {}
        self._line = line
        self._whole.values.append(line["loss"])
        for name, loss in line.get("slices", {}).items():
            if loss is not None:
                self._slices.setdefault(name, _Loss()).values.append(loss)
        if self._enabled and self._live is None:
            self._unprinted = True
            if self._reported - self._printed >= PLAIN_SECONDS or line["step"] >= line["steps"]:
                self._print()

    def probed(self, line: Line) -> None:
        """Take a line of probes.jsonl."""
        self._probe = line
        if self._enabled and self._live is None:
            self._console.print(Text(f"{self._run}: {_probes_in_words(line)}"), soft_wrap=True)

    def render(self) -> Group:
        """The display as it is now."""
        parts: list[Any] = [self._head()]
        if self._line is not None:
            body = Table.grid(padding=(0, 4, 0, 0))
            if self._console.width >= 90:
                body.add_row(self._losses(), self._figures())
            else:
                body.add_row(self._losses())
                body.add_row(self._figures())
            parts.append(Padding(body, (1, 0, 0, 2)))
        if self._probe is not None:
            parts.append(Padding(_probes(self._probe), (1, 0, 0, 2)))
        return Group(*parts)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _head(self) -> Table:
        """The run's name and workers, and below it the bar, the step, the time."""
        line = self._line
        head = Table.grid(padding=(0, 2, 0, 0), expand=False)
        bar_width = max(10, min(48, self._console.width - 46))
        elapsed = _duration(self._clock() - self._started)
        if line is None:
            bar = ProgressBar(total=None, pulse=True, width=bar_width, pulse_style="cyan")
            head.add_row(bar, Text(f"starting  {elapsed}", style="dim"))
        else:
            done = line["step"] >= line["steps"]
            bar = ProgressBar(total=line["steps"], completed=line["step"], width=bar_width, complete_style="cyan")
            far = Text.assemble(
                (f"{line['step']:,}", "bold"), f"/{line['steps']:,}", "  ",
                percent(line["step"] / max(1, line["steps"])), "  ",
                *(("done", "green"), " in ", elapsed) if done else ("ETA ", (self._eta(), "bold")),
            )  # fmt: skip
            head.add_row(bar, far)
        name = Text.assemble(("Training ", "dim"), (visible(self._run), "bold"), no_wrap=True, overflow="ellipsis")
        if line is not None:
            name.append(_about(line) + ("" if line["step"] >= line["steps"] else f"  {elapsed} so far"), style="dim")
        table = Table.grid()
        table.add_row(name)
        table.add_row(head)
        return table

    def _losses(self) -> Table:
        """The loss of the whole batch, and of each slice, each with its direction and its last reports."""
        table = Table.grid(padding=(0, 2, 0, 0))
        narrow = self._console.width < 64
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=20 if narrow else 26)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, style="cyan")
        rows = [("loss", self._whole), *((f"  {humanise(visible(n))}", v) for n, v in self._slices.items())]
        for name, loss in rows[: SLICES_SHOWN + 1]:
            bold = loss is self._whole
            trend = Text("") if narrow else Text(_sparkline(loss.values))
            table.add_row(Text(name, "bold" if bold else ""), *_loss_cells(loss, bold=bold), trend)
        if (more := len(self._slices) - SLICES_SHOWN) > 0:
            table.add_row(Text(f"  and {more} more", style="dim"))
        return table

    def _figures(self) -> Table:
        """Speed and the optimiser, as label and value."""
        line = self._line or {}
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        rates, totals = ("supervised_per_second", "tokens_per_second"), ("supervised_tokens", "tokens")
        for label, keys in (("tokens/s", rates), ("tokens", totals)):
            said = [f"{_short(line[k])} {w}" for k, w in zip(keys, ("supervised", "real"), strict=True) if k in line]
            if said:
                table.add_row(label, ", ".join(said))
        if line.get("mfu") is not None:
            table.add_row("MFU", Text.assemble((percent(line["mfu"]), "bold"), f"  {_flops(line)}"))
        elif line.get("flops_per_second"):
            table.add_row("compute", _flops(line))
        if line.get("learning_rate") is not None:
            table.add_row("learning rate", f"{line['learning_rate']:.2e}")
        if line.get("grad_norm") is not None:
            table.add_row("gradient norm", _figure(line["grad_norm"]))
        if line.get("kl"):
            table.add_row("KL", f"{_loss_text(line['kl'])} nats")
        return table

    def _eta(self) -> str:
        """The reported ETA, counted down since the report."""
        eta = (self._line or {}).get("eta_seconds")
        return "\u2013" if eta is None else _duration(max(0.0, eta - (self._clock() - self._reported)))

    def _print(self) -> None:
        """One plain line."""
        self._printed, self._unprinted = self._clock(), False
        line = self._line
        assert line is not None
        text = f"{self._run}: step {line['step']}/{line['steps']} ({percent(line['step'] / max(1, line['steps']))})"
        text += f", loss {_loss_text(line['loss'])}"
        if line.get("supervised_per_second") is not None:
            text += f", {_short(line['supervised_per_second'])} supervised tokens/s"
        if line.get("mfu") is not None:
            text += f", MFU {percent(line['mfu'])}"
        if line.get("eta_seconds") is not None and line["step"] < line["steps"]:
            text += f", ETA {_duration(line['eta_seconds'])}"
        self._console.print(Text(visible(text)), soft_wrap=True)


def _about(line: Line) -> str:
    parts = []
    if (workers := line.get("workers", 1)) > 1:
        parts.append(f"{workers} workers")
    if line.get("epoch") is not None:
        parts.append(f"epoch {line['epoch']:.2f}")
    return "".join(f"  {part}" for part in parts)


def _loss_cells(loss: _Loss, *, bold: bool) -> tuple[Text, Text]:
    """The last value, and where it moved since the report before."""
    value = loss.values[-1]
    style = "bold red" if not math.isfinite(value) else "bold" if bold else ""
    shown = Text(_loss_text(value), style=style)
    change = loss.change
    if change is None:
        return shown, Text("")
    text = number(abs(change), 3)
    if float(text) == 0:
        moved = Text("→", style="dim")
    else:
        moved = Text(f"{'↓' if change < 0 else '↑'} {text}", style="green" if change < 0 else "yellow")
    return shown, moved


def _sparkline(values: "deque[float]") -> str:
    """The values as bars between their own least and greatest; one that is no number is a cross."""
    finite = [value for value in values if math.isfinite(value)]
    if len(values) < 2 or not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    level = (lambda value: round((value - low) / span * (len(SPARKS) - 1))) if span else (lambda value: 0)
    return "".join(SPARKS[level(value)] if math.isfinite(value) else "×" for value in values)


def _probes(line: Line) -> Table:
    """Last probed rates, those beyond their margin marked and said in words."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=26)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_row(Text("probes", style="bold"), Text(f"step {line['step']:,}", style="dim"), "")
    breaches = line.get("breaches", {})
    for name, rate in list(line["rates"].items())[:PROBES_SHOWN]:
        worse = breaches.get(name)
        mark = Text("") if worse is None else Text(f"✗ {_worse(worse)}", style="bold red")
        table.add_row(Text(f"  {humanise(visible(name))}"), Text(percent(rate), "red" if worse else ""), mark)
    return table


def _probes_in_words(line: Line) -> str:
    breaches = line.get("breaches", {})
    said = [
        f"{humanise(visible(name))} {percent(rate)}" + (f" ({_worse(breaches[name])})" if name in breaches else "")
        for name, rate in line["rates"].items()
    ]
    return f"probes at step {line['step']}: " + ", ".join(said)


def _worse(by: float) -> str:
    return f"{number(by * 100, 0)} points worse than the base policy"


def _loss_text(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else f"{value}"


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else f"{value}"


def _short(value: float) -> str:
    """Three significant figures: 940, 4.21k, 1.2M."""
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return f"{value / power:.{2 if value < 9.995 * power else 1 if value < 99.95 * power else 0}f}{unit}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _flops(line: Line) -> str:
    """ "123 TFLOP/s"."""
    if not line.get("flops_per_second"):
        return ""
    short = _short(line["flops_per_second"])
    return f"{short} FLOP/s" if short[-1].isdigit() else f"{short[:-1]} {short[-1]}FLOP/s"


def _duration(seconds: float) -> str:
    """ "0:09", "12:05", "3:04:05", "2 d 3 h"."""
    if not math.isfinite(seconds):
        return "\u2013"
    whole = round(seconds)
    if whole >= 48 * 3600:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
