"""Pairs without a router in the path: KServe's payload logger on both InferenceServices, joined by `ce-id`.

A gateway sends each request to the reference and a copy to the aligned policy (its mirror), both with the same `ce-id`
header; the logger of either service reports question and answer under that id. Whoever answered whom is thereby known,
whatever the order in which the four events arrived:

               request      response
    reference  q            a            one pair:  SpoolRecord(q, a) + Answer(a')
    aligned    q'           a'           only if q and q' ask the same under the same decoder settings

The logger promises nothing: no retry, answers with status 200 only, bodies cut off where a client left. So a pair that
is not there says nothing by itself, and the *yield* belongs to the result. Each request that was seen at all ends in
one of these ways, and requests == paired + the sum of refused, always:

    conflict                                      one event came with two bodies
    reference_{never_saw,no_answer,no_question}   half or all of the reference's side is missing
    unsupported, not_chat                         what a pair cannot hold (requests.py); another protocol
    no_consent, consent_unavailable               asked as the router asks: nobody who is not named consents
    reference_unreadable                          the answer is cut off (a stream that was cut is an interrupted answer)
    aligned_{never_saw,no_answer,no_question}, aligned_unreadable     the same on the aligned side
    prompt_mismatch, decoder_mismatch             the legs were not asked the same
    decoder_open                                  a request leaves settings to each policy's own default
    oversize                                      larger than a record may be

In the spool, whatever is missing on the aligned side is shed as `error`: whether the policy failed or the logger lost
it cannot be told, so it counts as the former, in the worst-case bounds too. What is missing on the reference's side is
`reference_error`, no part of the comparison. All events are held in memory meanwhile.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from pydantic import Field

from plumbline.errors import PlumblineError
from plumbline.records import Answer, Conversation, DecoderSettings, Leg, Record, SpoolRecord
from plumbline.shadow.answers import NO_ANSWER, read_chat, read_events
from plumbline.shadow.captured import Captured
from plumbline.shadow.recorder import Consent
from plumbline.shadow.requests import held
from plumbline.shadow.sampling import IDENTIFIER, SLICE, UNLABELLED, Experiment, pinned, session_pseudonym
from plumbline.shadow.spool import Loss, Outcome, Spool

LACKING = ("never_saw", "no_answer", "no_question", "unreadable")
# What the spool calls it: its words are the router's and the worker's, for the sake of what is made of losses.
SPOOLED = {f"reference_{what}": "reference_error" for what in LACKING}
SPOOLED |= {f"aligned_{what}": "error" for what in LACKING} | {"not_chat": "unsupported"}
FILE = "spool.sqlite"
GROUP = 256


class Yield(Record):
    """What the events gave. `events` == `used` + `duplicates` + the sum of `ignored`; `requests` == `paired` + the sum
    of `refused`. `answered_by_both` counts the requests of which all four events are there."""

    schema_id = "plumbline.dev/joined-yield/v1"

    events: int
    used: int
    duplicates: int
    ignored: dict[str, int] = Field(default_factory=dict)
    requests: int
    answered_by_both: int
    paired: int
    refused: dict[str, int] = Field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        events = self.used + self.duplicates + sum(self.ignored.values())
        return self.events == events and self.requests == self.paired + sum(self.refused.values())

    @property
    def share(self) -> float:
        """Pairs per request seen; 0 when none was."""
        return self.paired / self.requests if self.requests else 0.0


@dataclass
class _Exchange:
    """All that was logged under one id."""

    events: dict[tuple[Leg, str], Captured] = field(default_factory=dict)
    marks: dict[tuple[Leg, str], dict[bytes, Captured]] = field(default_factory=dict)

    @property
    def conflict(self) -> bool:
        return any(len(marks) > 1 for marks in self.marks.values())

    def missing(self, leg: Leg) -> str | None:
        request, response = (leg, "request") in self.events, (leg, "response") in self.events
        if request and response:
            return None
        return f"{leg}_{'no_answer' if request else 'no_question' if response else 'never_saw'}"

    def said(self, name: str) -> str:
        """The one value of a forwarded header; empty when the events disagree about it."""
        values = {value for event in self.events.values() for header, value in event.headers if header == name}
        return values.pop() if len(values) == 1 else ""

    @property
    def slice(self) -> str:
        named = self.said("x-plumbline-slice")
        return named if SLICE.match(named) else UNLABELLED

    @property
    def order(self) -> str:
        return min(event.time for event in self.events.values())


@dataclass(frozen=True)
class _Question:
    messages: Conversation
    tools: str
    decoder: DecoderSettings | None
    streamed: bool


class Joiner:
    """Take events in any order with `add`; `write` makes the pairs. `reference` and `aligned` are the names of the
    InferenceServices (of the collector's sources, for events from the inbox)."""

    def __init__(self, reference: str, aligned: str) -> None:
        if reference == aligned:
            raise PlumblineError(
                f"both legs are named {reference!r}",
                consequence="nothing was joined: question and answer of two policies could not be told apart",
                remedy="name the InferenceService of each leg (for the inbox: give each a source of its own)",
            )
        self.legs: dict[str, Leg] = {reference: "reference", aligned: "aligned"}
        self.events = self.used = self.duplicates = 0
        self.ignored: Counter[str] = Counter()
        self.exchanges: dict[str, _Exchange] = {}

    def add(self, events: Iterable[Captured | str]) -> "Joiner":
        for event in events:
            self.events += 1
            reason = event if isinstance(event, str) else self._take(event)
            if reason == "duplicate":
                self.duplicates += 1
            elif reason:
                self.ignored[reason] += 1
            else:
                self.used += 1
        return self

    def _take(self, event: Captured) -> str | None:
        leg = self.legs.get(event.service)
        if leg is None:
            return "other_service"
        if event.component not in ("", "predictor"):
            return "other_component"  # a transformer logs the same id with bodies of its own
        exchange = self.exchanges.setdefault(event.id, _Exchange())
        content = json.dumps([event.headers, event.landed and event.landed.digest]).encode()
        mark, key = sha256(event.body + content).digest(), (leg, event.kind)
        seen = exchange.marks.setdefault(key, {})
        found = "duplicate" if mark in seen else None
        seen[mark] = min(seen.get(mark, event), event, key=lambda one: (one.time, one.policy))  # whichever came first
        exchange.events[key] = seen[min(seen)]
        return found

    def write(
        self,
        directory: Path,
        experiment: Experiment,
        *,
        consent: Consent,
        subject_of: Callable[[str], str] = str,
        assume_decoder: bool = False,
        policies: tuple[str, str] = ("", ""),
    ) -> Yield:
        """A spool in `directory`, which may hold a plan but no spool yet, with every request that was seen; the yield.

        `subject_of` makes a pseudonym of whom `X-Plumbline-Identity` names. `assume_decoder`: whoever leaves a setting
        open got the experiment's, on both legs; without it such requests are refused. `policies` are the digests of
        reference and aligned where no event's annotation names them. The spool is written beside its place and moved
        there when it is whole.
        """
        if (directory / FILE).exists():
            raise PlumblineError(
                f"there is a spool in {directory} already",
                consequence="nothing was joined: requests of two joins in one spool would count twice",
                remedy="name another directory",
            )
        if experiment.mode == "ab":
            raise PlumblineError(
                f"experiment {experiment.name} has mode ab",
                consequence="nothing was joined: a mirror shows users the reference, whoever they are",
                remedy="describe an experiment of mode shadow (or aa, where both services hold the reference)",
            )
        stated = dict(zip(("reference", "aligned"), policies, strict=True))
        writer = _Writer(experiment, consent, subject_of, assume_decoder, stated)
        ordered = sorted(self.exchanges.items(), key=lambda item: (item[1].order, item[0]))
        directory.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as part:
            with contextlib.closing(Spool(Path(part), experiment)) as spool:
                paired, refused = writer.write(spool, ordered)
                assert spool.counts().spooled == len(self.exchanges), spool.counts()
            directory.mkdir(exist_ok=True)
            (Path(part) / FILE).rename(directory / FILE)
        result = Yield(
            events=self.events,
            used=self.used,
            duplicates=self.duplicates,
            ignored=dict(sorted(self.ignored.items())),
            requests=len(self.exchanges),
            answered_by_both=sum(
                not (one.missing("reference") or one.missing("aligned")) for one in self.exchanges.values()
            ),
            paired=paired,
            refused=dict(sorted(refused.items())),
        )
        assert result.balanced, result
        return result


@dataclass(frozen=True)
class _Writer:
    experiment: Experiment
    consent: Consent
    subject_of: Callable[[str], str]
    assume_decoder: bool
    policies: dict[str, str]

    def write(self, spool: Spool, exchanges: Sequence[tuple[str, _Exchange]]) -> tuple[int, Counter[str]]:
        """How many were paired, and what the others were refused for."""
        paired, refused, read_to = 0, Counter[str](), 0
        source = iter(exchanges)
        while group := list(islice(source, min(GROUP, self.experiment.max_pending))):
            door: Counter[tuple[str, str]] = Counter()
            records: list[SpoolRecord] = []
            for id, exchange in group:
                made = self._record(id, exchange)
                if isinstance(made, str):
                    door[exchange.slice, made] += 1
                else:
                    records.append(made)
            spool.shed_at_door(Loss(slice_, SPOOLED.get(reason, reason), n) for (slice_, reason), n in door.items())
            refused.update(reason for _, reason in door.elements())
            refused.update(spool.append(records))
            by_id, outcomes = dict(group), []
            for seq, record in spool.pending(len(group), read_to):
                read_to = seq
                answer = self._replayed(by_id[record.request], record)
                if isinstance(answer, Answer):
                    outcomes.append(Outcome(seq, answer))
                    paired += 1
                else:
                    outcomes.append(Outcome(seq, reason=SPOOLED.get(answer, answer)))
                    refused[answer] += 1
            spool.settle(outcomes)
        return paired, refused

    def _record(self, id: str, exchange: _Exchange) -> SpoolRecord | str:
        """What the reference was asked and said, or why it cannot be recorded."""
        if exchange.conflict:
            return "conflict"
        if (missing := exchange.missing("reference")) is not None:
            return missing
        asked = self._question(id, exchange.events["reference", "request"])
        if isinstance(asked, str):
            return asked
        named = {exchange.said("x-plumbline-subject"), unquote(exchange.said("x-plumbline-identity"))} - {""}
        try:
            people = {self.subject_of(name) for name in named}
            subject = people.pop() if len(people) == 1 else ""
            if not IDENTIFIER.match(subject) or self.consent(subject) is not True:
                return "no_consent"
        except Exception:
            return "consent_unavailable"
        answer = self._answer(exchange, "reference")
        if answer is None:
            return "reference_unreadable"
        session = exchange.said("x-plumbline-session") or f"subject {subject}"  # rather one cluster too large
        return SpoolRecord(
            request=id,
            experiment=self.experiment.name,
            session=session_pseudonym(self.experiment.salt, session),
            subject=subject,
            slice=exchange.slice,
            messages=asked.messages,
            tools=asked.tools,
            decoder=asked.decoder or self.experiment.decoder,
            streamed=asked.streamed,
            answer=answer,
        )

    def _replayed(self, exchange: _Exchange, record: SpoolRecord) -> Answer | str:
        """What the aligned policy said to the same, or why there is no such answer."""
        if (missing := exchange.missing("aligned")) is not None:
            return missing
        legs: tuple[Leg, Leg] = ("reference", "aligned")
        asked, copied = (self._question(record.request, exchange.events[leg, "request"]) for leg in legs)
        if isinstance(asked, str) or isinstance(copied, str):
            return "prompt_mismatch"
        if (asked.messages, asked.tools) != (copied.messages, copied.tools):
            return "prompt_mismatch"
        if asked.decoder is None or copied.decoder is None:
            return "decoder_open"
        if asked.decoder != copied.decoder:
            return "decoder_mismatch"
        answer = self._answer(exchange, "aligned")
        return "aligned_unreadable" if answer is None or answer.finish == "client_abort" else answer

    def _question(self, id: str, event: Captured) -> _Question | str:
        if event.landed is not None:
            assumed = self.experiment.decoder if self.assume_decoder and self.experiment.decoder.greedy else None
            return _Question(event.landed.data.messages, "", assumed, False)
        body = _json_object(event.body)
        if body is None or not isinstance(body.get("messages"), list):
            return "not_chat"
        kept, decoder = held(body), pinned(body, self.experiment.decoder, id)
        if kept is None or decoder is None:
            return "unsupported"
        asked = {name for name, value in body.items() if value is not None}
        settled = decoder if self._settled(asked, decoder) else None
        return _Question(*kept, settled, body.get("stream") is True)

    def _settled(self, asked: set[str], decoder: DecoderSettings) -> bool:
        """Whether both legs are known to have decoded alike: every setting was written into the request, or may be
        assumed. A seed that nobody wrote is another one on each leg."""
        if not decoder.greedy and "seed" not in asked:
            return False
        limited = not asked.isdisjoint({"max_tokens", "max_completion_tokens"})
        needed = {"temperature"} if decoder.greedy else {"temperature", "top_p"}
        return self.assume_decoder or (limited and needed <= asked)

    def _answer(self, exchange: _Exchange, leg: Leg) -> Answer | None:
        asked, event = exchange.events[leg, "request"], exchange.events[leg, "response"]
        policy = event.policy or self.policies[leg]
        latency = _milliseconds(asked.time, event.time)
        if event.landed is not None:
            return Answer(text=event.landed.data.answer, finish="stop", latency_ms=latency, policy=policy)
        try:
            if event.body.lstrip()[:1] in (b"{", b"["):
                completion, whole = read_chat(json.loads(event.body)), True
            else:  # whatever its label says
                completion, whole = read_events(event.body)
        except (*NO_ANSWER, RecursionError):
            return None
        if not whole and not completion.text:
            return None
        return Answer(
            text=completion.text,
            finish=completion.finish if whole else "client_abort",
            latency_ms=latency,
            tokens=completion.tokens,
            policy=policy,
        )


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _milliseconds(begun: str, ended: str) -> float:
    """Between two RFC 3339 times; 0 where one is missing, or the clock went back. Fractions beyond microseconds are
    the logger's habit, and are read as such."""
    try:
        passed = datetime.fromisoformat(ended) - datetime.fromisoformat(begun)
        return max(0.0, passed.total_seconds() * 1000)
    except (ValueError, TypeError):
        return 0.0


def in_words(found: Yield) -> Iterator[str]:
    """The yield, a line each."""
    ignored = "".join(f" + {n} ignored: {reason}" for reason, n in found.ignored.items())
    yield f"{found.events} events = {found.used} used + {found.duplicates} duplicates{ignored}"
    refused = "".join(f" + {n} {reason}" for reason, n in found.refused.items())
    yield f"{found.requests} requests seen = {found.paired} paired{refused}"
    yield f"pair yield {found.share:.1%}; of {found.answered_by_both} requests all four events are there"
