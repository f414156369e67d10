"""Signatures of batches: what counts as equal, how surely near-duplicates are found, and that a flood stays cheap."""

import gzip
import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback.signatures import (
    BANDS,
    NEIGHBOURS,
    ROWS,
    Places,
    Signatures,
    Signer,
    near_pairs,
    normalise,
    shingles,
    similarity,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
words = st.lists(st.sampled_from(["lamp", "oil", "wick", "Ölkanne", "ﬁre", "A", "a", "\x00", "ß"]), max_size=12).map(
    " ".join
)


def jaccard_of(one: str, other: str) -> float:
    """Similarity of two texts, exactly and slowly: what `similarity` computes for many."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def planted(pairs: int, length: int, edits: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of random words, and each again with `edits` of its words replaced, far from each other."""
    draw = np.random.default_rng(seed)
    texts = draw.integers(0, 50_000, (pairs, length))
    changed = texts.copy()
    for edit in range(edits):
        changed[:, (edit + 1) * length // (edits + 1)] = draw.integers(50_000, 90_000, pairs)
    first, second = ([" ".join(f"w{word}" for word in row) for row in rows.tolist()] for rows in (texts, changed))
    return first, second


def every(count: int) -> Places:
    return np.arange(count)


def all_pairs(signatures: Signatures) -> set[tuple[int, int]]:
    """Every pair that shares a band key, the slow way."""
    found = set()
    for band in signatures.bands.T.tolist():
        rows = defaultdict(list)
        for number, key in enumerate(band):
            rows[key].append(number)
        found |= {pair for group in rows.values() for pair in itertools.combinations(group, 2)}
    return found


def pairs_of(signatures: Signatures) -> set[tuple[int, int]]:
    i, j = near_pairs(signatures.bands)
    return set(zip(i.tolist(), j.tolist(), strict=True))


@given(words, words)
def test_similarity_of_a_batch_is_the_similarity_of_the_texts(one: str, other: str) -> None:
    signed = Signer(b"pepper").sign_many([one, other])
    assert similarity(signed, np.array([0, 0]), signed, np.array([1, 0])).tolist() == [jaccard_of(one, other), 1.0]
    assert (signed.texts[0] == signed.texts[1]) == (normalise(one) == normalise(other))


@given(st.lists(st.text(max_size=40), max_size=6))
def test_a_text_has_one_signature_in_whatever_company(texts: list[str]) -> None:
    together, signer = Signer(b"pepper").sign_many(texts), Signer(b"pepper")
    for number, text in enumerate(texts):
        alone = signer.sign_many([text])
        assert np.array_equal(alone.bands[0], together.bands[number])
        assert alone.texts[0] == together.texts[number]
        assert alone.set_of(0) == together.set_of(number)
        assert len(alone.set_of(0)) == len(shingles(text))


def test_batches_of_thousands_are_signed_like_single_texts() -> None:
    texts, _ = planted(2500, 7, 0)
    signer = Signer(b"pepper")
    together = signer.sign_many(texts)
    assert len(together) == 2500
    for number in (0, 1023, 1024, 2499):
        assert np.array_equal(signer.sign_many([texts[number]]).bands[0], together.bands[number])


def test_white_space_case_and_width_do_not_make_a_new_text() -> None:
    signed = Signer(b"pepper").sign_many(["  Ｗhat\tIS a lamp ", "what is a lamp", "what is a lamp A"])
    assert signed.texts[0] == signed.texts[1] != signed.texts[2]
    assert np.array_equal(signed.bands[0], signed.bands[1])


def test_hostile_texts_are_signed() -> None:
    texts = ["", " ", "\ud800 lone", "\x00", "A A A", "a " * 50_000, "x" * 1_000_000, "\U0010ffff" * 3, "İ ﷺ"]
    signed = Signer(b"pepper").sign_many(texts)
    assert signed.bands.shape == (len(texts), BANDS)
    assert signed.texts[0] == signed.texts[1]
    assert (signed.bands > 0).all() and (signed.texts > 0).all()


@pytest.mark.parametrize(("length", "edits", "likeness", "promised"), [(122, 2, 0.9, 0.995), (120, 1, 0.95, 0.9995)])
def test_near_duplicates_share_a_band(length: int, edits: int, likeness: float, promised: float) -> None:
    first, second = planted(10_000, length, edits)
    signer = Signer(b"pepper")
    ours, theirs = signer.sign_many(first), signer.sign_many(second)
    assert similarity(ours, every(10_000), theirs, every(10_000)).min() >= likeness
    assert (ours.bands == theirs.bands).any(axis=1).mean() > promised


@pytest.mark.parametrize("edits", [3, 6, 10, 16])
def test_candidates_are_as_frequent_as_the_formula_says(edits: int) -> None:
    first, second = planted(10_000, 60, edits)
    signer = Signer(b"pepper")
    ours, theirs = signer.sign_many(first), signer.sign_many(second)
    likeness = similarity(ours, every(10_000), theirs, every(10_000))
    expected = (1 - (1 - likeness**ROWS) ** BANDS).mean()
    assert abs((ours.bands == theirs.bands).any(axis=1).mean() - expected) < 4 * (expected / 10_000) ** 0.5


def test_pairs_of_a_batch_are_those_that_share_a_band() -> None:
    first, second = planted(400, 30, 1)
    longer = [f"{text} end" for text in first]
    signed = Signer(b"pepper").sign_many(first + second + longer + first[:50])
    found = pairs_of(signed)
    alike = defaultdict(list)
    for number, bands in enumerate(signed.bands.tolist()):
        alike[tuple(bands)].append(number)
    chains = {link for group in alike.values() for link in itertools.pairwise(group)}
    first_of = {group[0] for group in alike.values()}
    assert {(i, i + 1200) for i in range(50)} & chains
    assert found == {pair for pair in all_pairs(signed) if first_of.issuperset(pair)} | chains
    assert all(i < j for i, j in found)


def test_a_flood_of_one_text_is_linear_and_hangs_together() -> None:
    flood = ["buy the lamp at the corner shop today"] * 50_000
    signed = Signer(b"pepper").sign_many([*flood, "something else entirely is said in here"])
    started = time.perf_counter()
    i, j = near_pairs(signed.bands)
    assert time.perf_counter() - started < 5
    assert np.array_equal(i, np.arange(49_999)) and np.array_equal(j, i + 1)


def test_similar_texts_meet_in_a_crowd_of_less_similar_ones() -> None:
    """A form that thousands fill in differently: every band is crowded, few pairs are truly near."""
    form = [f"f{number}" for number in range(300)]
    texts = []
    for number in range(3000):
        own = [f"x{number % 1500}-{place}" for place in range(30)]
        texts.append(" ".join([*form, *own, f"last{number}"]))
    signed = Signer(b"pepper").sign_many(texts)
    likeness = similarity(signed, np.array([0, 0]), signed, np.array([1, 1500]))
    assert likeness.round(2).tolist() == [0.83, 0.99]
    found = pairs_of(signed)
    assert len(found) < 3000 * BANDS * NEIGHBOURS
    assert sum((number, number + 1500) in found for number in range(1500)) >= 1490


def test_rows_that_meet_in_one_band_alone_are_paired_with_the_few_before_them() -> None:
    bands = np.arange(1, 10 * BANDS + 1, dtype=np.uint64).reshape(10, BANDS)
    bands[:, 3] = 7
    i, j = near_pairs(bands)
    near = {(a, b) for a, b in itertools.combinations(range(10), 2) if b - a <= NEIGHBOURS}
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == near


def test_an_empty_batch_has_no_pairs() -> None:
    signed = Signer(b"pepper").sign_many([])
    i, j = near_pairs(signed.bands)
    assert (len(signed), len(i), len(j)) == (0, 0, 0)
    assert Signer(b"pepper").keys("text", []).tolist() == []


def test_keys_of_one_kind_or_store_say_nothing_of_another() -> None:
    signer = Signer(b"pepper")
    prompts, again = signer.keys("prompt", ["What is  a lamp", "x", ""]), signer.keys("prompt", ["what is a lamp"])
    assert prompts[0] == again[0]
    assert len({*prompts.tolist(), *signer.keys("text", ["what is a lamp", "x", ""]).tolist()}) == 6
    assert signer.keys("prompt", ["x"]) != Signer(b"other").keys("prompt", ["x"])
    ours, theirs = (Signer(pepper).sign_many(["what is a lamp"]) for pepper in (b"a", b"b"))
    assert not set(ours.bands.ravel().tolist()) & set(theirs.bands.ravel().tolist())
    assert ours.texts[0] != theirs.texts[0]


def test_signatures_are_the_same_in_every_process() -> None:
    """Golden: stored signatures must stay comparable with those that later versions of this code make."""
    signer = Signer(b"pepper")
    signed = signer.sign_many(["user: what is a lamp\nassistant: it shines", "Ölkanne"])
    golden = [hex(number) for number in (signed.bands[0, 0], signed.bands[1, -1], signed.texts[0])]
    assert golden == ["0x99217620fab7b3a5", "0xe3942666576a8352", "0x204708c43203e5eb"]
    assert hex(signer.keys("prompt", ["what is a lamp"])[0]) == "0x4259654618619075"
    code = (
        "from plumbline.feedback.signatures import Signer; s = Signer(b'pepper')\n"
        "print(s.sign_many(['what is a lamp', 'why']).bands.tolist())"
    )
    command = [sys.executable, "-c", code]
    runs = {
        subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_a_word_has_one_hash_whatever_was_seen_before_and_however_long_it_is() -> None:
    """More words than the table of short ones has places, among them some at and over the bound, and with a NUL."""
    odd = ["fifteen-letters", "sixteen-letters-", "x" * 400, "a", "a\x00", "\x00", "日本語で", "eight888", "nine99999"]
    texts = [f"{word} {number} w{number}" for number in range(150_000) for word in (odd[number % len(odd)],)]
    signer = Signer(b"pepper")
    first, again = signer.sign_many(texts), signer.sign_many(texts[::-1])
    assert np.array_equal(first.bands, again.bands[::-1])
    assert np.array_equal(first.texts, again.texts[::-1])
    for number in (0, 8, 77_777, 149_999):
        assert np.array_equal(first.bands[number], Signer(b"pepper").sign_many([texts[number]]).bands[0])


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data lies beside the repository and is not here")
def test_nothing_near_is_missed_among_real_dialogues() -> None:
    """Preference pairs are one dialogue with two last turns: many are near, and so are some dialogues to others."""
    with gzip.open(SHARED / "hh-rlhf" / "harmless-test.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    signed = Signer(b"pepper").sign_many([pair[side] for side in ("chosen", "rejected") for pair in pairs])
    i = every(len(pairs))
    j = i + len(pairs)
    likeness = similarity(signed, i, signed, j)
    near = (likeness >= 0.9) & (likeness < 1.0)
    assert near.sum() > 40
    assert set(zip(i[near].tolist(), j[near].tolist(), strict=True)) <= pairs_of(signed)
    assert len(pairs_of(signed)) < len(signed) / 2
