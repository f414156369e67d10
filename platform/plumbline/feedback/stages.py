"""The stages of an ingestion, as pure functions: what happens to each sealed event, and why.

Every event ends in exactly one bucket. `accepted`: it became an example of the candidate. Otherwise one of

    erased                 its subject was erased while it waited
    malformed              no pseudonym, or a demonstration that does not answer a user
    duplicate              the same subject sent the same before (or a near-duplicate of their demonstration)
    already_in_version     an equal example is in the parent version
    no_consent             training was never covered (also when consent came only after the event)
    consent_withdrawn      covered once, withdrawn since (a later consent does not bring old events back)
    consent_expired        covered once, no longer valid
    control_tokens, many_users_one_text, contradictory_labels, duplicate_of_other, user_cap, source_cap
                           refused by a guard (see guard.py)
    near_other_split       its prompt or text is (nearly) that of an example on the other side of the split
    joins_both_splits      its person or conversation is trained on, and tied to one that is held out
    answer_not_approved    a reviewer said no to the rated answer
    selected_for_review    ratings, reports and comments: signals that people look at, never targets by themselves
    held_out_preference    comparisons: kept to check judges and rewards, never trained on

so that accepted + sum(rejected) == sealed says something: nobody's feedback just vanished.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from plumbline.feedback.deduplicate import BandIndex, Signed, Signer, jaccard, prompt_text, shingles
from plumbline.feedback.guard import Claim, GuardLimits, guard, has_control_tokens
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.feedback.redact import Redacted, redact
from plumbline.feedback.split import Placement, Unit, place
from plumbline.records import Example, FeedbackEvent, Message, Split
from plumbline.stores import ConsentLedger, Membership, Queued, Review, Signature

Rejections = dict[int, str]


@dataclass(frozen=True)
class Demonstration:
    """A text that may become a target: what a subject wrote (`rewrite`) or approved of (`approved_answer`)."""

    queued: Queued
    event: FeedbackEvent
    origin: str
    target: str

    @property
    def sequence(self) -> int:
        return self.queued.sequence

    @property
    def rank(self) -> str:
        """An order that does not depend on arrival."""
        return self.queued.fingerprint or ""

    @property
    def conversation(self) -> str:
        name = self.event.data.conversation
        return f"{self.event.source}/{name}" if name else ""


def demonstration(queued: Queued, threshold: float) -> Demonstration | None:
    """The demonstration in an event; None for signals. A rating counts only above `threshold` (and once approved)."""
    event = queued.event
    if event is None:
        return None
    if event.kind == "rewrite":
        return Demonstration(queued, event, "rewrite", (event.data.text or "").strip())
    if event.kind == "rating" and (event.data.score or 0.0) >= threshold:
        return Demonstration(queued, event, "approved_answer", event.data.answer.strip())
    return None


def verified(events: Sequence[Queued]) -> Rejections:
    rejected: Rejections = {}
    for queued in events:
        event = queued.event
        if event is None or queued.fingerprint is None:
            rejected[queued.sequence] = "erased"
        elif not PSEUDONYM.match(queued.subject) or event.data.messages[-1].role != "user":
            rejected[queued.sequence] = "malformed"
    return rejected


def deduplicated(events: Sequence[Queued], signing: Signer, threshold: float, rating: float) -> Rejections:
    """Repetitions by the same subject, word for word or nearly.

    Equal demonstrations of *different* subjects stay for now: which of them consented is not known yet.
    """
    rejected: Rejections = {}
    seen: set[tuple[str, ...]] = set()
    near: dict[str, BandIndex[int]] = {}
    signed: dict[int, Signed] = {}
    for queued in sorted(events, key=lambda queued: queued.fingerprint or ""):
        event = queued.event
        assert event is not None
        said = f"{event.data.answer}\n{event.data.text}\n{event.data.rejected}\n{event.data.score}"
        key = (queued.subject, event.kind, signing.key("event", f"{prompt_text(event.data.messages)}\n{said}"))
        found = demonstration(queued, rating)
        if key in seen:
            rejected[queued.sequence] = "duplicate"
            continue
        seen.add(key)
        if found is None:
            continue
        mine = signing.sign(event.data.messages, found.target)
        index = near.setdefault(f"{queued.subject}/{found.origin}", BandIndex())
        others = index.candidates(mine.signature.bands)
        if any(jaccard(signed[other].shingles, mine.shingles) >= threshold for other in others):
            rejected[queued.sequence] = "duplicate"
            continue
        index.add(queued.sequence, mine.signature.bands)
        signed[queued.sequence] = mine
    return rejected


def consent_checked(events: Sequence[Queued], consent: ConsentLedger, head: int, now: datetime) -> Rejections:
    """Training must be covered when the event was collected, at the head now, and without a break in between."""
    rejected: Rejections = {}
    ever_withdrawn = consent.withdrawn_between("training", 0, head)
    for queued in events:
        collected = datetime.fromisoformat(queued.received_at)
        then = consent.covers(queued.subject, "training", queued.consent_sequence, collected)
        if not then.covered:
            rejected[queued.sequence] = then.reason
            continue
        today = consent.covers(queued.subject, "training", head, now)
        if not today.covered:
            rejected[queued.sequence] = today.reason
        elif queued.subject in ever_withdrawn and queued.subject in consent.withdrawn_between(
            "training", queued.consent_sequence, head
        ):
            rejected[queued.sequence] = "consent_withdrawn"
    return rejected


@dataclass(frozen=True)
class Clean:
    """A demonstration after redaction: `messages` and `target` are what may be stored; `counts` by class."""

    source: Demonstration
    messages: tuple[Message, ...]
    target: str
    counts: dict[str, int]


def redacted(found: Demonstration) -> Clean:
    counts: dict[str, int] = {}

    def clean(text: str) -> str:
        result = redact(text)
        for name, count in result.counts.items():
            counts[name] = counts.get(name, 0) + count
        return result.text

    messages = tuple(
        Message(role=message.role, content=clean(message.content)) for message in found.event.data.messages
    )
    return Clean(found, messages, clean(found.target), counts)


def routed(events: Sequence[Queued], rating: float, reviews: Mapping[int, Sequence[Review]]) -> Rejections:
    """Signals go to people, comparisons to the held-out preferences; a rated answer waits for a reviewer's yes."""
    rejected: Rejections = {}
    for queued in events:
        event = queued.event
        assert event is not None
        found = demonstration(queued, rating)
        if event.kind == "comparison":
            rejected[queued.sequence] = "held_out_preference"
        elif found is None:
            rejected[queued.sequence] = "selected_for_review"
        elif found.origin == "approved_answer":
            words = reviews.get(queued.sequence, ())
            if not words:
                rejected[queued.sequence] = "selected_for_review"
            elif not all(word.approved for word in words):
                rejected[queued.sequence] = "answer_not_approved"
    return rejected


