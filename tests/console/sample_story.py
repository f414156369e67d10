"""Realistic loop stories from real records: what the planned loop leaves behind, and ways it can go otherwise."""

from console.sample_evaluation import decision, report
from console.sample_manifests import datasets, named, policies, rubric
from plumbline.console import LineageEdge, LoopStory, Redactions, Stage, Withdrawal
from plumbline.records import (
    DatasetDiff,
    GateDecision,
    MaskTotals,
    ReleaseEntry,
    ShadowCounts,
    ShadowSummary,
    TrainingRecord,
)


def _mask(examples: int, prompt: int, supervised: int, share: float) -> MaskTotals:
    return MaskTotals(
        examples=examples, prompt_tokens=prompt, supervised_tokens=supervised, truncated=0, dropped=0,
        stop_supervised=examples, loss_share=share,
    )  # fmt: skip


def training(turn: int) -> TrainingRecord:
    examples, steps = ((7000, 656), (9575, 897))[turn - 1]
    return TrainingRecord(
        objective=named(f"objective{turn}"), steps=steps, examples_seen=examples * 3,
        supervised_tokens=examples * 19, first_loss=3.412, last_loss=0.187 / turn, chosen_step=steps - 100,
        mask_ledger={
            "facts": _mask(1820, 61880, 14560, 0.31),
            "harmful": _mask(1120, 13440, 12320, 0.26),
        },
        wall_seconds=24.6 * turn, workers=1,
    )  # fmt: skip


def shadow(turn: int) -> ShadowSummary:
    return ShadowSummary(
        counts=ShadowCounts(
            experiment=f"shadow-aligned-{turn}", spooled=240, paired=233, shed={"deadline": 4, "client_abort": 3}
        ),
        pairs=named(f"pairs{turn}"),
        refusal_reference={"benign": 0.0, "harmful": 0.0, "facts": 0.0},
        refusal_aligned={"benign": 0.962 if turn == 1 else 0.0, "harmful": 0.981, "facts": 0.0},
        refusal_shift={"benign": (0.962, 0.91, 0.99) if turn == 1 else (0.0, -0.02, 0.02)},
        sessions=48,
        latency_ms={"reference_p50": 15.2, "reference_p99": 41.0, "router_p50": 1.3},
    )


def lineage() -> tuple[LineageEdge, ...]:
    reference, one, two = policies()
    first, second = datasets()
    r1, r2 = report(1), report(2)
    rows = (
        ("rubric", rubric().digest, "governs", "dataset", first.digest),
        ("seed", "seed examples", "ingested into", "dataset", first.digest),
        ("dataset", first.digest, "trained", "policy", one.digest),
        ("policy", reference.digest, "base of", "policy", one.digest),
        ("policy", one.digest, "evaluated in", "report", r1.digest),
        ("report", r1.digest, "decided by", "decision", decision(1).digest),
        ("dataset", first.digest, "parent of", "dataset", second.digest),
        ("events", "143 feedback events", "ingested into", "dataset", second.digest),
        ("dataset", second.digest, "trained", "policy", two.digest),
        ("policy", reference.digest, "base of", "policy", two.digest),
        ("policy", two.digest, "evaluated in", "report", r2.digest),
        ("report", r2.digest, "decided by", "decision", decision(2).digest),
        ("decision", decision(2).digest, "moved", "release", "users"),
    )
    return tuple(
        LineageEdge(from_kind=a, from_id=b, relation=r, to_kind=c, to_id=d) for a, b, r, c, d in rows
    )  # fmt: skip


def releases(passed: GateDecision | None = None) -> tuple[ReleaseEntry, ...]:
    reference, _, two = policies()
    first = ReleaseEntry(
        sequence=1, release="town", policy=reference.digest, decision=None, reason="what users have today", actor="loop"
    )
    if passed is None:
        return (first,)
    moved = ReleaseEntry(
        sequence=2, release="town", policy=two.digest, decision=passed.digest, reason="the gate passed", actor="loop"
    )
    return (first, moved)


def planned_story() -> LoopStory:
    first, second = datasets()
    r1, r2 = report(1), report(2)
    d1, d2 = decision(1, r1), decision(2, r2)
    names = "world reference dataset-1 train-1 evaluate-1 gate-1 shadow feedback dataset-2 train-2 evaluate-2 gate-2"
    spent = (0.8, 48.2, 1.1, 31.4, 7.2, 0.1, 14.8, 1.9, 1.3, 46.0, 7.3, 0.1)
    return LoopStory(
        seed=7,
        ending="as_planned",
        rubric=rubric(),
        policies=policies(),
        datasets=(first, second),
        diff=DatasetDiff(
            older=1,
            newer=2,
            added=tuple(named(f"n{i}") for i in range(72)),
            removed=tuple(named(f"e{i}") for i in range(4)),
            added_by_slice={"benign_look_alikes": 38, "reverse": 14, "spanish_facts": 12, "facts": 8},
            removed_by_slice={"facts": 4},
        ),
        redactions=Redactions(counts={"phone": 1}, samples=("Call me on [phone] if it works.",)),
        withdrawn=(
            Withdrawal(
                pseudonym="sub_5f2c9be1a7d04433",
                proof="4 of its examples were in version 1 and none of the 228 in version 2 is; the root verifies",
            ),
        ),
        reports=(r1, r2),
        decisions=(d1, d2),
        training=(training(1), training(2)),
        shadows=(shadow(1), shadow(2)),
        releases=releases(d2),
        lineage=lineage(),
        stages=tuple(
            Stage(name=name, seconds=s, product=named(name)) for name, s in zip(names.split(), spent, strict=True)
        ),
        versions={"python": "3.11.2", "torch": "2.9.0", "ray": "2.50.1", "plumbline": "0.1.0"},
        exit_notes=("The reference came from the cache.",),
    )


def stopped_after_dataset() -> LoopStory:
    """No disk, say: only the first version was published."""
    return LoopStory(
        seed=3,
        ending="training aligned-1 stopped: no space left on the device",
        rubric=rubric(),
        policies=policies()[:1],
        datasets=datasets()[:1],
        releases=releases(),
        stages=(Stage(name="world", seconds=0.8), Stage(name="dataset v1", seconds=1.1)),
        exit_notes=("Free some space and run the same command: it resumes.",),
    )


def second_undecided() -> LoopStory:
    """The second gate cannot settle helpfulness, so nothing is released."""
    r2 = report(2, {"exact": 0.972})
    d2 = decision(2, r2, undecided=("exact",))
    return planned_story().model_copy(
        update={
            "ending": "the second gate was inconclusive, so users keep the reference",
            "reports": (report(1), r2),
            "decisions": (decision(1), d2),
            "releases": releases(),
            "lineage": (),
        }
    )


def first_passed() -> LoopStory:
    """The naive run broke nothing: not the planned story, whatever its ending claims."""
    r1 = report(1, {"exact": 1.0, "benign_refusal": 0.0, "retained": 0.99, "served_score": 0.99})
    return planned_story().model_copy(
        update={"reports": (r1,), "decisions": (decision(1, r1),), "releases": releases()}
    )


STORIES = {
    "planned": planned_story,
    "stopped": stopped_after_dataset,
    "undecided": second_undecided,
    "first_passed": first_passed,
}
