"""Guards: what one person, one source or one campaign may do to a dataset version.

Feedback is an attack surface: a single user can poison a policy that learns from it. The guards judge only
demonstrations (texts that could become a target); what they refuse stays in the record, counted by reason.

    control_tokens        the text carries template or control tokens, or addresses the model's instructions
    many_users_one_text   more subjects than is natural sent the very same demonstration (sybils)
    contradictory_labels  subjects disagree on the answer to one prompt and no side has a clear majority
    duplicate_of_other    somebody else's equal demonstration already stands for this one
    user_cap, source_cap  more demonstrations in this run than one subject or source may have
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline.records import Record

_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk)>|<start_of_turn>|<end_of_turn>"
    r"|^#{2,4} ?(?:system|instruction|response|assistant)\b"
    r"|\b(?:ignore|disregard|forget) (?:all |any )?(?:the |your )?(?:previous|prior|above|earlier) "
    r"(?:instructions?|rules|messages?|prompts?)\b",
    re.IGNORECASE | re.MULTILINE,
)


class GuardLimits(Record):
    schema_id = "plumbline.dev/guard-limits/v1"

    per_user: int = 60
    per_source: int = 100_000
    same_text_users: int = 12
    majority: float = 2 / 3


@dataclass(frozen=True)
class Claim:
    """One demonstration as the guards see it: keyed hashes instead of texts, and whether it carries control tokens.

    `rank` orders claims independently of arrival, so that a replay in another order keeps the same ones.
    """

    sequence: int
    rank: str
    subject: str
    source: str
    text_key: str
    prompt_key: str
    control: bool


def has_control_tokens(*texts: str) -> bool:
    return any(_CONTROL.search(text) for text in texts)


def guard(claims: Sequence[Claim], limits: GuardLimits) -> dict[int, str]:
    """Refused claims by inbox sequence, with the reason. A pure function of the set of claims."""
    refused: dict[int, str] = {claim.sequence: "control_tokens" for claim in claims if claim.control}
    left = _left(claims, refused)
    refused |= _sybils(left, limits)
    refused |= _contradictions(_left(left, refused), limits)
    refused |= _echoes(_left(left, refused))
    refused |= _over_cap(_left(left, refused), "subject", limits.per_user, "user_cap")
    refused |= _over_cap(_left(left, refused), "source", limits.per_source, "source_cap")
    return refused


def _left(claims: Sequence[Claim], refused: Mapping[int, str]) -> list[Claim]:
    return sorted((claim for claim in claims if claim.sequence not in refused), key=lambda claim: claim.rank)


def _sybils(claims: Sequence[Claim], limits: GuardLimits) -> dict[int, str]:
    subjects: dict[str, set[str]] = defaultdict(set)
    for claim in claims:
        subjects[claim.text_key].add(claim.subject)
    crowded = {key for key, who in subjects.items() if len(who) > limits.same_text_users}
    return {claim.sequence: "many_users_one_text" for claim in claims if claim.text_key in crowded}


def _contradictions(claims: Sequence[Claim], limits: GuardLimits) -> dict[int, str]:
    by_prompt: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_prompt[claim.prompt_key].append(claim)
    refused: dict[int, str] = {}
    for about in by_prompt.values():
        votes = Counter(text for text, _ in {(claim.text_key, claim.subject) for claim in about})
        if len(votes) < 2:
            continue
        winner, count = max(votes.items(), key=lambda item: (item[1], item[0]))
        settled = count / sum(votes.values()) >= limits.majority
        for claim in about:
            if not settled or claim.text_key != winner:
                refused[claim.sequence] = "contradictory_labels"
    return refused


def _echoes(claims: Sequence[Claim]) -> dict[int, str]:
    first: dict[str, Claim] = {}
    refused: dict[int, str] = {}
    for claim in claims:
        if first.setdefault(claim.text_key, claim) is not claim:
            refused[claim.sequence] = "duplicate_of_other"
    return refused


def _over_cap(claims: Sequence[Claim], owner: str, cap: int, reason: str) -> dict[int, str]:
    seen: Counter[str] = Counter()
    refused: dict[int, str] = {}
    for claim in claims:
        name = getattr(claim, owner)
        seen[name] += 1
        if seen[name] > cap:
            refused[claim.sequence] = reason
    return refused
