"""What a promotion rests on, as records: a gate decision and a shadow verdict about two policies."""

from plumbline.records import GateDecision, ShadowCounts, Verdict, digest_of
from plumbline.records.shadow import ShadowVerdict


def gate(reference: str, aligned: str, verdict: Verdict = Verdict.PASS, *, report: str = "report") -> GateDecision:
    return GateDecision(
        reference=reference,
        aligned=aligned,
        report=digest_of(report),
        rubric=digest_of("rubric"),
        verdict=verdict,
        areas=(),
    )


def shadow(
    reference: str, aligned: str, verdict: Verdict = Verdict.PASS, *, experiment: str = "e", decided: bool = True
) -> ShadowVerdict:
    return ShadowVerdict(
        experiment=digest_of(experiment),
        name=experiment,
        mode="shadow",
        reference=reference,
        aligned=aligned,
        plan=None,
        aa=None,
        judge="",
        pairs=digest_of("pairs"),
        n=0,
        sessions=0,
        counts=ShadowCounts(experiment=experiment, spooled=0, paired=0),
        losses=(),
        requirements=(),
        decided=decided,
        verdict=verdict,
    )
