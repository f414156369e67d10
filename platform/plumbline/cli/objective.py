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

from plumbline.cli.options import as_json, open_blobs, open_ledger, print_json, stores

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
    """Everything that changes the effective loss; its digest is the objective id."""


@objective.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json
@stores
def show(file: Path, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Validate FILE, resolve its names and print the objective with its id. No weights are loaded."""
    import yaml

    found = resolve_objective(file, open_ledger(ledger, must_exist=True), open_blobs(blobs)).objective
    content = found.model_dump(mode="json")
    if json_out:
        print_json({"id": found.digest, "objective": content})
    else:
        click.echo(f"# objective id {found.digest}")
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())


def resolve_objective(file: Path, ledger: "Ledger", blobs: "LocalBlobs", **overrides: Any) -> Resolved:
    """Read an objective file. Raises PlumblineError for a key or value that means nothing, a version that is not
    there, or one that holds somebody who withdrew."""
    import yaml
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError
    from plumbline.policies.files import manifest_of, resolve
    from plumbline.policies.local import load_template
    from plumbline.records import Objective

    def wrong(what: str) -> PlumblineError:
        return PlumblineError(
            f"{file}: {what}", consequence="nothing was trained", remedy="see `plumb objective --help` for the keys"
        )

    try:
        raw = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise wrong(f"it is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict) or not {"dataset", "base_policy", "optimiser"} <= raw.keys():
        raise wrong("dataset, base_policy and optimiser are needed")
    raw |= overrides
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
        first = error.errors()[0]
        raise wrong(f"{'.'.join(map(str, first['loc'])) or 'objective'}: {first['msg']}") from error


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
