"""One real predictor for the room: two tiny policies, reference and aligned, in one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.policies.files import describe, write_manifest
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, digest_of
from plumbline.serving import PredictorProcess

DECODER = DecoderSettings(max_tokens=12)


@pytest.fixture(scope="session")
def policies(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny policy twice: as it is, and with other weights and a manifest that names what made it."""
    import torch

    folder = tmp_path_factory.mktemp("served")
    found: dict[str, Path] = {}
    for name, seed in (("reference", 1), ("aligned", 2)):
        policy = LocalPolicy.load(tiny_policy)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
        path = folder / name
        policy.model.save_pretrained(path, safe_serialization=True)
        policy.tokenizer.save_pretrained(path)
        manifest = describe(
            path,
            name=name,
            role="reference" if name == "reference" else "aligned",
            template=policy.manifest.template,
            decoder=DECODER,
            dataset=digest_of(f"dataset of {name}"),
            rubric=digest_of("rubric"),
        )
        write_manifest(path, manifest)
        found[name] = path
    return found


@pytest.fixture(scope="session")
def predictor(policies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PredictorProcess]:
    with PredictorProcess.start(policies, log=tmp_path_factory.mktemp("log") / "predictor.log") as process:
        yield process
