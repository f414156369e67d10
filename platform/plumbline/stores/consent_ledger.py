"""The consent ledger: an append-only hash chain of who allowed what, under which notice, until when.

Default deny. A subject is covered for a purpose when the *latest* entry that names the purpose gave it (or
reaffirmed what stood), under a registered notice, and has not expired; a minor's only with a guardian. Latest is by
sequence: a clock that jumps cannot reorder consent.

The chain finds alteration, reordering and loss inside it. Cutting entries off its end leaves a shorter chain
that still hashes; only a head remembered elsewhere shows that. Every published version remembers one, and
`verify(pin=...)` takes another from outside the database.

Ingestion asks in bulk: `standings` for the people of new events, each of whose entries is hashed again on the way;
`ended` for those who must leave, by index; `verify_since` for the entries that came after a head it trusts.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from plumbline.errors import PlumblineError
from plumbline.records import (
    GENESIS,
    GRANTS,
    PURPOSES,
    ConsentAction,
    ConsentEntry,
    ConsentTerms,
    Notice,
    Purpose,
    digest_bytes,
)
from plumbline.stores.consent_chain import ConsentHead, LedgerCheck, check_chain, missing_heads
from plumbline.stores.database import Database, Row, timestamp
from plumbline.stores.standing import Change, Coverage, Standing, entry_content, entry_digest, flaw_of

_CHUNK = 500
_ENDED = "action IN ('withdrawn', 'refused', 'expired')"


@dataclass(frozen=True)
class FullCheck:
    """A verification that read the whole chain and found it sound, up to `head`."""

    head: ConsentHead
    verified_at: str


class ConsentLedger:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- notices ----------------------------------------------------------------------------------------------

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
        for notice, _ in self.notices():
            if (notice.id, notice.version, notice.language) == (id, version, language):
                return notice
        raise _unknown_notice(f"{id} {version} ({language})")

    def notices(self) -> list[tuple[Notice, str]]:
        """Every registered notice with its text."""
        rows = self._database.rows("SELECT id, version, language, text FROM notice ORDER BY id, version, language")
        return [(Notice(id=i, version=v, language=n, text_digest=digest_bytes(t.encode())), t) for i, v, n, t in rows]

    # --- writing ----------------------------------------------------------------------------------------------

    def append(
        self,
        subject: str,
        action: ConsentAction,
        purposes: Sequence[Purpose],
        notice: Notice,
        *,
        valid_until: datetime | None = None,
        method: str = "api",
        terms: ConsentTerms | None = None,
    ) -> ConsentEntry:
        """Add one entry to the chain; durable when it returns. `subject` is a pseudonym."""
        if valid_until is not None and valid_until.tzinfo is None:
            raise PlumblineError(
                f"valid_until {valid_until.isoformat()} has no time zone",
                consequence="the consent is not recorded: it would end at an unclear moment",
                remedy="give a time with an offset, for example 2027-01-31T00:00:00Z",
            )
        if valid_until is not None and not 2000 <= valid_until.year <= 9000:
            raise PlumblineError(
                f"valid_until is in the year {valid_until.year}",
                consequence="the consent is not recorded: such a time is a slip",
                remedy="give the day on which the consent ends, or leave it out",
            )
        with self._database.transaction():
            known = self._database.value("SELECT 1 FROM notice WHERE digest = ?", (notice.digest,))
            if action in GRANTS and known is None:  # a withdrawal never fails for want of a notice
                raise _unknown_notice(f"{notice.id} {notice.version} ({notice.language})")
            if action == "reaffirmed":
                self._require_standing(subject, purposes)
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
                terms=terms or ConsentTerms(),
                previous=head.digest,
            )
            data = entry.canonical_bytes()
            self._database.insert(
                "consent", sequence=entry.sequence, subject=subject, digest=digest_bytes(data), entry=data.decode()
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

    def _require_standing(self, subject: str, purposes: Sequence[Purpose]) -> None:
        for purpose in purposes:
            stands = self.covers(subject, purpose, self.head().sequence, self._database.clock())
            if not stands.covered:
                raise PlumblineError(
                    f"consent to {purpose} cannot be reaffirmed: {stands.reason.replace('_', ' ')}",
                    consequence="nothing was recorded: what does not stand cannot be said again",
                    remedy="ask the person anew, and record their answer as given or refused",
                )

    # --- reading ----------------------------------------------------------------------------------------------

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
        return [ConsentEntry.model_validate(entry_content(row["entry"])) for row in rows]

    def covers(self, subject: str, purpose: Purpose, at_sequence: int, now: datetime) -> Coverage:
        """Whether `purpose` was covered as of ledger entry `at_sequence`, with validity judged at `now`."""
        return self.standings([subject], purpose)[subject].covers(at_sequence, now)

    def standings(self, subjects: Collection[str], purpose: str) -> dict[str, Standing]:
        """Where each subject stands with a purpose, also those whom the ledger does not know.

        Each entry consulted is hashed again and compared with the index beside it. PlumblineError when they differ.
        """
        if purpose not in PURPOSES:
            return {subject: Standing(subject, purpose, unknown=True) for subject in subjects}
        notices = {(n.id, n.version, n.language, n.text_digest) for n, _ in self.notices()}
        found: dict[str, list[Change]] = {subject: [] for subject in subjects}
        everyone = list(found)
        for start in range(0, len(everyone), _CHUNK):
            some = everyone[start : start + _CHUNK]
            entries, index = self._entries_and_index(some, purpose)
            indexed = {(row[0], row[1]): (row[2], row[3]) for row in index}
            for sequence, subject, digest, text in entries:
                change = _change(sequence, subject, digest, text, purpose, notices)
                if change is not None:
                    found[subject].append(change)
                if indexed.pop((sequence, subject), None) != (change and (change.action, change.valid_until)):
                    raise _does_not_verify(f"the purposes indexed for entry {sequence} are not the entry's")
            if indexed:
                raise _does_not_verify(f"purposes are indexed for entry {min(indexed)[0]}, which does not exist")
        return {subject: Standing(subject, purpose, tuple(changes)) for subject, changes in found.items()}

    def _entries_and_index(self, subjects: Sequence[str], purpose: str) -> tuple[list[Row], list[Row]]:
        """As of one sequence: entries are appended while others read, and the index must not be ahead of them."""
        up_to = self.head().sequence
        entries = self._database.rows_in(
            "SELECT sequence, subject, digest, entry FROM consent WHERE sequence <= ? AND subject IN ({marks})"
            " ORDER BY sequence",
            subjects,
            before=(up_to,),
        )
        index = self._database.rows_in(
            "SELECT sequence, subject, action, valid_until FROM consent_purpose"
            " WHERE sequence <= ? AND purpose = ? AND subject IN ({marks})",
            subjects,
            before=(up_to, purpose),
        )
        return entries, index

    def withdrawn_between(self, purpose: Purpose, after: int, up_to: int) -> set[str]:
        """Subjects whose consent to `purpose` ended in the entries (after, up_to], even if they consented again."""
        rows = self._database.rows(
            f"SELECT DISTINCT subject FROM consent_purpose WHERE purpose = ? AND {_ENDED}"
            " AND sequence > ? AND sequence <= ?",
            (purpose, after, up_to),
        )
        return {row["subject"] for row in rows}

    def ended(self, purpose: Purpose, *, after: int, now: datetime, checked: datetime | str | None = None) -> set[str]:
        """Subjects whose consent ended after entry `after`, even if given again, or whose latest has expired by `now`.

        Read from the index: as many rows as there are changes. `checked` is the clock's reading when the parent
        version was checked; what had expired by then is left out, since that check left it out already.
        """
        moment = timestamp(now)
        since = "" if checked is None else checked if isinstance(checked, str) else timestamp(checked)
        rows = self._database.rows(
            "SELECT subject FROM consent_purpose AS latest WHERE purpose = ? AND valid_until IS NOT NULL"
            " AND valid_until > ? AND valid_until <= ? AND NOT EXISTS (SELECT 1 FROM consent_purpose AS later"
            " WHERE later.subject = latest.subject AND later.purpose = latest.purpose"
            " AND later.sequence > latest.sequence)",
            (purpose, since, moment),
        )
        return (
            {row["subject"] for row in rows}
            | self.withdrawn_between(purpose, after, 2**62)
            | self._lapsed(purpose, after, now)
        )

    def _lapsed(self, purpose: Purpose, after: int, now: datetime) -> set[str]:
        """Subjects whose newer entry gives and yet covers nothing: a minor's without a guardian, an unknown notice."""
        rows = self._database.rows(
            f"SELECT DISTINCT subject FROM consent_purpose WHERE purpose = ? AND sequence > ? AND NOT ({_ENDED})",
            (purpose, after),
        )
        standings = self.standings([row["subject"] for row in rows], purpose)
        return {subject for subject, standing in standings.items() if not standing.covers(2**62, now).covered}

    # --- verifying --------------------------------------------------------------------------------------------

    def verify(self, pin: ConsentHead | None = None) -> LedgerCheck:
        """Hash the whole chain again, compare the per-purpose index and every remembered head. Reads all entries."""
        check = self._check(None, pin)
        if check.valid:
            self._database.insert(
                "consent_audit",
                sequence=check.head.sequence,
                digest=check.head.digest,
                verified_at=self._database.now(),
            )
        return check

    def verify_since(self, head: ConsentHead, pin: ConsentHead | None = None) -> LedgerCheck:
        """The chain from a trusted head on, and that the head itself is in place. Reads the entries after it only."""
        return self._check(head, pin)

    def last_full(self) -> FullCheck | None:
        """The last time that the whole chain was read and found sound."""
        row = self._database.row("SELECT sequence, digest, verified_at FROM consent_audit ORDER BY number DESC LIMIT 1")
        return None if row is None else FullCheck(ConsentHead(row[0], row[1]), row[2])

    def require_valid(self, pin: ConsentHead | None = None, *, since: ConsentHead | None = None) -> ConsentHead:
        """The verified head. PlumblineError when the ledger does not verify: fail closed."""
        check = self.verify(pin) if since is None else self.verify_since(since, pin)
        if check.problem is not None:
            raise _does_not_verify(check.problem)
        return check.head

    def _check(self, since: ConsentHead | None, pin: ConsentHead | None) -> LedgerCheck:
        head, problem = check_chain(self._database, since)
        if problem is None and pin is not None and missing_heads(self._database, [pin]):
            problem = _gone("the pinned head", pin)
        if problem is None:
            rows = self._database.rows(
                "SELECT DISTINCT consent_sequence, consent_head FROM publication WHERE consent_sequence > ?",
                (since.sequence if since else -1,),
            )
            missing = missing_heads(self._database, [ConsentHead(row[0], row[1]) for row in rows])
            problem = None if missing is None else _gone("a published version's head", missing)
        return LedgerCheck(problem is None, head, problem)


