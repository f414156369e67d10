"""Variants: the same request in other words, tied to its canonical twin, and the holes where one is missing."""

from plumbline.evaluation.suites.variants import family_of, tied_items, variant_of, variants_by_slice
from plumbline.records import SuiteItem, say


def item(identity, **more):
    values = {"area": "a", "slice": "s", "cluster": identity.split("/")[0], "scorer": "exact", **more}
    return SuiteItem(id=identity, messages=(say("user", identity),), **values)


ITEMS = [
    item("x/en"),
    item("y/en"),
    item("x/es", language="es", variant_of="x/en"),
    item("y/es", language="es", variant_of="y/en"),
    item("x/polite", phrasing="polite", variant_of="x/en", slice="polite_ones"),
    item("z/free", phrasing="polite", slice="other"),
]


def test_a_variant_is_named_by_its_phrasing_or_its_language():
    assert [variant_of(one) for one in ITEMS] == [
        "canonical", "canonical", "language-es", "language-es", "polite", "polite",
    ]  # fmt: skip


def test_a_variant_counts_where_its_twin_stands_and_a_missing_one_is_a_hole():
    first, second = variants_by_slice(ITEMS)
    assert (second.slice, first.slice) == ("s", "other")
    assert second.counts == {"canonical": 2, "language-es": 2, "polite": 1} and second.tied == 3
    assert second.holes == {"polite": ("y/en",)}
    assert first.counts == {"polite": 1} and first.tied == 0 and first.holes == {}


def test_without_ties_there_are_no_holes_to_speak_of():
    (found,) = variants_by_slice([item("x/en"), item("y/en"), item("x/es", language="es")])
    assert found.holes == {} and found.counts == {"canonical": 2, "language-es": 1}


def test_a_tie_makes_a_family_and_else_the_cluster_does():
    tied = tied_items(ITEMS)
    families = [family_of(one, tied) for one in ITEMS]
    assert families[0] == families[2] == families[4] != families[1] == families[3]
    a, b = item("q/1", cluster="q"), item("q/2", cluster="q", phrasing="polite")
    assert family_of(a) == family_of(b) != family_of(item("q/3", cluster="q", scorer="refusal"))
