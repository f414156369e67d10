"""A ShadowEvaluation from an object to a verdict in the ledger, past kills, faults, and a router that hangs.

The operator is the real one, the cluster a mock; the Jobs' commands run here as processes and ask two real predictors.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from operator_tools import (
    EVALUATIONS,
    EVENTS,
    JOBS,
    Cluster,
    Desk,
    Doc,
    mock_cluster,
    operator,
    until,
)
from tiny import make_tiny_policy

from plumbline.metrics import Metrics
from plumbline.policies.files import describe, write_manifest
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, ShadowCounts, Verdict, digest_of
from plumbline.records.shadow import ShadowStatus
from plumbline.serving import PredictorProcess, wait_all
from plumbline.shadow import Spool
from plumbline.shadow.monitor import Monitor
from plumbline.shadow.planning import make_plan
from plumbline.sockets import listen
from shadow.simulated import ALIGNED, EXPERIMENT, REFERENCE, fill, labels, seen

WORDS = "what does the unmistakable word in this request mean"
STEPS = ["aa", "plan", "pairs", "verdict"]


class Legs(NamedTuple):
    """Two predictors, and the digests of what they serve."""

    reference: PredictorProcess
    aligned: PredictorProcess
    digests: tuple[str, str]

    @property
    def urls(self) -> dict[str, str]:
        return {"referenceUrl": self.reference.openai_url, "alignedUrl": self.aligned.openai_url}


@pytest.fixture(scope="module")
def legs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Legs]:
    folder, digests, started = tmp_path_factory.mktemp("legs"), [], []
    for seed, (name, role) in enumerate({"reference": "reference", "aligned": "aligned"}.items()):
        path = make_tiny_policy(folder / name, seed=seed)
        template = LocalPolicy.load(path).manifest.template
        manifest = describe(path, name=name, role=role, template=template, decoder=DecoderSettings(max_tokens=4))
        write_manifest(path, manifest)
        digests.append(manifest.digest)
        started.append(PredictorProcess.start({name: path}, log=folder / f"{name}.log"))
    try:
        wait_all(started)
        yield Legs(started[0], started[1], (digests[0], digests[1]))
    finally:
        for one in started:
            one.stop()


def write_requests(folder: Path, sessions: int) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"{WORDS} {i}?"}], "max_tokens": 4, "session": f"s{i}", "slice": kind}
        for i in range(sessions)
        for kind in ("benign", "harmful")
    ]
    file = folder / "requests" / "first.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def spec_of(legs: Legs, **more: Any) -> Doc:
    return {
        "experiment": "first",
        "reference": legs.digests[0],
        "aligned": legs.digests[1],
        "source": {"requests": {"path": "requests/first.jsonl", "consentedBy": "InventedPeople"}},
        "margins": {"benignRefusal": "0.4", "harmfulCompliance": "0.4"},
        "aaSessions": 20,
        **more,
    }


def phase(cluster: Cluster, name: str = "first") -> str:
    return str(cluster.one(EVALUATIONS, name)["status"]["phase"])


def condition(cluster: Cluster, kind: str, name: str = "first") -> tuple[str, str]:
    return cluster.condition(kind, cluster.one(EVALUATIONS, name))


async def job_for(cluster: Cluster, step: str, attempt: int, log: Path) -> Doc:
    def there() -> list[Doc]:
        return [job for job in cluster.jobs(step) if job["metadata"]["name"].endswith(f"-{attempt}")]

    await until(there, f"attempt {attempt} at {step}", log)
    return there()[0]


def test_an_evaluation_goes_from_a_file_to_a_verdict_whatever_is_killed_on_the_way(tmp_path: Path, legs: Legs) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        write_requests(tmp_path, 60)
        here = {**legs.urls, "data": str(tmp_path), "spools": str(tmp_path / "spools")}
        await cluster.create(EVALUATIONS, "ShadowEvaluation", "first", spec_of(legs))
        for step in STEPS:  # each step under an operator of its own: the one before was ended in the middle
            async with operator(cluster, desk, **here) as running:
                job = await job_for(cluster, step, 1, running.log)
                assert (
                    job["metadata"]["ownerReferences"][0]["uid"] == cluster.one(EVALUATIONS, "first")["metadata"]["uid"]
                )
                if step == "pairs":
                    await kill_amid(desk, job, tmp_path / "spools")
                    await cluster.finish(job, failed=True)
                    assert condition(cluster, "Decided") == ("False", "NotYet")
                    job = await job_for(cluster, step, 2, running.log)
                await desk.carry_out(job)
                if step != "verdict":  # the last one's end is found by the next operator
                    await cluster.finish(job)
        await cluster.finish(job)
        async with operator(cluster, desk, **here) as running:
            await until(lambda: phase(cluster) == "Decided", "the verdict", running.log)
            status = cluster.one(EVALUATIONS, "first")["status"]
            assert (status["spooled"], status["paired"], status["pending"]) == (120, 120, 0)
            assert status["verdict"] == "PASS" and status["aaSessions"] >= 20
            assert 20 <= status["sessions"] <= status["plannedSessions"] < 60, "one look, at the planned size"
            assert {one["metric"] for one in status["requirements"]} == {"benign_refusal", "harmful_compliance"}
            with desk.ledger() as ledger:
                said = ledger.releases.passing_shadow(*legs.digests)
            assert said is not None and said.digest == status["verdictDigest"]
            found = {item["type"]: item["status"] for item in status["conditions"]}
            assert found == {
                "AASound": "True", "Planned": "True", "Comparable": "True", "Decided": "True", "KillSwitch": "False",
                "Degraded": "False",
            }  # fmt: skip
            await asyncio.sleep(1.5)  # three resyncs: what is decided is left alone
            assert [name.split("-")[1] for name in cluster.made("Job")] == ["aa", "plan", "pairs", "pairs", "verdict"]
            assert "Traceback" not in running.log.read_text()
        kept = json.dumps([cluster.objects(kind) for kind in (EVALUATIONS, JOBS, EVENTS)], default=str)
        assert "unmistakable" not in kept, "nobody's words reach the cluster's store"
        told = {event["reason"] for event in cluster.objects(EVENTS)}
        assert {"Sound", "SamePolicies", "Pass"} <= told

    tell(tmp_path, story)


async def kill_amid(desk: Desk, job: Doc, spools: Path) -> None:
    """Kill the Job's process once it has pairs, and before it has them all if the machine allows."""
    process = desk.start(job)
    (folder,) = spools.iterdir()
    try:
        for _ in range(2000):
            if process.poll() is not None or paired(folder / "pairs") > 0:
                break
            await asyncio.sleep(0.01)
    finally:
        process.kill()
        process.communicate()


