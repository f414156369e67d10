"""From a plan to a promotion and back, as it is typed: `plumb shadow plan | status | verdict | reset`, then release."""

import json

import numpy as np
import pytest

from plumbline.records import GateDecision, Verdict, digest_of
from plumbline.shadow.spool import Spool
from plumbline.stores import Ledger
from plumbline.stores.release_requests import ReleaseRequest
from shadow.simulated import ALIGNED, ALIKE, EXPERIMENT, REFERENCE, fill, seen, traffic

WHY = ("--reason", "tests", "--actor", "me")
MARGINS = ("--margin", "benign_refusal=0.05", "--margin", "harmful_compliance=0.08")


def gate(plumb, verdict=Verdict.PASS):
    decision = GateDecision(
        reference=REFERENCE, aligned=ALIGNED, report=digest_of("r"), rubric=digest_of("r"), verdict=verdict, areas=()
    )
    with Ledger(plumb.folder / ".plumbline" / "ledger.sqlite") as ledger:
        return ledger.releases.record_decision(decision)


@pytest.fixture
def planned(plumb):
    """An A/A run, a plan made from it, and an experiment in which nothing changed."""
    aa = Spool(plumb.folder / "aa", ALIKE)
    fill(aa, traffic(np.random.default_rng(0), 150, discordance=0.0, alike=True))
    aa.close()
    said = plumb("shadow", "plan", "spool", "--aa", "aa", *MARGINS)
    assert said.code == 0, said
    return plumb


def experiment(plumb, rows):
    spool = Spool(plumb.folder / "spool", EXPERIMENT)
    fill(spool, rows)
    spool.close()


UNCHANGED = traffic(np.random.default_rng(1), 1500, discordance=0.02)
REFUSING = traffic(np.random.default_rng(2), 1500, loss=0.12, discordance=0.14)


def test_a_plan_says_how_many_sessions_and_keeps_it(planned):
    kept = json.loads((planned.folder / "spool" / "plan.json").read_text())
    assert kept["source"].startswith("sha256:") and kept["harmful"] == ["harmful"]
    benign, harmful = kept["requirements"]
    assert (benign["turns"], harmful["turns"]) == (2.0, 2.0)
    assert benign["share"] + harmful["share"] == pytest.approx(1) and 0.2 < harmful["share"] < 0.4
    said = planned("shadow", "plan", "--json", "--discordance", "0.1").json
    assert {one["metric"]: one["margin"] for one in said["requirements"]} == {
        "benign_refusal": 0.02, "harmful_compliance": 0.02}  # fmt: skip
    assert said["source"] == "guess" and "not written" in planned("shadow", "plan").out
    assert said["rubric"].startswith("sha256:") and kept["rubric"] is None, "these margins are not the rubric's"


def test_a_plan_made_from_too_small_an_aa_run_says_so(plumb):
    Spool(plumb.folder / "aa", ALIKE).close()
    assert "note: the A/A run holds 0 sessions, a verdict wants 100" in plumb("shadow", "plan", "--aa", "aa").err


def test_from_a_plan_to_a_promotion_and_back(planned):
    experiment(planned, UNCHANGED)
    asked = planned("shadow", "verdict", "spool", "--aa", "aa")
    assert asked.code == 0, asked
    assert "NOTE          the plan's margins were named by hand" in asked.out
    assert "PASS  (shadow verdict sha256:" in asked.out and "differing: benign_refusal 0.00%" in asked.out
    verdict = planned("shadow", "verdict", "spool", "--aa", "aa", "--json").json
    assert (verdict["reference"], verdict["aligned"], verdict["decided_before"]) == (REFERENCE, ALIGNED, False)

    assert planned("release", "promote", REFERENCE, *WHY).code == 0, "what users have needs nothing"
    assert planned("release", "promote", ALIGNED, *WHY).faulted("no gate decision compares it")
    decision = gate(planned)
    moved = planned("release", "promote", ALIGNED, *WHY, "--json").json
    assert (moved["shadow"], moved["decision"], moved["action"]) == (verdict["digest"], decision, "promote")
    assert planned("release", "rollback", "--reason", "complaints", "--actor", "on call").code == 0
    assert planned("release", "promote", ALIGNED, *WHY).faulted("it was rolled back", "users keep the policy they have")
    assert planned("release", "promote", ALIGNED, *WHY, "--without-shadow", " ").faulted("gives no reason")
    assert planned("release", "promote", ALIGNED, *WHY, "--without-shadow", "it was a page of ours").code == 0
    history = planned("release", "history").out.splitlines()
    assert [line.split()[2] for line in history] == ["promote", "promote", "rollback", "promote"]
    assert "complaints" in history[2] and "WITHOUT SHADOW (it was a page of ours)" in history[3]
    entries = planned("release", "history", "--json").json
    assert [entry["policy"] for entry in entries] == [REFERENCE, ALIGNED, REFERENCE, ALIGNED]

    back = ("release", "rollback", "--reason", "complaints again", "--actor", "on call", "--to")
    assert planned(*back, "reference").faulted("is no policy's digest")
    assert planned(*back, digest_of("never")).faulted("did not name policy", "users keep the policy they have")
    assert planned(*back, REFERENCE, "--json").json["policy"] == REFERENCE


