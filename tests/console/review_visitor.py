"""A desk with two items, and somebody who visits the page over HTTP as a browser would."""

import http.client
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from plumbline.console.review_page import RunningPage
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.microworld import microworld_rubric
from plumbline.records import TYPE_PREFIX, FeedbackData, FeedbackEvent, say
from plumbline.stores import Ledger

NAMES = Pseudonyms(b"tenant key of the tests")
RUBRIC = microworld_rubric()
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def opened_desk(place: Path | str, clock: Callable[[], datetime] = lambda: NEW_YEAR) -> ReviewDesk:
    """Two answers that ana rated, put to review."""
    ledger = Ledger(place, clock=clock)
    notice = ledger.consent.register_notice("n", "1", "we train on what you write")
    subject = NAMES.of("ana")
    ledger.consent.append(subject, "given", ["training"], notice)
    for number in range(2):
        data = FeedbackData(
            subject=subject, messages=(say("user", f"question {number}"),), answer=f"answer {number}", score=1.0
        )
        ledger.inbox.append([FeedbackEvent(id=str(number), source="app", type=TYPE_PREFIX + "rating", data=data)])  # type: ignore[arg-type]
    desk = ReviewDesk(ledger)
    desk.open_items(RUBRIC)
    return desk


@dataclass
class Visitor:
    """A client that keeps its cookie, as a browser would. It names the page's public host, wherever that listens."""

    page: RunningPage
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, *, host: str | None = None, site: str = "same-origin", **form: object) -> tuple[int, str]:
        bound, public = urllib.parse.urlsplit(self.page.bound), urllib.parse.urlsplit(self.page.url)
        connection = http.client.HTTPConnection(bound.hostname or "", bound.port or 0, timeout=20)
        headers = {"Host": host or public.netloc, "Cookie": self.cookie, "Sec-Fetch-Site": site}
        body = urllib.parse.urlencode(form, doseq=True) if form else None
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST" if form else "GET", path, body, headers)
        response = connection.getresponse()
        text = response.read().decode()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        if "set-cookie" in self.headers:
            self.cookie = self.headers["set-cookie"].partition(";")[0]
        connection.close()
        return response.status, text

    def enter(self, name: str, role: str = "reviewer") -> "Visitor":
        token = self.page.page.invite(NAMES.of(name), role)  # type: ignore[arg-type]
        assert self.ask(f"{self.page.page.door.prefix}/enter", token=token)[0] == 303
        return self

    def form(self) -> dict[str, str]:
        """The hidden fields of the item that is shown."""
        found = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', self.ask(f"{self.page.page.door.prefix}/")[1])
        return dict(found)