def redacted_signals(events: Iterable[Queued]) -> list[Redacted]:
    """What ratings' authors, reporters and commenters wrote, as reviewers will see it."""
    texts = (event.event.data.text for event in events if event.event is not None)
    return [redact(text) for text in texts if text]


def guarded(clean: Sequence[Clean], signing: Signer, published: Set[str], limits: GuardLimits) -> Rejections:
    """What the parent version (text keys in `published`) has already, and what the guards refuse."""
    claims = []
    rejected: Rejections = {}
    for item in clean:
        signature = signing.sign(item.messages, item.target).signature
        if signature.text_key in published:
            rejected[item.source.sequence] = "already_in_version"
            continue
        claims.append(
            Claim(
                sequence=item.source.sequence,
                rank=item.source.rank,
                subject=item.source.queued.subject,
                source=item.source.event.source,
                text_key=signature.text_key,
                prompt_key=signature.prompt_key,
                control=has_control_tokens(prompt_text(item.messages), item.target),
            )
        )
    return rejected | guard(claims, limits)


@dataclass(frozen=True)
class Neighbours:
    """The parent version: what new examples may be tied to. `read` fetches a member's example for an exact check."""

    members: Mapping[str, Membership]
    signatures: Mapping[str, Signature]
    read: Callable[[str], Example]


