"""The steps of a shadow evaluation from a file, carried out: A/A, plan, pairs, verdict.

Each is a command that may be killed anywhere and started again: the spools know which lines were asked, a plan that was
written is kept, a verdict that was decided stays decided. What a step came to goes to the ledger as counts, digests and
the name of a reason, because that is all a cluster may keep; the words of a fault are raised, for the log of whoever
runs it. A Job runs one step (`plumb shadow evaluate STEP`); `evaluate` runs all of them in this process, by the same
decisions.
"""

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.reconcile.shadow_evaluation import (
    KILLED,
    EvaluationObservation,
    EvaluationSpec,
    StartStep,
    next_step,
    reconcile_evaluation,
)
from plumbline.records import Rubric
from plumbline.records.shadow import AaResult, ShadowPlan, ShadowStep, ShadowVerdict, StepName
from plumbline.shadow import Consent, Experiment, Spool
from plumbline.shadow.experiment import comparable, worker_for
from plumbline.shadow.legs import Stated, token, upstream
from plumbline.shadow.observed import Labels
from plumbline.shadow.offline import OFFLINE, Line, ask_both, gone, read_requests
from plumbline.shadow.planning import make_plan, margins_of, plan_after, read_plan, write_plan
from plumbline.shadow.verdict import aa_result, shadow_verdict
from plumbline.stores import BlobStore, Ledger
from plumbline.stores.shadow_steps import ShadowSteps

AMPLE = 10  # times as many sessions as an A/A run must have: a plan for what is rare in them needs more than the least


@dataclass(frozen=True)
class EvaluationTask:
    """One evaluation as whoever carries it out knows it. `key` is the digest of what was asked for.

    `folder` keeps the spools `aa` and `pairs`. `requests` is a file, or the digest of a blob. `consent` says who may be
    asked about; `vouched` who says so for everybody in the file, in one word. `margins` stand in the rubric's place.
    """

    key: str
    experiment: str
    reference: str
    aligned: str
    reference_url: str
    aligned_url: str
    requests: Path | str
    folder: Path
    rubric: Rubric
    margins: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    aa_sessions: int = 100
    planned_sessions: int = 0
    vouched: str = ""
    salt: str = ""
    reference_token: Path | None = None
    aligned_token: Path | None = None
    concurrency: int = 8
    deadline_s: float = 30.0
    unreachable_s: float = 60.0

    def described(self, step: StepName) -> Experiment:
        alike = step == "aa"
        name = f"{self.experiment}-aa" if alike else self.experiment
        return Experiment(name=name, salt=self.salt or self.experiment, mode="aa" if alike else "shadow")


