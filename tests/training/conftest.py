"""A small objective over a handful of examples, and the tiny policy it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.policies.files import manifest_of
from plumbline.policies.local import load_model, load_template
from plumbline.records import Objective, Optimiser, digest_of

MakeObjective = Callable[..., Objective]


@pytest.fixture
def make_objective(tiny_policy: Path) -> MakeObjective:
    template = load_template(tiny_policy)
    base = manifest_of(tiny_policy, template.digest)

    def make(**changes: Any) -> Objective:
        settings: dict[str, Any] = {
            "dataset": digest_of("dataset"),
            "base_policy": base.digest,
            "template": template.digest,
            "rubric": digest_of("rubric"),
            "batch_examples": 8,
            "micro_batch_examples": 4,
            "epochs": 2.0,
            "optimiser": Optimiser(learning_rate=3e-3, warmup_steps=2),
            "slice_weights": {"refusals": 2.0},
            "checkpoint_every": 3,
            "seed": 5,
        }
        return Objective(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def untied_policy(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy with an output layer of its own."""
    tokenizer, model = load_model(tiny_policy)
    model.config.tie_word_embeddings = False
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    folder = tmp_path_factory.mktemp("policies") / "untied"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
