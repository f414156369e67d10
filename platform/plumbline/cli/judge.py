"""`plumb judge`: have answers labelled, fit a refusal judge to the labels, see how wrong it is, and correct for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import AT_LEAST_ONE, as_json, print_json
from plumbline.cli.printing import many, table
from plumbline.cli.shares import SHARE

if TYPE_CHECKING:
    from plumbline.evaluation.judging.acts import AnswerText
    from plumbline.evaluation.judging.labels import Bound, Labels
    from plumbline.policies import Policy
    from plumbline.records import Suite
    from plumbline.records.judging import ErrorCard, ErrorRate

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
ANSWERS = click.option(
    "--answers",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Answers: JSON lines, answer records or a directory of them, XSTest completions. Repeatable.",
)
SUITE = click.option("--suite", "suites", type=FILE, multiple=True, help="The suite asked, for answer records.")
LABELS = click.option("--labels", type=FILE, multiple=True, required=True, help="Labelled answers. Repeatable.")
POLICY = click.option(
    "--policy", "policies", multiple=True, metavar="DIRECTORY", help="A policy that a likelihood judge may ask."
)
TARGET = click.option(
    "--target-fpr",
    type=SHARE,
    help="Choose thresholds for this false positive rate (default: the most TPR - FPR).",
)


@click.group()
def judge() -> None:
    """A refusal judge: an instrument whose errors are measured, per policy and prompt class, on people's labels."""


@judge.command()
@ANSWERS
@SUITE
@click.option("--judge", "judge_file", type=FILE, help="Spread the choice over what this judge says (default: text).")
@click.option("--per-policy", type=AT_LEAST_ONE, default=50, show_default=True, help="Answers to read, per policy.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--rubric", type=FILE, help="Rubric YAML that labels are given under (default: the micro-world's).")
@click.option("--labeller", default="", help="Written into every line.")
@click.option("--date", "dated", default="", help="Written into every line (YYYY-MM-DD).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The labels file to fill in.")
def label(
    answers: tuple[Path, ...],
    suites: tuple[Path, ...],
    judge_file: Path | None,
    per_policy: int,
    seed: int,
    rubric: Path | None,
    labeller: str,
    dated: str,
    out: Path,
) -> None:
    """Pick answers for people to read: half benign, half harmful, each as likely as any other of its class.

    Fill in "act" of every line (refuse, abstain, comply or incoherent), "labeller" and "labelled" (the date). What a
    judge said is not shown. The same answers and seed give the same file; an existing file is not overwritten.
    """
    from plumbline.cli.gate import read_rubric
    from plumbline.errors import PlumblineError
    from plumbline.evaluation.judging.instrument import load_judge
    from plumbline.evaluation.judging.judges import TextJudge
    from plumbline.evaluation.judging.labels import pick, write_tasks

    if out.exists():
        raise PlumblineError(
            f"{out} is there already",
            consequence="nothing was written: it may hold labels",
            remedy="name another file with --out",
        )
    found = _answers(answers, suites)
    if judge_file is None:
        acts = [TextJudge().act(answer.text) for answer in found]
    else:
        acts = load_judge(judge_file).acts(found)
    picked = pick(found, acts, per_policy=per_policy, seed=seed)
    write_tasks(picked, out, rubric=read_rubric(rubric).digest, labeller=labeller, date=dated)
    click.echo(f'{many(len(picked), "answer")} to label in {out}: write refuse, abstain, comply or incoherent as "act"')


@judge.command()
@LABELS
@ANSWERS
@SUITE
@POLICY
@click.option("--kind", type=click.Choice(["text", "learned", "likelihood"]), required=True)
@click.option("--name", default="", help="The judge's name (default: its kind).")
@click.option("--refusal-prefix", multiple=True, help="In place of the usual refusal prefixes. Repeatable.")
@click.option("--other-prefix", multiple=True, help="In place of the usual abstentions (text) or compliances.")
@TARGET
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The judge's file.")
@as_json
def fit(
    labels: tuple[Path, ...],
    answers: tuple[Path, ...],
    suites: tuple[Path, ...],
    policies: tuple[str, ...],
    kind: Any,
    name: str,
    refusal_prefix: tuple[str, ...],
    other_prefix: tuple[str, ...],
    target_fpr: float | None,
    out: Path,
    json_out: bool,
) -> None:
    """Fit a judge to people's labels, with a threshold and error cards for every policy that they are of.

    text: a list of refusal prefixes. learned: a logistic regression on word n-grams. likelihood: the policy's own
    refusal log-odds (local policies only, named by --policy). Labels of another text than --answers holds are refused
    and counted; without --answers each label is of the answer in its own line.
    """
    from plumbline.evaluation.judging.fitting import fit_judge
    from plumbline.evaluation.judging.instrument import save_judge

    bound = _bound(_labels(labels), answers, suites)
    fitted = fit_judge(
        kind,
        bound.rows,
        name=name,
        refusals=refusal_prefix,
        others=other_prefix,
        target_false_positive=target_fpr,
        asked=_asked(policies),
    )
    save_judge(fitted, out)
    _say_bound(bound, err=json_out)
    _show(fitted.cards, json_out)
    if not json_out:
        click.echo(f"judge {fitted.digest} in {out}")


