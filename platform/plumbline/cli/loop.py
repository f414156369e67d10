"""`plumb loop`: the whole story on this machine, told as it happens, and a page that tells it afterwards."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import AT_LEAST_ONE, as_json, interruptible, print_json, require_machine

if TYPE_CHECKING:
    from plumbline.console.story import LoopStory, Withdrawal
    from plumbline.reconcile.loop_result import LoopResult
    from plumbline.reconcile.workspace import StageLine


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/loop"), show_default=True)
@click.option("--seed", default=21, show_default=True, help="Drives world, reference, data order and traffic.")
@click.option(
    "--reference",
    help="A Hugging Face causal LM instead of the one trained here.",
)
@click.option("--adapter", type=click.Choice(["none", "lora"]), default="none", show_default=True)
@click.option(
    "--workers", type=AT_LEAST_ONE, default=1, show_default=True, help="Ray Train workers; does not change the result."
)
@click.option(
    "--requests",
    type=AT_LEAST_ONE,
    default=1000,
    show_default=True,
    help="Live requests that users send per candidate.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path(".cache/plumbline"),
    show_default=True,
    envvar="PLUMBLINE_CACHE",
    help="Where trained references are kept.",
)
@as_json
def loop(
    out: Path,
    seed: int,
    reference: str | None,
    adapter: str,
    workers: int,
    requests: int,
    cache: Path,
    json_out: bool,
) -> None:
    """Run the loop: rubric, consented data, training, a gate that may refuse, live shadow, feedback, release.

    A --reference is judged by the invented world's own answer forms, so its scores say little about it elsewhere.
    Killed and started again the loop goes on where it was. Exit code 0 when it came to its end, whatever the gates
    said: the report says it.
    """
    import os

    require_machine(workers)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rich.console import Console

    from plumbline.console import print_summary, write_report
    from plumbline.reconcile.local import open_loop
    from plumbline.reconcile.loop_result import LoopSettings
    from plumbline.reconcile.provenance import code_digest

    settings = LoopSettings(
        seed=seed,
        reference=reference,
        adapter="lora" if adapter == "lora" else "none",
        workers=workers,
        requests=requests,
        cache=cache,
        code=code_digest(),
    )
    console = Console(stderr=json_out, highlight=False)
    teller = TerminalTeller(console)
    started = time.monotonic()
    with interruptible(), teller, open_loop(out, settings, teller) as running:
        result = running.run()
        story = tell(result)
        write_report(story, out)
    if json_out:
        print_json({"summary": str(out / "summary.json"), "report": str(out / "report.html"), "ending": story.ending})
    else:
        print_summary(story, console, out)
        console.print(f"[dim]{time.monotonic() - started:.0f} s[/dim]")


class TerminalTeller:
    """A line per stage: what, a bar while it runs, then what came of it and how long it took."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.bar = Progress(
            TextColumn("  [cyan]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.task: Any = None

    def __enter__(self) -> "TerminalTeller":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def stage(self, name: str, text: str) -> None:
        self._clear()
        self.task = self.bar.add_task(f"{name}: {text}", total=None, note="")

    def progress(self, done: float, total: float, note: str) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=done, total=total, note=note)

    def done(self, line: "StageLine", text: str) -> None:
        self._clear()
        took = "found" if line.resumed else f"{line.seconds:.1f} s"
        self.console.print(f"[bold]{line.name:<20}[/bold] [dim]{took:>7}[/dim]  {text}")

    def _clear(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None


def tell(result: "LoopResult") -> "LoopStory":
    """The loop's result as the record that page, summary and closing table are made from."""
    from plumbline.console.story import AS_PLANNED, LoopStory, Redactions, Stage
    from plumbline.reconcile.provenance import versions

    candidates = result.candidates
    first, second = candidates
    ingested = next(stage.result for stage in result.lines if stage.name == "dataset-2")
    left = next(stage.result for stage in result.lines if stage.name == "withdrawal")
    planned = not first.released and second.released
    ending = AS_PLANNED if planned else _what_happened(result)
    return LoopStory(
        seed=result.settings.seed,
        ending=ending,
        rubric=result.rubric,
        policies=(result.reference, *(c.manifest for c in candidates)),
        datasets=tuple(result.versions),
        diff=result.difference,
        redactions=Redactions(counts=result.versions[1].redactions, samples=tuple(ingested["redacted"])),
        withdrawn=(_withdrawal(ingested), _withdrawal(left)),
        reports=tuple(c.report for c in candidates),
        decisions=tuple(c.decision for c in candidates),
        training=tuple(c.record for c in candidates),
        shadows=tuple(c.shadow for c in candidates),
        releases=tuple(result.releases),
        lineage=tuple(_lineage(result)),
        stages=tuple(
            Stage(name=stage.name, seconds=stage.seconds, product=stage.result.get("digest")) for stage in result.lines
        ),
        versions=versions(),
        exit_notes=tuple(f"the shadow verdict on {c.name} is {c.traffic.verdict.value}" for c in candidates),
    )


def _withdrawal(stage: dict[str, Any]) -> "Withdrawal":
    """The proof that somebody is gone, as the stage that erased them recorded it."""
    from plumbline.console.story import Withdrawal
    from plumbline.records import short

    absent, erased = stage["absent"], stage["erased"]
    proof = (
        f"version {absent['version']} holds no example of this subject and its root {short(absent['root'])} "
        f"verifies; {erased['events']} of their events and {erased['pairs']} recorded requests were erased"
    )
    if "removed" in absent:
        flags = ", ".join(f"{short(policy)}: {what}" for policy, what in sorted(stage["flagged"].items())) or "none"
        proof += (
            f". The version only removes: their {absent['removed']} examples and nothing else, so nobody had to "
            f"approve it; {erased['payloads']} payloads were overwritten in every version; policies trained on them "
            f"are flagged ({flags}), and nothing claims that they unlearned"
        )
    return Withdrawal(pseudonym=absent["subject"], proof=proof)


def _what_happened(result: "LoopResult") -> str:
    """What happened instead of the plan, in a sentence per candidate."""
    said = []
    for candidate in result.candidates:
        verdict = candidate.decision.verdict.value
        fate = "was released" if candidate.released else "was not released"
        failed = [f"{a.area}.{a.metric} {a.verdict.value}" for a in candidate.decision.areas if a.verdict != "PASS"]
        why = f" ({', '.join(failed)})" if failed else ""
        said.append(
            f"{candidate.name}: the gate said {verdict}{why}, the shadow {candidate.traffic.verdict.value}; it {fate}"
        )
    return "; ".join(said)


def _lineage(result: "LoopResult") -> Any:
    from plumbline.console.story import LineageEdge

    edges: list[tuple[str, str, str, str, str]] = []
    for number, candidate in enumerate(result.candidates, 1):
        manifest = candidate.manifest
        dataset = str(manifest.dataset)
        if number > 1:
            edges.append(("dataset", str(result.candidates[0].manifest.dataset), "grew into", "dataset", dataset))
            edges.append(("feedback", "users and reviewers", "became part of", "dataset", dataset))
        edges += [
            ("rubric", result.rubric.digest, "governs", "dataset", dataset),
            ("dataset", dataset, "in", "objective", candidate.objective.digest),
            ("policy", result.reference.digest, "base of", "objective", candidate.objective.digest),
            ("objective", candidate.objective.digest, "trained", "policy", manifest.digest),
            ("policy", manifest.digest, "judged by", "decision", candidate.decision.digest),
        ]
        if candidate.released:
            edges.append(("decision", candidate.decision.digest, "allowed", "release", "default"))
    for a, b, c, d, e in edges:
        yield LineageEdge(from_kind=a, from_id=b, relation=c, to_kind=d, to_id=e)
