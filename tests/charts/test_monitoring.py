"""Dashboards and alerts ask only for metrics that the code exports, and explain themselves."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from chart_tools import CHART, CHARTS, REPO, Doc

from plumbline.metrics import CATALOGUE, exported_names

RULES = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
NAMES = ("refusal", "regression", "shadow", "feedback", "training")
DASHBOARDS = {name: json.loads((CHART / "files" / f"{name}.json").read_text()) for name in NAMES}
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
NAME = re.compile(r"(?<!:)\bplumbline_[a-z_]+\b")
RECORDED_NAME = re.compile(r"\bplumbline:\w+:\w+\b")
MATCHER = re.compile(r"(plumbline_[a-z_]+|plumbline:\w+:\w+)\{([^}]*)\}")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")
TARGET = {"namespace", "pod", "instance", "job"}  # labels of whoever is scraped, which Prometheus sets
RUNBOOKS = REPO / "docs" / "runbooks"
SECTIONS = ["What it means", "What users see", "What to look at", "What to do"]


def panels(board: Doc) -> list[Doc]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for name, board in DASHBOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: ${variable['name']}", variable["query"]["query"]
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    yield from RECORDED.items()


def labels_of(metric: str) -> set[str]:
    if metric in RECORDED:
        (by,) = set(re.findall(r"by \(([^)]*)\)", RECORDED[metric]))
        return set(re.split(r",\s*", by)) - {"le"}
    for suffix in ("", *SUFFIXES):
        if metric.endswith(suffix) and metric.removesuffix(suffix) in CATALOGUE:
            return set(CATALOGUE[metric.removesuffix(suffix)][2]) | {"le"} | TARGET
    raise KeyError(metric)


def names_in(expression: str) -> set[str]:
    return set(NAME.findall(expression)) | set(RECORDED_NAME.findall(expression))


def known_labels(expression: str) -> set[str]:
    return set().union(*(labels_of(name) for name in names_in(expression)))


def test_every_expression_uses_exported_metrics_and_their_labels() -> None:
    asked = list(expressions())
    assert len(asked) > 100
    for where, expression in asked:
        assert names_in(expression), f"{where} asks for nothing of ours"
        unknown = names_in(expression) - exported_names() - set(RECORDED)
        assert not unknown, f"{where}: {unknown} is not exported"
        for metric, matchers in MATCHER.findall(expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert used <= labels_of(metric), f"{where}: {metric} has no label {used - labels_of(metric)}"
        for by in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", by)) <= known_labels(expression), f"{where}: by ({by})"


def test_every_metric_is_somewhere_to_be_seen() -> None:
    shown = set().union(*(names_in(expression) for _, expression in expressions()))
    for name in CATALOGUE:
        assert {name, *(name + suffix for suffix in SUFFIXES)} & shown, f"{name} is on no dashboard and in no rule"


def test_legends_and_texts_name_labels_that_exist() -> None:
    for board in DASHBOARDS.values():
        for panel in panels(board):
            for target in panel["targets"]:
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                assert wanted <= known_labels(target["expr"]), panel["title"]
    for rule in ALERTS:
        text = rule["annotations"]["summary"] + rule["annotations"]["description"]
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= known_labels(rule["expr"]), rule["alert"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_every_query_of_a_board_keeps_to_the_chosen_namespace() -> None:
    for name, board in DASHBOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                for metric in names_in(target["expr"]):
                    filtered = re.findall(rf"{metric}\{{([^}}]*)", target["expr"])
                    assert filtered and all('namespace=~"$namespace"' in one for one in filtered), (name, metric)


def test_refusal_keeps_benign_and_harmful_apart() -> None:
    asked = [e for where, e in expressions() if "plumbline_refusal_rate{" in e]
    assert asked and all('prompt_class="benign"' in e or 'prompt_class="harmful"' in e for e in asked)


def test_panels_explain_themselves_have_units_and_do_not_overlap() -> None:
    for board in DASHBOARDS.values():
        assert board["uid"].startswith("plumbline-") and board["panels"][0]["type"] == "row"
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
            taken |= cells
            if panel["type"] == "row":
                assert panel["title"].rstrip(")").rpartition(" (")[0].endswith("?") or panel["title"].endswith(
                    ("?", ")")
                )
                continue
            assert panel["title"] and panel["description"].rstrip(".") and panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_files_are_what_their_source_makes() -> None:
    spec = importlib.util.spec_from_file_location("dashboards", CHARTS / "dashboards.py")
    assert spec is not None and spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    for name, board in source.boards().items():
        kept = (CHART / "files" / f"{name}.json").read_text()
        assert kept == source.text(board), f"{name}.json: run python charts/dashboards.py"
    assert set(source.boards()) == set(NAMES)


# --- runbooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_has_a_page_that_says_what_to_do(rule: Doc) -> None:
    page = REPO / rule["annotations"]["runbook_url"]
    assert page == RUNBOOKS / f"{rule['alert']}.md"
    text = page.read_text("utf-8")
    assert text.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert f"Severity: {rule['labels']['severity']}" in text
    for name in re.findall(r"`(plumbline[:_][\w:]+)", text):
        assert name in exported_names() | set(RECORDED), f"{page.name}: {name}"


def test_there_is_no_page_without_an_alert_and_the_index_names_all() -> None:
    names = {rule["alert"] for rule in ALERTS}
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == names | {"README"}
    index = (RUNBOOKS / "README.md").read_text("utf-8")
    assert re.findall(r"\[(Plumbline\w+)\]\(\1\.md\)", index) == [rule["alert"] for rule in ALERTS]


# --- what the chart ships -------------------------------------------------------------------------------------------


def test_the_chart_ships_them_as_they_are(render: Callable[..., list[Doc]]) -> None:
    docs = render("cpu-everything")
    shipped: dict[str, Any] = {}
    for doc in docs:
        if doc["kind"] == "ConfigMap":
            shipped |= {key: value for key, value in doc["data"].items() if key.endswith(".json")}
    for name, board in DASHBOARDS.items():
        assert json.loads(shipped[f"plumbline-{name}.json"]) == board
    (rule,) = [doc for doc in docs if doc["kind"] == "PrometheusRule"]
    assert rule["spec"] == RULES


def test_runbooks_may_be_published_elsewhere(render: Callable[..., list[Doc]]) -> None:
    docs = render("cpu-everything", "monitoring.prometheusRule.runbookBaseUrl=https://runbooks.example/plumbline/")
    (rule,) = [doc for doc in docs if doc["kind"] == "PrometheusRule"]
    found = [
        one["annotations"]["runbook_url"]
        for group in rule["spec"]["groups"]
        for one in group["rules"]
        if "alert" in one
    ]
    assert found == [f"https://runbooks.example/plumbline/{one['alert']}.md" for one in ALERTS]


def test_every_port_that_has_metrics_is_scraped_once(render: Callable[..., list[Doc]]) -> None:
    docs = render("cpu-everything")
    services = [doc for doc in docs if doc["kind"] == "Service" and "plumbline.dev/scrape" in doc["metadata"]["labels"]]
    scraped: list[tuple[str, str]] = []
    for monitor in (doc for doc in docs if doc["kind"] == "ServiceMonitor"):
        for service in services:
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"]):
                ports = {port["name"] for port in service["spec"]["ports"]}
                asked = [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]]
                assert set(asked) <= ports, monitor["metadata"]["name"]
                scraped += [(service["metadata"]["name"], port) for port in asked]
    wanted = [(service["metadata"]["name"], port["name"]) for service in services for port in service["spec"]["ports"]]
    assert sorted(scraped) == sorted(wanted) and len(wanted) == 4, "collector, operator, and the router's two"


def test_runs_that_the_chart_did_not_render_are_scraped_as_well(render: Callable[..., list[Doc]]) -> None:
    docs = render("gpu-pools", "monitoring.serviceMonitor.enabled=true", "training.rayJob.enabled=false")
    assert not [doc for doc in docs if doc["kind"] == "RayJob"]
    (monitor,) = [doc for doc in docs if doc["kind"] == "PodMonitor" and doc["metadata"]["name"].endswith("-training")]
    part = {"name": "plumbline", "instance": "rel", "component": "training"}
    theirs = {f"app.kubernetes.io/{key}": value for key, value in part.items()} | {"ray.io/node-type": "head"}
    assert selects(monitor["spec"]["selector"], theirs)


def selects(selector: Doc, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        (labels.get(rule["key"]) in rule["values"]) == (rule["operator"] == "In")
        for rule in selector.get("matchExpressions", [])
    )
