"""The five Grafana dashboards, written once and in the order in which a person asks: `python charts/dashboards.py`.

Each board is a list of rows, and each row a question with the panels that answer it. Places on the grid, ids, data
source and the namespace filter are the same everywhere, so they are made here; what is worth reading is the rest. The
JSON in `plumbline/files/` is what Helm ships and Grafana reads; a test checks that it is what this file makes.

`$namespace` stands in every query as a filter: `N` below. A Prometheus that sets no such label matches too.
"""

# ruff: noqa: E501
# Descriptions are sentences, and a panel reads best as title, sentence, query.

import json
import sys
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent / "plumbline" / "files"
Json = dict[str, Any]
N = 'namespace=~"$namespace"'
E = f'{N},experiment=~"$experiment"'
D = f'{N},dataset=~"$dataset"'
R = f'{N},run=~"$run"'
A = f'{N},area=~"$area"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "$__rate_interval"

GATE = {
    "0": {"text": "PASS", "color": "green"},
    "1": {"text": "REGRESSED", "color": "red"},
    "2": {"text": "ERROR", "color": "purple"},
    "3": {"text": "INCONCLUSIVE", "color": "yellow"},
}
ALARM = {"0": {"text": "quiet", "color": "green"}, "1": {"text": "ALARM", "color": "red"}}
SWITCH = {"0": {"text": "on", "color": "green"}, "1": {"text": "TRIPPED", "color": "red"}}
VERIFIES = {"0": {"text": "BROKEN", "color": "red"}, "1": {"text": "verifies", "color": "green"}}
WAITS = {"0": {"text": "nothing waits", "color": "green"}, "1": {"text": "waits for people", "color": "yellow"}}
ANY_IS_BAD = ((None, "green"), (1e-6, "red"))
BELOW_ZERO_IS_BAD = ((None, "red"), (0, "green"))


def panel(
    kind: str,
    title: str,
    description: str,
    *targets: tuple[str, str],
    w: int = 8,
    h: int = 7,
    unit: str = "short",
    low: float | None = None,
    high: float | None = None,
    words: Json | None = None,
    steps: tuple[tuple[float | None, str], ...] = (),
) -> Json:
    """One panel. `targets` are (query, legend); `words` names values; `steps` are thresholds, drawn as lines."""
    defaults: Json = {"unit": unit}
    if low is not None:
        defaults["min"] = low
    if high is not None:
        defaults["max"] = high
    if words:
        defaults["mappings"] = [{"type": "value", "options": words}]
    if steps:
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"color": c, "value": v} for v, c in steps]}
    elif kind in ("stat", "bargauge"):
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"color": "blue", "value": None}]}
    options: Json = {}
    if kind == "timeseries":
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        if steps:
            defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    elif kind == "stat":
        options = {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    elif kind == "bargauge":
        options = {"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"x": 0, "y": 0, "w": w, "h": h},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(65 + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            | ({"instant": True} if kind != "timeseries" else {})
            for i, (expr, legend) in enumerate(targets)
        ],
    }


def lines(title: str, description: str, *targets: tuple[str, str], **more: Any) -> Json:
    return panel("timeseries", title, description, *targets, **more)


def stat(title: str, description: str, *targets: tuple[str, str], **more: Any) -> Json:
    return panel("stat", title, description, *targets, **{"w": 6, "h": 5, **more})


def bars(title: str, description: str, *targets: tuple[str, str], **more: Any) -> Json:
    return panel("bargauge", title, description, *targets, **more)


def p(quantile: float, metric: str, by: str, matchers: str) -> str:
    """A quantile of a histogram over the panel's own rate interval."""
    return f"histogram_quantile({quantile}, sum by (le, {by}) (rate({metric}_bucket{{{matchers}}}[{RATE}])))"


# fmt: off
# --- refusal --------------------------------------------------------------------------------------------------------

