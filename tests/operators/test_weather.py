"""The operator in bad weather, and several of them at once: it converges, and nothing happens twice.

What is counted: Jobs that were ever created (a Job is named by what it does, so a second one for the same work would
have another name), versions in the ledger, and tokens that the ledger handed out against tokens that wrote.
"""

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, backend  # noqa: F401  (a fixture)
from emulator import Weather
from operator_tools import APPROVALS, LEASES, RUNS, VERSIONS, Cluster, Desk, Running, mock_cluster, operator, until

Story = Callable[[Cluster, Desk], Awaitable[None]]
STORMS = {
    "refusals": Weather(refused=0.25, seed=1),
    "lost_answers": Weather(lost=0.25, seed=2),
    "conflicts": Weather(conflict=0.4, seed=3),
    "dropped_watches_and_410": Weather(watch_s=0.8, seed=4),
    "stale_lists": Weather(stale=0.5, seed=5),
    "slow": Weather(slow_s=0.4, seed=6),
    "everything": Weather(refused=0.1, lost=0.1, conflict=0.1, watch_s=1.5, stale=0.2, slow_s=0.1, seed=7),
}


def tell(tmp_path: Path, story: Story, weather: Weather | None = None) -> None:
    async def run() -> None:
        async with mock_cluster(weather) as cluster:
            await story(cluster, Desk(tmp_path))

    asyncio.run(asyncio.wait_for(run(), timeout=800))


async def the_cluster_works(cluster: Cluster, desk: Desk, stop: asyncio.Event) -> None:
    """What the rest of a cluster does: carries Jobs out, and has one person approve whatever waits."""
    approved: set[str] = set()
    while not stop.is_set():
        for job in cluster.unfinished():
            pod = desk.start(job)
            await asyncio.to_thread(pod.communicate, timeout=120)
            with contextlib.suppress(AssertionError):  # it may have been cancelled meanwhile
                await cluster.finish(job, failed=pod.returncode != 0)
        candidate = cluster.candidate() if cluster.objects("plumbline.dev/v1alpha1/datasetlines") else None
        if candidate is not None and candidate not in approved:
            approved.add(candidate)
            await cluster.approve(candidate)
        await asyncio.sleep(0.1)


async def whole_life(cluster: Cluster, desk: Desk, log: Path) -> None:
    """Two versions, a withdrawal with its removal, an erasure: everything that an operator has to do."""
    stop = asyncio.Event()
    others = asyncio.create_task(the_cluster_works(cluster, desk, stop))
    try:
        for number, who in enumerate(("ada", "ben")):
            await desk.insist(desk.consent, who)
            await desk.insist(desk.rewrite, who, number)
        await cluster.create_line()
        await until(lambda: desk.version() == 1, "version 1", log)
        await desk.insist(desk.rewrite, "ben", 2)
        await until(lambda: desk.version() == 2, "version 2", log)
        await desk.insist(desk.consent, "ada", "withdrawn")
        await until(lambda: desk.version() == 3, "the removal", log)
        await cluster.erase("ada")
        await until(
            lambda: cluster.one("plumbline.dev/v1alpha1/erasurerequests", "letter-1")["status"]["phase"] == "Erased",
            "the erasure",
            log,
        )
        await until(lambda: cluster.line()["status"]["phase"] == "Ready", "rest", log)
        await until(lambda: len(cluster.objects(VERSIONS)) == 3, "all versions shown", log)
        await until(lambda: not cluster.unfinished(), "no Job left", log)
    finally:
        stop.set()
        await others


def nothing_twice(cluster: Cluster, desk: Desk) -> None:
    """Every piece of work once; again only where its Job failed (somebody was paused with the ledger in hand)."""
    made = cluster.made("Job")
    assert len(made) == len(set(made)), made
    first = [name for name in made if name.endswith("-1")]
    steps = sorted(name.rsplit("-", 3)[1] for name in first)
    assert steps == ["erase", "ingest", "ingest", "publish", "publish", "remove"], made
    failed = [job["metadata"]["name"] for job in cluster.jobs() if job["status"]["conditions"][0]["type"] == "Failed"]
    assert len(made) == len(first) + len(failed), (made, failed)
    assert len(cluster.made("IngestionRun")) == len(cluster.objects(RUNS)) == 3
    with desk.ledger() as ledger:
        assert [version.version for version in ledger.publications.versions("support")] == [1, 2, 3]
        tokens = ledger.database.rows(
            "SELECT fencing_token FROM publication WHERE reason != 'withdrawal' ORDER BY version"
        )
        assert [row[0] for row in tokens] == sorted({row[0] for row in tokens}), "nobody published under an old token"
        candidates = [doc["spec"]["candidate"] for doc in cluster.objects(APPROVALS)]
        assert [len(ledger.runs.approvals(candidate)) for candidate in candidates] == [1, 1]
    assert not desk.contains("ada") and desk.contains("ben")


@pytest.mark.parametrize("name", sorted(STORMS))
def test_in_bad_weather_it_converges_and_starts_nothing_twice(tmp_path: Path, name: str) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        began = time.monotonic()
        async with operator(cluster, desk, lease=6) as running:
            await whole_life(cluster, desk, running.log)
            nothing_twice(cluster, desk)
            assert "\nTraceback" not in running.log.read_text()
        print(f"{name}: converged in {time.monotonic() - began:.1f} s")

    tell(tmp_path, story, Weather(**{key: value for key, value in vars(STORMS[name]).items() if key != "dice"}))


