-- Sorted runs of (key, value) pairs in packs: see stores/key_index.py. Every pack has its row before it is written, so
-- that no crash leaves keys on the disk that erasure does not know. `erasures` grows when a run is overwritten in
-- place, so that a merge of what it read before is not put in its stead.

CREATE TABLE key_run (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    kind TEXT NOT NULL,
    run TEXT NOT NULL,
    level INTEGER NOT NULL,
    pack TEXT NOT NULL UNIQUE,
    entries INTEGER NOT NULL,
    erasures INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('staged', 'current', 'dropped'))
) STRICT;
CREATE INDEX key_run_by_index ON key_run (dataset, kind, state);
