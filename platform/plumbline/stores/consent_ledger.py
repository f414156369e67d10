"""The consent ledger: an append-only hash chain of who allowed what, under which notice, until when.

Default deny. A subject is covered for a purpose when the *latest* entry that names the purpose gave it, under a
registered notice, and has not expired. Latest is by sequence: a clock that jumps cannot reorder consent.

The chain finds alteration, reordering and loss inside it. Cutting entries off its end leaves a shorter chain
that still hashes; only a head remembered elsewhere shows that. Every published version remembers one, and
`verify(pin=...)` takes another from outside the database.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.records import GENESIS, ConsentEntry, Notice, Purpose, digest_bytes
from plumbline.records.consent import ConsentAction
from plumbline.stores.database import Database, timestamp


@dataclass(frozen=True)
class ConsentHead:
    """The last entry's sequence and digest: (0, GENESIS) for an empty ledger. Pin it outside the database."""

    sequence: int
    digest: str


@dataclass(frozen=True)
class Coverage:
    """Whether a purpose is covered and, if not, why: `no_consent`, `consent_withdrawn` or `consent_expired`.

    `sequence` is the entry that decided (0 when there is none).
    """

    covered: bool
    reason: str
    sequence: int


@dataclass(frozen=True)
class LedgerCheck:
    valid: bool
    head: ConsentHead
    problem: str | None = None


