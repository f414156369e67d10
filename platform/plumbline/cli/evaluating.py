"""Comparing two policies as `plumb evaluate` does, for whoever asks them: this process, Ray actors, a RayJob.

Who asks never changes the report: the same suites, policies and settings give the same digest everywhere.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plumbline.cli.observed import observe, read_versions

if TYPE_CHECKING:
    from plumbline.evaluation import Answers
    from plumbline.evaluation.asking.answered import Hired
    from plumbline.policies.endpoint import Endpoint
    from plumbline.records import DecoderSettings, EvaluationReport, PolicyManifest, Rubric, Suite

Role = Literal["reference", "aligned"]
SAMPLED = 8  # items of each kind, for --check-batches


@dataclass(frozen=True)
class Asked:
    """What two policies are compared on, and what is known about them."""

    suites: tuple[Path, ...]
    rubric: "Rubric"
    max_tokens: int
    datasets: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    judge: Path | None = None
    labels: Path | None = None
    variants: str | None = None
    reviews: bool = False
    actor: str | None = None


@dataclass(frozen=True)
class Evaluated:
    """A comparison with its suite, and what it has to say beside the report, line by line."""

    report: "EvaluationReport"
    suite: "Suite"
    said: tuple[str, ...]


def carry_out(
    legs: "tuple[Leg, Leg]",
    asked: Asked,
    out: Path,
    stores: tuple[Path, Path],
    asking: "AbstractContextManager[Crew]",
    *,
    fresh: bool = False,
    check_batches: bool = False,
    accept_missing: bool = False,
    suite_digest: str | None = None,
) -> Evaluated:
    """Ask both, compare, and write OUT. `asking` decides who asks, never what comes of it. Raises PlumblineError when
    the suites are not those of `suite_digest`, where one is given."""
    from plumbline.evaluation import compare
    from plumbline.evaluation.judging.instrument import load_judge
    from plumbline.evaluation.judging.labels import read_labels
    from plumbline.evaluation.suites.variation import read_variants, with_variants
    from plumbline.policies.files import write_durably
    from plumbline.records import DecoderSettings

    decoder = DecoderSettings(max_tokens=asked.max_tokens)
    read_by = load_judge(asked.judge) if asked.judge else None
    said_by_people = read_labels(asked.labels) if asked.labels else None
    wanted = read_variants(asked.variants) if asked.variants else None
    suite = read_suites(asked.suites, legs, asked.actor)
    if suite_digest is not None and suite.digest != suite_digest:
        raise other_suite(suite.digest, suite_digest)
    suite = with_variants(suite, wanted) if wanted else suite
    versions = read_versions(asked.datasets, *stores)
    training = [example for version in versions for example in version.train]
    observed = observe(asked.previous, versions, asked.rubric if asked.reviews else None, *stores)
    erased = sum(len(version.erased) for version in versions)
    trained_on = [version.manifest for version in versions if version.digest == legs[1].manifest.dataset]
    out.mkdir(parents=True, exist_ok=True)
    same = legs[0].manifest == legs[1].manifest
    with asking as crew, progress_bar() as told:
        answers = [
            leg.answer(
                suite, decoder, out / "answers", told, crew, fresh and not (same and leg is legs[1]), check_batches
            )
            for leg in legs
        ]
    _require_answers(answers, accept_missing)
    report = compare(
        answers[0],
        answers[1],
        suite,
        rubric=asked.rubric,
        dataset_manifest=trained_on[0] if trained_on and len(versions) == 1 else None,
        training_examples=training,
        judge=read_by,
        labels=said_by_people,
        observations=observed,
        training_versions=[version.digest for version in versions],
        training_erased=erased,
    )
    described = {leg.role: leg.describe() for leg in legs} | {"decoder": decoder.model_dump(mode="json")}
    write_durably(out / "asked.json", json.dumps(described, indent=2, sort_keys=True).encode() + b"\n")
    write_durably(out / "report.json", report.model_dump_json(indent=2).encode() + b"\n")
    said = []
    for leg in legs:
        said.append(f"{leg.role}: {leg.known}")
        said += [f"  {leg.invariance['sentence']}"] if leg.invariance else []
    checked = f"{len(report.contaminated)} of {len(suite.items)} items excluded, being among {len(training)} examples"
    checked += f" ({erased} more are erased and could not be compared)" if erased else ""
    unchecked = "not checked; name what the aligned policy was trained on with --dataset"
    said.append(f"contamination: {checked if versions else unchecked}")
    return Evaluated(report, suite, (*said, *_missing(answers)))


def other_suite(found: str, wanted: str) -> Exception:
    from plumbline.errors import PlumblineError

    return PlumblineError(
        f"the suites have the digest {found[:19]}, and {wanted[:19]} was asked for",
        consequence="nothing was asked: the report would be about other items",
        remedy="put back the suites that were meant, or render the RayJob again for these",
    )


@dataclass
class Leg:
    """One of the two policies: where it is, and who it is known to be."""

    role: Role
    text: str
    device: str
    remote: dict[str, Any]
    endpoint: "Endpoint | None"
    manifest: "PolicyManifest"
    path: Path = Path()
    invariance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, role: Role, text: str, device: str, remote: dict[str, Any]) -> "Leg":
        """Nothing is loaded yet: a directory is hashed, an endpoint is asked who it is."""
        from plumbline.policies.endpoint import Endpoint, identify_served, key_from
        from plumbline.policies.local import identify

        endpoint = Endpoint.read(text)
        if endpoint is None:
            path, manifest = identify(text)
            return cls(role, text, device, remote, None, manifest, path)
        revision, key = remote[f"{role}_revision"], key_from(remote["api_key_env"])
        manifest = identify_served(endpoint, role, revision=revision, api_key=key, timeout_s=remote["timeout"])
        return cls(role, text, device, remote, endpoint, manifest)

    @property
    def known(self) -> str:
        """How far it is known who answered."""
        from plumbline.policies.endpoint import ServedPolicy

        who = f"{self.manifest.name} ({self.manifest.digest})"
        if self.endpoint is None:
            return f"{who}, verified: its files are those of its manifest"
        if isinstance(self.manifest, ServedPolicy):
            return f"{who}, as the Plumbline predictor at {self.endpoint.url} states with every answer"
        return f"{who}, declared, not verified: a digest of URL, model and revision; nobody has seen its weights"

    def answer(
        self,
        suite: "Suite",
        decoder: "DecoderSettings",
        cache: Path,
        told: Callable[[str, int, int], None],
        crew: "Crew",
        fresh: bool,
        check: bool,
    ) -> "Answers":
        from plumbline.evaluation import answer_suite

        with contextlib.closing(crew(self)) if self.endpoint is None and crew else contextlib.nullcontext() as asker:
            policy = asker or self._policy()
            answers = answer_suite(
                policy, suite, decoder, cache, lambda _, done, n: told(self.role, done, n), fresh=fresh
            )
        if check and self.endpoint is None:
            self._check(self._policy() if asker else policy, suite, decoder)
        return answers

    def describe(self) -> dict[str, Any]:
        from plumbline.policies.endpoint import ServedPolicy

        how = "stated" if isinstance(self.manifest, ServedPolicy) else "declared"
        return {
            "policy": self.manifest.digest,
            "name": self.manifest.name,
            "template": self.manifest.template,
            "known": how if self.endpoint else "verified",
            "place": self.endpoint.url if self.endpoint else self.device,
            **({"batches": self.invariance} if self.invariance else {}),
        }

    def _policy(self) -> Any:
        if self.endpoint is None:
            from plumbline.policies.local import LocalPolicy

            return LocalPolicy.load(self.path, device=self.device)
        from plumbline.policies.endpoint import key_from
        from plumbline.policies.local import load_template
        from plumbline.policies.remote import RemotePolicy

        tokenizer: Path | None = self.remote["tokenizer"]
        return RemotePolicy(
            self.endpoint.url,
            self.endpoint.model,
            self.manifest,
            concurrency=self.remote["concurrency"],
            timeout_s=self.remote["timeout"],
            api_key=key_from(self.remote["api_key_env"]),
            template=load_template(tokenizer) if tokenizer else None,
        )

    def _check(self, policy: Any, suite: "Suite", decoder: "DecoderSettings") -> None:
        from plumbline.evaluation.asking import by_likelihood, invariance

        kinds = [[item for item in suite.items if by_likelihood(item) is kind][:SAMPLED] for kind in (True, False)]
        found = invariance(policy, [item for kind in kinds for item in kind], decoder)
        said = (
            "to the last bit" if found.exact else f"within {found.nats:.1e} nats; {found.texts} answers differ in words"
        )
        sentence = f"{found.items} items asked alone, together and in another order answer alike {said}"
        self.invariance = {**found.model_dump(), "sentence": sentence}


Crew = Callable[[Leg], "Hired"] | None


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """On a terminal, one bar per policy."""
    from rich.console import Console
    from rich.progress import Progress

    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        yield told


def read_suites(paths: tuple[Path, ...], legs: tuple[Leg, Leg], actor: str | None = None) -> "Suite":
    """The suites as one. Reading a private one is logged, and counts, with the policies that will be asked."""
    from plumbline.evaluation.suites import join_suites, open_suite

    policies = [leg.manifest.digest for leg in legs]
    return join_suites([open_suite(path, purpose="evaluate", policies=policies, actor=actor) for path in paths])


def _require_answers(legs: "list[Answers]", accepted: bool) -> None:
    from plumbline.errors import PlumblineError

    failed = {answers.name: sum(answer.finish == "error" for answer in answers.answers) for answers in legs}
    if any(failed.values()) and not accepted:
        counts = " and ".join(f"{n} answers of {name}" for name, n in failed.items() if n)
        raise PlumblineError(
            f"{counts} are missing: the endpoint failed or refused these requests",
            consequence="no report was written; finished answers are kept",
            remedy="run the same command again, which asks only what is missing; or count each as a failure with"
            " --accept-missing",
        )


def _missing(legs: "list[Answers]") -> Iterator[str]:
    """Items that nobody can pair, by reason: none is dropped without a word."""
    for answers in legs:
        reasons: dict[str, int] = {}
        for answer in answers.answers:
            if answer.failed:
                reason = answer.error or "the endpoint failed or refused the request"
                reasons[reason] = reasons.get(reason, 0) + 1
        for reason, n in sorted(reasons.items()):
            yield f"MISSING: {n} of {len(answers.answers)} answers of {answers.name}: {reason}"
