"""The preview as people read it: safe, self-contained, and legible without colour."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from plumbline.console.preview import in_bytes, preview_page, print_preview, scaled
from plumbline.records import MaskTotals
from plumbline.training.cost import Memory, Shape
from plumbline.training.preview import Cost, Cuts, Lengths, Plan, Preview, PreviewRow, Segment, SliceShare


def totals(**changes: int) -> MaskTotals:
    settings: dict[str, Any] = {
        "examples": 3, "rows": 3, "prompt_tokens": 30, "supervised_tokens": 1234, "truncated": 0, "dropped": 1,
        "stop_supervised": 3, "loss_share": 1.0,
    }  # fmt: skip
    return MaskTotals(**{**settings, **changes})


@pytest.fixture
def seen() -> Preview:
    segments = (
        Segment("<|user|>", False, True),
        Segment("who is </p><script>alert(1)</script> ana ?\nnow", False),
        Segment("a \u202e baker\x1b[31m .", True),
        Segment("<|end|>", True, True),
    )
    return Preview(
        objective="sha256:" + "a" * 64,
        policy="<policy>",
        dataset="sha256:" + "b" * 64,
        rows=(PreviewRow(7, "facts & fun", 0.5, 12, 5, segments),),
        ledger={"facts & fun": totals(), "all": totals()},
        cuts=Cuts(64, "drop", 0.02, 4, 1),
        lengths=Lengths((0, 33, 65, 97), (1, 2, 1), 40, 60, 96, 1, 4, 4, 4),
        shares=(SliceShare("facts & fun", 1.0, 0.4, 0.5, 0.6, 0.7), SliceShare("refusals", 2.0, 0.6, 0.5, 0.4, 0.3)),
        plan=Plan(10, 10, 8, 1, "bucketed", 2.0, 0.125, 200, 3000.0, 1234.0),
        cost=Cost(Shape(100, 50, 8, 2, 6, 200, 200), 3.21e12, 1e9, 2.6e9, 1.07, Memory(800, 800, 1600, 0, 5000, 600)),
    )


class Tags(HTMLParser):
    """The tags of a page, with their attributes, and the text inside <mark>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.marked: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "mark"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.marked.append(data)


def test_the_page_runs_nothing_and_fetches_nothing(seen: Preview) -> None:
    page = preview_page(seen)
    tags = Tags(page).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "object", "base", "form"}
    outside = [
        (tag, value)
        for tag, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "href") and not (value or "").startswith(("#", "data:"))
    ]
    assert outside == []
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_foreign_text_is_escaped_and_cannot_hide(seen: Preview) -> None:
    page = preview_page(seen)
    assert "&lt;/p&gt;&lt;script&gt;" in page
    assert "\u202e" not in page and "\x1b" not in page
    assert "\u27e8U+202E\u27e9" in page
    assert "&lt;policy&gt;" in page


def test_targets_and_nothing_else_are_marked_and_the_mark_is_more_than_a_colour(seen: Preview) -> None:
    page = preview_page(seen)
    assert Tags(page).marked[0] == "underlined"  # the key
    assert "".join(Tags(page).marked[1:]) == "a \u27e8U+202E\u27e9 baker\u241b[31m .<|end|>"
    assert re.search(r"\.target \{[^}]*text-decoration: underline", page)


def test_the_page_says_what_a_run_would_refuse(seen: Preview) -> None:
    assert "1\u00a0example of 4 would be cut, split or dropped" in preview_page(seen)
    refused = replace(seen, cuts=replace(seen.cuts, refused="2 of 4 examples do not fit"))
    assert "A run would be refused: 2 of 4 examples do not fit." in preview_page(refused)
    assert 'class="verdict refused"' in preview_page(refused)


def test_columns_in_which_nothing_happened_are_left_out(seen: Preview) -> None:
    assert ">split<" not in preview_page(seen)
    split = replace(seen, ledger={"all": totals(split=2)})
    assert ">split<" in preview_page(split)


def test_the_same_preview_is_the_same_page(seen: Preview) -> None:
    assert preview_page(seen) == preview_page(seen)


def test_an_empty_preview_still_renders(seen: Preview) -> None:
    assert "No row is left to show." in preview_page(replace(seen, rows=()))


def printed(seen: Preview, **settings: Any) -> str:
    stream = io.StringIO()
    print_preview(seen, Console(file=stream, width=100, **settings))
    return stream.getvalue()


def test_a_file_gets_brackets_where_a_terminal_gets_underlines(seen: Preview) -> None:
    plain = printed(seen)
    assert "\u27e6a \u27e8U+202E\u27e9 baker\u241b[31m .<|end|>\u27e7" in plain
    assert "\x1b" not in plain
    terminal = printed(seen, force_terminal=True, color_system="truecolor")
    assert "\x1b[4;32ma " in terminal  # underlined, and green
    assert "\u27e6" not in terminal


def test_markup_in_examples_is_text_in_the_terminal(seen: Preview) -> None:
    row = replace(seen.rows[0], slice="[red]x", segments=(Segment("[bold]not markup[/bold] [/]", True),))
    assert "[bold]not markup[/bold] [/]" in printed(replace(seen, rows=(row,)))
    assert "[red]x" in printed(replace(seen, rows=(row,)))


def test_the_terminal_tells_figures_and_where_no_time_can_be_told(seen: Preview) -> None:
    said = printed(seen)
    assert "limit" in said and "12.5\u00a0%" in said and "3.21 T" in said and "1.07 times the least possible" in said
    assert "--flops-per-second" in said
    measured = replace(seen, cost=replace(seen.cost, flops_per_second=1e9, seconds=7200.0))
    assert "2 hours" in printed(measured) and "--flops-per-second" not in printed(measured)


def test_a_layout_that_saves_nothing_is_pointed_out(seen: Preview) -> None:
    assert "Lower micro_batch_examples" not in " ".join(printed(seen).split())
    alone = replace(seen, plan=replace(seen.plan, micro_batches=1.0))
    assert "Lower micro_batch_examples" in " ".join(printed(alone).split())


def test_a_long_segment_is_shortened_in_the_terminal_alone(seen: Preview) -> None:
    row = replace(seen.rows[0], segments=(Segment("x" * 5000, False),))
    long = replace(seen, rows=(row,))
    assert "4400 characters" in printed(long)
    assert "x" * 5000 in preview_page(long)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 "), (999, "999 "), (1000, "1 k"), (999_900, "1 M"), (3.21e12, "3.21 T"), (5e21, "5e+03 E")],
)
def test_large_numbers_keep_three_digits(value: float, said: str) -> None:
    assert scaled(value) == said


def test_bytes_are_binary() -> None:
    assert [in_bytes(n) for n in (0, 1023, 1024, 3 * 2**30)] == ["0 bytes", "1023 bytes", "1 KiB", "3 GiB"]
    assert in_bytes(1000 * 2**30) == "1000 GiB"
