-- Verdicts of shadow experiments, and why a release moved: by which action, and on which shadow verdict or without one.
CREATE TABLE shadow_verdict (
    digest TEXT PRIMARY KEY,
    experiment TEXT NOT NULL,
    reference TEXT NOT NULL,
    aligned TEXT NOT NULL,
    verdict TEXT NOT NULL,
    decided INTEGER NOT NULL CHECK (decided IN (0, 1)),
    body TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX shadow_verdict_by_policies ON shadow_verdict (aligned, reference);
CREATE INDEX shadow_verdict_by_experiment ON shadow_verdict (experiment);

CREATE TABLE release_audit (
    release TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('promote', 'rollback', 'move')),
    previous TEXT,
    shadow TEXT REFERENCES shadow_verdict (digest),
    without_shadow TEXT,
    PRIMARY KEY (release, sequence),
    FOREIGN KEY (release, sequence) REFERENCES release (release, sequence)
) STRICT;

CREATE TRIGGER shadow_verdict_no_update BEFORE UPDATE ON shadow_verdict
BEGIN SELECT RAISE(ABORT, 'shadow_verdict is append-only'); END;
CREATE TRIGGER shadow_verdict_no_delete BEFORE DELETE ON shadow_verdict
BEGIN SELECT RAISE(ABORT, 'shadow_verdict is append-only'); END;
CREATE TRIGGER release_audit_no_update BEFORE UPDATE ON release_audit
BEGIN SELECT RAISE(ABORT, 'release_audit is append-only'); END;
CREATE TRIGGER release_audit_no_delete BEFORE DELETE ON release_audit
BEGIN SELECT RAISE(ABORT, 'release_audit is append-only'); END;
