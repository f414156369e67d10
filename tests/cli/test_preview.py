"""`plumb objective preview`: what the loss sees, from the command line."""

from pathlib import Path
from typing import Any


def test_preview_shows_rows_ledger_and_cost(plumb: Any, tiny_policy: Path) -> None:
    assert plumb.import_messages().code == 0
    said = plumb("objective", "preview", plumb.objective(tiny_policy), "--examples", 2)
    assert said.code == 0, said
    assert said.out.count("\u27e6ana is a baker .<|end|>\u27e7") == 2
    for heading in ("Mask ledger", "Lengths", "Share of each slice", "The run"):
        assert heading in said.out
    assert said.err == ""


def test_preview_for_machines_says_the_same(plumb: Any, tiny_policy: Path) -> None:
    plumb.import_messages()
    file = plumb.objective(tiny_policy)
    seen = plumb("objective", "preview", file, "--json", "--flops-per-second", "1e9").json
    assert seen["objective"] == plumb("objective", "show", file, "--json").json["id"]
    assert seen["ledger"]["all"]["stop_supervised"] == seen["ledger"]["all"]["examples"]
    assert seen["cost"]["seconds"] > 0
    assert len(seen["rows"]) == 6


def test_preview_writes_one_page_and_trains_nothing(plumb: Any, tiny_policy: Path) -> None:
    plumb.import_messages()
    file = plumb.objective(tiny_policy)
    before = {path.name for path in plumb.folder.iterdir()}
    said = plumb("objective", "preview", file, "--html", plumb.folder / "seen.html")
    assert said.code == 0 and "seen.html" in said.err
    assert {path.name for path in plumb.folder.iterdir()} - before == {"seen.html"}
    assert "What the loss sees" in (plumb.folder / "seen.html").read_text()


def test_what_a_run_would_refuse_is_said_and_the_preview_still_shown(plumb: Any, tiny_policy: Path) -> None:
    plumb.import_messages()
    file = plumb.objective(tiny_policy, truncation={"max_tokens": 20, "policy": "truncate_prompt_left"})
    said = plumb("objective", "preview", file)
    assert said.code == 0, said
    assert "A run would be refused" in said.out and "A run would be refused" in said.err


def test_an_unknown_slice_is_a_fault_that_names_the_slices(plumb: Any, tiny_policy: Path) -> None:
    plumb.import_messages()
    said = plumb("objective", "preview", plumb.objective(tiny_policy), "--slice", "gossip")
    assert said.faulted("gossip")
