"""An export answers as the trained weights do, once it is read back from disk; or there is no export."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plumbline.errors import PlumblineError
from plumbline.policies.files import read_manifest, verify
from plumbline.policies.local import LocalPolicy, load_model, load_template
from plumbline.records import Adapter, DecoderSettings, MaskTotals, Objective, TrainingRecord, say
from plumbline.training import export as exporting
from plumbline.training.export import export
from plumbline.training.job import TrainingJob
from plumbline.training.trainee import build

MakeObjective = Callable[..., Objective]
MakeJob = Callable[..., tuple[TrainingJob, torch.Tensor]]
PROBE = torch.randint(0, 260, (6, 20), generator=torch.Generator().manual_seed(42))
LORA = Adapter(kind="lora", rank=4)
TOTALS = MaskTotals(
    examples=9, rows=11, prompt_tokens=90, supervised_tokens=45, truncated=3, truncated_tokens=17, split=2, dropped=1,
    stop_supervised=9, loss_share=1.0,
)  # fmt: skip


@pytest.fixture
def make_job(make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path) -> MakeJob:
    """A finished job, and the logits of what it trained: a few AdamW steps on random ids."""

    def make(base: Path = tiny_policy, folder: str = "job", **changes: Any) -> tuple[TrainingJob, torch.Tensor]:
        objective = make_objective(**changes)
        template = load_template(base, None, objective.added_tokens).text
        job = TrainingJob(tmp_path / folder, objective, base, template, (), (), (), {"all": TOTALS})
        model = build(objective, base, "cpu").model.train()
        rows = model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(0, rows, (8, 24), generator=torch.Generator().manual_seed(0))
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
        for _ in range(6):
            logits = model(ids, use_cache=False).logits[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimiser.step()
            optimiser.zero_grad()
        job.result.mkdir(parents=True)
        chosen = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        save_file(chosen, job.result / "chosen.safetensors")
        record = TrainingRecord(
            objective=objective.digest, steps=6, examples_seen=48, supervised_tokens=270, first_loss=5.0, last_loss=2.0,
            chosen_step=6, mask_ledger=job.ledger, wall_seconds=1.0, workers=1,
        )  # fmt: skip
        (job.result / "record.json").write_text(record.model_dump_json())
        with torch.no_grad():
            return job, model.eval()(PROBE, use_cache=False).logits

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(PROBE, use_cache=False).logits
    return found


def close(seen: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((seen - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


CASES: list[Any] = [
    pytest.param(kind, tied, added, targets, id=f"{kind}-{'tied' if tied else 'untied'}{len(added)}-{targets[-1]}")
    for kind in ("none", "lora", "dora")
    for tied in (True, False)
    for added in ((), ("<|think|>", "<|tool|>"))
    for targets in (("q_proj", "up_proj"), ("q_proj", "lm_head"), ("q_proj", "embed_tokens"))
    if targets[-1] == "up_proj" or (kind != "none" and not added)
    if not (kind == "dora" and tied and targets[-1] == "lm_head")  # its row of padding has no direction
]


@pytest.mark.parametrize(("kind", "tied", "added", "targets"), CASES)
def test_the_merged_policy_answers_as_the_trained_one_once_reloaded(
    make_job: MakeJob, tiny_policy: Path, untied_policy: Path, tmp_path: Path,
    kind: Any, tied: bool, added: tuple[str, ...], targets: tuple[str, ...],
) -> None:  # fmt: skip
    adapter = Adapter(kind=kind, rank=4, targets=targets)
    job, trained = make_job(tiny_policy if tied else untied_policy, adapter=adapter, added_tokens=added)
    export(job, tmp_path / "out", name="aligned")
    tokenizer, model = load_model(tmp_path / "out")
    assert close(logits(model), trained) and not close(logits(load_model(job.base)[1]), trained[..., :268])
    stays_tied = tied and not {"lm_head", "embed_tokens"} & set(targets if kind != "none" else ())
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == stays_tied
    assert model.config.tie_word_embeddings == stays_tied
    assert [len(tokenizer(token)["input_ids"]) for token in added] == [1] * len(added)
    assert model.config.vocab_size == 268 + len(added)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["form"] == "merged" and record["drift_from_trained"] == record["drift_reload"] <= record["tolerance"]


ADAPTED: list[Any] = [
    pytest.param(kind, tied, added, targets, id=f"{kind}-{'tied' if tied else 'untied'}{len(added)}-{targets[-1]}")
    for kind in ("lora", "dora", "qlora")
    for tied in (True, False)
    for added, targets in (
        ((), ("q_proj", "up_proj")),
        (("<|think|>",), ("q_proj", "up_proj")),
        ((), ("q_proj", "lm_head")),
    )
    if not (kind == "dora" and tied and targets[-1] == "lm_head")
]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("kind", "tied", "added", "targets"), ADAPTED)
def test_the_adapter_over_its_base_answers_as_the_trained_policy(
    make_job: MakeJob, tiny_policy: Path, untied_policy: Path, tmp_path: Path,
    kind: Any, tied: bool, added: tuple[str, ...], targets: tuple[str, ...],
) -> None:  # fmt: skip
    from peft import PeftModel

    from plumbline.training.adapters import quantise

    adapter = Adapter(kind=kind, rank=4, targets=targets)
    job, trained = make_job(tiny_policy if tied else untied_policy, adapter=adapter, added_tokens=added)
    manifest = export(job, tmp_path / "out", name="aligned", form="adapter")
    _, base = load_model(job.base)
    if added:
        base.resize_token_embeddings(len(load_template(tmp_path / "out").tokenizer))
    if kind == "qlora":
        quantise(base, job.objective)
    assert close(logits(PeftModel.from_pretrained(base, tmp_path / "out")), trained)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == job.objective.base_policy
    assert config["target_modules"] == sorted(targets), "the same bytes in every process"
    stored = [name for name in load_file(tmp_path / "out" / "adapter_model.safetensors") if "lora_" not in name]
    assert bool(stored) == bool(added), "embeddings are stored where they were trained, and only there"
    verify(tmp_path / "out", manifest)


def test_qlora_is_merged_into_the_bases_own_weights_and_says_how_far_that_is(
    make_job: MakeJob, tiny_policy: Path, tmp_path: Path
) -> None:
    adapter = Adapter(kind="qlora", rank=4, alpha=8.0)
    job, trained = make_job(adapter=adapter)
    export(job, tmp_path / "out", name="aligned")
    before, after = load_file(tiny_policy / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    chosen = load_file(job.result / "chosen.safetensors")
    assert before.keys() == after.keys()
    name = "model.layers.1.mlp.down_proj"
    moved = chosen[f"{name}.lora_B.default.weight"] @ chosen[f"{name}.lora_A.default.weight"] * 2.0
    assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"] + moved, atol=1e-6)
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["drift_reload"] <= record["tolerance"] < record["drift_from_trained"]
    seen = float((logits(load_model(tmp_path / "out")[1]) - trained).abs().max())
    assert 0.3 < record["drift_from_trained"] / seen < 3, "other ids, the same order of magnitude"
    assert f"{record['drift_from_trained']:.2e}" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_an_export_is_whole_safe_and_names_no_place_on_this_machine(
    make_job: MakeJob, tmp_path: Path, form: Any
) -> None:
    sampling = DecoderSettings(max_tokens=40, temperature=0.7, top_p=0.9)
    job, _ = make_job(adapter=LORA, added_tokens=("<|think|>",), samples=sampling, gradient_checkpointing=True)
    manifest = export(job, tmp_path / "out", name="aligned", code="sha256:c0de", form=form)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json", "plumbline.json"} <= names
    assert {"export.json", "README.md"} <= names
    weights = {"model.safetensors", "config.json"} if form == "merged" else {"adapter_model.safetensors"}
    assert weights <= names and not {n for n in names if n.endswith((".bin", ".pt", ".pkl", ".pth"))}
    texts = {n: (tmp_path / "out" / n).read_text() for n in names if not n.endswith(".safetensors")}
    assert [n for n, text in texts.items() if str(tmp_path) in text or str(job.base) in text] == []
    assert (tmp_path / "out" / "chat_template.jinja").read_bytes() == job.template.encode()
    generation = json.loads(texts["generation_config.json"])
    assert (generation["do_sample"], generation["temperature"], generation["top_p"]) == (True, 0.7, 0.9)
    assert (generation["max_new_tokens"], generation["top_k"]) == (40, 0)
    end = load_template(job.base).tokenizer.convert_tokens_to_ids("<|end|>")
    stops = generation["eos_token_id"]
    assert end in (stops if isinstance(stops, list) else [stops])
    assert read_manifest(tmp_path / "out") == manifest and manifest.decoder == sampling
    card = texts["README.md"]
    for fact in (manifest.digest, job.objective.dataset, job.objective.template, "bucketed", "refusals 2", "rank 4",
                 "temperature 0.7", "| all | 9 | 11 | 45 | 3 | 2 | 1 | 17 | 100.0% |", "seed | 5"):  # fmt: skip
        assert fact in card, fact


def test_the_merged_policy_is_asked_like_any_other(make_job: MakeJob, tmp_path: Path) -> None:
    job, _ = make_job(adapter=LORA, added_tokens=("<|think|>",))
    export(job, tmp_path / "out", name="aligned")
    policy = LocalPolicy.load(tmp_path / "out")
    assert len(policy.generate([(say("user", "who is ana ?"),)], DecoderSettings(max_tokens=4))) == 1
    assert policy.template.text == job.template
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["do_sample"] is False and "temperature" not in generation


def test_generation_ends_where_the_template_ends_a_turn_and_takes_nothing_else_from_the_base(
    make_job: MakeJob, tiny_policy: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_policy, base)
    tokenizer = load_template(base).tokenizer
    pad, end = tokenizer.convert_tokens_to_ids(["<|pad|>", "<|end|>"])
    theirs = {"eos_token_id": pad, "do_sample": False, "temperature": 0.3, "repetition_penalty": 1.3, "top_k": 7}
    (base / "generation_config.json").write_text(json.dumps(theirs))  # also: not what transformers would save
    job, _ = make_job(base)
    export(job, tmp_path / "out", name="aligned")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == sorted([pad, end])
    assert not {"temperature", "repetition_penalty", "top_k"} & generation.keys()


def test_an_export_that_answers_otherwise_is_discarded(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge as it went wrong in transformers#45127: the saved file has not what memory has."""
    save = exporting._save_merged

    def lossy(trainee: Any, generation: Any, folder: Path) -> None:
        save(trainee, generation, folder)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.0.mlp.up_proj.weight"] *= 1.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    job, _ = make_job(adapter=LORA)
    monkeypatch.setattr(exporting, "_save_merged", lossy)
    with pytest.raises(PlumblineError, match="logits differ by"):
        export(job, tmp_path / "out", name="aligned")
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


