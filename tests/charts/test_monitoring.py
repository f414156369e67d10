"""Dashboards and alerts ask only for metrics that the code exports."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from chart_tools import CHART, Doc

from plumbline.metrics import CATALOGUE, exported_names

RULES = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
NAMES = ("refusal", "regression", "training")
DASHBOARDS = {name: json.loads((CHART / "files" / f"{name}.json").read_text()) for name in NAMES}
NAME = re.compile(r"\bplumbline_[a-z_]+\b")
MATCHER = re.compile(r"(plumbline_[a-z_]+)\{([^}]*)\}")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def expressions() -> Iterator[tuple[str, str]]:
    for name, board in DASHBOARDS.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: ${variable['name']}", variable["query"]["query"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def labels_of(metric: str) -> set[str]:
    for suffix in ("", *SUFFIXES):
        if metric.endswith(suffix) and metric.removesuffix(suffix) in CATALOGUE:
            return set(CATALOGUE[metric.removesuffix(suffix)][2]) | {"le"}
    raise KeyError(metric)


def test_every_expression_uses_exported_metrics_and_their_labels() -> None:
    asked = list(expressions())
    assert len(asked) > 25
    for where, expression in asked:
        names = set(NAME.findall(expression))
        assert names, f"{where} asks for nothing of ours"
        assert names <= exported_names(), f"{where}: {names - exported_names()} is not exported"
        for metric, matchers in MATCHER.findall(expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert used <= labels_of(metric), f"{where}: {metric} has no label {used - labels_of(metric)}"


def test_parentheses_and_quotes_balance() -> None:
    for where, expression in expressions():
        for left, right in ("()", "{}", "[]"):
            assert expression.count(left) == expression.count(right), where
        assert expression.count('"') % 2 == 0, where


def test_legends_and_texts_name_labels_that_exist() -> None:
    for board in DASHBOARDS.values():
        for panel in board["panels"]:
            for target in panel["targets"]:
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                known = set().union(*(labels_of(name) for name in NAME.findall(target["expr"])))
                assert wanted <= known, f"{panel['title']}: {wanted - known}"
    for group in RULES["groups"]:
        for rule in group["rules"]:
            text = rule["annotations"]["summary"] + rule["annotations"]["description"]
            known = set().union(*(labels_of(name) for name in NAME.findall(rule["expr"])))
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= known, rule["alert"]
            assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_refusal_keeps_benign_and_harmful_apart() -> None:
    asked = [e for where, e in expressions() if "plumbline_refusal_rate" in e]
    assert asked and all('prompt_class="benign"' in e or 'prompt_class="harmful"' in e for e in asked)


def test_panels_explain_themselves_and_do_not_overlap() -> None:
    for board in DASHBOARDS.values():
        assert board["uid"].startswith("plumbline-")
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["title"] and panel["description"]
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
            taken |= cells


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
