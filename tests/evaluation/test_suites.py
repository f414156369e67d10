"""Suites on disk: what the header lays down, and bad input that is named by line and loses nothing."""

import gzip
import json

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import load_suite, read_suite, save_suite
from plumbline.evaluation.suites import join_suites, read_terms
from plumbline.records import Suite, SuiteItem, say
from plumbline.records.suite import SuiteTerms

CANARY = "6f1c3a52-88d7-4c1e-9c0b-2f4a5d6e7f80"


def item(identity, **more):
    values = {"area": "a", "slice": "s", "cluster": identity, "scorer": "exact", "references": ("x",), **more}
    return SuiteItem.model_validate({"id": identity, "messages": (say("user", f"question {identity}"),), **values})


def test_a_suite_survives_the_disk(make_suite, tmp_path):
    suite = make_suite(4)
    save_suite(suite, tmp_path / "s.jsonl")
    assert load_suite(tmp_path / "s.jsonl") == suite == read_suite(tmp_path / "s.jsonl")
    assert load_suite(tmp_path / "s.jsonl").digest == suite.digest


def test_an_item_without_a_twin_has_the_digest_that_it_had_before_twins_existed():
    old = SuiteItem(id="i", area="a", slice="s", cluster="c", messages=(say("user", "q"),), scorer="exact")
    assert old.digest == "sha256:233c2ccb83d3db8fa1da03694c155313aeb5bebf96803b66882c7f07568d5217"
    suite = Suite(name="n", version="1", items=(old,))
    assert suite.digest == "sha256:3ffb586cf4cb7b7d5c9ed9aedc2d0e4fb1d290fc630785a81970b613b14a542b"
    assert old.model_copy(update={"variant_of": "j"}).digest != old.digest


def test_terms_survive_the_disk_and_are_no_part_of_what_is_asked(tmp_path):
    terms = SuiteTerms(private=True, canaries=(CANARY,), licence="CC0-1.0", owner="safety", query_budget=4)
    plain = Suite(name="n", version="1", items=(item("i"),))
    suite = plain.model_copy(update={"terms": terms})
    save_suite(suite, tmp_path / "s.jsonl")
    assert load_suite(tmp_path / "s.jsonl", logged=True).terms == terms
    assert read_terms(tmp_path / "s.jsonl") == ("n", "1", terms)
    assert suite.digest == plain.digest, "raising a budget does not change the questions"
    header = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert header["canary"] == CANARY and header["private"] is True


def test_a_private_suite_is_not_loaded_past_its_log(tmp_path):
    save_suite(Suite(name="n", version="1", items=(item("i"),), terms=SuiteTerms(private=True)), tmp_path / "s.jsonl")
    for read in (load_suite, read_suite):
        with pytest.raises(PlumblineError, match="stand in no log"):
            read(tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[1:], "line 1: the first line must be"),
        (lambda lines: [*lines, lines[2]], "already"),
        (lambda lines: [lines[0], lines[1].replace('"slice":"sums",', "")], "line 2: slice"),
        (lambda lines: [lines[0], lines[1][:-5]], "line 2"),
        (lambda lines: lines[:1], "no items"),
        (lambda lines: [lines[0].replace("}", ', "privat": true}'), *lines[1:]], "line 1: unknown privat"),
        (lambda lines: [lines[0].replace("}", ', "query_budget": 3}'), *lines[1:]], "only a private suite has"),
        (lambda lines: [lines[0].replace("}", ', "canary": "short"}'), *lines[1:]], "found by chance"),
        (lambda lines: [lines[0], _tie(lines[1], "nobody")], "line 2: variant_of names 'nobody'"),
    ],
)
def test_a_malformed_suite_is_refused_with_its_line(make_suite, tmp_path, damage, message):
    path = tmp_path / "s.jsonl"
    save_suite(make_suite(2), path)
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(PlumblineError, match=message):
        load_suite(path)


