"""`plumb suite`: held-out suites looked at, checked against what was trained on, made, and who read them.

Every command but `log` reads the items; a private suite logs that, and its budget counts it. Exit codes: 0 done (for
`check`: no overlap), 1 `check` found items in the training data, 2 an error with a remedy.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.observed import read_versions
from plumbline.cli.options import AT_LEAST_ONE, F, as_json, print_json, stores
from plumbline.cli.printing import many, table

if TYPE_CHECKING:
    from plumbline.records import Suite, SuiteItem

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
SHOWN = 20  # overlapping items, or holes, that are listed for people


def acting(command: F) -> F:
    text = "Who reads, for a private suite's log (default: the user of this machine)."
    return click.option("--actor", help=text)(command)


@click.group()
def suite() -> None:
    """Held-out suites: ours (JSON lines), or a public set as it was published.

    XSTest, TruthfulQA, IFEval, HarmBench, HH preference pairs and self-instruct are known by their columns or keys.
    """


@suite.command()
@click.argument("file", type=FILE)
@acting
@as_json
def show(file: Path, actor: str | None, json_out: bool) -> None:
    """What a suite holds: its terms, items by area and slice, and what needs no model to score.

    No item is printed.
    """
    from plumbline.evaluation.suites import open_suite

    read = open_suite(file, purpose="show", actor=actor)
    slices = _slices(read)
    baselines = _baselines(read)
    if json_out:
        terms = read.terms.model_dump(mode="json")
        head = {"suite": read.name, "version": read.version, "digest": read.digest, "items": len(read.items)}
        print_json({**head, "terms": terms, "slices": slices, "baselines": baselines})
        return
    click.echo(f"{read.name} version {read.version}: {many(len(read.items), 'item')}, {read.digest}")
    click.echo(_terms(read) + "\n")
    table(list(slices[0]), [[str(value) for value in row.values()] for row in slices])
    click.echo("\nwithout a model:")
    for metric, rates in baselines.items():
        click.echo(f"  {metric}: " + (", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()) or "none"))


@suite.command()
@click.argument("file", type=FILE)
@click.option("--dataset", "datasets", multiple=True, required=True, metavar="NAME[@VERSION]", help="Repeatable.")
@acting
@as_json
@stores
def check(file: Path, datasets: tuple[str, ...], actor: str | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Look for the suite's items, and its canary, among what the datasets train on. Exit code 1 when some are found.

    Signs: canary, exact (the whole prompt), near (3-grams, Jaccard 0.7 or more), ngram (half of the 13-grams).
    """
    from plumbline.evaluation.suites import open_suite
    from plumbline.evaluation.suites.contamination import overlaps

    versions = read_versions(datasets, ledger, blobs)
    read = open_suite(file, purpose="check", actor=actor)
    train = [(m.address, example) for version in versions for m, example in version.examples if m.split == "train"]
    found = overlaps(
        read.items,
        [example for _, example in train],
        addresses=[address for address, _ in train],
        canaries=read.terms.canaries,
    )
    erased = sum(len(version.erased) for version in versions)
    if json_out:
        against = [
            {"dataset": v.published.dataset, "version": v.published.version, "digest": v.digest} for v in versions
        ]
        items = [overlap.model_dump(mode="json") for overlap in found]
        print_json(
            {"suite": read.digest, "against": against, "examples": len(train), "erased": erased, "overlaps": items}
        )
    else:
        click.echo(
            f"{many(len(found), 'item')} of {len(read.items)} found among {many(len(train), 'training example')}"
        )
        if erased:
            click.echo(f"{many(erased, 'example')} more are erased and could not be compared")
        rows = [[one.item, one.sign, f"{one.share:.2f}", one.example or ""] for one in found]
        if rows:
            table(["item", "sign", "share", "example"], rows[:SHOWN])
        if len(rows) > SHOWN:
            click.echo(f"and {len(rows) - SHOWN} more; --json lists all")
    sys.exit(1 if found else 0)


@suite.command()
@click.argument("file", type=FILE)
@acting
@as_json
def variants(file: Path, actor: str | None, json_out: bool) -> None:
    """Phrasings and languages by slice, and canonical items that lack a variant which others of their slice have."""
    from plumbline.evaluation.suites import open_suite
    from plumbline.evaluation.suites.variants import variants_by_slice

    found = variants_by_slice(open_suite(file, purpose="variants", actor=actor).items)
    if json_out:
        print_json([asdict(one) for one in found])
        return
    rows = []
    for one in found:
        counts = ", ".join(f"{name} {count}" for name, count in one.counts.items())
        holes = ", ".join(f"{name} {len(missing)}" for name, missing in one.holes.items())
        rows.append([one.area, one.slice, counts, str(one.tied), holes])
    table(["area", "slice", "items by variant", "tied to a twin", "holes"], rows)
    listed = [(name, item) for one in found for name, missing in one.holes.items() for item in missing]
    for name, item in listed[:SHOWN]:
        click.echo(f"hole: {item} has no {name}")
    if len(listed) > SHOWN:
        click.echo(f"and {len(listed) - SHOWN} more; --json lists all")


