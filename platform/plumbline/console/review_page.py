"""The review page: one item at a time, for a reviewer on a laptop or a phone, by mouse, keyboard or screen reader.

Whoever holds a link may enter once: its token is spent by the form behind it (not by a mail scanner that merely opens
it) and becomes a session, in a cookie that no script and no other site can use. The page works without a script; the
one it carries gives keys to its buttons, and the content security policy allows that one, by hash, and nothing from
anywhere else. It binds to the loopback unless told otherwise; over a network it belongs behind TLS.

A session sees what the desk shows its person: redacted text, no subject, not why the item was selected, and nobody's
label before their own. Every form names the digest of the text that it shows.
"""

import asyncio
import base64
import functools
import hashlib
import hmac
import ipaddress
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from aiohttp import web
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from plumbline.console.words import title, visible
from plumbline.errors import PlumblineError
from plumbline.feedback.review.desk import ReviewDesk, Task
from plumbline.records import LABEL_SEVERITIES, Label, Rubric

Role = Literal["reviewer", "adjudicator"]
COOKIE = "plumb_review"
SESSION_SECONDS = 8 * 3600
_LARGEST_FORM = 64 * 1024
_GONE = "This link was used already, or the session has ended. Ask for a new link."


@dataclass
class Session:
    """One person at the page. `later` are the items put off in this session; `said` is told once."""

    person: str
    role: Role
    form_key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    later: set[int] = field(default_factory=set)
    last: int | None = None
    given: int = 0
    said: str = ""


class ReviewPage:
    """The web application over one desk and the rubric in force. `invite` makes the only way in."""

    def __init__(self, desk: ReviewDesk, rubric: Rubric, *, host: str = "127.0.0.1") -> None:
        self.desk = desk
        self.rubric = rubric
        self._local = _is_loopback(host)
        self._invited: dict[str, tuple[str, Role]] = {}
        self._sessions: dict[str, Session] = {}

    def invite(self, person: str, role: Role = "reviewer") -> str:
        """A token that lets one person (a pseudonym) in, once."""
        token = secrets.token_urlsafe(32)
        self._invited[_hashed(token)] = (person, role)
        return token

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_FORM, middlewares=[self._guarded])
        app.router.add_get("/enter", self._door)
        app.router.add_post("/enter", self._enter)
        app.router.add_get("/", self._next)
        app.router.add_get("/item/{item:[0-9]{1,18}}", self._again)
        app.router.add_post("/label", self._label)
        app.router.add_post("/later", self._later)
        return app

    # --- handlers -------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse
        if self._local and not _is_loopback(request.host.rsplit(":", 1)[0].strip("[]")):
            response = _page("Wrong address", "This page answers to localhost only.", status=421)
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = error if error.status < 400 else _page(error.reason, "There is nothing here.", error.status)
            except PlumblineError as error:
                response = _page(error.fact, f"{error.consequence}. What to do: {error.remedy}.", status=409)
        response.headers.update(_headers())
        return response

    async def _door(self, request: web.Request) -> web.Response:
        token = request.query.get("token", "")
        if _hashed(token) not in self._invited:
            return _page("You cannot enter with this", _GONE, status=401)
        return _render("enter", token=token, status=200)

    async def _enter(self, request: web.Request) -> web.Response:
        form = await request.post()
        invited = self._invited.pop(_hashed(str(form.get("token", ""))), None)
        if invited is None:
            return _page("You cannot enter with this", _GONE, status=401)
        key = secrets.token_urlsafe(32)
        self._sessions[_hashed(key)] = Session(*invited)
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.set_cookie(
            COOKIE, key, max_age=SESSION_SECONDS, httponly=True, samesite="Strict", secure=request.secure, path="/"
        )
        asyncio.get_running_loop().call_later(SESSION_SECONDS, self._sessions.pop, _hashed(key), None)
        return answer

    async def _next(self, request: web.Request) -> web.Response:
        session = self._session(request)
        if session is None:
            return _page("You are not signed in", _GONE, status=401)
        look = functools.partial(self.desk.queue, role=session.role, most=1, last=frozenset(session.later))
        tasks = await asyncio.to_thread(look, session.person, self.rubric)
        left = await asyncio.to_thread(
            functools.partial(self.desk.left, role=session.role), session.person, self.rubric
        )
        said, session.said = session.said, ""
        return self._form(session, tasks[0] if tasks else None, left=left, said=said)

    async def _again(self, request: web.Request) -> web.Response:
        """The last item again, to correct one's own word."""
        session = self._session(request)
        if session is None:
            return _page("You are not signed in", _GONE, status=401)
        task = await asyncio.to_thread(self.desk.task, int(request.match_info["item"]), session.person)
        if task.mine is None:
            raise web.HTTPNotFound
        return self._form(session, task, left=0, chosen=_chosen(task.mine), correct=True)

    async def _label(self, request: web.Request) -> web.Response:
        form = await request.post()
        session = self._session(request, str(form.get("form_key", "")))
        if session is None:
            return _page("You are not signed in", _GONE, status=403)
        number, correct = str(form.get("item", "")), form.get("correct") == "yes"
        if not number.isascii() or not number.isdigit() or len(number) > 18:
            raise web.HTTPBadRequest
        chosen = {
            "verdict": str(form.get("verdict", "")),
            "rules": [str(area) for area in form.getall("rules", [])],
            "severity": str(form.get("severity", "")),
            "reason": str(form.get("reason", "")).replace("\r\n", "\n"),
        }
        try:
            label = _label(str(form.get("text", "")), chosen)
        except ValueError as error:
            task = await asyncio.to_thread(self._shown, int(number), session)
            return self._form(session, task, left=0, fault=_fault(error), chosen=chosen, correct=correct, status=422)
        take = self.desk.adjudicate if session.role == "adjudicator" else self.desk.label
        try:
            await asyncio.to_thread(functools.partial(take, correct=correct), int(number), session.person, label)
        except PlumblineError as error:
            session.said, session.last = f"Not saved: {error.fact}.", None
        else:
            session.said, session.last = "Saved.", int(number)
            session.given += not correct
        return web.Response(status=303, headers={"Location": "/"})

    async def _later(self, request: web.Request) -> web.Response:
        form = await request.post()
        session = self._session(request, str(form.get("form_key", "")))
        if session is None:
            return _page("You are not signed in", _GONE, status=403)
        number = str(form.get("item", ""))
        if number.isascii() and number.isdigit() and len(number) <= 18:
            if int(number) in session.later:  # everything was put off once: begin again
                session.later.clear()
            session.later.add(int(number))
        session.said = "Put off; it comes back at the end."
        return web.Response(status=303, headers={"Location": "/"})

    # --- shared ---------------------------------------------------------------------------------------------------

    def _session(self, request: web.Request, form_key: str | None = None) -> Session | None:
        """Whose request this is; with `form_key`, only when the form was made by this page for this session."""
        session = self._sessions.get(_hashed(request.cookies.get(COOKIE, "")))
        if session is None or form_key is None:
            return session
        return session if hmac.compare_digest(session.form_key.encode(), form_key.encode()) else None

    def _shown(self, number: int, session: Session) -> Task:
        """The task that a form was about, with what its person may see."""
        waiting = self.desk.queue(session.person, self.rubric, role=session.role)
        found = next((task for task in waiting if task.item.item == number), None)
        return found or self.desk.task(number, session.person)

    def _form(
        self,
        session: Session,
        task: Task | None,
        *,
        left: int,
        said: str = "",
        fault: str = "",
        chosen: dict[str, Any] | None = None,
        correct: bool = False,
        status: int = 200,
    ) -> web.Response:
        return _render(
            "item" if task else "done",
            status=status,
            task=task,
            session=session,
            rubric=self.rubric,
            severities=LABEL_SEVERITIES[1:],
            left=left,
            said=said,
            fault=fault,
            chosen=chosen or {"verdict": "", "rules": [], "severity": "", "reason": ""},
            correct=correct,
        )


