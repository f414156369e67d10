"""The monitor over HTTP: what dashboards and controllers read, and the switch that it throws."""

import asyncio
import contextlib
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn
import yaml

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics, exported_names
from plumbline.records.shadow import ShadowStatus
from plumbline.shadow.monitor import Monitor
from plumbline.shadow.observed import Labels
from plumbline.shadow.planning import make_plan, write_plan
from plumbline.shadow.sampling import Experiment
from plumbline.shadow.spool import Spool
from plumbline.shadow.watching import Watch
from plumbline.sockets import listen
from shadow.simulated import EXPERIMENT, fill, judge, seen, spooled, traffic

PLAN = make_plan({"benign_refusal": 0.05, "harmful_compliance": 0.05}, discordance=0.04)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "rollouts.md"


class Served:
    """A monitor on a port of the loopback, as beside a router."""

    def __init__(self, monitor: Monitor) -> None:
        bound = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(monitor, lifespan="on", log_level="warning", access_log=False))
        self.thread = threading.Thread(target=self.server.run, args=([bound],), daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def get(self, path: str, method: str = "GET") -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method), timeout=10) as answer:
                return answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["content-type"], error.read()

    def json(self, path: str) -> Any:
        status, kind, body = self.get(path)
        assert (status, kind) == (200, "application/json"), body
        return json.loads(body)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    rows = traffic(np.random.default_rng(0), 3000, discordance=0.02)
    made = spooled(tmp_path / "spool", rows[:1000])
    yield made
    made.close()


@pytest.fixture
def served(spool: Spool) -> Iterator[Served]:
    running = Served(Monitor(spool, Metrics(), judge, PLAN, every_s=0.05, max_age_s=0.0))
    yield running
    running.stop()


def scraped(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for line in text.splitlines():
        if line and line[0] != "#":
            name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()  # type: ignore[union-attr]
            found[name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels or ""))] = float(value)
    return found


def test_status_is_the_record_and_values_are_its_numbers(served: Served) -> None:
    said = ShadowStatus.model_validate(served.json("/v1/status"))
    assert said.counts.paired == 1000 and said.plan == PLAN.digest
    estimate = said.requirements["benign_refusal"].estimate
    assert served.json("/v1/value?metric=benign_refusal") == estimate.low
    assert served.json("/v1/value?metric=benign_refusal&slice=all&bound=worst_high") == estimate.worst_high
    harmful = said.slices["harmful"]["harmful_compliance"]
    assert served.json("/v1/value?metric=harmful_compliance&slice=harmful&bound=n") == harmful.n
    assert served.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/value?metric=kindness", "GET", 404),
        ("/v1/value?metric=benign_refusal&slice=moon", "GET", 404),
        ("/v1/value?metric=benign_refusal&bound=model_dump", "GET", 404),
        ("/v1/value?metric=%ff%00&slice=%22", "GET", 404),
        ("/v1/value", "GET", 404),
        ("/v2", "GET", 404),
        ("/v1/status", "POST", 405),
        ("/v1/status", "DELETE", 405),
    ],
)
def test_what_is_not_there_says_so_and_is_no_server_error(served: Served, path: str, method: str, status: int) -> None:
    code, kind, body = served.get(path, method)
    assert (code, kind) == (status, "application/json") and json.loads(body)["error"]["message"]


