"""What ingestion writes without building records is what the records would have written."""

import ast
import importlib.resources
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback.datasets.publish import PIPELINE
from plumbline.feedback.ingestion.examples import draft
from plumbline.feedback.ingestion.stages import Demonstration
from plumbline.records import ConsentReference, Example, FeedbackData, FeedbackEvent, Message, Provenance, digest_bytes
from plumbline.stores import SealedEvent

text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=40)
label = st.from_regex(r"[A-Za-z0-9_.:-]{1,20}", fullmatch=True)


@given(text, text, label, label, st.lists(label, max_size=3), st.booleans(), st.integers(0, 10**9))
def test_a_draft_has_the_bytes_of_the_example_that_it_stands_for(
    asked: str, target: str, slice: str, cluster: str, reviewers: list[str], written: bool, consent: int
) -> None:
    data = FeedbackData(subject="s-ana", messages=(Message(role="user", content=asked),), answer="no", slice=slice)
    kind = "dev.plumbline.feedback.rewrite" if written else "dev.plumbline.review.approved"
    more: dict[str, Any] = {"text": target} if written else {"original": 1, "approved_by": tuple(reviewers) or ("r",)}
    event = FeedbackEvent(id="1", source="app", type=kind, data=data.model_copy(update=more))  # type: ignore[arg-type]
    body = event.model_dump_json(exclude_defaults=True)
    stored = event.model_dump(mode="json", exclude_defaults=True)["data"]
    sealed = SealedEvent(1, "app", event.kind, "s-ana", 1, "now", "sha256:0", None, body, None, stored)
    one = Demonstration(sealed, "rewrite" if written else "approved_answer", (("user", asked),), target, {})
    made = draft(one, cluster, consent, ("ingest@1",), "user feedback")
    example = Example(
        messages=(*data.messages, Message(role="assistant", content=target)),
        slice=slice,
        cluster=cluster,
        provenance=Provenance(
            origin=one.origin,
            author="s-ana" if written else "policy:unknown",
            source="app",
            event=digest_bytes(body.encode()),
            filtered_by=("ingest@1",),
            approved_by=() if written else more["approved_by"],
            licence="user feedback",
        ),
        consent=ConsentReference(subject="s-ana", sequence=consent),
    )
    assert made.data == example.canonical_bytes()
    assert Example.from_canonical(made.data) == example


def test_the_code_of_a_version_is_all_that_ingestion_stands_on_in_its_room() -> None:
    room = importlib.resources.files("plumbline.feedback")
    found, waiting = set(), ["ingestion/ingest"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(room.joinpath(f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plumbline.feedback."):
                inner = str(node.module).removeprefix("plumbline.feedback.").replace(".", "/")
                names = [inner, *(f"{inner}/{one.name}" for one in node.names)]
                waiting += [one for one in names if room.joinpath(f"{one}.py").is_file()]
    assert found == set(PIPELINE)
