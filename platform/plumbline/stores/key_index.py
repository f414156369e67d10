"""An index of 64-bit keys that stays fast as it grows: which numbers were ever filed under these keys?

Near-duplicates, prompts and conversations are found again by keyed hashes. A B-tree takes such keys in at random
places, one page each, and slows down as the history grows. Here a batch becomes one *run*, sorted by key, written once
from end to end; when `FAN_IN` runs of about one size exist, one larger run takes their place (a log-structured merge
tree, O'Neil et al. 1996). Adding costs each entry one more writing per FAN_IN-fold growth; finding costs one binary
search per run, on mapped memory, with the wanted keys sorted so that they walk through it in one direction; and most
searches are spared, because a pack's filter knows 95 of 100 keys that it does not have.

    pack    keys, uint64 ascending | values, int64 | filter, 8 to 16 bits per entry     (little-endian; at most PART)
    run     packs with ascending key ranges, one name, one level; a row of `key_run` for each pack
    state   staged -> current -> dropped

**Crashes.** A pack's row is committed as *staged* before the pack is written; it is durable before `admit` makes it
*current* in the caller's transaction; a merge makes its run current and its sources *dropped* in one transaction, and
only dropped packs are deleted. So after a kill at any point the current runs are whole, and `sweep` knows the rest.
Pack names are drawn, not derived from content: two equal runs are two packs, and a name says nothing of what is in it.

**Erasure.** Keys derive from a person's words. `forget` overwrites them in place, in every pack that has a row: the
value becomes 0, which is never returned, the key that of the entry to its left, so that the order holds.

Writers of one dataset take turns (they hold its lease); readers need nothing: they see the runs current when they ask.
Not supported: negative numbers, 0 as a value, and 0 as a key, which means "has no key" and is skipped.
"""

import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plumbline.errors import PlumblineError
from plumbline.stores.blobs import BlobStore
from plumbline.stores.database import Database, Row

Keys = npt.NDArray[np.uint64]
Values = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]

FAN_IN: Final = 4
PART: Final = 1 << 22  # entries in a pack: 68 MiB, the most that a merge holds in memory or an erasure rewrites
_SMALLEST: Final = 1 << 12  # runs below this are all of level 0
_ENTRY: Final = 16
_FIRST_KEY: Final = np.uint64(1)
_HASHES: Final = (np.uint64(0), np.uint64(24))  # where in a key the filter's slots begin
_OURS: Final = "WHERE dataset = ? AND kind = ? AND state = ?"


class StagedRunGone(PlumblineError):
    """What was staged was swept away, by an erasure or by another writer: build the version again."""


@dataclass(frozen=True)
class StagedRun:
    """A run that is on the disk and in no version of the index yet; `packs` may be empty."""

    run: str
    packs: tuple[str, ...]
    entries: int


@dataclass(frozen=True)
class _Pack:
    """One row of `key_run` with its entries. Arrays are views of the stored bytes and change under erasure."""

    name: str
    run: str
    level: int
    entries: int
    erasures: int
    keys: Keys
    values: Values
    filter: Bits

    def search(self, wanted: Keys) -> tuple[Values, Values, Values]:
        """Where `wanted` (ascending) has keys of this pack: `(places in wanted, first entries, numbers of entries)`."""
        start = np.searchsorted(wanted, self.keys[0])
        here = wanted[start : np.searchsorted(wanted, self.keys[-1], side="right")]
        maybe = np.arange(len(here))
        for shift in _HASHES:
            slots = _slots_of(here[maybe], shift, self.entries)
            maybe = maybe[np.flatnonzero(self.filter[slots >> 3] >> (slots & 7).astype(np.uint8) & 1)]
        first = np.searchsorted(self.keys, here[maybe])
        hit = np.flatnonzero(self.keys[first] == here[maybe])
        first, maybe = first[hit], maybe[hit]
        return start + maybe, first, np.searchsorted(self.keys, here[maybe], side="right") - first


