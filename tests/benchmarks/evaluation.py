"""Evaluation speed: ours against lm-evaluation-harness, and the gate on many pairs.

    python tests/benchmarks/evaluation.py                     everything, about ten minutes on one core
    python tests/benchmarks/evaluation.py --parts equality    log-likelihoods and greedy answers equal the harness's

What is equal on both sides: the policy (one object in memory, a Llama of 5 million random weights), its tokenizer and
chat template, the items, threads (one). A row counts only when the results are the same: log-likelihoods within 1e-4
nats, answers letter for letter, the printed rate; otherwise it is VOID. The harness is given its default batch size
(1), 8 and 32; ratios are taken from the fastest of these. `fastest` is by CPU seconds, which swing less on a machine
with other work; sides take turns, and medians are over the repeats. Loading is left out on both sides; templates,
tokenising and scoring are in.

Read with care. Random weights say nothing sensible, but cost what trained ones cost. Choices of several words share
their prompt here, and the harness reads it once per choice; choices of one token (letters) it reads once as well, so
that row shows what remains. Where every answer runs to the limit, no slot is ever freed early: that row is the worst
case for us. The harness is in the extra `bench`; without it only the gate is measured.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evaluation_peers import Outcome, answer_items, choice_suite, harness, largest_difference, make_policy, ours, quiet
from measuring import options, show, target

EQUAL = 1e-4  # nats
BATCHES = (1, 8, 32)
PARTS = ("equality", "likelihood", "generation", "gate")
SLICES = 20


def main() -> None:
    parser = options(__doc__ or "", ("cpu", "cuda"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[1:]))
    chosen = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when torch is imported
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    quiet()
    os.environ.update(TRANSFORMERS_VERBOSITY="error")
    rows: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    parts = [part for part in chosen.parts if part == "gate" or find_spec("lm_eval")]
    if len(parts) < len(chosen.parts):
        say("lm_eval is not installed (pip install 'plumbline[bench]'): only the gate is measured", chosen)
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            found, met = MEASURES[part](Path(folder), chosen)
            rows += found
            targets += met
    show(rows, targets, chosen.json)
    if not all(one["met"] for one in targets if one["name"].startswith("equality")):
        sys.exit(1)


def say(words: str, chosen: argparse.Namespace) -> None:
    if not chosen.json:
        print(words, flush=True)


# --- against the harness ----------------------------------------------------------------------------------------------


def equality(folder: Path, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """No timing: one pass of each side over each kind of item."""
    policy = load(folder, chosen, ending=1.6)
    targets = []
    for name, suite in (("several words", choice_suite(40)), ("letters", choice_suite(40, longest_choice=0))):
        mine, theirs = ours(policy, suite, 32)(), harness(policy, suite, 32, 8, folder / name)()
        apart = largest_difference(mine.likelihoods, theirs.likelihoods)
        said = f"equality of log-likelihoods, choices of {name}, largest difference"
        targets.append(target(said, apart * 1e6, "millionths of a nat", EQUAL * 1e6))
    suite = answer_items(40)
    mine, theirs = ours(policy, suite, 64)(), harness(policy, suite, 64, 8, folder / "answers")()
    differing = sum(a != b for a, b in zip(mine.texts, theirs.texts, strict=True))
    targets.append(target("equality of greedy answers, differing of 40", differing, "", 0))
    return [], targets


def likelihood(folder: Path, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    policy, n = load(folder, chosen), 48 if chosen.quick else 192
    rows, met = race("likelihood, 4 choices of 1 to 8 words", policy, choice_suite(n), 1, folder, chosen, 2.0)
    letters, _ = race("likelihood, 4 letters", policy, choice_suite(n, longest_choice=0), 1, folder, chosen, None)
    return rows + letters, met


def generation(folder: Path, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    n, most = (64, 64) if chosen.quick else (192, 128)
    ragged = load(folder, chosen, ending=1.6)
    rows, met = race(f"answers that end, at most {most}", ragged, answer_items(n), most, folder, chosen, 2.0)
    endless = load(folder, chosen)
    worst, _ = race(
        f"answers that all run to {most // 2}", endless, answer_items(n // 2), most // 2, folder, chosen, None
    )
    return rows + worst, met


def load(folder: Path, chosen: argparse.Namespace, ending: float = 1.0) -> Any:
    from plumbline.policies.local import LocalPolicy

    place = folder / f"policy-{ending}"
    if not place.exists():
        make_policy(place, ending=ending)
    return LocalPolicy.load(place, device=chosen.device)


def race(
    name: str, policy: Any, suite: Any, most: int, folder: Path, chosen: argparse.Namespace, limit: float | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row per side, and the target where there is one."""
    sides: dict[str, Callable[[], Outcome]] = {"ours": ours(policy, suite, most)}
    for batch in BATCHES[1:] if chosen.quick else BATCHES:
        sides[f"harness, batch {batch}"] = harness(policy, suite, most, batch, folder / f"tasks-{batch}")
    clock: dict[str, list[float]] = {side: [] for side in sides}
    burnt: dict[str, list[float]] = {side: [] for side in sides}
    outcome: dict[str, Outcome] = {}
    repeats = 3 if chosen.quick else 5
    sides["ours"]()  # tries out once what the architecture allows
    for repeat in range(repeats):
        order = list(sides) if repeat % 2 == 0 else list(sides)[::-1]
        for side in order:
            began, spent = time.perf_counter(), time.process_time()
            outcome[side] = sides[side]()
            clock[side].append(time.perf_counter() - began)
            burnt[side].append(time.process_time() - spent)
        say(f"  {name}: round {repeat + 1} of {repeats}", chosen)
    mine, n, rows = outcome["ours"], len(suite.items), []
    fastest = min((side for side in sides if side != "ours"), key=lambda side: statistics.median(burnt[side]))
    void = {side: differs(mine, outcome[side]) for side in sides}
    for side in sides:
        cpu = statistics.median(burnt[side])
        rows.append(
            {
                "what": name,
                "side": side,
                "items/s": "VOID" if void[side] else round(n / statistics.median(clock[side]), 1),
                "items/CPU s": "VOID" if void[side] else round(n / cpu, 1),
                "CPU s (range)": f"{cpu:.2f} ({min(burnt[side]):.2f} to {max(burnt[side]):.2f})",
                "ours is": "" if side == "ours" else f"{cpu / statistics.median(burnt['ours']):.2f} x",
                "differs by": void[side] or ("-" if side == "ours" else distance(mine, outcome[side])),
                "rate": f"{outcome[side].rate:.3f}",
            }
        )
    if limit is None or void[fastest]:
        return rows, []
    ratio = statistics.median(a / b for a, b in zip(burnt[fastest], burnt["ours"], strict=True))
    return rows, [target(f"{name}: items per CPU second over the {fastest}", ratio, "x", limit, at_least=True)]


