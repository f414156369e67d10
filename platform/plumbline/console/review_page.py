"""The review page: one item at a time, for a reviewer on a laptop or a phone, by mouse, keyboard or screen reader.

Whoever holds a link may enter once: its token is spent by the form behind it (not by a mail scanner that merely opens
it) and becomes a session, in a cookie that no script and no other site can use (review_door.py). The page works without
a script; the one it carries gives keys to its buttons, and the content security policy allows that one, by hash, and
nothing from anywhere else. It binds to the loopback unless told otherwise; over a network it belongs behind TLS, at a
public URL that it is told.

Unless a rubric is named, the page goes by the one in force, whatever page is loaded: opening items under another one
changes what it asks at once, and a label that was chosen under the old one is not taken.

A session sees what the desk shows its person: redacted text, no subject, not why the item was selected, and nobody's
label before their own. Every form names the digest of the text that it shows.
"""

import asyncio
import base64
import functools
import hashlib
import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import resources
from typing import Any

from aiohttp import web
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from plumbline.console.review_door import SESSION, Door, public_address
from plumbline.console.words import title, visible
from plumbline.discreet_log import discreet_logger
from plumbline.errors import PlumblineError
from plumbline.feedback.review.desk import ReviewDesk, Task
from plumbline.records import LABEL_SEVERITIES, Label, Rubric
from plumbline.stores.database import LedgerUnavailable
from plumbline.stores.reviews import Role

_LARGEST_FORM = 64 * 1024
LAST_WORDS = 20  # seconds for requests when it stops: a label waits less for a writer, and Kubernetes more to kill
_PROBES = ("/healthz", "/livez")
_GONE = "This link was used already, or is too old, or the session has ended. Ask for a new link."
_AWAY = "What you sent may not be saved. Go back, and send it again in a minute."


@dataclass
class Session:
    """One person at the page. `later` are the items put off in this session; `said` is told once. Who it is and how
    long it lasts is in the ledger; what is here may be forgotten."""

    person: str
    role: Role
    form_key: str
    later: set[int] = field(default_factory=set)
    last: int | None = None
    given: int = 0
    said: str = ""


