-- Back-fills: how much of a large file has landed in the inbox. A row changes in the transaction that lands what it
-- counts, so that a back-fill that was killed goes on exactly behind what is there.

CREATE TABLE backfill (
    run TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    task INTEGER NOT NULL,
    part INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    counts TEXT NOT NULL,
    began_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;
