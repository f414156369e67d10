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
    data = one.event.data or {}
    if one.origin == "rewrite" or data.get("text"):
        return str(data.get("author") or one.event.subject)
    return f"policy:{data.get('policy') or 'unknown'}"


def draft(one: Demonstration, cluster: str, consent: int, filtered_by: Sequence[str], licence: str) -> Draft:
    """The example that a demonstration becomes; `consent` is the ledger entry that covers it."""
    event, origin = one.event, one.origin
    data, subject = event.data or {}, event.subject
    slice = data.get("slice", "unlabelled")
    messages = [{"content": text, "role": role} for role, text in one.prompt]
    messages.append({"content": one.target, "role": "assistant"})
    content = {  # names in the order in which canonical bytes have them
        "cluster": cluster,
        "consent": {"purpose": "training", "sequence": consent, "subject": subject},
        "language": data.get("language", "en"),
        "messages": messages,
        "phrasing": data.get("phrasing", "canonical"),
        "provenance": {
            "approved_by": data.get("approved_by", ()),
            "author": author_of(one),
            "event": event.digest,
            "filtered_by": filtered_by,
            "licence": licence,
            "origin": origin,
            "source": event.source,
        },
        "slice": slice,
    }
    written = orjson.dumps({"content": content, "schema": Example.schema_id})
    return Draft(written, subject, origin, slice, cluster, licence)
