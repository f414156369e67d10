"""What a dataset's head already holds, asked about many new texts at once.

A text is found by keyed 64-bit hashes in a sorted index (stores/key_index.py): of itself, of its prompt, of its
conversation, and of its near-duplicate bands. The index's values are example ids. A prompt is filed under another key
on each side of the split, so that "is it held out?" needs no look at examples, however popular the prompt is. Whether
texts are nearly equal is always decided on the texts themselves: the index may miss, it never invents.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plumbline.feedback.signatures import Signatures, Signer, similarity
from plumbline.records import Example, Split
from plumbline.stores import BlobStore, KeyIndex, Ledger
from plumbline.stores.key_index import StagedRun

SALT_BYTES = 16
_OLDEST = 8  # examples of a conversation that say where it belongs, however long it has become
_FEW = 64  # examples looked at under one key of one pack: a flood must not make each further copy dearer
_SIDES: dict[Split, np.uint64] = {"train": np.uint64(0), "held_out": np.uint64(0xA5A5A5A5A5A5A5A4)}
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class TextKeys:
    """Keys of texts, one row each: the whole text, its prompt, its conversation (0: none), its bands."""

    text: Keys
    prompt: Keys
    conversation: Keys
    bands: Keys

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "TextKeys":
        picked = np.asarray(rows, dtype=np.int64)
        return TextKeys(self.text[picked], self.prompt[picked], self.conversation[picked], self.bands[picked])


class History:
    """The head of one dataset, without the examples in `leaving`, for lookups. What a version adds is staged before the
    publishing transaction and admitted in it."""

    def __init__(
        self, ledger: Ledger, blobs: BlobStore, dataset: str, signing: Signer, leaving: Sequence[int] = ()
    ) -> None:
        self._ledger = ledger
        self._signing = signing
        self._blobs = blobs
        self._dataset = dataset
        self._index = KeyIndex(ledger.database, blobs, dataset, "signature")
        self._removed = np.array([*ledger.publications.removed_with_words(dataset), *leaving], dtype=np.int64)

    def has_text(self, keys: TextKeys) -> set[int]:
        """Rows whose very text is in the head."""
        rows, _ = self._find(keys.text)
        return set(rows.tolist())

    def sides_of_prompts(self, keys: TextKeys) -> dict[int, set[Split]]:
        """On which sides each row's prompt is in the head; rows of new prompts are left out."""
        found: dict[int, set[Split]] = defaultdict(set)
        for side, mark in _SIDES.items():
            rows, _ = self._find(keys.prompt ^ mark, at_most=_OLDEST)
            for row in set(rows.tolist()):
                found[row].add(side)
        return found

    def clusters_of_conversations(self, keys: TextKeys) -> dict[int, set[tuple[Split, str]]]:
        """Sides and clusters of the head's examples from the same conversation: of the oldest few, for all of one
        conversation are on one side, and any of its clusters will do."""
        named = np.flatnonzero(keys.conversation)
        rows, values = _smallest(*self._find(keys.conversation[named]), most=_FEW)
        places = self._ledger.publications.places_of_events(np.unique(values).tolist())
        found: dict[int, set[tuple[Split, str]]] = defaultdict(set)
        for row, number in zip(named[rows].tolist(), values.tolist(), strict=True):
            if number in places:
                found[row].add(places[number])
        return found

    def near(self, keys: TextKeys, signatures: Signatures, rows: Sequence[int], threshold: float) -> set[int]:
        """Those of `rows` whose text the head has already, nearly: similarity of at least `threshold`."""
        picked = np.asarray(rows, dtype=np.int64)
        places, values = self._find(keys.bands[picked].reshape(-1), at_most=_FEW)
        if not len(places):
            return set()
        pairs = np.unique(np.stack((picked[places // keys.bands.shape[1]], values)), axis=1)
        texts = self._dialogues(np.unique(pairs[1]).tolist())
        theirs = self._signing.sign_many(list(texts.values()))
        number = {example: place for place, example in enumerate(texts)}
        there = np.array([number.get(example, -1) for example in pairs[1].tolist()], dtype=np.int64)
        mine, there = pairs[0][there >= 0], there[there >= 0]
        return set(mine[similarity(signatures, mine, theirs, there) >= threshold].tolist())

    def stage(self, keys: TextKeys, ids: Sequence[int], splits: Sequence[Split]) -> StagedRun:
        """Write what a version adds to the index, invisibly; `admit` it in the publishing transaction."""
        values = np.array(ids, dtype=np.int64)
        prompts = keys.prompt ^ np.array([_SIDES[split] for split in splits], dtype=np.uint64)
        every = np.concatenate([keys.text, prompts, keys.conversation, keys.bands.reshape(-1)])
        owners = np.concatenate([values, values, values, np.repeat(values, keys.bands.shape[1])])
        return self._index.stage(every, owners)

    def admit(self, staged: StagedRun) -> None:
        self._index.admit(staged)

    def tidy(self) -> None:
        """After a publication: merge runs that have become many."""
        self._index.tidy()

    def sweep(self) -> None:
        """Under the line's lease: delete what killed runs staged and never published."""
        self._index.sweep()

    def forget(self, ids: Sequence[int]) -> None:
        """Erase what the index knows of examples."""
        self._index.forget(np.array(ids, dtype=np.int64))
        self._index.tidy()

    def _find(self, keys: Keys, at_most: int | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        rows, values = self._index.find(keys, None if len(self._removed) else at_most)
        if len(self._removed) and len(values):
            here = ~np.isin(values, self._removed)
            rows, values = rows[here], values[here]
        return rows, values

    def _dialogues(self, ids: Sequence[int]) -> dict[int, str]:
        """Dialogues of the head's examples, for an exact look. Those erased meanwhile have none."""
        members = self._ledger.publications.by_ids(ids)
        payloads = self._ledger.payloads.read(self._blobs, members.values())
        return {number: dialogue_of(example_in(payload)) for number, payload in payloads.items()}


def _smallest(
    rows: npt.NDArray[np.int64], values: npt.NDArray[np.int64], *, most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """At most so many values of each row, the smallest, by row and value: however they were found, the same."""
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < most
    return rows[kept], values[kept]


def example_in(payload: bytes) -> Example:
    """The example in a payload (`salt || canonical bytes`)."""
    return Example.from_canonical(payload[SALT_BYTES:])


def dialogue_of(example: Example) -> str:
    return dialogue("\n".join(f"{m.role}: {m.content}" for m in example.prompt), example.target)


def dialogue(prompt: str, target: str) -> str:
    """A text as signatures see it: prompt and target, with roles."""
    return f"{prompt}\nassistant: {target}"


def sweep_staged(ledger: Ledger, blobs: BlobStore) -> None:
    """Delete what any run staged for an index and did not publish: nobody can say yet whose keys are in it. A run that
    is under way is built again."""
    for row in ledger.database.rows("SELECT DISTINCT dataset, kind FROM key_run WHERE state = 'staged'"):
        KeyIndex(ledger.database, blobs, row["dataset"], row["kind"]).sweep()
