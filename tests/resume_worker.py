"""One life of a training run in a process of its own, which may end by SIGKILL at an exact moment.

A moment is the n-th time that the process touches a file below the run's folder, or the n-th time that it touches a
certain one: Python's audit events count them, the same in every life that begins alike, so that a test can choose any
of them, and none is a matter of luck.
"""

import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from plumbline.records import Objective, SuiteItem
from training_helpers import make_examples

Moment = int | tuple[str, int]  # the n-th touch, or the n-th of one kind, from 0
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
PRELOAD = (
    "plumbline.training.loop",
    "plumbline.training.export",
    "plumbline.training.probing",
    "plumbline.policies.local",
    "plumbline.evaluation.probes",
    "transformers.models.llama.modeling_llama",
    "peft",
)


@dataclass
class Run:
    """A run that may have several lives. `replay` of its examples are a second dataset."""

    objective: Objective
    base: Path
    folder: Path
    examples: int = 40
    replay: int = 0
    items: Sequence[SuiteItem] = ()
    judge: Any = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> Path:
        return self.folder / "job"

    def live(self, kill_at: Moment | None = None, kill_when: Callable[[], bool] | None = None) -> int:
        """The exit code of one life: -9 when it was killed. `kill_when` is asked every millisecond."""
        process = processes().Process(target=_live, args=(self, kill_at))
        process.start()
        while process.is_alive() and kill_when is not None:
            process.join(timeout=0.001)
            if kill_when():
                process.kill()
        process.join(timeout=120)
        assert process.exitcode is not None, "a life that does not end"
        return process.exitcode

    def train(self) -> Any:
        """Train here, to the end."""
        from plumbline.training import train

        examples = make_examples(self.examples)
        replayed = [e.model_copy(update={"slice": "replay"}) for e in make_examples(self.replay)]
        settings: dict[str, Any] = {
            "name": "aligned", "runner": "in-process", "replay": replayed, "probe_items": self.items,
            "judge": self.judge, **self.more,
        }  # fmt: skip
        return train(
            self.objective, examples, base=self.base, out=self.folder / "policy", job_folder=self.job, **settings
        )

    def touches(self) -> list[str]:
        """What the last undisturbed life touched, in order: `os.rename checkpoint.new`."""
        return list(json.loads((self.folder / "touches.json").read_text()))

    @property
    def weights(self) -> bytes:
        return (self.folder / "policy" / "model.safetensors").read_bytes()

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.job / name).read_text().splitlines()]


def processes() -> Any:
    """Processes that fork from one that has imported what they need: seconds each on a small machine."""
    multiprocessing.set_forkserver_preload(list(PRELOAD))
    return multiprocessing.get_context("forkserver")


def hold(folder: Path, ready: Any) -> None:
    """Hold a job folder, as a run that lives does, until killed."""
    from plumbline.training.job import alone

    with alone(folder):
        ready.set()
        processes().Event().wait()


def _live(run: Run, kill_at: Moment | None) -> None:
    import torch

    torch.set_num_threads(1)
    run.folder.mkdir(parents=True, exist_ok=True)
    with _counted(run.folder, kill_at) as seen:
        run.train()
    (run.folder / "touches.json").write_text(json.dumps(seen))


@contextmanager
def _counted(folder: Path, kill_at: Moment | None) -> Iterator[list[str]]:
    """Note each touch of a file below `folder`; at `kill_at`, before it happens, die."""
    seen: list[str] = []
    counting = [True]
    sys.addaudithook(partial(_note, str(folder), kill_at, seen, counting))
    yield seen
    counting[0] = False


def _note(folder: str, kill_at: Moment | None, seen: list[str], counting: list[bool], event: str, said: Any) -> None:
    if event not in TOUCHES or not counting[0]:
        return
    path = os.fspath(said[0]) if isinstance(said[0], str | Path) else ""
    if not path.startswith(folder):
        return
    mode = f" {said[1]}" if event == "open" and said[1] else ""
    touch = re.sub(r"\.\d+$", "", f"{event} {os.path.relpath(path, folder)}") + mode  # without the process's number
    if kill_at in (len(seen), (touch, seen.count(touch))):
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(touch)
