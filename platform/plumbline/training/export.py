"""From chosen weights to a policy directory: reloaded and compared before it is called good.

    merged      model.safetensors, config.json          any server loads it; the adapter is added into the base weights
    adapter     adapter_model.safetensors,              small; it needs its base policy
                adapter_config.json
    both        tokenizer, template, generation_config.json, plumbline.json, export.json, README.md

The directory is built under a temporary name and renamed last, so a half-written policy is never found. QLoRA trains
over 4-bit weights and is merged into the base's own float32 weights: what that moves is measured and recorded, since
it is the one export that is not the function that was trained.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from plumbline.errors import PlumblineError
from plumbline.policies.files import describe, read_manifest, verify, write_durably, write_manifest
from plumbline.policies.local import load_model, load_template
from plumbline.policies.template import ChatTemplate
from plumbline.records import DecoderSettings, Objective, PolicyManifest, TrainingRecord
from plumbline.training.adapters import quantise
from plumbline.training.card import Drift, model_card
from plumbline.training.job import TrainingJob
from plumbline.training.sharding import put_whole
from plumbline.training.trainee import Trainee, add_tokens, build

Form = Literal["merged", "adapter"]
EXPORT = "export.json"
TOLERANCE, FLOOR = 1e-4, 1e-6  # of the largest logit; in logits


def export(job: TrainingJob, out: Path, *, name: str, code: str = "", form: Form = "merged") -> PolicyManifest:
    """Write the policy that `job` trained to `out` and return its manifest; an existing equal export is reused.

    The directory is reloaded from disk, and its logits on random ids (float32) must be those of the trained weights
    to 1e-4 of the largest logit; peft merges have lost weights before (transformers#45127). Raises PlumblineError
    when they are not, when the job has not finished, when `out` holds something else, when the disk is full, or for
    form `adapter` without an adapter. On any error nothing is left at `out`.
    """
    objective = job.objective
    record = _require_finished(job)
    found = _already_there(out, objective, name, form)
    if found is not None:
        return found
    if form == "adapter" and objective.adapter.kind == "none":
        raise PlumblineError(
            "this policy was trained without an adapter",
            consequence="nothing was exported: there is no adapter to write",
            remedy="export it with form merged",
        )
    trained = _rebuilt(job, objective)
    probe = _probe(trained.model, objective.seed)
    wanted = _logits(trained.model, probe)
    template = load_template(job.base, job.template, objective.added_tokens)
    generation = _generation(trained.model, template, objective.samples)
    building = out.with_name(f".{out.name}.building")
    try:
        _make_room(building)
        exact = wanted
        if form == "adapter":
            _write(out, _save_adapter, trained, building, base_name(job))
        else:
            if objective.adapter.kind == "qlora":  # the same adapter, over the base's own weights
                trained = _rebuilt(job, _over_float32(objective))
                exact = _logits(trained.model, probe)
            _write(out, _save_merged, trained, generation, building)
        _write(out, template.tokenizer.save_pretrained, building)
        _write(out, generation.save_pretrained, building)
        del trained
        drift = _compare(_logits(_reloaded(job, building, form), probe), exact, wanted, form)
        _compare_template(building, job.template)
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
        write_durably(building / EXPORT, json.dumps(drift.as_record(), indent=2).encode() + b"\n")
        card = model_card(objective, manifest, record, drift, base_name(job))
        write_durably(building / "README.md", card.encode())
        _write(out, _publish, building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return manifest


def base_name(job: TrainingJob) -> str:
    """How an export names its base policy, which may lie elsewhere on the machine that reads it: the hub id when it
    came from the hub, else the name in its manifest, else its digest. Never a path."""
    cached = next((part for part in job.base.parts if part.startswith("models--")), None)
    if cached is not None:
        return cached.removeprefix("models--").replace("--", "/")
    manifest = read_manifest(job.base)
    return manifest.name if manifest is not None else job.objective.base_policy


def _require_finished(job: TrainingJob) -> TrainingRecord:
    record = job.record
    if record is None:
        raise PlumblineError(
            f"the job in {job.folder} has not finished",
            consequence="nothing was exported: its weights are not chosen yet",
            remedy="run the same training again; it goes on from the last checkpoint",
        )
    return record


def _already_there(out: Path, objective: Objective, name: str, form: Form) -> PolicyManifest | None:
    """The manifest of an equal export at `out`, verified; None when nothing is there."""
    if not out.exists():
        return None
    found = read_manifest(out)
    if found is not None and (found.objective, found.name) == (objective.digest, name):
        held = "adapter" if (out / "adapter_config.json").is_file() else "merged"
        if held == form:
            verify(out, found)
            return found
        what = f"the {held} form of this policy"
    else:
        what = "another policy" if found else "something else"
    raise PlumblineError(
        f"{out} already holds {what}",
        consequence="nothing was exported, what is there is unchanged",
        remedy="export to another directory, or move the old one away",
    )


def _rebuilt(job: TrainingJob, objective: Objective) -> Trainee:
    """The trainee with the chosen weights, in eval mode."""
    trainee = build(objective, job.base, "cpu", with_reference=False)
    put_whole(trainee.model, load_file(job.result / "chosen.safetensors"))
    trainee.model.eval()
    return trainee


def _over_float32(objective: Objective) -> Objective:
    return objective.model_copy(update={"adapter": objective.adapter.model_copy(update={"kind": "lora"})})


def _probe(model: Any, seed: int) -> torch.Tensor:
    """Random ids [4, 16] over the whole vocabulary, its last rows (added tokens) always among them."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, rows, (4, 16), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = torch.arange(rows - 4, rows)
    return ids


def _logits(model: Any, probe: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(probe, use_cache=False).logits.float()
    return logits


def _save_merged(trainee: Trainee, generation: Any, folder: Path) -> None:
    model = trainee.model
    if trainee.whole is not model:
        _untie_if_adapted(model)
        model = trainee.whole.merge_and_unload()
    model.generation_config = generation  # the base's own may be one that transformers refuses to save
    model.save_pretrained(folder, safe_serialization=True)


def _untie_if_adapted(model: Any) -> None:
    """Give a tied output layer its own copy when an adapter is on it or on the embeddings: merged into the one shared
    matrix, the adapter of either would change both (transformers#45127)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if not any(isinstance(end, BaseTunerLayer) for end in ends):
        return
    embeddings, head = (end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends)
    if head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def _save_adapter(trainee: Trainee, folder: Path, base: str) -> None:
    """Peft's own files. Embeddings that were trained (added tokens) are stored with the adapter, whole."""
    config = trainee.whole.peft_config["default"]
    config.base_model_name_or_path = base
    config.target_modules = sorted(config.target_modules)  # peft's set has another order in every process
    embeddings = trainee.model.get_input_embeddings()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(gradient_checkpointing|save_embedding_layers).*")
        trainee.whole.save_pretrained(
            folder,
            safe_serialization=True,
            save_embedding_layers=any(p.requires_grad for n, p in embeddings.named_parameters() if n == "weight"),
        )


def _generation(model: Any, template: ChatTemplate, decoder: DecoderSettings) -> Any:
    """Generation defaults: the objective's decoder settings and nothing that the base had besides, with the template's
    end-of-turn ids among the ids that end an answer."""
    from transformers import GenerationConfig

    base = model.generation_config
    own = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    stops = sorted({*own, *template.stop_ids} - {None})
    sampling = {} if decoder.greedy else {"temperature": decoder.temperature, "top_p": decoder.top_p, "top_k": 0}
    return GenerationConfig(
        bos_token_id=base.bos_token_id,
        pad_token_id=base.pad_token_id,
        eos_token_id=stops or None,
        do_sample=not decoder.greedy,
        max_new_tokens=decoder.max_tokens,
        **sampling,
    )


def _reloaded(job: TrainingJob, folder: Path, form: Form) -> Any:
    """The export as someone else would load it: the merged model, or the adapter over the base (in 4 bits if the
    adapter was trained so)."""
    if form == "merged":
        return load_model(folder)[1]
    from peft import PeftModel

    objective = job.objective
    tokenizer, model = load_model(job.base)
    add_tokens(tokenizer, model, objective.added_tokens)
    if objective.adapter.kind == "qlora":
        quantise(model, objective)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(gradient_checkpointing|tie_word_embeddings|fan_in_fan_out).*")
        return PeftModel.from_pretrained(model, folder).eval()


def _compare(seen: torch.Tensor, exact: torch.Tensor, trained: torch.Tensor, form: Form) -> Drift:
    """Largest differences of logits: `seen` after reloading, `exact` in memory over the same base weights, `trained`
    over those of the training (other ones under QLoRA only). Raises PlumblineError beyond the tolerance."""
    largest = float(exact.abs().max())
    drift = Drift(
        form=form,
        tolerance=max(FLOOR, TOLERANCE * largest),
        largest_logit=largest,
        drift_reload=float((seen - exact).abs().max()),
        drift_from_trained=float((seen - trained).abs().max()),
    )
    if not drift.drift_reload <= drift.tolerance:  # so written, NaN fails
        raise PlumblineError(
            f"the exported policy's logits differ by {drift.drift_reload:.2e} from the trained one's "
            f"(largest logit {largest:.2e}, tolerance {drift.tolerance:.2e})",
            consequence="the export was discarded",
            remedy="report this with the adapter settings; the trained weights are kept in the job folder",
        )
    return drift


def _compare_template(folder: Path, template: str) -> None:
    """The template that a reader of the export gets is the text that was trained with, byte for byte."""
    found = str(load_template(folder).tokenizer.chat_template)
    if found.encode() != template.encode():
        raise PlumblineError(
            "the chat template read back from the export is not the one that was trained with",
            consequence="the export was discarded: it would be asked in another form than it was trained in",
            remedy="save the template with plain line ends (LF), and train with that",
        )


def _make_room(building: Path) -> None:
    """An empty place to build in; what an interrupted export left there goes."""
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise _unwritten(building, error) from error


def _write(out: Path, save: Callable[..., object], *arguments: Any) -> None:
    """Call `save(*arguments)`; its failure to write is said of `out`."""
    try:
        save(*arguments)
    except Exception as error:  # OSError, SafetensorError, and a bare Exception from tokenizers
        raise _unwritten(out, error) from error


def _unwritten(out: Path, error: Exception) -> PlumblineError:
    return PlumblineError(
        f"the policy could not be written to {out}: {error}",
        consequence="nothing was exported; the trained weights are kept in the job folder",
        remedy="free space there, or name another directory, and export again",
    )


def _publish(building: Path, out: Path) -> None:
    """Bring every byte to the disk, then give the directory its name."""
    for file in (*building.iterdir(), building):
        # safetensors writes files that only their writer may read; a server runs as another user
        file.chmod(file.stat().st_mode | (0o055 if file.is_dir() else 0o044))
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    building.rename(out)
