"""`plumb report` as people call it: a report in, a page out, whatever the verdict; and the same as JSON."""

import json

import pytest
import yaml

from cli.test_exchange import SIDES
from cli.test_gate import RUBRIC, report


def asked(plumb, made, *options):
    plumb.write("report.json", made.model_dump_json(indent=2))
    plumb.write("rubric.yaml", yaml.safe_dump(RUBRIC.model_dump(mode="json")))
    return plumb("report", "report.json", "--rubric", "rubric.yaml", "--out", "pages/page.html", *options)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [((-0.01, 0.01), "PASS (exit code 0)"), ((-0.09, -0.05), "REGRESSED (exit code 1)"),
     ((-0.09, 0.05), "INCONCLUSIVE (exit code 3)")],
)  # fmt: skip
def test_the_page_is_written_whatever_the_verdict(plumb, bounds, said):
    done = asked(plumb, report(*bounds))
    assert done.code == 0 and f"{said}; the page is pages/page.html" in done.out
    page = (plumb.folder / "pages" / "page.html").read_text()
    assert "<script" not in page and said.split()[0] in page and "report.json" in page


def test_twice_is_the_same_page(plumb):
    made = report(-0.01, 0.01)
    pages = [asked(plumb, made) and (plumb.folder / "pages" / "page.html").read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def test_json_says_the_same_and_keeps_the_report_whole(plumb):
    made = report(-0.09, -0.05)
    held = asked(plumb, made, "--json").json
    assert held["verdict"] == "REGRESSED" and held["exit_code"] == 1
    assert held["digests"]["report"] == made.digest and held["report"] == json.loads(made.model_dump_json())
    assert held["decision"]["report"] == made.digest and "Target" in held["contracts"]["over_refusal"]


def test_the_policy_released_last_has_rows_of_its_own(plumb):
    plumb.write("last.json", report(-0.09, -0.05).model_dump_json())
    done = asked(plumb, report(-0.01, 0.01), "--last-released", "last.json")
    assert "REGRESSED" in done.out
    page = (plumb.folder / "pages" / "page.html").read_text()
    assert "Against the policy released last" in page and "against the policy released last, " in page


def test_another_harnesss_run_has_a_page_with_margins_of_ones_own_or_none(plumb):
    assert plumb("import", "inspect-log", *SIDES, "--out", "theirs.json").code == 0
    assert "no verdict" in plumb("report", "theirs.json").out
    page = (plumb.folder / "report.html").read_text()
    assert "without a verdict" in page and "no contract of ours" in page
    assert "INCONCLUSIVE" in plumb("report", "theirs.json", "--margin", "0.02").out
    assert "releases nothing" in (plumb.folder / "report.html").read_text()


def test_what_is_no_report_or_cannot_be_written_is_told(plumb):
    plumb.write("no.json", "{}")
    assert plumb("report", "no.json").faulted("is not an evaluation report")
    assert not (plumb.folder / "report.html").exists()
    plumb.write("report.json", report(-0.01, 0.01).model_dump_json())
    (plumb.folder / "taken").mkdir()
    assert plumb("report", "report.json", "--out", "taken").faulted("could not be written")