def split(
    clean: Sequence[Clean], signing: Signer, neighbours: Neighbours, threshold: float, held_out_share: float
) -> Placement:
    """Place every demonstration by its person and conversation; keep equal and similar texts on one side."""
    known = _Known(neighbours)
    ordered = sorted(clean, key=lambda item: item.source.rank)
    signed = [signing.sign(item.messages, item.target, item.source.conversation) for item in ordered]
    alike = _alike(signed, threshold)
    units = []
    for number, (item, mine) in enumerate(zip(ordered, signed, strict=True)):
        subject, conversation = item.source.queued.subject, mine.signature.conversation_key
        ties = {f"user:{subject}"} | ({f"conversation:{conversation}"} if conversation else set())
        units.append(
            Unit(
                sequence=item.source.sequence,
                rank=item.source.rank,
                ties=frozenset(ties),
                anchors=frozenset(known.by_subject[subject] | known.by_conversation[conversation]),
                texts=frozenset(alike[number]),
                published=frozenset(known.sides_like(mine, threshold)),
            )
        )
    return place(units, held_out_share)


def _alike(signed: Sequence[Signed], threshold: float) -> list[set[str]]:
    """Per text, keys shared with every equal prompt and every near-duplicate among the new texts."""
    index: BandIndex[int] = BandIndex()
    keys = [{f"prompt:{mine.signature.prompt_key}"} for mine in signed]
    for number, mine in enumerate(signed):
        for other in index.candidates(mine.signature.bands):
            if jaccard(mine.shingles, signed[other].shingles) >= threshold:
                keys[number].add(f"near:{other}-{number}")
                keys[other].add(f"near:{other}-{number}")
        index.add(number, mine.signature.bands)
    return keys


class _Known:
    """Lookups over the parent version by prompt, similar text, subject and conversation."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._index: BandIndex[str] = BandIndex()
        self._prompts: dict[str, set[Split]] = defaultdict(set)
        self.by_subject: dict[str, set[tuple[Split, str]]] = defaultdict(set)
        self.by_conversation: dict[str, set[tuple[Split, str]]] = defaultdict(set)
        for address, member in neighbours.members.items():
            signature = neighbours.signatures[address]
            self._index.add(address, signature.bands)
            self._prompts[signature.prompt_key].add(member.split)
            if member.event_sequence is not None:  # seed authors are no users: they may write for both sides
                if member.subject is not None:
                    self.by_subject[member.subject].add((member.split, member.cluster))
                if signature.conversation_key:
                    self.by_conversation[signature.conversation_key].add((member.split, member.cluster))

    def sides_like(self, mine: Signed, threshold: float) -> set[Split]:
        sides = set(self._prompts.get(mine.signature.prompt_key, ()))
        for address in self._index.candidates(mine.signature.bands):
            side = self._neighbours.members[address].split
            if side not in sides:
                example = self._neighbours.read(address)
                theirs = shingles(f"{prompt_text(example.prompt)}\nassistant: {example.target}")
                if jaccard(mine.shingles, theirs) >= threshold:
                    sides.add(side)
        return sides


def samples(clean: Iterable[Clean], shown: Iterable[Redacted], most: int = 5) -> tuple[str, ...]:
    """A few texts, after redaction, that show what redaction did."""
    texts = []
    for item in sorted((item for item in clean if item.counts), key=lambda item: item.source.rank):
        changed = [message.content for message in item.messages if "[" in message.content]
        texts.append(item.target if "[" in item.target or not changed else changed[0])
    return tuple([*texts, *sorted({one.text for one in shown if one.counts})][:most])