@judge.command()
@click.argument("judge_file", metavar="JUDGE", type=FILE)
@click.option("--labels", type=FILE, multiple=True, help="Measure on these labels. Repeatable.")
@ANSWERS
@SUITE
@POLICY
@TARGET
@click.option("--save", is_flag=True, help="Keep the new thresholds and cards in JUDGE.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the cards as a page with ROC and calibration.")
@as_json
def card(
    judge_file: Path,
    labels: tuple[Path, ...],
    answers: tuple[Path, ...],
    suites: tuple[Path, ...],
    policies: tuple[str, ...],
    target_fpr: float | None,
    save: bool,
    html: Path | None,
    json_out: bool,
) -> None:
    """Show a judge's error cards; with --labels measure it on more policies, and choose their thresholds.

    Rates come from thresholds that were chosen on other labels than those they judge (5 folds).
    """
    from plumbline.evaluation.judging.fitting import with_cards
    from plumbline.evaluation.judging.instrument import load_judge, save_judge

    fitted = load_judge(judge_file).fitted
    if labels:
        bound = _bound(_labels(labels), answers, suites)
        fitted = with_cards(fitted, bound.rows, target_false_positive=target_fpr, asked=_asked(policies))
        _say_bound(bound, err=json_out)
        if save:
            save_judge(fitted, judge_file)
    if html is not None:
        from plumbline.console.judge_page import render_judge
        from plumbline.policies.files import write_durably

        html.parent.mkdir(parents=True, exist_ok=True)
        write_durably(html, render_judge(fitted).encode("utf-8"))
    _show(fitted.cards, json_out)


@judge.command()
@click.argument("judge_file", metavar="JUDGE", type=FILE)
@LABELS
@ANSWERS
@SUITE
@POLICY
@click.option("--reference", help="The reference's digest or name, where there are answers of two policies.")
@click.option(
    "--count",
    type=click.Choice(["refused", "gated"]),
    default="refused",
    show_default=True,
    help="refused: refusals of both classes. gated: what the gate counts (benign not answered, harmful not declined).",
)
@as_json
def correct(
    judge_file: Path,
    labels: tuple[Path, ...],
    answers: tuple[Path, ...],
    suites: tuple[Path, ...],
    policies: tuple[str, ...],
    reference: str | None,
    count: str,
    json_out: bool,
) -> None:
    """Print refusal rates as people would have found them: the judge's, corrected by the labels of these answers.

    With answers of two policies also their paired difference. Prediction-powered, clustered; a poor judge makes the
    interval wider and the rate no less true.
    """
    from plumbline.errors import PlumblineError
    from plumbline.evaluation.judging.correction import GATED, REFUSALS, corrected_legs
    from plumbline.evaluation.judging.instrument import load_judge

    instrument = load_judge(judge_file, _asked(policies))
    found = _answers(answers, suites)
    legs = sorted({answer.policy for answer in found}, key=lambda policy: (policy != reference, policy))
    if len(legs) > 2 or (reference is not None and reference not in legs) or (len(legs) == 2 and reference is None):
        raise PlumblineError(
            f"the answers are of {', '.join(legs)}",
            consequence="nothing was corrected: it is not clear which two are compared",
            remedy="give the answers of one or two policies, and name one of two with --reference",
        )
    by_leg = [[answer for answer in found if answer.policy == policy] for policy in legs]
    aligned = by_leg[1] if len(legs) == 2 else []
    made = corrected_legs(
        by_leg[0],
        aligned,
        instrument,
        _labels(labels),
        cards=instrument.fitted.cards,
        counted=GATED if count == "gated" else REFUSALS,
    )
    if not made:
        raise PlumblineError(
            "fewer than two labels are of these answers",
            consequence="nothing was corrected",
            remedy="label about 50 answers of each policy (`plumb judge label`)",
        )
    if json_out:
        print_json([rate.model_dump(mode="json") for rate in made])
        return
    table(
        ["", "policy", "requests", "labels", "of", "judge says", "corrected", "interval"],
        [
            [
                rate.leg, _name(rate.policy), rate.prompt_class, str(rate.labelled), str(rate.n), f"{rate.naive:.1%}",
                f"{rate.rate:.1%}", f"{rate.low:.1%} to {rate.high:.1%}",
            ]
            for rate in made
        ],
    )  # fmt: skip
    if stale := max(rate.stale for rate in made):
        click.echo(f"{many(stale, 'label')} refused: of another text than the answer at hand")


