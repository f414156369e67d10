"""Everything again, three times, in any order, in any batches: the same digest.

Sources deliver at least once and in no order. What was delivered twice is a duplicate, and what a version is may not
depend on who came first: salts are derived, orders are by keyed fingerprints.
"""

import random
import tempfile
from pathlib import Path

from soak.kills import MEMORY
from soak.stories import PEOPLE, Store, feedback


def replays(*, seed: int) -> list[str]:
    """Ingest events as they come, then three times shuffled in batches of any size; what differed."""
    chance = random.Random(seed)
    once, again = (_ingested(chance, times) for times in (1, 3))
    return [] if once == again else [f"replayed with seed {seed}: {again}, once: {once}"]


def _ingested(chance: random.Random, times: int) -> tuple[str, int, int]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder, Store(Path(folder)) as store:
        store.seed()
        store.give(*PEOPLE)
        events = feedback(store) * times
        if times > 1:
            chance.shuffle(events)
        while events:
            size = chance.randint(1, 12)
            store.post(events[:size])
            events = events[size:]
        result = store.ingest()
        store.post(feedback(store))
        idle = store.ingest()
        assert result.version is not None and idle.state == "no_change"
        return result.version.digest, result.sealed, result.accepted
