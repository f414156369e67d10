"""A judge of probes that says what a test tells it to, and knows a policy by its weights.

Found by name where it is unpickled, because probes may run in other processes.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.policies import Policy
from plumbline.records import DecoderSettings, ProbeName, SuiteItem, say

ITEMS = [
    SuiteItem(
        id="a", area="over_refusal", slice="s", cluster="a", messages=(say("user", "who is ana ?"),),
        scorer="compliance",
    ),
    SuiteItem(
        id="b", area="catastrophic_forgetting", slice="s", cluster="b", messages=(say("user", "who is ben ?"),),
        scorer="choice_loglik", choices=("ana is a baker .", "i can not help with that ."),
    ),
]  # fmt: skip


def fingerprint(policy: Any) -> str:
    """A digest of a local policy's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ScriptedJudge:
    """Breaches by 0.5 for weights whose fingerprint is among `breached`. Each measurement is noted in `log`, takes
    `seconds` (the base policy's none), and fails the first time for weights among `fails`."""

    log: Path
    breached: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    seconds: float = 0.0

    def __call__(
        self,
        policy: Policy,
        items: Sequence[SuiteItem],
        decoder: DecoderSettings,
        base: dict[str, Any] | None,
        margins: dict[ProbeName, float],
    ) -> dict[str, Any]:
        seen = fingerprint(policy)
        before = self.measured()
        with self.log.open("a") as stream:
            stream.write(f"{seen}\n")
        if base is not None:
            time.sleep(self.seconds)
        if seen in self.fails and seen not in before:
            raise RuntimeError("the judge is out of order")
        found = {"base_skill": 0.5} if base is not None and seen in self.breached else {}
        return {"rates": {"base_skill": 0.5}, "counts": {"base_skill": 1}, "breaches": found, "weights": seen}

    def measured(self) -> list[str]:
        """The fingerprints of all that was measured, in order."""
        return self.log.read_text().splitlines() if self.log.is_file() else []