@dataclass
class RunningPage:
    """A review page in a background thread. Use as a context manager, or call `stop`."""

    url: str
    page: ReviewPage
    _stop: Callable[[], None] = field(repr=False)

    def link(self, person: str, role: Role = "reviewer") -> str:
        return f"{self.url}/enter?token={self.page.invite(person, role)}"

    def stop(self) -> None:
        self._stop()

    def __enter__(self) -> "RunningPage":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_review_page(desk: ReviewDesk, rubric: Rubric, *, host: str = "127.0.0.1", port: int = 0) -> RunningPage:
    """Serve in a thread of its own; returns when it answers. Port 0 takes a free one. PlumblineError when taken."""
    from plumbline.sockets import listen

    page, bound = ReviewPage(desk, rubric, host=host), listen(host, port)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(page.application(), access_log=None)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.SockSite(runner, bound).start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run, name="review-page", daemon=True)
    thread.start()
    ready.wait()

    def stop() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    return RunningPage(f"http://{host}:{bound.getsockname()[1]}", page, stop)


def _label(text: str, chosen: dict[str, Any]) -> Label:
    """The label in a form. An approval has no severity, whatever is still marked further down the page."""
    approves = chosen["verdict"] == "approve"
    return Label(
        text=text,
        verdict=chosen["verdict"],
        rules=tuple(chosen["rules"]),
        severity="none" if approves or not chosen["severity"] else chosen["severity"],
        reason=chosen["reason"],
    )


def _chosen(label: Label) -> dict[str, Any]:
    return {"verdict": label.verdict, "rules": label.rules, "severity": label.severity, "reason": label.reason}


def _fault(error: ValueError) -> str:
    """What is missing, in the page's words."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False)[0]
    where = str(first["loc"][0]) if first["loc"] else ""
    asked = {
        "verdict": "Choose approve, reject or unsure.",
        "rules": "Choose at least one rule that your verdict rests on.",
        "severity": "Choose how bad the breach is.",
        "reason": "The reason is too long.",
    }
    if not where and "how badly" in str(first["msg"]):
        return asked["severity"]
    return asked.get(where, "This form is damaged; load the page again.")


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _page(head: str, text: str, status: int) -> web.Response:
    return _render("message", head=head, text=text, status=status)


def _render(name: str, *, status: int, **values: Any) -> web.Response:
    page = _environment().get_template("review.html.j2").render(
        page=name, css=Markup(_resource("review.css")), script=Markup(_resource("review.js.j2")), **values
    )  # fmt: skip
    return web.Response(text=page, content_type="text/html", charset="utf-8", status=status)


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(_resource), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"visible": visible, "title_case": title}
    return made


@functools.cache
def _resource(name: str) -> str:
    return resources.files("plumbline.console").joinpath(name).read_text("utf-8")


@functools.cache
def _headers() -> dict[str, str]:
    def allowed(name: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(_resource(name).encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; style-src {allowed('review.css')}; script-src {allowed('review.js.j2')}; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
