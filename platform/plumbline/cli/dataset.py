"""`plumb dataset`: versions in, looked at, compared, checked, described and written out.

Exit codes: 0 done, 2 an error with a remedy; `verify` also exits 2 when the version is unsound.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.copies import card, export, exports
from plumbline.cli.options import as_json, dataset_name, open_blobs, open_ledger, print_json, stores
from plumbline.cli.printing import progress, table
from plumbline.cli.references import find_version, open_version

if TYPE_CHECKING:
    from plumbline.stores import Ledger, Published


@click.group()
def dataset() -> None:
    """Immutable, numbered, content-addressed dataset versions.

    A version is named NAME (its newest), NAME@3, NAME@sha256:..., or by its digest alone.
    """


@dataset.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--format", "kind", type=click.Choice(["messages", "alpaca", "self-instruct", "xstest", "hh"]), required=True
)
@click.option("--dataset", "name", help="Name of the dataset (training formats).")
@click.option("--licence", help="Licence under which the text is public (training formats).")
@click.option("--suite", type=click.Path(path_type=Path), help="Where to write the suite (xstest, hh).")
@click.option("--rubric", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Rubric YAML in force.")
@as_json
@stores
def import_(
    file: Path,
    kind: str,
    name: str | None,
    licence: str | None,
    suite: Path | None,
    rubric: Path | None,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Read FILE. Messages, Alpaca and self-instruct become a dataset version; XSTest and HH pairs become a suite.

    Preference pairs and safety prompts measure; they are never turned into training targets.
    """
    from plumbline.cli.gate import read_rubric
    from plumbline.errors import PlumblineError

    if kind in ("xstest", "hh"):
        from plumbline.evaluation import read_suite, save_suite

        if suite is None:
            raise PlumblineError(
                f"{kind} is for measuring, and no --suite was named",
                consequence="nothing was imported: such text is never trained on",
                remedy="name the suite file to write: --suite FILE.jsonl",
            )
        read = read_suite(file)
        save_suite(read, suite)
        if json_out:
            print_json({"suite": read.name, "items": len(read.items), "file": str(suite)})
        else:
            click.echo(f"suite {read.name}: {len(read.items)} items in {suite}")
        return
    if not name or not licence:
        raise PlumblineError(
            "--dataset and --licence are needed",
            consequence="nothing was imported: examples without a licence or consent may not be trained on",
            remedy="name both, for example --dataset instruct --licence Apache-2.0",
        )
    from plumbline.feedback import import_dataset

    name, in_force = dataset_name(name), read_rubric(rubric).digest
    store, kept = open_ledger(ledger), open_blobs(blobs)
    published = import_dataset(store, kept, file, kind, name, licence=licence, rubric=in_force)  # type: ignore[arg-type]
    if json_out:
        print_json(asdict(published))
    else:
        click.echo(f"{name} version {published.version}: {published.digest}")


