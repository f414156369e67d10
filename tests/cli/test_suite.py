"""`plumb suite`: looked at, checked against training data, made, sampled, and who read a private one."""

import json

import pytest

from plumbline.evaluation import BEHAVIORS, load_suite, read_suite, save_suite
from plumbline.evaluation.suites import open_suite
from plumbline.records import Suite, SuiteItem, say


def item(identity, text, **more):
    values = {
        "area": "helpfulness",
        "slice": "people",
        "cluster": identity,
        "scorer": "exact",
        "references": ("x",),
        **more,
    }
    return SuiteItem(id=identity, messages=(say("user", text),), **values)


@pytest.fixture
def people(plumb):
    """A suite of two questions, of which the imported dataset `facts` has trained on the first."""
    items = (
        item("seen", "Who is Ana 3?", references=("ana is a baker.",)),
        item("new", "Who sings in the tower?", references=("nobody",), severity="severe"),
    )
    path = plumb.folder / "people.jsonl"
    save_suite(Suite(name="people", version="1", items=items), path)
    return path


def private(plumb, source, *more):
    said = plumb("suite", "new", source, "--out", "mine.jsonl", "--private", "--owner", "safety", *more)
    assert said.code == 0, said
    return plumb.folder / "mine.jsonl"


def test_show_counts_what_is_asked_and_prints_no_item(plumb, people):
    said = plumb("suite", "show", people)
    assert said.code == 0 and "people version 1: 2 items, sha256:" in said.out
    assert "helpfulness.exact: always_refuse 0.0%" in said.out
    assert "Ana" not in said.out and "tower" not in said.out
    shown = plumb("suite", "show", people, "--json").json
    assert shown["slices"] == [
        {"area": "helpfulness", "slice": "people", "scorer": "exact", "items": 2, "clusters": 2, "severe": 1}
    ]
    assert shown["digest"] == load_suite(people).digest and shown["terms"]["private"] is False


def test_check_finds_what_was_trained_on_and_says_so_by_its_exit_code(plumb, people):
    plumb.import_messages(n=60)
    said = plumb("suite", "check", people, "--dataset", "facts")
    assert said.code == 1 and "1 item of 2 found among" in said.out
    assert "seen  exact  1.00   sha256:" in said.out and "new" not in said.out
    found = plumb("suite", "check", people, "--dataset", "facts@1", "--json")
    assert found.code == 1 and [one["item"] for one in found.json["overlaps"]] == ["seen"]
    example = found.json["overlaps"][0]["example"]
    assert plumb("lineage", "example", example).code == 0, "the example's address leads on"


def test_check_of_a_clean_suite_is_done(plumb, people):
    plumb.import_messages(n=60)
    clean = plumb.folder / "clean.jsonl"
    save_suite(Suite(name="clean", version="1", items=load_suite(people).items[1:]), clean)
    said = plumb("suite", "check", clean, "--dataset", "facts")
    assert said.code == 0 and "0 items of 1 found" in said.out


def test_check_finds_the_canary_of_a_file_that_was_trained_on(plumb, people):
    mine = private(plumb, people)
    canary = json.loads(mine.read_text().splitlines()[0])["canary"]
    turns = ([say("user", f"complete {n}"), say("assistant", f"id {canary.upper()}")] for n in range(9))
    lines = (json.dumps({"messages": [turn.model_dump() for turn in pair]}) for pair in turns)
    dump = plumb.write("dump.jsonl", "\n".join(lines))
    plumb("dataset", "import", dump, "--format", "messages", "--dataset", "dump", "--licence", "MIT")
    said = plumb("suite", "check", mine, "--dataset", "dump")
    assert said.code == 1 and "2 items of 2" in said.out and "canary  1.00" in said.out


def test_a_dataset_that_is_not_there_costs_no_reading(plumb, people):
    mine = private(plumb, people, "--query-budget", "1")
    plumb.import_messages()
    assert plumb("suite", "check", mine, "--dataset", "absent").code == 2
    assert plumb("suite", "log", mine, "--json").json["spent"] == 0


def test_every_reading_of_a_private_suite_is_logged_until_the_budget_is_spent(plumb, people):
    mine = private(plumb, people, "--query-budget", "3")
    assert plumb("suite", "show", mine, "--actor", "ana").code == 0
    assert plumb("suite", "variants", mine, "--actor", "ben").code == 0
    assert plumb("suite", "sample", mine, "--actor", "ana").code == 0
    assert plumb("suite", "show", mine).faulted("3 of 3 readings", "plumb suite log")
    log = plumb("suite", "log", mine)
    assert log.code == 0 and log.out.endswith("people 1: 3 of 3 spent\n")
    lines = plumb("suite", "log", mine, "--json").json["log"]
    assert [(one["who"], one["purpose"]) for one in lines] == [("ana", "show"), ("ben", "variants"), ("ana", "sample")]
    assert "tower" not in log.out


