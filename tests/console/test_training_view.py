"""What one sees of a training run: on a terminal a display, elsewhere a line now and then, with JSON nothing."""

import io
import math
import os
import pty
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from plumbline.console.training_view import PLAIN_SECONDS, SLICES_SHOWN, TrainingView


def window(step: int, **changes: Any) -> dict[str, Any]:
    line = {
        "step": step, "steps": 200, "epoch": 0.4, "loss": 2.0 - step / 100,
        "slices": {"facts": 1.0 + step / 100, "refusals": 1.25}, "kl": 0.0, "learning_rate": 1e-5, "grad_norm": 0.8123,
        "supervised_tokens": 12345, "tokens": 54321, "supervised_per_second": 900.0, "tokens_per_second": 4000.0,
        "flops_per_second": 1.2e12, "mfu": 0.41, "eta_seconds": 3725.0, "seconds": 12.0, "workers": 2,
    }  # fmt: skip
    return {**line, **changes}


PROBE: dict[str, Any] = {
    "step": 40, "rates": {"refusal_benign": 0.25, "base_skill": 0.9}, "counts": {"refusal_benign": 32},
    "breaches": {"refusal_benign": 0.2}, "samples": [],
}  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen(clock: Clock) -> Callable[..., str]:
    """The display after these lines (a line with `rates` is a probe), as text."""

    def see(*lines: dict[str, Any], width: int = 110, run: str = "sft-1") -> str:
        console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
        view = TrainingView(run, console, clock=clock)
        view._live = object()  # type: ignore[assignment]  # a terminal: no plain lines
        for line in lines:
            (view.probed if "rates" in line else view.progress)(line)
        clock.now += 5
        console.print(view.render())
        return console.export_text()

    return see


def test_it_shows_how_far_and_how_long_still(seen: Callable[..., str]) -> None:
    text = seen(window(20), window(40))
    assert "40/200  20\u00a0%  ETA 1:02:00" in text  # five seconds later than reported
    assert "sft-1  2 workers  epoch 0.40  0:05 so far" in text


def test_it_shows_each_slice_with_the_way_it_went(seen: Callable[..., str]) -> None:
    rows = {row.split()[0]: row.split() for row in seen(window(20), window(40)).splitlines() if row.strip()}
    assert rows["loss"][1:4] == ["1.600", "↓", "0.200"]
    assert rows["facts"][1:4] == ["1.400", "↑", "0.200"]
    assert rows["refusals"][1:3] == ["1.250", "→"]


def test_it_shows_speed_supervised_and_real(seen: Callable[..., str]) -> None:
    text = seen(window(40))
    for figure in ("900 supervised, 4.00k real", "12.3k supervised, 54.3k real", "41\u00a0%  1.20 TFLOP/s", "1.00e-05"):
        assert figure in text
    assert "KL" not in text and "KL             0.012 nats" in seen(window(40, kl=0.0123))


def test_what_is_not_known_is_not_shown(seen: Callable[..., str]) -> None:
    text = seen({"step": 3, "steps": 9, "loss": 1.0})
    assert "MFU" not in text and "None" not in text and "ETA –" in text
    assert "MFU" not in seen(window(40, mfu=None)) and "1.20 TFLOP/s" in seen(window(40, mfu=None))


def test_before_the_first_report_it_says_that_it_starts(seen: Callable[..., str]) -> None:
    assert "starting  0:05" in seen()


def test_a_probe_beyond_its_margin_is_marked(seen: Callable[..., str]) -> None:
    lines = seen(window(40), PROBE).splitlines()
    assert [line for line in lines if "✗" in line] == [line for line in lines if "refusal benign" in line]
    assert any("25\u00a0%  ✗ 20 points worse than the base policy" in line for line in lines)


def test_a_loss_that_is_no_number_is_seen(seen: Callable[..., str]) -> None:
    text = seen(window(20), window(40), window(60, loss=math.nan, slices={"facts": math.inf}))
    assert "nan" in text and "inf" in text and "×" in text


def test_a_run_that_goes_back_to_a_checkpoint_starts_its_trends_anew(seen: Callable[..., str]) -> None:
    row = next(row for row in seen(window(20), window(60), window(40)).splitlines() if row.lstrip().startswith("loss"))
    assert "↑" not in row and "↓" not in row


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_it_fits_its_terminal_with_many_slices(seen: Callable[..., str], width: int) -> None:
    slices = {f"slice number {n} with a long name": 1.0 for n in range(30)}
    text = seen(window(20, slices=slices), window(40, slices=slices), PROBE, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert f"and {30 - SLICES_SHOWN} more" in text and len(text.splitlines()) < 32


def test_names_cannot_paint_the_terminal(seen: Callable[..., str]) -> None:
    text = seen(window(20, slices={"\x1b[31mred": 1.0, "[bold]markup": 1.0}), run="r\x1b]0;title")
    assert "\x1b" not in text and "[bold]markup" in text


def test_a_finished_run_says_so(seen: Callable[..., str]) -> None:
    assert "200/200  100\u00a0%  done in 0:05" in seen(window(200))


# --- without a terminal ---------------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_plain_line_every_few_seconds(clock: Clock) -> None:
    out = io.StringIO()
    with TrainingView("sft-1", Console(file=out, width=40), clock=clock) as view:
        for step in range(10, 110, 10):
            view.progress(window(step))
            clock.now += PLAIN_SECONDS / 4
        view.probed(PROBE)
    lines = out.getvalue().splitlines()
    assert [line.split(" ")[2] for line in lines] == ["10/200", "50/200", "90/200", "at", "100/200"]
    assert lines[0] == (
        "sft-1: step 10/200 (5\u00a0%), loss 1.900, 900 supervised tokens/s, MFU 41\u00a0%, ETA 1:02:05"
    )
    assert lines[3] == (
        "sft-1: probes at step 40: refusal benign 25\u00a0% (20 points worse than the base policy), "
        "base skill 90\u00a0%"
    )
    assert "\x1b" not in out.getvalue()


def test_the_last_line_is_printed_once(clock: Clock) -> None:
    out = io.StringIO()
    with TrainingView("r", Console(file=out), clock=clock) as view:
        view.progress(window(190))
        view.progress(window(200))
    assert len(out.getvalue().splitlines()) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_with_json_output_nothing_is_shown(clock: Clock, terminal: bool) -> None:
    out = io.StringIO()
    with TrainingView("r", Console(file=out, force_terminal=terminal), enabled=False, clock=clock) as view:
        view.progress(window(100))
        view.probed(PROBE)
    assert out.getvalue() == ""


def test_on_a_terminal_it_repaints_in_place_and_leaves_the_last_state() -> None:
    """A pseudo-terminal, fed from another thread, with a warning in the middle as logging writes it."""
    code = f"""
        import sys, threading, time
        from rich.console import Console
        from plumbline.console.training_view import TrainingView
        with TrainingView("sft-1", Console(stderr=True)) as view:
            def feed():
                for line in ({window(20)!r}, {window(200)!r}):
                    view.progress(line)
                    time.sleep(0.4)
            thread = threading.Thread(target=feed)
            thread.start()
            print("a warning", file=sys.stderr)
            thread.join()
    """
    above, below = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    running = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=below, env=environment)
    os.close(below)
    shown = b""
    while True:
        try:
            part = os.read(above, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
    assert running.wait(timeout=60) == 0
    os.close(above)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())  # without colours
    assert "\x1b[1A" in text and "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.count("a warning") == 1
    assert text.rindex("200/200") > text.rindex("20/200  ")
