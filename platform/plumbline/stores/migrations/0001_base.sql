-- The ledger database. Sequences order everything; clocks are kept for people and for expiry, never for order.
-- Tables whose history is evidence refuse UPDATE and DELETE by trigger. Columns that hold a person's words
-- (inbox.body, quarantine.body) or can be traced back to them (fingerprint, subject_key) are erasable.

CREATE TABLE subject_key (
    subject TEXT PRIMARY KEY,
    key BLOB NOT NULL
) STRICT;

CREATE TABLE notice (
    digest TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    version TEXT NOT NULL,
    language TEXT NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (id, version, language)
) STRICT;

CREATE TABLE consent (
    sequence INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    entry TEXT NOT NULL
) STRICT;
CREATE INDEX consent_by_subject ON consent (subject, sequence);

CREATE TABLE consent_purpose (
    subject TEXT NOT NULL,
    purpose TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES consent (sequence),
    action TEXT NOT NULL CHECK (action IN ('given', 'withdrawn')),
    valid_until TEXT,
    PRIMARY KEY (subject, purpose, sequence)
) STRICT;
CREATE INDEX consent_withdrawn ON consent_purpose (purpose, sequence) WHERE action = 'withdrawn';

CREATE TABLE inbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    fingerprint TEXT,
    consent_sequence INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    body TEXT,
    UNIQUE (source, id, type)
) STRICT;
CREATE INDEX inbox_by_subject ON inbox (subject);

CREATE TABLE quarantine (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at TEXT NOT NULL,
    body TEXT
) STRICT;
CREATE INDEX quarantine_by_subject ON quarantine (subject);

CREATE TABLE run (
    run_key TEXT PRIMARY KEY,
    dataset TEXT NOT NULL,
    parent TEXT,
    from_sequence INTEGER NOT NULL,
    to_sequence INTEGER NOT NULL,
    rubric TEXT NOT NULL,
    code TEXT NOT NULL,
    stage TEXT NOT NULL,
    candidate TEXT,
    state TEXT NOT NULL CHECK (state IN ('open', 'published', 'no_change', 'rejected', 'superseded'))
) STRICT;
CREATE UNIQUE INDEX one_open_run_per_dataset ON run (dataset) WHERE state = 'open';

CREATE TABLE approval (
    candidate TEXT NOT NULL,
    approver TEXT NOT NULL,
    approved INTEGER NOT NULL CHECK (approved IN (0, 1)),
    reason TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (candidate, approver)
) STRICT;

CREATE TABLE publication (
    dataset TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    parent TEXT,
    run_key TEXT NOT NULL UNIQUE,
    root TEXT NOT NULL,
    reason TEXT NOT NULL,
    consent_sequence INTEGER NOT NULL,
    consent_head TEXT NOT NULL,
    fencing_token INTEGER NOT NULL,
    published_at TEXT NOT NULL,
    PRIMARY KEY (dataset, version)
) STRICT;

-- One row per example and time in a dataset: from version added_in until removed_in (NULL: still there). `address` is
-- the 32 bytes of the digest; the payload lies in a pack (pack, place, length), all three NULL once it is erased.
CREATE TABLE example (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    address BLOB NOT NULL,
    subject TEXT,
    origin TEXT NOT NULL,
    split TEXT NOT NULL,
    slice TEXT NOT NULL,
    cluster TEXT NOT NULL,
    licence TEXT NOT NULL,
    event_sequence INTEGER,
    pack INTEGER,
    place INTEGER,
    length INTEGER,
    added_in INTEGER NOT NULL,
    removed_in INTEGER
) STRICT;
CREATE INDEX example_by_subject ON example (subject, split, dataset, added_in, removed_in) WHERE subject IS NOT NULL;
CREATE INDEX example_by_event ON example (event_sequence) WHERE event_sequence IS NOT NULL;
CREATE INDEX example_by_version ON example (dataset, added_in);
CREATE INDEX example_removed ON example (dataset, removed_in) WHERE removed_in IS NOT NULL;
CREATE INDEX example_removed_with_words ON example (dataset) WHERE removed_in IS NOT NULL AND pack IS NOT NULL;

-- Who has examples in the head, on which side and in which cluster: a person's next example goes where theirs are.
-- `seed` 1 counts examples that were written for the purpose: their authors are no users and tie nothing.
CREATE TABLE person (
    dataset TEXT NOT NULL,
    subject TEXT NOT NULL,
    split TEXT NOT NULL,
    cluster TEXT NOT NULL,
    seed INTEGER NOT NULL CHECK (seed IN (0, 1)),
    members INTEGER NOT NULL,
    PRIMARY KEY (dataset, subject, split, cluster, seed)
) STRICT;

CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;

-- Files of payloads. Written here before the file is, so that what a killed run leaves behind is found and deleted.
CREATE TABLE pack (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    dataset TEXT NOT NULL,
    published INTEGER NOT NULL CHECK (published IN (0, 1))
) STRICT;
CREATE INDEX pack_unpublished ON pack (dataset) WHERE published = 0;

-- The Merkle tree of every head (records/merkle.py): sorted addresses by bucket with their examples' ids (8 bytes each,
-- little-endian), and bucket digests by group.
CREATE TABLE bucket (
    dataset TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    addresses BLOB NOT NULL,
    ids BLOB NOT NULL,
    PRIMARY KEY (dataset, bucket)
) STRICT;
CREATE TABLE bucket_group (
    dataset TEXT NOT NULL,
    number INTEGER NOT NULL,
    digests BLOB NOT NULL,
    PRIMARY KEY (dataset, number)
) STRICT;

CREATE TABLE head (
    dataset TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL REFERENCES publication (digest)
) STRICT;

CREATE TABLE erasure (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    consent_sequence INTEGER NOT NULL,
    payloads INTEGER NOT NULL,
    events INTEGER NOT NULL,
    completed_at TEXT NOT NULL
) STRICT;
CREATE INDEX erasure_by_subject ON erasure (subject);

CREATE TABLE policy (
    policy TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    base_policy TEXT,
    objective TEXT,
    manifest TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX policy_by_base ON policy (base_policy);

CREATE TABLE policy_dataset (
    policy TEXT NOT NULL REFERENCES policy (policy),
    dataset_digest TEXT NOT NULL,
    use TEXT NOT NULL CHECK (use IN ('dataset', 'replay')),
    PRIMARY KEY (policy, dataset_digest, use)
) STRICT;
CREATE INDEX policy_by_dataset ON policy_dataset (dataset_digest);

CREATE TABLE remediation (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    policy TEXT NOT NULL REFERENCES policy (policy),
    subject TEXT NOT NULL,
    remediation TEXT NOT NULL
        CHECK (remediation IN ('no-action', 'retrain', 'adapter-removal', 'retire', 'unsupported')),
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX remediation_by_policy ON remediation (policy);

CREATE TABLE decision (
    digest TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    aligned TEXT NOT NULL,
    verdict TEXT NOT NULL,
    decision TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;

CREATE TABLE release (
    release TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    policy TEXT NOT NULL,
    decision TEXT REFERENCES decision (digest),
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (release, sequence)
) STRICT;
CREATE INDEX release_by_policy ON release (policy);

CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    token INTEGER NOT NULL,
    expires_at TEXT NOT NULL
) STRICT;

CREATE TRIGGER consent_no_update BEFORE UPDATE ON consent
BEGIN SELECT RAISE(ABORT, 'consent is append-only'); END;
CREATE TRIGGER consent_no_delete BEFORE DELETE ON consent
BEGIN SELECT RAISE(ABORT, 'consent is append-only'); END;
CREATE TRIGGER consent_purpose_no_update BEFORE UPDATE ON consent_purpose
BEGIN SELECT RAISE(ABORT, 'consent is append-only'); END;
CREATE TRIGGER consent_purpose_no_delete BEFORE DELETE ON consent_purpose
BEGIN SELECT RAISE(ABORT, 'consent is append-only'); END;
CREATE TRIGGER publication_no_update BEFORE UPDATE ON publication
BEGIN SELECT RAISE(ABORT, 'publication is append-only'); END;
CREATE TRIGGER publication_no_delete BEFORE DELETE ON publication
BEGIN SELECT RAISE(ABORT, 'publication is append-only'); END;
CREATE TRIGGER decision_no_update BEFORE UPDATE ON decision
BEGIN SELECT RAISE(ABORT, 'decision is append-only'); END;
CREATE TRIGGER decision_no_delete BEFORE DELETE ON decision
BEGIN SELECT RAISE(ABORT, 'decision is append-only'); END;
CREATE TRIGGER release_no_update BEFORE UPDATE ON release
BEGIN SELECT RAISE(ABORT, 'release is append-only'); END;
CREATE TRIGGER release_no_delete BEFORE DELETE ON release
BEGIN SELECT RAISE(ABORT, 'release is append-only'); END;
CREATE TRIGGER lease_token_only_grows BEFORE UPDATE ON lease WHEN NEW.token < OLD.token
BEGIN SELECT RAISE(ABORT, 'a fencing token never goes back'); END;
CREATE TRIGGER lease_no_delete BEFORE DELETE ON lease
BEGIN SELECT RAISE(ABORT, 'a fencing token never goes back'); END;