REFUSAL = [
    ("Does it refuse what it should answer, or answer what it should refuse? (held-out prompts)", [
        lines("Refusal of benign prompts",
              "Over-refusal, measured apart from harm. A rise of aligned above reference: harmless requests are declined. Lower is better.",
              (f'max by (policy) (plumbline_refusal_rate{{{N},prompt_class="benign"}})', "{{policy}}"), unit="percentunit", low=0, high=1),
        lines("Refusal of harmful prompts",
              "Harmlessness: a fall means that harm is answered. Higher is better; never read it without the panel beside it.",
              (f'max by (policy) (plumbline_refusal_rate{{{N},prompt_class="harmful"}})', "{{policy}}"), unit="percentunit", low=0, high=1),
        stat("Over-refusal at the gate", "The gate's word, by metric; REGRESSED means worse than the reference by more than the margin.",
             (f'max by (metric) (plumbline_gate_state{{{N},area="over_refusal"}})', "{{metric}}"), words=GATE, w=4, h=7),
        stat("Pressure: refusal shortcut", "ALARM: harm fell only because everything is refused.",
             (f'max(plumbline_pressure_alarm{{{N},pressure="refusal_shortcut"}})', "refusal shortcut"), words=ALARM, w=4, h=7),
    ]),
    ("And with real users? (shadow)", [
        lines("Refusal on paired live requests, by leg",
              "Both policies on the same requests, so a gap is a difference between policies and not between users. Over 15 minutes.",
              (f"plumbline:shadow_refusals:ratio_rate15m{{{E}}}", "{{experiment}}: {{leg}}"), unit="percentunit", low=0, high=1),
        lines("More refusals than the reference, by slice",
              "Aligned minus reference. A slice that rises above zero is where the aligned policy declines more. Over 15 minutes.",
              (f'sum by (slice) (rate(plumbline_shadow_refusals_total{{{E},leg="aligned"}}[15m]))'
               f' / sum by (slice) (rate(plumbline_shadow_answers_total{{{E},leg="aligned"}}[15m]))'
               f' - sum by (slice) (rate(plumbline_shadow_refusals_total{{{E},leg="reference"}}[15m]))'
               f' / sum by (slice) (rate(plumbline_shadow_answers_total{{{E},leg="reference"}}[15m]))', "{{slice}}"),
              unit="percentunit", steps=((None, "green"), (0, "red"))),
        lines("Benign refusal: bounds of the difference",
              "Aligned minus reference, up is better, valid at every look. An upper bound below zero is proof of more refusals. One pair of lines per router.",
              (f'plumbline_cs_lower{{{E},metric="benign_refusal",slice="all"}}', "{{experiment}} low {{pod}}"),
              (f'plumbline_cs_upper{{{E},metric="benign_refusal",slice="all"}}', "{{experiment}} high {{pod}}"),
              unit="percentunit", low=-1, high=1, steps=BELOW_ZERO_IS_BAD),
    ]),
    ("What do guardrails stop?", [
        lines("Guardrail decisions per second",
              "A rise of `refuse` before the policy (input) means other requests; after it (output), other answers. Compare with the card's measured error rates.",
              (f"sum by (leg, stage, action) (rate(plumbline_guardrail_checks_total{{{N}}}[{RATE}]))", "{{leg}} {{stage}}: {{action}}"),
              unit="ops", low=0, w=24),
    ]),
]

# --- regression -----------------------------------------------------------------------------------------------------

