"""What the report page says of shadow traffic: who was asked, what was shed, and refusals by slice of live requests."""

from dataclasses import dataclass

from markupsafe import Markup

from plumbline.console import charts, view
from plumbline.console.story import LoopStory
from plumbline.console.words import humanise, percent, points, visible
from plumbline.records import PolicyScore, ShadowSummary


@dataclass(frozen=True)
class ShadowRow:
    """Refusals on a slice of live traffic; `shift` is aligned minus reference with its confidence sequence."""

    slice: str
    strip: Markup
    reference: str
    aligned: str
    shift: str


@dataclass(frozen=True)
class ShadowView:
    experiment: str
    spooled: int
    paired: int
    pending: int
    shed: tuple[view.ReasonRow, ...]
    shed_total: int
    balanced: bool
    sessions: int
    pairs: str
    rows: tuple[ShadowRow, ...]
    latency: tuple[tuple[str, str], ...]


def shadow_views(story: LoopStory) -> tuple[ShadowView, ...]:
    return tuple(_shadow(shadow, _shadowed(story, shadow, index)) for index, shadow in enumerate(story.shadows))


def _shadowed(story: LoopStory, shadow: ShadowSummary, index: int) -> int:
    """Column of the policy in the shadow: the one its experiment names, else by order, else the first aligned one."""
    aligned = [i for i, policy in enumerate(story.policies) if policy.role == "aligned"]
    named = [i for i in aligned if story.policies[i].name in shadow.counts.experiment]
    if named:
        return named[-1]
    return aligned[index] if len(aligned) == len(story.shadows) else 1


def _shadow(shadow: ShadowSummary, column: int) -> ShadowView:
    counts = shadow.counts
    rows: list[ShadowRow] = []
    for name in sorted(set(shadow.refusal_reference) | set(shadow.refusal_aligned)):
        shift = shadow.refusal_shift.get(name)
        before, after = shadow.refusal_reference.get(name), shadow.refusal_aligned.get(name)
        dots = [
            charts.Dot(who, index, PolicyScore(rate=rate, low=rate, high=rate) if rate is not None else None)
            for who, index, rate in (("reference", 0, before), ("aligned", column, after))
        ]
        rows.append(
            ShadowRow(
                slice=humanise(visible(name)),
                strip=charts.rate_strip(f"Refusals on {humanise(name)}", dots),
                reference=percent(before, 1) if before is not None else "\u2013",
                aligned=percent(after, 1) if after is not None else "\u2013",
                shift=f"{points(shift[0])} ({points(shift[1])} to {points(shift[2])})" if shift else "",
            )
        )
    return ShadowView(
        experiment=visible(counts.experiment),
        spooled=counts.spooled,
        paired=counts.paired,
        pending=counts.pending,
        shed=view.reason_rows(counts.shed, "refused"),
        shed_total=sum(counts.shed.values()),
        balanced=counts.balanced,
        sessions=shadow.sessions,
        pairs=shadow.pairs,
        rows=tuple(rows),
        latency=tuple((humanise(visible(n)), f"{ms:.1f} ms") for n, ms in sorted(shadow.latency_ms.items())),
    )
