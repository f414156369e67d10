"""The stages of an ingestion, as pure functions: what happens to each sealed event, and why.

Every event ends in exactly one bucket. `accepted`: it became an example of the candidate. Otherwise one of

    erased                 its subject was erased while it waited
    malformed              no pseudonym, or a demonstration that does not answer a user
    duplicate              the same subject sent the same before (or a near-duplicate of their demonstration)
    already_in_version     an equal example is in the parent version
    near_duplicate         nearly the text of another accepted example, or of one in the parent version
    no_consent             training was never covered (also when consent came only after the event)
    consent_withdrawn      covered once, withdrawn since (a later consent does not bring old events back)
    consent_expired        covered once, no longer valid
    control_tokens, invisible_text, injection, many_users_one_text, contradictory_labels, duplicate_of_other, burst,
    user_cap, user_share, source_cap
                           refused by a guard (see guard.py)
    near_other_split       its prompt is that of an example on the other side of the split
    joins_both_splits      its person or conversation is trained on, and tied to one that is held out
    selected_for_review    ratings, reports and comments: signals that people look at, never targets by themselves; an
                           answer that reviewers approve comes back as an event of its own (review.py)
    logged_traffic         requests and responses of a payload logger: context, never targets
    held_out_preference    comparisons: kept to check judges and rewards, never trained on

so that accepted + sum(rejected) == sealed says something: nobody's feedback just vanished.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from plumbline.feedback.datasets.history import History, TextKeys
from plumbline.feedback.datasets.publish import keys_of
from plumbline.feedback.datasets.split import Components, Placement, Unit, place
from plumbline.feedback.ingestion.guard import HELD_FOR_PEOPLE, Claim, GuardLimits, guard
from plumbline.feedback.ingestion.injection import suspicions, worst
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.feedback.redaction.redact import Redacted, redact_many
from plumbline.feedback.signatures import Keys, Signatures, Signer, near_pairs, similarity
from plumbline.records import CONTEXT_KINDS, Split
from plumbline.records.example import Origin
from plumbline.stores import Anchor, SealedEvent, Standing

Rejections = dict[int, str]


class Demonstration(NamedTuple):
    """A text that may become a target: what a subject wrote (`rewrite`), or an answer of a policy that reviewers
    approved (`approved_answer`).

    `prompt` (role and text of each turn) and `target` are after redaction; `counts` says what was redacted, by class.
    """

    event: SealedEvent
    origin: Origin
    prompt: tuple[tuple[str, str], ...]
    target: str
    counts: Mapping[str, int]

    @property
    def sequence(self) -> int:
        return self.event.sequence

    @property
    def subject(self) -> str:
        return self.event.subject

    @property
    def rank(self) -> str:
        """An order that does not depend on arrival."""
        return self.event.fingerprint or ""

    @property
    def conversation(self) -> str:
        name = self.event.said("conversation")
        return f"{self.event.source}/{name}" if name else ""


@dataclass(frozen=True)
class Batch:
    """A run's demonstrations by rank, with the keys of their redacted texts: one row each in every column."""

    rows: tuple[Demonstration, ...]
    keys: TextKeys
    signatures: Signatures
    row_of: Mapping[int, int]

    def among(self, events: Iterable[SealedEvent]) -> list[int]:
        """Rows of those events that are demonstrations, by rank."""
        row_of = self.row_of
        return sorted([row_of[event.sequence] for event in events if event.sequence in row_of])


def target_of(event: SealedEvent) -> tuple[Origin, str] | None:
    """Origin and text of the demonstration in an event; None for signals."""
    if event.kind == "rewrite":
        return "rewrite", event.said("text", "").strip()
    if event.kind == "approved":
        return "approved_answer", (event.said("text") or event.said("answer", "")).strip()
    return None


def verified(events: Sequence[SealedEvent]) -> Rejections:
    rejected: Rejections = {}
    for event in events:
        if event.data is None or event.fingerprint is None:
            rejected[event.sequence] = "erased"
        elif event.kind in CONTEXT_KINDS:
            rejected[event.sequence] = "logged_traffic"
        elif not PSEUDONYM.match(event.subject) or event.data["messages"][-1]["role"] != "user":
            rejected[event.sequence] = "malformed"
    return rejected


