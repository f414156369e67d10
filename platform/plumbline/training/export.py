"""From chosen weights to a policy directory: merged, safetensors only, reloaded and compared before it is good.

The directory is built under a temporary name and renamed last, so a half-written policy is never found.
"""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from plumbline.errors import PlumblineError
from plumbline.policies.files import MANIFEST, describe, read_manifest, write_manifest
from plumbline.policies.local import load_model
from plumbline.policies.template import ChatTemplate
from plumbline.records import PolicyManifest, TrainingRecord
from plumbline.training.checkpoint import put
from plumbline.training.job import TrainingJob
from plumbline.training.loop import build

TOLERANCE = 1e-4


def export(job: TrainingJob, out: Path, *, name: str, code: str = "") -> PolicyManifest:
    """Write the policy that `job` trained to `out` and return its manifest; an existing equal export is reused.

    Raises PlumblineError when `out` holds another policy, or when the reloaded export answers differently from the
    weights in training (largest difference of logits above 1e-4; peft merges have lost weights before,
    transformers#45127).
    """
    objective = job.objective
    if out.exists():
        found = read_manifest(out)
        if found is not None and found.objective == objective.digest and found.name == name:
            return found
        raise PlumblineError(
            f"{out} already holds {'another policy' if found else 'something else'}",
            consequence="nothing was exported, what is there is unchanged",
            remedy="export to another directory, or move the old one away",
        )
    trainee = build(objective, job.base, "cpu")
    put(trainee.model, load_file(job.result / "chosen.safetensors"))
    trainee.model.eval()
    probe = torch.randint(
        0, trainee.model.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(objective.seed)
    )
    with torch.no_grad():
        wanted = trainee.model(probe, use_cache=False).logits
    merged = trainee.whole.merge_and_unload() if objective.adapter.kind == "lora" else trainee.model
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.with_name(f".{out.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        merged.save_pretrained(building, safe_serialization=True)
        tokenizer, _ = load_model(job.base)
        template = ChatTemplate(tokenizer, name=name)
        tokenizer.save_pretrained(building)
        _, reloaded = load_model(building)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise PlumblineError(
            f"the policy could not be written to {out}: {error}",
            consequence="nothing was exported; the trained weights are kept in the job folder",
            remedy="free space and export again",
        ) from error
    with torch.no_grad():
        drift = float((reloaded(probe, use_cache=False).logits - wanted).abs().max())
    if not drift <= TOLERANCE:
        shutil.rmtree(building, ignore_errors=True)
        raise PlumblineError(
            f"the exported policy's logits differ by {drift:.2e} from the trained one's",
            consequence="the export was discarded",
            remedy="report this with the adapter settings; the trained weights are kept in the job folder",
        )
    manifest = describe(
        building,
        name=name,
        role="aligned",
        template=template.digest,
        decoder=objective.samples,
        base_policy=objective.base_policy,
        objective=objective.digest,
        dataset=objective.dataset,
        rubric=objective.rubric,
        code=code,
    )
    write_manifest(building, manifest)
    (building / "README.md").write_text(model_card(job, manifest))
    building.rename(out)
    return manifest


def model_card(job: TrainingJob, manifest: PolicyManifest) -> str:
    """A short model card: what made this policy, by digest, and where its loss went."""
    record = TrainingRecord.model_validate_json((job.result / "record.json").read_text())
    rows = "\n".join(
        f"| {name} | {row.examples} | {row.supervised_tokens} | {row.truncated} | {row.dropped} "
        f"| {row.loss_share:.1%} |"
        for name, row in record.mask_ledger.items()
    )
    return f"""# {manifest.name}

An aligned policy. What made it is in `{MANIFEST}`; in words:

- policy {manifest.digest}
- from base policy {manifest.base_policy}
- objective {manifest.objective}
- dataset version {manifest.dataset}
- rubric {manifest.rubric}
- {record.steps} steps over {record.examples_seen} examples, loss {record.first_loss:.3f} to {record.last_loss:.3f}

| slice | examples | supervised tokens | truncated | dropped | share of loss |
| --- | --- | --- | --- | --- | --- |
{rows}

Whether it may serve users is the gate's decision, not this card's.
"""


def read_record(job: TrainingJob) -> TrainingRecord | None:
    """The finished run's record; None while it has not finished."""
    file = job.result / "record.json"
    return TrainingRecord.model_validate_json(file.read_text()) if file.is_file() else None
