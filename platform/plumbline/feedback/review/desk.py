"""The review desk: what people are asked, in whose order, and what their words lead to.

    open_items -> queue -> label (two people, blind) -> [adjudicate] -> settle -> an `approved` event in the inbox

*Blind*: until an item is settled nobody but its adjudicator sees a label on it that is not their own, and the
adjudicator may not have labelled it. Every reviewer has another order (seeded by reviewer and item), so that tiredness
does not fall on the same items. Nobody judges what they asked or wrote.

*Default deny*: an item is shown, labelled and released only while its person's consent to training holds, without a
break since the event was collected. Texts are redacted first; who the person is, is not shown at all.

*Settling* follows agreement (settling.py). Answers that somebody reported or commented on are judged like the rest but
never released: the person most likely said that the answer was wrong, and did not agree to have it taught.

*Another rubric* reinterprets nothing: an item settled by a rule that now reads otherwise is put to people again, and
so is everything not settled. A rubric whose margins alone moved asks the same of reviewers, and their words stand.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from plumbline.errors import PlumblineError
from plumbline.feedback.ingestion.candidate import IngestionConfig
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.feedback.redaction.redact import redact
from plumbline.feedback.review.selection import judged_text, select, withheld
from plumbline.feedback.review.settling import BatchAgreement, Docket, Plan, agreed, draw, plan, revision
from plumbline.feedback.review.staleness import Stale, answered, current, stale
from plumbline.records import (
    JudgedText,
    Label,
    Rubric,
    policy_text_digest,
    short,
)
from plumbline.stores import Ledger, Queued
from plumbline.stores.reviews import NewItem, ReviewItem, Role, Settlement

NEVER_RELEASED = frozenset({"report", "comment"})
_PORTION = 2000  # inbox events read at a time


@dataclass(frozen=True)
class Opened:
    """What an opening did: new items by what selected them, items put again, and every other event by reason."""

    batch: int | None
    considered: int
    opened: dict[str, int]
    again: int
    left: dict[str, int]
    closed_revisions: int


@dataclass(frozen=True)
class Task:
    """An item as it is put to a person. `labels` are others' words: for its adjudicator, or once it is settled."""

    item: ReviewItem
    text: JudgedText
    mine: Label | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True)
class Settled:
    """What `settle` did: items by outcome, inbox events released (and released before, now rejected), batches whose
    rubric is to be revised, and unsettled items by what they wait for."""

    approved: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    released: tuple[int, ...] = ()
    overturned: tuple[int, ...] = ()
    revisions: tuple[int, ...] = ()
    waiting: dict[str, int] = field(default_factory=dict)