REGRESSION = [
    ("Does it pass?", [
        stat("Gate", "All areas must pass. INCONCLUSIVE is no pass, and ERROR means that something is broken.",
             (f"max(plumbline_gate_verdict{{{N}}})", "verdict"), words=GATE),
        stat("Gate by metric", "Which area decided.",
             (f'max by (area, metric) (plumbline_gate_state{{{A},area!="shadow"}})', "{{area}}: {{metric}}"), words=GATE, w=14),
        stat("Age of the decision", "Since the newest decision was recorded. An old PASS says little about today's traffic.",
             (f"time() - max(plumbline_gate_decided_timestamp_seconds{{{N}}})", "age"), unit="s", w=4,
             steps=((None, "green"), (30 * 86400, "yellow"))),
    ]),
    ("Where is it worse?", [
        bars("Distance to the margin, by metric",
             "Low bound plus margin. Below zero: a regression, or too few items to rule one out.",
             (f'sort(max by (area, metric) (plumbline_paired_difference{{{A},area!="shadow",bound="low"}})'
              f' + on (area, metric) max by (area, metric) (plumbline_gate_margin{{{A},area!="shadow"}}))', "{{area}}: {{metric}}"),
             unit="percentunit", low=-1, high=1, steps=BELOW_ZERO_IS_BAD, h=12),
        bars("Worst slices (low bound)",
             "The slices with the lowest low bounds, gated or not. A slice far below its area's is where to read cases; one slice proves little without Holm's correction.",
             (f'sort(bottomk(15, max by (area, metric, slice) (plumbline_slice_difference{{{A},bound="low"}})))', "{{slice}} ({{area}}: {{metric}})"),
             unit="percentunit", low=-1, high=1, steps=BELOW_ZERO_IS_BAD, h=12),
        lines("Paired difference, by metric",
              "Aligned minus reference on the same items, up is better. Two-sided 90 % bounds: low above minus the margin is a pass. A step down is a new decision.",
              (f'max by (area, metric, bound) (plumbline_paired_difference{{{A}}})', "{{area}} {{metric}} {{bound}}"), unit="percentunit",
              h=12, steps=BELOW_ZERO_IS_BAD),
        lines("Rate, by policy and metric", "Held-out rates in each metric's own direction. Compare policies by the paired difference, not by eye.",
              (f"max by (policy, area, metric) (plumbline_area_rate{{{A}}})", "{{policy}} {{area}} {{metric}}"), unit="percentunit", low=0, high=1, w=24),
    ]),
    ("Can the numbers be trusted?", [
        stat("Failure pressures", "The five ways in which a good number can lie. ALARM: read the pressure's explanation in the report before the rates above.",
             (f"max by (pressure) (plumbline_pressure_alarm{{{N}}})", "{{pressure}}"), words=ALARM, w=24),
    ]),
]

# --- shadow ---------------------------------------------------------------------------------------------------------

