"""Reading the consent chain for tampering: each entry is hashed and compared, and so is the index beside it.

The stored text of an entry *is* its canonical bytes, so that no record has to be built to check it. Entries are read
in ranges: a long chain needs no long memory, and others write meanwhile.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from plumbline.records import GENESIS
from plumbline.stores.bulk import undisturbed
from plumbline.stores.database import Database
from plumbline.stores.standing import entry_content, entry_digest

_RANGE = 20_000
Index = tuple[str, str, str, str]  # purposes as the entry writes them, action, validity as it writes it, subject
_NO_INDEX: Index = ("", "", "", "")


@dataclass(frozen=True)
class ConsentHead:
    """The last entry's sequence and digest: (0, GENESIS) for an empty ledger. Pin it outside the database."""

    sequence: int
    digest: str


@dataclass(frozen=True)
class LedgerCheck:
    valid: bool
    head: ConsentHead
    problem: str | None = None


def check_chain(database: Database, since: ConsentHead | None = None) -> tuple[ConsentHead, str | None]:
    """The head as far as the chain and its index hold, and what is wrong after it. From a trusted head on, only the
    entries after it are read, and its own."""
    head = since or ConsentHead(0, GENESIS)
    problem = _moved(database, since) if since is not None and since.sequence else None
    while problem is None:
        rows = database.rows(
            "SELECT sequence, subject, digest, entry FROM consent WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (head.sequence, _RANGE),
        )
        if not rows:
            break
        with undisturbed():
            head, problem = _linked(rows, head, _indexed(database, head.sequence, rows[-1]["sequence"]))
    if problem is None and (odd := database.value("SELECT MIN(sequence) FROM consent WHERE sequence < 1")) is not None:
        problem = f"entry {odd} is out of place"
    if problem is None:
        orphan = database.value(
            "SELECT MIN(sequence) FROM consent_purpose WHERE (sequence > ? OR sequence < 1)"
            " AND sequence NOT IN (SELECT sequence FROM consent WHERE sequence > ?)",
            (head.sequence, head.sequence),
        )
        if orphan is not None:
            problem = f"purposes are indexed for entry {orphan}, which does not exist"
    return head, problem


def missing_heads(database: Database, heads: list[ConsentHead]) -> ConsentHead | None:
    """The first head that is not in the chain; the empty chain's head always is."""
    for start in range(0, len(heads), 500):
        wanted = heads[start : start + 500]
        marks = ", ".join("?" * len(wanted))
        found = dict[int, str](
            (row[0], row[1])
            for row in database.rows(
                f"SELECT sequence, digest FROM consent WHERE sequence IN ({marks})", [h.sequence for h in wanted]
            )
        )
        for head in wanted:
            if (found.get(head.sequence) if head.sequence else GENESIS) != head.digest:
                return head
    return None


def _linked(rows: list[Any], head: ConsentHead, indexed: dict[int, Index]) -> tuple[ConsentHead, str | None]:
    """The last head that holds, and why the entry after it does not."""
    expected, previous = head.sequence, head.digest
    for sequence, subject, digest, text in rows:
        expected += 1
        index = indexed.get(sequence, _NO_INDEX)
        if (
            sequence != expected
            or digest != "sha256:" + sha256(text.encode()).hexdigest()
            or not _says(text, sequence, subject, previous, index)
        ):
            problem = _difference(expected, previous, (sequence, subject, digest, text), index)
            if problem is not None:
                return ConsentHead(expected - 1, previous), problem
        previous = digest
    return ConsentHead(expected, previous), None


def _says(text: str, sequence: int, subject: str, previous: str, index: Index) -> bool:
    """Whether a stored entry says just what its columns and its index say. Quotation marks inside a JSON string are
    escaped, so none of these patterns can be found inside one."""
    purposes, action, until, who = index
    return (
        who == subject
        and '"' not in subject
        and f'"previous":"{previous}","purposes":[{purposes}],"recorded_at":"' in text
        and f'"sequence":{sequence},"subject":"{subject}","terms":{{' in text
        and text.startswith(f'{{"content":{{"action":"{action}","method":"')
        and text.endswith(f'"valid_until":{until}}},"schema":"plumbline.dev/consent-entry/v2"}}')
    )


def _difference(expected: int, previous: str, row: tuple[int, str, str, str], index: Index) -> str | None:
    """What is wrong with an entry, from reading it; None for a sound one that was stored in an older form."""
    sequence, subject, digest, text = row
    try:
        content = entry_content(text)
        until, purposes = content["valid_until"], ",".join(f'"{purpose}"' for purpose in content["purposes"])
        stated = (purposes, content["action"], "null" if until is None else f'"{until}"', content["subject"])
        if sequence != expected or content["sequence"] != sequence:
            return f"entry {expected} is missing or out of place"
        if entry_digest(text) != digest or content["subject"] != subject:
            return f"entry {sequence} was altered"
        if content["previous"] != previous:
            return f"entry {sequence} does not follow the one before it"
        if index != stated:
            return f"the purposes indexed for entry {sequence} are not the entry's"
    except (ValueError, KeyError, TypeError):
        return f"entry {sequence} cannot be read"
    return None


def _indexed(database: Database, after: int, up_to: int) -> dict[int, Index]:
    """What the index says of each entry. Rows that disagree among themselves are no entry's."""
    found: dict[int, Index] = {}
    for sequence, purpose, action, valid_until, subject in database.rows(
        "SELECT sequence, purpose, action, valid_until, subject FROM consent_purpose"
        " WHERE sequence > ? AND sequence <= ? ORDER BY sequence, purpose",
        (after, up_to),
    ):
        rest = (action, "null" if valid_until is None else f'"{valid_until}"', subject)
        if sequence in found:
            purposes, *before = found[sequence]
            found[sequence] = (f'{purposes},"{purpose}"', *rest) if tuple(before) == rest else _NO_INDEX
        else:
            found[sequence] = (f'"{purpose}"', *rest)
    return found


def _moved(database: Database, head: ConsentHead) -> str | None:
    row = database.row("SELECT digest, entry FROM consent WHERE sequence = ?", (head.sequence,))
    if row is None or row["digest"] != head.digest:
        return f"the trusted head (entry {head.sequence}) is not in the chain: entries were cut off or rewritten"
    try:
        return None if entry_digest(row["entry"]) == head.digest else f"entry {head.sequence} was altered"
    except ValueError:
        return f"entry {head.sequence} cannot be read"
