"""A private suite: no reading without a trace, none beyond the budget, and never an item in the log."""

import json
import subprocess
import sys

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import read_suite, save_suite
from plumbline.evaluation.suites import open_suite, read_log
from plumbline.evaluation.suites.private import EVALUATE, log_of, spent
from plumbline.records import Suite, SuiteItem, digest_of, say
from plumbline.records.suite import SuiteTerms

SECRET = "what did the keeper write on the ninth of march"
A, B = digest_of("policy a"), digest_of("policy b")


@pytest.fixture
def private(tmp_path):
    def make(budget=None, folder=tmp_path):
        messages = (say("user", SECRET),)
        item = SuiteItem(id="i", area="a", slice="s", cluster="c", messages=messages, scorer="abstention")
        terms = SuiteTerms(private=True, owner="safety", query_budget=budget)
        save_suite(Suite(name="secret", version="1", items=(item,), terms=terms), folder / "s.jsonl")
        return folder / "s.jsonl"

    return make


def test_a_reading_says_who_when_what_for_and_of_which_policies_and_never_what_is_asked(private):
    path = private()
    suite = open_suite(path, purpose=EVALUATE, policies=[B, A], actor="ana")
    (access,) = read_log(path)
    assert (access.who, access.purpose, access.suite) == ("ana", "evaluate", suite.digest)
    assert access.policies == tuple(sorted((A, B))) and access.cost == 1 and access.when.endswith("+00:00")
    assert SECRET not in log_of(path).read_text() and "keeper" not in log_of(path).read_text()


def test_who_reads_is_the_user_of_the_machine_where_nobody_is_named(private):
    import getpass

    open_suite(private(), purpose="show")
    assert read_log(private())[0].who == getpass.getuser()


def test_a_budget_that_is_spent_gives_nothing_more(private):
    path = private(budget=2)
    for _ in range(2):
        open_suite(path, purpose="show")
    with pytest.raises(PlumblineError, match="2 of 2 readings") as caught:
        open_suite(path, purpose="show")
    assert "safety" in caught.value.remedy and "plumb suite log" in caught.value.remedy
    assert spent(path) == 2 and len(read_log(path)) == 2, "what was refused was not read"


def test_a_run_that_is_resumed_is_logged_and_costs_nothing(private):
    path = private(budget=1)
    for _ in range(3):
        open_suite(path, purpose=EVALUATE, policies=[A, B])
    assert [access.cost for access in read_log(path)] == [1, 0, 0]
    with pytest.raises(PlumblineError, match="spent"):
        open_suite(path, purpose=EVALUATE, policies=[A])
    with pytest.raises(PlumblineError, match="spent"):
        open_suite(path, purpose="sample", policies=[A, B])


def test_a_link_to_the_file_is_no_way_around_its_log(private, tmp_path):
    path = private(budget=1)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.jsonl"
    link.symlink_to(path)
    open_suite(link, purpose="show")
    with pytest.raises(PlumblineError, match="1 of 1 readings"):
        open_suite(path, purpose="show")


def test_a_line_that_cannot_be_read_counts_as_a_reading(private):
    path = private(budget=2)
    open_suite(path, purpose="show")
    with log_of(path).open("a") as log:
        log.write('{"who": "torn')
    with pytest.raises(PlumblineError, match="spent: 2 of 2"):
        open_suite(path, purpose="show")
    larger = private(budget=3)
    open_suite(larger, purpose="show")
    assert len(read_log(larger)) == 2 and spent(larger) == 3, "the torn line spoils only itself"


def test_a_log_that_cannot_be_written_means_no_reading(private):
    path = private()
    log_of(path).mkdir()
    with pytest.raises(PlumblineError, match="cannot be written") as caught:
        open_suite(path, purpose="show")
    assert "leaves no trace" in caught.value.consequence


@pytest.mark.parametrize(
    "bad", [{"purpose": ""}, {"purpose": "x" * 300}, {"purpose": "show", "policies": ["not a digest"]}]
)
def test_a_reading_that_cannot_be_logged_is_not_given(private, bad):
    with pytest.raises(PlumblineError, match="cannot be logged"):
        open_suite(private(), **bad)
    assert read_log(private()) == []


def test_a_public_suite_leaves_no_log(private, tmp_path):
    suite = open_suite(private(), purpose="show")
    public = tmp_path / "public.jsonl"
    save_suite(suite.model_copy(update={"terms": SuiteTerms()}), public)
    assert open_suite(public, purpose="show").digest == suite.digest == read_suite(public).digest
    assert not log_of(public).exists()


def test_eight_processes_cannot_spend_the_last_reading_twice(private):
    path = private(budget=5)
    code = (
        "import sys\nfrom pathlib import Path\nfrom plumbline.errors import PlumblineError\n"
        "from plumbline.evaluation.suites import open_suite\n"
        "try:\n    open_suite(Path(sys.argv[1]), purpose='show')\nexcept PlumblineError:\n    sys.exit(2)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(8)]
    codes = sorted(process.wait() for process in running)
    assert codes == [0] * 5 + [2] * 3
    assert [json.loads(line)["cost"] for line in log_of(path).read_text().splitlines()] == [1] * 5
