-- Consent: more actions, the two questions of ingestion answered by index, and when the chain was last read whole.
-- `consent_purpose` is made anew because its CHECK named two actions; its rows are copied as they are.

CREATE TABLE consent_purpose_v2 (
    subject TEXT NOT NULL,
    purpose TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES consent (sequence),
    action TEXT NOT NULL CHECK (action IN ('given', 'reaffirmed', 'withdrawn', 'refused', 'expired')),
    valid_until TEXT,
    PRIMARY KEY (subject, purpose, sequence)
) STRICT;
INSERT INTO consent_purpose_v2 (subject, purpose, sequence, action, valid_until)
    SELECT subject, purpose, sequence, action, valid_until FROM consent_purpose;
DROP TABLE consent_purpose;
ALTER TABLE consent_purpose_v2 RENAME TO consent_purpose;
CREATE INDEX consent_purpose_by_sequence ON consent_purpose (sequence, purpose, action, valid_until, subject);
CREATE INDEX consent_ended ON consent_purpose (purpose, sequence) WHERE action IN ('withdrawn', 'refused', 'expired');
CREATE INDEX consent_expiring ON consent_purpose (purpose, valid_until) WHERE valid_until IS NOT NULL;
CREATE TRIGGER consent_purpose_never_updated BEFORE UPDATE ON consent_purpose
BEGIN SELECT RAISE(ABORT, 'consent is append-only'); END;
CREATE TRIGGER consent_purpose_never_deleted BEFORE DELETE ON consent_purpose
BEGIN SELECT RAISE(ABORT, 'consent is append-only'); END;

CREATE TABLE consent_audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL,
    verified_at TEXT NOT NULL
) STRICT;
CREATE TRIGGER consent_audit_no_update BEFORE UPDATE ON consent_audit
BEGIN SELECT RAISE(ABORT, 'consent_audit is append-only'); END;
CREATE TRIGGER consent_audit_no_delete BEFORE DELETE ON consent_audit
BEGIN SELECT RAISE(ABORT, 'consent_audit is append-only'); END;

-- Which source spoke of a person first: it may manage that person's consent, others only when allowed to.
CREATE TABLE subject_source (
    subject TEXT PRIMARY KEY,
    source TEXT NOT NULL
) STRICT;
INSERT INTO subject_source (subject, source)
    SELECT subject, source FROM inbox WHERE sequence IN (SELECT MIN(sequence) FROM inbox GROUP BY subject);

-- Events that were refused at the door, by source and reason. Their words are nowhere.
CREATE TABLE refused_events (
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    events INTEGER NOT NULL,
    last_at TEXT NOT NULL,
    PRIMARY KEY (source, reason)
) STRICT;

-- An approved answer is an event of its own, linked to the one it was said in. The link outlives the words.
ALTER TABLE inbox ADD COLUMN original INTEGER;
