"""What every room may use: a tiny policy made on the spot, real data if it is here, and the order on several workers.

`make unit` gives the tests to three workers (pytest-xdist); plain `pytest` is one process and the usual order.
Either way the one real loop (tests/loop) runs beside the tests from their beginning, in processes of its own.
"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tiny import make_tiny_policy

from loop.begun import begin, finish

# What children compile of the platform they keep, whatever the caller's shell says: there are hundreds of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is no counterexample. With CI set the examples are the same every time; by hand they are new ones.
settings.register_profile(
    "plumbline", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("plumbline")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
ROOMS = ("browser", "charts", "serving")  # stay on one worker: all their files share what is slow to start
APART = ("operators/test_weather.py", "training/test_resume.py")  # long tests that share nothing go to any worker
RAY = (
    "training/test_ray.py",
    "jobs/test_sft.py",
    "jobs/test_evaluate.py",
    "jobs/test_backfill.py",
)  # one Ray at a time
LOOP = ("loop/test_forgetting.py", "loop/test_loop.py", "loop/test_watched.py")  # wait for the loop
LONG = ("ray", *APART, "feedback/ingestion/test_kills.py", "operators/test_operator.py", *LOOP)
LOOP_PROCESS = pytest.StashKey[Any]()


def together(file: str) -> str | None:
    """The group of a test file, which one worker takes as a whole: a room or the file. None: each test by itself."""
    if file in APART:
        return None
    room = file.partition("/")[0]
    return "ray" if file in RAY else room if room in ROOMS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker a whole group at a time, in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class InGroups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid.partition("::")[0].removeprefix("tests/")) or nodeid

    config.option.loadscopereorder = False
    return InGroups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For workers: long groups first, so that at the end none waits for another."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    files = {item: item.path.relative_to(REPOSITORY / "tests").as_posix() for item in items}
    groups = {item: together(file) or file for item, file in files.items()}
    items.sort(key=lambda item: LONG.index(groups[item]) if groups[item] in LONG else len(LONG))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays. Libraries that collect garbage at every call need not look at it: 0.25 s each time."""
    gc.collect()
    gc.freeze()
    if "PYTEST_XDIST_WORKER" not in os.environ and not session.config.option.collectonly:
        begin_loop(session.config, [item.nodeid for item in session.items])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    begin_loop(node.config, ids)


def begin_loop(config: pytest.Config, tests: Sequence[str]) -> None:
    """Begin the one loop that the tests share, in the process that outlives all others: other tests go on meanwhile."""
    if LOOP_PROCESS not in config.stash:
        config.stash[LOOP_PROCESS] = begin(config._tmp_path_factory.getbasetemp() / "loop", tests)


def pytest_sessionfinish(session: pytest.Session) -> None:
    finish(session.config.stash.get(LOOP_PROCESS, None))


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_policy(tmp_path_factory.mktemp("policies") / "tiny")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public data beside the repository; tests that need it skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the public data folder ../shared/data is not on this machine")
    return folder
