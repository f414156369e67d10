"""Approvals and erasures through objects: what counts, what does not, and what the ledger has afterwards."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from operator_tools import (
    APPROVALS,
    ERASURES,
    EVENTS,
    JOBS,
    LINES,
    NAMES,
    TENANT_KEY,
    VERSIONS,
    Cluster,
    Desk,
    Running,
    mock_cluster,
    operator,
    subject_digest,
    until,
)

Story = Callable[[Cluster, Desk], Awaitable[None]]


def tell(tmp_path: Path, story: Story, *, guarded: bool = True) -> None:
    async def run() -> None:
        async with mock_cluster(guarded=guarded) as cluster:
            await story(cluster, Desk(tmp_path))

    asyncio.run(asyncio.wait_for(run(), timeout=800))


async def to_candidate(cluster: Cluster, desk: Desk, running: Running) -> str:
    await until(lambda: cluster.unfinished(), "a Job that builds", running.log)
    (job,) = cluster.unfinished()
    await desk.carry_out(job)
    await cluster.finish(job)
    await until(lambda: cluster.candidate(), "a candidate", running.log)
    return str(cluster.candidate())


async def to_version(cluster: Cluster, desk: Desk, running: Running) -> None:
    before = desk.version()
    await cluster.approve(await to_candidate(cluster, desk, running))
    await until(lambda: cluster.unfinished(), "a Job that publishes", running.log)
    (job,) = cluster.unfinished()
    await desk.carry_out(job)
    await cluster.finish(job)
    await until(lambda: cluster.line()["status"].get("version") == before + 1, "the version", running.log)


def verified(cluster: Cluster, approver: str) -> tuple[str, str]:
    found = [doc for doc in cluster.objects(APPROVALS) if doc["spec"]["approver"] == approver]
    return cluster.condition("Verified", found[0]) if found else ("", "")


def test_two_people_who_wrote_none_of_it_must_approve(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line(approvalsRequired=2)
        async with operator(cluster, desk) as running:
            candidate = await to_candidate(cluster, desk, running)
            await cluster.approve(candidate, "oidc:ada")  # the author, under the name that admission knows
            await until(
                lambda: verified(cluster, "oidc:ada") == ("False", "ApproverIsAuthor"), "a refusal", running.log
            )
            await cluster.approve(candidate, "olga")
            await until(lambda: verified(cluster, "olga") == ("True", "Recorded"), "the first word", running.log)
            await asyncio.sleep(1.5)
            assert cluster.jobs("publish") == [], "one approval of two publishes nothing"
            pending = cluster.line()["status"]["pendingRun"]
            assert pending["approvals"] == 1
            await cluster.approve(candidate, "otto")
            await until(lambda: cluster.jobs("publish"), "a Job that publishes", running.log)
            (job,) = cluster.jobs("publish")
            assert "--approvals=2" in job["spec"]["template"]["spec"]["containers"][0]["args"]
            await desk.carry_out(job)
            assert desk.version() == 1
            with desk.ledger() as ledger:
                assert [word.approver for word in ledger.runs.approvals(candidate)] == ["olga", "otto"]

    tell(tmp_path, story)


def test_one_that_turns_it_down_is_enough_and_a_second_thought_does_not_count(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line(approvalsRequired=2)
        async with operator(cluster, desk) as running:
            candidate = await to_candidate(cluster, desk, running)
            await cluster.approve(candidate, "olga")
            await until(lambda: verified(cluster, "olga") == ("True", "Recorded"), "a word", running.log)
            spec = {"candidate": candidate, "approver": "olga", "decision": "rejected", "reason": "SecondThought"}
            await cluster.create(APPROVALS, "Approval", "again", spec)
            again = lambda: cluster.condition("Verified", cluster.one(APPROVALS, "again"))  # noqa: E731
            await until(lambda: again() == ("False", "AlreadyDecided"), "the first word stands", running.log)
            await cluster.approve(candidate, "otto", "rejected")
            await until(lambda: cluster.jobs("reject"), "a Job that closes the run", running.log)
            await desk.carry_out(cluster.jobs("reject")[0])
            await cluster.finish(cluster.jobs("reject")[0])
            await until(lambda: cluster.line()["status"]["phase"] == "Empty", "rest", running.log)
            assert desk.version() == 0

    tell(tmp_path, story)


def test_a_key_that_the_collector_draws_later_is_found(tmp_path: Path) -> None:
    """On a new cluster the operator may be up first: nobody should have to start it again."""

    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line()
        async with operator(cluster, desk, keyed=False) as running:
            candidate = await to_candidate(cluster, desk, running)
            await cluster.approve(candidate, "oidc:ada")
            await until(
                lambda: verified(cluster, "oidc:ada") == ("Unknown", "AuthorsUnknown"), "that it waits", running.log
            )
            desk.ledger_path.with_name("tenant.key").write_bytes(TENANT_KEY)
            await until(
                lambda: verified(cluster, "oidc:ada") == ("False", "ApproverIsAuthor"), "a refusal", running.log
            )
            await cluster.approve(candidate, "olga")
            await until(lambda: verified(cluster, "olga") == ("True", "Recorded"), "a word that counts", running.log)

    tell(tmp_path, story)


def test_no_approval_counts_while_admission_does_not_guard_them(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.rewrite("ada", 0)
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            candidate = await to_candidate(cluster, desk, running)
            await cluster.approve(candidate)
            await until(lambda: verified(cluster, "olga") == ("Unknown", "NotGuarded"), "a doubt", running.log)
            with desk.ledger() as ledger:
                assert ledger.runs.approvals(candidate) == []
            await cluster.guard()
            await until(lambda: cluster.jobs("publish"), "going on once it is guarded", running.log)

    tell(tmp_path, story, guarded=False)


def test_an_approval_of_what_nobody_waits_with_is_kept_and_says_so(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await cluster.approve("sha256:" + "0" * 64)
            await until(lambda: verified(cluster, "olga") == ("False", "NoSuchCandidate"), "why", running.log)

    tell(tmp_path, story)


def test_an_erasure_waits_for_the_withdrawal_and_ends_with_a_proof(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        for who in ("zoltan", "ben"):
            desk.consent(who)
        for number, who in enumerate(["zoltan", "ben", "zoltan"]):
            desk.rewrite(who, number)
        await cluster.create_line()
        async with operator(cluster, desk) as running:
            await to_version(cluster, desk, running)
            await cluster.erase("zoltan", deadline="2099-01-01T00:00:00Z")

            def request() -> dict[str, object]:
                return cluster.one(ERASURES, "letter-1")

            await until(lambda: request()["status"]["phase"] == "AwaitingWithdrawal", "waiting", running.log)  # type: ignore[index]
            await asyncio.sleep(1)
            assert cluster.jobs("erase") == [] and desk.contains("zoltan")

            desk.consent("zoltan", "withdrawn")
            await until(lambda: cluster.jobs("erase"), "a Job that erases", running.log)
            (job,) = cluster.jobs("erase")
            assert "ownerReferences" not in job["metadata"]
            await desk.carry_out(job)
            await cluster.finish(job)
            await until(lambda: request()["status"]["phase"] == "Erased", "the end", running.log)  # type: ignore[index]
            status = cluster.one(ERASURES, "letter-1")["status"]
            assert (status["datasets"], status["payloads"], status["events"]) == (0, 2, 2)
            assert cluster.condition("DeadlineMet", cluster.one(ERASURES, "letter-1")) == ("True", "DoneInTime")
            assert not desk.contains("zoltan") and desk.contains("ben")
            states = lambda: {  # noqa: E731
                doc["spec"]["version"]: doc["status"].get("state") for doc in cluster.objects(VERSIONS)
            }
            await until(lambda: states() == {1: "Redacted", 2: "Active"}, "both versions", running.log)

            # The request is a record, not a guard: it can go, and come back to the same proof.
            assert "finalizers" not in cluster.one(ERASURES, "letter-1")["metadata"]
            await cluster.delete(ERASURES, "letter-1")
            await cluster.erase("zoltan", "letter-2")
            await until(
                lambda: cluster.one(ERASURES, "letter-2")["status"].get("proof") == status["proof"],
                "the same proof",
                running.log,
            )
            assert len(cluster.jobs("erase")) == 1

            everything = json.dumps(
                [cluster.objects(key) for key in (LINES, VERSIONS, APPROVALS, ERASURES, JOBS, EVENTS)]
            )
            for word in ("zoltan", NAMES.of("zoltan"), NAMES.of("ben"), "buttons"):
                assert word not in everything, f"{word} is in etcd"
            assert subject_digest("zoltan") in everything

    tell(tmp_path, story)


def test_an_erasure_of_nobody_claims_nothing_and_a_passed_deadline_is_said(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        async with operator(cluster, desk) as running:
            await cluster.erase("nobody", deadline="2001-01-01T00:00:00Z")
            found = lambda kind: cluster.condition(kind, cluster.one(ERASURES, "letter-1"))  # noqa: E731
            await until(lambda: found("Degraded") == ("True", "UnknownSubject"), "why", running.log)
            assert found("DeadlineMet") == ("False", "DeadlinePassed")
            assert cluster.jobs() == []
            told = {(event["reason"], event["type"]) for event in cluster.objects(EVENTS)}
            assert {("UnknownSubject", "Warning"), ("DeadlinePassed", "Warning")} <= told

    tell(tmp_path, story)


def test_an_erasure_that_fails_is_tried_again_and_then_left_to_a_person(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        desk.consent("ada")
        desk.consent("ada", "withdrawn")
        async with operator(cluster, desk) as running:
            await cluster.erase("ada")
            for attempt in range(1, 6):
                await until(lambda: len(cluster.jobs()) == attempt, f"attempt {attempt}", running.log)  # noqa: B023
                await cluster.finish(cluster.unfinished()[0], failed=True)
            found = lambda kind: cluster.condition(kind, cluster.one(ERASURES, "letter-1"))  # noqa: E731
            await until(lambda: found("Degraded") == ("True", "ErasureFailed"), "giving up", running.log)
            await asyncio.sleep(1)
            assert len(cluster.jobs()) == 5

    tell(tmp_path, story)


def test_versions_come_back_from_the_ledger_and_old_ones_are_not_shown(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        for who in ("ada", "ben", "cleo"):
            desk.consent(who)
        await cluster.create_line(historyLimit=2)
        async with operator(cluster, desk) as running:
            for number, who in enumerate(["ada", "ben", "cleo"]):
                desk.rewrite(who, number)
                await to_version(cluster, desk, running)
            names = lambda: [doc["metadata"]["name"] for doc in cluster.objects(VERSIONS)]  # noqa: E731
            await until(lambda: names() == ["support-v2", "support-v3"], "the newest two", running.log)
            await until(
                lambda: [doc["status"].get("state") for doc in cluster.objects(VERSIONS)] == ["Superseded", "Active"],
                "their states",
                running.log,
            )
            kept = cluster.one(VERSIONS, "support-v3")["spec"]
            await cluster.delete(VERSIONS, "support-v3")
            await until(lambda: names() == ["support-v2", "support-v3"], "it comes back", running.log)
            assert cluster.one(VERSIONS, "support-v3")["spec"] == kept

    tell(tmp_path, story)