def differs(one: Outcome, other: Outcome) -> str:
    """Why the two did not do the same work; empty where they did."""
    if abs(one.rate - other.rate) > EQUAL:
        return f"rate {other.rate:.3f}"
    if one.texts != other.texts:
        return f"{sum(a != b for a, b in zip(one.texts, other.texts, strict=True))} answers"
    apart = largest_difference(one.likelihoods, other.likelihoods)
    return f"{apart:.1e} nats" if not apart <= EQUAL else ""


def distance(one: Outcome, other: Outcome) -> str:
    return f"{largest_difference(one.likelihoods, other.likelihoods):.1e} nats" if one.likelihoods else "no letter"


# --- the gate ---------------------------------------------------------------------------------------------------------


def gate(folder: Path, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`compare` and `decide` on answers that are there already: 20 slices, clusters of four."""
    from plumbline.cli.gate import read_rubric
    from plumbline.evaluation import compare, decide

    rubric = read_rubric(None)
    sizes = (1_000, 2_000, 4_000) if chosen.quick else (2_500, 5_000, 10_000)
    spent, rows = {}, []
    for n in (sizes[0], *sizes):  # the first warms up
        suite, reference, aligned = pairs(n)
        began, burnt = time.perf_counter(), time.process_time()
        report = compare(reference, aligned, suite, rubric=rubric)
        decide(report, rubric)
        spent[n] = time.process_time() - burnt
        row = {"what": f"compare and decide, {SLICES} slices", "pairs": n, "CPU s": round(spent[n], 2)}
        rows.append(row | {"s": round(time.perf_counter() - began, 2), "pairs/CPU s": round(n / spent[n])})
    say("\n".join(f"  {row}" for row in rows[1:]), chosen)
    most = sizes[-1]
    slope = (spent[most] / spent[sizes[0]]) / (most / sizes[0])
    return [], [
        target(f"gate: CPU seconds for {most} pairs by {SLICES} slices", spent[most], "s", 20.0),
        target(f"gate: cost a pair at {most} over that at {sizes[0]}", slope, "x", 1.25),
    ]


def pairs(n: int) -> tuple[Any, Any, Any]:
    """A suite of `n` helpfulness items by 20 slices, and the answers of two policies that differ in one of ten."""
    import random

    from plumbline.evaluation.asking import Answers, ItemAnswer
    from plumbline.records import DecoderSettings, Suite, SuiteItem, digest_of
    from plumbline.records import say as turn

    draw = random.Random(3)
    items = tuple(
        SuiteItem(
            id=f"i{i:06d}", area="helpfulness", slice=f"s{i % SLICES:02d}", cluster=f"c{i // 4}", scorer="exact",
            messages=(turn("user", f"question {i}"),), references=("yes",),
        )
        for i in range(n)
    )  # fmt: skip
    suite = Suite(name="pairs", version="1", items=items)

    def answered(name: str, wrong: float) -> Answers:
        said = tuple(
            ItemAnswer(item=item.id, text="no" if draw.random() < wrong else "yes", finish="stop") for item in items
        )
        one = digest_of(name)
        decoder = DecoderSettings().digest
        return Answers(
            policy=one, name=name, template=one, dataset=None, suite=suite.digest, decoder=decoder, answers=said
        )

    return suite, answered("reference", 0.2), answered("aligned", 0.21)


MEASURES = {"equality": equality, "likelihood": likelihood, "generation": generation, "gate": gate}

if __name__ == "__main__":
    main()
