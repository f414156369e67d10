"""Selection: which events people should look at. A thumb, a report or a comment points at an answer; it proves nothing.

    rating         an answer rated at or above the threshold: it pleased, which is not the same as being right
    report         somebody says that the answer did harm; `note` is what they wrote
    comment        somebody wrote about the answer
    contradiction  people disagree: thumbs up and down on one answer, or demonstrations that a guard found in conflict
    demonstration  a text that another guard held back for people to judge

Reviewers get no subject and are not told why an item was selected: "highly rated" would tell them what to answer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from plumbline.feedback.ingestion.guard import HELD_FOR_PEOPLE, Claim, GuardLimits, guard, suspicion
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.feedback.redaction.redact import redact
from plumbline.records import FeedbackEvent, JudgedText, Message, Selected, digest_of
from plumbline.stores import ConsentLedger, Queued

_JUDGED = frozenset({"rating", "rewrite", "report", "comment"})  # comparisons, logged traffic and approvals are not


@dataclass(frozen=True)
class Chosen:
    queued: Queued
    what: Selected
    text: JudgedText


@dataclass(frozen=True)
class Selection:
    """Every event is in `chosen` or counted in `left` by reason."""

    chosen: tuple[Chosen, ...]
    left: dict[str, int]


def judged_text(event: FeedbackEvent) -> JudgedText:
    """What a reviewer of an event reads, all redacted: the conversation, the text that would be taught, and what a
    reporter or commenter wrote about it. What came with a thumb is left out: it would say which thumb."""
    data = event.data
    return JudgedText(
        messages=tuple(Message(role=said.role, content=redact(said.content).text) for said in data.messages),
        answer=redact(taught_by(event).strip()).text,
        note=redact((data.text or "").strip()).text if event.kind in ("report", "comment") else "",
    )


def taught_by(event: FeedbackEvent) -> str:
    """The text of an event that could become a target: a demonstration's own, an approval's, else the answer."""
    if event.kind == "rewrite":
        return event.data.text or ""
    return event.data.text or event.data.answer if event.kind == "approved" else event.data.answer


def withheld(events: Sequence[Queued], consent: ConsentLedger, now: datetime) -> list[str]:
    """Why each event may not be shown to reviewers; empty when it may. Training must be covered when the event was
    collected, at the head now, and without a break in between: what may not be trained on need not be read."""
    head = consent.head().sequence
    standings = consent.standings({queued.subject for queued in events}, "training")

    def reason(queued: Queued) -> str:
        if queued.event is None:
            return "erased"
        if queued.event.kind not in _JUDGED:
            return "nothing_to_judge"
        if not PSEUDONYM.match(queued.subject) or queued.event.data.messages[-1].role != "user":
            return "malformed"
        standing = standings[queued.subject]
        then = standing.covers(queued.consent_sequence, datetime.fromisoformat(queued.received_at))
        today = standing.covers(head, now)
        if not then.covered or not today.covered:
            return today.reason if then.covered else then.reason
        return "consent_withdrawn" if standing.withdrawn_between(queued.consent_sequence, head) else ""

    return [reason(queued) for queued in events]


def select(events: Sequence[Queued], threshold: float, refused: Mapping[int, str] | None = None) -> Selection:
    """Items among events that may be shown. `refused` are the guards' reasons by inbox sequence, as an ingestion
    reports them; without it the guards are asked about the demonstrations given here."""
    texts = {queued.sequence: judged_text(queued.event) for queued in events if queued.event is not None}
    demonstrations = [queued for queued in events if queued.event is not None and queued.event.kind == "rewrite"]
    reasons = guard(_claims(demonstrations, texts), GuardLimits()) if refused is None else refused
    disputed = _disputed_answers(events, texts)
    left: Counter[str] = Counter()
    chosen: dict[str, Chosen] = {}
    for queued in sorted(events, key=lambda queued: queued.sequence):
        what = _what(queued, threshold, reasons.get(queued.sequence, ""), disputed)
        if what is None:
            left["nothing_to_judge"] += 1
            continue
        key = digest_of(texts[queued.sequence].model_dump(mode="json"))
        if chosen.setdefault(key, Chosen(queued, what, texts[queued.sequence])).queued is not queued:
            left["same_text"] += 1
    return Selection(tuple(chosen.values()), dict(sorted(left.items())))


def _what(queued: Queued, threshold: float, reason: str, disputed: set[int]) -> Selected | None:
    event = queued.event
    if event is None:
        return None
    if queued.sequence in disputed:
        return "contradiction"
    if event.kind == "rating":
        return "rating" if (event.data.score or 0.0) >= threshold else None
    if event.kind == "report" or event.kind == "comment":
        return event.kind
    return HELD_FOR_PEOPLE.get(reason) if event.kind == "rewrite" else None


def _disputed_answers(events: Iterable[Queued], texts: Mapping[int, JudgedText]) -> set[int]:
    """Of each answer that some subject rated up and another rated down, the first rating up."""
    up: dict[str, list[Queued]] = defaultdict(list)
    down: dict[str, set[str]] = defaultdict(set)
    for queued in events:
        if queued.event is None or queued.event.kind != "rating" or not queued.event.data.score:
            continue
        key = digest_of(texts[queued.sequence].model_dump(mode="json"))
        if queued.event.data.score > 0:
            up[key].append(queued)
        else:
            down[key].add(queued.subject)
    return {
        min(rating.sequence for rating in ratings)
        for key, ratings in up.items()
        if any(down[key] - {rating.subject} for rating in ratings)
    }


def _claims(demonstrations: Iterable[Queued], texts: Mapping[int, JudgedText]) -> list[Claim]:
    """Demonstrations as the guards see them. The plain digests live as long as this call and are stored nowhere."""
    claims = []
    for queued in demonstrations:
        text = texts[queued.sequence]
        asked = "\n".join(f"{said.role}: {said.content}" for said in text.messages)
        claims.append(
            Claim(
                sequence=queued.sequence,
                rank=queued.fingerprint or "",
                subject=queued.subject,
                source=queued.source,
                text_key=digest_of([asked.casefold().split(), text.answer.casefold().split()]),
                prompt_key=digest_of(asked.casefold().split()),
                mark=suspicion(*(said.content for said in text.messages), text.answer),
            )
        )
    return claims