def test_the_same_on_every_pair_of_stores(tmp_path: Path, backend: Backend) -> None:  # noqa: F811
    """SQLite with a directory; PostgreSQL with S3, both real servers: operator and Jobs are given places, not files."""

    async def run() -> None:
        async with mock_cluster() as cluster:
            desk = Desk(tmp_path, backend)
            async with operator(cluster, desk, lease=6) as running:
                await whole_life(cluster, desk, running.log)
                nothing_twice(cluster, desk)

    asyncio.run(asyncio.wait_for(run(), timeout=800))


def test_killed_again_and_again_it_converges_all_the_same(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        done = asyncio.Event()
        kills = 0

        async def keep_killing() -> None:
            nonlocal kills
            while not done.is_set():
                async with operator(cluster, desk, lease=2, name="killed") as running:
                    before = running.log.read_text().count("holds the lease")
                    while not done.is_set() and running.log.read_text().count("holds the lease") == before:
                        await asyncio.sleep(0.05)
                    with contextlib.suppress(TimeoutError):  # it leads: kill it somewhere in its work
                        await asyncio.wait_for(done.wait(), 0.2 + 0.37 * (kills % 6))
                    if not done.is_set():
                        running.process.send_signal(signal.SIGKILL)
                        kills += 1

        killer = asyncio.create_task(keep_killing())
        try:
            await whole_life(cluster, desk, desk.folder / "killed.log")
        finally:
            done.set()
            await killer
        nothing_twice(cluster, desk)
        assert kills >= 2
        print(f"{kills} kills")

    tell(tmp_path, story)


def holder(cluster: Cluster) -> str:
    (lease,) = cluster.objects(LEASES)
    return str(lease["spec"]["holderIdentity"])


def names_itself(running: Running, who: str) -> bool:
    return f"{who} holds the lease" in running.log.read_text()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_operators_at_once_one_of_them_paused_past_its_lease(tmp_path: Path, count: int) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        async with contextlib.AsyncExitStack() as stack:
            crew = [
                await stack.enter_async_context(operator(cluster, desk, lease=5, resync=1.0, name=f"operator-{number}"))
                for number in range(count)
            ]
            await until(lambda: cluster.objects(LEASES), "a lease", crew[0].log)
            paused: list[str] = []

            async def pause_whoever_leads() -> None:
                """Stop the leader for twice its lease, wherever in its work it is; then let it wake up and go on."""
                while len(paused) < 3:
                    await asyncio.sleep(1.3)
                    leader = holder(cluster)
                    who = next((one for one in crew if names_itself(one, leader)), None)
                    if who is None:
                        continue
                    who.process.send_signal(signal.SIGSTOP)
                    paused.append(leader)
                    await until(lambda: holder(cluster) != leader, "somebody else takes over", crew[0].log)  # noqa: B023
                    who.process.send_signal(signal.SIGCONT)

            pausing = asyncio.create_task(pause_whoever_leads())
            try:
                await whole_life(cluster, desk, crew[0].log)
            finally:
                pausing.cancel()
                await asyncio.gather(pausing, return_exceptions=True)
                for one in crew:
                    one.process.send_signal(signal.SIGCONT)
            nothing_twice(cluster, desk)
            assert paused, "somebody was paused while it led"
            print(f"{count} operators, {len(paused)} pauses, {len(set(paused))} of them different leaders")

    tell(tmp_path, story)


def said_in(out: str) -> dict[str, Any]:
    """The JSON of a command whose notes for people came out with it."""
    found: dict[str, Any] = json.JSONDecoder().raw_decode(out[out.index("{") :])[0]
    return found


def test_a_job_that_was_paused_past_its_lease_commits_nothing(tmp_path: Path) -> None:
    """The same work twice at once is what a Job's name prevents; here it happens all the same."""

    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        for number in range(4):
            desk.rewrite("ada", number)
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await until(lambda: cluster.jobs("ingest"), "a Job", running.log)
            await desk.carry_out(cluster.jobs("ingest")[0])
            await cluster.finish(cluster.jobs("ingest")[0])
            await until(lambda: cluster.candidate(), "a candidate", running.log)
            await cluster.approve(str(cluster.candidate()))
            await until(lambda: cluster.jobs("publish"), "a Job that publishes", running.log)
        (job,) = cluster.jobs("publish")
        first = desk.start(job)

        def run_out() -> bool:
            """Stop it once it holds the line and no lock on the database, and let its lease run out."""
            with contextlib.closing(sqlite3.connect(desk.ledger_path, timeout=0)) as database:
                try:
                    at = database.execute("SELECT token FROM lease WHERE name = 'dataset-line/support'").fetchone()
                    if at is None or at[0] != 2:
                        return False
                    first.send_signal(signal.SIGSTOP)
                    with database:
                        database.execute("UPDATE lease SET expires_at = '2000-01-01T00:00:00.000000Z'")
                        return True
                except sqlite3.OperationalError:
                    first.send_signal(signal.SIGCONT)
                    return False

        while not run_out():
            assert first.poll() is None, "it was over before it could be paused"
            await asyncio.sleep(0.002)
        await desk.carry_out(job)
        before = desk.version()
        first.send_signal(signal.SIGCONT)
        out, _ = await asyncio.to_thread(first.communicate, timeout=60)
        with desk.ledger() as ledger:
            rows = ledger.database.rows("SELECT version, fencing_token FROM publication")
        assert before == 1 and [(row[0], row[1]) for row in rows] == [(1, 3)], out
        said = said_in(out)["state"] if first.returncode == 0 else out
        assert said == "published" or "token" in said or "locked" in said, said  # found done, or was refused

    tell(tmp_path, story)
