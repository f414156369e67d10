"""`plumb stores` and `plumb smoke` at a terminal. What they do to real services: tests/charts/test_installation.py."""

import json

import pytest

from plumbline.stores.upkeep import newest_schema


def test_a_ledger_is_made_once_and_then_found_as_it_should_be(plumb):
    assert plumb("stores", "check").faulted("is not made yet", "plumb stores migrate")
    assert not (plumb.folder / ".plumbline" / "ledger.sqlite").exists(), "a check makes nothing"
    made = {"ledger": ".plumbline/ledger.sqlite", "before": 0, "after": newest_schema()}
    assert plumb("stores", "migrate", "--json").json == made
    assert plumb("stores", "migrate", "--json").json == made | {"before": newest_schema()}
    assert plumb("stores", "check", "--json").json == {"schema": newest_schema(), "blobs": ".plumbline/blobs"}
    assert plumb("stores", "check", "--ledger-only", "--json").json["blobs"] is None


@pytest.mark.parametrize(
    ("sources", "source", "says"),
    [
        ({"console": {"token": "t" * 16, "may": ["consent"]}}, (), "lets nobody send events"),
        ({"app": "t" * 16}, ("--source", "web"), "lets 'web' send events"),
    ],
)
def test_nothing_is_sent_for_a_source_that_may_not_send(plumb, sources, source, says):
    file = plumb.write("sources.json", json.dumps(sources))
    refused = plumb("smoke", "--collector", "http://127.0.0.1:1", "--sources", file, *source)
    assert refused.faulted(says, "nothing was sent") and "tttt" not in refused.err


def test_what_does_not_answer_is_named(plumb):
    plumb("stores", "migrate")
    said = plumb("smoke", "--ask", "http://127.0.0.1:1/v1")
    assert said.code == 2 and "http://127.0.0.1:1/v1/models does not answer" in said.err
    assert "blobs: .plumbline/blobs takes, gives back and erases" in said.out and "all of this" not in said.out
