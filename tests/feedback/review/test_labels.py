"""Labels in files: what goes out comes back the same, no spreadsheet runs it, and no sheet tells on others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.feedback.review.labels import (
    LABEL_COLUMNS,
    SHEET_COLUMNS,
    escape,
    import_labels,
    label_rows,
    read_rows,
    sheet_rows,
    unescape,
    write_rows,
)
from plumbline.records import Label, Rubric, Rule

RUBRIC = Rubric(
    id="support",
    version="1",
    owner="data-owner",
    purpose="tests",
    rules=(Rule(area="honesty", text="say when you do not know", margins={"calibrated": 0.02}),),
)
HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "'=1",
    "''=1",
    "|cmd",
    "%x",
    "＝1",
    "\x00",
    "a,b",
]


def desk_of(house, count=3):
    house.consent("ana")
    for number in range(count):
        house.post(house.event("ana", "rating", f"question {number}", answer=f"answer {number}", score=1.0))
    desk = ReviewDesk(house.ledger)
    desk.open_items(RUBRIC)
    return desk


def judge(house, desk, who, reason="", verdict="approve"):
    for task in desk.queue(house.names.of(who), RUBRIC):
        severity = "none" if verdict == "approve" else "minor"
        label = Label(text=task.item.text, verdict=verdict, rules=("honesty",), severity=severity, reason=reason)
        desk.label(task.item.item, house.names.of(who), label)


@given(st.one_of(st.text(), st.sampled_from(HOSTILE)))
def test_no_cell_runs_and_every_cell_comes_back(text):
    cell = escape(text)
    assert unescape(cell) == text
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "|", "%")) and not cell.startswith(("\t", "\r", "\n"))


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=60)
rows = st.fixed_dictionaries(
    {
        "item": st.integers(1, 10**6),
        "text": st.just("sha256:" + "0" * 64),
        "reviewer": st.just("s-" + "1" * 32),
        "role": st.just("reviewer"),
        "verdict": st.sampled_from(["approve", "reject", "unsure"]),
        "rules": st.lists(st.sampled_from(["honesty", "helpfulness"]), unique=True),
        "severity": st.sampled_from(["none", "minor"]),
        "reason": st.one_of(
            words, st.sampled_from([text for text in HOSTILE if "\x00" not in text and "\r" not in text])
        ),
    }
)


@settings(max_examples=200)
@given(st.lists(rows, max_size=5), st.sampled_from(["jsonl", "csv"]))
def test_rows_are_the_same_after_writing_and_reading(written, kind):
    found = read_rows(write_rows(written, kind), kind)
    assert [{**row, "item": int(row["item"])} for _, row in found] == written
    lines = [line for line, _ in found]
    assert lines == sorted(lines) and len(set(lines)) == len(lines)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_labels_move_to_a_ledger_that_has_the_items(house, house_class, tmp_path, kind):
    """Keys are derived from a secret in these houses, so the same person's text has the same digest in both."""
    desk = desk_of(house, 6)
    judge(house, desk, "rita", reason='="x"\n\'- ana')
    judge(house, desk, "rolf", verdict="reject")
    for task in desk.queue(house.names.of("alma"), RUBRIC, role="adjudicator")[:4]:
        label = Label(text=task.item.text, verdict="approve", rules=("honesty",))
        desk.adjudicate(task.item.item, house.names.of("alma"), label)
    out = write_rows(label_rows(desk, RUBRIC), kind)
    (tmp_path / "other").mkdir()
    other = house_class(tmp_path / "other")
    try:
        there = desk_of(other, 6)
        # adjudicators first: the order of lines is no order of events
        shuffled = sorted(read_rows(out, kind), key=lambda pair: pair[1]["role"])
        found = import_labels(there, shuffled, other.names.of)
        assert (found.taken, found.known, found.blank) == (16, 0, 0)
        assert sorted(map(str, label_rows(there, RUBRIC))) == sorted(map(str, label_rows(desk, RUBRIC)))
        assert import_labels(there, read_rows(out, kind), other.names.of).known == found.taken
    finally:
        other.ledger.close()


def test_a_sheet_has_what_its_reviewer_sees_in_their_order_and_nothing_more(house):
    desk = desk_of(house, 6)
    judge(house, desk, "rita", reason="zanzibar")
    sheet = sheet_rows(desk, RUBRIC, house.names.of("rolf"))
    assert [row["item"] for row in sheet] == [task.item.item for task in desk.queue(house.names.of("rolf"), RUBRIC)]
    assert all(row["verdict"] == row["reason"] == "" and row["rules"] == [] for row in sheet)
    assert "zanzibar" not in str(sheet) and house.names.of("ana") not in str(sheet)
    assert house.names.of("rita") not in str(sheet)
    for kind in ("jsonl", "csv"):
        assert len(read_rows(write_rows(sheet, kind, SHEET_COLUMNS), kind)) == 6


def test_one_bad_line_leaves_the_desk_as_it_was(house):
    desk = desk_of(house, 3)
    sheet = [
        row | {"verdict": "approve", "rules": ["honesty"]} for row in sheet_rows(desk, RUBRIC, house.names.of("r"))
    ]
    sheet[1] |= {"verdict": "approve", "text": "sha256:" + "0" * 64}
    with pytest.raises(PlumblineError, match="1 of 3 rows") as refused:
        import_labels(desk, read_rows(write_rows(sheet, "jsonl"), "jsonl"), house.names.of)
    assert "line 2" in str(refused.value)
    assert desk.reviews.labels() == {}


def test_many_faults_are_counted_and_some_are_shown(house):
    desk = desk_of(house, 1)
    bad = [{"item": number, "verdict": "approve", "reviewer": "rita"} for number in range(50)]
    with pytest.raises(PlumblineError, match="50 of 50 rows") as refused:
        import_labels(desk, read_rows(write_rows(bad, "jsonl"), "jsonl"), house.names.of)
    assert str(refused.value).count("line ") == 20 and "and 30 more" in str(refused.value)


def test_an_empty_table_still_says_its_columns():
    assert write_rows([], "csv").startswith('"item","text"') and read_rows(write_rows([], "csv"), "csv") == []
    assert set(LABEL_COLUMNS) < set(SHEET_COLUMNS)


def test_a_long_answer_survives_the_csv_reader():
    row = {name: "" for name in LABEL_COLUMNS} | {"item": 1, "rules": [], "reason": "x" * 200_000}
    ((_, back),) = read_rows(write_rows([row], "csv"), "csv")
    assert back["reason"] == row["reason"]