class ConsentLedger:
    def __init__(self, database: Database) -> None:
        self._database = database

    def register_notice(self, id: str, version: str, text: str, *, language: str = "en") -> Notice:
        """Make a notice known. The same id, version and language never stands for two texts."""
        notice = Notice(id=id, version=version, language=language, text_digest=digest_bytes(text.encode()))
        with self._database.transaction():
            known = self._database.value(
                "SELECT digest FROM notice WHERE id = ? AND version = ? AND language = ?", (id, version, language)
            )
            if known is None:
                self._database.insert(
                    "notice", digest=notice.digest, id=id, version=version, language=language, text=text
                )
            elif known != notice.digest:
                raise PlumblineError(
                    f"notice {id} {version} ({language}) is registered with another text",
                    consequence="people agreed to that text, so it is not replaced",
                    remedy="register the new text under a new version",
                )
        return notice

    def find_notice(self, id: str, version: str, *, language: str = "en") -> Notice:
        row = self._database.row(
            "SELECT * FROM notice WHERE id = ? AND version = ? AND language = ?", (id, version, language)
        )
        if row is None:
            raise _unknown_notice(f"{id} {version} ({language})")
        text = row["text"].encode()
        return Notice(id=row["id"], version=row["version"], language=row["language"], text_digest=digest_bytes(text))

    def append(
        self,
        subject: str,
        action: ConsentAction,
        purposes: Sequence[Purpose],
        notice: Notice,
        *,
        valid_until: datetime | None = None,
        method: str = "api",
    ) -> ConsentEntry:
        """Add one entry to the chain; durable when it returns. `subject` is a pseudonym."""
        if valid_until is not None and valid_until.tzinfo is None:
            raise PlumblineError(
                f"valid_until {valid_until.isoformat()} has no time zone",
                consequence="the consent is not recorded: it would end at an unclear moment",
                remedy="give a time with an offset, for example 2027-01-31T00:00:00Z",
            )
        with self._database.transaction():
            if self._database.value("SELECT 1 FROM notice WHERE digest = ?", (notice.digest,)) is None:
                raise _unknown_notice(f"{notice.id} {notice.version} ({notice.language})")
            head = self.head()
            entry = ConsentEntry(
                sequence=head.sequence + 1,
                subject=subject,
                action=action,
                purposes=tuple(sorted(set(purposes))),
                notice=notice,
                recorded_at=self._database.now(),
                valid_until=None if valid_until is None else timestamp(valid_until),
                method=method,
                previous=head.digest,
            )
            self._database.insert(
                "consent",
                sequence=entry.sequence,
                subject=subject,
                digest=entry.digest,
                entry=entry.model_dump_json(),
            )
            for purpose in entry.purposes:
                self._database.insert(
                    "consent_purpose",
                    subject=subject,
                    purpose=purpose,
                    sequence=entry.sequence,
                    action=action,
                    valid_until=entry.valid_until,
                )
            return entry

    def head(self) -> ConsentHead:
        row = self._database.row("SELECT sequence, digest FROM consent ORDER BY sequence DESC LIMIT 1")
        return ConsentHead(0, GENESIS) if row is None else ConsentHead(row["sequence"], row["digest"])

    def head_at(self, sequence: int) -> ConsentHead:
        """The head as it was at a sequence."""
        digest = self._database.value("SELECT digest FROM consent WHERE sequence = ?", (sequence,))
        return ConsentHead(sequence, GENESIS if digest is None else digest)

    def entries(self, subject: str | None = None) -> list[ConsentEntry]:
        """A subject's entries, or all, oldest first."""
        where, parameters = ("", ()) if subject is None else ("WHERE subject = ?", (subject,))
        rows = self._database.rows(f"SELECT entry FROM consent {where} ORDER BY sequence", parameters)
        return [ConsentEntry.model_validate_json(row["entry"]) for row in rows]

    def covers(self, subject: str, purpose: Purpose, at_sequence: int, now: datetime) -> Coverage:
        """Whether `purpose` was covered as of ledger entry `at_sequence`, with validity judged at `now`."""
        row = self._database.row(
            "SELECT sequence, action, valid_until FROM consent_purpose"
            " WHERE subject = ? AND purpose = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
            (subject, purpose, at_sequence),
        )
        if row is None:
            return Coverage(False, "no_consent", 0)
        if row["action"] == "withdrawn":
            return Coverage(False, "consent_withdrawn", row["sequence"])
        if row["valid_until"] is not None and row["valid_until"] <= timestamp(now):
            return Coverage(False, "consent_expired", row["sequence"])
        return Coverage(True, "covered", row["sequence"])

    def withdrawn_between(self, purpose: Purpose, after: int, up_to: int) -> set[str]:
        """Subjects with a withdrawal of `purpose` in the entries (after, up_to], even if they consented again."""
        rows = self._database.rows(
            "SELECT DISTINCT subject FROM consent_purpose"
            " WHERE purpose = ? AND action = 'withdrawn' AND sequence > ? AND sequence <= ?",
            (purpose, after, up_to),
        )
        return {row["subject"] for row in rows}

    def verify(self, pin: ConsentHead | None = None) -> LedgerCheck:
        """Recompute the whole chain, the per-purpose index and every remembered head. Reads all entries."""
        head, problem = self._chain()
        if problem is None:
            problem = self._missing_pin([pin] if pin is not None else [], "the pinned head")
        if problem is None:
            rows = self._database.rows("SELECT DISTINCT consent_sequence, consent_head FROM publication")
            problem = self._missing_pin([ConsentHead(row[0], row[1]) for row in rows], "a published version's head")
        return LedgerCheck(problem is None, head, problem)

    def require_valid(self, pin: ConsentHead | None = None) -> ConsentHead:
        """The verified head. PlumblineError when the ledger does not verify: fail closed."""
        check = self.verify(pin)
        if check.problem is not None:
            raise PlumblineError(
                f"the consent ledger does not verify: {check.problem}",
                consequence="nothing is published; events stay in the inbox and nothing is lost",
                remedy="compare the ledger with a backup and its pinned head; `plumb consent verify` shows the entry",
            )
        return check.head

    def _chain(self) -> tuple[ConsentHead, str | None]:
        head = ConsentHead(0, GENESIS)
        indexed: dict[int, set[tuple[str, str, str, str | None]]] = {}
        for row in self._database.rows("SELECT * FROM consent_purpose"):
            fact = (row["subject"], row["purpose"], row["action"], row["valid_until"])
            indexed.setdefault(row["sequence"], set()).add(fact)
        for row in self._database.rows("SELECT * FROM consent ORDER BY sequence"):
            expected = head.sequence + 1
            try:
                entry = ConsentEntry.model_validate_json(row["entry"])
            except ValidationError:
                return head, f"entry {row['sequence']} cannot be read"
            if row["sequence"] != expected or entry.sequence != expected:
                return head, f"entry {expected} is missing or out of place"
            if entry.digest != row["digest"] or entry.subject != row["subject"]:
                return head, f"entry {expected} was altered"
            if entry.previous != head.digest:
                return head, f"entry {expected} does not follow the one before it"
            facts = {(entry.subject, purpose, entry.action, entry.valid_until) for purpose in entry.purposes}
            if indexed.pop(expected, None) != facts:
                return head, f"the purposes indexed for entry {expected} are not the entry's"
            head = ConsentHead(expected, entry.digest)
        if indexed:
            return head, f"purposes are indexed for entry {min(indexed)}, which does not exist"
        return head, None

    def _missing_pin(self, pins: Iterable[ConsentHead], what: str) -> str | None:
        for pin in pins:
            if self.head_at(pin.sequence).digest != pin.digest:
                return f"{what} (entry {pin.sequence}) is not in the chain: entries were cut off or rewritten"
        return None


def _unknown_notice(name: str) -> PlumblineError:
    return PlumblineError(
        f"the notice {name} is not registered",
        consequence="the consent is not recorded: consent to an unknown text is no consent",
        remedy="register the notice's text first",
    )
