"""`plumb objective`: an objective file, with names where the record has digests.

    dataset: support@2            name@version (or name: its head), instead of a digest
    base_policy: policies/ref     a policy directory or hub id
    replay: support-replay@1      optional
    optimiser: {learning_rate: 1.0e-5}
    epochs: 2                     and any other field of plumbline.records.Objective

Template and rubric are the base policy's and the dataset version's, so that a file cannot contradict them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import as_json, first_fault, open_blobs, open_ledger, print_json, read_yaml, stores

if TYPE_CHECKING:
    from plumbline.feedback import DatasetVersionData
    from plumbline.records import Objective
    from plumbline.stores import Ledger, LocalBlobs


@dataclass(frozen=True)
class Resolved:
    """An objective with what its digests stand for."""

    objective: "Objective"
    base: Path
    data: "DatasetVersionData"
    replay: "DatasetVersionData | None"


@click.group()
def objective() -> None:
    """Everything that changes the effective loss; its digest is the objective id. An objective file is YAML:

    \b
      dataset: support@2            NAME@VERSION, or NAME for its head
      base_policy: policies/ref     a policy directory or hub id
      replay: support-replay@1      optional
      optimiser: {learning_rate: 1.0e-5}
      epochs: 2                     and any other field that `plumb objective show` prints
    """


@objective.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json
@stores
def show(file: Path, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Validate FILE, resolve its names and print the objective with its id. No weights are loaded."""
    import yaml

    found = resolve_objective(file, open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)).objective
    content = found.model_dump(mode="json")
    if json_out:
        print_json({"id": found.digest, "objective": content})
    else:
        click.echo(f"# objective id {found.digest}")
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())


def resolve_objective(file: Path, ledger: "Ledger", blobs: "LocalBlobs", **overrides: Any) -> Resolved:
    """Read an objective file. Raises PlumblineError for a key or value that means nothing, a version that is not
    there, or one that holds somebody who withdrew."""
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError
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
    for key in ("dataset", "base_policy", "replay"):
        if not isinstance(raw.get(key) or "", str):
            raise wrong(f"{key} is not a name")
    if not all(isinstance(key, str) for key in raw):
        raise wrong("every key is a word")
    for key, value in overrides.items():  # an override of one field leaves its neighbours as the file has them
        raw[key] = {**raw[key], **value} if isinstance(raw.get(key), dict) else value
    base = resolve(raw["base_policy"])
    template = load_template(base).digest
    data = load_consented(ledger, blobs, str(raw["dataset"]))
    replay = load_consented(ledger, blobs, str(raw["replay"])) if raw.get("replay") else None
    settings = {
        **raw,
        "dataset": data.digest,
        "base_policy": manifest_of(base, template).digest,
        "template": template,
        "rubric": data.manifest.rubric,
        "replay": replay.digest if replay else None,
    }
    try:
        return Resolved(Objective.model_validate(settings), base, data, replay)
    except ValidationError as error:
        raise wrong(first_fault(error)) from error


def load_consented(ledger: "Ledger", blobs: "LocalBlobs", name: str) -> "DatasetVersionData":
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
    return data


def _withdrawn(ledger: "Ledger", data: "DatasetVersionData") -> set[str]:
    head = ledger.consent.head().sequence
    return set(ledger.consent.withdrawn_between("training", data.manifest.consent_sequence, head))
