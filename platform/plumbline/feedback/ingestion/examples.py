"""Examples as ingestion writes them: canonical bytes, made without building the record first.

Thousands of examples a second need not be validated field by field: what they are made of was validated when it came
in. `draft` writes the bytes that `Example(...).canonical_bytes()` would have, key for key (tests/feedback hold the two
together), some twenty times faster.
"""

from collections.abc import Sequence

import orjson

from plumbline.feedback.datasets.publish import Draft
from plumbline.feedback.ingestion.stages import Demonstration
from plumbline.records import Example


def author_of(one: Demonstration) -> str:
    """Who wrote the target: the person, a reviewer on their behalf, or the policy whose answer was approved."""
    if one.origin == "rewrite" or one.event.said("text"):
        return str(one.event.said("author") or one.subject)
    return f"policy:{one.event.said('policy') or 'unknown'}"


def draft(one: Demonstration, cluster: str, consent: int, filtered_by: Sequence[str], licence: str) -> Draft:
    """The example that a demonstration becomes; `consent` is the ledger entry that covers it."""
    event = one.event
    content = {
        "messages": [
            *({"role": role, "content": text} for role, text in one.prompt),
            {"role": "assistant", "content": one.target},
        ],
        "slice": event.said("slice", "unlabelled"),
        "language": event.said("language", "en"),
        "phrasing": event.said("phrasing", "canonical"),
        "cluster": cluster,
        "provenance": {
            "origin": one.origin,
            "author": author_of(one),
            "source": event.source,
            "event": event.digest,
            "filtered_by": filtered_by,
            "approved_by": event.said("approved_by", []),
            "licence": licence,
        },
        "consent": {"subject": one.subject, "sequence": consent, "purpose": "training"},
    }
    data = orjson.dumps({"schema": Example.schema_id, "content": content}, option=orjson.OPT_SORT_KEYS)
    return Draft(data, one.subject, one.origin, content["slice"], cluster, licence)
