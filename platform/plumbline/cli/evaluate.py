"""`plumb evaluate`: two policies, suites, a paired report.

Only `--dataset` and `--reviews` open the stores: whoever just compares two policies needs no ledger. What OUT holds is
described in docs/evaluation.md; every file in it but `answers/` is written at the end, whole.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from plumbline.cli.gate import read_rubric
from plumbline.cli.observed import observe, read_versions
from plumbline.cli.options import (
    AT_LEAST_ONE,
    as_json,
    interruptible,
    print_json,
    require_machine,
    stores,
)

if TYPE_CHECKING:
    from plumbline.evaluation import Answers
    from plumbline.evaluation.asking.crew import RayCrew
    from plumbline.policies.endpoint import Endpoint
    from plumbline.records import DecoderSettings, EvaluationReport, PolicyManifest, Suite

Role = Literal["reference", "aligned"]
SAMPLED = 8  # items of each kind, for --check-batches
POLICY = "Directory, hub id, or endpoint as http://HOST:PORT/v1#MODEL."


@click.command()
@click.option("--reference", required=True, help=POLICY)
@click.option("--aligned", required=True, help=POLICY)
@click.option("--suite", "suites", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option(
    "--rubric", type=click.Path(path_type=Path, exists=True), help="Rubric YAML (default: the micro-world's)."
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME[@VERSION]",
    help="What the aligned policy was trained on; items found there count for nothing. Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for report and answers.")
@click.option("--max-tokens", type=AT_LEAST_ONE, default=64, show_default=True)
@click.option(
    "--judge",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A judge that `plumb judge fit` wrote, with a card for both policies (default: a list of refusal prefixes).",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What people said of these answers; corrects the judge's rates.",
)
@click.option(
    "--previous",
    multiple=True,
    metavar="NAME@VERSION",
    help="A dataset version before the first --dataset, to watch how feedback drifts. Repeatable.",
)
@click.option("--reviews", is_flag=True, help="Watch how reviewers agree, from the ledger's labels under this rubric.")
@click.option(
    "--variants",
    metavar="builtin|FILE",
    help="Also ask every canonical item in other words: two built-in templates, or those of a JSONL file.",
)
@click.option("--actor", help="Who reads, for a private suite's log (default: the user of this machine).")
@click.option("--workers", type=AT_LEAST_ONE, help="Ask with this many Ray actors (default: in this process).")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--fresh", is_flag=True, help="Ask everything again; earlier answers are set aside.")
@click.option("--check-batches", is_flag=True, help="Also ask a sample alone, together and turned, and compare.")
@click.option("--accept-missing", is_flag=True, help="Report although answers failed; each counts as a failure.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the endpoints' API key.")
@click.option("--reference-revision", default="", help="What you know of an endpoint's weights; part of its digest.")
@click.option("--aligned-revision", default="", help="The same for the aligned policy.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory with the endpoints' tokenizer and chat template, to ask them for likelihoods.",
)
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds a request.")
@click.option("--concurrency", type=AT_LEAST_ONE, default=8, show_default=True, help="Requests at a time.")
@as_json
@stores
def evaluate(
    reference: str,
    aligned: str,
    suites: tuple[Path, ...],
    rubric: Path | None,
    datasets: tuple[str, ...],
    out: Path,
    max_tokens: int,
    judge: Path | None,
    labels: Path | None,
    previous: tuple[str, ...],
    reviews: bool,
    variants: str | None,
    actor: str | None,
    workers: int | None,
    device: str,
    fresh: bool,
    check_batches: bool,
    accept_missing: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
    **remote: Any,
) -> None:
    """Ask both policies every item of the suites, greedily, and write OUT/report.json.

    Stopped half-way, the same command goes on. A suite is our JSONL or a public set as published.
    """
    from plumbline.evaluation import compare
    from plumbline.evaluation.judging.instrument import load_judge
    from plumbline.evaluation.judging.labels import read_labels
    from plumbline.evaluation.suites.variation import read_variants, with_variants
    from plumbline.policies.files import write_durably
    from plumbline.records import DecoderSettings

    judged_by = read_rubric(rubric)
    decoder = DecoderSettings(max_tokens=max_tokens)
    legs = Leg.find("reference", reference, device, remote), Leg.find("aligned", aligned, device, remote)
    read_by, said_by_people = load_judge(judge) if judge else None, read_labels(labels) if labels else None
    wanted = read_variants(variants) if variants else None
    suite = read_suites(suites, legs, actor)
    suite = with_variants(suite, wanted) if wanted else suite
    versions = read_versions(datasets, ledger, blobs)
    training = [example for version in versions for example in version.train]
    observed = observe(previous, versions, judged_by if reviews else None, ledger, blobs)
    erased = sum(len(version.erased) for version in versions)
    trained_on = [version.manifest for version in versions if version.digest == legs[1].manifest.dataset]
    if workers and any(leg.endpoint is None for leg in legs):
        require_machine(workers, gpu=device == "cuda")
    out.mkdir(parents=True, exist_ok=True)
    same = legs[0].manifest == legs[1].manifest
    with interruptible(), asking(workers) as crew, progress_bar() as told:
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
        rubric=judged_by,
        dataset_manifest=trained_on[0] if trained_on and len(versions) == 1 else None,
        training_examples=training,
        judge=read_by,
        labels=said_by_people,
        observations=observed,
        training_versions=[version.digest for version in versions],
        training_erased=erased,
    )
    asked = {leg.role: leg.describe() for leg in legs} | {"decoder": decoder.model_dump(mode="json")}
    write_durably(out / "asked.json", json.dumps(asked, indent=2, sort_keys=True).encode() + b"\n")
    write_durably(out / "report.json", report.model_dump_json(indent=2).encode() + b"\n")
    for leg in legs:
        click.echo(f"{leg.role}: {leg.known}", err=json_out)
        if leg.invariance:
            click.echo(f"  {leg.invariance['sentence']}", err=json_out)
    checked = f"{len(report.contaminated)} of {len(suite.items)} items excluded, being among {len(training)} examples"
    checked += f" ({erased} more are erased and could not be compared)" if erased else ""
    unchecked = "not checked; name what the aligned policy was trained on with --dataset"
    click.echo(f"contamination: {checked if versions else unchecked}", err=json_out)
    for line in _missing(answers):
        click.echo(line, err=json_out)
    if json_out:
        print_json(report.model_dump(mode="json"))
        return
    show(report, suite, with_pressures=["template_overfit"] * bool(variants) + ["policy_ambiguity"] * reviews)
    click.echo(f"report {report.digest} in {out / 'report.json'}")


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


Crew = Callable[[Leg], "RayCrew"] | None


@contextlib.contextmanager
def asking(workers: int | None) -> "Iterator[Any]":
    """Who asks local policies: None for this process, or what makes a crew of Ray actors."""
    if not workers:
        yield None
        return
    from plumbline.evaluation.asking.crew import RayCrew
    from plumbline.training.runners import ray_session

    with ray_session():
        yield lambda leg: RayCrew(leg.path, leg.manifest, workers=workers, device=leg.device)


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


def show(report: "EvaluationReport", suite: "Suite", with_pressures: Sequence[str] = ()) -> None:
    """The estimates by area with the diagnostics, and the pressures asked for; of a suite that measures no area, what
    all the pressures' monitors read."""
    from rich.console import Console
    from rich.table import Table

    if report.estimates:
        table = Table("area", "metric", "n", "reference", "aligned", "difference", "90 % interval")
        for e in report.estimates:
            table.add_row(
                e.area, e.metric, str(e.n), f"{e.reference.rate:.1%}", f"{e.aligned.rate:.1%}", f"{e.difference:+.1%}",
                f"{e.low:+.1%} to {e.high:+.1%}",
            )  # fmt: skip
        Console().print(table)
        for one in report.diagnostics:
            said = one.explanation
            if one.value is not None:
                bounds = f"{one.value:+.3f} {one.unit} ({one.low:+.3f} to {one.high:+.3f})"
                said = f"{bounds}, {one.state} the limit of {one.limit}; {said}"
            click.echo(f"{one.area}.{one.name}: {said}")
        for reading in report.pressures:
            if reading.pressure in with_pressures:
                click.echo(f"{reading.pressure}{' (ALARM)' if reading.alarm else ''}: {reading.explanation}")
        return
    asked = ", ".join(sorted({item.area for item in suite.items}))
    click.echo(f"no area was measured: the items are for {asked}. What the pressures' monitors read:")
    for reading in report.pressures:
        if reading.statistics:
            click.echo(f"  {reading.pressure}{' (ALARM)' if reading.alarm else ''}: {reading.explanation}")
            for name, value in sorted(reading.statistics.items()):
                click.echo(f"    {name}: {value:.4g}")


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
