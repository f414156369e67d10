-- What became of each request to move a release that came as an object, not as a command: decided once, kept for good.
-- `request` names one spec of one object, so a request that is looked at again is found decided.
CREATE TABLE release_request (
    request TEXT PRIMARY KEY,
    release TEXT NOT NULL,
    policy TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('promoted', 'rolled-back', 'kept', 'refused')),
    why TEXT NOT NULL,
    sequence INTEGER,
    recorded_at TEXT NOT NULL,
    FOREIGN KEY (release, sequence) REFERENCES release (release, sequence)
) STRICT;

CREATE TRIGGER release_request_no_update BEFORE UPDATE ON release_request
BEGIN SELECT RAISE(ABORT, 'release_request is append-only'); END;
CREATE TRIGGER release_request_no_delete BEFORE DELETE ON release_request
BEGIN SELECT RAISE(ABORT, 'release_request is append-only'); END;