class ReviewDesk:
    """One ledger's desk. `threshold` is the rating that selects an answer; reviewers are pseudonyms throughout."""

    def __init__(self, ledger: Ledger, *, threshold: float | None = None) -> None:
        self.ledger = ledger
        self.reviews = ledger.reviews
        self.threshold = IngestionConfig().approved_rating if threshold is None else threshold

    # --- opening --------------------------------------------------------------------------------------------------

    def open_items(
        self,
        rubric: Rubric,
        *,
        refused: Mapping[int, str] | None = None,
        reviewers: int = 2,
        reconsider: bool = False,
        up_to: int | None = None,
    ) -> Opened:
        """Put to review what arrived since the last opening, and again what another rubric judged by changed rules.

        `refused` are an ingestion's guard verdicts (see `select`). `reconsider` looks through the whole inbox again.
        `up_to` is the last inbox sequence to look at.
        """
        self.ledger.consent.require_valid()
        first = 1 if reconsider else self.reviews.last_considered() + 1
        last = self.ledger.inbox.last_sequence() if up_to is None else up_to
        left: Counter[str] = Counter()
        shown: list[Queued] = []
        known = {item.event_sequence for item in self.reviews.items()}
        for events in self._arrived(first, last, refused or {}):
            for queued, reason in zip(events, self._withheld(events), strict=True):
                if reason or queued.sequence in known:
                    left[reason or "in_review_already"] += 1
                else:
                    shown.append(queued)
        selection = select(shown, self.threshold, refused)
        left.update(selection.left)
        new = [
            NewItem(one.queued.sequence, one.queued.subject, one.what, self._digest(one.queued, one.text))
            for one in selection.chosen
        ]
        again, closing, batch = self._again(rubric), answered(self.reviews, rubric), None
        with self.ledger.database.transaction():
            if new or again or last >= first or self._is_new(rubric):
                batch = self.reviews.open_batch(rubric, first, last, [*new, *again], reviewers=reviewers).batch
            for asked in closing:
                self.reviews.close_revision(asked.batch, rubric)
        return Opened(
            batch=batch,
            considered=sum(left.values()) + len(new),
            opened=dict(sorted(Counter(item.what for item in new).items())),
            again=len(again),
            left=dict(sorted(left.items())),
            closed_revisions=len(closing),
        )

    def stale_items(self, rubric: Rubric) -> Stale:
        """What was put to people under other rules and stands under none of this rubric's: needs review again."""
        return stale(self.reviews, rubric)

    def _is_new(self, rubric: Rubric) -> bool:
        """Whether it asks for another judgement than the rubric in force: an opening puts it in force."""
        latest = self.reviews.latest_rubric()
        return latest is not None and policy_text_digest(latest) != policy_text_digest(rubric)

    def _arrived(self, first: int, last: int, refused: Iterable[int]) -> Iterable[list[Queued]]:
        """Events of a range, in portions, after those before it that a guard has since refused."""
        yield [
            event for number in sorted(refused) if number < first for event in self.ledger.inbox.read(number, number)
        ]
        for start in range(first, last + 1, _PORTION):
            yield self.ledger.inbox.read(start, min(start + _PORTION - 1, last))

    def _again(self, rubric: Rubric) -> list[NewItem]:
        """Stale items, and open ones whose text reads otherwise since redaction improved, if they may be shown."""
        old, mine = self.stale_items(rubric), self.current(rubric)
        settled = self.reviews.settlements(item.item for item in mine)
        again = []
        for item, queued, text in self._shown(
            [*old.unsettled, *old.settled, *(item for item in mine if item.item not in settled)]
        ):
            digest = self._digest(queued, text)
            if item.policy_text != policy_text_digest(rubric) or digest != item.text:
                again.append(NewItem(item.event_sequence, item.subject, item.what, digest, item.item))
        return again

    # --- what people see ------------------------------------------------------------------------------------------

    def queue(
        self,
        person: str,
        rubric: Rubric,
        *,
        role: Role = "reviewer",
        most: int | None = None,
        last: Set[int] = frozenset(),
    ) -> list[Task]:
        """Items that wait for this person, in their own order; an adjudicator's are those that wait for a decision.

        `most` is how many to look up; `last` are items that they would rather see at the end.
        """
        _pseudonym(person)
        waiting = sorted(self._waiting(rubric, role), key=lambda i: (i.item in last, draw("order", person, i.text)))
        labels = self.reviews.labels(item.item for item in waiting)
        mine = [item for item in waiting if all(one.reviewer != person for one in labels.get(item.item, ()))]
        tasks: list[Task] = []
        for start in range(0, len(mine), _PORTION if most is None else most):
            for item, queued, text in self._shown(mine[start : start + (most or _PORTION)]):
                if not _is_own(queued, person) and self._digest(queued, text) == item.text:  # else the next opening's
                    others = tuple(one.label for one in labels.get(item.item, ())) if role == "adjudicator" else ()
                    tasks.append(Task(item, text, None, others))
            if most is not None and len(tasks) >= most:
                break
        return tasks[:most]

    def left(self, person: str, rubric: Rubric, *, role: Role = "reviewer") -> int:
        """How many items wait for this person, their own and those whose consent ended not yet taken off."""
        waiting = self._waiting(rubric, role)
        labels = self.reviews.labels(item.item for item in waiting)
        return sum(all(one.reviewer != person for one in labels.get(item.item, ())) for item in waiting)

    def _waiting(self, rubric: Rubric, role: Role) -> list[ReviewItem]:
        if role == "adjudicator":
            return [*plan(self.docket(rubric), partial=True).undecided]
        docket = self.docket(rubric, look=False)
        return [item for item in docket.items if docket.open(item) and not docket.complete(item)]

    def task(self, number: int, person: str) -> Task:
        """One item as this person may see it, with their own label. PlumblineError when they may not see it."""
        _pseudonym(person)
        item = self.reviews.item(number)
        _, text = self._read(item, person)
        given = self.reviews.labels([number]).get(number, [])
        mine = next((one for one in given if one.reviewer == person), None)
        seen = number in self.reviews.settlements([number]) or (mine is not None and mine.role == "adjudicator")
        others = tuple(one.label for one in given if one is not mine) if seen else ()
        return Task(item, text, mine.label if mine else None, others)

    # --- what people say ------------------------------------------------------------------------------------------

    def label(self, item: int, reviewer: str, label: Label, *, correct: bool = False) -> int:
        """Take a reviewer's word. PlumblineError when it may not count: another text, own words, enough labels."""
        return self._take(item, reviewer, label, "reviewer", correct)

    def adjudicate(self, item: int, adjudicator: str, label: Label, *, correct: bool = False) -> int:
        """Take the deciding word on an item that reviewers disagree on, or that a second look has drawn."""
        if label.verdict == "unsure":
            raise _refused(item, "an adjudicator decides: approve or reject", "leave it to another adjudicator")
        return self._take(item, adjudicator, label, "adjudicator", correct)

    def _take(self, number: int, person: str, label: Label, role: Role, correct: bool) -> int:
        _pseudonym(person)
        with self.ledger.database.transaction():
            item = self.reviews.item(number)
            queued, text = self._read(item, person)
            if label.text != item.text or self._digest(queued, text) != item.text:
                raise _refused(number, f"the label is for another text ({short(label.text)})", "read the item again")
            rubric = self._in_force(item)
            unknown = set(label.rules) - {rule.area for rule in rubric.rules}
            if unknown:
                raise _refused(number, f"its rubric has no rule for {', '.join(sorted(unknown))}", "name its areas")
            given = self.reviews.labels([number]).get(number, [])
            decided = [one for one in given if one.role == "adjudicator" and one.reviewer != person]
            if decided:
                raise _refused(number, "an adjudicator has decided it", "ask the adjudicator to correct that word")
            needed = self.reviews.batches(item.policy_text)[item.batch].reviewers
            first = not correct and all(one.reviewer != person for one in given)
            if first and role == "reviewer" and len(given) >= needed:
                raise _refused(number, f"it has its {needed} labels", "open batches for more reviewers per item")
            if first and role == "adjudicator" and item not in plan(self.docket(rubric), partial=True).undecided:
                raise _refused(number, "there is nothing to adjudicate on it", "wait until its reviewers disagree")
            clean = label.model_copy(update={"reason": redact(_plain(label.reason)).text})
            return self.reviews.add_label(number, person, clean, role=role, correct=correct)

    def _in_force(self, item: ReviewItem) -> Rubric:
        """The rubric that an item is judged by; refused when the item was put again since."""
        rubric, latest = self.reviews.rubric(item.rubric), self.reviews.latest_rubric()
        newest = [one for one in self.reviews.items_of(item.event_sequence) if one.policy_text == item.policy_text][-1:]
        if rubric is None or latest is None or policy_text_digest(latest) != item.policy_text or newest != [item]:
            raise _refused(item.item, "it was put to review again since", "label the new item in the queue")
        return rubric

    # --- what follows ---------------------------------------------------------------------------------------------

    def agreement(self, rubric: Rubric) -> tuple[BatchAgreement, list[BatchAgreement]]:
        """Agreement under the rubric's rule texts: over all batches, and of each batch with two labels on an item."""
        docket = self.docket(rubric)
        found = [agreed(batch, members, docket.labels) for batch, members in docket.batches().items()]
        return agreed(None, docket.items, docket.labels), [one for one in found if one.verdicts.units]

    def settle(self, rubric: Rubric, *, partial: bool = False) -> Settled:
        """Settle what agreement allows and release approved answers, all in one transaction; safe to repeat.

        `partial` also settles batches in which some items still lack words.
        """
        self.ledger.consent.require_valid()
        with self.ledger.database.transaction():
            docket = self.docket(rubric)
            planned = plan(docket, partial=partial)
            return self._carry_out(planned, self._revise(planned, docket))

    def _carry_out(self, planned: Plan, revisions: list[int]) -> Settled:
        before = self.reviews.released()
        released, overturned = [], []
        for outcome in planned.outcomes:
            item = outcome.item
            yes = tuple(sorted(one.reviewer for one in outcome.labels if one.label.verdict == "approve"))
            self.reviews.settle(
                Settlement(
                    item=item.item,
                    outcome="approved" if outcome.approved else "rejected",
                    basis=outcome.basis,
                    labels=tuple(one.sequence for one in outcome.labels),
                    approved_by=yes if outcome.approved else (),
                )
            )
            if outcome.approved and item.what not in NEVER_RELEASED and item.event_sequence not in before:
                self.reviews.record_release(item.event_sequence, item.item, self._release(item, yes))
                released.append(item.event_sequence)
            elif not outcome.approved and item.event_sequence in before:
                overturned.append(item.event_sequence)
        return Settled(
            approved=tuple(outcome.item.item for outcome in planned.outcomes if outcome.approved),
            rejected=tuple(outcome.item.item for outcome in planned.outcomes if not outcome.approved),
            released=tuple(released),
            overturned=tuple(overturned),
            revisions=tuple(revisions),
            waiting=planned.waiting,
        )

    def _release(self, item: ReviewItem, reviewers: Sequence[str]) -> int:
        """Put an approved answer into the inbox; what it would teach must be the text that was judged."""
        sequence = self.ledger.inbox.append_approved(item.event_sequence, reviewers=reviewers).sequence
        ((original,), (made,)) = (self.ledger.inbox.read(n, n) for n in (item.event_sequence, sequence))
        assert original.event is not None and made.event is not None
        judged, taught = judged_text(original.event), judged_text(made.event)
        if (judged.messages, judged.answer) != (taught.messages, taught.answer):
            raise PlumblineError(
                f"the approval of review item {item.item} would teach another text than the one that was judged",
                consequence="nothing was settled or released",
                remedy="this is a fault of plumbline, please report it; no label is lost",
            )
        return sequence

    def _revise(self, planned: Plan, docket: Docket) -> list[int]:
        """Open a rubric revision for every blocked batch that has none yet."""
        opened = []
        for batch, found in planned.blocked.items():
            rubric = self.reviews.rubric(self.reviews.batches()[batch].rubric)
            assert rubric is not None
            if self.reviews.open_revision(revision(batch, found, docket, rubric)):
                opened.append(batch)
        return opened

    # --- shared ---------------------------------------------------------------------------------------------------

    def current(self, rubric: Rubric) -> list[ReviewItem]:
        """The item of each event under these rule texts; of several (a text that changed) the newest."""
        return current(self.reviews, rubric)

    def docket(self, rubric: Rubric, *, look: bool = True) -> Docket:
        """All that is known of the items under these rule texts; without `look`, every one passes for shown."""
        items = self.current(rubric)
        numbers = [item.item for item in items]
        return Docket(
            items=tuple(items),
            labels=self.reviews.labels(numbers),
            settled=frozenset(self.reviews.settlements(numbers)),
            shown=frozenset(item.item for item, _ in self._consented(items)) if look else frozenset(numbers),
            needed={n: batch.reviewers for n, batch in self.reviews.batches(policy_text_digest(rubric)).items()},
        )

    def _withheld(self, events: Sequence[Queued]) -> list[str]:
        return withheld(events, self.ledger.consent, self.ledger.database.clock())

    def _consented(self, items: Iterable[ReviewItem]) -> list[tuple[ReviewItem, Queued]]:
        """Items whose event is still there and whose person's consent holds."""
        found = [
            (item, queued)
            for item in items
            for queued in self.ledger.inbox.read(item.event_sequence, item.event_sequence)
        ]
        reasons = self._withheld([queued for _, queued in found])
        return [pair for pair, reason in zip(found, reasons, strict=True) if not reason]

    def _shown(self, items: Iterable[ReviewItem]) -> list[tuple[ReviewItem, Queued, JudgedText]]:
        return [(item, q, judged_text(q.event)) for item, q in self._consented(items) if q.event is not None]

    def _read(self, item: ReviewItem, person: str) -> tuple[Queued, JudgedText]:
        for _, queued, text in self._shown([item]):
            if _is_own(queued, person):
                raise _refused(item.item, "it is about the reviewer's own words", "leave it to somebody else")
            return queued, text
        raise _refused(item.item, "its person's consent to training does not hold", "go on with the other items")

    def _digest(self, queued: Queued, text: JudgedText) -> str:
        return self.ledger.subjects.fingerprint(queued.subject, text.canonical_bytes())


def _is_own(queued: Queued, person: str) -> bool:
    author = queued.event.data.author if queued.event is not None else None
    return person in (queued.subject, author)


def _plain(text: str) -> str:
    """Free text without control characters: it goes into terminals, tables and pages."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable()).strip()


def _pseudonym(person: str) -> None:
    if not PSEUDONYM.match(person):
        raise PlumblineError(
            "a reviewer is named by something that is no pseudonym",
            consequence="nothing was shown or recorded: own words could not be told from others'",
            remedy="pass Pseudonyms.of(identity), which looks like s-0123...",
        )


def _refused(item: int, fact: str, remedy: str) -> PlumblineError:
    return PlumblineError(f"review item {item}: {fact}", consequence="no label was recorded", remedy=remedy)
