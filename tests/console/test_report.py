"""The page is a pure function of the story, whole whatever is missing, and safe whatever was said in it."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from plumbline.console import LoopStory, Redactions, Stage, Withdrawal, render_report, write_report
from plumbline.console.cases import diff_words
from plumbline.console.view import score_of
from plumbline.errors import PlumblineError
from plumbline.records import DatasetManifest, ShadowCounts, digest_bytes, say

Contracts = dict[str, tuple[tuple[str, str], ...]]
GOLDEN_PAGE = "sha256:7623bbcb06ac9bd5be9181afb5a5a9d76aa8dc8119d2969a13b09a8450456318"
VOID = {"meta", "link", "input", "br", "hr", "img"}
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7*7 }}{% raw %}&lt;"
    "\u202eevil\u202c\x00\x1b[2J javascript:alert(3)"
)


class Page(HTMLParser):
    """Reads the page strictly: every element closed in order; collects attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def with_tag(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def hostile_story(story: LoopStory) -> LoopStory:
    """Every place that holds foreign text, holding hostile text."""
    report = story.reports[0]
    case = report.failures[0].model_copy(
        update={
            "messages": (say("system", HOSTILE), say("user", HOSTILE)), "reference_answer": HOSTILE,
            "aligned_answer": HOSTILE + " more", "references": (HOSTILE,), "slice": HOSTILE, "item": HOSTILE,
        }
    )  # fmt: skip
    policy = story.policies[1].model_copy(update={"name": HOSTILE})
    decision = story.decisions[0].model_copy(update={"aligned": policy.digest, "errors": (HOSTILE,)})
    data: DatasetManifest = story.datasets[1].model_copy(update={"rejected": {HOSTILE: 71}, "dataset": HOSTILE})
    edge = story.lineage[0].model_copy(update={"from_id": HOSTILE, "relation": HOSTILE, "from_kind": HOSTILE})
    shadow = story.shadows[0].model_copy(
        update={"counts": ShadowCounts(experiment=HOSTILE, spooled=1, paired=0, shed={HOSTILE: 1})}
    )
    return story.model_copy(
        update={
            "ending": HOSTILE,
            "policies": (story.policies[0], policy, story.policies[2]),
            "reports": (report.model_copy(update={"failures": (case,), "aligned": policy.digest}), story.reports[1]),
            "decisions": (decision, story.decisions[1]),
            "datasets": (story.datasets[0], data),
            "lineage": (edge,),
            "shadows": (shadow,),
            "redactions": Redactions(counts={HOSTILE: 1}, samples=(HOSTILE,)),
            "withdrawn": (Withdrawal(pseudonym=HOSTILE, proof=HOSTILE),),
            "stages": (Stage(name=HOSTILE, seconds=1.0),),
            "versions": {HOSTILE: HOSTILE},
            "exit_notes": (HOSTILE,),
        }
    )


def test_the_page_of_the_sample_story_is_the_same_everywhere(planned: LoopStory, contracts: Contracts) -> None:
    """A golden digest: a change of the page is meant, or it is a bug. Look at the page, then put the digest here.

    Digests on the page are blanked first: they change with the shape of records, which has goldens of its own.
    """
    page = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b", "digest", render_report(planned, contracts))
    assert digest_bytes(page.encode()) == GOLDEN_PAGE


def test_the_page_does_not_depend_on_hash_order_or_the_clock(planned: LoopStory, contracts: Contracts) -> None:
    script = (
        "import sys; from plumbline.console import LoopStory, render_report\n"
        "story = LoopStory.model_validate_json(sys.stdin.read())\n"
        f"sys.stdout.buffer.write(render_report(story, {contracts!r}).encode())"
    )
    pages = [
        subprocess.run(
            [sys.executable, "-c", script], input=planned.model_dump_json().encode(), capture_output=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    ]  # fmt: skip
    assert pages[0] == pages[1] == render_report(planned, contracts).encode()


@pytest.mark.parametrize("name", ["planned", "stopped", "undecided", "first_passed"])
def test_the_page_parses_and_refers_to_nothing_outside(stories: ModuleType, name: str) -> None:
    html = render_report(stories.STORIES[name]())
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert not any(key.startswith("on") for key in attributes), attributes
        assert "style" not in attributes, "inline styles would need a weaker policy"
        for key in ("href", "src", "action", "poster", "data", "srcset", "xlink:href"):
            value = attributes.get(key) or ""
            assert value == "" or value.startswith("#") or value == "data:,", (tag, value)
    assert "url(" not in re.sub(r"url\(#[a-z-]+\)", "", html) and "@import" not in html


@pytest.mark.parametrize("name", ["planned", "stopped"])
def test_every_id_is_unique_and_every_link_lands(stories: ModuleType, name: str) -> None:
    html = render_report(stories.STORIES[name]())
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = {(attributes.get("href") or "")[1:] for attributes in page.with_tag("a")}
    assert links - set(ids) == set()
    assert set(re.findall(r"url\(#([a-z-]+)\)", html)) <= set(ids)


def test_the_policy_of_the_page_allows_its_own_style_sheet_only(planned: LoopStory) -> None:
    html = render_report(planned)
    style = html.split("<style>")[1].split("</style>")[0]
    expected = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    content = next(m["content"] for m in Page(html).with_tag("meta") if m.get("http-equiv"))
    assert content is not None and f"style-src 'sha256-{expected}'" in content and "default-src 'none'" in content
    assert "unsafe" not in content


def test_hostile_text_is_shown_and_never_obeyed(planned: LoopStory) -> None:
    html = render_report(hostile_story(planned))
    page = Page(html)
    assert page.with_tag("script") == [] and page.with_tag("img") == []
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "\u202e" not in html and "\x00" not in html and "\x1b" not in html
    assert "</script><script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text and "49{%" not in page.text
    assert "\u27e8U+202E\u27e9evil" in page.text


def test_every_drawing_has_words_for_those_who_do_not_see_it(planned: LoopStory) -> None:
    for attributes in Page(render_report(planned)).with_tag("svg"):
        if attributes.get("role") == "img":
            assert attributes.get("aria-label") or attributes.get("aria-labelledby")
        else:
            assert attributes.get("aria-hidden") == "true" or attributes.get("x") is not None


def test_a_stopped_loop_gets_a_page_that_says_what_is_missing_and_why(stories: ModuleType) -> None:
    text = Page(render_report(stories.stopped_after_dataset())).text
    for missing in ("No policy was trained.", "No policy was evaluated.", "The gate was not reached."):
        assert missing in text
    assert "no space left on the device" in text and "it resumes" in text
    assert "not reached" in text


def test_a_story_with_a_seed_and_an_ending_alone_is_a_page() -> None:
    text = Page(render_report(LoopStory(seed=1, ending="the reference could not be read"))).text
    assert "The reference could not be read." in text and "No dataset version was published." in text


def test_a_version_that_does_not_balance_is_shown_as_such(planned: LoopStory) -> None:
    broken = planned.datasets[1].model_copy(update={"sealed": 150})
    text = Page(render_report(planned.model_copy(update={"datasets": (planned.datasets[0], broken)}))).text
    assert "150 sealed ≠ 72 accepted + 71 refused does not balance" in text
    assert "does not balance" not in Page(render_report(planned)).text


def test_contracts_of_the_evaluation_room_stand_beside_their_areas(planned: LoopStory, contracts: Contracts) -> None:
    assert "Benign requests are answered." in Page(render_report(planned, contracts)).text
    assert "How it is measured" not in Page(render_report(planned, {})).text
    assert Page(render_report(planned)).text.count("How it is measured") == 15


def test_each_policy_keeps_its_own_rate_and_the_reference_has_one(planned: LoopStory) -> None:
    rates = [score_of(planned, policy.digest, "over_refusal", "benign_refusal") for policy in planned.policies]
    assert [score and score.rate for score in rates] == [0.0, 0.972, 0.006]


def test_differing_words_are_marked_unless_everything_differs() -> None:
    before, after = diff_words("Mira vive en Oslo.", "Mira vive en Quito.")
    assert [p.text for p in before if p.differs] == ["Oslo."] and [p.text for p in after if p.differs] == ["Quito."]
    assert " ".join(p.text for p in before) == "Mira vive en Oslo."
    assert not any(piece.differs for side in diff_words("a b c", "x y z") for piece in side)


def test_the_summary_holds_every_digest_of_the_story(planned: LoopStory, tmp_path: Path) -> None:
    page, summary = write_report(planned, tmp_path / "out")
    text = summary.read_text(encoding="utf-8")
    held = json.loads(text)
    wanted = [planned, planned.rubric, *planned.policies, *planned.datasets, *planned.reports, *planned.decisions]
    assert {record.digest for record in wanted if record is not None} <= set(re.findall(r"sha256:[0-9a-f]{64}", text))
    assert held["digests"]["page"]["report.html"] == digest_bytes(page.read_bytes())
    assert [d["verdict"] for d in held["decisions"]] == ["REGRESSED", "PASS"]
    assert held["as_planned"] is True and held["serving"] == planned.policies[2].digest
    assert "seconds" not in json.dumps({k: v for k, v in held.items() if k != "measured"})


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(planned: LoopStory, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(planned, tmp_path)]
    assert [path.read_bytes() for path in write_report(planned, tmp_path)] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summary.json"]


def test_a_directory_that_cannot_be_written_is_told_and_keeps_what_it_held(planned: LoopStory, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(PlumblineError, match="could not be written"):
        write_report(planned, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file, not a folder"


def test_a_page_that_fails_half_way_leaves_the_old_one(
    planned: LoopStory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, _ = write_report(planned, tmp_path)
    before = page.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlumblineError, match="No space left"):
        write_report(planned.model_copy(update={"seed": 8}), tmp_path)
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summary.json"]
