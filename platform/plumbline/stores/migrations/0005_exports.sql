-- Copies that left the house. Erasure does not reach them, so each is written down before its first byte is, and stays
-- on the list until somebody says that it is gone or the place holds a newer one. `digest` is NULL while an export is
-- being written; `consent_sequence` says which withdrawals it had already heeded.

CREATE TABLE export (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    version INTEGER NOT NULL,
    dataset_digest TEXT NOT NULL,
    format TEXT NOT NULL CHECK (format IN ('parquet', 'messages', 'delta')),
    location TEXT NOT NULL,
    with_subjects INTEGER NOT NULL CHECK (with_subjects IN (0, 1)),
    consent_sequence INTEGER NOT NULL,
    begun_at TEXT NOT NULL,
    digest TEXT,
    examples INTEGER,
    left_out INTEGER,
    ended_at TEXT,
    ended_because TEXT
) STRICT;
CREATE INDEX export_by_version ON export (dataset, version);
CREATE INDEX export_by_location ON export (location);
CREATE TRIGGER export_no_delete BEFORE DELETE ON export
BEGIN SELECT RAISE(ABORT, 'an export is ended, never forgotten'); END;
