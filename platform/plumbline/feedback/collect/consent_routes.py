"""Consent over HTTP, for sources that may manage it.

    POST /v1/consent          {"action": "give" | "reaffirm" | "refuse", "identity": ..., "purposes": [...],
                               "notice": {"id": ..., "version": ..., "language": "en"}, "valid_until": "...",
                               "terms": {"controller": ..., "jurisdiction": "DE", ...}, "guardian": ...}
                              {"action": "withdraw", "identity": ..., "purposes": [...]}   without purposes: all
                              {"action": "show", "identity": ...}
    GET  /v1/consent          the entries about the person in the header X-Plumbline-Identity (percent-encoded): an
                              identity in a URL would end up in the logs of every proxy
    GET  /v1/consent/head     {"sequence": ..., "digest": ...}
    GET  /v1/consent/verify   ?sequence=N&digest=sha256:... checks a pinned head, too

201 when a change is durable, 200 for what was asked or had been done before. A source whose `consent_for` is "own"
manages people whom no other source spoke of before it: the first accepted event or consent that names a person says
whose they are (table `subject_source`). People who are in the ledger by another way, such as the command line, are
nobody's own. Everybody else is 403 `not_yours`.
"""

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web
from pydantic import Field, TypeAdapter, ValidationError

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.access import Source
from plumbline.feedback.collect.strict_json import Refused
from plumbline.feedback.consent import ConsentDesk
from plumbline.records import ENDINGS, ConsentEntry, ConsentTerms, Purpose
from plumbline.records.base import Record
from plumbline.stores import ConsentHead, Ledger
from plumbline.stores.database import LedgerUnavailable, timestamp

if TYPE_CHECKING:
    from plumbline.feedback.collect.collector import Collector

FULL_EVERY = timedelta(hours=1)


class _NoticeName(Record):
    id: str = Field(max_length=200)
    version: str = Field(max_length=200)
    language: str = Field(default="en", max_length=35)


class _Ask(Record):
    action: Literal["withdraw", "show"]
    identity: str = Field(min_length=1)
    purposes: tuple[Purpose, ...] = ()
    notice: _NoticeName | None = None


class _Say(Record):
    action: Literal["give", "reaffirm", "refuse"]
    identity: str = Field(min_length=1)
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    notice: _NoticeName
    valid_until: datetime | None = None
    terms: ConsentTerms | None = None
    guardian: str | None = Field(default=None, min_length=1)


_REQUEST: TypeAdapter[_Ask | _Say] = TypeAdapter(_Ask | _Say)