class Refused(Exception):
    """A step that cannot be done, by the name of its reason; its cause has the words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Steps:
    """Carries out steps of one evaluation and reports them. `labels` makes the judge, `consent` asks the ledger."""

    def __init__(
        self,
        task: EvaluationTask,
        ledger: Ledger,
        blobs: Callable[[], BlobStore],
        *,
        labels: Callable[[], Labels],
        consent: Consent,
    ) -> None:
        self.task = task
        self.ledger = ledger
        self.blobs = blobs
        self.labels = labels
        self.consent: Consent = (lambda subject: True) if task.vouched else consent
        self.reports = ShadowSteps(ledger.database)

    def carry_out(self, step: StepName) -> ShadowStep:
        """Do a step and report it. PlumblineError, reported too, where it cannot be done."""
        todo = {"aa": self._alike, "plan": self._plan, "pairs": self._pairs, "verdict": self._verdict}
        try:
            done = todo[step]()
        except Refused as refused:
            self.reports.record(self._report(step, reason=refused.reason, **self._counted(step)))
            raise refused.__cause__ or refused from None
        except BaseException:
            self.reports.record(self._report(step, reason="StepFailed", **self._counted(step)))
            raise
        self.reports.record(done)
        return done

    # --- the four steps -------------------------------------------------------------------------------------------

    def _alike(self) -> ShadowStep:
        """The reference twice, on the first sessions of the file: ten times as many as a verdict wants, or all."""
        lines = _first_sessions(self._lines("aa"), AMPLE * self.task.aa_sessions, self.consent)
        self._ask("aa", lines)
        found = self._result(self._guess())
        alarm = found.alarm or bool(found.errors)
        return self._report(
            "aa", sessions=found.sessions, alarm=alarm, planned=self.task.aa_sessions, **self._counted("aa")
        )

    def _plan(self) -> ShadowStep:
        """How many sessions a verdict takes, from what the A/A run showed. One that is there was made before."""
        folder = self.task.folder / "pairs"
        with _because("PlanRefused"):
            kept = read_plan(folder)
            if kept is None:
                kept = self._planned()
                write_plan(kept, folder)
        return self._report("plan", planned=kept.traffic, result=kept.digest)

    def _pairs(self) -> ShadowStep:
        """Both policies, on everything."""
        self._ask("pairs", self._lines("pairs"))
        counted = self._counted("pairs")
        return self._report("pairs", **counted)

    def _verdict(self) -> ShadowStep:
        """One look, at the planned size."""
        with _because("JudgeRefused"):
            labels = self.labels()
        with _because("SpoolRefused"):
            plan = read_plan(self.task.folder / "pairs")
            alike = self._result(plan or self._guess())
            with contextlib.closing(Spool.existing(self.task.folder / "pairs")) as spool:
                found = shadow_verdict(spool, labels, aa=alike)
        if not found.n:
            raise Refused(KILLED if found.tripped is not None else "NoPairs") from PlumblineError(
                f"no request of {self.task.experiment} became a pair",
                consequence="there is nothing to decide from",
                remedy="see what was shed, by reason: `plumb shadow status`",
            )
        said = self.ledger.releases.settle_shadow(found)
        if (said.reference, said.aligned) != (self.task.reference, self.task.aligned):
            raise Refused("OtherPolicies") from PlumblineError(
                f"the answers name {said.reference[:19] or 'no one reference'} and"
                f" {said.aligned[:19] or 'no one aligned policy'}",
                consequence=f"the verdict {said.digest} is about them, not about the policies that were named",
                remedy="begin another experiment against endpoints that serve one policy each",
            )
        return self._report("verdict", sessions=said.sessions, result=said.digest, **self._counted("verdict"))

    # --- what they share ------------------------------------------------------------------------------------------

    def _ask(self, step: StepName, lines: list[Line]) -> None:
        task, experiment = self.task, self.task.described(step)
        asked = upstream(experiment, "reference", task.reference_url, token(task.reference_token))
        aligned = None if step == "aa" else task.aligned_url
        self._compare()
        with _because("SpoolRefused"):
            spool = Spool(task.folder / step, experiment)
        with contextlib.closing(spool):
            if task.vouched and not spool.notes():
                spool.note(f"consented by: {task.vouched}")
            for subject in gone(spool, self.consent):
                spool.forget(subject)
            tokens = {"reference_token": task.reference_token, "aligned_token": task.aligned_token}
            shared: dict[str, Any] = {"concurrency": task.concurrency, "deadline_s": task.deadline_s}
            worker = worker_for(
                spool, aligned, reference_url=task.reference_url, consent=self.consent, **tokens, **shared
            )
            try:
                ask_both(lines, spool, asked, worker, consent=self.consent, unreachable_s=task.unreachable_s, **shared)
            except PlumblineError as error:
                raise Refused(KILLED if spool.tripped() is not None else "EndpointUnreachable") from error

    def _compare(self) -> None:
        """Both ends serve the very policies that were named, alike in everything else. Waits for one that starts."""
        task, experiment = self.task, self.task.described("pairs")
        asked = upstream(experiment, "reference", task.reference_url, token(task.reference_token))
        until = time.monotonic() + task.unreachable_s
        while True:
            with _because("NotComparable"):
                one, other, _ = comparable(experiment, asked, task.aligned_url, token(task.aligned_token))
            if (one.reached and other.reached) or time.monotonic() > until:
                break
            time.sleep(min(1.0, task.unreachable_s))
        for leg, said, wanted, url in (
            ("reference", one, task.reference, task.reference_url),
            ("aligned policy", other, task.aligned, task.aligned_url),
        ):
            if said.policy != wanted:
                raise Refused(_why(said)) from PlumblineError(
                    f"the {leg} at {url} is {said.policy[:19] or 'not stated'}, not {wanted[:19]}"
                    + (f" ({said.why})" if said.why else ""),
                    consequence="nobody was asked",
                    remedy="serve the policy that was named, or name the one that is served",
                )

    def _lines(self, step: StepName) -> list[Line]:
        """The requests, the same ones at every step."""
        with self._file() as file:
            data = file.read_bytes()
            self._same(hashlib.sha256(data).hexdigest())
            with _because("RequestsMalformed"):
                return read_requests(file, self.task.described(step), subject=OFFLINE if self.task.vouched else "")

    @contextlib.contextmanager
    def _file(self) -> Iterator[Path]:
        named = self.task.requests
        if isinstance(named, Path):
            with _because("RequestsMissing"):
                if not named.is_file():
                    raise PlumblineError(
                        f"there is no file of requests at {named}",
                        consequence="nobody was asked",
                        remedy="put it there, or name the digest of a blob",
                    )
            yield named
            return
        with _because("RequestsMissing"):
            data = self.blobs().get(named)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "requests.jsonl"
            file.write_bytes(data)
            yield file

    def _same(self, digest: str) -> None:
        kept = self.task.folder / "requests.sha256"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_durably(kept, f"{digest}\n".encode())
        if kept.read_text("utf-8").strip() != digest:
            raise Refused("RequestsChanged") from PlumblineError(
                f"the requests in {self.task.requests} are not those that this evaluation began with",
                consequence="nobody was asked: a comparison whose requests are chosen on the way decides nothing",
                remedy="put the file back, or begin another evaluation",
            )

    def _result(self, plan: ShadowPlan) -> AaResult:
        with _because("JudgeRefused"):
            labels = self.labels()
        with _because("SpoolRefused"), contextlib.closing(Spool.existing(self.task.folder / "aa")) as spool:
            return aa_result(spool, labels, plan)

    def _margins(self) -> dict[str, float]:
        return {**margins_of(self.task.rubric), **self.task.margins}

    def _guess(self) -> ShadowPlan:
        """The margins, before anything is known of the traffic."""
        with _because("PlanRefused"):
            return make_plan(self._margins(), aa_sessions=self.task.aa_sessions)

    def _planned(self) -> ShadowPlan:
        margins, found = self._margins(), self._result(self._guess())
        plan = plan_after(
            found,
            margins,
            correlation=0.5,
            aa_sessions=self.task.aa_sessions,
            rubric=self.task.rubric.digest if not self.task.margins else None,
        )
        least = self.task.planned_sessions
        more = tuple(
            one.model_copy(update={"sessions": least, "pairs": ceil(least * one.turns)})
            if one.sessions < least
            else one
            for one in plan.requirements
        )
        return plan.model_copy(update={"requirements": more})

    def _counted(self, step: StepName) -> dict[str, Any]:
        """The spool's accounting; nothing where there is none to read."""
        name = "aa" if step == "aa" else "pairs"
        with contextlib.suppress(PlumblineError, OSError):
            if (self.task.folder / name / "spool.sqlite").exists():
                with contextlib.closing(Spool.existing(self.task.folder / name)) as spool:
                    return {"counts": spool.counts(), "experiment": spool.experiment.digest}
        return {}

    def _report(self, step: StepName, **found: Any) -> ShadowStep:
        return ShadowStep(evaluation=self.task.key, step=step, **found)


