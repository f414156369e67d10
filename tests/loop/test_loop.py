"""The whole loop, for real: it survives a kill, refuses the naive policy, and releases the one that passed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from loop.begun import SEED, journal
from loop.conftest import Ran, plumb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first one waits for the whole loop


def test_a_killed_loop_started_again_goes_on_and_ends(ran: Ran) -> None:
    assert "reference" in ran.stages_before_kill and "aligned-1/train" not in ran.stages_before_kill
    assert re.search(r"reference +found", ran.output)
    assert journal(ran.out)[-1] == "withdrawal"
    assert len(journal(ran.out)) == len(set(journal(ran.out))), "no stage was done twice"


def test_the_first_gate_refuses_what_a_naive_run_breaks_and_the_second_passes(ran: Ran) -> None:
    first, second = ran.summary["decisions"]
    assert first["verdict"] == "REGRESSED" and second["verdict"] == "PASS"
    refused = {area["area"] for area in first["metrics"] if area["verdict"] == "REGRESSED"}
    assert {"over_refusal", "catastrophic_forgetting"} <= refused
    assert all(area["cases"] for area in first["metrics"] if area["verdict"] == "REGRESSED")
    assert ran.summary["as_planned"] is True


def test_the_release_names_the_policy_that_passed(ran: Ran) -> None:
    history = plumb("release", "history", "--json", "--ledger", str(ran.out / "ledger.sqlite"))
    moves = json.loads(history.stdout)
    manifest = json.loads((ran.out / "policies" / "aligned-2" / "plumbline.json").read_text())
    assert [move["decision"] is None for move in moves] == [True, False]
    assert ran.summary["serving"] == moves[-1]["policy"]
    assert manifest["name"] == "aligned-2"


def test_live_traffic_was_planned_for_proven_alike_and_decided_and_the_release_rests_on_it(ran: Ran) -> None:
    from plumbline.stores import Ledger

    with Ledger(ran.out / "ledger.sqlite") as ledger:
        move = ledger.releases.release_audit("default")[-1]
        assert move.action == "promote" and move.shadow is not None and move.without_shadow is None
        passed = ledger.releases.shadow_verdict(move.shadow)
        first = json.loads((ran.out / "policies" / "aligned-1" / "plumbline.json").read_text())["name"]
        bodies = [row["body"] for row in ledger.database.rows("SELECT body FROM shadow_verdict ORDER BY recorded_at")]
    assert passed is not None and passed.verdict.value == "PASS" and passed.aligned == move.policy
    refused = next(one for one in map(json.loads, bodies) if one["name"] == first)
    assert refused["verdict"] == "REGRESSED", "it refuses benign requests, and a thousand of them show it"
    for verdict in (passed.model_dump(), refused):
        planned, had = verdict["plan"]["requirements"][0], verdict["requirements"][0]
        assert verdict["aa"]["alarm"] is False and verdict["aa"]["sessions"] >= verdict["plan"]["aa_sessions"]
        assert had["estimate"]["sessions"] >= planned["sessions"]


def test_every_event_and_every_request_is_accounted_for(ran: Ran) -> None:
    for version in ran.summary["datasets"]:
        assert version["accepted"] + sum(version["rejected"].values()) == version["sealed"]
    rejected = ran.summary["datasets"][1]["rejected"]
    assert rejected["no_consent"] > 0 and rejected["consent_withdrawn"] > 0 and rejected["duplicate"] > 0
    for shadow in ran.summary["shadow"]:
        assert shadow["spooled"] == shadow["paired"] + shadow["pending"] + sum(shadow["shed"].values())
        assert shadow["pending"] == 0 and shadow["paired"] > 500


def test_a_phone_number_was_redacted_and_is_nowhere_in_what_the_loop_made(ran: Ran) -> None:
    assert ran.summary["datasets"][1]["redactions"].get("phone", 0) > 0
    for file in [*(ran.out / "blobs").rglob("*"), *(ran.out / "jobs").rglob("*"), ran.out / "report.html"]:
        if file.is_file():
            assert b"7946 0958" not in file.read_bytes(), file


def test_nothing_that_the_withdrawn_person_asked_is_in_version_2_or_in_the_spool(ran: Ran) -> None:
    from plumbline.feedback import load_version
    from plumbline.microworld import build_world, user_requests, users
    from plumbline.shadow import read_pairs
    from plumbline.stores import Ledger, LocalBlobs

    world = build_world(SEED)
    gone = next(user for user in users(world, SEED) if user.character == "withdraws")
    asked = {request.messages for request in user_requests(world, SEED) if request.user.id == gone.id}
    with Ledger(ran.out / "ledger.sqlite") as ledger:
        version = load_version(ledger, LocalBlobs(ran.out / "blobs"), "microworld", 2)
    brought = {e.prompt for _, e in version.examples if e.provenance.source in ("app", "review-panel")}
    others = {request.messages for request in user_requests(world, SEED) if request.user.id != gone.id}
    assert len(asked) > 10 and not (asked - others) & brought
    spooled = {pair.spooled.messages for pair in read_pairs(ran.out / "shadow" / "aligned-1" / "spool")}
    assert not (asked - others) & spooled


def test_dataset_versions_verify_end_to_end(ran: Ran) -> None:
    stores = ["--ledger", str(ran.out / "ledger.sqlite"), "--blobs", str(ran.out / "blobs")]
    for version in ("1", "2"):
        checked = plumb("dataset", "verify", "microworld", version, *stores)
        assert checked.returncode == 0 and "is sound" in checked.stdout
    assert plumb("consent", "verify", *stores).returncode == 0
    assert "+" in plumb("dataset", "diff", "microworld", "1", "2", *stores).stdout


def test_every_prompt_the_policy_was_trained_on_is_apart_from_the_suite(ran: Ran) -> None:
    for line in (ran.out / "journal.jsonl").read_text().splitlines():
        stage = json.loads(line)
        if stage["name"].endswith("/evaluate"):
            blob = stage["result"]["digest"].removeprefix("sha256:")
            found = next((ran.out / "blobs").rglob(f"*{blob}"))
            assert json.loads(found.read_bytes())["content"]["contaminated"] == []


def test_the_report_stands_alone(ran: Ran) -> None:
    page = (ran.out / "report.html").read_text()
    assert "<script" not in page and not re.search(r'(?:src|href)="https?:', page)
    assert "aligned-2 passed" in page


def test_a_finished_loop_says_so_at_once_and_changes_nothing(ran: Ran) -> None:
    before = (ran.out / "summary.json").read_bytes()
    again = plumb("loop", "--seed", str(SEED), "--out", str(ran.out), "--cache", str(ran.cache))
    assert again.returncode == 0 and again.stdout.count(" found ") == len(journal(ran.out))
    assert (ran.out / "summary.json").read_bytes() == before


def test_another_seed_in_the_same_place_is_refused(ran: Ran) -> None:
    other = plumb("loop", "--seed", "4", "--out", str(ran.out), "--cache", str(ran.cache))
    assert other.returncode == 2
    assert "holds another run; it differs in seed: 3 there, 4 here" in other.stderr
    assert "Traceback" not in other.stderr


def test_an_unreadable_reference_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ref").mkdir()
    done = plumb("loop", "--out", str(tmp_path / "out"), "--reference", str(tmp_path / "ref"))
    assert done.returncode == 2 and "holds no readable policy" in done.stderr


def test_real_text_goes_through_the_same_commands(ran: Ran, tmp_path: Path, shared_data: Path) -> None:
    """self-instruct trains and XSTest measures the tiny policy. The scores are poor: it knows 500 words of an
    invented world. The path is the real one, and that is all this test claims."""
    stores = ["--ledger", str(tmp_path / "ledger.sqlite"), "--blobs", str(tmp_path / "blobs")]
    reference = ran.out / "policies" / "reference"
    for number, name in enumerate(("seed_tasks", "user_oriented_instructions"), 1):
        imported = plumb(
            "dataset", "import", str(shared_data / "self-instruct" / f"{name}.jsonl"), "--format", "self-instruct",
            "--dataset", "instruct", "--licence", "Apache-2.0", *stores,
        )  # fmt: skip
        assert imported.returncode == 0 and f"instruct version {number}" in imported.stdout, imported.stderr
    objective = tmp_path / "objective.yaml"
    objective.write_text(
        f"dataset: instruct@2\nbase_policy: {reference}\noptimiser: {{learning_rate: 1.0e-3}}\n"
        "max_steps: 12\nbatch_examples: 16\nmicro_batch_examples: 4\n"
        "truncation: {max_tokens: 512, policy: truncate_prompt_left, max_share: 0.6}\n"
    )
    trained = plumb("train", str(objective), "--out", str(tmp_path / "aligned"), *stores)
    assert trained.returncode == 0, trained.stderr
    assert "12 steps" in trained.stdout and "truncated" in trained.stdout
    shutil.rmtree(tmp_path / "aligned.job")
    lora = plumb("train", str(objective), "--out", str(tmp_path / "lora"), "--adapter", "lora", "--in-process", *stores)
    assert lora.returncode == 0, lora.stderr
    evaluated = plumb(
        "evaluate", "--reference", str(reference), "--aligned", str(tmp_path / "aligned"),
        "--suite", str(shared_data / "xstest" / "xstest_prompts.csv"), "--out", str(tmp_path / "xstest"),
        "--max-tokens", "16",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads((tmp_path / "xstest" / "report.json").read_text())
    assert {e["area"] for e in report["estimates"]} == {"harmlessness", "over_refusal"}
    verdict = plumb("gate", str(tmp_path / "xstest" / "report.json"))
    assert verdict.returncode == 2 and "ERROR" in verdict.stdout, "eight areas were not measured: no verdict"


def test_the_page_of_a_first_release_brings_the_evidence_that_its_ledger_wants(ran: Ran, tmp_path: Path) -> None:
    """docs/first-release.md: every command that it gives the toolbox, but the loop itself, which `ran` is."""
    from plumbline.errors import PlumblineError
    from plumbline.stores import Ledger

    page = (Path(__file__).parents[2] / "docs" / "first-release.md").read_text()
    digests = ran.summary["digests"]["policies"]
    asked = [line.split(" -- plumb ", 1)[1] for line in page.splitlines() if " -- plumb " in line]
    assert [line.split()[0] for line in asked] == ["loop", "release", "suite", "evaluate", "gate", "shadow"]
    stores = ["--ledger", str(tmp_path / "ledger.sqlite"), "--blobs", str(tmp_path / "blobs")]
    plumb("stores", "migrate", *stores)
    for line in asked[1:]:
        line = re.sub(r"\$\(digest ([a-z0-9-]+)\)", lambda found: digests[found[1]], line)
        words = shlex.split(line.replace("/data/demo", str(ran.out)).replace("/data", str(tmp_path)))
        words += ["--seed", str(SEED)] if words[0] == "suite" else stores
        done = plumb(*words)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert all(ledger.releases.grounds("default", digests["aligned-2"]))
        with pytest.raises(PlumblineError, match="no gate decision compares it"):
            ledger.releases.grounds("default", digests["aligned-1"])
