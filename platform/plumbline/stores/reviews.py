"""Reviews: who was asked about which answer, what each said, and what followed. Append-only, and without words.

An *item* is one event put to people under one rubric, by the keyed digest of the text they read. A *label* is one
person's word on one item: the first word stands, a correction is a new row that supersedes it, and no row is ever
changed. Free reasons lie in a table of their own, because they may quote and must be erasable. An item is *settled*
once, by its reviewers or by an adjudicator; a settled item takes no more words.

Rubrics are kept whole: to say which judgements a new rubric leaves standing, the old one's rules must be at hand.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from plumbline.errors import PlumblineError
from plumbline.records import Label, Rubric, RubricRevision, Selected, policy_text_digest
from plumbline.stores.database import Database, Row

Role = Literal["reviewer", "adjudicator"]
Decided = Literal["approved", "rejected"]
Basis = Literal["unanimous", "adjudicated"]


@dataclass(frozen=True)
class ReviewBatch:
    """One opening: inbox events (first..last) that were looked through, and how many words each item needs."""

    batch: int
    rubric: str
    policy_text: str
    first_sequence: int
    last_sequence: int
    reviewers: int


@dataclass(frozen=True)
class NewItem:
    event_sequence: int
    subject: str
    what: Selected
    text: str
    previous: int | None = None


@dataclass(frozen=True)
class ReviewItem:
    """`text` is the keyed digest of the `JudgedText`; `previous` the item of the same event that it replaces."""

    item: int
    batch: int
    event_sequence: int
    subject: str
    what: Selected
    rubric: str
    policy_text: str
    text: str
    previous: int | None


@dataclass(frozen=True)
class GivenLabel:
    """A label as it was given. `superseded` says that its author corrected it later."""

    sequence: int
    item: int
    reviewer: str
    role: Role
    label: Label
    supersedes: int | None
    superseded: bool
    recorded_at: str


@dataclass(frozen=True)
class Settlement:
    """What became of an item; `labels` are the sequences it rests on, `approved_by` those who said yes."""

    item: int
    outcome: Decided
    basis: Basis
    labels: tuple[int, ...]
    approved_by: tuple[str, ...]


class Reviews:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- rubrics and batches --------------------------------------------------------------------------------------

    def remember_rubric(self, rubric: Rubric) -> None:
        self._database.execute(
            "INSERT INTO review_rubric (rubric, policy_text, body, recorded_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (rubric.digest, policy_text_digest(rubric), rubric.model_dump_json(), self._database.now()),
        )

    def rubric(self, digest: str) -> Rubric | None:
        body = self._database.value("SELECT body FROM review_rubric WHERE rubric = ?", (digest,))
        return None if body is None else Rubric.model_validate_json(body)

    def latest_rubric(self) -> Rubric | None:
        """The rubric of the last opening; None before the first."""
        digest = self._database.value("SELECT rubric FROM review_batch ORDER BY batch DESC LIMIT 1")
        return None if digest is None else self.rubric(digest)

    def last_considered(self) -> int:
        """The last inbox event that any opening looked at."""
        return int(self._database.value("SELECT COALESCE(MAX(last_sequence), 0) FROM review_batch"))

    def open_batch(
        self, rubric: Rubric, first: int, last: int, items: Sequence[NewItem], *, reviewers: int
    ) -> ReviewBatch:
        """Put items to reviewers, all or none of them."""
        policy_text = policy_text_digest(rubric)
        with self._database.transaction():
            self.remember_rubric(rubric)
            batch = self._database.insert(
                "review_batch",
                rubric=rubric.digest,
                policy_text=policy_text,
                first_sequence=first,
                last_sequence=last,
                reviewers=reviewers,
                opened_at=self._database.now(),
            )
            self._database.insert_many(
                "INSERT INTO review_item (batch, event_sequence, subject, what, rubric, policy_text, text, previous)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        batch,
                        new.event_sequence,
                        new.subject,
                        new.what,
                        rubric.digest,
                        policy_text,
                        new.text,
                        new.previous,
                    )
                    for new in items
                ],
            )
        return ReviewBatch(batch, rubric.digest, policy_text, first, last, reviewers)

    def batches(self, policy_text: str | None = None) -> dict[int, ReviewBatch]:
        """Openings by number: those whose rubric asks for the same judgement, or all."""
        where, parameters = _matching("policy_text", policy_text)
        rows = self._database.rows(f"SELECT * FROM review_batch {where} ORDER BY batch", parameters)
        return {
            row["batch"]: ReviewBatch(
                batch=row["batch"],
                rubric=row["rubric"],
                policy_text=row["policy_text"],
                first_sequence=row["first_sequence"],
                last_sequence=row["last_sequence"],
                reviewers=row["reviewers"],
            )
            for row in rows
        }

    # --- items ----------------------------------------------------------------------------------------------------

    def items(self, policy_text: str | None = None) -> list[ReviewItem]:
        """Every item ever opened (under rules with this digest), oldest first, replaced ones included."""
        where, parameters = _matching("policy_text", policy_text)
        rows = self._database.rows(f"SELECT * FROM review_item {where} ORDER BY item", parameters)
        return [_item(row) for row in rows]

    def items_of(self, event_sequence: int) -> list[ReviewItem]:
        rows = self._database.rows(
            "SELECT * FROM review_item WHERE event_sequence = ? ORDER BY item", (event_sequence,)
        )
        return [_item(row) for row in rows]

    def item(self, number: int) -> ReviewItem:
        row = self._database.row("SELECT * FROM review_item WHERE item = ?", (number,))
        if row is None:
            raise PlumblineError(
                f"there is no review item {number}",
                consequence="nothing was shown or recorded",
                remedy="see `plumb review queue REVIEWER` for the items that wait",
            )
        return _item(row)

    # --- labels ---------------------------------------------------------------------------------------------------

    def add_label(
        self, item: int, reviewer: str, label: Label, *, role: Role = "reviewer", correct: bool = False
    ) -> int:
        """Record a word. PlumblineError for a second one without `correct`, or when the item is settled."""
        with self._database.transaction():
            mine = [given for given in self.labels([item]).get(item, []) if given.reviewer == reviewer]
            if item in self.settlements([item]):
                raise _not_taken(
                    f"review item {item} is settled", "open a new rubric version if it was judged by a bad rule"
                )
            if mine and not correct:
                raise _not_taken(
                    f"{reviewer} has judged review item {item} already", "correct the label instead (--correct)"
                )
            if correct and not mine:
                raise _not_taken(
                    f"{reviewer} has not judged review item {item}", "give a first label, not a correction"
                )
            if mine and mine[0].role != role:
                raise _not_taken(
                    f"{reviewer} was {mine[0].role} of review item {item}", "have somebody else take the other part"
                )
            sequence = self._database.insert(
                "review_label",
                item=item,
                reviewer=reviewer,
                role=role,
                text=label.text,
                verdict=label.verdict,
                severity=label.severity,
                rules=json.dumps(sorted(label.rules)),
                supersedes=mine[0].sequence if mine else None,
                recorded_at=self._database.now(),
            )
            if label.reason:
                self._database.insert("review_reason", label=sequence, reason=label.reason)
        return sequence

    def labels(self, items: Iterable[int] | None = None) -> dict[int, list[GivenLabel]]:
        """The words that stand, by item, in the order in which they were given."""
        return {
            item: standing
            for item, given in self.history(items).items()
            if (standing := [one for one in given if not one.superseded])
        }

    def history(self, items: Iterable[int] | None = None) -> dict[int, list[GivenLabel]]:
        """Every word ever given, corrected ones included."""
        select = (
            "SELECT l.*, r.reason, n.label AS newer FROM review_label l"
            " LEFT JOIN review_reason r ON r.label = l.label LEFT JOIN review_label n ON n.supersedes = l.label"
        )
        found: dict[int, list[GivenLabel]] = {}
        for row in self._of_items(select, "l.item", items, "l.label"):
            found.setdefault(row["item"], []).append(_label(row))
        return found

    # --- what follows ---------------------------------------------------------------------------------------------

    def settle(self, settlement: Settlement) -> None:
        self._database.insert(
            "review_settlement",
            item=settlement.item,
            outcome=settlement.outcome,
            basis=settlement.basis,
            labels=json.dumps(settlement.labels),
            approved_by=json.dumps(settlement.approved_by),
            recorded_at=self._database.now(),
        )

    def settlements(self, items: Iterable[int] | None = None) -> dict[int, Settlement]:
        rows = self._of_items("SELECT * FROM review_settlement", "item", items, "item")
        return {
            row["item"]: Settlement(
                item=row["item"],
                outcome=row["outcome"],
                basis=row["basis"],
                labels=tuple(json.loads(row["labels"])),
                approved_by=tuple(json.loads(row["approved_by"])),
            )
            for row in rows
        }

    def record_release(self, event_sequence: int, item: int, released: int) -> None:
        """Remember that an event's answer was released, as inbox event `released`. An event is released once."""
        self._database.insert(
            "review_release",
            event_sequence=event_sequence,
            item=item,
            released_sequence=released,
            recorded_at=self._database.now(),
        )

    def released(self) -> dict[int, int]:
        """Released events, with the item that released each."""
        rows = self._database.rows("SELECT event_sequence, item FROM review_release ORDER BY event_sequence")
        return {row["event_sequence"]: row["item"] for row in rows}

    def reviewers_of(self, event_sequence: int) -> tuple[str, ...]:
        """Pseudonyms of those whose yes released an answer, by the event that it was said in or the one that its
        release made; empty when it was not released."""
        text = self._database.value(
            "SELECT s.approved_by FROM review_release r JOIN review_settlement s ON s.item = r.item"
            " WHERE r.event_sequence = ? OR r.released_sequence = ?",
            (event_sequence, event_sequence),
        )
        return () if text is None else tuple(json.loads(text))

    def rubric_of(self, event_sequence: int) -> str | None:
        """Digest of the rubric under which an event's answer was released; None when it was not."""
        found: str | None = self._database.value(
            "SELECT i.rubric FROM review_release r JOIN review_item i ON i.item = r.item WHERE r.event_sequence = ?",
            (event_sequence,),
        )
        return found

    def open_revision(self, revision: RubricRevision) -> bool:
        """Ask for a better rubric; once per batch. Returns whether it is new."""
        return bool(
            self._database.execute(
                "INSERT INTO review_revision (batch, body, opened_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (revision.batch, revision.model_dump_json(), self._database.now()),
            )
        )

    def close_revision(self, batch: int, rubric: Rubric) -> None:
        with self._database.transaction():
            self.remember_rubric(rubric)
            self._database.execute(
                "INSERT INTO review_revision_closed (revision, rubric, closed_at)"
                " SELECT revision, ?, ? FROM review_revision WHERE batch = ?",
                (rubric.digest, self._database.now(), batch),
            )

    def revisions(self) -> list[RubricRevision]:
        rows = self._database.rows(
            "SELECT r.body, c.rubric FROM review_revision r LEFT JOIN review_revision_closed c"
            " ON c.revision = r.revision ORDER BY r.revision"
        )
        opened = [RubricRevision.model_validate_json(row["body"]) for row in rows]
        return [
            revision.model_copy(update={"closed_by": row["rubric"]}) for revision, row in zip(opened, rows, strict=True)
        ]

    def erase(self, subject: str) -> int:
        """Erase the free reasons about a subject's answers and those the subject gave. Verdicts and digests stay."""
        return self._database.execute(
            "DELETE FROM review_reason WHERE label IN (SELECT l.label FROM review_label l"
            " JOIN review_item i ON i.item = l.item WHERE i.subject = ? OR l.reviewer = ?)",
            (subject, subject),
        )

    def _of_items(self, select: str, column: str, items: Iterable[int] | None, order: str) -> list[Row]:
        """Rows about all items, or about these; those of one item are in order."""
        if items is None:
            return self._database.rows(f"{select} ORDER BY {order}")
        return self._database.rows_in(f"{select} WHERE {column} IN ({{marks}}) ORDER BY {order}", items)


def _matching(column: str, value: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if value is None else (f"WHERE {column} = ?", (value,))


def _item(row: Row) -> ReviewItem:
    return ReviewItem(**{name: row[name] for name in ReviewItem.__dataclass_fields__})


def _label(row: Row) -> GivenLabel:
    label = Label(
        text=row["text"],
        verdict=row["verdict"],
        rules=tuple(json.loads(row["rules"])),
        severity=row["severity"],
        reason=row["reason"] or "",
    )
    return GivenLabel(
        sequence=row["label"],
        item=row["item"],
        reviewer=row["reviewer"],
        role=row["role"],
        label=label,
        supersedes=row["supersedes"],
        superseded=row["newer"] is not None,
        recorded_at=row["recorded_at"],
    )


def _not_taken(fact: str, remedy: str) -> PlumblineError:
    return PlumblineError(fact, consequence="the label was not taken; the first word stands", remedy=remedy)
