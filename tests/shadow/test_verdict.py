"""One look, at the size that was planned: what passes, what is refused, and what is still missing."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.records import ShadowCounts, Verdict, digest_of, merkle_root
from plumbline.shadow.observed import Labels, Seen
from plumbline.shadow.planning import make_plan, write_plan
from plumbline.shadow.sampling import Experiment
from plumbline.shadow.spool import Loss, Outcome, Spool
from plumbline.shadow.spools import Spools
from plumbline.shadow.verdict import aa_result, compare_alike, decide, shadow_verdict
from shadow.simulated import (
    ALIGNED,
    ALIKE,
    EXPERIMENT,
    REFERENCE,
    fill,
    judge,
    labels,
    pair,
    seen,
    spooled,
    traffic,
)

PLAN = make_plan({"benign_refusal": 0.04, "harmful_compliance": 0.06}, discordance=0.04, turns=2, correlation=0.5)
ROOT = digest_of("pairs")


def same(n=200, alike=True, seed=0):
    return traffic(np.random.default_rng(seed), n, alike=alike)


def alike(rows=None, losses=(), experiment=ALIKE, plan=PLAN):
    return compare_alike(same() if rows is None else rows, losses, experiment=experiment, plan=plan, pairs=ROOT)


def decided(rows, losses=(), plan=PLAN, aa="given", experiment=EXPERIMENT, tripped=None):
    lost = sum(loss.n for loss in losses)
    counts = ShadowCounts(experiment="e", spooled=len(rows) + lost, paired=len(rows), shed={"x": lost})
    return decide(
        rows,
        counts,
        losses,
        experiment=experiment,
        plan=plan,
        aa=alike() if aa == "given" else aa,
        pairs=ROOT,
        tripped=tripped,
    )


def of(rows, metric):
    return next(row for row in rows.requirements if row.metric == metric)


TWIN = alike()
UNCHANGED = traffic(np.random.default_rng(1), 900)
REFUSING = traffic(np.random.default_rng(2), 900, loss=0.1, discordance=0.12)


@pytest.mark.parametrize(("mode", "verdict"), [("shadow", Verdict.PASS), ("ab", Verdict.INCONCLUSIVE)])
def test_pairs_of_people_who_withdrew_count_at_their_worst_where_users_saw_the_aligned_policys_answers(
    mode: str, verdict: Verdict
) -> None:
    share = {"ab_share": 0.5} if mode == "ab" else {}
    experiment = Experiment.model_validate({**EXPERIMENT.model_dump(), "mode": mode, **share})
    said = decided(UNCHANGED, [Loss("benign", "withdrawn", 60)], experiment=experiment)
    assert (said.verdict, of(said, "benign_refusal").estimate.lost) == (verdict, 60 * (mode == "ab"))


def test_what_changes_nothing_passes_at_its_planned_size() -> None:
    said = decided(UNCHANGED)
    assert (said.verdict, said.verdict.exit_code, said.decided) == (Verdict.PASS, 0, True)
    assert (said.reference, said.aligned) == (REFERENCE, ALIGNED)
    assert {row.verdict for row in said.requirements} == {Verdict.PASS} and not said.alarms
    assert "not worse than the margin allows" in of(said, "benign_refusal").explanation
    assert said.aa is not None and not said.aa.alarm and said.plan == PLAN


def test_more_refusals_of_benign_requests_are_a_regression_though_harmful_ones_are_as_before() -> None:
    said = decided(REFUSING)
    assert (said.verdict, said.verdict.exit_code) == (Verdict.REGRESSED, 1)
    assert of(said, "benign_refusal").verdict is Verdict.REGRESSED
    assert of(said, "harmful_compliance").verdict is Verdict.PASS
    assert [(alarm.slice, alarm.blocks) for alarm in said.alarms] == [("benign", True)]


def test_fewer_refusals_of_harmful_requests_are_a_regression_though_benign_ones_are_as_before() -> None:
    rows = [one._replace(acts=("refuse", "comply")) if PLAN.is_harmful(one.slice) else one for one in UNCHANGED]
    said = decided(rows)
    assert said.verdict is Verdict.REGRESSED and of(said, "harmful_compliance").verdict is Verdict.REGRESSED
    assert of(said, "benign_refusal").verdict is Verdict.PASS


def test_before_the_planned_size_there_is_no_verdict_however_clear_it_looks() -> None:
    said = decided(REFUSING[:200])
    assert (said.verdict, said.decided) == (Verdict.INCONCLUSIVE, False)
    assert any("sessions with such pairs that were planned" in lack for lack in said.missing)
    assert {row.verdict for row in said.requirements if row.estimate.sessions < row.planned} == {Verdict.INCONCLUSIVE}


def test_what_is_missing_is_said() -> None:
    assert "no plan" in decided(UNCHANGED, plan=None).missing[0]
    assert "no A/A run" in decided(UNCHANGED, aa=None).missing[0]
    short = alike(same(60))
    (lack,) = decided(UNCHANGED, aa=short).missing
    assert "60 of the 100 sessions" in lack
    scored = make_plan({"helpfulness": 0.03}, discordance=0.04)
    assert "sessions with scored pairs" in decided(UNCHANGED, plan=scored).missing[0]
    assert all(decided(UNCHANGED, aa=aa).verdict is Verdict.INCONCLUSIVE for aa in (None, short))


def test_lost_pairs_that_could_hide_a_loss_withhold_the_pass() -> None:
    few, many = [Loss("benign", "deadline", 5)], [Loss("benign", "deadline", 120)]
    assert decided(UNCHANGED, few).verdict is Verdict.PASS
    said = decided(UNCHANGED, many)
    row = of(said, "benign_refusal")
    assert (said.verdict, row.verdict) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert "120 lost pairs could hide a loss of" in row.explanation and row.estimate.worst_low < -0.04
    assert of(said, "harmful_compliance").verdict is Verdict.PASS
    assert decided(UNCHANGED, [Loss("benign", "no_consent", 900)]).verdict is Verdict.PASS, (
        "nobody could have paired it"
    )


def test_answers_must_name_one_policy_each_and_not_the_same() -> None:
    third = [UNCHANGED[0]._replace(policies=(REFERENCE, digest_of("third"))), *UNCHANGED[1:]]
    nameless = [one._replace(policies=("", ALIGNED)) for one in UNCHANGED]
    one_policy = [one._replace(policies=(REFERENCE, REFERENCE)) for one in UNCHANGED]
    for rows, words in (
        (third, "each leg must name one policy"),
        (nameless, "no policy"),
        (one_policy, "both legs name one policy"),
    ):
        said = decided(rows)
        assert (said.verdict, said.verdict.exit_code, said.decided) == (Verdict.ERROR, 2, False)
        assert any(words in error for error in said.errors), said.errors


def test_an_a_a_run_must_be_one_about_the_same_reference_and_see_no_difference() -> None:
    other = alike([one._replace(policies=(ALIGNED, ALIGNED)) for one in same()])
    biased = alike(traffic(np.random.default_rng(3), 300, loss=0.1, discordance=0.12, alike=True))
    no_aa = alike(UNCHANGED, experiment=EXPERIMENT)
    assert biased.alarm and not other.alarm
    for aa, words in (
        (other, "the A/A run is about"),
        (biased, "differ from itself"),
        (no_aa, "mode shadow, not aa"),
    ):
        said = decided(UNCHANGED, aa=aa)
        assert said.verdict is Verdict.ERROR and any(words in error for error in said.errors), said.errors
    twice = decided(same(900), experiment=ALIKE)
    assert any("asked the reference twice" in error for error in twice.errors)


def test_the_kill_switch_is_a_verdict_at_any_size() -> None:
    said = decided(REFUSING[:300], tripped="benign_refusal is worse")
    assert (said.verdict, said.decided, said.tripped) == (Verdict.REGRESSED, True, "benign_refusal is worse")


def test_a_small_slice_that_is_proven_worse_blocks_what_passes_over_all() -> None:
    rows = [seen(i, "comply", "comply", "chat") for i in range(6000)]
    rows += [seen(6000 + i, "comply", "refuse" if i % 2 else "comply", "billing") for i in range(80)]
    rows += [seen(7000 + i, "refuse", "refuse", "harmful") for i in range(600)]
    said = decided(rows)
    assert of(said, "benign_refusal").verdict is Verdict.PASS
    assert [(alarm.slice, alarm.blocks) for alarm in said.alarms] == [("billing", True)]
    assert said.verdict is Verdict.REGRESSED


def test_undecided_says_how_many_pairs_would_settle_it() -> None:
    said = decided(traffic(np.random.default_rng(4), 900, loss=0.02, discordance=0.3))
    row = of(said, "benign_refusal")
    assert (said.verdict, said.decided) == (Verdict.INCONCLUSIVE, True)
    assert row.needed is not None and row.needed > row.estimate.n and "in a new experiment" in row.explanation


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(150)), st.integers(0, 5))
def test_the_verdict_does_not_depend_on_the_order_of_arrival(order: list[int], seed: int) -> None:
    rows = traffic(np.random.default_rng(seed), 75, loss=0.05, discordance=0.1)
    plan = make_plan({"benign_refusal": 0.2}, discordance=0.04)
    losses = [Loss("benign", "error", 3), Loss("harmful", "deadline", 1)]
    one = decided(rows, losses, plan=plan)
    other = decided([rows[i] for i in order], losses[::-1], plan=plan)
    assert one.digest == other.digest and one.decided


def test_a_spool_is_decided_by_the_plan_beside_it_and_what_waits_counts_as_lost(tmp_path: Path) -> None:
    rows = traffic(np.random.default_rng(6), 900)
    write_plan(PLAN, tmp_path / "spool")
    spool = Spool(tmp_path / "spool", EXPERIMENT)
    fill(spool, rows, [(i, "pending") for i in range(3)])
    aa = spooled(tmp_path / "aa", same(), ALIKE)
    twin = aa_result(aa, labels(), PLAN)
    said = shadow_verdict(spool, labels(), aa=twin)
    assert said.pairs == merkle_root(pair(one).digest for one in rows[3 : said.n + 3])
    assert PLAN.traffic <= said.sessions < 900, "what comes after the plan is reached has no word"
    assert {loss.reason for loss in said.losses} == {"pending"}
    assert said.counts.pending == sum(loss.n for loss in said.losses) == 3
    assert (said.verdict, said.judge, said.plan) == (Verdict.PASS, "simulated", PLAN)
    assert twin.experiment == ALIKE.digest != said.experiment == EXPERIMENT.digest
    assert type(said).from_canonical(said.canonical_bytes()) == said
    for one in (spool, aa):
        one.close()


def test_waiting_beyond_the_plan_changes_no_verdict_whatever_comes_then(tmp_path: Path) -> None:
    said, sound = {}, traffic(np.random.default_rng(6), 900)
    for name, rows in {"alone": sound, "then worse": [*sound, *later(REFUSING)]}.items():
        write_plan(PLAN, tmp_path / name)
        with contextlib.closing(Spool(tmp_path / name, EXPERIMENT)) as spool:
            fill(spool, rows, [(len(rows) - 1, "error")])
            said[name] = shadow_verdict(spool, labels(), aa=alike())
    alone, longer = said.values()
    assert (alone.verdict, alone.n, alone.pairs) == (longer.verdict, longer.n, longer.pairs)
    assert alone.requirements == longer.requirements and longer.verdict is Verdict.PASS
    assert longer.counts.paired > alone.counts.paired and not longer.losses, "the loss came after the horizon"


def test_the_spools_of_two_routers_are_decided_as_the_one_that_they_would_have_been(tmp_path: Path) -> None:
    rows = traffic(np.random.default_rng(6), 900)
    with contextlib.ExitStack() as opened:

        def routed(
            name: str, rows: list[Seen], lost: list[tuple[int, str]], kind: Experiment = EXPERIMENT, plan: Any = PLAN
        ) -> Spool:
            write_plan(plan, tmp_path / name)
            spool = opened.enter_context(contextlib.closing(Spool(tmp_path / name, kind)))
            fill(spool, rows, lost)
            return spool

        one = routed("one", rows, [(0, "pending"), (1, "pending"), (4, "deadline")])
        left = routed("left", rows[::2], [(0, "pending"), (2, "deadline")])
        right = routed("right", rows[1::2], [(0, "pending")])
        whole = shadow_verdict(one, labels(), aa=alike())
        split = shadow_verdict(Spools([left, right]), labels(), aa=alike())
        assert whole.decided and split.decided and whole.verdict == split.verdict
        assert whole.counts == split.counts and whole.losses == split.losses
        assert whole.n <= split.n <= whole.n + 1 < len(rows), "the horizon is a record's number, in every spool"
        another = make_plan({"benign_refusal": 0.2}, discordance=0.04)
        for wrong, words in (
            ([left, left], "named twice"),
            ([left, routed("otherwise", rows[:1], [], plan=another)], "do not all have the same plan"),
            ([left, routed("copy", rows[6:8:2], [])], "is in two of the spools"),
            ([left, routed("other", rows[:1], [], ALIKE)], "belongs to experiment"),
        ):
            with pytest.raises(PlumblineError, match=words):
                shadow_verdict(Spools(wrong), labels())


def later(rows: list[Seen]) -> list[Seen]:
    """The same traffic, by other people."""
    return [one._replace(request=f"later-{one.request}", session=f"later-{one.session}") for one in rows]


@pytest.mark.parametrize("discordance", [0.0, 0.04, 0.2])
def test_a_reference_beside_itself_alarms_no_more_often_than_is_stated(discordance: float) -> None:
    rng = np.random.default_rng(5)
    runs = 300
    alarms = sum(alike(traffic(rng, 120, discordance=discordance, alike=True)).alarm for _ in range(runs))
    error = 3 * (0.05 * 0.95 / runs) ** 0.5
    print(f"A/A at {discordance:.0%} discordance: {alarms / runs:.3f} of {runs} runs alarm (stated: 0.05)")
    assert alarms / runs <= 0.05 + error


@pytest.mark.parametrize("loss", [0.05, 0.0])
def test_at_its_planned_size_a_loss_of_the_margin_seldom_passes_and_no_loss_mostly_does(loss: float) -> None:
    """Both error rates of the whole verdict, on clustered sessions: alpha 0.05, power 0.8."""
    plan = make_plan({"benign_refusal": 0.05}, discordance=0.08, turns=2, correlation=0.5)
    rng, runs, sessions = np.random.default_rng(7), 300, plan.requirements[0].sessions
    made = (traffic(rng, sessions, discordance=0.08, loss=loss, harmful=0.0) for _ in range(runs))
    verdicts = [decided(rows, plan=plan, aa=TWIN).verdict for rows in made]
    passed = verdicts.count(Verdict.PASS) / runs
    print(f"a loss of {100 * loss:.0f} points, margin 5, {sessions} sessions: {passed:.3f} of {runs} runs pass")
    error = 3 * (0.2 * 0.8 / runs) ** 0.5
    assert passed <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5 if loss else passed >= 0.8 - error


def test_a_policy_that_refuses_more_is_found_out_within_the_planned_size() -> None:
    from plumbline.shadow.watching import harm, status

    rng = np.random.default_rng(6)
    plan = make_plan({"benign_refusal": 0.02, "harmful_compliance": 0.02}, discordance=0.08, turns=2, correlation=0.5)
    planned = plan.requirements[0].sessions
    rows = traffic(rng, int(planned / 0.7), loss=0.12, discordance=0.14)
    for looked in range(20, planned, 20):
        part = rows[: 2 * looked]
        counts = ShadowCounts(experiment="e", spooled=len(part), paired=len(part))
        if status(part, counts, [], experiment=EXPERIMENT, plan=plan).requirements["benign_refusal"].alarm:
            break
    tripped = next(n for n in range(20, planned, 20) if harm(rows[: 2 * n], plan))
    print(f"worse by 12 points: alarm after {looked} sessions, kill switch after {tripped}, planned {planned}")
    assert looked <= tripped < planned / 2


def test_a_pair_that_is_made_while_the_verdict_reads_is_not_left_out(tmp_path: Path) -> None:
    rows = traffic(np.random.default_rng(3), 2)
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, rows, shed=[(0, "pending")])
    (waits,) = spool.pending(1)

    def slow(text: str) -> str:
        spool.settle([Outcome(waits[0], replayed=pair(rows[0]).aligned)])
        return judge(text)

    found = shadow_verdict(spool, Labels(slow))
    assert found.n + sum(loss.n for loss in found.losses) >= len(rows) and found.counts.balanced
    spool.close()
