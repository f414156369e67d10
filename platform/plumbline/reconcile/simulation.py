"""The people of the micro-world, over real HTTP: they ask through the router, see an answer, and react.

Everything here goes through the doors that real users have: chat completions on the router (every eighth one
streamed), CloudEvents and consent on the collector. What they ask and how they react is the micro-world's.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.microworld.traffic import Reaction, Request
from plumbline.records import TYPE_PREFIX, as_dicts

CONCURRENCY = 16
STREAM_EVERY = 8
BATCH = 100
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Seen:
    """A request and the answer that its user saw."""

    request: Request
    answer: str


@dataclass(frozen=True)
class Doors:
    """Where people come in: the router's OpenAI base and the collector's root, with a token per source."""

    router: str
    collector: str
    tokens: dict[str, str]
    model: str = "reference"


def ask_all(doors: Doors, requests: Sequence[Request], pseudonym: Callable[[str], str], told: Told) -> list[Seen]:
    """Ask every request through the router, sixteen at a time. Raises PlumblineError when users are not served."""
    return asyncio.run(_ask_all(doors, requests, pseudonym, told))


async def _ask_all(
    doors: Doors, requests: Sequence[Request], pseudonym: Callable[[str], str], told: Told
) -> list[Seen]:
    slots = asyncio.Semaphore(CONCURRENCY)
    answers: list[str] = [""] * len(requests)
    finished = 0

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def ask(index: int, request: Request) -> None:
            nonlocal finished
            headers = {
                "x-plumbline-session": request.session,
                "x-plumbline-subject": pseudonym(request.user.id),
                "x-plumbline-slice": request.slice,
                "x-request-id": request.id,
            }
            stream = index % STREAM_EVERY == 0
            body = {"model": doors.model, "messages": as_dicts(request.messages), "stream": stream}
            async with slots, session.post(f"{doors.router}/chat/completions", json=body, headers=headers) as reply:
                text = await reply.text()
                if reply.status != 200:
                    raise PlumblineError(
                        f"the router answered {reply.status} to {request.id}: {text[:200]}",
                        consequence="a user was not served, so the loop stopped here",
                        remedy="read the predictors' logs in the run directory, then run the same command again",
                    )
                answers[index] = _streamed(text) if stream else _whole(text)
            finished += 1
            told(finished, len(requests))

        await asyncio.gather(*(ask(index, request) for index, request in enumerate(requests)))
    return [Seen(request, answer) for request, answer in zip(requests, answers, strict=True)]


def _whole(text: str) -> str:
    return str(json.loads(text)["choices"][0]["message"]["content"])


def _streamed(text: str) -> str:
    """The answer in a server-sent event stream."""
    said = []
    for line in text.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            choices = json.loads(line.removeprefix("data: "))["choices"]
            said += [choice["delta"].get("content") or "" for choice in choices]
    return "".join(said)


def event(
    said: Reaction, request: Request, answer: str, *, source: str, rubric: str, copy: int, author: str | None
) -> Any:
    """A reaction as a structured CloudEvent. The person whose conversation it is stands in the envelope's `subject`,
    and the collector turns that into a pseudonym before anything is stored; `author` is a reviewer's pseudonym."""
    return {
        "specversion": "1.0",
        "id": f"{request.id}-{said.kind}-{copy}",
        "source": source,
        "type": TYPE_PREFIX + said.kind,
        "subject": request.user.id,
        "datacontenttype": "application/json",
        "data": {
            "author": author,
            "messages": as_dicts(request.messages),
            "answer": answer,
            "slice": request.slice,
            "language": request.language,
            "phrasing": request.phrasing,
            "conversation": request.session,
            "rubric": rubric,
            "text": said.text,
            "score": said.score,
        },
    }


def post_events(doors: Doors, source: str, events: Sequence[Any], told: Told) -> dict[str, int]:
    """Post events in CloudEvents batches; returns how many got which outcome."""
    return asyncio.run(_post_events(doors, source, events, told))


async def _post_events(doors: Doors, source: str, events: Sequence[Any], told: Told) -> dict[str, int]:
    outcomes: dict[str, int] = {}
    headers = {
        "authorization": f"Bearer {doors.tokens[source]}",
        "content-type": "application/cloudevents-batch+json",
    }
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for start in range(0, len(events), BATCH):
            batch = events[start : start + BATCH]
            async with session.post(f"{doors.collector}/v1/events", data=json.dumps(batch), headers=headers) as reply:
                answer = await reply.json()
                if reply.status not in (200, 202, 207):
                    raise PlumblineError(
                        f"the collector answered {reply.status}: {str(answer)[:200]}",
                        consequence="events were not accepted, so the loop stopped here; none was lost",
                        remedy="read the message above and run the same command again",
                    )
                for outcome, count in answer["counts"].items():
                    outcomes[outcome] = outcomes.get(outcome, 0) + count
            told(min(start + BATCH, len(events)), len(events))
    return outcomes


def post_consent(doors: Doors, source: str, action: str, identities: Sequence[str], notice: str) -> None:
    """Give or withdraw consent over HTTP, one call a person, in order."""

    async def work() -> None:
        headers = {"authorization": f"Bearer {doors.tokens[source]}"}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            for identity in identities:
                name, _, version = notice.partition("@")
                body: dict[str, Any] = {"action": action, "identity": identity}
                if action == "give":
                    body |= {"purposes": ["training", "evaluation"], "notice": {"id": name, "version": version}}
                async with session.post(f"{doors.collector}/v1/consent", json=body, headers=headers) as reply:
                    if reply.status not in (200, 201):
                        raise PlumblineError(
                            f"consent was not recorded ({reply.status}): {(await reply.text())[:200]}",
                            consequence="nothing of theirs may be used, so the loop stopped here",
                            remedy="read the message above and run the same command again",
                        )

    asyncio.run(work())
