"""What the loop made, watched by a real Prometheus: every query of every panel and every rule finds data.

The exporters are the real ones: the operator's gauges over the loop's ledger, a collector, two predictors with a
guardrail, `plumb shadow` with its worker, a router that cannot reach its reference, and a training run's own server,
which gets the lines that the loop's training wrote. People of the micro-world ask and post until all is seen.
"""

import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import start_http_server

from loop.begun import SEED
from loop.conftest import Ran
from monitoring.prometheus import Prometheus, program
from plumbline.errors import PlumblineError
from plumbline.feedback import CollectorConfig, Pseudonyms, start_collector
from plumbline.feedback.collect.access import Source
from plumbline.guardrail import GuardrailExample, fit_guardrail, save_guardrail
from plumbline.guardrail.examples import halves
from plumbline.metrics import Metrics
from plumbline.microworld.traffic import reaction, user_requests
from plumbline.microworld.world import build_world
from plumbline.policies.files import manifest_of
from plumbline.reconcile.ledger_gauges import LedgerGauges
from plumbline.reconcile.people import APP, NOTICE
from plumbline.reconcile.simulation import Doors, ask_all, event, post_consent, post_events
from plumbline.records import digest_of
from plumbline.serving import PredictorProcess, wait_all
from plumbline.shadow import Experiment
from plumbline.shadow.experiment import ShadowRun
from plumbline.stores import Ledger
from plumbline.training.follow import Prometheus as TrainingServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FILES = Path(__file__).resolve().parents[2] / "charts" / "plumbline" / "files"
RULES = FILES / "rules.yaml"
BOARDS = [json.loads(file.read_text()) for file in sorted(FILES.glob("*.json"))]
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
SELECTOR = re.compile(r"plumbline_[a-z_]+(?:\{[^}]*\})?")
PLUMB = str(Path(sys.executable).with_name("plumb"))
TOKEN = "a token of the application's"
Targets = dict[str, tuple[str, dict[str, str]]]