# --- reading --------------------------------------------------------------------------------------------------------


def _answers(paths: tuple[Path, ...], suites: tuple[Path, ...]) -> "list[AnswerText]":
    from plumbline.errors import PlumblineError
    from plumbline.evaluation.judging.labels import read_answers

    suite = _suite(suites)
    found = [answer for path in paths for answer in read_answers(path, suite)]
    if not found:
        raise PlumblineError(
            "no answers to benign or harmful requests were given",
            consequence="there is nothing to judge",
            remedy="name them with --answers (and the suite that was asked with --suite)",
        )
    return found


def _suite(paths: tuple[Path, ...]) -> "Suite | None":
    """The suite, or several as `plumb evaluate` joins them."""
    from plumbline.evaluation import read_suite
    from plumbline.records import Suite

    read = [read_suite(path) for path in paths]
    if len(read) < 2:
        return read[0] if read else None
    items = tuple(item for one in read for item in one.items)
    return Suite(name="+".join(s.name for s in read), version="+".join(s.version for s in read), items=items)


def _labels(paths: tuple[Path, ...]) -> "Labels":
    from plumbline.evaluation.judging.labels import joined, read_labels

    return joined([read_labels(path) for path in paths])


def _bound(labels: "Labels", answers: tuple[Path, ...], suites: tuple[Path, ...]) -> "Bound":
    from plumbline.errors import PlumblineError
    from plumbline.evaluation.judging.labels import bind

    bound = bind(labels, _answers(answers, suites) if answers else None)
    if not bound.rows:
        raise PlumblineError(
            f"no label is of an answer at hand ({bound.stale} are of another text, {bound.absent} of none)",
            consequence="nothing was measured",
            remedy="give the answers that were labelled with --answers, or label these",
        )
    return bound


def _asked(policies: tuple[str, ...]) -> "Mapping[str, Policy]":
    """Local policies by digest. An endpoint gives no log-likelihood that could be trusted here."""
    from plumbline.errors import PlumblineError

    if any("://" in policy for policy in policies):
        raise PlumblineError(
            "a likelihood judge asks local policies only",
            consequence="nothing was judged: chat endpoints do not say how likely an answer was",
            remedy="give the policy's directory, or use a text or learned judge",
        )
    if not policies:
        return {}
    from plumbline.policies.local import LocalPolicy

    loaded = [LocalPolicy.load(policy) for policy in policies]
    return {policy.manifest.digest: policy for policy in loaded}


# --- printing -------------------------------------------------------------------------------------------------------


def _say_bound(bound: "Bound", *, err: bool) -> None:
    if bound.stale:
        click.echo(f"{many(bound.stale, 'label')} refused: of another text than the answer at hand", err=err)
    if bound.absent:
        click.echo(f"{many(bound.absent, 'label')} left out: no answer at hand", err=err)


def _show(cards: "tuple[ErrorCard, ...]", json_out: bool) -> None:
    if json_out:
        print_json([{"digest": c.digest, **c.model_dump(mode="json")} for c in cards])
        return
    table(
        ["policy", "requests", "FPR", "95 %", "FNR", "95 %", "AUROC", "Brier", "ECE", "threshold"],
        [
            [
                _name(c.policy), c.prompt_class, *_rate(c.false_positive), *_rate(c.false_negative),
                "-" if c.auroc is None else f"{c.auroc.area:.3f}", _number(c.brier), _number(c.ece),
                _number(c.threshold),
            ]
            for c in cards
        ],
    )  # fmt: skip
    rules = sorted({c.rule for c in cards})
    click.echo("; ".join(rules))


def _rate(rate: "ErrorRate") -> tuple[str, str]:
    if not rate.n:
        return "-", "no case"
    return f"{rate.rate:.3f}", f"{rate.low:.3f} to {rate.high:.3f} ({rate.errors} of {rate.n})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _name(policy: str) -> str:
    from plumbline.records import short

    return short(policy) if policy.startswith("sha256:") else policy
