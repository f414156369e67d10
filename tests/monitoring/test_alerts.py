"""Every alert fires when it should, says so in words, and is silent when it should not: promtool's own unit tests.

A case is what a scrape would have shown, minute by minute (promtool's notation: `0+1x60` grows by one, `_` is a scrape
that found nothing), and the labels that the alert then has. `silent` is the nearest thing that is no reason to alarm.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.prometheus import promtool

RULES = Path(__file__).resolve().parents[2] / "charts" / "plumbline" / "files" / "rules.yaml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
Series = dict[str, str]
NS = 'namespace="demo"'
HOUR, DAY = 60, 1440


@dataclass(frozen=True)
class Case:
    alert: str
    fires: Series
    silent: Series
    labels: dict[str, str]
    at: int = 60  # minutes; when both are looked at
    early: int | None = None  # minutes; when it must not fire yet


def one(metric: str, labels: str = "", value: str = "1x2000") -> Series:
    return {f"{metric}{{{', '.join(part for part in (NS, labels) if part)}}}": value}


def router(status: str, per_minute: int) -> Series:
    return one("plumbline_router_requests_total", f'experiment="e", status="{status}"', f"0+{per_minute}x2000")


def shadow(name: str, per_minute: int, more: str = "") -> Series:
    return one(f"plumbline_shadow_{name}_total", f'experiment="e"{more}', f"0+{per_minute}x2000")


def overhead(slow: int) -> Series:
    """100 requests a minute, of which `slow` take between 50 and 100 ms and the others less than 1 ms."""
    metric, labels = "plumbline_router_overhead_seconds_bucket", 'experiment="e", le="{}"'
    return {
        **one(metric, labels.format("0.001"), f"0+{100 - slow}x2000"),
        **one(metric, labels.format("0.05"), f"0+{100 - slow}x2000"),
        **one(metric, labels.format("0.1"), "0+100x2000"),
        **one(metric, labels.format("+Inf"), "0+100x2000"),
    }


def posted(outcome: str, per_minute: int) -> Series:
    return one("plumbline_feedback_events_total", f'source="app", outcome="{outcome}"', f"0+{per_minute}x2000")


def ingested(accepted: int, no_consent: int) -> Series:
    """The last ingestion, as two operators show it: the same account, counted once."""
    found: Series = {}
    for pod in "ab":
        dataset = f'dataset="support", pod="{pod}"'
        found |= one("plumbline_ingestion_accepted", dataset, f"{accepted}x2000")
        found |= one("plumbline_ingestion_rejected", f'{dataset}, reason="no_consent"', f"{no_consent}x2000")
    return found


def run(steps: str) -> Series:
    return one("plumbline_train_step", 'run="r"', steps) | one("plumbline_train_steps", 'run="r"', "200x2000")


def verdict(code: int) -> Series:
    return one("plumbline_gate_verdict", value=f"{code}x2000")


HERE = {"namespace": "demo"}
EXPERIMENT, SUPPORT = HERE | {"experiment": "e"}, HERE | {"dataset": "support"}
E = 'experiment="e"'
SWEPT = "plumbline_shadow_swept_timestamp_seconds"
STATE = "plumbline_gate_state", 'area="{}", metric="benign_refusal"'
LOSS, IN_FACTS = ("plumbline_train_loss", 'run="r", slice="facts"'), HERE | {"run": "r", "slice": "facts"}

CASES = [
    Case("PlumblineGateRegressed", verdict(1), verdict(3), HERE, early=4),
    Case("PlumblineGateError", verdict(2), verdict(1), HERE, early=4),
    Case(
        "PlumblineOverRefusal",
        one(STATE[0], STATE[1].format("over_refusal")),
        one(STATE[0], STATE[1].format("shadow")) | one(STATE[0], STATE[1].format("over_refusal"), "3x2000"),
        HERE | {"metric": "benign_refusal"},
        early=4,
    ),
    Case(
        "PlumblinePressure",
        one("plumbline_pressure_alarm", 'pressure="feedback_drift"'),
        one("plumbline_pressure_alarm", 'pressure="feedback_drift"', "0x2000"),
        HERE | {"pressure": "feedback_drift"},
        early=4,
    ),
    Case(
        "PlumblineShadowHarm",
        one("plumbline_shadow_tripped", 'experiment="e", pod="a"', "0x2000")
        | one("plumbline_shadow_tripped", 'experiment="e", pod="b"'),
        one("plumbline_shadow_tripped", 'experiment="e", pod="a"', "0x2000"),
        EXPERIMENT,
    ),
    Case(
        "PlumblineShadowWorse",
        one("plumbline_shadow_alarm", 'experiment="e", metric="benign_refusal"'),
        one("plumbline_shadow_alarm", 'experiment="e", metric="benign_refusal"', "0x2000"),
        EXPERIMENT | {"metric": "benign_refusal"},
        early=4,
    ),
    Case(
        "PlumblineShadowLosesPairs",
        shadow("spooled", 100) | shadow("shed", 3, ', reason="deadline"') | shadow("shed", 3, ', reason="error"'),
        shadow("spooled", 100) | shadow("shed", 4, ', reason="deadline"') | shadow("shed", 9, ', reason="withdrawn"'),
        EXPERIMENT,
        early=14,
    ),
    Case(
        "PlumblineShadowStandsStill",
        shadow("pairs", 0) | one("plumbline_shadow_pending", 'experiment="e"', "7x2000"),
        shadow("pairs", 1) | one("plumbline_shadow_pending", 'experiment="e"', "7x2000"),
        EXPERIMENT,
        early=9,
    ),
    Case(
        "PlumblineShadowStandsStill",
        shadow("pairs", 0) | one("plumbline_shadow_pending", 'experiment="e"', "7x2000"),
        shadow("pairs", 0)
        | one("plumbline_shadow_pending", 'experiment="e"', "7x2000")
        | one("plumbline_shadow_tripped", 'experiment="e"'),  # then that is the alert
        EXPERIMENT,
    ),
    Case(
        "PlumblineShadowNotSwept",  # one pod's has not been swept since the tenth minute, the other's always is
        one(SWEPT, 'experiment="e", pod="a"', "0+60x10 600x2000") | one(SWEPT, 'experiment="e", pod="b"', "0+60x2000"),
        one(SWEPT, 'experiment="e", pod="a"', "0+60x2000") | one(SWEPT, 'experiment="e", pod="b"', "0+60x2000"),
        EXPERIMENT,
        early=39,
    ),
    Case("PlumblineShadowNotSwept", one(SWEPT, 'experiment="e"', "0x2000"), {}, EXPERIMENT, early=29),
    Case(
        "PlumblineShadowWithheld",
        one("plumbline_shadow_withheld", E) | one("plumbline_shadow_tripped", E, "0x2000"),
        one("plumbline_shadow_withheld", E) | one("plumbline_shadow_tripped", E),
        EXPERIMENT,
        early=29,
    ),
    Case("PlumblineRouterErrors", router("2xx", 98) | router("5xx", 2), router("2xx", 100), EXPERIMENT, early=4),
    Case("PlumblineRouterSlow", overhead(slow=5), overhead(slow=0), EXPERIMENT, early=9),
    Case(
        "PlumblinePredictorBacklog",
        one("plumbline_requests_waiting", 'leg="reference"', "3x2000"),
        one("plumbline_requests_waiting", 'leg="reference"', "9 9 9 9 9 0 9 9 9 9 9 0 " * 10),
        HERE | {"leg": "reference"},
        at=40,
        early=4,
    ),
    Case(
        "PlumblineConsentLedgerBroken",
        one("plumbline_consent_ledger_valid", 'pod="a"') | one("plumbline_consent_ledger_valid", 'pod="b"', "0x2000"),
        one("plumbline_consent_ledger_valid", 'pod="a"'),
        HERE,
    ),
    Case(
        "PlumblineWithdrawnInHead",
        one("plumbline_dataset_withdrawn", 'dataset="support"'),
        one("plumbline_dataset_withdrawn", 'dataset="support"', "1x50 0x2000"),
        SUPPORT,
        at=HOUR + 5,
        early=HOUR - 5,
    ),
    Case(
        "PlumblineErasureLate",
        one("plumbline_erasure_oldest_seconds", value="86000+60x2000"),
        one("plumbline_erasure_oldest_seconds", value="80000+60x60"),
        HERE,
        early=5,
    ),
    Case(
        "PlumblineFlaggedPolicyServes",
        one("plumbline_release_flagged", 'release="default"'),
        one("plumbline_release_flagged", 'release="default"', "0x2000"),
        HERE | {"release": "default"},
        at=HOUR + 5,
        early=HOUR - 5,
    ),
    Case("PlumblineEventsRefused", ingested(10, 31), ingested(10, 29), SUPPORT, early=25),
    Case(
        "PlumblineEventsTurnedAway",
        posted("accepted", 4) | posted("unauthorised", 6),
        posted("accepted", 4) | posted("duplicate", 6),  # sent again: taken before
        HERE | {"source": "app"},
        early=14,
    ),
    Case(
        "PlumblineApprovalWaits",
        one("plumbline_approval_waiting", 'dataset="support"'),
        one("plumbline_approval_waiting", 'dataset="support"', "1x1200 0x10 1x1000"),
        SUPPORT,
        at=DAY + 10,
        early=DAY - 10,
    ),
    Case("PlumblineTrainingStalled", run("7x2000"), run("200x2000"), HERE | {"run": "r"}, early=38),
    Case("PlumblineTrainingStalled", run("0+1x20 20x2000"), run("0+1x150"), HERE | {"run": "r"}, at=75),
    Case("PlumblineTrainingLossNotFinite", one(*LOSS, "NaN NaN NaN"), one(*LOSS, "9x9"), IN_FACTS, at=2),
    Case("PlumblineTrainingLossNotFinite", one(*LOSS, "Inf Inf Inf"), one(*LOSS, "0x9"), IN_FACTS, at=2),
    Case(
        "PlumblineTrainingProbeBreached",
        one("plumbline_train_probe_breach", 'run="r", probe="refusal_benign"', "0.2x60"),
        one("plumbline_train_probe_breach", 'run="r", probe="refusal_benign"', "0x60"),
        HERE | {"run": "r", "probe": "refusal_benign"},
    ),
    Case("PlumblineNotScraped", {}, one("plumbline_ledger_read_timestamp_seconds", value="0+60x2000"), {}, early=10),
    Case(
        "PlumblineLedgerNotRead",
        one("plumbline_ledger_read_timestamp_seconds", value="0+60x9 600x2000"),
        one("plumbline_ledger_read_timestamp_seconds", value="0+60x2000"),
        HERE,
        early=15,
    ),
]  # fmt: skip


def test_no_alert_is_without_a_case() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)


def test_promtool_finds_nothing_against_the_rules() -> None:
    done = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_when_it_should_and_is_silent_when_not(tmp_path: Path) -> None:
    """One run for all cases: promtool starts its engine once."""
    file = tmp_path / "rules_test.yaml"
    tests = [made for case in CASES for made in (firing(case), silent(case))]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", [CASES[0]], ids=["a gate that passes"])
def test_a_case_that_is_wrong_is_found_out(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "rules_test.yaml"
    wrong = firing(case) | {"input_series": series(case.silent)}
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [wrong]}))
    assert promtool("test", "rules", str(file)).returncode == 1


def firing(case: Case) -> dict[str, Any]:
    checks: list[dict[str, Any]] = [{"eval_time": f"{case.at}m", "alertname": case.alert, "exp_alerts": [said(case)]}]
    if case.early is not None:
        checks.append({"eval_time": f"{case.early}m", "alertname": case.alert, "exp_alerts": []})
    return {"interval": "1m", "input_series": series(case.fires), "alert_rule_test": checks}


def silent(case: Case) -> dict[str, Any]:
    check = {"eval_time": f"{case.at}m", "alertname": case.alert, "exp_alerts": []}
    return {"interval": "1m", "input_series": series(case.silent), "alert_rule_test": [check]}


def series(found: Series) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in found.items()]


def said(case: Case) -> dict[str, Any]:
    """The alert as it must arrive: its labels, and its texts with every name filled in."""
    rule = ALERTS[case.alert]
    texts = {
        name: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.labels[found.group(1)], text)
        for name, text in rule["annotations"].items()
    }
    return {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": texts}


def test_the_configuration_in_the_docs_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    """But for the discovery itself, which Debian's Prometheus is built without: only its roles are looked at."""
    page = RULES.parents[3] / "docs" / "metrics.md"
    (config,) = re.findall(r"^```yaml\n(# prometheus.yml.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    read = yaml.safe_load(config)
    found = [job.pop("kubernetes_sd_configs") for job in read["scrape_configs"]]
    assert found == [[{"role": "endpoints"}], [{"role": "pod"}], [{"role": "pod"}]]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(read))
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