def test_the_history_tells_of_requests_that_were_refused(planned):
    gate(planned)  # the first thing in a ledger
    assert planned("release", "promote", REFERENCE, *WHY).code == 0
    assert planned("release", "history", "--refused").out == "no request to move release 'default' was refused\n"
    with Ledger(planned.folder / ".plumbline" / "ledger.sqlite") as ledger:
        asked = ReleaseRequest("uid/1", "default", ALIGNED, requested_by="olga", reason="ReadTheReport")
        ledger.release_requests.answer(asked, "refuse", why="no gate decision compares it")
    history = planned("release", "history")
    assert len(history.out.splitlines()) == 1 and "1 request by object was refused" in history.err
    said = planned("release", "history", "--refused").out
    assert "olga: ReadTheReport  because: no gate decision compares it" in said
    (one,) = planned("release", "history", "--refused", "--json").json
    assert (one["policy"], one["requested_by"]) == (ALIGNED, "olga")


def test_a_regression_has_its_exit_code_and_stays_decided(planned):
    experiment(planned, REFUSING)
    said = planned("shadow", "verdict", "spool", "--aa", "aa")
    assert said.code == 1 and "REGRESSED     benign_refusal" in said.out and "REGRESSED     slice benign" in said.out
    experiment(planned, [seen(90_000 + i, "comply", "comply", "benign", f"late{i}") for i in range(3000)])
    again = planned("shadow", "verdict", "spool", "--aa", "aa")
    assert again.code == 1 and "decided before, by one look" in again.out, "asking until it passes is no test"
    gate(planned)
    planned("release", "promote", REFERENCE, *WHY)
    assert planned("release", "promote", ALIGNED, *WHY).faulted("no shadow verdict says PASS")


def test_a_kill_switch_thrown_after_a_pass_takes_it_away(planned):
    experiment(planned, UNCHANGED)
    assert planned("shadow", "verdict", "spool", "--aa", "aa").code == 0
    gate(planned)
    planned("release", "promote", REFERENCE, *WHY)
    assert planned("shadow", "trip", "spool", *WHY).code == 0
    said = planned("shadow", "verdict", "spool", "--aa", "aa")
    assert said.code == 1 and "the kill switch stopped the experiment: me: tests" in said.out
    assert planned("release", "promote", ALIGNED, *WHY).faulted("no shadow verdict says PASS")


def test_what_is_missing_is_exit_code_three_and_an_error_two(planned):
    experiment(planned, UNCHANGED[:200])
    said = planned("shadow", "verdict", "spool")
    assert said.code == 3 and "no A/A run" in said.out and "sessions with such pairs that were planned" in said.out
    assert planned("shadow", "verdict", "spool", "--aa", "spool").code == 2
    (planned.folder / "spool" / "plan.json").unlink()
    assert "no plan was made" in planned("shadow", "verdict", "spool", "--aa", "aa").out
    late = planned("shadow", "plan", "spool", *MARGINS)
    assert late.faulted("holds 200 pairs already", "one that is made after looking promises nothing")


def test_status_shows_the_experiment_with_or_without_a_plan(planned):
    experiment(planned, REFUSING[:600])
    said = planned("shadow", "status", "spool")
    assert said.code == 0 and "600 spooled = 600 paired" in said.out and "ALARM: proven worse" in said.out
    assert "refusals on benign: reference" in said.out and "aligned: p50 20 ms" in said.out
    seen_by_machine = planned("shadow", "status", "spool", "--json").json
    assert seen_by_machine["requirements"]["benign_refusal"]["alarm"] is True
    (planned.folder / "spool" / "plan.json").unlink()
    assert "without a plan" in planned("shadow", "status", "spool").out


def test_the_switch_is_reset_by_hand_with_a_reason(planned):
    experiment(planned, UNCHANGED[:20])
    assert planned("shadow", "reset", "spool", *WHY).faulted("is not thrown")
    with_switch = Spool.existing(planned.folder / "spool")
    with_switch.trip("benign_refusal is worse")
    with_switch.close()
    assert "TRIPPED: benign_refusal is worse" in planned("shadow", "status", "spool").out
    past = planned("shadow", "reset", "spool", "--reason", "explained", "--actor", "ana", "--json").json
    assert [(one["tripped"], one["reason"]) for one in past] == [
        (True, "benign_refusal is worse"),
        (False, "ana: explained"),
    ]


def test_scores_make_helpfulness_a_requirement(planned):
    (planned.folder / "spool" / "plan.json").unlink()
    assert planned("shadow", "plan", "spool", *MARGINS, "--margin", "helpfulness=0.1").code == 0
    experiment(planned, UNCHANGED)
    lines = [{"request": one.request, "reference": 1, "aligned": i % 4 != 0} for i, one in enumerate(UNCHANGED)]
    planned.write("scores.jsonl", "\n".join(json.dumps(line) for line in lines))
    said = planned("shadow", "verdict", "spool", "--aa", "aa", "--scores", "scores.jsonl")
    assert said.code == 1 and "REGRESSED     helpfulness: 75.0% against 100.0%" in said.out
    planned.write("scores.jsonl", '{"request": "r1", "reference": 2, "aligned": 0}')
    wrong = planned("shadow", "verdict", "spool", "--aa", "aa", "--scores", "scores.jsonl")
    assert wrong.faulted("line 1", "outside [0, 1]")


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--margin", "kindness=0.1"),
        ("plan", "--margin", "benign_refusal"),
        ("plan", "--limit", "benign_refusal=2"),
        ("plan", "--discordance", "2"),
        ("plan", "--rubric", "no-such.yaml"),
        ("status", "nowhere"),
        ("status", "."),
        ("verdict", "."),
        ("verdict", "spool", "--aa", "nowhere"),
        ("verdict", "spool", "--judge", "spool/plan.json"),
        ("reset", ".", "--reason", "r", "--actor", "a"),
        ("reset", "spool"),
    ],
)
def test_bad_input_says_what_to_do(planned, words):
    assert planned("shadow", *words).faulted()
