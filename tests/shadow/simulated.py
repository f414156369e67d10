"""Simulated shadow traffic: pairs whose truth is known, as records or as what is seen of them.

from shadow.simulated import ...
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from plumbline.records import Answer, DecoderSettings, Pair, SpoolRecord, digest_of, say
from plumbline.shadow.observed import Labels, Seen
from plumbline.shadow.sampling import Experiment
from plumbline.shadow.spool import Outcome, Spool

REFERENCE, ALIGNED = digest_of("reference"), digest_of("aligned")
TEXTS = {"refuse": "i can not", "comply": "sure", "incoherent": ""}
EXPERIMENT = Experiment(name="e", salt="s", max_pending=1_000_000)
ALIKE = Experiment(name="e-aa", salt="s", mode="aa", max_pending=1_000_000)


def judge(text: str) -> str:
    return next(act for act, said in TEXTS.items() if said == text)


def labels() -> Labels:
    return Labels(judge, digest="simulated")


def seen(
    i: int, reference: str, aligned: str, slice_: str = "benign", session: str | None = None, alike: bool = False
) -> Seen:
    """One pair as numbers; `reference` and `aligned` are acts."""
    return Seen(
        request=f"r{i:06}",
        session=session or f"s{i}",
        slice=slice_,
        acts=(reference, aligned),
        unread=False,
        same=reference == aligned,
        aborted=(False, False),
        latency_ms=(10.0, 20.0),
        first_ms=(None, None),
        tokens=(3, 4),
        policies=(REFERENCE, REFERENCE if alike else ALIGNED),
        score=None,
    )


def record(one: Seen) -> SpoolRecord:
    return SpoolRecord(
        request=one.request,
        experiment="e",
        session=one.session,
        subject=f"u-{one.session}",
        slice=one.slice,
        messages=(say("user", one.request),),
        decoder=DecoderSettings(),
        answer=answer(one, 0),
    )


def answer(one: Seen, leg: int) -> Answer:
    return Answer(
        text=TEXTS[one.acts[leg]],
        finish="client_abort" if one.aborted[leg] else "stop",
        latency_ms=one.latency_ms[leg],
        first_ms=one.first_ms[leg],
        tokens=one.tokens[leg],
        policy=one.policies[leg],
    )


def pair(one: Seen) -> Pair:
    return Pair(spooled=record(one), replayed=answer(one, 1))


def fill(spool: Spool, pairs: Sequence[Seen], shed: Iterable[tuple[int, str]] = ()) -> None:
    """Spool requests and settle them: paired, or shed by place with a reason; `pending` leaves one waiting."""
    reasons = dict(shed)
    before = spool.counts().spooled
    spool.append([record(one) for one in pairs])
    outcomes = [
        Outcome(before + i + 1, reason=reasons[i]) if i in reasons else Outcome(before + i + 1, answer(one, 1))
        for i, one in enumerate(pairs)
        if reasons.get(i) != "pending"
    ]
    spool.settle(outcomes)


def spooled(directory: Path, pairs: Sequence[Seen], experiment: Experiment = EXPERIMENT) -> Spool:
    spool = Spool(directory, experiment)
    fill(spool, pairs)
    return spool


def traffic(
    rng: np.random.Generator,
    sessions: int,
    *,
    turns: int = 2,
    refuses: float = 0.1,
    discordance: float = 0.04,
    loss: float = 0.0,
    harmful: float = 0.3,
    alike: bool = False,
) -> list[Seen]:
    """Sessions of `turns` requests, a share of them harmful. On benign ones the aligned policy newly refuses with
    probability (discordance + loss) / 2 and newly answers with (discordance - loss) / 2; harmful ones are refused alike
    but for the same discordance. Half of the sessions have one fate for all their turns."""
    found: list[Seen] = []
    for s in range(sessions):
        fate = rng.random() if rng.random() < 0.5 else None
        kind = "harmful" if rng.random() < harmful else "benign"
        for _ in range(turns):
            drawn = rng.random() if fate is None else fate
            worse = drawn < (discordance + (loss if kind == "benign" else 0.0)) / 2
            better = drawn > 1 - (discordance - (loss if kind == "benign" else 0.0)) / 2
            bad, good = ("refuse", "comply") if kind == "benign" else ("comply", "refuse")
            both = bad if rng.random() < refuses else good
            acts = (good, bad) if worse else (bad, good) if better else (both, both)
            found.append(seen(len(found), *acts, kind, f"s{s}", alike))
    return found
