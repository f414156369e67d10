"""The index of keys against a dictionary: finding, merging, erasing, and dying at every step in between."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plumbline.errors import PlumblineError
from plumbline.stores import LocalBlobs
from plumbline.stores.database import Database
from plumbline.stores.key_index import KeyIndex, Keys, StagedRun, Values
from plumbline.stores.ledger import open_database

Entry = tuple[int, int]


class Killed(BaseException):
    """What a kill looks like from inside: nothing below catches it."""


class MortalBlobs(LocalBlobs):
    """Real blobs of a process that dies at the n-th pack operation, before or after it was done."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.steps_left: int | None = None
        self.after = False

    def _step(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                if self.after:
                    operation(*arguments)
                raise Killed
        return operation(*arguments)

    def put_pack(self, name: str, data: bytes) -> bool:
        return bool(self._step(super().put_pack, name, data))

    def overwrite_pack(self, name: str, patches: Sequence[tuple[int, bytes]]) -> None:
        self._step(super().overwrite_pack, name, patches)

    def delete_pack(self, name: str) -> bool:
        return bool(self._step(super().delete_pack, name))


class Shelf:
    """A folder with a ledger, blobs and one small index: runs merge early and are cut into packs of 16 entries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database: Database = open_database(root / "ledger.db")
        self.blobs = MortalBlobs(root / "blobs")
        self.index = self.open()

    def open(self, dataset: str = "assistant") -> KeyIndex:
        return KeyIndex(self.database, self.blobs, dataset, "near", fan_in=3, part=16)

    def packs(self) -> list[Path]:
        return [path for path in (self.root / "blobs" / "packs").rglob("*") if path.is_file()]

    def holds(self, *keys: int) -> bool:
        """Whether any file of the folder has the eight bytes of one of these keys."""
        wanted = [key.to_bytes(8, order) for key in keys for order in ("little", "big")]
        files = [path.read_bytes() for path in self.root.rglob("*") if path.is_file()]
        return any(one in data for one in wanted for data in files)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    built = Shelf(tmp_path)
    yield built
    built.database.close()


def arrays(entries: Sequence[Entry]) -> tuple[Keys, Values]:
    keys = np.array([key for key, _ in entries], np.uint64)
    return keys, np.array([value for _, value in entries], np.int64)


def found(index: KeyIndex, keys: Sequence[int]) -> dict[int, list[int]]:
    positions, values = index.find(np.array(keys, np.uint64))
    result = defaultdict(list)
    for position, value in zip(positions.tolist(), values.tolist(), strict=True):
        result[keys[position]].append(value)
    return dict(result)


def key_of(number: int) -> int:
    """A key whose bytes occur in no file by accident."""
    return number * 0x9E3779B97F4A7C15 % 2**64


def large_keys(count: int, seed: int = 0) -> Keys:
    return np.random.default_rng(seed).integers(1, 2**64, count, dtype=np.uint64)


def test_what_was_filed_under_a_key_is_found_over_all_runs(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, 1), (9, 2), (2**64 - 1, 3)]))
    shelf.index.add(*arrays([(7, 4), (1, 5)]))
    assert found(shelf.index, [7, 8, 2**64 - 1, 1]) == {7: [1, 4], 2**64 - 1: [3], 1: [5]}
    positions, values = shelf.index.find(np.array([9, 7, 7], np.uint64))
    assert (positions.tolist(), values.tolist()) == ([0, 1, 1, 2, 2], [2, 1, 4, 1, 4])


def test_an_index_is_of_one_dataset_and_kind(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, 1)]))
    assert found(shelf.open("other"), [7]) == {}
    assert found(KeyIndex(shelf.database, shelf.blobs, "assistant", "prompt"), [7]) == {}
    assert found(shelf.open(), [7]) == {7: [1]}


def test_key_zero_means_no_key_and_a_value_must_be_positive(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(0, 1), (5, 2)]))
    assert found(shelf.index, [0, 5]) == {5: [2]}
    with pytest.raises(PlumblineError, match="not positive"):
        shelf.index.stage(*arrays([(5, 0)]))


def test_a_flood_under_one_key_is_found_up_to_a_bound_those_filed_first(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, number) for number in range(1, 15)]))
    positions, values = shelf.index.find(np.array([7], np.uint64), at_most=3)
    assert (positions.tolist(), values.tolist()) == ([0, 0, 0], [1, 2, 3])


def test_merging_keeps_every_entry_and_the_number_of_runs_small(shelf: Shelf) -> None:
    keys, index = large_keys(20_000), KeyIndex(shelf.database, shelf.blobs, "assistant", "near", fan_in=3, part=2048)
    for start in range(0, 20_000, 100):
        index.add(keys[start : start + 100], np.arange(start + 1, start + 101))
        index.tidy()
    runs = shelf.database.value("SELECT COUNT(DISTINCT run) FROM key_run")
    assert runs <= 2 * 4  # two of each level below the largest; level 3 is above 4096 * 9 entries
    assert len(index) == 20_000
    positions, values = index.find(keys)
    assert np.array_equal(positions, np.arange(20_000))
    assert np.array_equal(values, np.arange(1, 20_001))
    assert index.verify() == []
    assert len(shelf.packs()) == shelf.database.value("SELECT COUNT(*) FROM key_run")


def test_a_staged_run_is_invisible_until_admitted_and_joins_the_callers_transaction(shelf: Shelf) -> None:
    staged = shelf.index.stage(*arrays([(7, 1)]))
    assert found(shelf.index, [7]) == {}
    with pytest.raises(ZeroDivisionError), shelf.database.transaction():
        shelf.index.admit(staged)
        raise ZeroDivisionError
    assert found(shelf.index, [7]) == {}
    shelf.index.admit(staged)
    assert found(shelf.index, [7]) == {7: [1]}


def test_a_staged_run_that_was_swept_cannot_be_admitted(shelf: Shelf) -> None:
    staged = shelf.index.stage(*arrays([(7, 1)]))
    assert shelf.index.sweep() == 1
    assert shelf.packs() == []
    with pytest.raises(PlumblineError, match="swept"):
        shelf.index.admit(staged)


def test_nothing_of_a_forgotten_key_is_left_in_any_file(shelf: Shelf) -> None:
    keys = large_keys(120)
    values = np.repeat(np.arange(1, 41), 3)
    for part in range(0, 120, 40):
        shelf.index.add(keys[part : part + 40], values[part : part + 40])
    staged = shelf.index.stage(large_keys(3, 9), np.array([7, 7, 7]))
    mine = [int(key) for key in np.concatenate((keys[18:21], large_keys(3, 9)))]
    assert shelf.holds(*mine)
    assert shelf.index.forget(np.array([7])) == 6
    assert not shelf.holds(*mine)
    shelf.index.admit(staged)
    left = {int(key): [int(value)] for key, value in zip(keys, values, strict=True) if value != 7}
    assert found(shelf.index, [*map(int, keys), *mine]) == left
    shelf.index.tidy()
    assert len(shelf.index) == 117
    assert found(shelf.index, [*map(int, keys), *mine]) == left
    assert shelf.index.verify() == []


def test_a_key_lent_to_an_erased_neighbour_goes_when_its_owner_does(shelf: Shelf) -> None:
    owner, neighbour, other = sorted(map(key_of, (1, 2, 3)))
    shelf.index.add(*arrays([(owner, 1), (neighbour, 2), (other, 3)]))
    shelf.index.forget(np.array([2]))
    assert not shelf.holds(neighbour)
    shelf.index.forget(np.array([1]))
    assert not shelf.holds(owner)
    assert found(shelf.index, [owner, neighbour, other]) == {other: [3]}


def test_an_erasure_is_seen_where_packs_are_copied_and_not_mapped(shelf: Shelf) -> None:
    mapped = shelf.blobs.view_pack
    shelf.blobs.view_pack = lambda name: memoryview(bytes(mapped(name)))  # type: ignore[method-assign]
    shelf.index.add(*arrays([(7, 1), (8, 2)]))
    assert found(shelf.index, [7, 8]) == {7: [1], 8: [2]}
    shelf.index.forget(np.array([2]))
    assert found(shelf.index, [7, 8]) == {7: [1]}


def test_equal_keys_of_others_survive_an_erasure(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, 1), (7, 2), (7, 3)]))
    shelf.index.forget(np.array([2]))
    assert found(shelf.index, [7]) == {7: [1, 3]}


def test_an_erasure_at_the_beginning_of_a_later_pack_leaves_the_run_in_order(shelf: Shelf) -> None:
    keys = [1] * 12 + [3, 3, 8, 11] + [12] * 4
    shelf.index.add(*arrays([(key, number) for number, key in enumerate(keys, 1)]))
    assert len(shelf.packs()) == 2
    shelf.index.forget(np.array([17]))
    assert shelf.open().verify() == []


def test_an_index_with_everything_forgotten_has_no_packs_left(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, 1), (8, 2)]))
    shelf.index.forget(np.array([1, 2]))
    shelf.index.tidy()
    assert shelf.packs() == []
    assert found(shelf.index, [7, 8]) == {}


def test_an_erasure_between_reading_and_swapping_stops_the_merge(shelf: Shelf) -> None:
    for number in range(1, 4):
        shelf.index.add(*arrays([(key_of(number), number), (key_of(9), 9)]))
    other = shelf.open()
    put = shelf.blobs.put_pack

    def forget_then_put(name: str, data: bytes) -> bool:
        shelf.blobs.put_pack = put  # type: ignore[method-assign]
        other.forget(np.array([2]))
        return put(name, data)

    shelf.blobs.put_pack = forget_then_put  # type: ignore[method-assign]
    shelf.index.tidy()
    assert found(shelf.index, [key_of(1), key_of(2), key_of(3)]) == {key_of(1): [1], key_of(3): [3]}
    assert not shelf.holds(key_of(2))
    shelf.index.tidy()
    assert len(shelf.packs()) == 1


def test_a_reader_follows_merges_of_another_process(shelf: Shelf) -> None:
    reader = shelf.open()
    for number in range(1, 3):
        shelf.index.add(*arrays([(number, number)]))
    assert found(reader, [1, 2, 3]) == {1: [1], 2: [2]}
    shelf.index.add(*arrays([(3, 3)]))
    shelf.index.tidy()
    assert found(reader, [1, 2, 3]) == {1: [1], 2: [2], 3: [3]}


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_damaged_pack_is_named_and_nothing_is_taken_for_new(shelf: Shelf, damage: str) -> None:
    shelf.index.add(*arrays([(7, 1), (8, 2)]))
    (pack,) = shelf.packs()
    if damage == "gone":
        pack.unlink()
    else:
        pack.write_bytes(pack.read_bytes()[:-1])
    fresh = shelf.open()
    with pytest.raises(PlumblineError):
        fresh.find(np.array([7], np.uint64))
    with pytest.raises(PlumblineError):
        fresh.forget(np.array([1]))
    assert len(fresh.verify()) == 1
    fresh.rebuild([arrays([(7, 1)]), arrays([(8, 2)])])
    assert found(fresh, [7, 8]) == {7: [1], 8: [2]}
    assert fresh.verify() == []


def test_keys_out_of_order_are_seen(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, 1), (8, 2), (9, 3)]))
    (pack,) = shelf.packs()
    data = pack.read_bytes()
    pack.write_bytes(data[8:16] + data[:8] + data[16:])
    assert "out of order" in shelf.open().verify()[0]


def test_a_lost_bit_of_a_filter_is_seen(shelf: Shelf) -> None:
    shelf.index.add(*arrays([(7, 1), (8, 2), (9, 3)]))
    (pack,) = shelf.packs()
    data = pack.read_bytes()
    pack.write_bytes(data[: 3 * 16] + bytes(len(data) - 3 * 16))
    assert found(shelf.open(), [7]) == {}
    assert "filter" in shelf.open().verify()[0]


def work(index: KeyIndex) -> Iterator[None]:
    """A life of the index, one public step after the other."""
    for number in range(1, 5):
        staged = index.stage(*arrays([(key_of(number), number), (key_of(number + 50), number), (key_of(5), number)]))
        yield
        index.admit(staged)
        yield
        index.tidy()
        yield
    index.forget(np.array([2]))
    yield
    index.tidy()


def test_a_kill_at_every_pack_operation_leaves_an_index_that_answers(tmp_path: Path) -> None:
    """Every put, overwrite and delete of a life with two merges and an erasure, killed before and after it happens."""
    kills = 0
    for after in (False, True):
        for step in itertools.count():
            shelf = Shelf(tmp_path / f"{after}-{step}")
            shelf.blobs.steps_left, shelf.blobs.after = step, after
            admitted, done, forgetting = 0, 0, False
            try:
                for done, _ in enumerate(work(shelf.index), 1):
                    admitted, forgetting = min((done + 1) // 3, 4), done >= 12
            except Killed:
                kills += 1
            else:
                shelf.database.close()
                break
            shelf.blobs.steps_left = None
            survivor = shelf.open()
            wanted = [key_of(number) for number in range(1, 5)]
            answer = found(survivor, wanted)
            for number in range(1, 5):
                filed = answer.get(key_of(number), [])
                if number == 2 and forgetting:
                    assert filed in ([], [2])
                else:
                    assert filed == [number] * (number <= admitted)
            survivor.sweep()
            if forgetting:
                survivor.forget(np.array([2]))
                assert not shelf.holds(key_of(2), key_of(2 + 50))
            survivor.tidy()
            assert survivor.verify() == []
            assert len(shelf.packs()) == shelf.database.value("SELECT COUNT(*) FROM key_run")
            shelf.database.close()
    assert kills >= 16


class Life(RuleBasedStateMachine):
    """Any order of steps, against a list of entries."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.shelf = Shelf(Path(self.folder.name))
        self.index = self.shelf.index
        self.entries: list[Entry] = []
        self.waiting: list[tuple[StagedRun, list[Entry]]] = []
        self.forgotten: set[int] = set()
        self.numbers = itertools.count(1)

    def teardown(self) -> None:
        self.shelf.database.close()
        self.folder.cleanup()

    def drawn(self, keys: list[int]) -> list[Entry]:
        return [(key_of(key), next(self.numbers)) for key in keys]

    @rule(keys=st.lists(st.integers(1, 40), max_size=40))
    def add(self, keys: list[int]) -> None:
        entries = self.drawn(keys)
        self.index.add(*arrays(entries))
        self.entries += entries

    @rule(keys=st.lists(st.integers(1, 40), max_size=5))
    def stage(self, keys: list[int]) -> None:
        entries = self.drawn(keys)
        self.waiting.append((self.index.stage(*arrays(entries)), entries))

    @rule()
    def admit(self) -> None:
        if self.waiting:
            staged, entries = self.waiting.pop()
            self.index.admit(staged)
            self.entries += [entry for entry in entries if entry[1] not in self.forgotten]

    @rule(step=st.integers(0, 4), after=st.booleans(), keys=st.lists(st.integers(1, 40), min_size=1, max_size=20))
    def die_in_a_transaction(self, step: int, after: bool, keys: list[int]) -> None:
        entries = self.drawn(keys)
        self.shelf.blobs.steps_left, self.shelf.blobs.after = step, after
        try:
            staged = self.index.stage(*arrays(entries))
            with self.shelf.database.transaction():
                self.index.admit(staged)
                raise Killed
        except Killed:
            self.shelf.blobs.steps_left = None
        self.index = self.shelf.open()

    @rule(step=st.integers(0, 6), after=st.booleans())
    def die_tidying(self, step: int, after: bool) -> None:
        self.shelf.blobs.steps_left, self.shelf.blobs.after = step, after
        try:
            self.index.tidy()
        except Killed:
            self.index = self.shelf.open()
        self.shelf.blobs.steps_left = None

    @rule()
    def tidy(self) -> None:
        self.index.tidy()

    @rule()
    def sweep(self) -> None:
        self.index.sweep()
        self.waiting.clear()
        assert len(self.shelf.packs()) == self.shelf.database.value("SELECT COUNT(*) FROM key_run")

    @rule(which=st.sets(st.integers(1, 200), max_size=30))
    def forget(self, which: set[int]) -> None:
        gone = {key for key, value in self.entries if value in which}
        self.forgotten |= which & {value for _, entries in self.waiting for _, value in entries}
        self.index.forget(np.array(sorted(which), np.int64))
        self.entries = [entry for entry in self.entries if entry[1] not in which]
        waiting = {key for _, entries in self.waiting for key, value in entries if value not in self.forgotten}
        left = {key for key, _ in self.entries} | waiting | self._swept_later()
        assert not gone - left or not self.shelf.holds(*gone - left)

    def _swept_later(self) -> set[int]:
        """Keys in packs of dead writers: other people's, until the next sweep."""
        names = self.shelf.database.rows("SELECT pack, entries FROM key_run WHERE state != 'current'")
        keys: set[int] = set()
        for row in names:
            path = next((path for path in self.shelf.packs() if path.name == row["pack"][7:]), None)
            if path is not None:
                data = path.read_bytes()
                keys |= set(np.frombuffer(data, "<u8", row["entries"]).tolist())
        return keys

    @invariant()
    def answers_like_the_list(self) -> None:
        wanted = [key_of(key) for key in range(1, 41)]
        expected = defaultdict(list)
        for key, value in sorted(self.entries, key=lambda entry: entry[1]):
            expected[key].append(value)
        assert found(self.index, wanted) == expected
        assert self.index.verify() == []


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
