"""The real operator against a mock cluster and a real ledger."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from operator_tools import (
    EVENTS,
    JOBS,
    LINES,
    RUBRIC,
    RUNS,
    VERSIONS,
    Cluster,
    Desk,
    mock_cluster,
    operator,
    read,
    until,
)

from plumbline.metrics import exported_names
from plumbline.reconcile.dataset_line import ingestion_run_key
from plumbline.records import short

Story = Callable[[Cluster, Desk], Awaitable[None]]


def tell(tmp_path: Path, story: Story) -> None:
    async def run() -> None:
        async with mock_cluster() as cluster:
            await story(cluster, Desk(tmp_path))

    asyncio.run(asyncio.wait_for(run(), timeout=800))


def test_a_line_goes_from_events_to_a_version_and_a_withdrawal_takes_a_person_out(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        for who in ("ada", "ben"):
            desk.consent(who)
        for number, who in enumerate(["ada", "ben", "ada", "stranger"]):
            desk.rewrite(who, number)
        async with operator(cluster, desk) as running:
            await cluster.create_line()
            await until(lambda: cluster.jobs("ingest"), "a Job for the events", running.log)
            (job,) = cluster.jobs()
            key = ingestion_run_key(dataset="support", parent=None, from_seq=1, to_seq=4, rubric=RUBRIC)
            assert job["metadata"]["name"] == f"support-ingest-{short(key)}-1"
            assert job["metadata"]["annotations"]["plumbline.dev/run-key"] == key
            (run,) = cluster.objects(RUNS)
            assert job["metadata"]["ownerReferences"][0]["uid"] == run["metadata"]["uid"]
            assert run["metadata"]["ownerReferences"][0]["uid"] == cluster.line()["metadata"]["uid"]
            assert (run["spec"]["fromSequence"], run["spec"]["toSequence"], run["spec"]["kind"]) == (1, 4, "ingestion")
            await until(lambda: cluster.line()["status"]["phase"] == "Ingesting", "the phase", running.log)

            await asyncio.sleep(1.5)  # three resyncs: looking again starts nothing twice
            assert len(cluster.jobs()) == 1

            await desk.carry_out(job)
            await cluster.finish(job)
            await until(lambda: cluster.line()["status"]["phase"] == "AwaitingApproval", "waiting", running.log)
            pending = cluster.line()["status"]["pendingRun"]
            assert pending["runKey"] == key and pending["approvals"] == 0

            await cluster.approve(pending["candidate"])
            await until(lambda: cluster.jobs("publish"), "a Job that publishes", running.log)
            (publishing,) = cluster.jobs("publish")
            await desk.carry_out(publishing)
            await cluster.finish(publishing)
            await until(lambda: cluster.line()["status"]["phase"] == "Ready", "the version", running.log)
            status = cluster.line()["status"]
            assert status["version"] == desk.version() == 1
            assert status["examples"] == 3 and status["sealedSequence"] == 4
            assert "pendingRun" not in status and status["observedGeneration"] == 1
            await until(lambda: cluster.objects(RUNS)[0]["status"]["phase"] == "Published", "the run", running.log)
            ended = cluster.objects(RUNS)[0]["status"]
            assert (ended["sealed"], ended["accepted"], ended["rejected"]) == (4, 3, {"no_consent": 1})
            (version,) = cluster.objects(VERSIONS)
            assert version["spec"]["digest"] == status["headDigest"] == ended["versionDigest"]
            await until(lambda: cluster.objects(VERSIONS)[0]["status"]["state"] == "Active", "Active", running.log)
            assert desk.contains("ada") and desk.contains("ben") and not desk.contains("stranger")
            await until(
                lambda: cluster.condition("ConsentVerified") == ("True", "ChainVerified"),
                "ConsentVerified",
                running.log,
            )

            body = (await read(running.metrics))[1]
            assert 'plumbline_dataset_version{dataset="support"} 1.0' in body
            assert "plumbline_consent_ledger_valid 1.0" in body
            assert "plumbline_ledger_read_timestamp_seconds" in body, "what batches found is exported, led or not"
            ours = {line.split("{")[0].split(" ")[0] for line in body.splitlines() if line.startswith("plumbline_")}
            assert ours <= exported_names()
            assert (await read(running.health))[0] == 200

            desk.consent("ada", "withdrawn")
            await until(lambda: cluster.jobs("remove"), "a removal", running.log)
            await until(
                lambda: cluster.condition("ConsentVerified") == ("False", "WithdrawalPending"),
                "ConsentVerified",
                running.log,
            )
            (removal,) = cluster.jobs("remove")
            await desk.carry_out(removal)
            await cluster.finish(removal)
            await until(lambda: cluster.line()["status"]["version"] == 2, "version 2", running.log)
            assert desk.contains("ben") and not desk.contains("ada")

            told = {(event["reason"], event["type"]) for event in cluster.objects(EVENTS)}
            assert {("AwaitingApproval", "Normal"), ("WithdrawalPending", "Warning")} <= told
            assert "finalizers" not in cluster.line()["metadata"]
            assert "Traceback" not in running.log.read_text()

    tell(tmp_path, story)


def test_a_restarted_operator_finds_the_job_there_and_starts_no_other(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await until(lambda: cluster.jobs("ingest"), "a Job", running.log)
        async with operator(cluster, desk) as running:
            await until(lambda: "Initial authentication" in running.log.read_text(), "a start", running.log)
            await asyncio.sleep(2)
            assert len(cluster.jobs()) == 1

    tell(tmp_path, story)


def test_a_line_of_the_longest_name_is_carried_on_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    """Runs, versions and Jobs carry the name as a label, which holds 63 letters; admitted, a longer one would rest."""
    longest = "a" * 61 + "-b"

    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        with pytest.raises(AssertionError, match="may not be more than 63 bytes"):
            await cluster.create_line(longest + "c")
        async with operator(cluster, desk) as running:
            await cluster.create_line(longest)
            await until(lambda: cluster.jobs("ingest"), "a Job", running.log)
            await until(lambda: cluster.objects(RUNS)[0].get("status"), "the run", running.log)

    tell(tmp_path, story)


def test_a_job_that_somebody_else_made_first_is_no_error(tmp_path: Path) -> None:
    """Two operators, neither of which sees the other's Job yet: the second create is answered 409."""

    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        cluster.emulator["list jobs"] << {"metadata": {}, "items": []}  # a stale list, for ever
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await until(lambda: "is there already" in running.log.read_text(), "a 409", running.log)
            assert len(cluster.jobs()) == 1
            await until(lambda: cluster.line()["status"]["phase"] == "Ingesting", "the status", running.log)

    tell(tmp_path, story)


