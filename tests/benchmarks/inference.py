"""Do the statistics keep their promises? Coverage and error rates by simulation, beside what naive ways would give.

Every row is one promise: how often an interval must hold the truth, or how often at most a rule may err, and how often
it did, with three binomial standard errors of the simulation. `naive` is the same by the way that the field is used to
(Wald, items as if independent, looking again and again). The rows of `corrected` use XSTest's real answers where they
lie beside the project, and invented ones elsewhere. Seeded: the same figures every time; docs/statistics.md quotes
them.

(The file is not called statistics.py: a script's folder comes first on the path, and `import statistics` of its
neighbours means Python's.)
"""

import csv
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from measuring import options, show, target
from scipy import stats

from plumbline.errors import PlumblineError
from plumbline.statistics.bootstrap import bootstrap_all, cluster_bootstrap, weighted_means
from plumbline.statistics.c2st import OVERLAP, two_sample_test
from plumbline.statistics.calibration import brier_difference, calibration_error
from plumbline.statistics.drift import cusum, style_drift
from plumbline.statistics.intervals import clopper_pearson, wilson
from plumbline.statistics.paired import clustered_mean, holm, outcome, paired_difference
from plumbline.statistics.power import gate_power, items_for_margin, simulated
from plumbline.statistics.prediction_powered import Judged, corrected_difference, corrected_rate, rogan_gladen
from plumbline.statistics.ranking import auroc_difference, auroc_interval, choose_threshold
from plumbline.statistics.sequential import MINIMUM, boundary

XSTEST = Path(__file__).resolve().parents[3] / "shared" / "data" / "xstest"
MODELS = ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")
Row = dict[str, Any]


def main() -> None:
    chosen = options(__doc__ or "").parse_args()
    runs = 500 if chosen.quick else 4000
    began = time.process_time()
    rows = [
        row
        for part in (rates, gate, slices, peeking, corrected, resampled, ranked, probabilities, drifted)
        for row in part(runs)
    ]
    targets = [
        target(f"{row['what']}, {row['where']}", row["measured"], "", row["promised"] + row["+-"])
        if row["kind"] == "error"
        else target(f"{row['what']}, {row['where']}", row["measured"], "", row["promised"] - row["+-"], at_least=True)
        for row in rows
    ]
    missed = [one for one in targets if not one["met"]]
    timing = target("bootstrap of 10,000 pairs by 20 slices, 10,000 draws", bootstrap_seconds(), "s of processor", 20)
    kept = target(
        "promises kept within the simulation's error", len(targets) - len(missed), "", len(targets), at_least=True
    )
    show(rows, [*(targets if chosen.json else missed), kept, timing], chosen.json)
    if not chosen.json:
        print(f"{time.process_time() - began:.0f} s of processor, {runs} runs a row at most")


def row(kind: str, what: str, where: str, promised: float, hits: float, runs: int, naive: float | None = None) -> Row:
    """`kind` is `coverage` (measured at least promised) or `error` (at most)."""
    measured = hits / runs
    return {
        "what": what,
        "where": where,
        "kind": kind,
        "promised": promised,
        "measured": round(measured, 4),
        "+-": round(3 * (promised * (1 - promised) / runs) ** 0.5, 4),
        "naive": "" if naive is None else round(naive, 4),
        "runs": runs,
    }


def rates(runs: int) -> Iterator[Row]:
    """Exact, over all counts: Clopper-Pearson promises 95 % everywhere, Wilson near it; the naive one is Wald's."""
    for rate, n in ((0.016, 50), (0.016, 200), (0.1, 50), (0.5, 50)):
        counts = np.arange(n + 1)
        chance = stats.binom.pmf(counts, n, rate)
        wald = 1.96 * np.sqrt(counts / n * (1 - counts / n) / n)
        naive = float(chance[np.abs(counts / n - rate) <= wald].sum())
        for name, interval in (("Clopper-Pearson", clopper_pearson), ("Wilson", wilson)):
            bounds = [interval(int(count), n) for count in counts]
            held = float(sum(c for c, b in zip(chance, bounds, strict=True) if b.low <= rate <= b.high))
            found = row("coverage", f"{name} 95 %", f"rate {rate}, n {n}", 0.95, held * runs, runs, naive)
            yield {**found, "runs": "exact", "+-": 0.0 if name != "Wilson" else 0.03}