def batch(events: Sequence[SealedEvent], signing: Signer) -> Batch:
    """Find, redact and sign the demonstrations of verified events."""
    found = [(event, target) for event in events if (target := target_of(event)) is not None]
    found.sort(key=lambda one: one[0].fingerprint or "")
    texts: list[str] = []
    for event, (_, wanted) in found:
        texts += [message["content"] for message in (event.data or {})["messages"]]
        texts.append(wanted)
    clean = iter(redact_many(texts))
    rows, prompts = [], []
    for event, (origin, _) in found:
        turns = [(message["role"], next(clean)) for message in (event.data or {})["messages"]]
        better = next(clean)
        counts = dict(better.counts)
        for _, one in turns:
            for name, count in one.counts.items():
                counts[name] = counts.get(name, 0) + count
        prompt = tuple([(role, one.text) for role, one in turns])
        rows.append(Demonstration(event, origin, prompt, better.text, counts))
        prompts.append("\n".join([f"{role}: {text}" for role, text in prompt]))
    keys, signatures = keys_of(signing, prompts, [row.target for row in rows], [row.conversation for row in rows])
    return Batch(tuple(rows), keys, signatures, {row.event.sequence: number for number, row in enumerate(rows)})


def deduplicated(events: Sequence[SealedEvent], found: Batch, threshold: float) -> Rejections:
    """Repetitions by the same subject, word for word or nearly.

    Equal demonstrations of *different* subjects stay for now: which of them consented is not known yet.
    """
    rejected: Rejections = {}
    for alike in _alike(events):
        seen: dict[tuple[object, ...], list[object]] = {}
        for event in sorted(alike, key=lambda event: event.fingerprint or ""):
            data = event.data or {}
            prompts = seen.setdefault((data.get("text"), data.get("rejected"), data.get("score")), [])
            if data["messages"] in prompts:
                rejected[event.sequence] = "duplicate"
            else:
                prompts.append(data["messages"])
    rows = [number for number, row in enumerate(found.rows) if row.event.sequence not in rejected]
    owners: dict[tuple[str, str], int] = {}
    picked = [found.rows[row] for row in rows]
    whose = [owners.setdefault((row.event.subject, row.origin), len(owners)) for row in picked]
    # Keys of different owners are moved apart, so that only an owner's own texts meet.
    moved = found.keys.bands[rows] ^ (np.array(whose, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))[:, None]
    for group in _chains(found, rows, threshold, moved):
        rejected |= {found.rows[row].sequence: "duplicate" for row in group[1:]}
    return rejected


def _alike(events: Sequence[SealedEvent]) -> Iterable[list[SealedEvent]]:
    """Events of one subject and kind about one answer, where there are several."""
    first: dict[tuple[str, str, str], SealedEvent] = {}
    alike: dict[tuple[str, str, str], list[SealedEvent]] = {}
    for event in events:
        about = (event.subject, event.kind, (event.data or {})["answer"])
        before = first.setdefault(about, event)
        if before is not event:
            alike.setdefault(about, [before]).append(event)
    return alike.values()


def _chains(found: Batch, rows: Sequence[int], threshold: float, bands: Keys | None = None) -> list[list[int]]:
    """Rows that are near-duplicates of one another, directly or through others, in groups by rank. `bands` stands in
    for the rows' own keys."""
    picked = np.asarray(rows, dtype=np.int64)
    i, j = near_pairs(found.keys.bands[picked] if bands is None else bands)
    alike = similarity(found.signatures, picked[i], found.signatures, picked[j]) >= threshold
    chains: Components[int] = Components()
    for one, other in zip(picked[i[alike]].tolist(), picked[j[alike]].tolist(), strict=True):
        chains.join(one, other)
    return [sorted(group) for group in chains.groups(chains.nodes)]


def consent_checked(
    events: Sequence[SealedEvent], standings: Mapping[str, Standing], head: int, now: datetime
) -> Rejections:
    """Training must be covered when the event was collected, at the head now, and without a break in between."""
    rejected: Rejections = {}
    today = {subject: standing.covers(head, now) for subject, standing in standings.items()}
    timed = {
        subject for subject, standing in standings.items() if any(change.valid_until for change in standing.changes)
    }
    known: dict[tuple[str, int], str] = {}
    for event in events:
        subject, then = event.subject, event.consent_sequence
        reason = None if subject in timed else known.get((subject, then))
        if reason is None:
            standing = standings[subject]
            at = standing.covers(then, event.received_at)
            if not at.covered:
                reason = at.reason
            elif not today[subject].covered:
                reason = today[subject].reason
            else:
                reason = "consent_withdrawn" if standing.withdrawn_between(then, head) else ""
            known[subject, then] = reason
        if reason:
            rejected[event.sequence] = reason
    return rejected


