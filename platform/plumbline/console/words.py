"""Plain language: numbers as people read them, names as people say them, and the headline computed from records.

The headline is the one sentence many will read, so it is assembled here from verdicts and estimates and from
nothing else. A story that went another way gets another headline.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from plumbline.console.story import AS_PLANNED, LoopStory
from plumbline.records import AreaVerdict, EvaluationReport, GateDecision, PairedEstimate, Verdict

NBSP = "\u00a0"
MINUS = "\u2212"

AREA_MEANING: dict[str, str] = {
    "helpfulness": "Does what was asked, correctly.",
    "honesty": "Says so when it does not know, and answers when it does.",
    "harmlessness": "Does not help with harm.",
    "style_control": "Follows instructions about form, and only when asked.",
    "sycophancy": "Does not bend its answer to the asker's opinion.",
    "imitation_ceiling": "Can do what its examples showed, and we know where the examples end.",
    "hallucination": "Does not assert what nothing supports.",
    "over_refusal": "Does not refuse harmless requests that merely look harmful.",
    "catastrophic_forgetting": "Still does what the reference could do before.",
    "distribution_mismatch": "Holds up on phrasings and languages that training did not show.",
}
PRESSURE_MEANING: dict[str, str] = {
    "proxy_reward": "The score we optimise drifts away from what people want.",
    "refusal_shortcut": "Refusing everything looks safe.",
    "template_overfit": "It behaves only under the phrasing it was trained on.",
    "policy_ambiguity": "Reviewers read the rubric differently.",
    "feedback_drift": "Policy, rubric and data move apart.",
}
REASON_MEANING: dict[str, str] = {
    "no_consent": "the subject never consented",
    "consent_withdrawn": "the subject withdrew consent",
    "consent_expired": "the consent had run out",
    "user_cap": "more than one person may add to a version",
    "source_cap": "more than one source may add to a version",
    "source_rate": "one source sent too much at once",
    "subject_rate": "one person sent too much at once",
    "many_users_one_text": "many people sent one text: a campaign, or a bot",
    "contradictory_labels": "answers to one prompt contradict each other",
    "control_tokens": "it carries tokens that steer a model",
    "duplicate": "the same person sent this, or nearly this, before",
    "duplicate_of_other": "someone else sent the same",
    "already_in_version": "the parent version has it already",
    "in_held_out": "its text stands on the held-out side",
    "held_out_preference": "a comparison: kept to judge by, never to train on",
    "selected_for_review": "a signal for people, not something to learn from",
    "near_duplicate": "nearly the text of another example",
    "near_other_split": "its prompt stands on the other side of the split",
    "joins_both_splits": "its person or conversation stands on both sides of the split",
    "burst": "it came in a burst that no peer comes near",
    "user_share": "one person's share of the run was full",
    "injection": "it orders a machine to drop its instructions",
    "invisible_text": "it hides characters that nobody sees",
    "logged_traffic": "a request or response of a payload logger: context, not feedback",
    "consent_refused": "the subject was asked and refused",
    "minor_without_guardian": "a minor's consent without a guardian's",
    "unknown_notice": "consent under a notice that nobody registered",
    "unknown_purpose": "consent for a purpose that is not known",
    "malformed": "it is no feedback event that we understand",
    "erased": "its payload was erased before it was read",
}
ACRONYMS = {"sft": "SFT", "nll": "NLL", "kl": "KL", "auroc": "AUROC", "c2st": "C2ST", "pii": "PII", "ab": "A/B"}


def humanise(name: str) -> str:
    """`over_refusal` becomes "over-refusal"; other snake, kebab and camel-free names get spaces."""
    if name in ("over_refusal", "over_abstention"):
        return name.replace("_", "-")
    words = name.replace("_", " ").replace(":", " ").replace("/", " / ").split()
    return " ".join(ACRONYMS.get(word.lower(), word) for word in words)


def title(name: str) -> str:
    text = humanise(name)
    return text[:1].upper() + text[1:]


def number(value: float, decimals: int) -> str:
    """Fixed decimals with a true minus sign, and never a negative zero."""
    text = f"{abs(value):.{decimals}f}"
    return (MINUS if value < 0 and float(text) != 0 else "") + text


def is_share(value: float) -> bool:
    return -1.0 <= value <= 1.0


def percent(value: float, decimals: int = 0) -> str:
    """A share as a percentage ("97 %"). What would round to 0 or 100 without being it gains a decimal."""
    if not is_share(value):
        return f"{value:.3g}".replace("-", MINUS)
    if decimals == 0 and value not in (0.0, 1.0) and round(value * 100) in (0, 100):
        decimals = 1
    return f"{number(value * 100, decimals)}{NBSP}%"


def points(value: float, decimals: int = 1) -> str:
    """A difference of shares in percentage points, always signed ("+98.0", "\u221297.0")."""
    text = number(value * 100, decimals)
    return text if text.startswith(MINUS) or float(text) == 0 else "+" + text


def count(value: int, noun: str, plural: str | None = None) -> str:
    return f"{value:,}{NBSP}{noun if value == 1 else plural or noun + 's'}".replace(",", "\u202f")


def in_words(value: int) -> str:
    """Small counts as words, as in running text."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[value] if 0 <= value < len(words) else str(value)


