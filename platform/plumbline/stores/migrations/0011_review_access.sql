-- Who may come to the review page, who came, and who is no longer welcome. Links and cookies are secrets and are not
-- here, only their SHA-256: whoever reads this, or a copy of it, can enter nowhere. An entry's key is its invitation,
-- which is what makes once mean once, whichever process serves the page.

CREATE TABLE review_invitation (
    invitation TEXT PRIMARY KEY,
    person TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('reviewer', 'adjudicator')),
    expires_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX review_invitation_by_person ON review_invitation (person);

CREATE TABLE review_entry (
    invitation TEXT PRIMARY KEY REFERENCES review_invitation (invitation),
    session TEXT NOT NULL UNIQUE,
    ends_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;

-- The end of an invitation or of its session, before its time.
CREATE TABLE review_exit (
    invitation TEXT PRIMARY KEY REFERENCES review_invitation (invitation),
    why TEXT NOT NULL CHECK (why IN ('left', 'dismissed')),
    recorded_at TEXT NOT NULL
) STRICT;

CREATE TRIGGER review_invitation_no_update BEFORE UPDATE ON review_invitation
BEGIN SELECT RAISE(ABORT, 'review_invitation is append-only'); END;
CREATE TRIGGER review_invitation_no_delete BEFORE DELETE ON review_invitation
BEGIN SELECT RAISE(ABORT, 'review_invitation is append-only'); END;
CREATE TRIGGER review_entry_no_update BEFORE UPDATE ON review_entry
BEGIN SELECT RAISE(ABORT, 'review_entry is append-only'); END;
CREATE TRIGGER review_entry_no_delete BEFORE DELETE ON review_entry
BEGIN SELECT RAISE(ABORT, 'review_entry is append-only'); END;
CREATE TRIGGER review_exit_no_update BEFORE UPDATE ON review_exit
BEGIN SELECT RAISE(ABORT, 'review_exit is append-only'); END;
CREATE TRIGGER review_exit_no_delete BEFORE DELETE ON review_exit
BEGIN SELECT RAISE(ABORT, 'review_exit is append-only'); END;