def _change(
    sequence: int, subject: str, digest: str, text: str, purpose: str, notices: set[tuple[str, str, str, str]]
) -> Change | None:
    """What a stored entry says of one purpose; None when it does not name it."""
    try:
        content = entry_content(text)
        if entry_digest(text) != digest or content["subject"] != subject or content["sequence"] != sequence:
            raise _does_not_verify(f"entry {sequence} was altered")
        if purpose not in content["purposes"]:
            return None
        action = content["action"]
        flaw = flaw_of(content, notices) if action in GRANTS else ""
        return Change(sequence, action, content["valid_until"], flaw)
    except (ValueError, KeyError, TypeError):
        raise _does_not_verify(f"entry {sequence} cannot be read") from None


def _does_not_verify(problem: str) -> PlumblineError:
    return PlumblineError(
        f"the consent ledger does not verify: {problem}",
        consequence="nothing is published; events stay in the inbox and nothing is lost",
        remedy="compare the ledger with a backup and its pinned head; `plumb consent verify` shows the entry",
    )


def _gone(what: str, head: ConsentHead) -> str:
    return f"{what} (entry {head.sequence}) is not in the chain: entries were cut off or rewritten"


def _unknown_notice(name: str) -> PlumblineError:
    return PlumblineError(
        f"the notice {name} is not registered",
        consequence="the consent is not recorded: consent to an unknown text is no consent",
        remedy="register its text first: `plumb consent notice add ID@VERSION FILE`",
    )
