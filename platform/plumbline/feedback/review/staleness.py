"""What another rubric leaves standing: judgements by rules that read as before, and nothing else.

An item that was settled by a rule whose text has changed (or is gone) needs review again, and so does everything that
was not settled. What is compared are the texts of rules, by area: a rubric whose margins alone moved changes nothing
here, and one that goes back to earlier texts finds the earlier judgements again.
"""

from dataclasses import dataclass

from plumbline.records import Rubric, RubricRevision, changed_rules, policy_text_digest
from plumbline.stores.reviews import ReviewItem, Reviews


@dataclass(frozen=True)
class Stale:
    """Under another rubric: items not settled, items settled by a rule that changed, and events released by those."""

    unsettled: tuple[ReviewItem, ...]
    settled: tuple[ReviewItem, ...]
    released: tuple[int, ...]


def current(reviews: Reviews, rubric: Rubric) -> list[ReviewItem]:
    """The item of each event under these rule texts; of several (a text that changed) the newest."""
    newest = {item.event_sequence: item for item in reviews.items(policy_text_digest(rubric))}
    return sorted(newest.values(), key=lambda item: item.item)


def stale(reviews: Reviews, rubric: Rubric) -> Stale:
    newest = {item.event_sequence: item for item in reviews.items()}
    here = {item.event_sequence for item in current(reviews, rubric)}
    older = [item for event, item in newest.items() if event not in here]
    settled = reviews.settlements(item.item for item in older)
    labels = reviews.labels(item.item for item in older)
    changed = {digest: _changed(reviews, digest, rubric) for digest in {item.rubric for item in older}}

    def rests_on_a_changed_rule(item: ReviewItem) -> bool:
        return any(changed[item.rubric] & set(given.label.rules) for given in labels.get(item.item, ()))

    judged = tuple(item for item in older if item.item in settled and rests_on_a_changed_rule(item))
    released = reviews.released()
    return Stale(
        unsettled=tuple(item for item in older if item.item not in settled),
        settled=judged,
        released=tuple(item.event_sequence for item in judged if item.event_sequence in released),
    )


def answered(reviews: Reviews, rubric: Rubric) -> list[RubricRevision]:
    """Open revisions that this rubric answers: it changes a rule that they name."""
    asked = (one for one in reviews.revisions() if one.state == "open")
    return [one for one in asked if _changed(reviews, one.rubric, rubric) & {area for area, _ in one.rules}]


def _changed(reviews: Reviews, older: str, rubric: Rubric) -> frozenset[str]:
    known = reviews.rubric(older)
    return frozenset() if known is None else changed_rules(known, rubric)