def _tie(line, twin):
    return json.dumps({**json.loads(line), "variant_of": twin})


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((item("a"), item("b", variant_of="a"), item("c", variant_of="b")), "line 4: variant_of names 'b', which is a"),
        ((item("a"), item("b", variant_of="a", area="other")), "line 3: its twin 'a' has another area or scorer"),
    ],
)
def test_a_twin_is_canonical_and_asked_alike(tmp_path, items, message):
    save_suite(Suite(name="n", version="1", items=items), tmp_path / "s.jsonl")
    with pytest.raises(PlumblineError, match=message):
        load_suite(tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"scorer": "vibes"}, "no scorer 'vibes'; use one of abstention"),
        ({"messages": (say("user", "q"), say("assistant", "a"))}, "end with the assistant"),
        ({"scorer": "choice_loglik", "choices": ("a",)}, "two or more different texts"),
        ({"scorer": "choice_loglik", "choices": ("a", "b", "a")}, "two or more different texts"),
        ({"scorer": "choice_loglik_mass", "choices": ("a", "b"), "references": ("b", "a")}, "each would be true"),
        ({"scorer": "choice_loglik", "choices": ("a", "b"), "references": ("b.",)}, "'b.', which is none of the choic"),
        ({"scorer": "choice_loglik", "choices": ("a", "")}, "a choice is empty"),
        ({"references": ()}, "exact could never succeed"),
        ({"scorer": "style", "references": ("max_words:few",)}, "cannot be checked"),
        ({"scorer": "style", "references": ("regex:(",)}, "cannot be checked"),
        ({"scorer": "style", "references": ("case:title",)}, "cannot be checked"),
        ({"scorer": "instructions", "references": ("startend:vibes",)}, "no such kind"),
    ],
)
def test_an_item_that_could_never_be_scored_is_found_before_anybody_is_asked(tmp_path, more, message):
    suite = Suite(name="n", version="1", items=(item("a"), item("b", **more)))
    save_suite(suite, tmp_path / "s.jsonl")
    with pytest.raises(PlumblineError, match=f"line 3: .*{message}"):
        load_suite(tmp_path / "s.jsonl")


def test_a_variant_may_stand_before_its_twin(tmp_path):
    suite = Suite(name="n", version="1", items=(item("b", variant_of="a"), item("a")))
    save_suite(suite, tmp_path / "s.jsonl")
    assert load_suite(tmp_path / "s.jsonl") == suite


def test_an_unreadable_file_says_what_to_do(tmp_path):
    with pytest.raises(PlumblineError, match="cannot be read"):
        read_suite(tmp_path / "absent.jsonl")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"x" * 5000)[:-20])
    with pytest.raises(PlumblineError, match="cannot be read"):
        read_suite(tmp_path / "torn.gz")


def test_a_gzipped_suite_is_known_by_its_bytes(make_suite, tmp_path):
    save_suite(make_suite(2), tmp_path / "s.jsonl")
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "s.jsonl").read_bytes()))
    assert read_suite(tmp_path / "packed") == make_suite(2)


def test_suites_asked_together_keep_every_canary():
    one = Suite(name="a", version="1", items=(item("i"),), terms=SuiteTerms(canaries=(CANARY,)))
    two = Suite(name="b", version="2", items=(item("j"),), terms=SuiteTerms(private=True, canaries=("x" * 20,)))
    joined = join_suites([one, two])
    assert (joined.name, joined.version, len(joined.items)) == ("a+b", "1+2", 2)
    assert joined.terms.private and joined.terms.canaries == (CANARY, "x" * 20)
    assert join_suites([one]) is one


def test_an_id_that_two_suites_use_is_named():
    suite = Suite(name="a", version="1", items=(item("i"),))
    with pytest.raises(PlumblineError, match="'i' appears twice"):
        join_suites([suite, suite])


def test_brackets_without_end_are_no_suite(tmp_path):
    (tmp_path / "s.jsonl").write_text("[" * 100_000)
    with pytest.raises(PlumblineError, match="no suite that is known"):
        read_suite(tmp_path / "s.jsonl")
