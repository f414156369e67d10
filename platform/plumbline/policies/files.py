"""A policy on disk: a Hugging Face directory (safetensors only) with its manifest, `plumbline.json`, beside it.

The manifest is written last and atomically: a directory without one is half-written, or someone else's policy, and
is described afresh from its files.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from plumbline.errors import PlumblineError
from plumbline.records import DecoderSettings, PolicyManifest, digest_of

MANIFEST = "plumbline.json"


def file_digest(path: Path) -> str:
    """`sha256:` digest of a file, read in blocks."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def resolve(directory_or_id: str | Path) -> Path:
    """A local policy directory. An id that is no directory is fetched from the hub (safetensors only, no code)."""
    path = Path(directory_or_id)
    if path.is_dir():
        _require_weights(path)
        return path.resolve()
    if path.is_absolute() or str(directory_or_id).startswith("."):
        raise PlumblineError(
            f"there is no policy directory at {directory_or_id}",
            consequence="nothing was loaded",
            remedy="name a directory with config.json and *.safetensors, or a hub id such as OWNER/NAME",
        )
    from huggingface_hub import snapshot_download

    try:
        fetched = snapshot_download(
            str(directory_or_id), allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        )
    except Exception as error:  # the hub client raises many kinds; all mean that the policy is not to be had
        raise PlumblineError(
            f"the policy '{directory_or_id}' is no directory and the hub does not give it ({type(error).__name__})",
            consequence="nothing was loaded",
            remedy="check the id and HF_HUB_OFFLINE, or download it first and pass the directory",
        ) from error
    _require_weights(Path(fetched))
    return Path(fetched)


def _require_weights(path: Path) -> None:
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise PlumblineError(
            f"{path} holds no readable policy: config.json or *.safetensors is missing",
            consequence="nothing was loaded (pickled weights are never read)",
            remedy="export the policy with save_pretrained(safe_serialization=True)",
        )


def weights_digest(path: Path) -> str:
    """Digest over the names and contents of all that makes the network: weights, architecture, generation defaults."""
    named = ("config.json", "generation_config.json", "adapter_config.json")
    files = [*path.glob("*.safetensors"), *(path / name for name in named)]
    return digest_of({file.name: file_digest(file) for file in sorted(files) if file.is_file()})


def tokenizer_digest(path: Path) -> str:
    """Digest over the names and contents of the tokenizer's files; the chat template has its own digest."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json")
    files = [path / name for name in (*names, "merges.txt", "vocab.txt")]
    return digest_of({file.name: file_digest(file) for file in files if file.is_file()})


def describe(
    path: Path,
    *,
    name: str,
    role: Literal["reference", "aligned"],
    template: str,
    decoder: DecoderSettings | None = None,
    base_policy: str | None = None,
    objective: str | None = None,
    dataset: str | None = None,
    rubric: str | None = None,
    code: str = "",
    source: str = "",
) -> PolicyManifest:
    """The manifest of the files at `path`; `template` is the digest of the chat template in force."""
    return PolicyManifest(
        name=name,
        role=role,
        weights=weights_digest(path),
        tokenizer=tokenizer_digest(path),
        template=template,
        decoder=decoder or DecoderSettings(),
        base_policy=base_policy,
        objective=objective,
        dataset=dataset,
        rubric=rubric,
        code=code,
        source=source,
    )


def manifest_of(path: Path, template: str) -> PolicyManifest:
    """The manifest beside the weights, or the description of a foreign policy: the same for the same files."""
    return read_manifest(path) or describe(path, name="foreign", role="reference", template=template)


def write_manifest(path: Path, manifest: PolicyManifest) -> None:
    """Write `plumbline.json` atomically and durably."""
    write_durably(path / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")


def read_manifest(path: Path) -> PolicyManifest | None:
    """The manifest beside the weights; None where there is none. A broken one is an error, not an absence."""
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        return PolicyManifest.model_validate(json.loads(file.read_text("utf-8")))
    except ValueError as error:
        raise PlumblineError(
            f"{file} is not a policy manifest: {str(error).splitlines()[0]}",
            consequence="the policy was not loaded, since nobody could say what made it",
            remedy="restore the file from the export, or delete it to treat the directory as a foreign policy",
        ) from error


def verify(path: Path, manifest: PolicyManifest) -> None:
    """Raise when the weights or tokenizer at `path` are not those that the manifest names."""
    for what, seen, said in (
        ("weights", weights_digest(path), manifest.weights),
        ("tokenizer", tokenizer_digest(path), manifest.tokenizer),
    ):
        if seen != said:
            raise PlumblineError(
                f"the {what} at {path} are not those of its manifest ({seen[:19]} is not {said[:19]})",
                consequence="the policy was not loaded: its record would be untrue",
                remedy="export the policy again, or restore the files that the manifest names",
            )


def read_lines(path: Path) -> list[Any]:
    """The JSON lines of a file that grows, none where there is no file; a last line that is not whole yet (or that a
    kill cut short) is left out."""
    whole = path.read_text("utf-8").rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines() if line]


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent, old or whole: temporary file, fsync, rename, fsync of the folder."""
    if path.exists() and not path.is_file():
        raise PlumblineError(
            f"{path} is there and is no ordinary file",
            consequence="nothing was written: replacing a device or a folder by a file would break it",
            remedy="name another path",
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PlumblineError(
            f"{path} could not be written: {error.strerror}",
            consequence="what was there before is unchanged",
            remedy="free space on that disk or choose another --out, then run the same command again",
        ) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