class ReviewPage:
    """The web application over one desk. `rubric` is the one to go by; None stands for whichever is in force.

    `invite` makes a way in, as does whoever else writes an invitation into the ledger.
    """

    def __init__(self, desk: ReviewDesk, rubric: Rubric | None = None, *, door: Door | None = None) -> None:
        self.desk = desk
        self.rubric = rubric
        self.door = door or Door(desk.ledger.review_access, host="127.0.0.1")
        self._sessions: dict[str, Session] = {}

    def invite(self, person: str, role: Role = "reviewer", *, valid: timedelta = SESSION) -> str:
        """A token that lets one person (a pseudonym) in, once."""
        return self.door.access.invite(person, role, valid=valid)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_FORM, middlewares=[self._guarded])
        for probe in _PROBES:
            app.router.add_get(probe, self._health)
        for prefix in dict.fromkeys(("", self.door.prefix)):  # what is in front may take the prefix off
            app.router.add_get(f"{prefix}/enter", self._door)
            app.router.add_post(f"{prefix}/enter", self._enter)
            app.router.add_get(f"{prefix}/", self._next)
            if prefix:
                app.router.add_get(prefix, self._next)
            app.router.add_get(f"{prefix}/item/{{item:[0-9]{{1,18}}}}", self._again)
            app.router.add_post(f"{prefix}/label", self._label)
            app.router.add_post(f"{prefix}/later", self._later)
            app.router.add_post(f"{prefix}/leave", self._leave)
        return app

    # --- handlers -------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse
        if request.path not in _PROBES and not self.door.answers_to(request.host):
            where = self.door.public.url if self.door.public else "localhost"
            response = self._page("Wrong address", f"This page answers to {where} only.", status=421)
        elif request.method == "POST" and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            response = self._page("Not from this page", "This form was sent by another site.", status=403)
        else:
            try:
                if request.method == "POST":
                    await _read(request)
                response = await handler(request)
            except web.HTTPException as error:
                known = error.status < 400
                response = error if known else self._page(error.reason, "There is nothing here.", error.status)
            except LedgerUnavailable:  # where the ledger is, is nobody's business here
                response = self._page("The ledger does not answer", _AWAY, status=503)
            except PlumblineError as error:
                response = self._page(error.fact, f"{error.consequence}. What to do: {error.remedy}.", status=409)
        response.headers.update(_headers())
        return response

    async def _health(self, request: web.Request) -> web.Response:
        """/livez: this process answers. /healthz: the ledger does too."""
        if request.path == "/healthz":
            await asyncio.to_thread(self.desk.ledger.database.schema)
        return web.json_response({"status": "ok"})

    async def _door(self, request: web.Request) -> web.Response:
        token = request.query.get("token", "")
        if not await self.door.invited(token):
            return self._page("You cannot enter with this", _GONE, status=401)
        return self._render("enter", token=token, status=200)

    async def _enter(self, request: web.Request) -> web.Response:
        form = await request.post()
        session = await self.door.enter(str(form.get("token", "")))
        if session is None:
            return self._page("You cannot enter with this", _GONE, status=401)
        answer = self._to_queue()
        self.door.give_cookie(request, answer, session)
        return answer

    async def _leave(self, request: web.Request) -> web.Response:
        form = await request.post()
        if await self._session(request, str(form.get("form_key", ""))) is None:
            return self._page("You are not signed in", _GONE, status=403)
        answer = self._page("You have left", "What you saved is kept. To come back, ask for a new link.", status=200)
        await self.door.leave(request, answer)
        return answer

    async def _next(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        if session is None:
            return self._page("You are not signed in", _GONE, status=401)
        rubric, task, left = await asyncio.to_thread(self._waiting, session)
        said, session.said = session.said, ""
        return self._form(session, task, rubric=rubric, left=left, said=said)

    async def _again(self, request: web.Request) -> web.Response:
        """The last item again, to correct one's own word."""
        session = await self._session(request)
        if session is None:
            return self._page("You are not signed in", _GONE, status=401)
        task = await asyncio.to_thread(self.desk.task, int(request.match_info["item"]), session.person)
        if task.mine is None:
            raise web.HTTPNotFound
        rubric = await asyncio.to_thread(self._in_force)
        return self._form(session, task, rubric=rubric, left=0, chosen=_chosen(task.mine), correct=True)

    async def _label(self, request: web.Request) -> web.Response:
        form = await request.post()
        session = await self._session(request, str(form.get("form_key", "")))
        if session is None:
            return self._page("You are not signed in", _GONE, status=403)
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
            rubric, task = await asyncio.to_thread(self._shown, int(number), session)
            said = _fault(error)
            return self._form(
                session, task, rubric=rubric, left=0, fault=said, chosen=chosen, correct=correct, status=422
            )
        take = self.desk.adjudicate if session.role == "adjudicator" else self.desk.label
        try:
            await asyncio.to_thread(functools.partial(take, correct=correct), int(number), session.person, label)
        except LedgerUnavailable:
            raise  # not told as the reason: it says where the ledger is
        except PlumblineError as error:
            session.said, session.last = f"Not saved: {error.fact}.", None
        else:
            session.said, session.last = "Saved.", int(number)
            session.given += not correct
        return self._to_queue()

    async def _later(self, request: web.Request) -> web.Response:
        form = await request.post()
        session = await self._session(request, str(form.get("form_key", "")))
        if session is None:
            return self._page("You are not signed in", _GONE, status=403)
        number = str(form.get("item", ""))
        if number.isascii() and number.isdigit() and len(number) <= 18:
            if int(number) in session.later:  # everything was put off once: begin again
                session.later.clear()
            session.later.add(int(number))
        session.said = "Put off; it comes back at the end."
        return self._to_queue()

    # --- shared ---------------------------------------------------------------------------------------------------

    async def _session(self, request: web.Request, form_key: str | None = None) -> Session | None:
        """Whose request this is; with `form_key`, only when the form was made by this page for this session."""
        guest = await self.door.present(request)
        if guest is None:
            return None
        session = self._sessions.get(guest.invitation)
        if session is None:
            session = Session(guest.person, guest.role, self.door.form_key(request))
            self._sessions[guest.invitation] = session
            seconds = SESSION.total_seconds()
            asyncio.get_running_loop().call_later(seconds, self._sessions.pop, guest.invitation, None)
        if form_key is None:
            return session
        return session if hmac.compare_digest(session.form_key.encode(), form_key.encode()) else None

    def _in_force(self) -> Rubric | None:
        return self.rubric or self.desk.reviews.latest_rubric()

    def _waiting(self, session: Session) -> tuple[Rubric | None, Task | None, int]:
        """The rubric, what to judge next by it, and how much waits. No rubric: nothing was opened yet."""
        rubric = self._in_force()
        if rubric is None:
            return None, None, 0
        found = self.desk.queue(
            session.person, rubric, role=session.role, most=1, last=frozenset(session.later)
        )  # fmt: skip
        return rubric, next(iter(found), None), self.desk.left(session.person, rubric, role=session.role)

    def _shown(self, number: int, session: Session) -> tuple[Rubric | None, Task]:
        """The task that a form was about, with what its person may see."""
        rubric = self._in_force()
        waiting = self.desk.queue(session.person, rubric, role=session.role) if rubric else []
        found = next((task for task in waiting if task.item.item == number), None)
        return rubric, found or self.desk.task(number, session.person)

    def _to_queue(self) -> web.Response:
        return web.Response(status=303, headers={"Location": f"{self.door.prefix}/"})

    def _page(self, head: str, text: str, status: int) -> web.Response:
        back = status not in (200, 401, 403, 421)  # there is a queue to go back to
        return self._render("message", head=head, text=text, back=back, status=status)

    def _render(self, name: str, *, status: int, **values: Any) -> web.Response:
        page = _environment().get_template("review.html.j2").render(
            page=name, base=self.door.prefix, css=Markup(_resource("review.css")),
            script=Markup(_resource("review.js.j2")), **values,
        )  # fmt: skip
        return web.Response(text=page, content_type="text/html", charset="utf-8", status=status)

    def _form(
        self,
        session: Session,
        task: Task | None,
        *,
        rubric: Rubric | None,
        left: int,
        said: str = "",
        fault: str = "",
        chosen: dict[str, Any] | None = None,
        correct: bool = False,
        status: int = 200,
    ) -> web.Response:
        return self._render(
            "item" if task else "done",
            status=status,
            task=task,
            session=session,
            rubric=rubric,
            severities=LABEL_SEVERITIES[1:],
            left=left,
            said=said,
            fault=fault,
            chosen=chosen or {"verdict": "", "rules": [], "severity": "", "reason": ""},
            correct=correct,
        )


@dataclass
class RunningPage:
    """A review page in a background thread: `url` is where people find it, `bound` where it listens. Use as a context
    manager, or call `stop`."""

    url: str
    page: ReviewPage
    bound: str
    _stop: Callable[[], None] = field(repr=False)

    def link(self, person: str, role: Role = "reviewer", *, valid: timedelta = SESSION) -> str:
        return f"{self.url}/enter?token={self.page.invite(person, role, valid=valid)}"

    def stop(self) -> None:
        self._stop()

    def __enter__(self) -> "RunningPage":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_review_page(
    desk: ReviewDesk, rubric: Rubric | None = None, *, host: str = "127.0.0.1", port: int = 0, public_url: str = ""
) -> RunningPage:
    """Serve in a thread of its own; returns when it answers. Port 0 takes a free one. PlumblineError when taken, or
    when `public_url` would not do."""
    from plumbline.sockets import listen

    public = public_address(public_url) if public_url else None
    page = ReviewPage(desk, rubric, door=Door(desk.ledger.review_access, host=host, public=public))
    bound = listen(host, port)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(
            page.application(), access_log=None, logger=discreet_logger(__name__), shutdown_timeout=LAST_WORDS
        )
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

    listening = f"http://{host}:{bound.getsockname()[1]}"
    return RunningPage(public.url if public else listening, page, listening, stop)


async def _read(request: web.Request) -> None:
    """Have a form read, for `request.post()`: of the one kind that browsers make of this page's forms, and no other."""
    if request.content_type != "application/x-www-form-urlencoded" or request.charset not in (None, "utf-8", "UTF-8"):
        raise web.HTTPBadRequest
    try:
        await request.post()
    except (ValueError, web.RequestPayloadError) as error:
        raise web.HTTPBadRequest from error


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