@suite.command()
@click.argument("file", type=FILE)
@click.option("--n", "number", type=AT_LEAST_ONE, default=5, show_default=True, help="How many items.")
@click.option("--area", help="Only items of this area.")
@click.option("--slice", "slice_", help="Only items of this slice.")
@click.option("--seed", default="0", show_default=True, help="Another seed, another sample; the same one, the same.")
@acting
@as_json
def sample(
    file: Path, number: int, area: str | None, slice_: str | None, seed: str, actor: str | None, json_out: bool
) -> None:
    """Print some items, drawn by a stable hash: to read what is asked before believing a score."""
    import hashlib

    from plumbline.console.words import visible
    from plumbline.errors import PlumblineError
    from plumbline.evaluation.suites import open_suite

    read = open_suite(file, purpose="sample", actor=actor)
    items = [item for item in read.items if item.area == (area or item.area) and item.slice == (slice_ or item.slice)]
    if not items:
        raise PlumblineError(
            f"{read.name} has no such item",
            consequence="nothing was drawn",
            remedy="choose from " + ", ".join(sorted({f"{item.area}/{item.slice}" for item in read.items})),
        )
    items.sort(key=lambda item: hashlib.sha256(f"{seed}\0{item.id}".encode()).digest())
    if json_out:
        print_json([item.model_dump(mode="json") for item in items[:number]])
        return
    for item in items[:number]:
        click.echo(f"{item.id}  ({item.area}/{item.slice}, {item.scorer}, {item.severity})")
        for label, text in _parts(item):
            click.echo(f"  {label:<10} {visible(text)}".replace("\n", "\n" + " " * 13))
        click.echo()


@suite.command()
@click.argument("file", type=FILE)
@as_json
def log(file: Path, json_out: bool) -> None:
    """Who read a private suite, when and what for. Reads no item and costs nothing."""
    from plumbline.evaluation.suites.files import read_terms
    from plumbline.evaluation.suites.private import describe, read_log, spent

    name, version, terms = read_terms(file)
    accesses, used = read_log(file), spent(file)
    if json_out:
        lines = [access.model_dump(mode="json") for access in accesses]
        print_json({"suite": name, "private": terms.private, "budget": terms.query_budget, "spent": used, "log": lines})
        return
    for access in accesses:
        click.echo(describe(access))
    budget = f" of {terms.query_budget}" if terms.query_budget is not None else ", no budget"
    kind = f"{used}{budget} spent" if terms.private else "public, so that no reading is logged"
    click.echo(f"{name} {version}".rstrip() + f": {kind}")


@suite.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The suite file to write (.jsonl).")
@click.option("--seed", default=21, show_default=True, help="Of the world, as in `plumb loop --seed`.")
@click.option("--validation", is_flag=True, help="The items to look at while you work, not those of the gate.")
def microworld(out: Path, seed: int, validation: bool) -> None:
    """Write the micro-world's items for all ten areas, to try things out: no download, no judge."""
    from plumbline.evaluation.suites import save_suite
    from plumbline.microworld.suites import held_out_items, validation_items
    from plumbline.microworld.world import build_world
    from plumbline.records import Suite

    _not_there(out)
    items = (validation_items if validation else held_out_items)(build_world(seed), seed)
    name = f"microworld-{'validation' if validation else 'held-out'}"
    made = Suite(name=name, version=str(seed), items=tuple(items))
    save_suite(made, out)
    click.echo(f"{out}: {made.name} of world {seed}, {many(len(made.items), 'item')}")


