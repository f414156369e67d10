"""Links to the review page: made by one process, used at another's, over either ledger."""

import re
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from backends import Backend, backend  # noqa: F401  (a fixture)

from console.review_visitor import NAMES, Visitor, opened_desk
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.stores import Ledger
from plumbline.stores.database import utc_now

PUBLIC = "https://review.example.org/desk"
KEY = b"tenant key of the tests"
HOUR = timedelta(hours=1)
assert NAMES.of("rita") == Pseudonyms(KEY).of("rita")


@pytest.fixture
def there(plumb: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:  # noqa: F811
    """A ledger with answers to judge, which every command here finds by its environment."""
    opened_desk(backend.ledger, utc_now).ledger.close()
    monkeypatch.setenv("PLUMBLINE_LEDGER", str(backend.ledger))
    monkeypatch.setenv("PLUMBLINE_TENANT_KEY", KEY.hex())
    monkeypatch.setenv("PLUMBLINE_REVIEW_URL", PUBLIC)
    return backend


@pytest.fixture
def serve(plumb: Any, wait_for: Callable[..., str]) -> Iterator[Callable[..., Any]]:
    """`plumb review serve` as a process: (the process, where it is to be visited). Whatever still runs is ended."""
    started = []

    def start(*words: object) -> tuple[Any, Any]:
        process = plumb.start("review", "serve", "--port", 0, *words)
        started.append(process)
        found = re.search(r"reviewing at (\S+), listening at (\S+);", wait_for(process, "reviewing at"))
        assert found is not None
        return process, SimpleNamespace(url=found[1], bound=found[2])

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: Any) -> str:
    """Stop it as Kubernetes does, and what it had said meanwhile."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return str(out + err)


def token_in(link: str) -> str:
    assert link.startswith(f"{PUBLIC}/enter?token=")
    return link.strip().rpartition("=")[2]


@pytest.mark.slow
def test_a_link_of_one_process_opens_the_page_of_another_once_and_for_a_while(
    plumb: Any, there: Backend, serve: Callable[..., Any]
) -> None:
    process, page = serve()
    tokens = [token_in(plumb("review", "invite", who).out) for who in ("rita", "rolf")]
    rita, stranger = Visitor(page), Visitor(page)
    assert rita.ask(f"/desk/enter?token={tokens[0]}")[0] == 200, "looking spends nothing"
    assert rita.ask("/desk/enter", token=tokens[0])[0] == 303 and rita.headers["location"] == "/desk/"
    assert "Does this answer follow the rubric?" in rita.ask("/desk/")[1]
    with Ledger(there.ledger, clock=lambda: utc_now() - HOUR) as an_hour_ago:
        late = an_hour_ago.review_access.invite(NAMES.of("ruth"), valid=HOUR)
    for dead in (tokens[0], late, "A" * 43, tokens[1][::-1]):
        assert stranger.ask("/desk/enter", token=dead)[0] == 401 and stranger.cookie == ""
    said = ended(process)
    assert not [secret for secret in (*tokens, late, "rita", NAMES.of("rita"), KEY.hex()) if secret in said]

    process, page = serve()
    rita.page = stranger.page = page
    assert rita.ask("/desk/")[0] == 200, "the session outlives the process"
    assert stranger.ask("/desk/enter", token=tokens[0])[0] == 401, "and the used link stays used"
    assert stranger.ask("/desk/enter", token=tokens[1])[0] == 303, "the other waited"
    assert plumb("review", "dismiss", "rita").out.startswith("1 links and sessions")
    assert rita.ask("/desk/")[0] == 401 and stranger.ask("/desk/")[0] == 200
    ended(process)


def test_an_invitation_says_for_whom_and_how_long_and_names_them_by_pseudonym_alone(plumb: Any, there: Backend) -> None:
    said = plumb("review", "invite", "alma@example.org", "--role", "adjudicator", "--valid-for", "2d", "--json")
    made = said.json
    assert made["person"] == NAMES.of("alma@example.org") and made["role"] == "adjudicator"
    until = datetime.fromisoformat(made["until"]) - utc_now()
    assert timedelta(hours=47) < until <= timedelta(days=2)
    with Ledger(there.ledger) as ledger:
        guest = ledger.review_access.invited(token_in(made["link"]))
    assert guest is not None and (guest.person, guest.role) == (made["person"], "adjudicator")
    (guest,) = plumb("review", "guests", "--json").json
    assert (guest["person"], guest["role"], guest["entered_at"]) == (made["person"], "adjudicator", None)
    assert f"{made['person']}  adjudicator  has a link, until " in plumb("review", "guests").out
    plain = plumb("review", "invite", "alma@example.org")
    assert plain.out.count("\n") == 1 and "once" in plain.err and "alma" not in plain.out + plain.err + said.out


def test_what_is_wrong_with_an_invitation_is_said_before_it_is_made(
    plumb: Any, there: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite = ("review", "invite", "rita")
    assert plumb(*invite, "--url", "http://review.example.org").faulted("not encrypted", "https://")
    assert plumb(*invite, "--url", "review.example.org").faulted("no address")
    assert plumb("review", "serve", "--public-url", "http://10.0.0.1").faulted("not encrypted")
    assert plumb(*invite, "--valid-for", "soon").code == 2
    for nobody in ("", " "):
        for command in (("invite", nobody), ("dismiss", nobody), ("serve", nobody), ("serve", "--adjudicator", nobody)):
            assert plumb("review", *command).faulted("no person", "empty")
    monkeypatch.delenv("PLUMBLINE_REVIEW_URL")
    assert plumb(*invite).faulted("where people find", "--url")
    monkeypatch.delenv("PLUMBLINE_TENANT_KEY")
    assert plumb(*invite, "--url", PUBLIC).faulted("tenant key")
    with Ledger(there.ledger) as ledger:
        assert ledger.database.value("SELECT COUNT(*) FROM review_invitation") == 0
