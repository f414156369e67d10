-- What each step of a shadow evaluation came to last: counts, digests and the name of a reason. It is a report, not a
-- record of a decision, so a later one takes its place; the verdict itself is in shadow_verdict, which nothing alters.
CREATE TABLE shadow_step (
    evaluation TEXT NOT NULL,
    step TEXT NOT NULL CHECK (step IN ('aa', 'plan', 'pairs', 'verdict')),
    body TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    PRIMARY KEY (evaluation, step)
) STRICT;
