"""Plain SFT loses a skill of pre-training that replay keeps, and KL to the reference keeps, on the micro-world."""

import json
from pathlib import Path
from typing import Any

import pytest

from loop.begun import SEED
from loop.conftest import Ran
from plumbline.evaluation.probes import measure, probe_items
from plumbline.feedback import load_version
from plumbline.microworld import build_world, validation_items
from plumbline.policies.files import manifest_of
from plumbline.policies.local import LocalPolicy, load_template
from plumbline.records import DecoderSettings, KlTerm, Objective, Optimiser, Suite
from plumbline.stores import Ledger, LocalBlobs
from plumbline.training import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first one waits for the whole loop


def test_replay_or_kl_keeps_the_skill_that_plain_sft_loses(ran: Ran, tmp_path: Path) -> None:
    with Ledger(ran.out / "ledger.sqlite") as ledger:
        blobs = LocalBlobs(ran.out / "blobs")
        data = load_version(ledger, blobs, "microworld", 1)
        replay = load_version(ledger, blobs, "microworld-replay")
    base = ran.out / "policies" / "reference"
    template = load_template(base)
    items = validation_items(build_world(SEED), SEED)
    asked = probe_items(Suite(name="validation", version="1", items=tuple(items)), 64)
    decoder = DecoderSettings(max_tokens=24)
    common: dict[str, Any] = {
        "dataset": data.digest,
        "base_policy": manifest_of(base, template.digest).digest,
        "template": template.digest,
        "rubric": data.manifest.rubric,
        "micro_batch_examples": 32,
        "optimiser": Optimiser(learning_rate=1e-3, warmup_steps=20),
        "frozen": ("model.embed_tokens", "lm_head"),
        "samples": decoder,
        "seed": SEED,
    }
    anchored = KlTerm(weight=1.0, slices=tuple(sorted({example.slice for example in data.train})))
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "replay": {"replay": replay.digest, "replay_share": 0.22},
        "kl": {"kl": anchored},
    }
    rates = {"base": measure(LocalPolicy.load(base), asked, decoder).rates}
    for name, more in ways.items():
        train(
            Objective(**common, **more), data.train, base=base, out=tmp_path / name, name=name,
            job_folder=tmp_path / f"{name}.job", replay=replay.train if "replay" in more else (), runner="in-process",
        )  # fmt: skip
        rates[name] = measure(LocalPolicy.load(tmp_path / name), asked, decoder).rates
    kept = {name: found["base_skill"] for name, found in rates.items()}
    assert kept["base"] > 0.95
    assert kept["plain"] < kept["base"] - 0.3, kept
    assert kept["replay"] > kept["base"] - 0.05 and kept["kl"] > kept["base"] - 0.05, kept
    learnt = {name: found["sycophancy_flip"] for name, found in rates.items()}
    assert learnt["replay"] < 0.2 < learnt["base"], "replay keeps the old and learns the new"
    assert learnt["kl"] < learnt["base"], "so does KL, which pays with some of the new"


def test_the_report_shows_what_was_forgotten_and_what_was_kept(ran: Ran) -> None:
    found = [
        {row["area"]: row for row in decision["metrics"]}["catastrophic_forgetting"]
        for decision in ran.summary["decisions"]
    ]
    assert [row["verdict"] for row in found] == ["REGRESSED", "PASS"]
    page = (ran.out / "report.html").read_text()
    assert page.count("Catastrophic forgetting") >= 2, json.dumps(found)