def listing(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def visible(text: str) -> str:
    """Foreign text with its invisible characters made visible: controls as pictures, bidi marks by code point.

    An answer may hold anything. A terminal would obey escape codes, and a right-to-left override would let an
    answer rearrange how the words around it read.
    """
    out: list[str] = []
    for char in text:
        code = ord(char)
        if char in "\n\t":
            out.append(char)
        elif code < 0x20:
            out.append(chr(0x2400 + code))
        elif unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in ("\u200c", "\u200d"):
            out.append(f"\u27e8U+{code:04X}\u27e9")
        else:
            out.append(char)
    return "".join(out)


def sentence(text: str) -> str:
    """Foreign text as a sentence: first letter up, one full stop."""
    text = visible(text).strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?\u2026" else ".")


@dataclass(frozen=True)
class Headline:
    """`kicker` says whether the plan held; `sentences` say what happened, one policy each; `lede` adds the figures."""

    kicker: str
    sentences: tuple[str, ...]
    lede: tuple[str, ...]
    as_planned: bool

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def headline(story: LoopStory) -> Headline:
    """What happened, in words, computed from the decisions, the reports and the release pointer alone."""
    sentences = tuple(_on_decision(story, decision) for decision in story.decisions)
    if not sentences:
        judged = [policy.name for policy in story.policies if policy.role == "aligned"]
        sentences = (f"{listing(judged)} was trained but never judged." if judged else "No policy was judged.",)
    held = story.ending == AS_PLANNED
    if held and story.shows_the_plan:
        kicker = "The loop ran as planned"
    elif held:
        kicker = "The loop ended well, but the records do not show the planned story"
    else:
        kicker = "Not as planned"
        sentences = (*sentences, sentence(story.ending))
    return Headline(kicker, sentences, _lede(story), held and story.shows_the_plan)


def _on_decision(story: LoopStory, decision: GateDecision) -> str:
    name = visible(story.policy_name(decision.aligned))
    serves = story.serving == decision.aligned
    if decision.verdict is Verdict.PASS:
        tail = "and now serves" if serves else "but was not released"
        return f"{name} passed {tail}."
    despite = " It serves all the same, which no gate decision supports." if serves else ""
    if decision.verdict is Verdict.REGRESSED:
        failed = failing_areas(decision, story.report_on(decision.aligned))
        reasons = [what_went_wrong(estimate, area) for area, estimate in failed[:2]]
        if len(reasons) == 2 and reasons[1].startswith("it "):
            reasons[1] = reasons[1].removeprefix("it ")
        more = len(failed) - len(reasons)
        rest = f"; {in_words(more)} more area{'s' if more > 1 else ''} got worse" if more else ""
        return f"{name} was refused: {listing(reasons) or 'the gate names no area'}{rest}.{despite}"
    if decision.verdict is Verdict.INCONCLUSIVE:
        return f"{name} is undecided: {undecided(decision)}.{despite}"
    unread = [area.explanation for area in decision.areas if area.verdict is Verdict.ERROR]
    why = visible([*decision.errors, *unread, "the gate names no error"][0]).rstrip(".")
    return f"{name} could not be judged: {why}.{despite}"


def undecided(decision: GateDecision) -> str:
    """What an INCONCLUSIVE decision leaves open, and how many items would settle it."""
    open_ = [area for area in decision.areas if area.verdict is Verdict.INCONCLUSIVE]
    names = listing(sorted({humanise(visible(area.area)) for area in open_})) or "an area"
    needed = max((area.needed or 0 for area in open_), default=0)
    enough = f"; {count(needed, 'item')} would" if needed else ""
    return f"the suite cannot settle {names}{enough}"


def find_estimate(report: EvaluationReport | None, area: str, metric: str) -> PairedEstimate | None:
    """The estimate over the whole area (not a slice) behind a verdict, if there is a report that holds it."""
    if report is None:
        return None
    found = (e for e in report.estimates if e.area == area and e.metric == metric)
    return next(found, None)


def failing_areas(
    decision: GateDecision, report: EvaluationReport | None
) -> list[tuple[AreaVerdict, PairedEstimate | None]]:
    """Regressed metrics, worst first (furthest beyond the margin), one per area: the rest say the same twice."""
    failed = [area for area in decision.areas if area.verdict is Verdict.REGRESSED]
    failed.sort(key=lambda a: ((a.difference if a.difference is not None else 0.0) + a.margin, a.area, a.metric))
    worst: dict[str, AreaVerdict] = {}
    for area in failed:
        worst.setdefault(area.area, area)
    return [(area, find_estimate(report, area.area, area.metric)) for area in worst.values()]


def what_went_wrong(estimate: PairedEstimate | None, verdict: AreaVerdict) -> str:
    """One clause: the subject is "it". Areas with everyday words get them; others get area, metric and numbers."""
    where = humanise(verdict.worst_slice or verdict.metric)
    if estimate is None or not (is_share(estimate.aligned.rate) and is_share(estimate.reference.rate)):
        change = "" if verdict.difference is None else f" by {points(verdict.difference)} points"
        return f"{humanise(verdict.area)} ({where}) got worse{change}"
    now, before, falls = percent(estimate.aligned.rate), percent(estimate.reference.rate), estimate.direction == "up"
    clauses: dict[tuple[str, bool], str] = {
        ("over_refusal", False): f"it refuses {now} of benign look-alikes",
        ("over_refusal", True): f"it answers only {now} of benign look-alikes",
        ("harmlessness", False): f"it complies with {now} of harmful requests",
        ("harmlessness", True): f"it refuses only {now} of harmful requests",
        ("helpfulness", True): f"it gets {now} of requests right where the reference gets {before}",
        ("hallucination", False): f"it asserts something wrong in {now} of its answers",
        ("style_control", True): f"it follows instructions about form in only {now} of cases",
        ("distribution_mismatch", True): f"on other phrasings and languages it falls from {before} to {now}",
        ("sycophancy", False): f"it bends to the asker's opinion in {now} of cases",
    }
    if (verdict.area, falls) in clauses:
        return clauses[verdict.area, falls]
    if verdict.area == "catastrophic_forgetting" and falls:
        what = where if verdict.worst_slice else "what it knew"
        return f"it forgot {'' if estimate.aligned.rate < 0.5 else 'some of '}{what} ({before} \u2192 {now})"
    return f"{humanise(verdict.area)} ({where}) {'fell' if falls else 'rose'} from {before} to {now}"


def _lede(story: LoopStory) -> tuple[str, ...]:
    """Supporting sentences: what the last aligned policy gained and what it cost, where the interval excludes zero."""
    if not story.reports:
        return ()
    report, reference = story.reports[-1], story.reference
    named = reference is not None and reference.name != "reference"
    base = visible(reference.name) if reference is not None and named else "the reference"
    return gains_and_costs(
        report, story.decision_on(report.aligned), base, visible(story.policy_name(report.aligned))
    )  # fmt: skip


def gains_and_costs(
    report: EvaluationReport, decision: GateDecision | None, base: str, name: str
) -> tuple[str, ...]:  # fmt: skip
    """Up to three areas in which `name` is measurably better than `base`, and as many in which it is worse."""
    if not report.estimates:
        return ()
    lines: list[str] = []
    gains = _largest([e for e in report.estimates if e.low > 0])
    costs = _largest([e for e in report.estimates if e.high < 0])
    within = decision is not None and decision.verdict is Verdict.PASS
    if gains:
        lines.append(f"Against {base}, {name} is better at {listing([_change(e) for e in gains[:3]])}.")
    else:
        lines.append(f"Against {base}, {name} is not measurably better at anything.")
    if costs:
        held = ", within the margin," if within else ""
        lines.append(f"It is measurably worse{held} at {listing([_change(e) for e in costs[:3]])}.")
    else:
        lines.append("Nothing we measure got measurably worse.")
    return tuple(lines)


def _largest(estimates: list[PairedEstimate]) -> list[PairedEstimate]:
    best: dict[str, PairedEstimate] = {}
    for estimate in sorted(estimates, key=lambda e: (-abs(e.difference), e.area, e.metric)):
        best.setdefault(estimate.area, estimate)
    return list(best.values())


def _change(estimate: PairedEstimate) -> str:
    return f"{humanise(estimate.area)} ({percent(estimate.reference.rate)} \u2192 {percent(estimate.aligned.rate)})"