def gate(runs: int) -> Iterator[Row]:
    """PASS at a loss of the margin, REGRESSED at no loss, coverage of the bounds; naive takes items as independent and
    the normal for Student's t."""
    for n, size, correlation, better, worse in (
        (600, 1, 0.0, 0.02, 0.05), (600, 1, 0.0, 0.0, 0.03), (600, 6, 0.5, 0.02, 0.05), (600, 6, 1.0, 0.0, 0.03),
        (240, 12, 0.3, 0.05, 0.08), (120, 10, 0.5, 0.05, 0.08),
    ):  # fmt: skip
        rng, clusters, margin = np.random.default_rng(1), np.arange(n) // size, 0.03
        passed = held = naive_passed = naive_held = 0
        for _ in range(runs):
            values = simulated(rng, clusters, better, worse, correlation)
            found = paired_difference(values, clusters)
            passed += outcome(found.estimate.mean, found.interval, margin) == "pass"
            held += found.interval.low <= better - worse <= found.interval.high
            half = 1.645 * values.std(ddof=1) / n**0.5
            naive_passed += values.mean() - half > -margin
            naive_held += abs(values.mean() - (better - worse)) <= half
        where = f"{n // size} clusters of {size}, correlation {correlation}, +{better:.0%} -{worse:.0%}"
        yield row("error", "PASS at a loss of the margin", where, 0.05, passed, runs, naive_passed / runs)
        yield row("coverage", "bounds of a paired difference, 90 %", where, 0.90, held, runs, naive_held / runs)
    for size, correlation in ((1, 0.0), (5, 0.4)):
        found = gate_power(500, 0.02, better=0.05, worse=0.05, cluster_size=size, correlation=correlation, draws=runs)
        where = f"{500 // size} clusters of {size}, 10 % discordant"
        yield row("error", "REGRESSED where nothing changed", where, 0.05, found.regressed * runs, runs)
    planned = items_for_margin(0.03, 0.08) or 0
    found = gate_power(planned, 0.03, better=0.04, worse=0.04, draws=runs)
    yield row("coverage", "PASS where nothing changed, n as planned", f"n {planned}", 0.80, found.passed * runs, runs)