class Watched:
    """The loop's processes, with people who go on using them, and a Prometheus that scrapes them all."""

    def __init__(self, out: Path, folder: Path, running: contextlib.ExitStack) -> None:
        self.out, self.folder, self.running = out, folder, running
        self.targets: Targets = {}
        self.world = build_world(SEED)
        self.pseudonyms = Pseudonyms((out / "tenant.key").read_bytes())
        for name in ("ledger.sqlite", "tenant.key"):  # the loop's own stay as the other tests want them
            shutil.copy(out / name, folder / name)
        self.ledger = running.enter_context(contextlib.closing(Ledger(folder / "ledger.sqlite")))

    def target(self, name: str, url: str) -> None:
        """Something to scrape, with the labels that it would have in a cluster."""
        self.targets[name] = (url.removeprefix("http://").partition("/")[0], {"namespace": "demo", "pod": f"{name}-0"})

    def operator(self) -> None:
        metrics = Metrics()
        gauges = LedgerGauges(self.folder / "ledger.sqlite", self.out / "blobs", metrics)
        assert gauges.look() == ""
        server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
        self.running.callback(thread.join)
        self.running.callback(server.server_close)
        self.running.callback(server.shutdown)
        self.target("operator", f"http://127.0.0.1:{server.server_port}")

    def collector(self) -> None:
        sources = {APP: Source(TOKEN, may=frozenset({"events", "consent"}))}
        running = self.running.enter_context(start_collector(self.ledger, self.pseudonyms, CollectorConfig(sources)))
        self.collector_url = running.url
        self.target("collector", running.url)

    def predictors(self) -> tuple[str, str]:
        guardrail = self.guardrail()
        legs = []
        for leg, name in (("reference", "reference"), ("aligned", "aligned-2")):
            process = PredictorProcess.start(
                {name: self.out / "policies" / name},
                log=self.folder / f"{name}.log",
                leg=leg,
                guardrails=[guardrail],
                module="plumbline.cli.serve",
            )
            self.running.callback(process.stop)
            self.target(leg, process.url)
            legs.append(process)
        wait_all(legs)
        return legs[0].openai_url, legs[1].openai_url

    def guardrail(self) -> Path:
        now = datetime.now(UTC).replace(microsecond=0)
        rows = [
            GuardrailExample(id=f"{form}/{i}", violation=form == "bomb", text=f"make {form} number {i}", cluster=str(i))
            for form in ("bomb", "cake")
            for i in range(72)
        ]
        split = halves(rows)
        policies = [manifest_of(self.out / "policies" / name, "").digest for name in ("reference", "aligned-2")]
        made = fit_guardrail(
            split.train, split.calibration, name="bombs", policies=policies, target_false_positive=0.05,
            made=now - timedelta(days=1), expires=now + timedelta(days=2),
        )  # fmt: skip
        save_guardrail(made, self.folder / "bombs.json")
        return self.folder / "bombs.json"

    def shadow(self, reference: str, aligned: str) -> None:
        experiment = {
            "name": "e",
            "salt": "s",
            "aligned_model": "aligned-2",
            "decoder": {"max_tokens": 24},
            "max_pending": 2,
        }
        (self.folder / "experiment.json").write_text(json.dumps(experiment))
        arguments = [
            PLUMB,
            "shadow",
            "--reference",
            reference,
            "--aligned",
            aligned,
            "--port",
            "0",
            "--concurrency",
            "1",
        ]
        arguments += ["--experiment", "experiment.json", "--spool", "spool", "--ledger", "ledger.sqlite"]
        log = self.folder / "shadow.log"
        with log.open("wb") as output:
            process = subprocess.Popen(arguments, cwd=self.folder, stderr=output)
        self.running.callback(process.wait, 30)
        self.running.callback(process.terminate)
        said = waited(lambda: re.search(r"users ask (\S+); status and metrics at (\S+);", log.read_text()), log)
        self.router_url = said.group(1)
        self.target("router", said.group(1))
        self.target("worker", said.group(2))

    def unreachable(self) -> None:
        """A router whose reference is gone: its users get errors, which is what one alert is about."""
        run = ShadowRun(
            Experiment(name="gone", salt="s"), "http://127.0.0.1:9/v1", None, self.folder / "gone", worker=False
        )
        self.running.enter_context(contextlib.closing(run.start()))
        self.gone_url = run.openai_url
        self.target("gone", run.url)

    def training(self) -> None:
        """The lines of the loop's training, with what a KL term and a device whose peak is known would add to them."""
        server = TrainingServer("aligned-2", "127.0.0.1", 0)
        self.running.callback(server.close)
        for line in (self.out / "jobs" / "aligned-2" / "progress.jsonl").read_text().splitlines():
            server.progress({**json.loads(line), "mfu": 0.4, "kl": 0.01})
        server.probed({"step": 12, "rates": {"refusal_benign": 0.25}, "breaches": {}})
        self.target("training", server.url)

    def people(self) -> None:
        """Users ask, react and change their minds, again and again until the test is over."""
        over = threading.Event()

        def live() -> None:
            doors = Doors(self.router_url, self.collector_url, {APP: TOKEN})
            for turn, start in enumerate(range(0, 3000, 30)):
                if over.is_set():
                    return
                requests = [one for one in asked[start : start + 30]]
                seen = ask_all(doors, requests, self.pseudonyms.of, lambda *_: None)
                events: list[dict[str, Any]] = []
                for one in seen:
                    said = reaction(self.world, one.request, one.answer, SEED)
                    if said is not None:
                        made = event(
                            said, one.request, one.answer, source=APP, rubric=digest_of("r"), copy=turn, author=None
                        )
                        events += [made, made, {**made, "data": {**made["data"], "score": 0.123}}]
                post_events(doors, APP, events, lambda *_: None)
                post_consent(doors, APP, "give", [f"newcomer-{turn}"], NOTICE)
                post_consent(doors, APP, "withdraw", [f"newcomer-{turn}"], NOTICE)
                with contextlib.suppress(PlumblineError):  # turned away
                    post_events(
                        Doors("", self.collector_url, {APP: "a token of nobody's"}), APP, events, lambda *_: None
                    )
                with contextlib.suppress(PlumblineError):
                    ask_all(Doors(self.gone_url, "", {}), requests[:2], self.pseudonyms.of, lambda *_: None)

        asked = user_requests(self.world, SEED + 77, 3000)
        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        self.running.callback(thread.join, 60)
        self.running.callback(over.set)