class KeyIndex:
    """Entries (key, value) of one dataset and kind; the same pair may be filed twice and is then found twice.

    A writer stages before its transaction, admits in it, and tidies after it:

        staged = index.stage(keys, values)
        with database.transaction():
            ...
            index.admit(staged)
        index.tidy()

    Errors: PlumblineError when a pack is missing or does not have the length of its row (`rebuild` makes the index
    anew from what it was derived from), and when a staged run was swept before it was admitted.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, dataset: str, kind: str, *, fan_in: int = FAN_IN, part: int = PART
    ) -> None:
        self._database, self._blobs = database, blobs
        self._dataset, self._kind = dataset, kind
        self._fan_in, self._part = fan_in, part
        self._views: dict[str, tuple[Keys, Values, Bits]] = {}

    def __len__(self) -> int:
        """Entries, erased ones included until the next merge."""
        count = f"SELECT COALESCE(SUM(entries), 0) FROM key_run {_OURS}"
        return int(self._database.value(count, self._ours("current")))

    def find(self, keys: Keys, at_most: int | None = None) -> tuple[Values, Values]:
        """`(positions, values)`: every value filed under `keys[positions]`, ordered by position, then value.

        `at_most` bounds how many a key may find in one pack, those filed first: a flood of one text must not make
        each further copy slower. Key 0 finds nothing.
        """
        packs = [pack for pack in self._current() if pack.entries]
        if not packs:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        order = np.argsort(keys)
        wanted = keys[order]
        none = np.searchsorted(wanted, _FIRST_KEY)
        order, wanted = order[none:], wanted[none:]
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for pack in packs:
            here, first, counts = pack.search(wanted)
            if at_most is not None:
                counts = np.minimum(counts, at_most)
            places = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            values = pack.values[places]
            positions = np.repeat(order[here], counts)
            found.append((positions[values > 0], values[values > 0]))
        positions, values = (np.concatenate(column) for column in zip(*found, strict=True))
        sorting = np.lexsort((values, positions))
        return positions[sorting], values[sorting]

    def stage(self, keys: Keys, values: Values) -> StagedRun:
        """Write a run durably, outside any transaction. It is invisible until `admit`; `sweep` removes it."""
        if len(keys) != len(values) or (len(values) and int(values.min()) <= 0):
            raise PlumblineError(
                f"{len(keys)} keys and {len(values)} values, or a value that is not positive",
                consequence="nothing was added to the index",
                remedy="file every key under a positive number",
            )
        order = np.lexsort((values, keys))
        order = order[np.searchsorted(keys[order], _FIRST_KEY) :]
        return self._stage([(keys[order], values[order])])

    def admit(self, *staged: StagedRun) -> None:
        """Make staged runs part of the index, in the caller's transaction if there is one."""
        with self._database.transaction():
            for run in staged:
                changed = self._database.execute(
                    f"UPDATE key_run SET state = 'current' {_OURS} AND run = ?", (*self._ours("staged"), run.run)
                )
                if changed != len(run.packs):
                    raise StagedRunGone(
                        f"a staged run of {run.entries} keys of {self._dataset} was swept before it was admitted",
                        consequence="the transaction that wanted it is rolled back",
                        remedy="hold the dataset's lease while writing, and start the same command again",
                    )

    def add(self, keys: Keys, values: Values) -> None:
        """Stage and admit in one call, for a caller without a transaction of its own."""
        self.admit(self.stage(keys, values))

    def tidy(self) -> None:
        """Merge while a level has `fan_in` runs, then delete what no longer counts. After the commit, not inside."""
        while self._merge():
            pass
        self._delete_dropped()

    def sweep(self) -> int:
        """Delete packs that killed writers staged and never admitted, and dropped ones; how many. Under the lease."""
        self._database.execute(f"UPDATE key_run SET state = 'dropped' {_OURS}", self._ours("staged"))
        return self._delete_dropped()

    def forget(self, values: Values) -> int:
        """Erase these values and their keys from every pack, staged and dropped ones too; how many entries.

        Reads all values (about 0.7 s per 100 million), most of them before taking the ledger. Repeating it after a kill
        is harmless. A pack with nothing left is dropped; `tidy` or `sweep` deletes it.
        """
        wanted = np.unique(values[values > 0])
        hits: dict[str, Values] = {}
        while True:
            with self._database.transaction():
                packs = {row["pack"]: row for row in self._rows()}
                missing = [name for name in packs if name not in hits]
                if not missing:
                    return sum(self._erase(row, hits[name]) for name, row in packs.items() if len(hits[name]))
            for name in missing:
                hits[name] = self._places_of(packs[name], wanted)

    def verify(self) -> list[str]:
        """What is wrong with the index's packs, in words; empty when each is there, whole and in order."""
        faults = []
        ends: dict[str, int] = {}
        for row in self._rows("current"):
            try:
                keys, values, bits = self._read(row)
            except PlumblineError as error:
                faults.append(error.fact)
                continue
            name = row["pack"]
            filed = keys[np.searchsorted(keys, _FIRST_KEY) :]  # what was erased before the first left no key
            if np.any(keys[1:] < keys[:-1]) or (len(filed) and int(filed[0]) < ends.get(row["run"], 0)):
                faults.append(f"keys of pack {name} are out of order")
            if np.any(values < 0) or np.any((keys == 0) & (values != 0)):
                faults.append(f"pack {name} has an entry that nobody files")
            if not np.array_equal(bits, _filter(keys[values > 0], len(keys))):
                faults.append(f"the filter of pack {name} is not that of its keys")
            if len(filed):
                ends[row["run"]] = int(filed[-1])
        return faults

    def rebuild(self, batches: Iterable[tuple[Keys, Values]]) -> None:
        """Replace the whole index by these entries in one step; until then the old one answers."""
        staged = [self.stage(keys, values) for keys, values in batches]
        with self._database.transaction():
            self._database.execute(f"UPDATE key_run SET state = 'dropped' {_OURS}", self._ours("current"))
            self.admit(*staged)
        self.tidy()

    def _stage(self, parts: Iterable[tuple[Keys, Values]]) -> StagedRun:
        """Write sorted entries, given in ascending key ranges, as packs of one run. All get the level of their sum
        when the last is written; a row always precedes its pack."""
        run, names, entries = secrets.token_hex(16), [], 0
        for keys, values in itertools.chain.from_iterable(itertools.starmap(self._pieces, parts)):
            name = f"sha256:{secrets.token_hex(32)}"
            row = {"dataset": self._dataset, "kind": self._kind, "run": run, "level": 0, "pack": name}
            self._database.insert("key_run", **row, entries=len(keys), state="staged")
            columns = keys.astype("<u8").tobytes(), values.astype("<i8").tobytes(), _filter(keys, len(keys)).tobytes()
            self._blobs.put_pack(name, b"".join(columns))
            names.append(name)
            entries += len(keys)
        level = 0
        while _SMALLEST * self._fan_in**level < entries:
            level += 1
        self._database.execute("UPDATE key_run SET level = ? WHERE run = ?", (level, run))
        return StagedRun(run, tuple(names), entries)

    def _pieces(self, keys: Keys, values: Values) -> Iterator[tuple[Keys, Values]]:
        for start in range(0, len(keys), self._part):
            yield keys[start : start + self._part], values[start : start + self._part]

    def _merge(self) -> bool:
        """Put one run in the place of a full level's runs. False when no level is full, or an erasure came between."""
        levels: dict[int, list[_Pack]] = {}
        for pack in self._current():
            levels.setdefault(pack.level, []).append(pack)
        full = [packs for packs in levels.values() if len({pack.run for pack in packs}) >= self._fan_in]
        if not full:
            return False
        sources = min(full, key=lambda packs: packs[0].level)
        merged = self._stage(_merged(sources, self._part))
        with self._database.transaction():
            now = {row["pack"]: row["erasures"] for row in self._rows("current")}
            unchanged = all(now.get(pack.name) == pack.erasures for pack in sources)
            self._drop([pack.name for pack in sources] if unchanged else merged.packs)
            if unchanged:
                self.admit(merged)
        return unchanged

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._database.execute("UPDATE key_run SET state = 'dropped' WHERE pack = ?", (name,))

    def _delete_dropped(self) -> int:
        rows = self._rows("dropped")
        for row in rows:
            self._views.pop(row["pack"], None)
            self._blobs.delete_pack(row["pack"])
            self._database.execute("DELETE FROM key_run WHERE pack = ?", (row["pack"],))
        return len(rows)

    def _places_of(self, row: Row, wanted: Values) -> Values:
        """Where a pack has one of these values. A pack that no longer counts may be gone, one staged not yet there."""
        try:
            return np.flatnonzero(np.isin(self._read(row)[1], wanted))
        except PlumblineError:
            if any(row["pack"] == other["pack"] for other in self._rows("current")):
                raise
            return np.empty(0, np.int64)

    def _erase(self, row: Row, places: Values) -> int:
        """Overwrite entries in place. Erased entries to the right of these may hold a copy of their keys: those too."""
        keys, values, bits = self._read(row)
        live = values > 0
        live[places] = False
        nearest = np.maximum.accumulate(np.where(live, np.arange(len(live)), -1))
        dead = np.flatnonzero(~live)
        copied = np.where(nearest[dead] < 0, np.uint64(0), keys[nearest[dead]])
        stale = keys[dead] != copied
        left = _filter(keys[live], len(keys))
        cleared = np.flatnonzero(bits != left)
        patches = [
            *_patches(0, dead[stale], copied[stale].astype("<u8")),
            *_patches(len(keys) * 8, places, np.zeros(len(places), "<i8")),
            *_patches(len(keys) * _ENTRY, cleared, left[cleared]),
        ]
        self._blobs.overwrite_pack(row["pack"], patches)
        self._views.pop(row["pack"], None)
        self._database.execute("UPDATE key_run SET erasures = erasures + 1 WHERE pack = ?", (row["pack"],))
        if row["state"] == "current" and not live.any():
            self._drop([row["pack"]])
        return len(places)

    def _current(self) -> list[_Pack]:
        """The packs that count, oldest first. One that a merge deleted after its row was read is looked for again."""
        rows = self._rows("current")
        while True:
            try:
                packs = [
                    _Pack(row["pack"], row["run"], row["level"], row["entries"], row["erasures"], *self._read(row))
                    for row in rows
                ]
            except PlumblineError:
                before, rows = rows, self._rows("current")
                if [row["pack"] for row in before] == [row["pack"] for row in rows]:
                    raise
                continue
            self._views = {pack.name: (pack.keys, pack.values, pack.filter) for pack in packs}
            return packs

    def _read(self, row: Row) -> tuple[Keys, Values, Bits]:
        name, entries = row["pack"], row["entries"]
        if name not in self._views:
            view, wanted = self._blobs.view_pack(name), entries * _ENTRY + _slots(entries) // 8
            if len(view) != wanted:
                raise PlumblineError(
                    f"pack {name} of the {self._kind} index has {len(view)} bytes, its row says {wanted}",
                    consequence="the index is not read, so that nothing known is taken for new",
                    remedy="rebuild the index, or restore the pack from a backup",
                )
            keys, values = np.frombuffer(view, "<u8", entries), np.frombuffer(view, "<i8", entries, entries * 8)
            self._views[name] = (keys, values, np.frombuffer(view, np.uint8, offset=entries * _ENTRY))
        return self._views[name]

    def _rows(self, state: str | None = None) -> list[Row]:
        where, parameters = (_OURS, self._ours(state)) if state else ("WHERE dataset = ? AND kind = ?", self._ours())
        return self._database.rows(f"SELECT * FROM key_run {where} ORDER BY sequence", parameters)

    def _ours(self, state: str | None = None) -> tuple[str, ...]:
        return (self._dataset, self._kind, state) if state else (self._dataset, self._kind)


