"""What ran: the digest of this code and the versions of what it stands on."""

import importlib.metadata
import platform
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from plumbline.records import digest_bytes, digest_of

STANDS_ON = ("plumbline", "torch", "transformers", "ray", "peft", "kserve", "pydantic", "numpy", "scipy")


@cache
def code_digest() -> str:
    """Digest over the package's own sources: `.py`, `.sql`, `.yaml`, templates and styles."""
    files: dict[str, str] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                if entry.name != "__pycache__":
                    walk(entry, f"{prefix}{entry.name}/")
            elif not entry.name.endswith((".pyc", ".typed")):
                files[prefix + entry.name] = digest_bytes(entry.read_bytes())

    walk(resources.files("plumbline"), "")
    return digest_of(files)


def versions() -> dict[str, str]:
    """Versions by name, `python` first; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in STANDS_ON:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
