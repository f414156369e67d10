"""A round trip through a running installation: what `helm test` does, and what a person would do first.

An invented person, new each time, consents to `evaluation`, says something through the collector, and leaves again. The
event must be in the ledger under their pseudonym, with the consent that was in force when it came. It can reach no
dataset: nobody ever consented to training with it. What stays is what any departure leaves: a key without words, a
consent and its withdrawal.

A policy is asked without a name for the user, so a router serves the question and does not record it.
"""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.access import Source, signature
from plumbline.feedback.collect.collector import STRUCTURED
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.policies.remote import chat_body, read_answer
from plumbline.records import TYPE_PREFIX, DecoderSettings, say
from plumbline.stores import Ledger

NOTICE = ("plumb-smoke", "1", "A test of this installation says one sentence about nobody, and withdraws it at once.")
PATIENCE_SECONDS = 30.0  # for one answer


def healthy(url: str) -> str:
    """One line when the address answers 200; PlumblineError otherwise."""
    status, body = _fetch(Request(url))
    if status != 200:
        raise _unwell(url, f"answered {status}: {_start(body)}")
    return f"{url} answers"


def ask(base: str) -> str:
    """Ask whichever policy is served at an OpenAI-compatible base address (it ends in /v1) one question."""
    status, body = _fetch(Request(f"{base}/models"))
    try:
        model = str(json.loads(body)["data"][0]["id"]) if status == 200 else ""
    except (ValueError, LookupError, TypeError):
        model = ""
    if not model:
        raise _unwell(f"{base}/models", f"answered {status} and names no model: {_start(body)}")
    question = chat_body(model, (say("user", "Does this answer?"),), DecoderSettings(max_tokens=8, temperature=0.0))
    request = Request(f"{base}/chat/completions", json.dumps(question).encode(), {"content-type": "application/json"})
    status, body = _fetch(request)
    try:
        if status != 200:
            raise ValueError(f"status {status}")
        tokens = read_answer(json.loads(body)).tokens
    except ValueError as error:
        raise _unwell(base, f"did not answer a question ({error}): {_start(body)}") from error
    return f"{base} answers as {model!r}, {tokens} tokens"


def round_trip(ledger: Ledger, names: Pseudonyms, collector: str, name: str, source: Source) -> Iterator[str]:
    """Consent, event, ledger, departure: a line for each thing that was seen. PlumblineError for what was not."""
    marker = secrets.token_hex(8)
    identity, desk = f"smoke-{marker}@plumbline.invalid", ConsentDesk(ledger, names)
    before = ledger.inbox.last_sequence()
    event = {
        "specversion": "1.0",
        "id": f"smoke-{marker}",
        "source": name,
        "type": TYPE_PREFIX + "comment",
        "subject": identity,
        "data": {
            "messages": [{"role": "user", "content": "Does this arrive?"}],
            "answer": "It should.",
            "text": "A test of the installation.",
        },
    }
    entry = desk.give(identity, ["evaluation"], ledger.consent.register_notice(*NOTICE), method="smoke")
    yield f"consent {entry.sequence} is in the ledger"
    try:
        status, body = _post(collector, event, None)
        if status != 401:
            raise _unwell(collector, f"answered {status}, not 401, to an event without a token")
        yield "an event without a token is refused"
        status, body = _post(collector, event, source)
        if status != 202:
            raise _unwell(collector, f"did not take an event of {name!r} ({status}): {_start(body)}")
        queued = [one for one in ledger.inbox.read(before + 1, ledger.inbox.last_sequence()) if _is(one.event, event)]
        if [one.subject for one in queued] != [entry.subject]:
            raise _unwell(collector, "took an event that is not in this ledger under the pseudonym that it has here")
        now = ledger.database.clock()
        if not ledger.consent.covers(entry.subject, "evaluation", queued[0].consent_sequence, now).covered:
            raise _unwell(collector, "stored an event without the consent that was in force when it came")
        yield f"event {queued[0].sequence} is in the ledger, with the consent that covers it"
        status, body = _post(collector, event, source)
        if status != 200:
            raise _unwell(collector, f"took the same event twice ({status}): {_start(body)}")
        yield "the same event again is a duplicate"
    finally:
        desk.withdraw(identity, method="smoke")
        ledger.inbox.erase(entry.subject)
    yield "consent is withdrawn, the words are gone"


def _is(found: Any, sent: dict[str, Any]) -> bool:
    return found is not None and (found.source, found.id, found.type) == (sent["source"], sent["id"], sent["type"])


def _post(collector: str, event: dict[str, Any], source: Source | None) -> tuple[int, bytes]:
    body, headers = json.dumps(event).encode(), {"content-type": STRUCTURED}
    if source is not None:
        headers["authorization"] = f"Bearer {source.token}"
        if source.hmac_secret is not None:
            stamp = f"{time.time():.3f}"
            headers["X-Plumbline-Timestamp"] = stamp
            headers["X-Plumbline-Signature"] = signature(source.hmac_secret, stamp, body)
    return _fetch(Request(f"{collector}/v1/events", body, headers))


def _fetch(request: Request) -> tuple[int, bytes]:
    try:
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status), answer.read()
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read()
    except (URLError, OSError) as error:
        raise _unwell(request.full_url, f"does not answer: {getattr(error, 'reason', error)}") from error


def _start(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")


def _unwell(where: str, what: str) -> PlumblineError:
    return PlumblineError(
        f"{where} {what}",
        consequence="the installation does not do what it is for",
        remedy="look at the logs of what should answer there, and whether a network policy or a secret is missing",
    )
