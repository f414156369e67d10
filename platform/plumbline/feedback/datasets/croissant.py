"""Croissant: the card and the files of an export as JSON-LD that tools read (https://docs.mlcommons.org/croissant/).

Version 1.1 of the format, with the RAI vocabulary. The distribution names the exported Parquet files by their SHA-256
and size, and one record set a split says what the columns are, so that the records can be loaded through the metadata
alone. What has no file (a card without an export) has no distribution, and says so by having none.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plumbline.feedback.datasets.card import DatasetCard
from plumbline.feedback.datasets.card_text import LICENCES, answers, description

if TYPE_CHECKING:
    from plumbline.feedback.datasets.export import ExportedFile

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
ONE = ("dataCollection", "dataCollectionMissingData", "dataSocialImpact", "dataReleaseMaintenancePlan")
TEXTS = ("filtered_by", "approved_by")
COLUMNS = {
    "address": "Salted commitment to the example: it names it and says nothing about it.",
    "split": "train, or held_out: never trained on.",
    "slice": "Behaviour slice whose share in the loss is reported.",
    "language": "Language of the conversation.",
    "phrasing": "Which phrasing of a prompt this is.",
    "cluster": "Examples that may not be split apart: same person, conversation or near-duplicate.",
    "origin": "How it came about: rewrite, approved_answer, import, seed, replay.",
    "author": "Who wrote the target: a role, or `person`.",
    "source": "The application or file it came from.",
    "event": "Keyed digest of the feedback event; null for what came from none.",
    "filtered_by": "What it passed on its way.",
    "approved_by": "Who approved it: roles, or `person`.",
    "licence": "Licence or consent under which the text is used.",
}
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(
    card: DatasetCard, files: Mapping[str, "ExportedFile"] | None = None, *, with_subjects: bool = False
) -> dict[str, Any]:
    """The JSON-LD. `files` are the Parquet files of an export beside it, by name."""
    manifest = card.manifest
    found = answers(card)
    written: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": f"{manifest.dataset}-{manifest.version}",
        "description": description(card),
        "version": f"{manifest.version}.0.0",
        "url": f"urn:plumbline:{manifest.dataset}:{manifest.digest}",
        "sameAs": f"urn:plumbline:root:{manifest.root}",
        "citeAs": f"{card.name}, {manifest.digest}",
        "datePublished": card.published_at[:10],
        "creator": {"@type": "sc:Organization", "name": "plumbline", "url": f"urn:plumbline:code:{manifest.code}"},
        "license": [_licence(name) for name in card.licences] or ["unspecified"],
        "inLanguage": list(card.languages),
        "keywords": ["alignment", "supervised fine-tuning", "user feedback", "consent"],
        "isLiveDataset": False,
        **{f"rai:{name}": " ".join(said) if name in ONE else said for name, said in found.items()},
    }
    if files:
        written["distribution"] = [_file(name, file) for name, file in files.items()]
        written["recordSet"] = [_record_set(name, with_subjects=with_subjects) for name in files]
    return written


def _licence(name: str) -> str:
    """The page of a licence that has one, else the words by which it goes."""
    spdx = {known.lower(): known for known in LICENCES}.get(name.lower())
    return f"https://spdx.org/licenses/{spdx}.html" if spdx else name


def _file(name: str, file: "ExportedFile") -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file.sha256.removeprefix("sha256:"),
    }


def _record_set(file: str, *, with_subjects: bool) -> dict[str, Any]:
    split = file.removesuffix(".parquet")
    columns = COLUMNS | ({"subject": "Pseudonym of the person whose consent carries it."} if with_subjects else {})

    def source(column: str, **more: object) -> dict[str, Any]:
        return {"fileObject": {"@id": file}, "extract": {"column": column}, **more}

    def field(column: str, said: str) -> dict[str, Any]:
        many = {"isArray": True, "arrayShape": "-1"} if column in TEXTS else {}
        names = {"@type": "cr:Field", "@id": f"{split}/{column}", "name": column, "description": said}
        return {**names, "dataType": "sc:Text", **many, "source": source(column)}

    messages = {
        "@type": "cr:Field",
        "@id": f"{split}/messages",
        "name": "messages",
        "description": "The conversation; the last message is the target.",
        "isArray": True,
        "arrayShape": "-1",
        "subField": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/messages/{part}",
                "name": part,
                "dataType": "sc:Text",
                "source": source("messages", transform={"jsonPath": part}),
            }
            for part in ("role", "content")
        ],
    }
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The examples of the {split.replace('_', '-')} split.",
        "key": {"@id": f"{split}/address"},
        "field": [*(field(column, said) for column, said in columns.items()), messages],
    }