def waited(found: Any, log: Path) -> Any:
    for _ in range(600):
        if (seen := found()) is not None:
            return seen
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def prometheus(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program("prometheus")
    with contextlib.ExitStack() as running:
        watched = Watched(ran.out, tmp_path_factory.mktemp("watched"), running)
        watched.operator()
        watched.collector()
        watched.training()
        watched.unreachable()
        watched.shadow(*watched.predictors())
        watched.people()
        server = Prometheus(watched.folder / "prometheus", watched.targets, RULES)
        running.callback(server.stop)
        server.until(lambda: len(server.query("up == 1")) == len(watched.targets), "every target is up")
        with contextlib.suppress(AssertionError):  # the first test says which
            server.until(lambda: not missing(server), "every query finds data", seconds=60)
        yield server


def queries() -> list[tuple[str, str]]:
    """Every panel's queries, with what Grafana fills in: all of each variable, and half a minute as rate interval."""
    found = []
    for board in BOARDS:
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                expr = re.sub(r"\$(?!__)\w+", ".*", target["expr"]).replace("$__rate_interval", "30s")
                found.append((f"{board['title']}: {panel['title']}", expr))
    return found


def rules() -> list[tuple[str, str]]:
    return [(rule.get("alert") or rule["record"], rule["expr"]) for group in GROUPS for rule in group["rules"]]


def missing(server: Prometheus) -> list[str]:
    """Queries without any number. An alert's expression is empty while all is well, so its selectors are asked."""
    asked = [*queries(), *((f"{name}: {one}", one) for name, expr in rules() for one in SELECTOR.findall(expr))]
    return [where for where, expr in asked if not any(math.isfinite(value) for _, value in server.query(expr))]


def test_every_panel_and_every_rule_finds_data(prometheus: Prometheus) -> None:
    assert len(queries()) > 80
    assert missing(prometheus) == []


def test_every_variable_has_values(prometheus: Prometheus) -> None:
    for board in BOARDS:
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
                assert prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": metric}), variable["name"]


def test_every_rule_is_evaluated_and_what_is_recorded_is_there(prometheus: Prometheus) -> None:
    found = [rule for group in prometheus.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert sorted(rule["name"] for rule in found) == sorted(name for name, _ in rules())
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    for name, _ in rules():
        if ":" in name:
            assert any(math.isfinite(value) for _, value in prometheus.query(name)), name


def test_the_alerts_say_what_the_loop_left(prometheus: Prometheus) -> None:
    """Somebody whose words the released policy learned from withdrew, and a reference is gone; the gate passed."""
    prometheus.until(
        lambda: {"PlumblineFlaggedPolicyServes", "PlumblineRouterErrors"} <= set(states(prometheus)), "both"
    )
    found = states(prometheus)
    assert not {"PlumblineGateRegressed", "PlumblineGateError", "PlumblineOverRefusal", "PlumblineNotScraped"} & set(
        found
    )
    assert not {"PlumblineConsentLedgerBroken", "PlumblineWithdrawnInHead", "PlumblineErasureLate"} & set(found)


def states(server: Prometheus) -> dict[str, str]:
    return {alert["labels"]["alertname"]: alert["state"] for alert in server.get("/api/v1/alerts")["alerts"]}


def test_no_metric_floods_the_scrape(prometheus: Prometheus) -> None:
    for labels, value in prometheus.query('count by (__name__) ({__name__=~"plumbline_.*"})'):
        assert value < 400, f"{labels['__name__']}: {value:.0f} series"


def test_a_target_that_is_not_there_is_no_data(prometheus: Prometheus) -> None:
    assert prometheus.query('plumbline_gate_verdict{namespace="elsewhere"}') == []
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{prometheus.url}/api/v1/query?query=plumbline_gate_verdict{{", timeout=5)
