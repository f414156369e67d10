"""A consent ledger whose people come and leave, and what they said in a spool: for tests of what is swept."""

from pathlib import Path
from typing import Any

from plumbline.records import Answer, DecoderSettings, SpoolRecord, say
from plumbline.shadow import Experiment, Spool
from plumbline.stores import Ledger
from plumbline.stores.erasures import ErasureRequests
from plumbline.stores.leaving import Leaving

EXPERIMENT = Experiment(name="e", salt="grain", max_pending=1000)
ANSWER = Answer(text="yes", finish="stop", latency_ms=1.0, tokens=1)
ANA, BEN, EVA = (f"s-{i:032x}" for i in (1, 2, 3))


class House:
    """A consent ledger and the people in it."""

    def __init__(self, opened: Ledger) -> None:
        self.ledger = opened
        self.notice = opened.consent.register_notice("n", "1", "We compare answers to what you write.")

    @property
    def leaving(self) -> Leaving:
        return Leaving(self.ledger.database, self.ledger.consent, "evaluation")

    def head(self) -> int:
        return self.ledger.consent.head().sequence

    def says(self, subject: str, action: Any, **more: Any) -> int:
        return self.ledger.consent.append(subject, action, ["evaluation"], self.notice, **more).sequence

    def erases(self, subject: str) -> None:
        """As `plumb erase --withdrawn` does of somebody whose consent to evaluation stands."""
        asked = {"events": 0, "labels": 0, "remediation": "retrain", "reason": "asked", "actor": "me"}
        ErasureRequests(self.ledger.database).ask(subject, **asked)  # type: ignore[arg-type]


def record(subject: str, words: str) -> SpoolRecord:
    return SpoolRecord(
        request=f"r {words}",
        experiment="e",
        session=subject,
        subject=subject,
        slice="benign",
        messages=(say("user", words),),
        decoder=DecoderSettings(),
        answer=ANSWER,
    )


def put(spool: Spool, house: House, subject: str, *words: str) -> None:
    spool.append([record(subject, one) for one in words], consented=house.head())


def words(spool: Spool) -> list[str]:
    kept = [(seq, one) for seq, one in spool.pending(1000)]
    kept += [(seq, pair.spooled) for seq, pair in spool.numbered_pairs()]
    return [one.messages[0].content for _, one in sorted(kept, key=lambda item: item[0])]


def on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


class Away:
    """A ledger that does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("nobody answers")