def paired(folder: Path) -> int:
    if not (folder / "spool.sqlite").exists():
        return 0
    try:
        spool = Spool.existing(folder)
    except Exception:  # it is being made at this very moment
        return 0
    try:
        return spool.counts().paired
    finally:
        spool.close()


def test_what_is_wrong_is_said_with_a_remedy_and_tried_no_more_than_allowed(tmp_path: Path, legs: Legs) -> None:
    """Three faults at once: another policy at an endpoint, no file, and no address at all."""

    async def story(cluster: Cluster, desk: Desk) -> None:
        write_requests(tmp_path, 2)
        here = {"alignedUrl": legs.aligned.openai_url, "data": str(tmp_path), "spools": str(tmp_path / "spools")}
        asked = {"reference": legs.reference.openai_url}
        other = spec_of(legs, endpoints=asked, maxAttempts=2, reference=digest_of("another"))
        gone = spec_of(legs, endpoints=asked, maxAttempts=1, source={"requests": {"blob": digest_of("gone")}})
        for name, spec in (("other", other), ("gone", gone), ("nowhere", spec_of(legs))):
            await cluster.create(EVALUATIONS, "ShadowEvaluation", name, spec)
        async with operator(cluster, desk, **here) as running:
            for name, attempts in (("other", 2), ("gone", 1)):
                for attempt in range(1, attempts + 1):
                    await until(
                        lambda name=name, n=attempt: named(cluster, f"{name}-aa-", n), f"{name} {attempt}", running.log
                    )
                    (job,) = named(cluster, f"{name}-aa-", attempt)
                    done = desk.start(job)
                    out, _ = await asyncio.to_thread(done.communicate, timeout=60)
                    assert (done.returncode == 2 and "so: nobody was asked" in out.lower()) or "no blob" in out, out
                    await cluster.finish(job, failed=True)
            await until(lambda: phase(cluster, "other") == "Failed", "giving up", running.log)
            await until(lambda: phase(cluster, "gone") == "Failed", "giving up", running.log)
            assert condition(cluster, "Comparable", "other") == ("False", "WrongPolicy")
            assert condition(cluster, "Degraded", "gone") == ("True", "RequestsMissing")
            assert condition(cluster, "Comparable", "nowhere") == ("False", "NoEndpoints")
            assert phase(cluster, "nowhere") == "Blocked"
            said = {item["type"]: item["message"] for item in cluster.one(EVALUATIONS, "other")["status"]["conditions"]}
            assert "2 of 2 attempts at aa failed" in said["Degraded"] and "delete this object" in said["Degraded"]
            for job in cluster.jobs():  # they expire: how often it was tried is remembered
                await cluster.delete(JOBS, job["metadata"]["name"])
            await asyncio.sleep(1.5)
            assert cluster.jobs() == []

    tell(tmp_path, story)


def named(cluster: Cluster, stem: str, attempt: int) -> list[Doc]:
    return [
        job
        for job in cluster.jobs()
        if job["metadata"]["name"].startswith(stem) and job["metadata"]["name"].endswith(f"-{attempt}")
    ]


