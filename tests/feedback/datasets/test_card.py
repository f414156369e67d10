"""The card says what the records say: consent, hands, refusals, recall; and its JSON-LD loads the records it names."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline.feedback import erase, load_version
from plumbline.feedback.datasets.card import DatasetCard, gather_card
from plumbline.feedback.datasets.card_text import markdown
from plumbline.feedback.datasets.croissant import COLUMNS, CONTEXT, croissant
from plumbline.feedback.datasets.export import arrow_schema, export_version
from plumbline.feedback.redaction.redact import NOT_DETECTED


@pytest.fixture
def lived(house: Any) -> Any:
    """Seeds (1); feedback of ana and ben, one refused for want of consent, one redacted (2); ana left (3)."""
    house.publish_seeds(held_out_share=0.3)
    house.desk.give("ana", ["training", "evaluation"], house.notice)
    house.desk.give("ben", ["training"], house.notice, valid_until=house.now + timedelta(days=30))
    house.post(
        house.rewrite("ana", "how do i kill a process ?", "you end it with kill"),
        house.rewrite("ben", "wie lösche ich das licht ?", "drück den schalter oder frag x@example.org", language="de"),
        house.rewrite("eve", "how do i get down ?", "take the stairs"),
    )
    assert house.ingest().version.version == 2
    house.desk.withdraw("ana")
    assert [version.version for version in erase(house.ledger, house.blobs, house.names.of("ana")).versions] == [3]
    return house


def card_of(house: Any, version: int) -> DatasetCard:
    return gather_card(house.ledger, house.blobs, load_version(house.ledger, house.blobs, "assistant", version))


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_consent_is_that_of_the_people_in_the_version(lived: Any) -> None:
    now = card_of(lived, 3).consent
    assert (now.people, now.examples_of_nobody, now.withdrawn, now.expired) == (2, 0, 1, 0)
    assert now.purposes == {"training": 2} and now.notices == {"training@1 (en)": 2}
    assert now.earliest_expiry == "2026-01-31T00:00:00.000000Z" and now.without_expiry == 1
    text = section(markdown(card_of(lived, 3)), "Whose words, and by what right")
    assert "1 withdrew, 0 expired" in text and "the earliest ends 2026-01-31" in text


def test_an_erased_example_is_counted_and_nothing_of_it_is_said(lived: Any) -> None:
    card = card_of(lived, 2)
    assert card.not_shown == 1 and card.manifest.subjects == 3
    text = markdown(card)
    assert "kill" not in text and lived.names.of("ana") not in text
    assert "| not in what was read | 1 |" in text


def test_hands_are_counted_and_people_are_not_named(lived: Any) -> None:
    card = card_of(lived, 3)
    assert card.origins == {"seed": 12, "rewrite": 1}
    assert card.authors == {"person": 13}
    assert card.approvers["data-owner"] == 13
    assert "s-" not in {name[:2] for counts in (card.authors, card.filters, card.approvers) for name in counts}
    assert "| approved by | data-owner | 13 |" in section(markdown(card), "Who wrote, filtered and approved it")


def test_the_account_balances_over_all_versions(lived: Any) -> None:
    card = card_of(lived, 3)
    assert (card.sealed, card.accepted, card.rejected) == (15, 14, {"no_consent": 1})
    assert card.sealed == card.accepted + card.refused
    text = section(markdown(card), "How feedback became this version")
    assert "This version's run: 0 sealed = 0 accepted + 0 refused." in text
    assert "15 sealed = 14 accepted + 1 refused" in text and "| no_consent | 1 |" in text


def test_recall_is_by_class_and_what_is_not_detected_is_said(lived: Any) -> None:
    card = card_of(lived, 3)
    assert card.redactions == {"email": 1}
    assert card.recalls["email"].low <= card.recalls["email"].recall <= card.recalls["email"].high
    text = section(markdown(card), "Personal data")
    assert f"| email | 1 | {card.recalls['email'].recall:.3f} (" in text
    for name in NOT_DETECTED:
        assert f"| {name} |  | not detected |" in text


def test_an_unsound_version_says_so_on_its_card(lived: Any) -> None:
    sound = card_of(lived, 3)
    assert sound.problems == () and "| checked now | sound |" in markdown(sound)
    address = lived.ledger.publications.members("assistant", 3)[0].address
    lived.ledger.database.execute("UPDATE example SET slice = 'other' WHERE address = ?", (bytes.fromhex(address[7:]),))
    assert card_of(lived, 3).problems and "UNSOUND" in markdown(card_of(lived, 3))


def test_the_front_matter_names_licence_languages_and_files(lived: Any) -> None:
    text = markdown(card_of(lived, 3), {"train": "train.parquet", "held_out": "held_out.parquet"})
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other" and front["language"] == ["en", "de"]
    assert front["size_categories"] == ["n<1K"] and front["plumbline"]["version"] == 3
    assert front["configs"][0]["data_files"][0] == {"split": "train", "path": "train.parquet"}
    assert "configs" not in yaml.safe_load(markdown(card_of(lived, 3)).split("---")[1])


def test_text_of_others_cannot_break_the_page(lived: Any) -> None:
    from dataclasses import replace

    hostile = "MIT |\n# Injected\n\n---\n<script>\x1b[2J"
    text = markdown(replace(card_of(lived, 3), licences={hostile: 1}, policies=(hostile,)))
    assert "\n# Injected" not in text and r"MIT \| # Injected --- &lt;script>" in text and "\x1b" not in text


# --- Croissant ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mlc() -> Any:
    return pytest.importorskip("mlcroissant", reason="the test dependency mlcroissant is not installed")


def test_the_context_is_the_formats_own(mlc: Any) -> None:
    from mlcroissant._src.core.context import Context, CroissantVersion
    from mlcroissant._src.core.rdf import make_context

    assert make_context(Context(conforms_to=CroissantVersion.V_1_1)) == CONTEXT


def test_mlcroissant_finds_no_fault_and_reads_every_record(lived: Any, mlc: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_version(lived.ledger, lived.blobs, "assistant", 3, "parquet", str(out))
    found = mlc.Dataset(out / "croissant.json")
    assert not found.metadata.issues.errors and not found.metadata.issues.warnings
    data = load_version(lived.ledger, lived.blobs, "assistant", 3)
    for split in ("train", "held_out"):
        records = {record[f"{split}/address"].decode(): record for record in found.records(split)}
        expected = {member.address: example for member, example in data.examples if member.split == split}
        assert expected and records.keys() == expected.keys()
        for address, example in expected.items():
            turns = records[address][f"{split}/messages"]
            read = [(turn[f"{split}/messages/role"], turn[f"{split}/messages/content"]) for turn in turns]
            assert read == [(m.role.encode(), m.content.encode()) for m in example.messages]
            assert records[address][f"{split}/slice"].decode() == example.slice


def test_a_changed_file_is_not_the_one_that_is_described(lived: Any, mlc: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export_version(lived.ledger, lived.blobs, "assistant", 3, "parquet", str(out))
    written = json.loads((out / "croissant.json").read_text("utf-8"))
    for file in written["distribution"]:
        assert "sha256:" + file["sha256"] == done.manifest.files[file["@id"]].sha256
        assert file["contentSize"] == f"{(out / file['@id']).stat().st_size} B"


@pytest.mark.parametrize("with_subjects", [False, True])
def test_every_column_of_the_files_is_described(lived: Any, with_subjects: bool) -> None:
    pytest.importorskip("pyarrow")
    names = set(arrow_schema(with_subjects=with_subjects).names) - {"messages"}
    assert names == set(COLUMNS) | ({"subject"} if with_subjects else set())


def test_a_card_without_files_describes_none_and_is_valid(lived: Any, mlc: Any, tmp_path: Path) -> None:
    written = croissant(card_of(lived, 3))
    assert "distribution" not in written and "recordSet" not in written
    (tmp_path / "croissant.json").write_text(json.dumps(written), "utf-8")
    assert not mlc.Dataset(tmp_path / "croissant.json").metadata.issues.errors


def test_the_rai_questions_are_answered(lived: Any, mlc: Any) -> None:
    written = croissant(card_of(lived, 3))
    assert "http://mlcommons.org/croissant/RAI/1.0" in written["conformsTo"]
    asked = (
        "dataCollection", "dataCollectionType", "dataCollectionMissingData", "dataPreprocessingProtocol",
        "dataAnnotationProtocol", "machineAnnotationTools", "dataUseCases", "dataBiases", "dataLimitations",
        "dataSocialImpact", "personalSensitiveInformation", "dataReleaseMaintenancePlan",
    )  # fmt: skip
    for question in asked:
        assert written[f"rai:{question}"], question
    assert "names: not detected" in " ".join(written["rai:personalSensitiveInformation"])


def test_the_page_describes_the_columns_that_are_written() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text("utf-8")
    lines = page.split("| column | meaning |\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    written = dict(line.strip("| ").split(" | ") for line in lines)
    assert {name.strip("`"): said for name, said in written.items()} == COLUMNS
