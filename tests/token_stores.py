"""Token stores made by hand: rows of random tokens with random masks, no text and no template."""

import numpy as np

from plumbline.training.store import TokenStore


def random_store(
    rows: int, *, seed: int = 0, vocabulary: int = 250, shortest: int = 3, longest: int = 40, share: float = 0.4
) -> TokenStore:
    """Ragged rows over two slices (`a`, `b`); each row has at least one target, its last token."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, rows)
    supervised = generator.random(int(lengths.sum())) < share
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    supervised[starts[1:] - 1] = True
    return TokenStore(
        ids=generator.integers(0, vocabulary, int(lengths.sum())).astype(np.int32),
        supervised=supervised,
        starts=starts,
        slices=generator.integers(0, 2, rows).astype(np.int16),
        slice_names=("a", "b"),
    )