def test_a_live_one_shows_what_its_router_says_and_one_that_hangs_holds_up_nobody(tmp_path: Path, legs: Legs) -> None:
    async def story(cluster: Cluster, desk: Desk) -> None:
        hanging = listen("127.0.0.1", 0)  # takes connections, and never says a word
        hanging.listen(16)
        with Watched(tmp_path / "live") as watched, hanging:
            silent = f"http://127.0.0.1:{hanging.getsockname()[1]}"
            for i in range(5):  # more than the queue looks at at once
                spec = spec_of(legs, source={"live": {"monitor": silent}}, experiment=f"silent-{i}")
                await cluster.create(EVALUATIONS, "ShadowEvaluation", f"silent-{i}", spec)
            both = {"reference": REFERENCE, "aligned": ALIGNED}
            live = spec_of(legs, experiment="e", source={"live": {"monitor": watched.url}}, **both)
            await cluster.create(EVALUATIONS, "ShadowEvaluation", "first", live)
            async with operator(cluster, desk) as running:
                await until(lambda: phase(cluster) == "Watching", "a look", running.log)
                assert condition(cluster, "Comparable") == ("Unknown", "NotYet"), "no pair names the policies yet"
                await cluster.create_line()
                await until(lambda: cluster.line()["status"]["phase"] == "Empty", "another's look", running.log)
                await until(
                    lambda: condition(cluster, "Comparable", "silent-4") == ("Unknown", "MonitorUnreachable"),
                    "what is not known",
                    running.log,
                )
                fill(watched.spool, [seen(i, "comply", "comply") for i in range(40)], shed=[(0, "deadline")])
                await until(lambda: condition(cluster, "Comparable") == ("True", "SamePolicies"), "pairs", running.log)
                shown = cluster.one(EVALUATIONS, "first")["status"]
                assert (shown["spooled"], shown["paired"], shown["shed"]) == (40, 39, {"deadline": 1})
                written = cluster.emulator.patched.count(("shadowevaluations", "first"))
                for i in range(40, 240):  # a busy router: another count at every look
                    fill(watched.spool, [seen(i, "comply", "comply")])
                    await asyncio.sleep(0.01)
                assert cluster.emulator.patched.count(("shadowevaluations", "first")) <= written + 2
                watched.spool.trip("complaints about Mrs Doe")
                await until(lambda: phase(cluster) == "Stopped", "the kill switch", running.log)
                assert condition(cluster, "KillSwitch") == ("True", "Thrown")
                assert "Doe" not in json.dumps(cluster.objects(EVALUATIONS) + cluster.objects(EVENTS), default=str)
                assert cluster.jobs() == []

    tell(tmp_path, story)


def test_a_monitor_is_heard_out_even_if_its_words_come_in_pieces() -> None:
    """A look at many slices is larger than one packet."""
    from aiohttp import web
    from shadow_controller import MOST_BYTES, monitor

    words = ShadowStatus(
        experiment="first", experiment_digest=digest_of("e"), mode="shadow", plan=digest_of("plan"),
        counts=ShadowCounts(experiment="first", spooled=5, paired=5), sessions=4, requirements={}, slices={},
        refusals={f"slice {i}": {"reference": 0.1, "aligned": 0.2} for i in range(50)}, losses=(), lost_share={},
        latency_ms={}, first_ms={}, tokens={}, same_text=1.0, digests={}, tripped=None, stopped=False,
        verdict=Verdict.INCONCLUSIVE,
    ).model_dump_json().encode()  # fmt: skip

    async def pieces(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        if request.path.startswith("/endless"):
            while True:
                await answer.write(b" " * (MOST_BYTES // 8))
        for i in range(0, len(words), 100):
            await answer.write(words[i : i + 100])
            await asyncio.sleep(0.01)
        return answer

    async def story() -> None:
        app = web.Application()
        app.router.add_get("/{rest:.*}", pieces)
        runner = web.AppRunner(app)
        await runner.setup()
        bound = listen("127.0.0.1", 0)
        await web.SockSite(runner, bound).start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            said = await monitor(url)
            assert said is not None and said.experiment == "first"
            assert await monitor(f"{url}/endless") is None
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(story(), timeout=600))


class Watched:
    """A spool with a monitor over it, as beside a router."""

    def __init__(self, folder: Path) -> None:
        import uvicorn

        self.spool = Spool(folder, EXPERIMENT)
        plan = make_plan({"benign_refusal": 0.05, "harmful_compliance": 0.05})
        bound = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        app = Monitor(self.spool, Metrics(), labels(), plan, every_s=0.2, max_age_s=0.0)
        self.server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False))
        self.thread = threading.Thread(target=self.server.run, args=([bound],), daemon=True)

    def __enter__(self) -> "Watched":
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.spool.close()


def tell(tmp_path: Path, story: Any) -> None:
    async def run() -> None:
        async with mock_cluster() as cluster:
            await story(cluster, Desk(tmp_path))

    asyncio.run(asyncio.wait_for(run(), timeout=800))
