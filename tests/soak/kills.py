"""Kill a process at every step that it takes towards the disk, and at random moments; go on; compare.

For each story (`stories.py`) the steps are counted once, without a fault. Then, for every step k and for each of
`kill -9` and a power cut (`failpoints.py`), a copy of the prepared store is given to a forked process that dies before
its k-th step, another process takes up the story and ends it, and what the store came to is compared with the store
that nobody touched. Kills at random moments follow, and kills of the one that recovers.

A *lost* event, a *duplicate* version and a *torn* store are all the same finding here: another outcome.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.stores import LocalBlobs, blobs
from soak.failpoints import Death, Failpoints, watching
from soak.stories import STORIES, Outcome, Store, outcome, prepare

MEMORY = Path("/dev/shm")  # a killed process leaves the same files there as on a disk, sooner


@dataclass
class Kills:
    """How a soak went: kills by kind, recoveries in seconds, and every outcome that was not the expected one."""

    killed: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    recovery: list[float] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.killed.values())


class Bench:
    """A prepared store for a story, the outcome it must come to, and how many steps lead there."""

    def __init__(self, folder: Path, story: str) -> None:
        self.story, self.folder = story, folder / story
        self.prepared = self.folder / "prepared"
        self.notes = self.folder / "names not yet durable"
        prepare(self.prepared, story)
        untouched = self.copy("untouched")
        points = Failpoints()
        began = time.monotonic()
        with watching(points, untouched), Store(untouched) as store:
            STORIES[story](store)
        self.seconds = time.monotonic() - began
        self.steps = tuple(points.steps)
        self.expected = self.read(untouched)
        assert not self.expected.problems, self.expected.problems
        with Store(untouched) as store:  # again, on a finished one: nothing happens twice
            STORIES[story](store)
        assert self.read(untouched) == self.expected

    def copy(self, name: str) -> Path:
        place = self.folder / name
        self.notes.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.prepared, place)
        return place

    def read(self, place: Path) -> Outcome:
        with Store(place) as store:
            return outcome(store, place if self.story == "erase" else None)

    def struck(self, fault: Callable[[Path], int], kills: Kills, kind: str, where: str) -> None:
        """One fault on a fresh copy, recovery, comparison."""
        place = self.copy("struck")
        status = fault(place)
        if status == 0:  # it had ended before the fault came
            return
        kills.killed[kind] = kills.killed.get(kind, 0) + 1
        if status != -signal.SIGKILL:
            kills.findings.append(f"{self.story}, {kind} at {where}: ended with {status} instead of the kill")
            return
        began = time.monotonic()
        try:
            with Store(place) as store:
                STORIES[self.story](store)
            kills.recovery.append(time.monotonic() - began)
            found = self.read(place)
        except Exception as error:
            kills.findings.append(f"{self.story}, {kind} at {where}: {type(error).__name__}: {error}")
            return
        for name, value in vars(found).items():
            if value != (wanted := getattr(self.expected, name)):
                kills.findings.append(f"{self.story}, {kind} at {where}: {name} are {value}, expected {wanted}")

    def dies_before(self, step: int, *, power: bool) -> Callable[[Path], int]:
        def fault(place: Path) -> int:
            def die() -> None:
                death = Death(self.notes, power=power)
                with watching(Failpoints(step, death), place), Store(place) as store:
                    STORIES[self.story](store)

            return in_a_child(die)

        return fault

    def dies_after(self, seconds: float) -> Callable[[Path], int]:
        def fault(place: Path) -> int:
            def story() -> None:
                with Store(place) as store:
                    STORIES[self.story](store)

            return in_a_child(story, seconds)

        return fault

    def dies_again(self, first: int, second: int, *, power: bool) -> Callable[[Path], int]:
        """The process that recovers dies as well."""

        def fault(place: Path) -> int:
            self.dies_before(first, power=False)(place)
            return self.dies_before(second, power=power)(place)

        return fault


def in_a_child(do: Callable[[], None], seconds: float | None = None) -> int:
    """Run in a fork; its exit status, negative for a signal. After `seconds` it is killed."""
    child = os.fork()
    if child == 0:
        try:
            do()
            os._exit(0)
        except BaseException:
            os._exit(99)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def plan(bench: Bench, most: int, chance: random.Random) -> Iterator[tuple[str, str, Callable[[Path], int]]]:
    """Kind, place and fault of about `most` kills: every step when `most` allows, else evenly chosen ones."""
    steps = range(1, len(bench.steps) + 1)
    share = min(len(steps), max(1, round(most * 0.4)))
    for kind, power in (("kill", False), ("power cut", True)):
        offset = 0 if not power else len(steps) // (2 * share)
        for number in range(share):
            step = steps[min(number * len(steps) // share + offset, len(steps) - 1)]
            yield kind, f"step {step} ({bench.steps[step - 1]})", bench.dies_before(step, power=power)
    for _ in range(max(1, round((most - 2 * share) / 2))):
        seconds = chance.uniform(0, bench.seconds * 1.2)
        yield "random", f"{seconds:.4f} s", bench.dies_after(seconds)
        first, second = sorted(chance.choices(steps, k=2), reverse=True)
        yield "twice", f"steps {first} and {second}", bench.dies_again(first, second, power=chance.random() < 0.5)


def soak(most: int, *, seed: int = 5, say: Callable[[str], None] = lambda _: None) -> Kills:
    """About `most` kills over all stories. `findings` must be empty."""
    kills, chance = Kills(), random.Random(seed)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        benches = [Bench(Path(folder), story) for story in STORIES]
        total = sum(len(bench.steps) for bench in benches)
        for bench in benches:
            kills.steps[bench.story] = len(bench.steps)
            for kind, where, fault in plan(bench, max(6, most * len(bench.steps) // total), chance):
                bench.struck(fault, kills, kind, where)
            say(f"{bench.story}: {len(bench.steps)} steps; {kills.total} kills so far, {len(kills.findings)} findings")
    return kills


def soak_without(fsync: str, most: int) -> str | None:
    """The first finding of the soak's power cuts on blobs that forget one of their fsyncs, for good in this process:
    shows that the soak would see it. At most about `most` power cuts over all stories; None when all come to nothing.
    """
    setattr(blobs, fsync, lambda _: None)
    kills, chance = Kills(), random.Random(5)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        for story in STORIES:
            bench = Bench(Path(folder), story)
            for kind, where, fault in plan(bench, most, chance):
                if kind == "power cut":
                    bench.struck(fault, kills, kind, where)
                if kills.findings:
                    return kills.findings[0]
    return None


def steps_of(story: str) -> tuple[str, ...]:
    """The steps that an untouched story takes."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        return Bench(Path(folder), story).steps


def survivors_of_a_power_cut(folder: Path, step: int) -> tuple[int, list[Path]]:
    """The instrument itself: store one blob, die of a power cut before a step; exit status and files left."""

    def die() -> None:
        store = LocalBlobs(folder / "blobs")
        with watching(Failpoints(step, Death(folder / "notes", power=True)), folder):
            store.put(b"one blob")

    status = in_a_child(die)
    return status, [path for path in (folder / "blobs").rglob("*") if path.is_file()]