@pytest.mark.parametrize("tail", ["\n", "{# \u2028 \u00e9 #}", "{# a\tb #}"])
def test_the_template_is_exported_byte_for_byte(make_job: MakeJob, tmp_path: Path, tail: str) -> None:
    job, _ = make_job(max_steps=1)
    text = job.template + tail
    export(replace(job, template=text), tmp_path / "out", name="aligned")
    assert (tmp_path / "out" / "chat_template.jinja").read_bytes() == text.encode()
    assert LocalPolicy.load(tmp_path / "out").template.text == text


def test_an_equal_export_is_reused_and_anything_else_is_left_alone(make_job: MakeJob, tmp_path: Path) -> None:
    job, _ = make_job(adapter=LORA)
    other, _ = make_job(folder="other", adapter=LORA, seed=9)
    out = tmp_path / "out"
    first = export(job, out, name="aligned")
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert export(job, out, name="aligned") == first
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    for refused, what in (
        (lambda: export(other, out, name="aligned"), "another policy"),
        (lambda: export(job, out, name="renamed"), "another policy"),
        (lambda: export(job, out, name="aligned", form="adapter"), "the merged form of this policy"),
        (lambda: export(job, tmp_path, name="aligned"), "something else"),
    ):
        with pytest.raises(PlumblineError, match=f"already holds {what}"):
            refused()
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    with (out / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    with pytest.raises(PlumblineError, match="weights at .* are not those of its manifest"):
        export(job, out, name="aligned")


def test_what_an_interrupted_export_left_is_no_policy_and_is_cleared_away(make_job: MakeJob, tmp_path: Path) -> None:
    job, _ = make_job(adapter=LORA)
    left = tmp_path / ".out.building"
    left.mkdir()
    (left / "pytorch_model.bin").write_bytes(b"half")
    export(job, tmp_path / "out", name="aligned")
    assert not left.exists() and not (tmp_path / "out" / "pytorch_model.bin").exists()


def test_there_is_no_adapter_to_export_where_none_was_trained(make_job: MakeJob, tmp_path: Path) -> None:
    job, _ = make_job()
    with pytest.raises(PlumblineError, match="without an adapter"):
        export(job, tmp_path / "out", name="aligned", form="adapter")
    (job.result / "record.json").unlink()
    with pytest.raises(PlumblineError, match="has not finished"):
        export(job, tmp_path / "out", name="aligned")


FULL_DISK = """
import resource, sys
from pathlib import Path
from plumbline.errors import PlumblineError
from plumbline.training.export import export
from plumbline.training.job import TrainingJob
job, out = TrainingJob.load(Path(sys.argv[1])), Path(sys.argv[2])
for room in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        export(job, out, name="aligned")
    except PlumblineError as error:
        print(" ".join(str(error).split()), [path.name for path in out.parent.iterdir()])
"""


def test_without_space_there_is_a_plain_error_and_no_policy(make_job: MakeJob, tmp_path: Path) -> None:
    """No file may grow beyond so many bytes: a limit of the operating system, met at the template, the configuration,
    the tokenizer or the weights."""
    job, _ = make_job(added_tokens=("<|think|>",))
    (job.folder / "objective.json").write_text(job.objective.model_dump_json())
    plan = {
        "base": os.path.relpath(job.base, job.folder), "template": job.template, "train": [], "replay": [],
        "validation": [], "ledger": {"all": TOTALS.model_dump()},
    }  # fmt: skip
    (job.folder / "plan.json").write_text(json.dumps(plan))
    rooms = ("16", "1000", "5000", "100000")
    words = [sys.executable, "-c", FULL_DISK, str(job.folder), str(tmp_path / "out"), *rooms]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(rooms), done.stdout
    assert all("could not be written to" in line and line.endswith("['job']") for line in said), done.stdout


def test_an_export_names_a_hub_base_by_its_id(make_job: MakeJob) -> None:
    job, _ = make_job()
    hub = Path("/cache/hub/models--owner--some-model/snapshots/0123abcd")
    assert exporting.base_name(replace(job, base=hub)) == "owner/some-model"
    assert exporting.base_name(job) == job.objective.base_policy
