"""Kubernetes' own schemas, strictly, one compiled validator per kind and version; and YAML that says nothing twice.

The schemas are those that the package kubernetes-validate carries: every field of every kind, and no other field
allowed. That package reads and compiles a schema anew for each object; here it is done once.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

Doc = dict[str, Any]
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
OLDEST = (1, 30)
VERSIONS = [
    f"1.{minor}"
    for minor in sorted(int(path.name.split(".")[1]) for path in SCHEMAS.glob("v1.*-local-strict"))
    if (1, minor) >= OLDEST
]


class OnceLoader(yaml.CSafeLoader):
    """The safe loader, but a key that stands twice in one mapping is an error, as it is to a strict API server."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{sorted(twice)} twice", node.start_mark)
        return super().construct_mapping(node, deep)


OnceLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: loader.construct_mapping(node, deep=True)
)


def load_all(text: str) -> list[Doc]:
    return [doc for doc in yaml.load_all(text, Loader=OnceLoader) if doc]


def built_in(doc: Doc, version: str) -> bool:
    """Whether Kubernetes itself has this kind in this version."""
    return _file(doc["apiVersion"], doc["kind"], version).is_file()


def problems(doc: Doc, version: str) -> list[str]:
    """What a strict API server of this version would say against an object of a built-in kind."""
    errors = _validator(doc["apiVersion"], doc["kind"], version).iter_errors(doc)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


@functools.cache
def _folder(version: str) -> Path:
    (found,) = SCHEMAS.glob(f"v{version}.*-local-strict")
    return found


def _file(api_version: str, kind: str, version: str) -> Path:
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)  # rbac.authorization.k8s.io/v1 -> rbac-v1
    return _folder(version) / f"{kind.lower()}-{short}.json"


@functools.cache
def _definitions(version: str) -> Doc:
    found: Doc = _read(_folder(version) / "_definitions.json")["$defs"]
    return found


@functools.cache
def _validator(api_version: str, kind: str, version: str) -> Draft202012Validator:
    schema = _read(_file(api_version, kind, version))
    return Draft202012Validator({**schema, "$defs": _definitions(version)})


def _read(path: Path) -> Doc:
    found: Doc = json.loads(path.read_text("utf-8").replace("/api/_definitions.json#", "#"))
    return found
