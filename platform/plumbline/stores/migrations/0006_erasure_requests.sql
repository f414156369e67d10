-- Erasures that people asked for. The row is written with the withdrawal, before anything is overwritten, and stays open
-- until the last byte is gone: whoever consents again meanwhile is erased all the same, up to these two sequences.
CREATE TABLE erasure_request (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    consent_sequence INTEGER NOT NULL,
    event_sequence INTEGER NOT NULL,
    payloads INTEGER NOT NULL,
    events INTEGER NOT NULL,
    labels INTEGER NOT NULL,
    remediation TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    requested_at TEXT NOT NULL,
    erasure INTEGER,
    completed_at TEXT
) STRICT;
CREATE UNIQUE INDEX one_open_erasure_per_subject ON erasure_request (subject) WHERE completed_at IS NULL;