@suite.command()
@click.argument("source", type=FILE)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The suite file to write (.jsonl).")
@click.option("--name", help="Name of the suite (default: the source's).")
@click.option("--version", help="Version of the suite (default: the source's).")
@click.option("--form", type=click.Choice(["binary", "mc1", "mc2", "loose"]), help="TruthfulQA's form; IFEval: loose.")
@click.option("--private", is_flag=True, help="Log every reading. Draws a canary, which must never be trained on.")
@click.option("--query-budget", type=AT_LEAST_ONE, help="How many readings a private suite allows.")
@click.option("--licence", help="Licence of the items.")
@click.option("--owner", help="Who answers for the suite.")
@acting
def new(
    source: Path,
    out: Path,
    name: str | None,
    version: str | None,
    form: str | None,
    private: bool,
    query_budget: int | None,
    licence: str | None,
    owner: str | None,
    actor: str | None,
) -> None:
    """Write SOURCE, a suite or a public set, as a suite of ours with its own terms. A private source stays private."""
    import uuid

    from plumbline.errors import PlumblineError
    from plumbline.evaluation.suites import save_suite
    from plumbline.records import Suite
    from plumbline.records.suite import SuiteTerms

    _not_there(out)
    read = _read(source, form, actor)
    hidden = private or read.terms.private
    if query_budget is not None and not hidden:
        raise PlumblineError(
            "--query-budget was given without --private",
            consequence="nothing was written: readings of a public suite are not counted",
            remedy="add --private, or leave out --query-budget",
        )
    terms = SuiteTerms(
        private=hidden,
        canaries=read.terms.canaries or ((str(uuid.uuid4()),) if hidden else ()),
        licence=licence or read.terms.licence,
        owner=owner or read.terms.owner,
        query_budget=query_budget or read.terms.query_budget,
    )
    made = Suite(name=name or read.name, version=version or read.version, items=read.items, terms=terms)
    save_suite(made, out)
    click.echo(f"{made.name} version {made.version}: {many(len(made.items), 'item')} in {out}, {made.digest}")
    click.echo(_terms(made))


def _not_there(out: Path) -> None:
    from plumbline.errors import PlumblineError

    if out.exists():
        raise PlumblineError(
            f"{out} is there already",
            consequence="nothing was written: readings of the old items would count for the new ones",
            remedy="name another file; a new version of a suite is a new file",
        )


def _read(source: Path, form: str | None, actor: str | None) -> "Suite":
    from plumbline.evaluation.suites import open_suite
    from plumbline.evaluation.suites.readers import read_ifeval, read_truthfulqa

    if form == "loose":
        return read_ifeval(source, loose=True)
    return read_truthfulqa(source, form) if form else open_suite(source, purpose="new", actor=actor)  # type: ignore[arg-type]


def _slices(read: "Suite") -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[SuiteItem]] = {}
    for item in read.items:
        groups.setdefault((item.area, item.slice, item.scorer), []).append(item)
    return [
        {
            "area": area,
            "slice": slice_,
            "scorer": scorer,
            "items": len(items),
            "clusters": len({item.cluster for item in items}),
            "severe": sum(item.severity == "severe" for item in items),
        }
        for (area, slice_, scorer), items in sorted(groups.items())
    ]


def _baselines(read: "Suite") -> dict[str, dict[str, float]]:
    """What needs no model, by gated metric (and scorer, where several); items of no area are counted by success."""
    from plumbline.evaluation.baselines import baseline_rates
    from plumbline.evaluation.behaviors import BEHAVIORS, Metric
    from plumbline.evaluation.behaviors.base import success

    metrics = [(behavior.area, metric) for behavior in BEHAVIORS for metric in behavior.metrics if metric.gated]
    areas = {area for area, _ in metrics}
    metrics += [(area, Metric("success", "up", success)) for area in sorted({i.area for i in read.items} - areas)]
    found = {}
    for area, metric in metrics:
        items = [item for item in read.items if item.area == area and metric.applies(item)]
        scorers = sorted({item.scorer for item in items})
        for scorer in scorers:
            name = f"{area}.{metric.name}" + (f" ({scorer})" if len(scorers) > 1 else "")
            found[name] = baseline_rates(metric, [item for item in items if item.scorer == scorer])
    return found


def _terms(read: "Suite") -> str:
    terms = read.terms
    kind = "private: every reading is logged" if terms.private else "public"
    said = [kind, f"budget {terms.query_budget}" if terms.query_budget else "", terms.licence]
    said += [f"owner {terms.owner}" if terms.owner else "", "canary in its header" if terms.canaries else ""]
    return ", ".join(word for word in said if word)


def _parts(item: "SuiteItem") -> list[tuple[str, str]]:
    true = set(item.true_choices)
    parts: list[tuple[str, str]] = [(message.role, message.content) for message in item.messages]
    parts += [("true" if place in true else "false", choice) for place, choice in enumerate(item.choices)]
    return parts + [("reference", reference) for reference in item.references if reference not in item.choices]
