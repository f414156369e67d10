"""`plumb objective`: an objective file, with names where the record has digests.

    dataset: support@2            name@version (or name: its head), instead of a digest
    base_policy: policies/ref     a policy directory or hub id
    template: chatml              a family or a .jinja file; left out, the base policy's own
    replay: support-replay@1      optional
    optimiser: {learning_rate: 1.0e-5}
    probes: {suite: probes.jsonl, every: 50, margins: {refusal_benign: 0.05}}
    epochs: 2                     and any other field of plumbline.records.Objective

The rubric is the dataset version's, so that a file cannot contradict it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import (
    as_json,
    open_blobs,
    open_ledger,
    print_json,
    read_text,
    read_yaml,
    stores,
    superseded_too,
)
from plumbline.cli.preview import preview

if TYPE_CHECKING:
    from plumbline.feedback import DatasetVersionData
    from plumbline.records import Objective, SuiteItem
    from plumbline.stores import BlobStore, Ledger


NOTHING = "sha256:" + "0" * 64  # stands where a digest will be, while the words are read


@dataclass(frozen=True)
class Resolved:
    """An objective with what its digests stand for. `template` is None where the base policy's own is meant."""

    objective: "Objective"
    base: Path
    data: "DatasetVersionData"
    replay: "DatasetVersionData | None"
    template: str | None = None
    probe_items: "tuple[SuiteItem, ...]" = ()


@click.group()
def objective() -> None:
    """Everything that changes the effective loss; its digest is the objective id. An objective file is YAML:

    \b
      dataset: support@2            NAME@VERSION, or NAME for its head
      base_policy: policies/ref     a policy directory or hub id
      template: chatml              a family or FILE.jinja; left out, the base policy's own
      added_tokens: [<|im_start|>]  tokens that the template needs and the policy lacks
      replay: support-replay@1      optional
      optimiser: {learning_rate: 1.0e-5}
      probes: {suite: FILE, every: 50, margins: {refusal_benign: 0.05}}
      epochs: 2                     and any other field that `plumb objective show` prints

    Families are chatml, llama-3, mistral-instruct, gemma, qwen-thinking, generation and plain. The suite of the probes
    is a file that `plumb evaluate` reads, or micro-world for the micro-world's validation items.
    """


