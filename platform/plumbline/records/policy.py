"""A policy's manifest: the record beside the weights that names, by digest, all that produced them."""

from typing import Literal

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.decoding import DecoderSettings


class PolicyManifest(Record):
    """`digest` of this record is the policy's digest. `weights`, `tokenizer` and `template` are content digests
    of the files; serving refuses a template whose digest differs."""

    schema_id = "plumbline.dev/policy-manifest/v1"

    name: str
    role: Literal["reference", "aligned"]
    weights: Digest
    tokenizer: Digest
    template: Digest
    decoder: DecoderSettings = DecoderSettings()
    base_policy: Digest | None = None
    objective: Digest | None = None
    dataset: Digest | None = None
    rubric: Digest | None = None
    code: str = ""
    source: str = ""