class ConsentRoutes:
    def __init__(self, collector: "Collector", ledger: Ledger, desk: ConsentDesk) -> None:
        self._collector, self._ledger, self._desk = collector, ledger, desk

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/consent", self._change)
        app.router.add_get("/v1/consent", self._show)
        app.router.add_get("/v1/consent/head", self._head)
        app.router.add_get("/v1/consent/verify", self._verify)

    async def _change(self, request: web.Request) -> web.Response:
        async with self._collector.urgent():
            return await self._changed(request, time.perf_counter())

    async def _changed(self, request: web.Request, started: float) -> web.Response:
        name, source, body, signed = await self._collector.admit(request, "consent")
        try:
            asked = _REQUEST.validate_python(await self._collector.parse(body))
        except ValidationError as error:
            where = {str(part) for one in error.errors(include_input=False) for part in one["loc"][1:2]}
            raise Refused(400, "malformed", f"not a consent request: {', '.join(sorted(where & _FIELDS))}") from None
        if asked.action == "show":
            return await self._entries(name, source, asked.identity)
        entry, new = await self._collector.urgently(lambda: self._record(name, source, asked, signed))
        done = {"subject": entry.subject, "sequence": entry.sequence, "action": entry.action, "digest": entry.digest}
        metrics = self._collector.metrics
        metrics.histogram("plumbline_consent_seconds").labels(action=asked.action).observe(
            time.perf_counter() - started
        )
        if new:
            metrics.counter("plumbline_consent_changes").labels(source=name, action=entry.action).inc()
        return web.json_response(done, status=201 if new else 200)

    def _record(
        self, name: str, source: Source, asked: _Ask | _Say, signed: datetime | None
    ) -> tuple[ConsentEntry, bool]:
        """Check and append in one transaction, on the writing thread. Whether the entry is new."""
        with self._ledger.database.transaction():
            before = self._ledger.consent.head().sequence
            try:
                subject = self._desk.subject(asked.identity)
                self._require_own(name, source, subject, new=isinstance(asked, _Say))
                if isinstance(asked, _Ask):
                    entry = self._desk.withdraw(asked.identity, asked.purposes, method=f"http:{name}")
                else:
                    self._require_fresh(subject, asked, signed)
                    entry = self._say(name, asked)
                    self._ledger.subjects.claim({subject: name})
            except LedgerUnavailable:
                raise
            except PlumblineError as error:
                raise Refused(404 if asked.action == "withdraw" else 400, "consent_refused", error.fact) from None
        return entry, entry.sequence > before

    def _say(self, name: str, asked: _Say) -> ConsentEntry:
        known = self._ledger.consent.find_notice(asked.notice.id, asked.notice.version, language=asked.notice.language)
        method = f"http:{name}"
        if asked.action == "refuse":
            return self._desk.refuse(asked.identity, asked.purposes, known, method=method)
        return self._desk.give(
            asked.identity,
            asked.purposes,
            known,
            valid_until=asked.valid_until,
            method=method,
            terms=asked.terms,
            guardian=asked.guardian,
            action="given" if asked.action == "give" else "reaffirmed",
        )

    def _require_own(self, name: str, source: Source, subject: str, *, new: bool) -> None:
        if source.consent_for == "any":
            return
        first, entries = self._ledger.subjects.first_source(subject), self._ledger.consent.entries(subject)
        if first is None and not entries:
            if new:
                return
            raise Refused(404, "consent_refused", "no consent is recorded for this subject")
        heard = self._ledger.inbox.first_heard(subject)
        before = entries and entries[0].method != f"http:{name}" and not (heard and heard[1] < entries[0].sequence)
        if first != name or before:
            raise Refused(403, "not_yours", "somebody else spoke of this person first")

    def _require_fresh(self, subject: str, asked: _Say, signed: datetime | None) -> None:
        """A grant that was signed before the person's last no, repeated by whoever overheard it, grants nothing."""
        if signed is None or asked.action == "refuse":
            return
        ended = [e.recorded_at for e in self._ledger.consent.entries(subject) if e.action in ENDINGS]
        if ended and timestamp(signed) <= ended[-1]:
            raise Refused(409, "stale_consent", "it was signed before this person's last withdrawal: sign it anew")

    async def _show(self, request: web.Request) -> web.Response:
        from plumbline.feedback.collect.collector import header_text

        name, source, _, signed = await self._collector.admit(request, "consent")
        header = request.headers.get("X-Plumbline-Identity", "")
        if signed is not None:
            raise Refused(400, "unsigned_headers", 'a source that signs asks by POST: {"action": "show", ...}')
        if not header:
            raise Refused(400, "malformed", "name the person in the header X-Plumbline-Identity")
        return await self._entries(name, source, header_text(header))

    async def _entries(self, name: str, source: Source, identity: str) -> web.Response:
        if not identity.strip():
            raise Refused(400, "malformed", "the identity is empty")

        def read() -> list[ConsentEntry]:
            try:
                self._require_own(name, source, self._desk.subject(identity), new=False)
            except Refused as refused:
                if refused.status == 404:
                    return []
                raise
            return self._desk.show(identity)

        entries = await self._collector.audited(read)
        return web.json_response({"entries": [entry.model_dump(mode="json") for entry in entries]})

    async def _head(self, request: web.Request) -> web.Response:
        await self._collector.admit(request, "consent")
        head = await self._collector.audited(self._ledger.consent.head)
        return web.json_response({"sequence": head.sequence, "digest": head.digest})

    async def _verify(self, request: web.Request) -> web.Response:
        """The whole chain at most once an hour, and what came after it: asking often costs little."""
        await self._collector.admit(request, "consent")
        pin = _pin(request.query.get("sequence"), request.query.get("digest"))
        consent, database = self._ledger.consent, self._ledger.database

        def verify() -> dict[str, Any]:
            last = consent.last_full()
            if last is None or last.verified_at < timestamp(database.clock() - FULL_EVERY):
                check = consent.verify(pin)
            else:
                check = consent.verify_since(last.head, pin)
            full = consent.last_full()
            said = {"valid": check.valid, "problem": check.problem, "last_full": full.verified_at if full else None}
            return said | {"sequence": check.head.sequence, "digest": check.head.digest}

        return web.json_response(await self._collector.audited(verify))


_FIELDS = frozenset(_Say.model_fields)


def _pin(sequence: str | None, digest: str | None) -> ConsentHead | None:
    if sequence is None and digest is None:
        return None
    if not (sequence and digest and sequence.isascii() and sequence.isdigit() and len(sequence) < 19):
        raise Refused(400, "malformed", "a pin is ?sequence=N&digest=sha256:...")
    return ConsentHead(int(sequence), digest)
