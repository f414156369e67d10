"""The review page's doors: a link lets in once, a session is its person's alone, and forms come from this page only."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.review_visitor import NAMES, RUBRIC, Visitor, opened_desk
from plumbline.console.review_page import RunningPage, start_review_page
from plumbline.errors import PlumblineError


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunningPage]:
    desk = opened_desk(tmp_path / "ledger.sqlite")
    with start_review_page(desk, RUBRIC) as running:
        yield running
    desk.ledger.close()


def test_a_link_lets_in_once_and_opening_it_does_not_spend_it(page):
    token = page.link(NAMES.of("rita")).partition("=")[2]
    visitor = Visitor(page)
    for _ in range(2):  # a mail scanner looks first
        status, text = visitor.ask(f"/enter?token={token}")
        assert status == 200 and token in text and visitor.cookie == ""
    assert visitor.ask("/enter", token=token)[0] == 303
    assert visitor.ask("/")[0] == 200
    again = Visitor(page)
    assert again.ask("/enter", token=token)[0] == 401 and again.cookie == ""
    assert again.ask(f"/enter?token={token}")[0] == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(page):
    visitor = Visitor(page).enter("rita")
    visitor.cookie = ""
    visitor.enter("rita")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(re.split(r";\s*", visitor.headers["set-cookie"]))


def test_without_a_session_there_is_nothing_to_see_or_to_say(page):
    visitor = Visitor(page, cookie="plumb_review=guess")
    assert visitor.ask("/")[0] == visitor.ask("/item/1")[0] == 401
    for path in ("/label", "/later"):
        assert visitor.ask(path, item=1, form_key="guess", verdict="approve")[0] == 403
    assert page.page.desk.reviews.labels() == {}


def test_a_form_that_this_session_did_not_get_is_refused(page):
    rita, rolf = Visitor(page).enter("rita"), Visitor(page).enter("rolf")
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    assert rolf.ask("/label", **form)[0] == 403, "another session's form"
    assert rita.ask("/label", **{**form, "form_key": ""})[0] == 403
    assert page.page.desk.reviews.labels() == {}
    assert rita.ask("/label", **form)[0] == 303
    ((given,),) = page.page.desk.reviews.labels().values()
    assert given.reviewer == NAMES.of("rita")


def test_nobody_sees_another_ones_label_and_ones_own_can_be_corrected(page):
    rita, rolf = Visitor(page).enter("rita"), Visitor(page).enter("rolf")
    form = {**rita.form(), "verdict": "reject", "rules": "honesty", "severity": "severe", "reason": "zanzibar"}
    rita.ask("/label", **form)
    item = form["item"]
    for path in ("/", f"/item/{item}"):
        assert "zanzibar" not in rolf.ask(path)[1]
    assert rolf.ask(f"/item/{item}")[0] == 404, "there is no label of his to correct"
    status, text = rita.ask(f"/item/{item}")
    assert status == 200 and "zanzibar" in text and 'name="correct" value="yes"' in text
    rita.ask("/label", **{**form, "correct": "yes", "verdict": "approve"})
    ((given,),) = page.page.desk.reviews.labels().values()
    assert (given.label.verdict, given.label.severity) == ("approve", "none"), "an approval breaks nothing"


def test_a_label_for_another_text_is_not_saved_and_the_page_says_so(page):
    rita = Visitor(page).enter("rita")
    form = {**rita.form(), "verdict": "approve", "rules": "honesty", "text": "sha256:" + "0" * 64}
    assert rita.ask("/label", **form)[0] == 303
    assert "Not saved: review item" in rita.ask("/")[1]
    assert page.page.desk.reviews.labels() == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [({"rules": []}, "at least one rule"), ({"verdict": ""}, "Choose approve"), ({"verdict": "reject"}, "how bad"),
     ({"reason": "x" * 1001}, "too long"), ({"text": "x"}, "damaged"), ({"rules": "kindness"}, "at least one rule")],
)  # fmt: skip
def test_what_is_missing_is_said(page, change, said):
    rita = Visitor(page).enter("rita")
    status, text = rita.ask("/label", **{**rita.form(), "verdict": "approve", "rules": "honesty", **change})
    assert status == 422 and said in text
    assert page.page.desk.reviews.labels() == {}


def test_a_damaged_request_is_no_crash(page):
    rita = Visitor(page).enter("rita")
    key = rita.form()["form_key"]
    for item in ("", "x", "-1", "9" * 30, "²"):
        assert rita.ask("/label", form_key=key, item=item, verdict="approve")[0] == 400
        assert rita.ask("/later", form_key=key, item=item)[0] == 303
    assert rita.ask("/item/99")[0] == 409 and rita.ask("/nowhere")[0] == 404
    assert rita.ask("/label", form_key=key, item=1, reason="x" * 70_000)[0] == 413
    assert rita.ask("/enter", token="\udcff".encode("utf-8", "surrogatepass"))[0] == 401


def test_one_does_not_judge_ones_own_words_here_either(page):
    ana = Visitor(page).enter("ana")
    assert "Nothing waits for you" in ana.ask("/")[1]
    assert ana.ask("/item/1")[0] == 409


def test_every_answer_carries_the_policy_and_is_not_kept(page):
    rita = Visitor(page).enter("rita")
    for path in ("/", "/nowhere", "/enter?token=x", "/item/99"):
        rita.ask(path)
        policy = rita.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
        assert "http" not in policy and "frame-ancestors 'none'" in policy
        assert rita.headers["cache-control"] == "no-store" and rita.headers["x-content-type-options"] == "nosniff"
        assert rita.headers["referrer-policy"] == "no-referrer"


def test_a_site_that_resolves_to_this_machine_gets_nothing(page):
    rita = Visitor(page).enter("rita")
    assert rita.ask("/", host="evil.example")[0] == 421
    assert rita.ask("/", host="localhost:1")[0] == 200
    assert rita.ask("/", host="[::1]:1")[0] == 200


def test_consent_that_ends_while_an_item_is_on_the_screen_stops_the_label(page):
    rita = Visitor(page).enter("rita")
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    ledger = page.page.desk.ledger
    notice = ledger.consent.find_notice("n", "1")
    ledger.consent.append(NAMES.of("ana"), "withdrawn", ["training"], notice)
    assert rita.ask("/label", **form)[0] == 303
    assert page.page.desk.reviews.labels() == {}
    status, text = rita.ask("/")
    assert status == 200 and "consent to training does not hold" in text and "answer" not in text.split("<main>")[1]


def test_a_port_in_use_is_said_before_anything_starts(page):
    port = int(page.url.rpartition(":")[2])
    with pytest.raises(PlumblineError, match=f"port {port}"):
        start_review_page(page.page.desk, RUBRIC, port=port)
