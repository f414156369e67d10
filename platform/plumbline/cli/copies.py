"""`plumb dataset card | export | exports`: what a version is, said and written out, and where its copies are."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.options import as_json, open_ledger, print_json, stores
from plumbline.cli.printing import many, table
from plumbline.cli.references import open_version

if TYPE_CHECKING:
    from plumbline.stores import BlobStore, Ledger, Published

FORMATS = ("parquet", "messages", "delta")


@click.command()
@click.argument("reference")
@click.argument("version", required=False, type=int)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the card there (default: print).")
@click.option("--croissant", type=click.Path(path_type=Path, dir_okay=False), help="Write Croissant JSON-LD there.")
@click.option(
    "--export", "folder", type=click.Path(path_type=Path), help="Write card, Croissant and Parquet files there."
)
@as_json
@stores
def card(
    reference: str,
    version: int | None,
    out: Path | None,
    croissant: Path | None,
    folder: Path | None,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """The dataset card: what a version is for, whose words it holds and by what right, answered from the records.

    Markdown with a front matter, and Croissant JSON-LD with the RAI answers. Files are described where they are: with
    --export.
    """
    import json

    from plumbline.feedback import load_version
    from plumbline.feedback.datasets.card import gather_card
    from plumbline.feedback.datasets.card_text import markdown
    from plumbline.feedback.datasets.croissant import croissant as describe

    store, kept, published, _ = open_version(ledger, blobs, reference, version)
    if folder is not None:
        _export(store, kept, published, "parquet", str(folder), json_out=json_out)
        if out is None and croissant is None:
            return
    made = gather_card(store, kept, load_version(store, kept, published.dataset, published.version))
    if croissant is not None:
        croissant.write_text(json.dumps(describe(made), indent=1, ensure_ascii=False) + "\n", "utf-8")
    if out is not None:
        out.write_text(markdown(made), "utf-8")
    if folder is not None:
        return
    if json_out:
        print_json({**asdict(made), "manifest": made.manifest.model_dump(mode="json")})
    elif out is None and croissant is None:
        click.echo(markdown(made))


@click.command()
@click.argument("reference")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="parquet", show_default=True)
@click.option("--out", required=True, help="Folder to write (for delta: a folder or a URI).")
@click.option("--with-subjects", is_flag=True, help="Carry each example's pseudonym: personal data, for who must join.")
@click.option("--vacuum", is_flag=True, help="Delta: delete the files of older commits at once, not after a week.")
@as_json
@stores
def export(
    reference: str,
    kind: str,
    out: str,
    with_subjects: bool,
    vacuum: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Write a version as Parquet, as JSON lines of messages, or as a Delta table.

    An export is a copy that erasure does not reach. The ledger remembers it, and `plumb dataset exports` and
    `plumb lineage subject` name it until it is replaced or declared deleted.
    """
    store, kept, published, _ = open_version(ledger, blobs, reference, None)
    _export(store, kept, published, kind, out, with_subjects=with_subjects, vacuum=vacuum, json_out=json_out)


@click.command()
@click.argument("name", required=False)
@click.option("--deleted", help="Say that the copies at this place are gone.")
@as_json
@stores
def exports(name: str | None, deleted: str | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Copies that left the house and may still be there: where, of which version, made when."""
    register = open_ledger(ledger, must_exist=True).exports
    if deleted is not None:
        place = deleted if "://" in deleted else str(Path(deleted).resolve())
        found = register.end(place, "deleted")
    else:
        found = register.standing(name)
    if json_out:
        print_json([asdict(one) for one in found])
        return
    if deleted is not None:
        click.echo(f"{many(len(found), 'copy', 'copies')} at {deleted} off the list")
    elif not found:
        click.echo("no copy is on the list")
    else:
        cells = [
            [f"{one.dataset}@{one.version}", one.format, "unfinished" if one.examples is None else str(one.examples),
             one.begun_at[:19], one.location]
            for one in found
        ]  # fmt: skip
        table(["version", "format", "examples", "made", "place"], cells)


def _export(
    store: "Ledger",
    blobs: "BlobStore",
    published: "Published",
    kind: str,
    out: str,
    *,
    with_subjects: bool = False,
    vacuum: bool = False,
    json_out: bool = False,
) -> None:
    from plumbline.feedback.datasets.export import export_version

    done = export_version(
        store, blobs, published.dataset, published.version, kind, out,  # type: ignore[arg-type]
        with_subjects=with_subjects, vacuum=vacuum,
    )  # fmt: skip
    if json_out:
        print_json({**asdict(done.export), "added": done.added, "manifest": done.manifest.model_dump(mode="json")})
        return
    name = f"{published.dataset}@{published.version}"
    if not done.added:
        click.echo(f"{name} is there already: {done.export.location} was not changed")
        return
    click.echo(f"{name}: {many(done.export.examples or 0, 'example')} as {kind} in {done.export.location}")
    if done.manifest.erased:
        click.echo(f"  left out: {many(done.manifest.erased, 'example')} of this version, erased on request", err=True)
    if done.manifest.withheld:
        click.echo(f"  left out: {many(done.manifest.withheld, 'example')} whose consent ended since", err=True)