def _merged(packs: Sequence[_Pack], part: int) -> Iterator[tuple[Keys, Values]]:
    """The living entries of several runs in one order, by key ranges of about `part` entries."""
    stride = max(1, part // 64)
    sample = np.sort(np.concatenate([pack.keys[::stride] for pack in packs]))
    bounds = np.unique(sample[56::56])
    cuts = [np.concatenate(([0], np.searchsorted(pack.keys, bounds), [pack.entries])) for pack in packs]
    for here, there in itertools.pairwise(range(len(bounds) + 2)):
        pieces = [slice(cut[here], cut[there]) for cut in cuts]
        keys = np.concatenate([pack.keys[piece] for pack, piece in zip(packs, pieces, strict=True)])
        values = np.concatenate([pack.values[piece] for pack, piece in zip(packs, pieces, strict=True)])
        living = np.flatnonzero(values > 0)
        order = living[np.argsort(keys[living], kind="stable")]
        yield keys[order], values[order]


def _slots(entries: int) -> int:
    """Bits of a filter: a power of two, at least eight per entry."""
    return 8 << (entries - 1).bit_length()


def _slots_of(keys: Keys, shift: np.uint64, entries: int) -> Values:
    return (keys >> shift & np.uint64(_slots(entries) - 1)).view(np.int64)


def _filter(keys: Keys, entries: int) -> Bits:
    """A Bloom filter (1970) of two hashes; a key is a hash already, so two pieces of its bits do."""
    marks = np.zeros(_slots(entries), bool)
    for shift in _HASHES:
        marks[_slots_of(keys, shift, entries)] = True
    return np.packbits(marks, bitorder="little")


def _patches(offset: int, places: Values, entries: npt.NDArray[Any]) -> list[tuple[int, bytes]]:
    """Overwritings of entries of one column, neighbours joined into one."""
    runs = np.flatnonzero(np.diff(places) != 1) + 1
    pieces = zip(np.split(places, runs), np.split(entries, runs), strict=True)
    return [(offset + int(where[0]) * entries.itemsize, piece.tobytes()) for where, piece in pieces if len(where)]
