-- Review: what people were asked to judge, what they said, and what followed. Everything here is append-only and
-- holds no words, except `review_reason`, which is what a label says in free text and can be erased.

CREATE TABLE review_rubric (
    rubric TEXT PRIMARY KEY,
    policy_text TEXT NOT NULL,
    body TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;

-- One opening: the inbox range that was looked through, and how many words each of its items needs.
CREATE TABLE review_batch (
    batch INTEGER PRIMARY KEY AUTOINCREMENT,
    rubric TEXT NOT NULL REFERENCES review_rubric (rubric),
    policy_text TEXT NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    reviewers INTEGER NOT NULL CHECK (reviewers >= 2),
    opened_at TEXT NOT NULL
) STRICT;

-- `text` is a keyed digest: once the subject's key is erased it says nothing about what was judged.
CREATE TABLE review_item (
    item INTEGER PRIMARY KEY AUTOINCREMENT,
    batch INTEGER NOT NULL REFERENCES review_batch (batch),
    event_sequence INTEGER NOT NULL,
    subject TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what IN ('rating', 'report', 'comment', 'contradiction', 'demonstration')),
    rubric TEXT NOT NULL REFERENCES review_rubric (rubric),
    policy_text TEXT NOT NULL,
    text TEXT NOT NULL,
    previous INTEGER REFERENCES review_item (item),
    UNIQUE (event_sequence, policy_text, text)
) STRICT;
CREATE INDEX review_item_by_policy_text ON review_item (policy_text);
CREATE INDEX review_item_by_subject ON review_item (subject);

CREATE TABLE review_label (
    label INTEGER PRIMARY KEY AUTOINCREMENT,
    item INTEGER NOT NULL REFERENCES review_item (item),
    reviewer TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('reviewer', 'adjudicator')),
    text TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('approve', 'reject', 'unsure')),
    severity TEXT NOT NULL CHECK (severity IN ('none', 'minor', 'major', 'severe')),
    rules TEXT NOT NULL,
    supersedes INTEGER UNIQUE REFERENCES review_label (label),
    recorded_at TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_word_per_person_and_item ON review_label (item, reviewer) WHERE supersedes IS NULL;
CREATE INDEX review_label_by_reviewer ON review_label (reviewer);

CREATE TABLE review_reason (
    label INTEGER PRIMARY KEY REFERENCES review_label (label),
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE review_settlement (
    item INTEGER PRIMARY KEY REFERENCES review_item (item),
    outcome TEXT NOT NULL CHECK (outcome IN ('approved', 'rejected')),
    basis TEXT NOT NULL CHECK (basis IN ('unanimous', 'adjudicated')),
    labels TEXT NOT NULL,
    approved_by TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;

CREATE TABLE review_release (
    event_sequence INTEGER PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES review_item (item),
    released_sequence INTEGER NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;

CREATE TABLE review_revision (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    batch INTEGER NOT NULL UNIQUE REFERENCES review_batch (batch),
    body TEXT NOT NULL,
    opened_at TEXT NOT NULL
) STRICT;

CREATE TABLE review_revision_closed (
    revision INTEGER PRIMARY KEY REFERENCES review_revision (revision),
    rubric TEXT NOT NULL REFERENCES review_rubric (rubric),
    closed_at TEXT NOT NULL
) STRICT;

CREATE TRIGGER review_rubric_no_update BEFORE UPDATE ON review_rubric
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_rubric_no_delete BEFORE DELETE ON review_rubric
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_batch_no_update BEFORE UPDATE ON review_batch
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_batch_no_delete BEFORE DELETE ON review_batch
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_item_no_update BEFORE UPDATE ON review_item
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_item_no_delete BEFORE DELETE ON review_item
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_label_no_update BEFORE UPDATE ON review_label
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_label_no_delete BEFORE DELETE ON review_label
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_reason_no_update BEFORE UPDATE ON review_reason
BEGIN SELECT RAISE(ABORT, 'a reason is erased or left as it is'); END;
CREATE TRIGGER review_settlement_no_update BEFORE UPDATE ON review_settlement
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_settlement_no_delete BEFORE DELETE ON review_settlement
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_release_no_update BEFORE UPDATE ON review_release
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_release_no_delete BEFORE DELETE ON review_release
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_revision_no_update BEFORE UPDATE ON review_revision
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_revision_no_delete BEFORE DELETE ON review_revision
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_revision_closed_no_update BEFORE UPDATE ON review_revision_closed
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
CREATE TRIGGER review_revision_closed_no_delete BEFORE DELETE ON review_revision_closed
BEGIN SELECT RAISE(ABORT, 'review is append-only'); END;