def evaluate(steps: Steps, *, max_attempts: int = 1, told: Callable[[StepName, ShadowStep], None]) -> ShadowVerdict:
    """All steps in this process, as the operator would have them done one Job each. Goes on where another left off.

    PlumblineError where a step fails `max_attempts` times, or the A/A run is unsound.
    """
    task, failures = steps.task, dict[StepName, int]()
    spec = EvaluationSpec(task.experiment, task.reference, task.aligned, max_attempts=max_attempts)
    while True:
        seen = observe(steps.ledger, task.key, spec, failures)
        decision = reconcile_evaluation(spec, seen, datetime.now(UTC))
        if not isinstance(decision.action, StartStep):
            break
        step = decision.action.step
        try:
            told(step, steps.carry_out(step))
        except PlumblineError:
            failures[step] = failures.get(step, 0) + 1
            if failures[step] >= max_attempts and next_step(observe(steps.ledger, task.key, spec)) == step:
                raise
    if seen.verdict is None:
        why = next(item for item in decision.conditions if item.type == "Degraded")
        raise PlumblineError(
            f"there is no verdict: {why.message}",
            consequence="nothing was decided",
            remedy="put that right, and begin another evaluation",
        )
    return seen.verdict


def observe(
    ledger: Ledger, key: str, spec: EvaluationSpec, failures: Mapping[StepName, int] = MappingProxyType({})
) -> EvaluationObservation:
    """What the ledger says of an evaluation. A verdict is shown once the evaluation's own last step is done."""
    reports = ShadowSteps(ledger.database)
    steps: dict[StepName, ShadowStep] = {one.step: one for one in reports.of(key)}
    seen = EvaluationObservation(steps=steps, failures=failures)
    if not spec.live and next_step(seen) is not None:
        return seen
    experiment = steps["pairs"].experiment if "pairs" in steps else None
    verdict = reports.verdict(spec.experiment, spec.reference, spec.aligned, experiment=experiment)
    return EvaluationObservation(steps=steps, verdict=verdict, failures=failures)


def _first_sessions(lines: list[Line], n: int, consent: Consent) -> list[Line]:
    """Every line of the first `n` sessions that may be asked about, in the file's order."""
    chosen: set[str] = set()
    for line in lines:
        if len(chosen) >= n:
            break
        with _because("ConsentUnknown"):
            if line.session not in chosen and consent(line.subject):
                chosen.add(line.session)
    return [line for line in lines if line.session in chosen]


def _why(said: Stated) -> str:
    if not said.reached:
        return "EndpointUnreachable"
    return "WrongPolicy" if said.policy else "PolicyNotStated"


@contextlib.contextmanager
def _because(reason: str) -> Iterator[None]:
    """A fault in here has this reason."""
    try:
        yield
    except PlumblineError as error:
        raise Refused(reason) from error
