"""Guardrails before and after a policy, as the predictor knows them: handed in, as guardrails are another room.

    request -> input guards -> policy -> output guards -> answer        a refusal ends it with `content_filter`

An output guard reads whole answers: a threshold was measured on those, and a beginning is another text. So a guarded
stream says nothing until its answer is whole and was let through, and then says it in pieces. A card that expires while
the predictor runs stops it: its policy is not ready any more, and each request is refused with 503.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from plumbline.metrics import Metrics
from plumbline.records import Message


class Decision(Protocol):
    @property
    def action(self) -> str:
        """`allow`, `flag` or `refuse`."""


class Guard(Protocol):
    """What `plumbline.guardrail` loads: valid for the policy it was loaded for until it `expires`."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def sides(self) -> Sequence[str]:
        """`input`, `output` or both."""

    @property
    def expires(self) -> datetime: ...

    def check(self, messages: Sequence[Message], answer: str | None = None) -> Decision:
        """On what the last user message asks or, given an `answer`, on that. From any thread."""


LoadGuards = Callable[[str], Sequence[Guard]]  # for the policy of this digest; PlumblineError when a card does not hold


@dataclass(frozen=True)
class Guards:
    """All guards of one policy, asked in order until one refuses."""

    guards: Sequence[Guard]
    leg: str
    metrics: Metrics
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def expired(self) -> Guard | None:
        now = self.clock()
        return next((guard for guard in self.guards if guard.expires <= now), None)

    @property
    def headers(self) -> Mapping[str, str]:
        if not self.guards:
            return {}
        return {"x-plumbline-guardrail": ", ".join(guard.digest for guard in self.guards)}

    def on(self, side: str) -> bool:
        return any(side in guard.sides for guard in self.guards)

    async def refuse(self, messages: Sequence[Message], answer: str | None = None) -> bool:
        """Whether a guard refuses. Off the event loop: a long text takes a while."""
        side = "input" if answer is None else "output"
        for guard in self.guards:
            if side in guard.sides:
                action = str((await asyncio.to_thread(guard.check, messages, answer)).action)
                self.metrics.counter("plumbline_guardrail_checks").labels(self.leg, side, action).inc()
                if action == "refuse":
                    return True
        return False
