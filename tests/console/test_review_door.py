"""The review page at a public address: whom it lets in, for how long, and under which names."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from socket import create_connection

import pytest

from console.review_visitor import NAMES, NEW_YEAR, RUBRIC, Visitor, opened_desk
from plumbline.console import review_page
from plumbline.console.review_door import public_address
from plumbline.console.review_page import RunningPage, start_review_page
from plumbline.errors import PlumblineError
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.stores import Ledger
from plumbline.stores.database import PATIENCE_SECONDS, LedgerUnavailable

PUBLIC = "https://Review.example.org:443/desk/"
Serve = Callable[..., RunningPage]


class Clock:
    now = NEW_YEAR

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serve(tmp_path: Path, clock: Clock) -> Iterator[Serve]:
    """Start a page over the one ledger, by a connection of its own: to the ledger each is another process."""
    place = tmp_path / "ledger.sqlite"
    opened_desk(place, clock).ledger.close()
    with ExitStack() as stack:

        def start(public_url: str = "", **options: object) -> RunningPage:
            ledger = stack.enter_context(Ledger(place, clock=clock))
            return stack.enter_context(start_review_page(ReviewDesk(ledger), public_url=public_url, **options))  # type: ignore[arg-type]

        yield start


def test_a_session_outlives_the_page_and_a_used_link_stays_used(serve: Serve) -> None:
    first = serve()
    token = first.page.invite(NAMES.of("rita"))
    rita = Visitor(first)
    assert rita.ask("/enter", token=token)[0] == 303
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    first.stop()
    second = serve()
    assert Visitor(second).ask("/enter", token=token)[0] == 401
    rita.page = second
    assert rita.ask("/")[0] == 200
    assert rita.ask("/label", **form)[0] == 303, "a form that was on the screen meanwhile can be sent"
    assert len(second.page.desk.reviews.labels()) == 1


def test_a_link_of_one_page_opens_another_over_the_same_ledger_and_only_one_of_them(serve: Serve) -> None:
    one, other = serve(), serve()
    token = one.page.invite(NAMES.of("rita"))
    assert Visitor(other).ask("/enter", token=token)[0] == 303
    assert Visitor(one).ask("/enter", token=token)[0] == 401


def test_time_ends_a_link_and_a_session(serve: Serve, clock: Clock) -> None:
    page = serve()
    token = page.page.invite(NAMES.of("rita"), valid=timedelta(hours=1))
    rita = Visitor(page).enter("rita")
    assert "Max-Age=28800" in rita.headers["set-cookie"]
    clock.now += timedelta(hours=1)
    assert Visitor(page).ask(f"/enter?token={token}")[0] == Visitor(page).ask("/enter", token=token)[0] == 401
    assert rita.ask("/")[0] == 200
    clock.now += timedelta(hours=7)
    assert rita.ask("/")[0] == 401, "whatever the browser keeps"


def test_whoever_leaves_is_out_here_and_elsewhere_and_the_cookie_is_gone(serve: Serve) -> None:
    page, other = serve(), serve()
    rita = Visitor(page).enter("rita")
    kept = rita.cookie
    assert rita.ask("/leave", form_key="guess")[0] == 403 and rita.ask("/")[0] == 200
    status, text = rita.ask("/leave", form_key=rita.form()["form_key"])
    assert status == 200 and "You have left" in text and 'href="/"' not in text
    assert "Max-Age=0" in rita.headers["set-cookie"]
    assert Visitor(page, cookie=kept).ask("/")[0] == Visitor(other, cookie=kept).ask("/")[0] == 401


def test_who_is_dismissed_is_out_at_once(serve: Serve) -> None:
    page = serve()
    rita, rolf = Visitor(page).enter("rita"), Visitor(page).enter("rolf")
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    page.page.door.access.dismiss(NAMES.of("rita"))
    assert rita.ask("/")[0] == 401 and rita.ask("/label", **form)[0] == 403
    assert rolf.ask("/")[0] == 200 and page.page.desk.reviews.labels() == {}


@pytest.mark.parametrize("prefix", ["/desk", ""], ids=["the path as people see it", "the path taken off in front"])
def test_behind_tls_under_a_path_everything_stays_under_it(serve: Serve, prefix: str) -> None:
    page = serve(PUBLIC)
    assert page.url == "https://review.example.org/desk"
    rita = Visitor(page)
    token = page.link(NAMES.of("rita")).removeprefix("https://review.example.org/desk/enter?token=")
    status, text = rita.ask(f"{prefix}/enter?token={token}")
    assert status == 200 and 'action="/desk/enter"' in text
    assert rita.ask(f"{prefix}/enter", token=token)[0] == 303
    assert rita.headers["location"] == "/desk/"
    said = set(re.split(r";\s*", rita.headers["set-cookie"]))
    assert rita.cookie.startswith("__Secure-plumb_review=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/desk"} <= said and not any("Domain" in one for one in said)
    status, text = rita.ask(f"{prefix}/")
    assert status == 200 and set(re.findall(r'(?:action|href)="(/\w*)', text)) == {"/desk"}
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    assert rita.ask(f"{prefix}/label", **form)[0] == 303 and rita.headers["location"] == "/desk/"


def test_at_a_host_of_its_own_the_cookie_is_for_that_host_alone(serve: Serve) -> None:
    rita = Visitor(serve("https://review.example.org")).enter("rita")
    assert rita.cookie.startswith("__Host-plumb_review=") and "Path=/;" in f"{rita.headers['set-cookie']};"
    assert rita.ask("/", host="REVIEW.example.org:443")[0] == 200


@pytest.mark.parametrize(
    ("public", "host", "mine", "others"),
    [
        ("https://review.example.org", "0.0.0.0", ["review.example.org"],
         ["evil.example", "localhost", "review.example.org:8091", "review.example.org.evil.example", "10.0.0.1",
          "a@review.example.org"]),
        ("http://localhost:8091", "0.0.0.0", ["localhost:8091", "127.0.0.1:9", "[::1]"], ["evil.example", "10.0.0.1"]),
        ("", "0.0.0.0", ["10.0.0.1:8091", "[fd00::1]:8091", "localhost"], ["evil.example", "review.example.org"]),
        ("", "127.0.0.1", ["localhost:8091"], ["10.0.0.1", "evil.example"]),
    ],
)  # fmt: skip
def test_a_page_answers_to_its_own_names_and_probes_to_any(
    serve: Serve, public: str, host: str, mine: list[str], others: list[str]
) -> None:
    page = serve(public, host=host)
    visitor = Visitor(replace(page, bound=page.bound.replace("0.0.0.0", "127.0.0.1")))
    assert {name: visitor.ask("/", host=name)[0] for name in mine} == dict.fromkeys(mine, 401)
    assert {name: visitor.ask("/", host=name)[0] for name in others} == dict.fromkeys(others, 421)
    for probe in ("/healthz", "/livez"):
        assert visitor.ask(probe, host="10.1.2.3:8080") == (200, '{"status": "ok"}')


@pytest.mark.parametrize(
    "url",
    ["review.example.org", "ftp://review.example.org", "https://", "https://me:secret@review.example.org",
     "https://review.example.org/?next=x", "https://review.example.org/#x", "https://review.example.org/../x",
     "https://review.example.org:port", "https://[::1", 'https://review.example.org/"><script>'],
)  # fmt: skip
def test_what_is_no_address_for_a_page_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(PlumblineError) as caught:
        public_address(url)
    assert "secret" not in str(caught.value)


def test_without_tls_only_this_machine_will_do() -> None:
    with pytest.raises(PlumblineError, match="not encrypted"):
        public_address("http://review.example.org")
    assert public_address("http://[::1]:80/").url == "http://[::1]"


def test_a_form_that_another_site_sends_does_nothing_not_even_sign_in(serve: Serve) -> None:
    page = serve()
    token = page.page.invite(NAMES.of("mallory"))
    for site in ("cross-site", "same-site"):
        victim = Visitor(page)
        assert victim.ask("/enter", site=site, token=token)[0] == 403 and victim.cookie == ""
    rita = Visitor(page).enter("rita")
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    assert rita.ask("/label", site="cross-site", **form)[0] == 403 and page.page.desk.reviews.labels() == {}
    assert Visitor(page).ask("/enter", site="none", token=token)[0] == 303


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("kind", "body", "others"),
    [
        (f"{FORM}; charset=bogus", b"token=x", {}), (f"{FORM}; charset=utf-16", b"token", {}),
        (FORM, b"token=x", {"Content-Encoding": "gzip"}), ("text/plain", b"token=x", {}),
        ("multipart/form-data", b"token=x", {}), ("multipart/form-data; boundary=b", b"--c\r\nno part", {}),
    ],
)  # fmt: skip
def test_a_form_that_no_browser_sends_is_refused_as_a_page_and_is_no_fault_of_the_server(
    serve: Serve, caplog: pytest.LogCaptureFixture, kind: str, body: bytes, others: dict[str, str]
) -> None:
    page = serve()
    with closing(HTTPConnection(page.bound.removeprefix("http://"), timeout=20)) as connection:
        connection.request("POST", "/enter", body, {"Host": "localhost", "Content-Type": kind, **others})
        answer = connection.getresponse()
        assert answer.status == 400 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert [record for record in caplog.records if "Traceback" in record.getMessage() or record.exc_info] == []


@pytest.mark.parametrize(
    "head",
    [b"GET /enter?token=SECRET&x=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost",
     b"GET /enter?token=SECRET x HTTP/1.1",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: plumb_review=SECRET; neighbour=" + b"a" * 9000,
     b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: plumb_review=SECRET\x01"],
    ids=["a long link", "a damaged link", "cookies of a neighbour", "a damaged cookie"],
)  # fmt: skip
def test_the_log_does_not_repeat_the_link_or_cookie_of_a_request_that_cannot_be_read(
    serve: Serve, caplog: pytest.LogCaptureFixture, head: bytes
) -> None:
    host, _, port = serve().bound.removeprefix("http://").partition(":")
    with create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + b"\r\n\r\n")
        while connection.recv(65536):  # until it closes: by then it has written its log
            pass
    assert "a request was refused as malformed" in caplog.text
    assert "SECRET" not in caplog.text and host not in caplog.text


def test_whoever_sends_half_a_form_does_not_keep_the_page_from_stopping(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PATIENCE_SECONDS < review_page.LAST_WORDS < 30, "after 30 seconds Kubernetes kills, whatever is being saved"
    monkeypatch.setattr(review_page, "LAST_WORDS", 0.1)
    page = serve()
    host, _, port = page.bound.removeprefix("http://").partition(":")
    with create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /enter HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 99\r\n\r\ntoken="
        connection.sendall(head.encode())
        assert Visitor(page).ask("/livez")[0] == 200
        stopping = threading.Thread(target=page.stop)
        stopping.start()
        stopping.join(30)  # a minute, were it left to the server
        assert not stopping.is_alive()


def test_a_fault_of_the_page_is_logged_by_its_place_and_not_by_its_words(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = serve()

    def broken(secret: str) -> None:
        raise RuntimeError(f"cannot look up {secret}")

    monkeypatch.setattr(page.page.door.access, "invited", broken)
    assert Visitor(page).ask("/enter?token=SECRET")[0] == 500
    assert "a request failed: RuntimeError" in caplog.text and "in broken" in caplog.text
    assert "SECRET" not in caplog.text


def test_nobody_is_led_away_from_the_page(serve: Serve) -> None:
    page = serve()
    for way in ("//evil.example", "/\\evil.example", "/enter//evil.example"):
        visitor = Visitor(page).enter("rita")
        status, _ = visitor.ask(way)
        assert status == 404 and "location" not in visitor.headers
    token = page.page.invite(NAMES.of("rita"))
    visitor = Visitor(page)
    assert visitor.ask("/enter?next=https://evil.example", token=token, next="https://evil.example")[0] == 303
    assert visitor.headers["location"] == "/"


def test_a_stranger_with_wrong_links_keeps_nobody_from_entering(serve: Serve) -> None:
    page = serve()
    token, stranger = page.page.invite(NAMES.of("rolf")), Visitor(page)
    assert {stranger.ask("/enter", token=f"{number:043d}")[0] for number in range(150)} == {401}
    assert {stranger.ask(f"/enter?token={number:043d}")[0] for number in range(150)} == {401}
    rolf = Visitor(page)  # from the same address, as everybody behind a proxy
    assert rolf.ask(f"/enter?token={token}")[0] == 200 and rolf.ask("/enter", token=token)[0] == 303


def test_the_rubric_in_force_is_asked_for_also_when_it_changes_meanwhile(serve: Serve) -> None:
    page = serve()
    rita = Visitor(page).enter("rita")
    old = {**rita.form(), "verdict": "approve", "rules": "honesty"}
    rules = tuple(
        rule.model_copy(update={"text": "Say only what the record shows."}) if rule.area == "honesty" else rule
        for rule in RUBRIC.rules
    )
    page.page.desk.open_items(RUBRIC.model_copy(update={"version": "next", "rules": rules}))
    assert rita.ask("/label", **old)[0] == 303
    text = rita.ask("/")[1]
    assert "Not saved: review item" in text and "put to review again" in text
    assert "Say only what the record shows." in text and f"{RUBRIC.id} next" in text
    assert rita.ask("/label", **{**rita.form(), "verdict": "approve", "rules": "honesty"})[0] == 303
    assert len(page.page.desk.reviews.labels()) == 1


def test_before_anything_was_opened_there_is_a_page_and_nothing_on_it(tmp_path: Path) -> None:
    with Ledger(tmp_path / "empty.sqlite") as ledger, start_review_page(ReviewDesk(ledger)) as page:
        assert "Nothing waits for you" in Visitor(page).enter("rita").ask("/")[1]


def test_while_the_ledger_is_away_the_page_says_so_and_not_where_it_is(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = serve()
    rita = Visitor(page).enter("rita")
    form = {**rita.form(), "verdict": "approve", "rules": "honesty"}

    def away(*_: object) -> None:
        raise LedgerUnavailable("db.internal:5432 is away", consequence="c", remedy="r")

    with monkeypatch.context() as only_writing:
        only_writing.setattr(page.page.desk.ledger.database, "_begin", away)
        status, text = rita.ask("/label", **form)
        assert status == 503 and "may not be saved" in text and "db.internal" not in text + rita.ask("/")[1]
    assert rita.ask("/label", **form)[0] == 303 and len(page.page.desk.reviews.labels()) == 1, "sent again"
    monkeypatch.setattr(page.page.desk.ledger.database, "row", away)
    monkeypatch.setattr(page.page.desk.ledger.database, "schema", away)
    for path in ("/", "/healthz", f"/enter?token={'A' * 43}"):
        status, text = rita.ask(path)
        assert status == 503 and "db.internal" not in text
    assert rita.ask("/livez")[0] == 200, "starting anew would not bring the ledger back"