def test_a_public_suite_has_no_log(plumb, people):
    plumb("suite", "show", people)
    assert "public, so that no reading is logged" in plumb("suite", "log", people).out


def test_new_writes_a_public_set_as_a_suite_of_ours(plumb, shared_data):
    source = shared_data / "xstest" / "xstest_prompts.csv"
    said = plumb("suite", "new", source, "--out", "x.jsonl", "--licence", "CC-BY-4.0", "--version", "2b")
    made = load_suite(plumb.folder / "x.jsonl")
    assert said.code == 0 and made.items == read_suite(source).items
    assert (made.version, made.terms.licence, made.terms.canaries) == ("2b", "CC-BY-4.0", ())
    assert plumb("suite", "new", source, "--out", "x.jsonl").faulted("is there already", "a new file")


def test_a_private_source_stays_private_with_its_canary(plumb, people):
    mine = private(plumb, people, "--query-budget", "5")
    assert plumb("suite", "new", mine, "--out", "copy.jsonl", "--version", "2").code == 0
    copy, original = (open_suite(path, purpose="test").terms for path in (plumb.folder / "copy.jsonl", mine))
    assert copy.private and copy == original and len(copy.canaries[0]) == 36


def test_a_budget_without_a_log_is_refused(plumb, people):
    assert plumb("suite", "new", people, "--out", "b.jsonl", "--query-budget", "2").faulted("--private")


def test_a_form_is_for_the_set_that_has_it(plumb, people):
    assert plumb("suite", "new", people, "--out", "b.jsonl", "--form", "mc1").faulted("not the file that was expected")
    assert not (plumb.folder / "b.jsonl").exists()


def test_a_sample_is_the_same_for_a_seed_and_another_for_another(plumb, shared_data):
    source = shared_data / "xstest" / "xstest_prompts.csv"
    draw = ["suite", "sample", source, "--n", "4", "--area", "over_refusal", "--json"]
    first = plumb(*draw).json
    assert first == plumb(*draw).json != plumb(*draw, "--seed", "1").json
    assert len(first) == 4 and {one["area"] for one in first} == {"over_refusal"}
    assert plumb("suite", "sample", source, "--slice", "absent").faulted("has no such item", "over_refusal/homonyms")


def test_a_sample_shows_what_is_asked_and_what_is_true(plumb, people):
    said = plumb("suite", "sample", people, "--n", "2")
    assert "user       Who sings in the tower?" in said.out and "reference  nobody" in said.out


def test_variants_are_listed_by_slice_with_their_holes(plumb):
    items = (
        item("a", "who is ana"),
        item("b", "who is ben"),
        item("a2", "quién es ana", language="es", variant_of="a"),
    )
    save_suite(Suite(name="v", version="1", items=items), plumb.folder / "v.jsonl")
    said = plumb("suite", "variants", plumb.folder / "v.jsonl")
    assert said.code == 0 and "canonical 2, language-es 1" in said.out
    assert "hole: b has no language-es" in said.out
    (found,) = plumb("suite", "variants", plumb.folder / "v.jsonl", "--json").json
    assert found["holes"] == {"language-es": ["b"]} and found["tied"] == 1


def test_a_file_that_is_no_suite_is_a_fault(plumb):
    file = plumb.write("x.csv", "a,b\n1,2\n")
    for command in ("show", "variants", "sample"):
        assert plumb("suite", command, file).faulted("no suite that is known", "XSTest prompts")


def test_the_micro_worlds_suites_can_be_had_as_files_and_no_file_is_written_over(plumb):
    assert plumb("suite", "microworld", "--out", "held.jsonl", "--seed", "3").code == 0
    held = read_suite(plumb.folder / "held.jsonl")
    assert {one.area for one in held.items} >= {one.area for one in BEHAVIORS} and held.version == "3"
    assert plumb("suite", "microworld", "--out", "seen.jsonl", "--seed", "3", "--validation").code == 0
    seen = read_suite(plumb.folder / "seen.jsonl")
    assert not {one.messages for one in held.items} & {one.messages for one in seen.items}
    assert plumb("suite", "microworld", "--out", "held.jsonl").faulted("held.jsonl is there already")