@objective.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@superseded_too
@as_json
@stores
def show(file: Path, superseded: bool, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Validate FILE, resolve its names and print the objective with its id. No weights are loaded."""
    import yaml

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    found = resolve_objective(file, store, kept, superseded=superseded).objective
    content = found.model_dump(mode="json")
    if json_out:
        print_json({"id": found.digest, "objective": content})
    else:
        click.echo(f"# objective id {found.digest}")
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())


def resolve_objective(
    file: Path, ledger: "Ledger", blobs: "BlobStore", *, superseded: bool = False, **overrides: Any
) -> Resolved:
    """Read an objective file. Raises PlumblineError for a key or value that means nothing, a version that is not
    there, is not its dataset's head (unless `superseded`), or holds somebody who withdrew."""
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError, first_fault
    from plumbline.policies.files import manifest_of, resolve
    from plumbline.policies.local import load_template
    from plumbline.records import Objective

    consequence = "it names no objective, so nothing can be trained by it"

    def wrong(what: str) -> PlumblineError:
        return PlumblineError(
            f"{file} is not an objective: {what}",
            consequence=consequence,
            remedy="see `plumb objective --help` for the keys",
        )

    raw = read_yaml(file, "an objective", consequence=consequence)
    for key in ("dataset", "base_policy", "optimiser"):
        if key not in raw:
            raise wrong(f"{key} is missing")
    for key in ("dataset", "base_policy", "replay", "template"):
        if not isinstance(raw.get(key) or "", str):
            raise wrong(f"{key} is not a name")
    if not all(isinstance(key, str) for key in raw):
        raise wrong("every key is a word")
    for key, value in overrides.items():  # an override of one field leaves its neighbours as the file has them
        raw[key] = {**raw[key], **value} if isinstance(raw.get(key), dict) else value
    draft = {**raw, **dict.fromkeys(("dataset", "base_policy", "template", "rubric"), NOTHING)}
    draft |= {"replay": NOTHING if raw.get("replay") else None, "probes": without_names(raw.get("probes"))}
    try:  # the words first: they are quick to read and the likeliest to be wrong
        plan = Objective.model_validate(draft)
    except ValidationError as error:
        raise wrong(first_fault(error)) from error
    base = resolve(raw["base_policy"])
    text = template_text(raw["template"], file.parent) if raw.get("template") else None
    data = load_consented(ledger, blobs, str(raw["dataset"]), superseded=superseded)
    replay = load_consented(ledger, blobs, str(raw["replay"]), superseded=superseded) if raw.get("replay") else None
    items = probe_items_of(raw.get("probes"), plan, file.parent)
    settings = {
        "dataset": data.digest,
        "base_policy": manifest_of(base, load_template(base).digest).digest,
        "template": load_template(base, text, plan.added_tokens).digest,
        "rubric": data.manifest.rubric,
        "replay": replay.digest if replay else None,
        "probes": plan.probes.model_copy(update={"suite": probe_digest_of(items)}),
    }
    return Resolved(plan.model_copy(update=settings), base, data, replay, text, items)


def without_names(probes: Any) -> Any:
    """The file's probe plan with a digest where it has the suite's name."""
    if not isinstance(probes, dict) or not probes.get("suite"):
        return probes or {}
    return {**probes, "suite": NOTHING}


def template_text(name: str, folder: Path) -> str:
    """The template that the file names: a family, or a .jinja file (relative to the objective's folder)."""
    from plumbline.policies.families import family

    if name.endswith(".jinja"):
        return read_text(folder / name, "a chat template", consequence="nothing was trained")
    return family(name)


def probe_items_of(probes: Any, plan: "Objective", folder: Path) -> "tuple[SuiteItem, ...]":
    """The sampled items of the suite that the file names; none where it names none."""
    if plan.probes.suite is None:
        return ()
    from plumbline.evaluation.probes import check_margins, probe_items, read_probe_suite
    from plumbline.microworld import DEFAULT_SEED, build_world, validation_items
    from plumbline.records import Suite

    name = str(probes["suite"])
    if name == "micro-world":
        listed = tuple(validation_items(build_world(DEFAULT_SEED), DEFAULT_SEED))
        suite = Suite(name="micro-world-validation", version="1", items=listed)
    else:
        suite = read_probe_suite(folder / name)
    items = probe_items(suite, plan.probes.items)
    check_margins(plan.probes.margins, items)
    return items


def probe_digest_of(items: "tuple[SuiteItem, ...]") -> str | None:
    from plumbline.evaluation.probes import probe_digest

    return probe_digest(items) if items else None


def load_consented(
    ledger: "Ledger", blobs: "BlobStore", name: str, *, superseded: bool = False
) -> "DatasetVersionData":
    """A dataset version by NAME or NAME@VERSION whose consent still holds, checked again now."""
    from plumbline.errors import PlumblineError
    from plumbline.feedback import load_version

    dataset, _, version = name.partition("@")
    ledger.consent.require_valid()
    data = load_version(ledger, blobs, dataset, int(version) if version.isdigit() else version or None)
    gone = {member.subject for member, _ in data.examples if member.subject is not None} & _withdrawn(ledger, data)
    if gone or data.erased:
        raise PlumblineError(
            f"{dataset} version {data.manifest.version} holds {len(gone) or 'erased'} subjects who withdrew since",
            consequence="nothing was trained on it",
            remedy=f"run `plumb ingest {dataset}` for the removal-only version, and name that",
        )
    head = ledger.publications.head(dataset)
    if head is not None and head.version != data.manifest.version and not superseded:
        raise PlumblineError(
            f"{dataset} version {data.manifest.version} is superseded: the head is version {head.version}",
            consequence="nothing was trained on it: what was learnt about the data since would be ignored",
            remedy=f"name {dataset}@{head.version}, or pass --superseded to repeat an older run",
        )
    return data


def _withdrawn(ledger: "Ledger", data: "DatasetVersionData") -> set[str]:
    head = ledger.consent.head().sequence
    return set(ledger.consent.withdrawn_between("training", data.manifest.consent_sequence, head))


objective.add_command(preview)
