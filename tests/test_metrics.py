"""A metric has one name, declared once, and a scrape shows it under that name."""

from pathlib import Path

import pytest

from plumbline.metrics import CATALOGUE, Metrics, exported_names

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_declared_metric_can_be_made_and_scraped() -> None:
    metrics = Metrics()
    for name, (kind, _, labels) in CATALOGUE.items():
        made = getattr(metrics, kind)(name)
        made = made.labels(*["x"] * len(labels)) if labels else made
        {"counter": lambda m: m.inc(), "gauge": lambda m: m.set(1), "histogram": lambda m: m.observe(0.1)}[kind](made)
    scraped = {line.split("{")[0].split(" ")[0] for line in metrics.render().decode().splitlines() if line[0] != "#"}
    assert exported_names() <= scraped


def test_two_services_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.counter("plumbline_tokens").labels("reference").inc()
    assert b'plumbline_tokens_total{leg="reference"} 1.0' in one.render()
    assert b"plumbline_tokens_total{" not in two.render()


def test_a_metric_asked_for_as_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="is a counter, not a gauge"):
        Metrics().gauge("plumbline_tokens")
    with pytest.raises(KeyError):
        Metrics().counter("plumbline_unheard_of")


def test_every_declared_metric_is_exported_by_some_code() -> None:
    code = "\n".join(
        path.read_text()
        for folder in ("platform", "operators")
        for path in (REPOSITORY / folder).rglob("*.py")
        if path.name != "metrics.py"
    )
    assert not [name for name in CATALOGUE if name not in code]


def test_a_gauge_is_set_to_exactly_the_series_that_are_so() -> None:
    metrics, name = Metrics(), "plumbline_ingestion_rejected"
    metrics.replace(name, {("a", "duplicate"): 3, ("a", "no_consent"): 1}, dataset="a")
    metrics.replace(name, {("b", "duplicate"): 5}, dataset="b")
    metrics.replace(name, {("a", "no_consent"): 2}, dataset="a")
    shown = {line for line in metrics.render().decode().splitlines() if not line.startswith("#")}
    assert shown == {
        'plumbline_ingestion_rejected{dataset="a",reason="no_consent"} 2.0',
        'plumbline_ingestion_rejected{dataset="b",reason="duplicate"} 5.0',
    }
    metrics.replace(name, {})
    assert b"plumbline_ingestion_rejected{" not in metrics.render()
