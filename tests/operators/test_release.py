"""Releases as objects: refused by admission, checked again by the operator, and moved once for each request."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator import Weather
from kmock._internal.k8s import KubernetesError
from operator_tools import EVENTS, PASSING, RELEASES, Cluster, Desk, Doc, Running, mock_cluster, operator, until

from evidence import gate, shadow
from plumbline.records import Verdict, digest_of

Story = Callable[[Cluster, Desk], Awaitable[None]]
REFERENCE, ALIGNED, NEXT = digest_of("reference"), digest_of("aligned"), digest_of("next")


def tell(tmp_path: Path, story: Story, weather: Weather | None = None, *, guarded: bool = True) -> None:
    async def run() -> None:
        async with mock_cluster(weather, guarded=guarded) as cluster:
            desk = Desk(tmp_path)
            with desk.ledger() as ledger:
                ledger.releases.promote("default", REFERENCE, reason="what users have", actor="owner")
            await story(cluster, desk)

    asyncio.run(asyncio.wait_for(run(), timeout=800))


def passes(desk: Desk, reference: str, aligned: str) -> None:
    with desk.ledger() as ledger:
        ledger.releases.record_decision(gate(reference, aligned))
        ledger.releases.record_shadow(shadow(reference, aligned))


def moves(desk: Desk) -> list[tuple[str, str, str]]:
    with desk.ledger() as ledger:
        return [(one.action, one.policy, one.actor) for one in ledger.releases.release_audit("default")][1:]


async def ask(cluster: Cluster, policy: str, *, by: str = "olga", **spec: Any) -> None:
    """The Release asks for a policy: made, or changed as `kubectl apply` would."""
    wanted = {"policy": policy, "requestedBy": by, "reason": "ReadTheReport", **spec}
    if any(doc["metadata"]["name"] == "default" for doc in cluster.objects(RELEASES)):
        await cluster.change(RELEASES, "default", {"spec": wanted}, by=by)
    else:
        await cluster.create(RELEASES, "Release", "default", wanted, by=by)


@contextlib.contextmanager
def halted(running: Running) -> Iterator[None]:
    """The operator looks at nothing meanwhile: less than its lease."""
    running.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.process.send_signal(signal.SIGCONT)


async def denied(asking: Awaitable[None]) -> str:
    with pytest.raises(AssertionError) as refused:
        await asking
    return str(refused.value)


def listed(cluster: Cluster) -> Doc:
    """Whereto the release may move, as admission reads it."""
    found = next(iter(cluster.one(PASSING, "plumbline")["spec"]["releases"]))
    return dict(found)


def may_move(cluster: Cluster) -> list[str]:
    return [one["policy"] for one in listed(cluster)["passed"]] + listed(cluster)["before"]


def phase(cluster: Cluster) -> tuple[str, int]:
    """The phase, and the generation of the spec that it is about."""
    status = cluster.one(RELEASES, "default")["status"]
    return status["phase"], status["observedGeneration"]


def test_a_release_is_refused_and_then_accepted_and_goes_back_without_a_verdict(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        assert "no params found" in await denied(ask(cluster, REFERENCE)), "nothing is admitted before there is a list"
        async with operator(cluster, desk) as running:
            await until(lambda: listed(cluster)["serving"] == REFERENCE, "the list", running.log)
            said = await denied(ask(cluster, ALIGNED))
            for part in ("no passing, fresh gate decision", "users keep the policy they have", "plumb gate --record"):
                assert part in said
            assert cluster.objects(RELEASES) == []

            passes(desk, REFERENCE, ALIGNED)
            await until(lambda: may_move(cluster) == [ALIGNED], "the policy that passed", running.log)
            spec = {"policy": ALIGNED, "requestedBy": "olga", "reason": "ReadTheReport"}
            forged = cluster.create(RELEASES, "Release", "default", spec, by="otto")
            assert "your own user name, otto" in await denied(forged)
            await ask(cluster, ALIGNED)
            await until(lambda: phase(cluster) == ("Released", 1), "Released", running.log)
            assert moves(desk) == [("promote", ALIGNED, "olga")]
            release = cluster.one(RELEASES, "default")
            assert release["status"]["moves"][0]["shadow"] == shadow(REFERENCE, ALIGNED).digest
            assert release["status"]["serving"] == ALIGNED and release["status"]["sequence"] == 2
            assert cluster.condition("Passed", release) == ("True", "GateAndShadowPassed")
            assert "finalizers" not in release["metadata"]

            # Back, at night, by somebody else, without any verdict.
            await until(lambda: may_move(cluster) == [REFERENCE], "the way back", running.log)
            await ask(cluster, REFERENCE, by="otto", reason="UsersComplain")
            await until(lambda: phase(cluster) == ("Released", 2), "the rollback", running.log)
            assert moves(desk)[1:] == [("rollback", REFERENCE, "otto")]
            # Forward again to what was rolled back takes a shadow verdict from after that.
            await until(lambda: may_move(cluster) == [], "nothing left", running.log)
            assert "no passing, fresh" in await denied(ask(cluster, ALIGNED, reason="OnceMore"))

            told = {(event["reason"], event["type"]) for event in cluster.objects(EVENTS)}
            assert {("GateAndShadowPassed", "Normal"), ("ReleasedBefore", "Normal")} <= told
            assert "Traceback" not in running.log.read_text()

    tell(tmp_path, story)


def test_what_was_admitted_on_an_old_list_is_refused_by_the_operator_for_good(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        passes(desk, REFERENCE, ALIGNED)
        async with operator(cluster, desk, resync=60) as running:  # nothing is looked at that no event names
            await until(lambda: may_move(cluster) == [ALIGNED], "the list", running.log)
            with halted(running):  # admitted: the list is as old as the operator's last look
                with desk.ledger() as ledger:
                    ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED, Verdict.REGRESSED, experiment="again"))
                await ask(cluster, ALIGNED)
            await until(lambda: phase(cluster) == ("Refused", 1), "Refused", running.log)
            release = cluster.one(RELEASES, "default")
            assert cluster.condition("Passed", release) == ("False", "NotPassing") and moves(desk) == []
            assert ("NotPassing", "Warning") in {(one["reason"], one["type"]) for one in cluster.objects(EVENTS)}

            # It passes again later. A forgotten object moves nobody; asking anew does.
            with desk.ledger() as ledger:
                ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED, experiment="after the fix"))
            await cluster.delete(PASSING, "plumbline")
            await until(lambda: may_move(cluster) == [ALIGNED], "the list", running.log)
            await cluster.change(RELEASES, "default", {"metadata": {"labels": {"team": "a"}}}, by="otto")
            await asyncio.sleep(1)
            assert phase(cluster) == ("Refused", 1) and moves(desk) == []
            await ask(cluster, ALIGNED, reason="AfterTheFix")
            await until(lambda: phase(cluster) == ("Released", 2), "Released", running.log)

            # Somebody rolls back by hand. The object that asked for it earlier does not move users forward again,
            # not even when its status was lost.
            with desk.ledger() as ledger:
                ledger.releases.rollback("default", reason="users complain", actor="on call")
            await cluster.change(RELEASES, "default", {"metadata": {"labels": {"team": "b"}}}, by="otto")
            await until(lambda: phase(cluster) == ("Superseded", 2), "Superseded", running.log)
            await cluster.change(RELEASES, "default/status", {"status": None}, by="somebody")
            await until(lambda: phase(cluster) == ("Superseded", 2), "the status comes back", running.log)
            assert [one[0] for one in moves(desk)] == ["promote", "rollback"]

    tell(tmp_path, story)


def test_without_its_guard_or_its_ledger_nothing_moves_and_the_list_is_the_operators_alone(tmp_path: Path) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        passes(desk, REFERENCE, ALIGNED)
        async with operator(cluster, desk) as running:
            await ask(cluster, ALIGNED, by="olga")  # no policy is installed: anybody may write anything
            await until(
                lambda: cluster.condition("Passed", cluster.one(RELEASES, "default")) == ("Unknown", "NotGuarded"),
                "a doubt",
                running.log,
            )
            assert phase(cluster)[0] == "Pending" and moves(desk) == []
            await cluster.guard()
            await until(lambda: phase(cluster) == ("Released", 1), "going on once it is guarded", running.log)

            generous = {"spec": {"releases": [{"name": "default", "serving": NEXT, "passed": [], "before": [NEXT]}]}}
            assert "nobody else writes it" in await denied(cluster.change(PASSING, "plumbline", generous, by="olga"))
            await cluster.delete(PASSING, "plumbline")
            await until(lambda: may_move(cluster) == [REFERENCE], "the list comes back", running.log)

            kept = tmp_path / "kept.sqlite"
            with sqlite3.connect(desk.ledger_path) as now, sqlite3.connect(kept) as copy:
                now.backup(copy)  # the file alone lacks what is still in its log
            desk.ledger_path.write_bytes(b"no database" * 100)
            await until(lambda: not cluster.one(PASSING, "plumbline")["spec"]["readable"], "an empty list", running.log)
            assert cluster.one(PASSING, "plumbline")["spec"]["releases"] == []
            assert "could not read the ledger" in await denied(ask(cluster, REFERENCE, reason="GoBack"))
            assert phase(cluster) == ("Released", 1), "what was said stands"
            for beside in ("-wal", "-shm"):
                desk.ledger_path.with_name(desk.ledger_path.name + beside).unlink(missing_ok=True)
            kept.replace(desk.ledger_path)
            await until(lambda: may_move(cluster) == [REFERENCE], "the list", running.log)

    tell(tmp_path, story, guarded=False)


def test_killed_at_each_step_each_request_moves_the_pointer_once(tmp_path: Path) -> None:
    """Before the list is there; with the pointer moved and nothing told; between Event and status; before the list is
    put right. And some answers are lost, and some writes refused as conflicts."""
    weather = Weather(lost=0.15, conflict=0.15, seed=11)

    async def story(cluster: Cluster, desk: Desk) -> None:
        async def kill_at(moment: str, method: str, plural: str) -> None:
            async with operator(cluster, desk, lease=2) as running:

                def step(*now: str) -> None:
                    if now == (moment, method, plural) and running.process.poll() is None:
                        running.process.kill()
                        running.process.wait()
                        if moment == "before":
                            raise KubernetesError(status=500, reason="Gone", message="nobody asks any more")

                cluster.emulator.step = step
                await until(lambda: running.process.poll() is not None, f"{moment} {method} {plural}", running.log)
            cluster.emulator.step = lambda *_: None

        passes(desk, REFERENCE, ALIGNED)
        await kill_at("before", "POST", "passingdecisions")
        assert cluster.objects(PASSING) == []
        async with operator(cluster, desk, lease=2) as running:
            await until(lambda: may_move(cluster) == [ALIGNED], "the list", running.log)
        await ask(cluster, ALIGNED)
        await kill_at("before", "POST", "events")
        assert moves(desk) == [("promote", ALIGNED, "olga")] and "status" not in cluster.one(RELEASES, "default")
        await kill_at("before", "PATCH", "releases")
        await kill_at("after", "PATCH", "releases")
        assert phase(cluster) == ("Released", 1)
        async with operator(cluster, desk, lease=2) as running:
            await until(lambda: may_move(cluster) == [REFERENCE], "the list", running.log)
            await ask(cluster, REFERENCE, by="otto", reason="UsersComplain")
            await until(lambda: phase(cluster) == ("Released", 2), "the rollback", running.log)
        assert moves(desk) == [("promote", ALIGNED, "olga"), ("rollback", REFERENCE, "otto")]

    tell(tmp_path, story, weather)
