"""`plumb dataset`, `plumb ingest` and `plumb feedback`: versions, and what they are made of."""

import re
import sys
from dataclasses import asdict
from pathlib import Path

import click

from plumbline.cli.options import as_json, dataset_name, open_blobs, open_ledger, print_json, stores, tenant_key


@click.group()
def dataset() -> None:
    """Immutable, numbered, content-addressed dataset versions."""


@dataset.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--format", "kind", type=click.Choice(["messages", "alpaca", "self-instruct", "xstest", "hh"]), required=True
)
@click.option("--dataset", "name", help="Name of the dataset (training formats).")
@click.option("--licence", help="Licence under which the text is public (training formats).")
@click.option("--suite", type=click.Path(path_type=Path), help="Where to write the suite (xstest, hh).")
@click.option("--rubric", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Rubric YAML in force.")
@stores
def import_(
    file: Path,
    kind: str,
    name: str | None,
    licence: str | None,
    suite: Path | None,
    rubric: Path | None,
    ledger: Path,
    blobs: Path,
) -> None:
    """Read FILE. Messages, Alpaca and self-instruct become a dataset version; XSTest and HH pairs become a suite.

    Preference pairs and safety prompts measure; they are never turned into training targets.
    """
    from plumbline.cli.evaluate import read_rubric
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
    click.echo(f"{name} version {published.version}: {published.digest}")


@dataset.command("list")
@as_json
@stores
def list_(json_out: bool, ledger: Path, blobs: Path) -> None:
    """Every version of every dataset."""
    store = open_ledger(ledger, must_exist=True)
    versions = [version for name in store.publications.datasets() for version in store.publications.versions(name)]
    if json_out:
        print_json([asdict(version) for version in versions])
        return
    for version in versions:
        click.echo(f"{version.dataset}@{version.version}  {version.digest}")


@dataset.command()
@click.argument("name")
@click.argument("version", required=False, type=int)
@as_json
@stores
def show(name: str, version: int | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What made a version: counts, refusals by reason, splits, digests."""
    from collections import Counter

    from plumbline.feedback import load_manifest

    store = open_ledger(ledger, must_exist=True)
    manifest = load_manifest(store, open_blobs(blobs, must_exist=True), name, version)
    if json_out:
        print_json({"digest": manifest.digest, **manifest.model_dump(mode="json", exclude={"members"})})
        return
    click.echo(f"{name}@{manifest.version}  {manifest.digest}")
    click.echo(f"  {manifest.sealed} sealed = {manifest.accepted} accepted + {sum(manifest.rejected.values())} refused")
    for reason, count in sorted(manifest.rejected.items()):
        click.echo(f"    {count:6d}  {reason}")
    for (split, slice_), count in sorted(Counter((m.split, m.slice) for m in manifest.members).items()):
        click.echo(f"  {count:6d}  {split:9s} {slice_}")
    click.echo(f"  root {manifest.root}\n  rubric {manifest.rubric}\n  licence {manifest.licence}")


@dataset.command("diff")
@click.argument("name")
@click.argument("older", type=int)
@click.argument("newer", type=int)
@as_json
@stores
def diff_(name: str, older: int, newer: int, json_out: bool, ledger: Path, blobs: Path) -> None:
    """What was added and removed between two versions, by slice."""
    from plumbline.feedback import diff, load_manifest

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    found = diff(load_manifest(store, kept, name, older), load_manifest(store, kept, name, newer))
    if json_out:
        print_json(found.model_dump(mode="json"))
        return
    click.echo(f"{name}: version {older} to {newer}: +{len(found.added)} -{len(found.removed)} examples")
    for slice_ in sorted({*found.added_by_slice, *found.removed_by_slice}):
        added, removed = found.added_by_slice.get(slice_, 0), found.removed_by_slice.get(slice_, 0)
        click.echo(f"  +{added:<6d} -{removed:<6d} {slice_}")


@dataset.command("verify")
@click.argument("name")
@click.argument("version", required=False, type=int)
@stores
def verify_(name: str, version: int | None, ledger: Path, blobs: Path) -> None:
    """Check a version end to end: root, balance, every payload, no prompt on both sides. Exit 2 when unsound."""
    from plumbline.feedback import load_manifest, verify

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    manifest = load_manifest(store, kept, name, version)
    found = verify(store, kept, manifest)
    for problem in found.problems:
        click.echo(f"UNSOUND  {problem}")
    if not found.valid:
        sys.exit(2)
    click.echo(f"{name}@{manifest.version} is sound: {len(manifest.members)} members, {found.erased} lawfully erased")


@click.command()
@click.argument("name", required=False)
@click.option("--dataset", "option", help="The dataset, when not given as an argument.")
@click.option("--run-key", help="Name of the run from outside (a reconciler's Job).")
@click.option("--up-to", type=int, help="Last inbox sequence to seal (default: all that is there).")
@click.option("--approver", default="data-owner", show_default=True)
@click.option("--approve", "approve_reason", help="Approve the candidate with this reason and publish.")
@click.option("--rubric", help="The rubric in force: a YAML file or a digest (default: the micro-world's).")
@click.option("--removal", is_flag=True, help="Only remove everyone whose consent ended.")
@as_json
@stores
def ingest(
    name: str | None,
    option: str | None,
    run_key: str | None,
    up_to: int | None,
    approver: str,
    approve_reason: str | None,
    rubric: str | None,
    removal: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Bring a dataset's open run as far as it gets: seal, check, redact, guard, split, wait for approval, publish."""
    from plumbline.errors import PlumblineError
    from plumbline.feedback import Ingestion, publish_removal
    from plumbline.stores import Approval

    chosen = name or option
    if chosen is None or (name and option and name != option):
        raise PlumblineError(
            "two datasets are named" if name else "no dataset is named",
            consequence="nothing was ingested",
            remedy="name one: plumb ingest DATASET",
        )
    in_force = rubric_digest(rubric)
    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs)
    if store.publications.head(dataset_name(chosen)) is None:
        if removal:
            raise PlumblineError(
                f"dataset {chosen!r} has no version",
                consequence="there is nobody to remove from it",
                remedy="see `plumb dataset list` for the names",
            )
        click.echo(f"{chosen} has no version yet: this is for its first", err=True)
    if removal or (store.publications.uncovered(chosen) and run_key is None):
        removed = publish_removal(store, kept, chosen, run_key=run_key)
        if removed is not None:
            said = f"{chosen} version {removed.version}: everyone who withdrew is removed; {removed.digest}"
            click.echo(said, err=json_out)
        if removal:
            head = store.publications.head(chosen)
            if json_out:
                print_json(
                    {"state": "published" if removed else "no_change", "version": head.version if head else None}
                )
            elif removed is None:
                click.echo(f"{chosen}: nobody is to be removed")
            return

    def agree(candidate: object, examples: object) -> Approval:
        return Approval(approver, True, str(approve_reason))

    result = Ingestion(store, kept).run(
        chosen,
        in_force,
        approver=approver,
        approve=agree if approve_reason else None,
        up_to=up_to,
        run_key=run_key,
    )
    if json_out:
        print_json(
            {
                "state": result.state,
                "run_key": result.run_key,
                "version": result.version.version if result.version else None,
                "sealed": result.sealed,
                "accepted": result.accepted,
                "rejected": result.rejected,
                "redactions": result.redactions,
            }
        )
        return
    click.echo(f"{chosen}: {result.state.replace('_', ' ')}")
    click.echo(f"  {result.sealed} sealed = {result.accepted} accepted + {sum(result.rejected.values())} refused")
    for reason, count in sorted(result.rejected.items()):
        click.echo(f"    {count:6d}  {reason}")
    if result.state == "awaiting_approval" and result.candidate is not None:
        click.echo(f"  candidate {result.candidate.digest} waits for {approver}; --approve REASON publishes it")
    if result.version is not None:
        click.echo(f"  version {result.version.version}: {result.version.digest}")


def rubric_digest(named: str | None) -> str:
    """The digest of the rubric in force: given as one, or of the file that is named, or of the default."""
    from plumbline.cli.evaluate import read_rubric

    if named and re.fullmatch("sha256:[0-9a-f]{64}", named):
        return named
    return read_rubric(Path(named) if named else None).digest


@click.group()
def feedback() -> None:
    """Feedback events outside the collector."""


@feedback.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--source", required=True, help="The events' source; others in the file are refused.")
@stores
def import_events(file: Path, source: str, ledger: Path, blobs: Path) -> None:
    """Read CloudEvents (one JSON object a line) into the inbox, as the collector would."""
    from plumbline.errors import PlumblineError
    from plumbline.feedback import import_file

    store = open_ledger(ledger)
    counts = import_file(store, tenant_key(ledger, store, create=True), file, source)
    for line, reason in counts.refused:
        click.echo(f"{file}:{line}: refused: {reason}", err=True)
    taken = (f"{counts.accepted} accepted", f"{counts.duplicate} there already", f"{counts.conflict} in conflict")
    click.echo(", ".join((*taken, f"{len(counts.refused)} refused")))
    if counts.refused and not counts.accepted + counts.duplicate + counts.conflict:
        raise PlumblineError(
            f"{file} holds no event that {source!r} may post",
            consequence="the inbox is unchanged",
            remedy="give one structured CloudEvent a line, with the --source that its events name",
        )