SHADOW = [
    ("May it go on?", [
        stat("Kill switch", "TRIPPED: harm was proven, and the aligned policy is asked no more until somebody takes it back.",
             (f"max by (experiment) (plumbline_shadow_tripped{{{E}}})", "{{experiment}}"), words=SWITCH, w=4),
        stat("Proven worse", "By a rule that holds at every look: ALARM means that the aligned policy is worse at all, margin or not.",
             (f"max by (experiment, metric) (plumbline_shadow_alarm{{{E}}})", "{{experiment}}: {{metric}}"), words=ALARM, w=6),
        stat("State against the margin", "PASS or REGRESSED by the sequence's bounds. The verdict that a release rests on is `plumb shadow verdict`'s.",
             (f'max by (metric) (plumbline_gate_state{{{N},area="shadow"}})', "{{metric}}"), words=GATE, w=6),
        bars("Sessions of those planned", "A verdict needs all of them. One bar per router: each knows its own pairs.",
             (f'plumbline_shadow_sessions{{{E},slice="all"}} / on (namespace, pod, instance, experiment, metric) plumbline_shadow_planned_sessions{{{E}}}',
              "{{experiment}}: {{metric}} {{pod}}"), unit="percentunit", low=0, high=1, h=5),
    ]),
    ("Is it worse?", [
        lines("Difference and its bounds",
              "Aligned minus reference over sessions, up is better; 95 % each way however often one looks. High below zero: worse. One set of lines per router.",
              (f'plumbline_cs_lower{{{E},slice="all"}}', "{{metric}} low {{pod}}"),
              (f'plumbline_shadow_difference{{{E},slice="all"}}', "{{metric}} mean {{pod}}"),
              (f'plumbline_cs_upper{{{E},slice="all"}}', "{{metric}} high {{pod}}"),
              unit="percentunit", low=-1, high=1, w=12, h=9, steps=BELOW_ZERO_IS_BAD),
        lines("Low bound, by slice",
              "The same by slice. A slice that falls while the whole stands still is hidden by the whole.",
              (f'min by (metric, slice) (plumbline_cs_lower{{{E},slice!="all"}})', "{{slice}}: {{metric}}"),
              unit="percentunit", low=-1, high=1, w=12, h=9, steps=BELOW_ZERO_IS_BAD),
    ]),
    ("Are pairs being lost?", [
        lines("Recorded requests: paired, waiting, shed",
              "spooled = paired + waiting + shed, always. A rise of `waiting` means that the worker does not keep up.",
              (f"sum(increase(plumbline_shadow_spooled_total{{{E}}}[{RATE}]))", "spooled"),
              (f"sum(increase(plumbline_shadow_pairs_total{{{E}}}[{RATE}]))", "paired"),
              (f"sum(plumbline_shadow_pending{{{E}}})", "waiting (now)"),
              (f"sum by (reason) (increase(plumbline_shadow_shed_total{{{E}}}[{RATE}]))", "shed: {{reason}}"), low=0),
        lines("Lost pairs, share by slice", "Lost over all that could have become a pair. Loss on one slice alone biases the comparison.",
              (f"max by (slice) (plumbline_shadow_lost_share{{{E}}})", "{{slice}}"),
              (f"plumbline:shadow_lost:ratio_rate15m{{{E}}}", "last 15 minutes, {{experiment}}"), unit="percentunit", low=0, steps=((None, "green"), (0.05, "red"))),
        lines("If every lost pair were the worst, or the best",
              "The bounds with all lost pairs counted as losses (low) and as gains (high). Far outside the bounds above: the loss decides, not the policy.",
              (f"plumbline_shadow_worst_lower{{{E}}}", "{{metric}} low {{pod}}"),
              (f"plumbline_shadow_worst_upper{{{E}}}", "{{metric}} high {{pod}}"), unit="percentunit", low=-1, high=1),
    ]),
    ("What do users feel?", [
        lines("Requests per second, by status", "Through the router. A rise of 5xx: users get errors.",
              (f"sum by (status) (rate(plumbline_router_requests_total{{{E}}}[{RATE}]))", "{{status}}"), unit="reqps", low=0, w=6),
        lines("Failed requests", "Share of 5xx over five minutes.",
              (f"plumbline:router_errors:ratio_rate5m{{{E}}}", "{{experiment}}"), unit="percentunit", low=0, steps=((None, "green"), (0.01, "red")), w=6),
        lines("What the router adds", "To each request, in seconds. A rise means that the shadow costs users time, which it must not.",
              (p(0.5, "plumbline_router_overhead_seconds", "experiment", E), "{{experiment}} median"),
              (f"plumbline:router_overhead_seconds:p99_rate5m{{{E}}}", "{{experiment}} p99"), unit="s", low=0, steps=((None, "green"), (0.05, "red")), w=6),
        lines("Time to the last byte, by leg", "On the same live requests. Aligned above reference: the candidate would be slower for users.",
              (f"max by (leg, quantile) (plumbline_shadow_latency_seconds{{{E}}})", "{{leg}} p{{quantile}}"), unit="s", low=0, w=6),
        lines("Time to the first piece, by leg", "Of streamed answers only.",
              (f"max by (leg, quantile) (plumbline_shadow_first_token_seconds{{{E}}})", "{{leg}} p{{quantile}}"), unit="s", low=0),
        lines("Tokens per answer, by leg", "A gap explains a gap in time; a rise of aligned alone means that it became wordier.",
              (f"avg by (leg) (plumbline_shadow_tokens{{{E}}})", "{{leg}}"), low=0),
        lines("Pairs with the very same text", "Near one on A/A. Lower there: the two legs are not asked alike.",
              (f"avg by (experiment) (plumbline_shadow_same_text{{{E}}})", "{{experiment}}"), unit="percentunit", low=0, high=1),
    ]),
    ("How are the predictors?", [
        lines("Answers per second, by leg and ending", "`length`: cut off by the token limit; `error`, `client_abort`: not answered.",
              (f"sum by (leg, finish) (rate(plumbline_requests_total{{{N}}}[{RATE}]))", "{{leg}} {{finish}}"), unit="reqps", low=0, w=6),
        lines("Seconds per answer, p95", "A rise with a steady length of answers: too many requests for the slots there are.",
              (f"plumbline:request_seconds:p95_rate5m{{{N}}}", "{{leg}}"),
              (p(0.95, "plumbline_first_token_seconds", "leg", N), "{{leg}}, first token"), unit="s", low=0, w=6),
        lines("Tokens per second", "Generated, and read from prompts.",
              (f"sum by (leg) (rate(plumbline_tokens_total{{{N}}}[{RATE}]))", "{{leg}} generated"),
              (f"sum by (leg) (rate(plumbline_prompt_tokens_total{{{N}}}[{RATE}]))", "{{leg}} read"), low=0, w=6),
        lines("Slots and waiting requests", "Waiting that never falls to zero: add replicas.",
              (f"sum by (leg) (plumbline_slots_busy{{{N}}})", "{{leg}} busy"),
              (f"sum by (leg) (plumbline_requests_waiting{{{N}}})", "{{leg}} waiting"), low=0, w=6),
    ]),
]