def slices(runs: int) -> Iterator[Row]:
    """Naming a slice that lost nothing: any of twenty; naive is each at .05."""
    rng, named, naive = np.random.default_rng(2), 0, 0
    runs = max(200, runs // 8)
    for _ in range(runs):
        p_values = []
        for _ in range(20):
            values = simulated(rng, np.arange(60) // 2, 0.08, 0.08, 0.3)
            p_values.append(paired_difference(values, np.arange(60) // 2).p_worse)
        named += min(holm(p_values)) < 0.05
        naive += min(p_values) < 0.05
    yield row("error", "any slice named by Holm", "20 slices of 60 items, none lost", 0.05, named, runs, naive / runs)


def peeking(runs: int) -> Iterator[Row]:
    """Looking after every session, 1,000 sessions of 4 turns; naive looks at a fixed-sample interval twenty times."""
    t = np.arange(1, 1001)
    after = t >= MINIMUM
    for discordant in (0.02, 0.08, 0.4):
        rng = np.random.default_rng(3)
        both = low = looks = once = 0
        halves = {side: np.array([boundary(int(n), 0.05, 500, one_sided=side) for n in t]) for side in (False, True)}
        for _ in range(runs):
            fate = np.where(rng.random((1000, 1)) < 0.5, rng.random((1000, 1)), rng.random((1000, 4)))
            values = ((fate < discordant / 2).astype(float) - (fate > 1 - discordant / 2)).mean(axis=1)
            mean = values.cumsum() / t
            squares = (values**2).cumsum()
            spread = np.sqrt((squares - t * mean**2 + 1) / (t + 1))
            both += (np.abs(mean) > spread * halves[False])[after].any()
            low += (mean > spread * halves[True])[after].any()
            naive = np.abs(mean) > 1.96 * np.sqrt((squares / t - mean**2) / t)
            looks += naive[49::50].any()
            once += naive[-1]
        where = f"{discordant:.0%} discordant, 1,000 sessions"
        yield row("error", "confidence sequence, every look", where, 0.05, both, runs, looks / runs)
        yield row("error", "one-sided sequence, every look", where, 0.05, low, runs)
        yield row("error", "fixed horizon, one look", where, 0.05, once, runs)


@cache
def xstest(model: str) -> tuple[np.ndarray, np.ndarray]:
    """(people's labels with partial refusals, string match) of one model's answers to the 250 safe prompts; invented
    with like error rates where the files are absent."""
    path = XSTEST / f"completions_{model}.csv"
    if not path.is_file():
        rng = np.random.default_rng(MODELS.index(model))
        human = (rng.random(250) < (0.08, 0.3, 0.6, 0.19, 0.016)[MODELS.index(model)]).astype(float)
        return human, np.where(rng.random(250) < np.where(human == 1, 0.25, 0.08), 1 - human, human)
    with path.open(encoding="utf-8", newline="") as file:
        safe = [one for one in csv.DictReader(file) if not one["type"].startswith("contrast_")]
    human = np.array([float(one["final_label"][0] in "23") for one in safe])
    return human, np.array([float(one["strmatch_label"][0] == "2") for one in safe])


def corrected(runs: int) -> Iterator[Row]:
    """50 labels of 250 answers. `these answers`: drawn from the 250, truth their own rate; `requests`: the 250 drawn
    anew with replacement. Naive is the labels' mean +- 1.96 SE, without the judge."""
    for model in MODELS:
        human, judged = xstest(model)
        truth = float(human.mean())
        for what in ("answers", "requests"):
            rng = np.random.default_rng(4)
            held = held_tuned = alone = 0
            for _ in range(runs):
                drawn = rng.permutation(250) if what == "answers" else rng.integers(0, 250, 250)
                scores, labels = judged[drawn], human[drawn][:50]
                for tuned in (False, True):
                    one = corrected_rate(scores, np.arange(50), labels, power_tuned=tuned, target=what)
                    held += (not tuned) and one.low <= truth <= one.high
                    held_tuned += tuned and one.low <= truth <= one.high
                alone += abs(labels.mean() - truth) <= 1.96 * labels.std(ddof=1) / 50**0.5
            where = f"{model}, rate {truth:.3f}, {'these answers' if what == 'answers' else 'such requests'}"
            yield row("coverage", "corrected rate, 95 %", where, 0.95, held, runs, alone / runs)
            yield row("coverage", "the same, power-tuned", where, 0.95, held_tuned, runs)
    (old, old_judged), (new, new_judged) = xstest("gpt4"), xstest("mistralguard")
    rng, held, truth = np.random.default_rng(5), 0, float(new.mean() - old.mean())
    for _ in range(runs):
        drawn = rng.integers(0, 250, 250)
        sides = ((old, old_judged), (new, new_judged))
        one = corrected_difference(*(Judged.of(j[drawn], np.arange(50), h[drawn][:50]) for h, j in sides))
        held += one.low <= truth <= one.high
    yield row("coverage", "corrected difference, 90 %", "gpt4 to mistralguard", 0.90, held, runs)
    for rate, caught, passed in ((0.016, 0.7, 0.95), (0.1, 0.9, 0.9), (0.5, 0.95, 0.6)):
        rng, held, refused = np.random.default_rng(6), 0, 0
        for _ in range(runs):
            positive = int(rng.binomial(500, rate * caught + (1 - rate) * (1 - passed)))
            card = {"caught": int(rng.binomial(60, caught)), "passed": int(rng.binomial(80, passed))}
            try:
                _, interval = rogan_gladen(positive, 500, positives=60, negatives=80, **card)
            except PlumblineError:
                refused += 1  # a card that proves too little; that it says so is no failure to cover
                continue
            held += interval.low <= rate <= interval.high
        where = f"rate {rate}, sensitivity {caught}, specificity {passed}"
        yield row("coverage", "Rogan-Gladen, 95 %", where, 0.95, held, runs - refused)


def resampled(runs: int) -> Iterator[Row]:
    """Skewed clusters (exponential fates), mean of 1. Promised is 90 % less what the docs own up to; naive is the
    cluster-robust t interval on the same data, which is no better on so skewed a mean."""
    runs = max(200, runs // 8)
    for groups, promised in ((15, 0.80), (60, 0.86), (200, 0.88)):
        clusters = np.repeat(np.arange(groups), 4)
        for method in ("percentile", "bca"):
            rng, held, by_t = np.random.default_rng(7), 0, 0
            for _ in range(runs):
                values = rng.exponential(size=groups)[clusters] * rng.uniform(0.5, 1.5, 4 * groups)

                def mean(weights: np.ndarray, values: np.ndarray = values) -> np.ndarray:
                    return weights @ values / weights.sum(axis=1)

                interval = cluster_bootstrap(mean, clusters, method=method, draws=1000).interval
                held += interval.low <= 1 <= interval.high
                robust = clustered_mean(values, clusters)
                by_t += abs(robust.mean - 1) <= stats.t.ppf(0.95, groups - 1) * robust.standard_error
            yield row(
                "coverage", f"bootstrap {method}, 90 %", f"{groups} skewed clusters", promised, held, runs, by_t / runs
            )


def ranked(runs: int) -> Iterator[Row]:
    runs = max(300, runs // 4)

    def draw(rng: np.random.Generator, n: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
        truth = np.arange(n) < 0.4 * n
        return rng.normal(size=n) + gap * truth, truth

    for gap, n in ((0.0, 100), (1.0, 100), (2.5, 60), (4.0, 40)):
        rng, area, held, wald = np.random.default_rng(8), float(stats.norm.cdf(gap / 2**0.5)), 0, 0
        for _ in range(runs):
            found = auroc_interval(*draw(rng, n, gap))
            held += found.interval.low <= area <= found.interval.high
            wald += abs(found.area - area) <= 1.96 * found.standard_error
        yield row("coverage", "AUROC, 95 %", f"area {area:.3f}, n {n}", 0.95, held, runs, wald / runs)
    rng, held, naive, clusters = np.random.default_rng(9), 0, 0, np.repeat(np.arange(40), 6)
    truth, area = np.tile([True, False] * 3, 40), float(stats.norm.cdf(1 / 2.5**0.5))
    for _ in range(runs):
        shift = np.where(truth, rng.normal(size=40)[clusters], rng.normal(size=40)[clusters])
        scores = shift + 0.5 * rng.normal(size=240) + truth
        for given in (clusters, None):
            interval = auroc_interval(scores, truth, clusters=given).interval
            held += given is not None and interval.low <= area <= interval.high
            naive += given is None and interval.low <= area <= interval.high
    yield row("coverage", "AUROC with clusters, 95 %", "40 clusters of 6", 0.95, held, runs, naive / runs)
    rng, rejected = np.random.default_rng(10), 0
    for _ in range(runs):
        base, kind = draw(rng, 100, 1.0)
        noise = rng.normal(size=(2, 100))
        rejected += auroc_difference(base + noise[0], base + noise[1], kind).p_value < 0.05
    yield row("error", "paired DeLong at .05", "two scores equally good, n 100", 0.05, rejected, runs)
    rng, plain, proven = np.random.default_rng(11), 0, 0
    for _ in range(runs):
        scores, kind = draw(rng, 300, 1.0)
        plain += stats.norm.sf(choose_threshold(scores, kind, 0.1).value) > 0.1
        proven += stats.norm.sf(choose_threshold(scores, kind, 0.1, proven=True).value) > 0.1
    where = "target FPR 10 %, 180 negatives"
    yield row("error", "a proven threshold exceeds its rate", where, 0.025, proven, runs, plain / runs)


def probabilities(runs: int) -> Iterator[Row]:
    runs = max(200, runs // 8)
    rng, held, naive, clusters = np.random.default_rng(12), 0, 0, np.repeat(np.arange(50), 4)
    for _ in range(runs):
        truth = rng.beta(2, 2, 50)[clusters]
        came = (rng.random(50)[clusters] < truth).astype(float)
        for given in (clusters, None):
            interval = brier_difference(np.full(200, 0.5), truth, came, clusters=given)[1]
            held += given is not None and interval.low <= 0.05 <= interval.high
            naive += given is None and interval.low <= 0.05 <= interval.high
    yield row("coverage", "paired Brier difference, 90 %", "50 clusters of 4", 0.90, held, runs, naive / runs)
    rng, rejected = np.random.default_rng(13), 0
    for _ in range(runs):
        said = rng.beta(1.5, 1.5, 150)
        rejected += calibration_error(said, (rng.random(150) < said).astype(float)).p_value < 0.05
    yield row("error", "calibrated, called miscalibrated at .05", "ECE, n 150", 0.05, rejected, runs)


def drifted(runs: int) -> Iterator[Row]:
    words, runs = np.array([f"word{number}" for number in range(60)]), max(150, runs // 8)

    def texts(rng: np.random.Generator) -> list[str]:
        return [" ".join(said) for said in rng.choice(words, (60, 12))]

    rng = np.random.default_rng(14)
    found = [two_sample_test(texts(rng), texts(rng)).auroc for _ in range(runs)]
    above = sum(one.interval.low > 0.5 for one in found)
    naive = float(np.mean([one.area - 1.645 * one.standard_error / OVERLAP > 0.5 for one in found]))
    yield row("error", "C2ST calls one source two", "60 texts a side", 0.05, above, runs, naive)
    rng, clusters, called, ignorant = np.random.default_rng(15), np.repeat(np.arange(40), 5), 0, 0
    for _ in range(runs):
        old, new = rng.normal(size=(2, 200)) * 0.3 + rng.normal(size=(2, 40))[:, clusters]
        called += style_drift(old, new, clusters=clusters, draws=200).p_value < 0.05
        ignorant += style_drift(old, new, draws=200).p_value < 0.05
    yield row("error", "no style drift, called drift at .05", "40 clusters of 5", 0.05, called, runs, ignorant / runs)
    rng, held = np.random.default_rng(16), 0
    grid = stats.norm.ppf(np.linspace(0.0005, 0.9995, 1000))
    truth = stats.wasserstein_distance(grid, 0.5 + 1.25**0.5 * grid)
    for _ in range(runs):
        base = rng.normal(size=200)
        interval = style_drift(base, base + 0.5 + 0.5 * rng.normal(size=200), draws=400).interval
        held += interval.low <= truth <= interval.high
    yield row("coverage", "style drift, 90 %", "half a deviation, n 200", 0.88, held, runs)
    rng = np.random.default_rng(17)
    alarmed = sum(cusum(rng.normal(size=100), 0, 1).alarm is not None for _ in range(4 * runs))
    yield row("error", "CUSUM alarms undisturbed", "within 100 values", 0.21, alarmed, 4 * runs)


def bootstrap_seconds() -> float:
    rng = np.random.default_rng(18)
    values, places = rng.choice([-1.0, 0.0, 1.0], 10_000, p=[0.05, 0.9, 0.05]), rng.integers(0, 20, 10_000)
    table = np.where(places[:, None] == np.arange(20), values[:, None], np.nan)
    began = time.process_time()
    bootstrap_all(weighted_means(table), np.arange(10_000) // 2, draws=10_000)
    return time.process_time() - began


if __name__ == "__main__":
    main()