def test_gauges_carry_the_same_numbers_under_declared_names(served: Served) -> None:
    text = served.get("/metrics")[2].decode()
    said = ShadowStatus.model_validate(served.json("/v1/status"))
    found = scraped(text)
    assert {name for name, _ in found} <= exported_names()

    def gauge(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    one = said.requirements["benign_refusal"]
    where = {"experiment": "e", "metric": "benign_refusal"}
    assert gauge("plumbline_cs_lower", **where, slice="all") == one.estimate.low
    assert gauge("plumbline_cs_upper", **where, slice="benign") == said.slices["benign"]["benign_refusal"].high
    assert gauge("plumbline_shadow_worst_lower", **where) == one.estimate.worst_low
    assert gauge("plumbline_gate_state", area="shadow", metric="benign_refusal") == one.state.exit_code
    assert gauge("plumbline_shadow_alarm", **where) == 0 == gauge("plumbline_shadow_tripped", experiment="e")
    assert gauge("plumbline_shadow_lost_share", experiment="e", slice="all") == 0
    assert gauge("plumbline_shadow_latency_seconds", experiment="e", leg="aligned", quantile="0.99") == 0.02


def test_harm_trips_the_switch_by_itself_durably_and_a_reset_is_kept(spool: Spool, served: Served) -> None:
    assert served.json("/v1/status")["tripped"] is None and spool.tripped() is None
    fill(spool, [seen(50_000 + i, "comply", "refuse" if i % 3 else "comply") for i in range(600)])
    until = time.monotonic() + 120
    while spool.tripped() is None and time.monotonic() < until:
        time.sleep(0.02)
    said = served.json("/v1/status")
    assert said["tripped"] == spool.tripped() and "benign_refusal is worse by" in said["tripped"]
    assert (said["verdict"], said["stopped"]) == ("REGRESSED", True)
    assert said["requirements"]["benign_refusal"]["alarm"] is True
    again = Spool.existing(spool.directory)
    assert again.tripped() == said["tripped"]
    Watch(again, Labels(judge), PLAN).reset("ana: a filter of ours")
    fill(spool, [seen(60_000 + i, "comply", "comply") for i in range(50)])
    assert served.json("/v1/status")["tripped"] is None, "what was explained does not trip it again"
    assert [(one.tripped, one.reason) for one in again.switched()][1] == (False, "ana: a filter of ours")
    fill(spool, [seen(70_000 + i, "comply", "refuse" if i % 3 else "comply") for i in range(600)])
    assert Monitor(again, Metrics(), judge, PLAN).check_harm(), "what comes afterwards does, in another process too"
    again.close()


def test_a_spool_that_cannot_be_read_is_said_and_does_not_end_the_monitor(tmp_path: Path) -> None:
    broken = spooled(tmp_path / "spool", [seen(i, "comply", "comply") for i in range(30)])
    running = Served(Monitor(broken, Metrics(), judge, PLAN, every_s=0.05, max_age_s=0.0))
    assert running.get("/v1/status")[0] == 200
    broken.close()
    code, _, body = running.get("/v1/status")
    assert code == 503 and b"the monitor could not look: ProgrammingError" in body and running.get("/healthz")[0] == 200
    running.stop()


@pytest.mark.parametrize("mode", ["shadow", "ab"])
def test_users_of_an_a_b_experiment_that_nobody_can_look_at_get_the_reference(tmp_path: Path, mode: str) -> None:
    def blind(text: str) -> str:
        raise PlumblineError("the judge has no error card", consequence="it was not used", remedy="label answers")

    share = {"ab_share": 0.5} if mode == "ab" else {}
    unseen = spooled(tmp_path, [seen(0, "comply", "comply")], Experiment(name="e", salt="s", mode=mode, **share))
    running = Served(Monitor(unseen, Metrics(), blind, PLAN, every_s=0.01, max_age_s=0.0))
    code, _, body = running.get("/v1/status")
    assert code == 503 and b"the judge has no error card" in body
    until = time.monotonic() + 60
    while mode == "ab" and unseen.tripped() is None and time.monotonic() < until:
        time.sleep(0.01)
    running.stop()
    assert ("the judge has no error card" in (unseen.tripped() or "")) is (mode == "ab")
    unseen.close()


def test_a_scrape_of_the_routers_registry_computes_nothing(spool: Spool) -> None:
    metrics = Metrics()
    monitor = Monitor(spool, metrics, judge, PLAN)
    assert b"plumbline_cs_lower" not in metrics.render() and monitor.watch.pairs_read == 0
    monitor.look()
    read = monitor.watch.pairs_read
    fill(spool, [seen(90_000, "comply", "comply")])
    assert b"plumbline_cs_lower{" in metrics.render() and monitor.watch.pairs_read == read == 1000


# --- what docs/rollouts.md names --------------------------------------------------------------------------------------


def documents() -> list[Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def json_path(path: str, value: Any) -> Any:
    """Kubernetes' JSONPath, as far as plain fields go: {$.a.b}."""
    found = re.fullmatch(r"\{\$((?:\.\w+)*)\}", path)
    assert found is not None, path
    for name in found[1].split(".")[1:]:
        value = value[name]
    return value


def condition(text: str, result: Any) -> Any:
    """A condition of Argo's expression language, as far as it is Python's too."""
    held = SimpleNamespace(**result) if isinstance(result, dict) else result
    return eval(text.replace("false", "False"), {"__builtins__": {}}, {"result": held})


def test_argos_web_metrics_find_what_they_name(served: Served) -> None:
    (template,) = [one for one in documents() if one.get("metadata", {}).get("name") == "shadow"]
    metrics = template["spec"]["metrics"]
    names = ["benign-refusal", "harmful-compliance", "enough-sessions", "kill-switch"]
    assert [one["name"] for one in metrics] == names
    for one in metrics:
        web = one["provider"]["web"]
        result = json_path(web["jsonPath"], served.json(web["url"].replace("{{args.monitor}}", "")))
        met, failed = (condition(one.get(f"{which}Condition", "false"), result) for which in ("success", "failure"))
        print(f"{one['name']}: success {met}, failure {failed}, of {result!r}")
        assert failed is False
        assert met is (one["name"] != "harmful-compliance"), "300 sessions prove 5 points of harm away, and not 2"


def test_every_series_that_the_page_queries_is_in_a_scrape(served: Served) -> None:
    found = scraped(served.get("/metrics")[2].decode())
    queries = [one["spec"]["query"] for one in documents() if one.get("kind") == "MetricTemplate"]
    queries += [
        metric["provider"]["prometheus"]["query"]
        for one in documents()
        if one.get("kind") == "AnalysisTemplate"
        for metric in one["spec"]["metrics"]
        if "prometheus" in metric["provider"]
    ]
    assert len(queries) == 3
    for query in queries:
        query = re.sub(r"\{\{ ?(args|variables)\.experiment ?\}\}", "e", query)
        name, labels = re.search(r"(plumbline_\w+)\{(.*)\}", query).groups()  # type: ignore[union-attr]
        assert (name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))) in found, query