# --- feedback -------------------------------------------------------------------------------------------------------

FEEDBACK = [
    ("Does feedback come in?", [
        lines("Events per second, by outcome", "`accepted` is on disk; the rest was refused, with the reason as its name. A rise of one reason is one broken source.",
              (f"sum by (source, outcome) (rate(plumbline_feedback_events_total{{{N}}}[{RATE}]))", "{{source}}: {{outcome}}"), unit="cps", low=0),
        lines("Turned away at the door", "Share of events that the collector did not take, over 15 minutes, by source.",
              (f"plumbline:feedback_turned_away:ratio_rate15m{{{N}}}", "{{source}}"), unit="percentunit", low=0, high=1, steps=((None, "green"), (0.5, "red"))),
        lines("Time to make events durable, p99", "A rise is a slow disk or a busy database.",
              (p(0.99, "plumbline_feedback_commit_seconds", "namespace", N), "commit"), unit="s", low=0, w=4),
        lines("Kept apart, by reason", "Quarantined events: the same key with other words. A rise is a source that reuses ids.",
              (f"max by (reason) (plumbline_feedback_quarantined{{{N}}})", "{{reason}}"), low=0, w=4),
    ]),
    ("How far does it get?", [
        bars("From the inbox to examples", "Stored so far; waiting for an ingestion; accepted and refused by the last one.",
             (f"max(plumbline_inbox_events{{{N}}})", "stored in the inbox"),
             (f"max by (dataset) (plumbline_feedback_waiting{{{D}}})", "{{dataset}}: waiting"),
             (f"max by (dataset) (plumbline_ingestion_accepted{{{D}}})", "{{dataset}}: accepted"),
             (f"sum by (dataset) (max by (dataset, reason) (plumbline_ingestion_rejected{{{D}}}))", "{{dataset}}: refused"), low=0),
        bars("Refused by the last ingestion, by reason", "Accepted plus refused is what was sealed. `no_consent` that grows: the application does not ask.",
             (f"sort_desc(max by (dataset, reason) (plumbline_ingestion_rejected{{{D}}}))", "{{dataset}}: {{reason}}"), low=0),
        stat("Candidates", "A version that waits for approval teaches nobody anything yet.",
             (f"max by (dataset) (plumbline_approval_waiting{{{D}}})", "{{dataset}}"), words=WAITS, w=8, h=7),
        lines("Head version", "A step is a publication, or the removal of somebody who left.",
              (f"max by (dataset) (plumbline_dataset_version{{{D}}})", "{{dataset}}"), low=0, w=12),
        lines("Examples in the head version", "A fall is a removal.",
              (f"max by (dataset, split) (plumbline_dataset_examples{{{D}}})", "{{dataset}} {{split}}"), low=0, w=12),
    ]),
    ("Does consent hold?", [
        stat("Consent ledger", "BROKEN: its hash chain does not verify, and nothing is published until it does.",
             (f"min(plumbline_consent_ledger_valid{{{N}}})", "chain"), words=VERIFIES, w=4),
        stat("Entries", "In the consent ledger. It only grows; a fall means another ledger.",
             (f"max(plumbline_consent_ledger_sequence{{{N}}})", "entries"), w=4),
        stat("Withdrew and still in a head", "People. Back to 0 with the next removal-only version, which needs no approval.",
             (f"max by (dataset) (plumbline_dataset_withdrawn{{{D}}})", "{{dataset}}"), steps=ANY_IS_BAD, w=4),
        bars("People, by their last word on training", "Withdrawn that grows faster than given: ask what users were told.",
             (f"max by (action) (plumbline_consent_people{{{N}}})", "{{action}}"), low=0, w=4, h=5),
        lines("Consent entries per second", "Made over HTTP, by what they say.",
              (f"sum by (action) (rate(plumbline_consent_changes_total{{{N}}}[{RATE}]))", "{{action}}"), unit="cps", low=0, w=4, h=5),
        lines("Time to acknowledge, p99", "Of consent requests. A withdrawal must be quick to make.",
              (p(0.99, "plumbline_consent_seconds", "action", N), "{{action}}"), unit="s", low=0, w=4, h=5),
    ]),
    ("Is whoever left gone?", [
        stat("Open erasures", "Asked for and not finished.", (f"max(plumbline_erasures_open{{{N}}})", "open"), steps=((None, "green"), (1, "yellow"))),
        stat("Oldest open erasure", "Red beyond 24 hours, the deadline unless a request names another.",
             (f"max(plumbline_erasure_oldest_seconds{{{N}}})", "age"), unit="s", steps=((None, "green"), (3600, "yellow"), (86400, "red"))),
        stat("Flagged policies", "Policies that learned from somebody who was erased since, by what was decided. Nothing is unlearned: see the remediation.",
             (f"max by (remediation) (plumbline_policies_flagged{{{N}}})", "{{remediation}}")),
        stat("Releases that serve one", "ALARM: users are answered by a flagged policy.",
             (f"max by (release) (plumbline_release_flagged{{{N}}})", "{{release}}"), words=ALARM),
    ]),
    ("Are these numbers fresh?", [
        lines("Since the ledger was last read", "Of the least recent operator. A line that climbs: it cannot read the ledger, and what is above stands still.",
              (f"time() - min(plumbline_ledger_read_timestamp_seconds{{{N}}})", "age"), unit="s", low=0, w=24, h=5, steps=((None, "green"), (600, "red"))),
    ]),
]

