"""Custom resource definitions, generated from the records they are the schema of.

    python -m plumbline.reconcile.crds charts/plumbline-crds/templates       # write them
    python -m plumbline.reconcile.crds --check charts/plumbline-crds/templates

Two hands that describe one thing drift apart, so there is one: `plumbline.records.resources`. What comes out is
*structural* as the API server means it: a type everywhere, no reference, no `anyOf`, never `properties` beside
`additionalProperties`; and every text, list and map has a bound, or a rule over it would cost more than an API server
allows. Keys that are absent stay absent, so nothing is nullable.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from plumbline.records.resource_base import Status
from plumbline.records.resources import RESOURCES, Resource

Json = dict[str, Any]
KEPT = (
    "description",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "default",
    "minLength",
    "maxLength",
    "minItems",
)
HEAD = """\
# Generated from plumbline.records.resources by `python -m plumbline.reconcile.crds`; do not edit.
# {about}
# Only digests, counts and names of reasons live in this object. Its status is a projection of the ledger database.
"""


def definition(resource: Resource) -> Json:
    """The CustomResourceDefinition of one kind, without what only Helm knows (labels, annotations)."""
    spec = schema(resource.spec)
    if resource.fixed:
        spec["x-kubernetes-validations"] = [{"rule": "self == oldSelf", "message": resource.fixed}]
    columns = [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in resource.columns]
    name_of = {"properties": {"name": {"type": "string", "maxLength": resource.longest_name}}}
    columns.append({"name": "AGE", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": resource.about,
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object", **(name_of if resource.longest_name < 253 else {})},
                    "spec": spec,
                    "status": schema(resource.status),
                },
            }
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short_name],
                "categories": ["plumbline"],
            },
            "versions": [version],
        },
    }


def schema(part: Any) -> Json:
    """The structural schema of a record class. A status has no defaults: nobody writes one by hand."""
    whole = part.model_json_schema(by_alias=True, mode="validation")
    found = _structural(whole, whole.get("$defs", {}))
    return _without_defaults(found) if issubclass(part, Status) else found


def _without_defaults(given: Json) -> Json:
    found = {key: value for key, value in given.items() if key != "default"}
    if "properties" in found:
        found["properties"] = {name: _without_defaults(inner) for name, inner in found["properties"].items()}
    return found


def _structural(given: Json, definitions: Json) -> Json:
    if "$ref" in given:
        named = definitions[given["$ref"].rsplit("/", 1)[1]]
        return _structural({**named, **{key: value for key, value in given.items() if key != "$ref"}}, definitions)
    if "anyOf" in given:
        (only,) = [choice for choice in given["anyOf"] if choice != {"type": "null"}]
        rest = {key: value for key, value in given.items() if key != "anyOf"}
        return _structural({**only, **rest}, definitions)
    found: Json = {"type": given["type"]}
    found |= {key: given[key] for key in KEPT if key in given and given[key] is not None}
    found |= {key: value for key, value in given.items() if key.startswith("x-kubernetes-")}
    if "const" in given:
        found["enum"] = [given["const"]]
    if found.get("default") in ((), [], {}):
        del found["default"]
    if given["type"] == "integer":
        found["format"] = "int64"
    if given["type"] == "array":
        found |= {"maxItems": given["maxItems"], "items": _structural(given["items"], definitions)}
    if given["type"] == "object" and "properties" not in given:
        inner = _structural(given["additionalProperties"], definitions)
        found |= {"maxProperties": given["maxProperties"], "additionalProperties": inner}
    if "properties" in given:
        if given.get("required"):
            found["required"] = given["required"]
        found["properties"] = {key: _structural(value, definitions) for key, value in given["properties"].items()}
    return found


def template(resource: Resource) -> str:
    """The definition as a template of the chart: YAML with the labels and the keep that Helm fills in."""
    doc = definition(resource)
    meta, spec = doc.pop("metadata"), doc.pop("spec")
    lines = [
        HEAD.format(about=resource.about).rstrip(),
        f"apiVersion: {doc['apiVersion']}",
        f"kind: {doc['kind']}",
        "metadata:",
        f"  name: {meta['name']}",
        "  labels:",
        "    app.kubernetes.io/name: plumbline-crds",
        "    app.kubernetes.io/instance: {{ .Release.Name }}",
        "    app.kubernetes.io/managed-by: {{ .Release.Service }}",
        "  {{- if .Values.keep }}",
        "  annotations:",
        "    helm.sh/resource-policy: keep",
        "  {{- end }}",
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump({"spec": spec}, sort_keys=False, width=110, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Write the templates, or with `--check` name those that are not what would be written (exit 1)."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.reconcile.crds", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    stale = 0
    for resource in RESOURCES:
        path, text = given.folder / f"{resource.plural}.yaml", template(resource)
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale += 1
        print(f"{path}: {'differs from the records' if given.check else 'written'}")
        if not given.check:
            path.write_text(text, "utf-8")
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
