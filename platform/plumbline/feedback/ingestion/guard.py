"""Guards: what one person, one source or one campaign may do to a dataset version.

Feedback is an attack surface: a single user can poison a policy that learns from it. The guards judge only
demonstrations (texts that could become a target); what they refuse stays in the record, counted by reason. The first
reason that holds, in this order, is the one that is counted:

    control_tokens        the text carries template or control tokens: never a target, whoever says so
    invisible_text        it hides characters that a model reads and nobody sees: never a target
    injection             it orders the machine to drop its instructions (see `injection`): never a target; a question
                          that quotes such an order and calls it an attack is kept
    many_users_one_text   more subjects than is natural sent the very same demonstration, or nearly the same (sybils):
                          all of them are refused
    contradictory_labels  subjects disagree on the answer to one prompt, or one answer was approved and rejected, and
                          no side has a clear majority: all are refused, or the minority is
    duplicate_of_other    somebody else's equal demonstration already stands for this one
    burst                 far more from one subject, or one source, than from its peers (a robust z-score over median
                          and MAD): what is beyond its peers' spread is refused; when it all came within one minute,
                          everything of that minute is
    user_cap, user_share  more demonstrations, or a larger share of this run, than one subject may have: the rest goes
    source_cap            the same for one source, by count and by share

Which of a subject's claims stand does not depend on arrival: they are taken by `rank`. Shares mean something only in a
crowd: they apply from `share_from` claims on, and bursts from `burst_from` claims of one owner and `peers` owners on.
With the defaults, then, nobody is refused for a burst before the count that `per_user` allows.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from operator import attrgetter
from statistics import median

from pydantic import Field

from plumbline.feedback.ingestion.injection import CONTROL, suspicion
from plumbline.records import Record, Selected

__all__ = ["HELD_FOR_PEOPLE", "Claim", "GuardLimits", "guard", "suspicion"]

# Guards whose refusals people may overrule, and what then selects the text for them; an answer that they approved is
# past these. The rest (hidden orders, echoes, bursts, caps) is never a target, or would let a flood reach people.
HELD_FOR_PEOPLE: dict[str, Selected] = {
    "contradictory_labels": "contradiction",
    "many_users_one_text": "demonstration",
}


class GuardLimits(Record):
    schema_id = "plumbline.dev/guard-limits/v2"

    per_user: int = 60
    per_source: int = 100_000
    user_share: float = Field(default=0.25, gt=0, le=1)
    source_share: float = Field(default=1.0, gt=0, le=1)
    share_from: int = Field(default=1000, ge=1)
    burst_z: float = Field(default=8.0, gt=0)
    burst_from: int = Field(default=60, ge=1)
    peers: int = Field(default=8, ge=2)
    same_text_users: int = 12
    majority: float = 2 / 3


@dataclass(frozen=True, slots=True)
class Claim:
    """One demonstration as the guards see it: keyed hashes instead of texts, and what `suspicion` says of them.

    `rank` orders claims independently of arrival, so that a replay in another order keeps the same ones. `near_key`
    is equal for nearly equal texts, `minute` is when it was received, in whole minutes; None where unknown.
    `approves=False` is a reviewer's or rater's no to this answer: a vote, which no guard refuses and no cap counts.
    """

    sequence: int
    rank: str
    subject: str
    source: str
    text_key: str | int
    prompt_key: str | int
    mark: str = ""
    near_key: str | int | None = None
    minute: int | None = None
    approves: bool = True


Refused = dict[int, str]


def guard(claims: Sequence[Claim], limits: GuardLimits) -> Refused:
    """Refused claims by inbox sequence, with the reason. A pure function of the set of claims."""
    refused: Refused = {}
    left: list[Claim] = []
    against: list[Claim] = []
    unique = len({claim.rank for claim in claims}) == len(claims)
    for claim in sorted(claims, key=attrgetter("rank") if unique else attrgetter("rank", "sequence")):
        if not claim.approves:
            against.append(claim)
        elif claim.mark:
            refused[claim.sequence] = claim.mark or CONTROL
        else:
            left.append(claim)
    steps: tuple[Callable[[list[Claim]], Refused], ...] = (
        lambda left: _sybils(left, limits.same_text_users),
        lambda left: _contradictions(left, against, limits.majority),
        _echoes,
        lambda left: _minute_bursts(left, limits),
        lambda left: _bursts(left, _SUBJECT, limits) | _bursts(left, _SOURCE, limits),
        lambda left: _over_cap(left, _SUBJECT, limits.per_user, "user_cap"),
        lambda left: _over_share(left, _SUBJECT, limits.user_share, limits.share_from, "user_share"),
        lambda left: _over_cap(left, _SOURCE, limits.per_source, "source_cap"),
        lambda left: _over_share(left, _SOURCE, limits.source_share, limits.share_from, "source_cap"),
    )
    for step in steps:
        if found := step(left):
            refused |= found
            left = [claim for claim in left if claim.sequence not in found]
    return refused


_SUBJECT, _SOURCE = attrgetter("subject"), attrgetter("source")


def _sybils(claims: Sequence[Claim], most: int) -> Refused:
    refused: Refused = {}
    for key_of in (attrgetter("text_key"), attrgetter("near_key")):
        counts = Counter(map(key_of, claims))
        likely = {key for key, count in counts.items() if count > most and key is not None}
        subjects: dict[Hashable, set[str]] = defaultdict(set)
        if likely:
            for claim in claims:
                if (key := key_of(claim)) in likely:
                    subjects[key].add(claim.subject)
        crowded = {key for key, who in subjects.items() if len(who) > most}
        if crowded:
            refused |= {claim.sequence: "many_users_one_text" for claim in claims if key_of(claim) in crowded}
    return refused


def _contradictions(claims: Sequence[Claim], against: Sequence[Claim], majority: float) -> Refused:
    """One vote per subject and answer; a no counts against the answer, as another answer would."""
    everyone = [*claims, *against]
    prompts = [claim.prompt_key for claim in everyone]
    asked = {prompt for prompt, count in Counter(prompts).items() if count > 1}
    disputed: dict[Hashable, list[Claim]] = defaultdict(list)
    for claim, prompt in zip(everyone, prompts, strict=True):
        if prompt in asked:
            disputed[prompt].append(claim)
    refused: Refused = {}
    for about in disputed.values():
        yes = Counter(text for text, _ in {(claim.text_key, claim.subject) for claim in about if claim.approves})
        no = Counter(text for text, _ in {(claim.text_key, claim.subject) for claim in about if not claim.approves})
        if not yes or (len(yes) == 1 and not any(no[text] for text in yes)):
            continue
        winner, count = max(yes.items(), key=lambda item: (item[1] - no[item[0]], item[1], str(item[0])))
        settled = count / (sum(yes.values()) + no[winner]) >= majority
        for claim in about:
            if claim.approves and (not settled or claim.text_key != winner):
                refused[claim.sequence] = "contradictory_labels"
    return refused


def _echoes(claims: Sequence[Claim]) -> Refused:
    first: dict[Hashable, Claim] = {}
    return {
        claim.sequence: "duplicate_of_other" for claim in claims if first.setdefault(claim.text_key, claim) is not claim
    }


def _bound(sizes: Iterable[int], limits: GuardLimits) -> float:
    """The most that one owner may have among these peers; infinite where there are too few to compare with.

    Median plus `burst_z` robust deviations. The scale is at least the Poisson one, so that peers who are all alike do
    not make an outlier of somebody who did one more; the owner at the top is left out, so that it cannot vouch for
    itself.
    """
    peers = sorted(sizes)[:-1]
    if len(peers) + 1 < limits.peers:
        return float("inf")
    middle = float(median(peers))
    spread = 1.4826 * float(median(abs(count - middle) for count in peers))
    return max(limits.burst_from, middle + limits.burst_z * max(spread, sqrt(middle), 1.0))


def _bursts(claims: Sequence[Claim], owner: Callable[[Claim], str], limits: GuardLimits) -> Refused:
    counts = Counter(map(owner, claims))
    if not counts or max(counts.values()) <= limits.burst_from:
        return {}
    return _beyond(claims, owner, counts, _bound(counts.values(), limits), "burst")


def _minute_bursts(claims: Sequence[Claim], limits: GuardLimits) -> Refused:
    counts: Counter[tuple[str, int | None]] = Counter(
        (claim.subject, claim.minute) for claim in claims if claim.minute is not None
    )
    if not counts or max(counts.values()) <= limits.burst_from:
        return {}
    bound = _bound(counts.values(), limits)
    return {claim.sequence: "burst" for claim in claims if counts[claim.subject, claim.minute] > bound}


def _over_cap(claims: Sequence[Claim], owner: Callable[[Claim], str], cap: float, reason: str) -> Refused:
    return _beyond(claims, owner, Counter(map(owner, claims)), cap, reason)


def _over_share(
    claims: Sequence[Claim], owner: Callable[[Claim], str], share: float, least: int, reason: str
) -> Refused:
    """Owners trimmed until none holds more than `share` of what stays; below `least` claims, and alone, nobody is."""
    if share >= 1 or len(claims) < least:
        return {}
    counts = Counter(map(owner, claims))
    if len(counts) * share < 1:
        return {}
    return _beyond(claims, owner, counts, _level(counts.values(), share), reason)


def _level(counts: Iterable[int], share: float) -> int:
    """The largest cap under which nobody holds more than `share` of the sum of all counts so capped; at least 1."""
    low, high = 1, max(counts := list(counts))
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(count, middle) for count in counts):
            low = middle
        else:
            high = middle - 1
    return low


def _beyond(
    claims: Sequence[Claim], owner: Callable[[Claim], str], counts: Mapping[str, int], cap: float, reason: str
) -> Refused:
    """All but the first `cap` of each owner, in the order of `claims`."""
    over = {name for name, count in counts.items() if count > cap}
    if not over:
        return {}
    seen: Counter[str] = Counter()
    refused: Refused = {}
    for claim in claims:
        if (name := owner(claim)) in over:
            seen[name] += 1
            if seen[name] > cap:
                refused[claim.sequence] = reason
    return refused
