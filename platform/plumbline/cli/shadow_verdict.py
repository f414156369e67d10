"""`plumb shadow plan | status | verdict | reset`: before, during and after an experiment; and its kill switch."""

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.gate import read_rubric
from plumbline.cli.options import as_json, open_ledger, print_json, read_text, stores

if TYPE_CHECKING:
    from plumbline.records import Rubric
    from plumbline.records.shadow import AaResult, ShadowPlan, ShadowStatus, ShadowVerdict
    from plumbline.shadow.observed import Labels, Scorer
    from plumbline.shadow.spool import Spool
    from plumbline.shadow.spools import Spools

SPOOL = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
JUDGE = click.option("--judge", type=FILE, help="A judge that `plumb judge fit` wrote (default: refusal prefixes).")
SCORES = click.option(
    "--scores",
    type=FILE,
    help='JSONL of scores in [0, 1]: {"request": ID, "reference": 1, "aligned": 0}, for helpfulness.',
)
RUBRIC = click.option("--rubric", type=FILE, help="Rubric YAML with the margins (default: the micro-world's).")


@click.command()
@click.argument("spool", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--aa", type=SPOOL, help="Spool of an A/A run: its discordance and its turns a session.")
@click.option(
    "--discordance", type=click.FloatRange(0, 1), help="Share of pairs that will count differently (a guess)."
)
@click.option("--turns", type=click.FloatRange(min=1), help="Pairs a session (default: the A/A run's, or 1).")
@click.option(
    "--correlation", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of a session's pairs."
)
@click.option("--margin", "margins", multiple=True, metavar="NAME=SHARE", help="In the rubric's place. Repeatable.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=SHARE", help="Where the kill switch trips. Repeatable.")
@click.option("--harmful", multiple=True, default=("harmful",), show_default=True, help="Beginning of harmful slices.")
@click.option("--power", type=click.FloatRange(0.5, 0.999), default=0.8, show_default=True)
@click.option("--aa-sessions", type=click.IntRange(min=20), default=100, show_default=True, help="Least of an A/A run.")
@click.option("--scored", is_flag=True, help="Answers will be scored: helpfulness is required too.")
@RUBRIC
@JUDGE
@as_json
def plan(
    spool: Path | None,
    aa: Path | None,
    discordance: float | None,
    turns: float | None,
    correlation: float,
    margins: tuple[str, ...],
    limits: tuple[str, ...],
    harmful: tuple[str, ...],
    power: float,
    aa_sessions: int,
    scored: bool,
    rubric: Path | None,
    judge: Path | None,
    json_out: bool,
) -> None:
    """Say how many sessions a verdict takes; with SPOOL, write that into SPOOL/plan.json before the first pair."""
    from plumbline.shadow.planning import GUESS, make_plan, margins_of, plan_after, write_plan
    from plumbline.shadow.verdict import aa_result

    by_rubric = read_rubric(rubric)
    rubrics = margins_of(by_rubric, scored=scored)
    held = rubrics | shares(margins, "--margin")
    settings: dict[str, Any] = {
        "correlation": correlation,
        "power": power,
        "limits": shares(limits, "--limit"),
        "harmful": harmful,
        "aa_sessions": aa_sessions,
        "rubric": by_rubric.digest if held == rubrics else None,  # margins of one's own are nobody's rubric's
    }
    guess = GUESS if discordance is None else discordance
    planned = make_plan(held, discordance=guess, turns=turns or 1.0, **settings)
    if aa is not None:
        with opened(aa) as store:
            result = aa_result(store, labels_of(judge), planned)
        if result.sessions < aa_sessions:
            click.echo(f"note: the A/A run holds {result.sessions} sessions, a verdict wants {aa_sessions}", err=True)
        named = {"discordance": discordance, "turns": turns}
        planned = plan_after(result, held, **settings, **{name: one for name, one in named.items() if one is not None})
    written = write_plan(planned, spool) if spool is not None else None
    if json_out:
        print_json({"digest": planned.digest, **planned.model_dump(mode="json")})
        return
    for one in planned.requirements:
        click.echo(
            f"{one.metric}: {one.sessions} sessions with about {one.pairs} such pairs resolve a margin of"
            f" {100 * one.margin:.1f} points with probability {power:g}, if {one.discordance:.1%} of pairs differ;"
            f" the kill switch trips at {100 * one.limit:.1f} points"
        )
        if one.share < 1:
            click.echo(f"  {one.share:.0%} of sessions hold such a pair: about {one.traffic} sessions of traffic")
    click.echo(f"about {planned.traffic} sessions of traffic in all")
    click.echo(f"an A/A run of {planned.aa_sessions} sessions or more comes first")
    click.echo(f"plan {planned.digest}" + (f" in {written}" if written else ", not written: name a spool to keep it"))


@click.command()
@click.argument("spool", type=SPOOL)
@RUBRIC
@JUDGE
@SCORES
@as_json
def status(spool: Path, rubric: Path | None, judge: Path | None, scores: Path | None, json_out: bool) -> None:
    """Look at a running experiment. The bounds hold at every look, so look as often as you like."""
    from plumbline.shadow.planning import read_plan
    from plumbline.shadow.watching import Watch

    kept = read_plan(spool)
    with opened(spool) as store:
        scorer = read_scores(scores)
        seen = Watch(
            store, labels_of(judge), kept or unplanned(read_rubric(rubric), scorer is not None), scorer
        ).status()
    if json_out:
        print_json(seen.model_dump(mode="json"))
        return
    show_status(seen, planned=kept is not None)


@click.command()
@click.argument("spools", type=SPOOL, nargs=-1, required=True, metavar="SPOOL...")
@click.option("--aa", type=SPOOL, multiple=True, help="Spool of the A/A run; none, no PASS. Repeatable, as SPOOL is.")
@JUDGE
@SCORES
@as_json
@stores
def verdict(
    spools: tuple[Path, ...],
    aa: tuple[Path, ...],
    judge: Path | None,
    scores: Path | None,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Decide an experiment at its planned size. Exit code: 0 PASS, 1 REGRESSED, 2 ERROR, 3 INCONCLUSIVE.

    Each router has a spool of its own, with the plan beside it: name them all.

    The verdict, whatever it is, goes to the ledger, where `plumb release promote` looks for it. What was decided stays
    decided: asked again with more pairs, this says what it said, until the kill switch is thrown, which is REGRESSED at
    any time. For another look begin another experiment.
    """
    from plumbline.shadow.verdict import aa_result, shadow_verdict

    labels, scorer = labels_of(judge), read_scores(scores)
    alike: AaResult | None = None
    with all_of(spools) as kept_here:
        if aa:
            planned = kept_here.plan() or unplanned(read_rubric(None), scorer is not None)
            with all_of(aa) as twice:
                alike = aa_result(twice, labels, planned)
        found = shadow_verdict(kept_here, labels, aa=alike, scorer=scorer)
    with contextlib.closing(open_ledger(ledger)) as kept:
        said = kept.releases.settle_shadow(found)
    again = said != found
    if json_out:
        print_json({"digest": said.digest, "decided_before": again, **json.loads(said.model_dump_json())})
    else:
        show_verdict(said)
        if again:
            click.echo("This was decided before, by one look at its planned size; pairs since then change nothing.")
    sys.exit(said.verdict.exit_code)


@click.command()
@click.argument("spool", type=SPOOL)
@click.option("--reason", required=True, help="Why the experiment may go on; kept with the switch.")
@click.option("--actor", required=True, help="Who resets it, for the record.")
@as_json
def reset(spool: Path, reason: str, actor: str, json_out: bool) -> None:
    """Take the kill switch back, by hand and with a reason. Every throw and reset stays on record in the spool.

    It trips again only on what comes from now on.
    """
    from plumbline.errors import PlumblineError
    from plumbline.shadow.observed import Labels
    from plumbline.shadow.watching import Watch

    with opened(spool) as store:
        why = store.tripped()
        if why is None:
            raise PlumblineError(
                f"the kill switch of {spool} is not thrown",
                consequence="nothing was changed",
                remedy="see `plumb shadow status`",
            )
        Watch(store, Labels(lambda words: ""), unplanned(read_rubric(None), False)).reset(f"{actor}: {reason}")
        past = [{"at": one.at, "tripped": one.tripped, "reason": one.reason} for one in store.switched()]
    if json_out:
        print_json(past)
    else:
        click.echo(f"the kill switch is reset; it had tripped because {why}")


# --- what the commands share ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(directory: Path) -> "Iterator[Spool]":
    from plumbline.shadow.spool import Spool

    store = Spool.existing(directory)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def all_of(directories: tuple[Path, ...]) -> "Iterator[Spools]":
    """The spools of an experiment's routers, as one."""
    from plumbline.shadow.spools import Spools

    with contextlib.ExitStack() as open_ones:
        yield Spools([open_ones.enter_context(opened(directory)) for directory in directories])


def labels_of(judge: Path | None) -> "Labels":
    """Labels by a fitted judge, at each policy's own threshold, or by the list of refusal prefixes."""
    from plumbline.shadow.observed import Judge, Labels

    if judge is None:
        from plumbline.evaluation import TextJudge

        text = TextJudge()
        return Labels(lambda words: text.act(words).value, digest=text.digest)
    from plumbline.evaluation.judging.instrument import load_judge

    instrument = load_judge(judge)

    def for_policy(policy: str) -> Judge:
        reads = instrument.for_policy(policy)
        return lambda words: reads.act(words).value

    return Labels(lambda words: "", for_policy=for_policy, digest=instrument.reads)


def read_scores(file: Path | None) -> "Scorer | None":
    """Scores by request. PlumblineError for a line that is none."""
    from plumbline.errors import PlumblineError, first_fault

    if file is None:
        return None
    found: dict[str, tuple[float, float]] = {}
    text = read_text(file, "a file of scores", consequence="helpfulness was not measured")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            pair = float(said["reference"]), float(said["aligned"])
            if not all(0 <= score <= 1 for score in pair):
                raise ValueError("a score lies outside [0, 1]")
            found[str(said["request"])] = pair
        except (ValueError, KeyError, TypeError) as error:
            raise PlumblineError(
                f"{file}, line {number}: {first_fault(error)}",
                consequence="helpfulness was not measured, and nothing was decided",
                remedy='write lines such as {"request": "ID", "reference": 1, "aligned": 0.5}',
            ) from error
    return lambda pair: found.get(pair.spooled.request)


def shares(given: tuple[str, ...], option: str) -> dict[str, float]:
    """NAME=SHARE by name."""
    from plumbline.errors import PlumblineError
    from plumbline.shadow.planning import MARGINS

    found: dict[str, float] = {}
    for one in given:
        name, _, share = one.partition("=")
        try:
            if name not in MARGINS or not 0 < float(share) < 1:
                raise ValueError(one)
        except ValueError as error:
            raise PlumblineError(
                f"{option} {one} names no requirement with a share",
                consequence="nothing was planned",
                remedy=f"write NAME=SHARE, for example benign_refusal=0.02; names are {', '.join(MARGINS)}",
            ) from error
        found[name] = float(share)
    return found


def unplanned(rubric: "Rubric", scored: bool) -> "ShadowPlan":
    """Margins to look by where nobody planned: good for looking, never for a verdict."""
    from plumbline.shadow.planning import make_plan, margins_of

    return make_plan(margins_of(rubric, scored=scored), rubric=rubric.digest, source="none")


def show_status(seen: "ShadowStatus", *, planned: bool) -> None:
    counts = seen.counts
    shed = " + ".join(f"{n} shed: {reason}" for reason, n in sorted(counts.shed.items())) or "0 shed"
    click.echo(f"experiment {seen.experiment} ({seen.mode}){'' if planned else ', without a plan'}")
    click.echo(f"{counts.spooled} spooled = {counts.paired} paired + {counts.pending} pending + {shed}")
    click.echo(f"{seen.sessions} sessions; {seen.same_text:.1%} of answers the same; lost {seen.lost_share['all']:.1%}")
    for metric, one in seen.requirements.items():
        e, proven = one.estimate, "; ALARM: proven worse" if one.alarm else ""
        size = f"{e.sessions} of {one.planned} sessions" if planned else f"{e.sessions} sessions"
        click.echo(
            f"{one.state.value:<13} {metric}: {100 * e.difference:+.1f} points, {100 * e.low:+.1f} to"
            f" {100 * e.high:+.1f} at any look, margin {100 * one.margin:.1f}; with lost pairs"
            f" {100 * e.worst_low:+.1f} to {100 * e.worst_high:+.1f}; {size}{proven}"
        )
    for name, legs in seen.refusals.items():
        click.echo(f"  refusals on {name}: reference {legs['reference']:.1%}, aligned {legs['aligned']:.1%}")
    for leg in ("reference", "aligned"):
        if f"{leg}_p50" in seen.latency_ms:
            times = ", ".join(f"p{p} {seen.latency_ms[f'{leg}_p{p}']:.0f} ms" for p in (50, 95, 99))
            first = f", first piece p95 {seen.first_ms[f'{leg}_p95']:.0f} ms" if f"{leg}_p95" in seen.first_ms else ""
            click.echo(f"  {leg}: {times}{first}, {seen.tokens[leg]:.1f} tokens an answer")
    when = f"{datetime.fromtimestamp(seen.swept, UTC):%Y-%m-%d %H:%M:%S} UTC" if seen.swept else "never"
    click.echo(f"last swept of what people said who withdrew: {when}")
    if seen.users:
        click.echo(f"users: {seen.users}")
    if seen.tripped:
        click.echo(f"TRIPPED: {seen.tripped}")


def show_verdict(said: "ShadowVerdict") -> None:
    for fault in said.errors:
        click.echo(f"ERROR         {fault}")
    for lack in said.missing:
        click.echo(f"MISSING       {lack}")
    if said.tripped:
        click.echo(f"REGRESSED     the kill switch stopped the experiment: {said.tripped}")
    for row in said.requirements:
        click.echo(f"{row.verdict.value:<13} {row.explanation}")
    if said.plan is not None and said.plan.rubric is None:
        click.echo("NOTE          the plan's margins were named by hand; they are not a rubric's own")
    for one in said.alarms:
        click.echo(
            f"{'REGRESSED' if one.blocks else 'ALARM':<13} slice {one.slice}: {one.metric} {100 * one.difference:+.1f}"
            f" points over {one.n} pairs, proven (Holm, p {one.p:.2g})"
        )
    if said.aa is not None:
        noise = ", ".join(f"{name} {share:.2%}" for name, share in sorted(said.aa.discordance.items())) or "none"
        click.echo(
            f"A/A           {said.aa.n} pairs in {said.aa.sessions} sessions, {said.aa.same_text:.1%} the same;"
            f" differing: {noise}"
        )
    click.echo(f"\n{said.verdict.value}  (shadow verdict {said.digest}, recorded)")
