"""`plumb export`: a finished job to a policy, in either form."""

import json

import pytest


@pytest.fixture
def job(plumb, tiny_policy):
    """A terminal in whose folder `aligned.job` is a finished training with LoRA."""
    plumb.import_messages()
    file = plumb.objective(tiny_policy, adapter={"kind": "lora", "rank": 4})
    assert plumb("train", file, "--out", "aligned", "--in-process").code == 0
    return plumb


def test_a_finished_job_is_exported_again_in_either_form(job):
    trained = json.loads((job.folder / "aligned" / "plumbline.json").read_text())
    merged = job("export", "aligned.job", "--out", "again", "--name", "aligned", "--json").json
    again = json.loads((job.folder / "again" / "plumbline.json").read_text())
    assert again == trained and merged["export"]["form"] == "merged"
    assert merged["export"]["drift_reload"] <= merged["export"]["tolerance"]
    said = job("export", "aligned.job", "--out", "small", "--form", "adapter")
    assert said.code == 0 and "adapter; reloaded, its logits differ by at most" in said.out
    small = json.loads((job.folder / "small" / "plumbline.json").read_text())
    assert small["name"] == "small" and small["objective"] == trained["objective"]
    assert (job.folder / "small" / "adapter_model.safetensors").is_file()
    assert not (job.folder / "small" / "model.safetensors").exists()
    assert job("export", "aligned.job", "--out", "again", "--form", "adapter").faulted("again already holds")


def test_what_is_no_finished_job_is_not_exported(plumb, tiny_policy):
    plumb.import_messages()
    assert plumb("export", "nowhere", "--out", "p").faulted("nowhere is not a training job")
    assert plumb("train", plumb.objective(tiny_policy), "--job", "waiting", "--prepare-only").code == 0
    assert plumb("export", "waiting", "--out", "p").faulted("the job in waiting has not finished")
    assert not (plumb.folder / "p").exists()