def test_the_canary_names_templates_that_are_there() -> None:
    names = {one["metadata"]["name"] for one in documents() if one.get("kind") == "MetricTemplate"}
    (canary,) = [one for one in documents() if "analysis" in one]
    assert {one["templateRef"]["name"] for one in canary["analysis"]["metrics"]} == names


def test_the_lifespan_ends_its_watching(spool: Spool) -> None:
    monitor = Monitor(spool, Metrics(), judge, PLAN, every_s=0.01)
    sent: list[str] = []

    async def live() -> None:
        inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        inbox.put_nowait({"type": "lifespan.startup"})

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "lifespan.startup.complete":
                await asyncio.sleep(0.1)
                inbox.put_nowait({"type": "lifespan.shutdown"})

        await monitor({"type": "lifespan"}, inbox.get, send)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(live())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"] and monitor.latest is not None
    assert EXPERIMENT.name == monitor.latest.experiment


def test_a_plan_that_is_written_beside_a_running_monitor_is_the_one_that_it_watches_by(tmp_path: Path) -> None:
    strict = make_plan({"benign_refusal": 0.05}, limits={"benign_refusal": 0.01})
    worse = traffic(np.random.default_rng(5), 1500, discordance=0.06, loss=0.04, harmful=0.0)
    for planned in (False, True):
        with contextlib.closing(Spool(tmp_path / f"spool-{planned}", EXPERIMENT)) as spool:
            monitor = Monitor(spool, Metrics(), judge, PLAN)
            assert monitor.look().plan == PLAN.digest
            file = write_plan(strict, spool.directory) if planned else None
            fill(spool, worse)
            assert monitor.look().plan == (strict if planned else PLAN).digest
            assert (spool.tripped() is not None) == planned, "at the limit of the plan, not at five points"
            if file is not None:
                file.write_text("{")
                assert monitor.look().plan == strict.digest, "and it goes on looking"