# --- training -------------------------------------------------------------------------------------------------------

TRAINING = [
    ("How far is it?", [
        stat("Progress", "Share of the optimiser steps that are done. Falls back when a run resumes from a checkpoint.",
             (f"plumbline_train_step{{{R}}} / plumbline_train_steps{{{R}}}", "{{run}}"), unit="percentunit", low=0, high=1),
        stat("Time left", "Until the last step, at the present speed.", (f"plumbline_train_eta_seconds{{{R}}}", "{{run}}"), unit="s", low=0),
        stat("Probes beyond their margin", "How much worse than the base policy; any but 0 stops the run at the checkpoint before.",
             (f"plumbline_train_probe_breach{{{R}}}", "{{probe}}"), unit="percentunit", steps=ANY_IS_BAD, w=12),
    ]),
    ("Does it learn, and does it forget?", [
        lines("Loss, by slice",
              "Nats per supervised token over the reporting window; the whole batch weighs slices as the objective does. A slice that rises while the whole falls is the one to look at.",
              (f'plumbline_train_loss{{{R},slice!="all"}}', "{{slice}}"),
              (f'plumbline_train_loss{{{R},slice="all"}}', "whole batch ({{run}})"), w=16, h=9),
        lines("Behaviour probes", "Rates on a few held-out items at each probed checkpoint, always the same items. Margins are against the base policy.",
              (f"plumbline_train_probe{{{R}}}", "{{probe}}"), unit="percentunit", low=0, high=1, h=9),
        lines("KL to the reference", "Nats per token on the slices that the objective names; empty without a KL term. A rise: it drifts away.",
              (f"plumbline_train_kl{{{R}}}", "{{run}}"), low=0),
        lines("Gradient norm", "Before clipping. A spike that does not come back is a bad batch or a learning rate too high.",
              (f"plumbline_train_grad_norm{{{R}}}", "{{run}}"), low=0),
        lines("Learning rate", "Of the last step.", (f"plumbline_train_learning_rate{{{R}}}", "{{run}}"), unit="sci", low=0),
    ]),
    ("Is it fast?", [
        lines("Tokens per second", "Real tokens are computed, supervised tokens are learned from; padding is neither. A fall: slow nodes, or fewer of them.",
              (f"plumbline_train_tokens_per_second{{{R}}}", "{{kind}}"), low=0),
        lines("Tokens so far", "Supervised and real. Falls back with the run when it resumes.", (f"plumbline_train_tokens{{{R}}}", "{{kind}}"), low=0),
        stat("Model FLOPs utilisation", "Share of the device's peak; no data where the peak is not known (CPU).",
             (f"plumbline_train_mfu{{{R}}}", "{{run}}"), unit="percentunit", low=0, high=1, w=8, h=7),
    ]),
]
# fmt: on


