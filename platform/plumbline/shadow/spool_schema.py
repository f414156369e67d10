"""The spool's tables and the statements that write them; spool.py says what they mean.

`record.consented` is the last entry of the consent ledger when the person's consent was looked up, NULL where nobody
knows: it is what tells words from before a withdrawal from those of a person who came back.
"""

import contextlib
import sqlite3

FORMAT = "2"
# Reasons under which what was said must not stay: nobody agreed to it.
FORGOTTEN = frozenset({"no_consent", "withdrawn", "consent_unavailable"})
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    slice TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'paired', 'shed')),
    reason TEXT,
    record TEXT,
    replayed TEXT,
    change INTEGER,
    consented INTEGER
);
CREATE INDEX IF NOT EXISTS record_pending ON record (seq) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS record_subject ON record (subject);
CREATE INDEX IF NOT EXISTS record_slice ON record (slice, state, reason);
CREATE INDEX IF NOT EXISTS record_change ON record (change);
CREATE TABLE IF NOT EXISTS door (
    slice TEXT NOT NULL, reason TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (slice, reason)
);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS switch (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, tripped INTEGER NOT NULL, reason TEXT NOT NULL
);
"""
RECORD = "INSERT INTO record (subject, slice, record, consented) VALUES (?, ?, ?, ?)"
DOOR = "INSERT INTO door VALUES (?, ?, ?) ON CONFLICT (slice, reason) DO UPDATE SET n = n + excluded.n"
MARK = "INSERT OR IGNORE INTO mark VALUES (?)"
NEXT_CHANGE = "(SELECT COALESCE(MAX(change), 0) + 1 FROM record)"
_LEFT = "seq IN (SELECT seq FROM record WHERE subject = ? AND COALESCE(consented, 0) < ? ORDER BY seq LIMIT ?)"
FORGET = (
    "UPDATE record SET state = 'shed', reason = 'withdrawn', record = NULL, replayed = NULL, subject = '',"
    f" consented = NULL, change = {NEXT_CHANGE} WHERE {_LEFT}"
)
FORGOTTEN_PAIRS = f"SELECT COUNT(*) FROM record WHERE {_LEFT} AND state = 'paired'"
COUNT = "INSERT INTO meta VALUES ('forgotten pairs', ?) ON CONFLICT (key) DO UPDATE SET value = value + excluded.value"
TELL = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """What spools of this format lacked at first: under which entry of the consent ledger a record was taken. Whoever
    comes second finds it there; who knows nothing of it goes on writing beside us."""
    if "consented" not in {row[1] for row in db.execute("PRAGMA table_info(record)")}:
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("ALTER TABLE record ADD COLUMN consented INTEGER")
