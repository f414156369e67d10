"""The answers behind a report: what `plumb evaluate` left in its directory, read back for people to judge."""

from collections.abc import Iterator
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.evaluation.answers import AnswerCache, Answers, ItemAnswer
from plumbline.evaluation.asking.cache import answers_key
from plumbline.evaluation.judging.acts import AnswerText
from plumbline.evaluation.judging.labels import answers_at_hand, read_answers
from plumbline.records import EvaluationReport, Suite, short

PLACES = ("cpu", "cuda", "mps", "endpoint")  # what beside the policy decides the last bits (`Asker.place`)


def read_directory(folder: Path, suite: Suite | None) -> list[AnswerText]:
    """Both policies' answers to the benign and harmful items of a report, from the directory given as --out or its
    `answers`; or the answer records (*.json) in a directory of them.

    Raises PlumblineError when there is neither, or when `suite` is not the one that was asked.
    """
    report = next((file for file in (folder / "report.json", folder.parent / "report.json") if file.is_file()), None)
    if report is None:
        found = [answer for file in sorted(folder.glob("*.json")) for answer in read_answers(file, suite)]
        if not found:
            raise _nothing(folder, "it holds no answer records (*.json) and belongs to no report")
        return found
    return [answer for leg in answers_of(report, suite) for answer in answers_at_hand(leg, _same(suite, leg, report))]


def answers_of(report: Path, suite: Suite | None) -> Iterator[Answers]:
    """What each policy of a report answered. An item without an answer is missing, as it was in the report."""
    try:
        read = EvaluationReport.model_validate_json(report.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _nothing(report, f"it is not an evaluation report: {str(error).splitlines()[0]}") from error
    if not read.policies:
        raise _nothing(report, "it does not say which policies it compared")
    for policy in {p.policy: p for p in read.policies}.values():
        known: dict[str, ItemAnswer] = {}
        for place in PLACES:
            key = answers_key(policy.policy, policy.template, read.decoder, place)
            known |= AnswerCache(report.parent / "answers", key).load()
        if not known:
            raise _nothing(report.parent / "answers", f"it holds no answers of the policy {short(policy.policy)}")
        items = suite.items if suite is not None else ()
        yield Answers(
            policy=policy.policy,
            name=policy.name,
            template=policy.template,
            dataset=policy.dataset,
            suite=read.suite,
            decoder=read.decoder,
            answers=tuple(
                known.get(item.digest, ItemAnswer(item=item.id)).model_copy(update={"item": item.id}) for item in items
            ),
        )


def _same(suite: Suite | None, answers: Answers, report: Path) -> Suite:
    if suite is None or suite.digest != answers.suite:
        raise PlumblineError(
            f"{report} is about the suite {short(answers.suite)}, which was not given",
            consequence="nobody can say which of its items are benign and which harmful, so nothing was judged",
            remedy="name the very suites that were asked with --suite, in the same order",
        )
    return suite


def _nothing(path: Path, why: str) -> PlumblineError:
    return PlumblineError(
        f"{path}: {why}",
        consequence="there are no answers to judge",
        remedy="name the directory that `plumb evaluate --out` wrote, or a file of answers",
    )