# --- boards ---------------------------------------------------------------------------------------------------------


def variable(name: str, metric: str) -> Json:
    """A drop-down of a label's values; *All* matches series without the label too."""
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def board(name: str, description: str, rows: list[tuple[str, list[Json]]], metric: str, *more: Json) -> Json:
    """A dashboard: rows one below the other, panels from left to right and wrapped at 24 columns."""
    panels: list[Json] = []
    y = 0
    for question, answers in rows:
        panels.append({"type": "row", "title": question, "collapsed": False, "panels": []})
        panels[-1]["gridPos"] = {"x": 0, "y": y, "w": 24, "h": 1}
        y, x, height = y + 1, 0, 0
        for answer in answers:
            place = answer["gridPos"]
            if x + place["w"] > 24:
                y, x, height = y + height, 0, 0
            panels.append({**answer, "gridPos": {**place, "x": x, "y": y}})
            x, height = x + place["w"], max(height, place["h"])
        y += height
    return {
        "uid": f"plumbline-{name}",
        "title": f"Plumbline: {name}",
        "description": description,
        "tags": ["plumbline"],
        "timezone": "utc",
        "editable": False,
        "refresh": "30s",
        "schemaVersion": 39,
        "version": 1,
        "time": {"from": "now-6h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["plumbline"], "title": "Plumbline", "asDropdown": True}],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                variable("namespace", metric),
                *more,
            ]
        },
        "panels": [{"id": i, **one} for i, one in enumerate(panels, 1)],
    }


def boards() -> dict[str, Json]:
    experiment = variable("experiment", "plumbline_shadow_spooled_total")
    return {
        "refusal": board(
            "refusal",
            "Who refuses what: harmful prompts should be refused, benign ones answered. The two are never added up.",
            REFUSAL, "plumbline_refusal_rate", experiment,
        ),
        "regression": board(
            "regression",
            "Is the aligned policy worse than the reference anywhere? Paired differences with bounds, margins and the verdict.",
            REGRESSION, "plumbline_gate_verdict", variable("area", "plumbline_gate_state"),
        ),
        "shadow": board(
            "shadow",
            "An experiment with real requests: users get the reference, and the aligned policy is asked the same unseen.",
            SHADOW, "plumbline_shadow_spooled_total", experiment,
        ),
        "feedback": board(
            "feedback",
            "From what users say to the next dataset version, and what becomes of those who leave. Counts only, nobody's name.",
            FEEDBACK, "plumbline_consent_ledger_sequence", variable("dataset", "plumbline_dataset_version"),
        ),
        "training": board(
            "training",
            "A run under way: how far, how fast, what each slice's loss does, and what the behaviour probes say.",
            TRAINING, "plumbline_train_step", variable("run", "plumbline_train_step"),
        ),
    }  # fmt: skip


def text(made: Json) -> str:
    return json.dumps(made, indent=1) + "\n"


def main() -> None:
    for name, made in boards().items():
        (FILES / f"{name}.json").write_text(text(made))
        print(f"{name}: {sum(one['type'] != 'row' for one in made['panels'])} panels", file=sys.stderr)


if __name__ == "__main__":
    main()