def routed(events: Sequence[SealedEvent], found: Batch) -> Rejections:
    """Signals go to people, comparisons to the held-out preferences; demonstrations go on."""
    return {
        event.sequence: "held_out_preference" if event.kind == "comparison" else "selected_for_review"
        for event in events
        if event.sequence not in found.row_of
    }


def redacted_signals(events: Iterable[SealedEvent]) -> list[Redacted]:
    """What ratings' authors, reporters and commenters wrote, as reviewers will see it."""
    return redact_many([text for event in events if (text := event.said("text"))])


def guarded(found: Batch, rows: Sequence[int], history: History, limits: GuardLimits, threshold: float) -> Rejections:
    """What the parent version has already, what the guards refuse, and what nearly repeats something accepted."""
    known = history.has_text(found.keys)
    rejected: Rejections = {found.rows[row].sequence: "already_in_version" for row in rows if row in known}
    fresh = [row for row in rows if row not in known]
    texts, prompts = found.keys.text.tolist(), found.keys.prompt.tolist()
    groups = _chains(found, fresh, threshold)
    near = {row: group[0] for group in groups for row in group}
    picked = [found.rows[row] for row in fresh]
    marks = iter(suspicions([text for one in picked for text in (*(text for _, text in one.prompt), one.target)]))
    claims = [
        Claim(
            sequence=one.event.sequence,
            rank=one.rank,
            subject=one.event.subject,
            source=one.event.source,
            text_key=texts[row],
            prompt_key=prompts[row],
            mark=worst([next(marks) for _ in range(len(one.prompt) + 1)]),
            near_key=near.get(row),
            minute=_minute(one.event.time),
        )
        for row, one in zip(fresh, picked, strict=True)
    ]
    overruled = {one.event.sequence for one in picked if one.origin == "approved_answer"}
    rejected |= {
        sequence: reason
        for sequence, reason in guard(claims, limits).items()
        if sequence not in overruled or reason not in HELD_FOR_PEOPLE
    }
    left = [row for row, one in zip(fresh, picked, strict=True) if one.event.sequence not in rejected]
    groups = groups if len(left) == len(fresh) else _chains(found, left, threshold)
    again = {row for group in groups for row in group[1:]}
    again |= history.near(found.keys, found.signatures, [row for row in left if row not in again], threshold)
    return rejected | {found.rows[row].sequence: "near_duplicate" for row in again}


@lru_cache(maxsize=4096)
def _minute(time: str | None) -> int | None:
    """When an event happened, in whole minutes, as far as its source says so in a way that can be read."""
    try:
        return None if time is None else int(datetime.fromisoformat(time).timestamp() // 60)
    except (ValueError, OverflowError, OSError):
        return None


def split(
    found: Batch, rows: Sequence[int], history: History, anchors: Sequence[Anchor], held_out_share: float
) -> Placement:
    """Place every demonstration by its person and conversation; keep equal prompts on one side."""
    of_person: dict[str, set[tuple[Split, str]]] = defaultdict(set)
    for anchor in anchors:
        of_person[anchor.subject].add((anchor.split, anchor.cluster))
    picked = found.keys.take(rows)
    sides, conversations = history.sides_of_prompts(picked), history.clusters_of_conversations(picked)
    units = []
    asked = zip(rows, picked.conversation.tolist(), picked.prompt.tolist(), strict=True)
    for number, (row, conversation, prompt) in enumerate(asked):
        event = found.rows[row].event
        user = f"user:{event.subject}"
        units.append(
            Unit(
                sequence=event.sequence,
                rank=event.fingerprint or "",
                ties=frozenset((user, f"conversation:{conversation}") if conversation else (user,)),
                anchors=_NONE.union(of_person.get(event.subject, ()), conversations.get(number, ())),
                texts=frozenset((prompt,)),
                published=frozenset(sides.get(number, ())),
            )
        )
    return place(units, held_out_share)


_NONE: frozenset[tuple[Split, str]] = frozenset()


def samples(rows: Iterable[Demonstration], shown: Iterable[Redacted], most: int = 5) -> tuple[str, ...]:
    """A few texts, after redaction, that show what redaction did."""
    texts = []
    for row in sorted((row for row in rows if row.counts), key=lambda row: row.rank):
        changed = [text for _, text in row.prompt if "[" in text]
        texts.append(row.target if "[" in row.target or not changed else changed[0])
    return tuple([*texts, *sorted({one.text for one in shown if one.counts})][:most])