def test_a_failing_job_is_tried_again_and_then_left_to_a_person(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line(maxAttempts=2)
        async with operator(cluster, desk) as running:
            for attempt in (1, 2):
                await until(lambda: len(cluster.jobs()) == attempt, f"attempt {attempt}", running.log)  # noqa: B023
                await cluster.finish(cluster.jobs()[-1], failed=True)
            await until(lambda: cluster.condition("Degraded") == ("True", "RunFailed"), "giving up", running.log)
            await asyncio.sleep(1)
            assert [job["metadata"]["name"][-2:] for job in cluster.jobs()] == ["-1", "-2"]
            await until(lambda: cluster.line()["status"]["phase"] == "Failed", "Failed", running.log)
            (run,) = cluster.objects(RUNS)
            assert run["status"]["attempts"] == 2 and run["status"]["phase"] == "Failed"

            for job in cluster.jobs():  # they expire: what they said is remembered
                await cluster.delete(JOBS, job["metadata"]["name"])
            await asyncio.sleep(1)
            assert cluster.jobs() == [] and cluster.line()["status"]["phase"] == "Failed"
            await cluster.delete(RUNS, run["metadata"]["name"])
            await until(lambda: len(cluster.jobs()) == 1, "a fresh start once a person asks for it", running.log)
            assert cluster.jobs()[0]["metadata"]["name"].endswith("-1")

    tell(tmp_path, story)


@pytest.mark.parametrize("trouble", ["missing", "damaged", "altered"])
def test_a_ledger_in_trouble_starts_nothing_and_says_why(tmp_path: Path, trouble: str) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        kept = desk.ledger_path.read_bytes()
        if trouble == "missing":
            desk.ledger_path.unlink()
        elif trouble == "damaged":
            desk.ledger_path.write_bytes(b"no database" * 100)
        else:
            with desk.ledger() as ledger:
                ledger.database.execute("DROP TRIGGER IF EXISTS consent_is_append_only_update")
                for row in ledger.database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                    ledger.database.execute(f"DROP TRIGGER {row['name']}")
                ledger.database.execute("UPDATE consent SET entry = REPLACE(entry, 'given', 'withdrawn')")
        wanted = ("False", "LedgerBroken") if trouble == "altered" else ("Unknown", "LedgerUnreachable")
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await until(lambda: cluster.condition("ConsentVerified") == wanted, "the condition", running.log)
            await until(lambda: cluster.condition("Degraded")[0] == "True", "Degraded", running.log)
            await until(lambda: cluster.line()["status"]["phase"] == "Blocked", "Blocked", running.log)
            await asyncio.sleep(1)
            assert cluster.jobs() == []
            assert "plumbline_consent_ledger_valid 0.0" in (await read(running.metrics))[1]
            if trouble == "missing":
                assert not desk.ledger_path.exists(), "an empty ledger would verify and hide the mistake"
                desk.ledger_path.write_bytes(kept)
                await until(lambda: cluster.jobs("ingest"), "going on once the ledger is back", running.log)

    tell(tmp_path, story)


def test_a_withdrawal_cancels_the_running_ingestion(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.consent("ben")
        desk.rewrite("ada", 0)
        desk.rewrite("ben", 1)
        await cluster.create_line(approvalsRequired=1)
        async with operator(cluster, desk) as running:
            await until(lambda: cluster.jobs("ingest"), "a Job", running.log)
            (job,) = cluster.jobs()
            await desk.carry_out(job)
            await cluster.finish(job)
            await until(lambda: (cluster.line()["status"].get("pendingRun") or {}).get("candidate"), "it", running.log)
            desk.approve(cluster.line()["status"]["pendingRun"]["candidate"])
            await until(lambda: cluster.jobs("publish"), "publishing", running.log)
            await desk.carry_out(cluster.jobs("publish")[0])
            await cluster.finish(cluster.jobs("publish")[0])
            await until(lambda: cluster.line()["status"]["phase"] == "Ready", "a version", running.log)

            desk.rewrite("ben", 2)
            await until(lambda: len(cluster.jobs("ingest")) == 2, "the next run", running.log)
            desk.consent("ada", "withdrawn")
            await until(lambda: cluster.jobs("remove"), "the removal", running.log)
            unfinished = [job for job in cluster.jobs() if not job.get("status", {}).get("conditions")]
            assert [job["metadata"]["labels"]["plumbline.dev/step"] for job in unfinished] == ["remove"]

    tell(tmp_path, story)


def test_a_deleted_line_is_forgotten_and_needs_no_operator_to_go(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await until(lambda: cluster.line().get("status"), "a status", running.log)
        await cluster.delete(LINES, "support")
        assert cluster.objects(LINES) == []

    tell(tmp_path, story)


def test_a_candidate_that_was_turned_down_is_closed_and_its_events_are_consumed(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await until(lambda: cluster.jobs("ingest"), "a Job", running.log)
            await desk.carry_out(cluster.jobs("ingest")[0])
            await cluster.finish(cluster.jobs("ingest")[0])
            await until(lambda: cluster.line()["status"]["phase"] == "AwaitingApproval", "a candidate", running.log)
            desk.approve(cluster.line()["status"]["pendingRun"]["candidate"], word=False)
            await until(lambda: cluster.jobs("reject"), "a Job that closes the run", running.log)
            assert cluster.jobs("publish") == []
            await desk.carry_out(cluster.jobs("reject")[0])
            await cluster.finish(cluster.jobs("reject")[0])
            await until(lambda: cluster.line()["status"]["phase"] == "Empty", "rest", running.log)
            assert desk.version() == 0 and cluster.line()["status"]["sealedSequence"] == 1
            assert len(cluster.jobs()) == 2

    tell(tmp_path, story)