@dataset.command("list")
@click.argument("name", required=False)
@as_json
@stores
def list_(name: str | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Every dataset with its newest version; with NAME, every version of that dataset."""
    from plumbline.feedback import load_manifest
    from plumbline.records import short

    store = open_ledger(ledger, must_exist=True)
    if name is not None:
        found = store.publications.versions(find_version(store, name).dataset)
    else:
        heads = (store.publications.head(one) for one in store.publications.datasets())
        found = [head for head in heads if head is not None]
    if not found:
        print_json([]) if json_out else None
        return
    kept = open_blobs(blobs, must_exist=True)
    rows: list[dict[str, Any]] = []
    for version in found:
        manifest = load_manifest(store, kept, version.dataset, version.version)
        rows.append(
            {
                "dataset": version.dataset,
                "version": version.version,
                "digest": version.digest,
                "train": manifest.sizes.get("train", 0),
                "held_out": manifest.sizes.get("held_out", 0),
                "people": manifest.subjects,
                "licence": manifest.licence,
                "reason": manifest.reason,
                "published": store.lineage.published_at(version),
                "versions": len(store.publications.versions(version.dataset)),
            }
        )
    if json_out:
        print_json(rows)
        return
    hidden = "versions" if name else "reason"
    heads_ = [column.replace("_", "-") for column in rows[0] if column != hidden]
    cells = [
        [short(value) if column == "digest" else str(value)[:19] if column == "published" else str(value)
         for column, value in row.items() if column != hidden]
        for row in rows
    ]  # fmt: skip
    table(heads_, cells)


@dataset.command()
@click.argument("reference")
@click.argument("version", required=False, type=int)
@as_json
@stores
def show(reference: str, version: int | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What made a version: its account, refusals by reason, splits and slices, people, digests, and what it trained."""
    store, _, published, manifest = open_version(ledger, blobs, reference, version)
    made = store.lineage.dataset(published)
    if json_out:
        print_json(
            {
                "digest": manifest.digest,
                **manifest.model_dump(mode="json"),
                "published_at": made.published_at,
                "run": asdict(made.run),
                "policies": [asdict(policy) for policy in made.policies],
            }
        )
        return
    from plumbline.console.words import visible

    refused = sum(manifest.rejected.values())
    click.echo(f"{manifest.dataset}@{manifest.version}  {manifest.digest}")
    click.echo(f"  {manifest.sealed} sealed = {manifest.accepted} accepted + {refused} refused")
    for reason, count in sorted(manifest.rejected.items(), key=lambda item: (-item[1], item[0])):
        click.echo(f"    {count:6d}  {reason}")
    for name, counts in (("redacted", manifest.redactions), ("split", manifest.sizes), ("slice", manifest.slices)):
        click.echo(f"  by {name}:" if name != "redacted" else "  redacted:") if counts else None
        for one, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            click.echo(f"    {count:6d}  {visible(one)}")
    head = manifest.consent_sequence, manifest.consent_head
    sealed = f"events {made.run.from_sequence} to {made.run.to_sequence}" if made.run.to_sequence else "no events"
    approved = ", ".join(sorted({*manifest.approved_by, *(one.approver for one in made.run.approvals if one.approved)}))
    trained = ", ".join(visible(policy.name) for policy in made.policies if policy.direct)
    built_on = ", ".join(visible(policy.name) for policy in made.policies if not policy.direct)
    for name, said in (
        ("people", str(manifest.subjects)),
        ("published", f"{made.published_at}, because of: {manifest.reason}"),
        ("parent", manifest.parent or "none: this is the first version"),
        ("root", manifest.root),
        ("rubric", manifest.rubric),
        ("policy text", manifest.policy_text or "not recorded"),
        ("code", manifest.code),
        ("consent", f"checked against entry {head[0]}, {head[1]}"),
        ("run", f"{manifest.run_key} ({sealed}{', approved by ' + visible(approved) if approved else ''})"),
        ("licence", visible(manifest.licence)),
        ("trained", (trained or "no policy") + (f"; built on those: {built_on}" if built_on else "")),
    ):
        click.echo(f"  {name:12s}{said}")


@dataset.command("diff")
@click.argument("references", nargs=-1, required=True)
@click.option("--examples", is_flag=True, help="List every example that came or left, with the reason why it left.")
@as_json
@stores
def diff_(references: tuple[str, ...], examples: bool, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What came and what left between two versions: A B, or NAME OLDER NEWER. Answers after erasure too.

    NAME OLDER compares with the newest version; one version alone with the one before it.
    """
    from collections import Counter

    from plumbline.console.words import visible
    from plumbline.errors import PlumblineError
    from plumbline.feedback import diff
    from plumbline.stores.departures import departures

    if len(references) > 3:
        raise PlumblineError(
            f"{len(references)} versions are named",
            consequence="nothing was compared",
            remedy="name two: plumb dataset diff NAME@1 NAME@2",
        )
    store = open_ledger(ledger, must_exist=True)
    open_blobs(blobs, must_exist=True)
    older, newer = two_versions(store, references)
    if older.dataset != newer.dataset:
        raise PlumblineError(
            f"{older.dataset} and {newer.dataset} are two datasets",
            consequence="nothing was compared: neither was made from the other",
            remedy="name two versions of one dataset",
        )
    name = older.dataset
    found = diff(store, name, older.version, newer.version)
    gone = departures(store.database, store.consent, name, older.version, newer.version)
    reasons = {address: gone[address].why for address in found.removed if address in gone}
    by_reason = dict(sorted(Counter(reasons.values()).items()))
    if json_out:
        left = [asdict(gone[address]) for address in found.removed if address in gone]
        print_json({**found.model_dump(mode="json"), "removed_by_reason": by_reason, "departures": left})
        return
    click.echo(
        f"{name}: version {older.version} to {newer.version}: +{len(found.added)} -{len(found.removed)} examples"
    )
    for slice_ in sorted({*found.added_by_slice, *found.removed_by_slice}):
        added, removed = found.added_by_slice.get(slice_, 0), found.removed_by_slice.get(slice_, 0)
        click.echo(f"  +{added:<6d} -{removed:<6d} {visible(slice_)}")
    if by_reason:
        click.echo("  left because: " + ", ".join(f"{why} {count}" for why, count in by_reason.items()))
    if examples:
        for address in found.added:
            click.echo(f"+ {address}")
        for address in found.removed:
            one = gone.get(address)
            said = f"  {one.why} in version {one.version}" if one else ""
            said += f", erased on {one.erased_at[:10]}" if one and one.erased_at else ""
            click.echo(f"- {address}{said}")


def two_versions(store: "Ledger", references: tuple[str, ...]) -> "tuple[Published, Published]":
    """The versions to compare, by the one to three words that name them."""
    from plumbline.errors import PlumblineError

    first, *numbers = references
    if numbers and all(one.isascii() and one.isdigit() and len(one) < 8 for one in numbers) and "@" not in first:
        both = [find_version(store, first, int(one)) for one in numbers]
        return both[0], both[1] if len(both) == 2 else find_version(store, first)
    if len(references) == 3:
        references = (f"{first}@{numbers[0]}", f"{first}@{numbers[1]}")
    if len(references) == 2:
        return find_version(store, references[0]), find_version(store, references[1])
    newer = find_version(store, first)
    if newer.version == 1:
        raise PlumblineError(
            f"{newer.dataset}@1 is the first version",
            consequence="nothing was compared: there is none before it",
            remedy=f"see what it holds: plumb dataset show {newer.dataset}@1",
        )
    return find_version(store, newer.dataset, newer.version - 1), newer


@dataset.command("verify")
@click.argument("reference")
@click.argument("version", required=False, type=int)
@as_json
@stores
def verify_(reference: str, version: int | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Check a version end to end: root, balance, counts, payloads, no prompt on both sides. Exit 2 when unsound."""
    from plumbline.feedback import verify

    store, kept, _, manifest = open_version(ledger, blobs, reference, version)
    with progress(f"checking {manifest.dataset}@{manifest.version}") as advance:
        found = verify(store, kept, manifest, on_progress=advance)
    members = sum(manifest.sizes.values())
    if json_out:
        print_json(
            {
                "dataset": manifest.dataset,
                "version": manifest.version,
                "digest": manifest.digest,
                "sound": found.valid,
                "problems": list(found.problems),
                "members": members,
                "erased": found.erased,
            }
        )
    else:
        for problem in found.problems:
            click.echo(f"UNSOUND  {problem}")
    if not found.valid:
        sys.exit(2)
    if not json_out:
        name = f"{manifest.dataset}@{manifest.version}"
        click.echo(f"{name} is sound: {members} members, {found.erased} lawfully erased")


dataset.add_command(card)
dataset.add_command(export)
dataset.add_command(exports)
