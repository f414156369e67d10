"""The local interpreter: carries out, in this process, what the reconcile core decides. `plumb loop` is this.

It tells the whole story on one machine: a small world, a reference, a first aligned policy that a gate refuses, real
traffic and feedback, a second dataset version, and a second policy. The interpreter never decides: `dataset_line`
says what happens to the data and `candidate` what happens to a policy; this file does it and looks again.

Nothing is staged. If the first gate passes or the second refuses, that is what the result says.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast

from plumbline.evaluation import Answers, Observations, answer_suite, compare, decide
from plumbline.evaluation.judging.judges import ClosedFormJudge
from plumbline.feedback import DatasetVersionData, erase, load_version, members_of
from plumbline.microworld import language, suites
from plumbline.microworld.recipe import FIRST, SECOND, SftRecipe, microworld_rubric
from plumbline.microworld.reference import ReferenceRecipe, cached_reference
from plumbline.microworld.world import build_world
from plumbline.policies.files import describe, manifest_of, resolve, write_manifest
from plumbline.reconcile import candidate as candidates
from plumbline.reconcile.candidate import CandidateObservation
from plumbline.reconcile.line import DATASET, REPLAY, DataLine, summary
from plumbline.reconcile.loop_result import Candidate, LoopResult, LoopSettings, Teller
from plumbline.reconcile.people import DECODER, People
from plumbline.reconcile.workspace import StageLine, Workspace
from plumbline.records import (
    Adapter,
    EvaluationReport,
    GateDecision,
    Objective,
    PolicyManifest,
    Record,
    ShadowSummary,
    Suite,
    TrainingRecord,
    Verdict,
)
from plumbline.records.shadow import ShadowVerdict
from plumbline.stores import Ledger, LocalBlobs

RELEASE = "default"
LOOP_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # the ledger's clock here, so that the same seed gives the same digests
JUDGE = ClosedFormJudge("micro-world", language.REFUSAL_FORMS, language.ABSTENTION_FORMS, language.COMPLIANCE_FORMS)
CANDIDATES: dict[str, SftRecipe] = {"aligned-1": FIRST, "aligned-2": SECOND}
FIRST_NAME, SECOND_NAME = CANDIDATES
R = TypeVar("R", bound=Record)


class LocalLoop:
    """One loop in one workspace. `run` goes on from whatever the journal says is finished."""

    def __init__(self, settings: LoopSettings, workspace: Workspace, tell: Teller) -> None:
        self.settings = settings
        self.work = workspace
        self.tell = tell
        self.out = workspace.out
        self.world = build_world(settings.seed)
        self.rubric = microworld_rubric()
        secret = f"plumbline loop {settings.seed}".encode().ljust(32, b".")  # a demonstration's secret, not a store's
        self.ledger = Ledger(self.out / "ledger.sqlite", clock=lambda: LOOP_TIME, secret=secret)
        self.blobs = LocalBlobs(self.out / "blobs")
        self.line = DataLine(self.ledger, self.blobs, self.world, self.rubric, settings.seed)
        self.people = People(self.out, self.ledger, self.world, settings.seed, self.rubric, secret)
        items = tuple(suites.held_out_items(self.world, settings.seed))
        self.suite = Suite(name="microworld-held-out", version="1", items=items)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self._early: Future[Answers] | None = None
        self._stack = contextlib.ExitStack()
        self._ray_is_up = False

    def run(self) -> LoopResult:
        """The story, in order. Every line is a stage that is skipped when the journal has it."""
        with self._stack, contextlib.closing(self.ledger):
            try:
                reference = self._reference()
                self._stage("consent", "people and demonstrators agree to a notice", {}, self._consent)
                self._stage("dataset-1", "publish dataset version 1", {"reference": reference.digest}, self._seed)
                first = self._candidate(FIRST_NAME, 1, reference, reference)
                self._stage("feedback", "users and reviewers react", {"of": first.shadow.digest}, self._feedback)
                self._stage("review", "two reviewers judge, blind", {"of": first.shadow.digest}, self._review)
                self._stage("dataset-2", "ingest feedback into version 2", {"of": first.shadow.digest}, self._ingest)
                second = self._candidate(SECOND_NAME, 2, reference, first.manifest if first.released else reference)
                self._stage("withdrawal", "somebody changes their mind", {"of": second.manifest.digest}, self._leave)
            finally:
                self.people.close()
                self._pool.shutdown(wait=False, cancel_futures=True)
            lines = list(self.work.lines.values())
            return LoopResult(
                self.settings,
                self.rubric,
                reference,
                [first, second],
                versions=[self.line.version(n).manifest for n in (1, 2)],
                difference=self.line.difference(1, 2),
                releases=self.ledger.releases.release_history(RELEASE),
                lines=lines,
            )

    # --- the parts that happen once -----------------------------------------------------------------------------

    def _reference(self) -> PolicyManifest:
        folder = self.out / "policies" / "reference"

        def make() -> dict[str, str]:
            if self.settings.reference is not None:
                source = resolve(self.settings.reference)
            else:
                source = cached_reference(
                    self.settings.cache,
                    self.settings.seed,
                    on_progress=lambda p: self.tell.progress(p.step, p.steps, f"loss {p.loss:.2f}"),
                )
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("plumbline.json"))
            from plumbline.policies.local import load_template

            manifest = describe(
                folder,
                name="reference",
                role="reference",
                template=load_template(folder).digest,
                decoder=DECODER,
                source=self.settings.reference or ReferenceRecipe().digest,
            )
            write_manifest(folder, manifest)
            digest = self.ledger.releases.record_policy(manifest)
            self.ledger.releases.move_release(RELEASE, digest, None, "what users have at the start", "loop")
            return {"digest": digest, "text": f"{manifest.name} {digest[7:19]}"}

        self._stage("reference", "train or load the reference policy", {"policy": self.settings.reference}, make)
        return manifest_of(folder, "")

    def _consent(self) -> dict[str, str]:
        given = self.people.consent()
        head = self.ledger.consent.head()
        return {"digest": head.digest, "text": f"{given} consents in the ledger; some users never agreed"}

    def _seed(self) -> dict[str, str]:
        data = self.line.publish_seeds(self.people.pseudonyms.of)
        counts = f"{len(data.train)} train, {len(data.held_out)} held out"
        return {"digest": data.digest, "text": f"{DATASET} version {data.published.version}: {counts}"}

    def _feedback(self) -> dict[str, object]:
        outcomes = self.people.react(FIRST_NAME, self.settings.requests, self.tell.progress)
        text = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        return {"text": f"events: {text}; one user withdrew", "outcomes": outcomes}

    def _review(self) -> dict[str, object]:
        done = self.people.review(FIRST_NAME, self.settings.requests)
        text = f"{done['opened']} answers judged by two people: {done['approved']} approved, {done['rejected']} not"
        blocked = "; they agree too little, so the rubric is to be revised" if done["revisions"] else ""
        return {"text": f"{text}; {done['released']} may be taught{blocked}", "review": done}

    def _ingest(self) -> dict[str, object]:
        data = self.line.ingest(self.tell.progress)
        gone = self.people.withdrawn
        pairs = self.people.forget(gone)
        erased = erase(self.ledger, self.blobs, gone)
        proof = self.line.absent(gone, data.manifest.version)
        return {
            "digest": data.digest,
            "text": summary(data.manifest, self.line.difference(1, 2)),
            "redacted": list(self.line.redacted()),
            "absent": {"subject": proof.subject, "version": proof.version, "root": proof.root},
            "erased": {"events": erased.events, "pairs": pairs, "payloads": erased.payloads},
            "actions": self.line.actions,
        }

    def _leave(self) -> dict[str, object]:
        """After the release somebody withdraws whose words the second policy learned from."""
        gone = self.people.leave({str(m.subject) for m in members_of(self.ledger, DATASET, 2) if m.split == "train"})
        pairs = self.people.forget(gone)
        erased = erase(self.ledger, self.blobs, gone)
        proof = self.line.absent(gone)
        flagged = [flag for policy in erased.policies for flag in self.ledger.releases.flags(policy) if flag[0] == gone]
        removed = len(self.line.difference(2, proof.version).removed)
        return {
            "digest": proof.digest,
            "text": f"version {proof.version} is without their {removed} examples; {len(flagged)} policies flagged",
            "absent": {"subject": gone, "version": proof.version, "root": proof.root, "removed": removed},
            "erased": {"events": erased.events, "pairs": pairs, "payloads": erased.payloads},
            "flagged": {policy: remediation for policy in erased.policies for _, remediation, _ in flagged},
        }

    # --- candidates -----------------------------------------------------------------------------------------------

    def _candidate(self, name: str, version: int, base: PolicyManifest, serving: PolicyManifest) -> Candidate:
        """Bring a candidate to its end by doing what `candidate.reconcile` says until it says Done. It is trained from
        `base` and held against `serving`, what users have when its story begins."""
        data = load_version(self.ledger, self.blobs, DATASET, version)
        objective = self._objective(name, data, base)
        for line in [line for line in self.work.lines.values() if line.name.startswith(f"{name}/")]:
            self.tell.done(line, str(line.result.get("text", "")))
        while True:
            seen = self._observe(name, data.digest)
            match candidates.reconcile(seen):
                case candidates.Train():
                    self._train(name, objective, data, serving)
                case candidates.Evaluate(policy):
                    self._evaluate(name, policy, data, serving)
                case candidates.Decide(report):
                    self._decide(name, report)
                case candidates.Shadow(policy):
                    self._shadow(name, policy, serving)
                case candidates.Promote(policy):
                    self._promote(name, policy)
                case candidates.Refuse(policy, reason):
                    self._stage(
                        f"{name}/release",
                        "leave the release where it is",
                        {"policy": policy},
                        lambda reason=reason: {"text": f"{name} is not released: {reason}", "released": False},  # type: ignore[misc]
                    )
                case candidates.Done():
                    return self._finished(name, objective, seen)

    def _observe(self, name: str, dataset: str) -> CandidateObservation:
        """What the journal and the ledger say of a candidate."""

        def result(stage: str) -> dict[str, object]:
            line = self.work.lines.get(f"{name}/{stage}")
            return cast(dict[str, object], line.result) if line is not None else {}

        decision = result("gate").get("digest")
        current = self.ledger.releases.current_release(RELEASE)
        shadow = result("shadow")
        return CandidateObservation(
            dataset=dataset,
            policy=cast(str | None, result("train").get("digest")),
            report=cast(str | None, result("evaluate").get("digest")),
            verdict=self._find(GateDecision, str(decision)).verdict if decision else None,
            shadow_balanced=cast(bool | None, shadow.get("balanced")),
            shadow_passed=cast(bool | None, shadow.get("passed")),
            serving=current.policy if current else None,
            released=result("release").get("released") is True,
            refused=result("release").get("released") is False,
        )

    def _objective(self, name: str, data: DatasetVersionData, reference: PolicyManifest) -> Objective:
        recipe = CANDIDATES[name]
        replay = self.ledger.publications.head(REPLAY) if recipe.replay_share else None
        return Objective(
            dataset=data.digest,
            base_policy=reference.digest,
            template=reference.template,
            rubric=self.rubric.digest,
            batch_examples=recipe.batch_examples,
            micro_batch_examples=recipe.micro_batch_examples,
            epochs=recipe.epochs,
            slice_weights=dict(recipe.slice_weights),
            replay=replay.digest if replay else None,
            replay_share=recipe.replay_share,
            adapter=Adapter(kind=self.settings.adapter),
            optimiser=recipe.optimiser,
            frozen=recipe.frozen if self.settings.adapter == "none" else (),
            checkpoint=recipe.checkpoint,
            seed=self.settings.seed,
            samples=DECODER,
        )

    def _train(self, name: str, objective: Objective, data: DatasetVersionData, serving: PolicyManifest) -> None:
        def work() -> dict[str, object]:
            from plumbline.training import train

            self._ray()
            self._early = self._early or self._pool.submit(self._answers, serving.name)
            trained = train(
                objective,
                data.train,
                base=self.out / "policies" / "reference",
                out=self.out / "policies" / name,
                name=name,
                job_folder=self.out / "jobs" / name,
                replay=load_version(self.ledger, self.blobs, REPLAY).train if objective.replay else (),
                workers=self.settings.workers,
                code=self.settings.code,
                on_progress=lambda p: self.tell.progress(p["step"], p["steps"], f"loss {p['loss']:.3f}"),
            )
            self.ledger.releases.record_policy(trained.manifest, objective)
            record = trained.record
            text = f"{record.steps} steps over {record.examples_seen} examples, loss {record.first_loss:.2f} to "
            text += f"{record.last_loss:.3f}; objective {objective.digest[7:19]}"
            return {"digest": trained.manifest.digest, "record": self._keep(record), "text": text}

        self._stage(f"{name}/train", f"train {name} with Ray Train", {"objective": objective.digest}, work)

    def _evaluate(self, name: str, policy: str, data: DatasetVersionData, serving: PolicyManifest) -> None:
        def work() -> dict[str, object]:
            if f"{name}/shadow" not in self.work.lines:
                self.people.welcome(name, serving.name)
            reference = self._early.result() if self._early else self._answers(serving.name)
            self._early = None
            aligned = self._answers(name, self.tell.progress)
            replay = load_version(self.ledger, self.blobs, REPLAY)
            report = compare(
                reference,
                aligned,
                self.suite,
                rubric=self.rubric,
                dataset_manifest=data.manifest,
                training_examples=[*data.train, *replay.train],
                training_versions=[data.digest, replay.digest],
                training_erased=len(data.erased) + len(replay.erased),
                judge=JUDGE,
                observations=self._observations(data),
            )
            worse = sum(estimate.high < 0 for estimate in report.estimates)
            text = f"{len(self.suite.items)} held-out items, {len(report.estimates)} metrics, {worse} proven worse"
            return {"digest": self._keep(report), "text": text}

        self._stage(f"{name}/evaluate", f"evaluate {serving.name} and {name}", {"policy": policy}, work)

    def _observations(self, data: DatasetVersionData) -> Observations:
        """What the pressures' monitors need beside the answers. Reviewers have labelled nothing before a visit."""
        visited = f"{FIRST_NAME}/shadow" in self.work.lines
        labels = self.people.labels(FIRST_NAME, self.settings.requests) if visited else []
        return self.line.observations(data, labels, self.people.preferences())

    def _answers(self, name: str, progress: Callable[[float, float, str], None] | None = None) -> Answers:
        from plumbline.policies.local import LocalPolicy

        policy = LocalPolicy.load(self.out / "policies" / name)
        told = (lambda _, done, total: progress(done, total, "answers")) if progress else None
        return answer_suite(policy, self.suite, DECODER, self.out / "answers", told)

    def _decide(self, name: str, report: str) -> None:
        def work() -> dict[str, object]:
            decision = decide(self._find(EvaluationReport, report), self.rubric)
            self._keep(decision)
            failed = [f"{a.area}.{a.metric}" for a in decision.areas if a.verdict.value != "PASS"]
            text = decision.verdict.value + (f": {', '.join(failed)}" if failed else ": every area within its margin")
            return {"digest": self.ledger.releases.record_decision(decision), "text": text}

        self._stage(f"{name}/gate", f"hold {name} against the rubric's margins", {"report": report}, work)

    def _shadow(self, name: str, policy: str, serving: PolicyManifest) -> None:
        def work() -> dict[str, object]:
            seen, verdict = self.people.visit(name, serving.name, self.settings.requests, JUDGE, self.tell.progress)
            self.ledger.releases.record_shadow(verdict)
            shed = ", ".join(f"{n} {reason}" for reason, n in sorted(seen.counts.shed.items())) or "none"
            alike = "" if verdict.aa is None else f"A/A {'alarms' if verdict.aa.alarm else 'quiet'}, "
            text = (
                f"{alike}spooled {seen.counts.spooled} = paired {seen.counts.paired} + shed ({shed});"
                f" {verdict.verdict.value}: {'; '.join([*verdict.errors, *verdict.missing]) or said(verdict)}"
            )
            return {
                "digest": self._keep(seen),
                "verdict": self._keep(verdict),
                "balanced": seen.counts.balanced,
                "passed": verdict.verdict is Verdict.PASS,
                "text": text,
            }

        self._stage(f"{name}/shadow", f"serve {serving.name} and {name} side by side", {"policy": policy}, work)

    def _promote(self, name: str, policy: str) -> None:
        def work() -> dict[str, object]:
            decision = str(self.work.lines[f"{name}/gate"].result["digest"])
            entry = self.ledger.releases.promote(
                RELEASE, policy, decision=decision, reason="gate and shadow passed", actor="loop"
            )
            return {"text": f"{name} serves users since move {entry.sequence}", "released": True}

        self._stage(f"{name}/release", f"release {name}", {"policy": policy}, work)

    def _finished(self, name: str, objective: Objective, seen: CandidateObservation) -> Candidate:
        lines = self.work.lines
        manifest = self.ledger.releases.policy(str(seen.policy))
        assert manifest is not None
        return Candidate(
            name=name,
            manifest=manifest,
            objective=objective,
            record=self._find(TrainingRecord, lines[f"{name}/train"].result["record"]),
            report=self._find(EvaluationReport, lines[f"{name}/evaluate"].result["digest"]),
            decision=self._find(GateDecision, lines[f"{name}/gate"].result["digest"]),
            shadow=self._find(ShadowSummary, lines[f"{name}/shadow"].result["digest"]),
            traffic=self._find(ShadowVerdict, lines[f"{name}/shadow"].result["verdict"]),
            released=seen.serving == seen.policy,
        )

    # --- small things -----------------------------------------------------------------------------------------------

    def _stage(self, name: str, text: str, inputs: object, work: Callable[[], object]) -> StageLine:
        known = name in self.work.lines
        if not known:
            self.tell.stage(name, text)
        line = self.work.stage(name, inputs, work)
        self.tell.done(line, str(line.result.get("text", "")))
        return line

    def _keep(self, record: Record) -> str:
        """Store a record under its digest, and return that."""
        return self.blobs.put(record.canonical_bytes())

    def _find(self, kind: type[R], digest: str) -> R:
        return kind.from_canonical(self.blobs.get(digest))

    def _ray(self) -> None:
        """One Ray for the whole loop, started when it is first needed."""
        if not self._ray_is_up:
            from plumbline.training.runners import ray_session

            self._stack.enter_context(ray_session())
            self._ray_is_up = True


def said(verdict: ShadowVerdict) -> str:
    """What live traffic showed, in a few words."""
    return "; ".join(
        f"{one.metric} {100 * one.estimate.difference:+.1f} points (margin {100 * one.margin:.1f})"
        for one in verdict.requirements
    )


@contextlib.contextmanager
def open_loop(out: Path, settings: LoopSettings, tell: Teller) -> Iterator[LocalLoop]:
    """A loop ready to run at `out`; the workspace is locked until the block ends."""
    with Workspace.open(out, settings.identity) as workspace:
        yield LocalLoop(settings, workspace, tell)
