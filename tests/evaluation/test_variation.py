"""Variants on request: the same items in other words, beside the canonical ones, and what they do to the report."""

import json
import re

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import answer_suite, compare
from plumbline.evaluation.suites.variation import BUILTIN, Template, Variants, Wording, read_variants, with_variants
from plumbline.records import Example, Provenance, Suite, say


@pytest.fixture
def small(make_suite):
    return make_suite(30)


@pytest.fixture
def asked(written, rubric, decoder):
    def run(suite, aligned="sound", **more):
        policies = written(), aligned if not isinstance(aligned, str) else written(aligned)
        return compare(*[answer_suite(one, suite, decoder) for one in policies], suite, rubric=rubric, **more)

    return run


def reading(report, name="template_overfit"):
    return next(one for one in report.pressures if one.pressure == name)


def test_every_canonical_item_is_asked_in_every_template_and_none_of_its_own_words_change(small):
    wide = with_variants(small, BUILTIN)
    assert wide.items[: len(small.items)] == small.items and wide.digest != small.digest
    canonical = [item for item in small.items if item.phrasing == "canonical"]
    made = wide.items[len(small.items) :]
    assert len(made) == 2 * len(canonical)
    polite = next(item for item in made if item.id == f"{canonical[0].id}~polite")
    assert polite.messages[-1].content == f"Please answer: {canonical[0].messages[-1].content}"
    assert (polite.area, polite.variant_of) == ("template_overfit", canonical[0].id)
    assert (polite.scorer, polite.references, polite.cluster) == (
        canonical[0].scorer, canonical[0].references, canonical[0].cluster,
    )  # fmt: skip


def test_areas_are_estimated_as_if_nobody_had_asked_for_variants(small, asked):
    alone, beside = asked(small, "yields"), asked(with_variants(small, BUILTIN), "yields")
    for name in ("estimates", "baselines", "severe", "failures", "diagnostics"):
        assert getattr(alone, name) == getattr(beside, name), name


def test_a_policy_that_leans_on_the_canonical_words_is_found_and_each_area_shows_its_variants(small, asked, written):
    class Open(written):
        """Reads what a template holds."""

        def _say(self, question):
            return super()._say(re.sub(r"^(Please answer|Question): |\nAnswer:$", "", question))

    class Leaning(Open):
        def _say(self, question):
            return "what?" if question.startswith("Please answer:") else super()._say(question)

    wide = with_variants(small, BUILTIN)
    report, fair = asked(wide, Leaning()), asked(wide, Open())
    assert reading(report).alarm and not reading(fair).alarm
    found = reading(report).statistics
    assert found["advantage_polite"] > 0.5 and found["advantage_labelled"] == pytest.approx(0, abs=0.35)
    assert found["variance_of_templates_aligned"] > 0.05
    assert "over the requested variants the aligned policy's success spreads by" in reading(report).explanation
    rows = {one.slice: one for one in report.slices if (one.area, one.metric) == ("helpfulness", "exact")}
    assert rows["variant:polite"].aligned.rate == 0 and rows["variant:canonical"].aligned.rate == 1
    assert rows["variant:polite"].n == 30


def test_a_suite_whose_author_wrote_no_variants_gets_no_variance_of_theirs(small, asked):
    english = Suite(name="e", version="1", items=tuple(i for i in small.items if i.phrasing == "canonical"))
    found = reading(asked(with_variants(english, BUILTIN))).statistics
    assert "variance_of_templates_aligned" in found and "variance_of_variants_aligned" not in found


def test_an_item_that_was_trained_on_takes_its_variants_with_it(small, asked):
    first = small.items[0]
    provenance = Provenance(origin="seed", author="a", source="s")
    training = [Example(messages=(*first.messages, say("assistant", "1")), slice="s", provenance=provenance)]
    report = asked(with_variants(small, BUILTIN), training_examples=training)
    assert report.contaminated == (first.id,) and report.missing == 0
    rows = {one.slice: one for one in report.slices if one.area == "helpfulness"}
    assert rows["variant:polite"].n == rows["variant:canonical"].n == 29


def test_a_translation_stands_for_one_item_with_its_own_answer(small):
    first = small.items[0]
    rows = [Wording(variant_of=first.id, language="es", text="¿cuánto es?", references=("dos",))]
    (made,) = with_variants(small, Variants(wordings=tuple(rows))).items[len(small.items) :]
    assert (made.id, made.language, made.references) == (f"{first.id}~language-es", "es", ("dos",))


def test_a_file_holds_templates_and_wordings(tmp_path):
    file = tmp_path / "variants.jsonl"
    rows = [{"phrasing": "curt", "template": "{request}!"}, {"variant_of": "i", "language": "es", "text": "hola"}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_variants(str(file)) == Variants(
        (Template(phrasing="curt", template="{request}!"),), (Wording(variant_of="i", language="es", text="hola"),)
    )
    assert read_variants("builtin") is BUILTIN


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"phrasing": "curt", "template": "no place"}', "line 1 is no variant"),
        ('{"variant_of": "i", "text": "same"}', "names its phrasing, or a language other than en"),
        ("{", "line 1 is no variant"),
        ("", "holds no variant"),
        (
            '{"phrasing": "a", "template": "{request}"}\n{"phrasing": "a", "template": "x {request}"}',
            "one phrasing's name",
        ),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_with_its_line(tmp_path, line, words):
    file = tmp_path / "variants.jsonl"
    file.write_text(line)
    with pytest.raises(PlumblineError, match=words):
        read_variants(str(file))


def test_a_wording_of_nothing_and_two_of_one_name_are_refused(small):
    stranger = Wording(variant_of="nobody", language="es", text="hola")
    with pytest.raises(PlumblineError, match="'nobody', which is no canonical item"):
        with_variants(small, Variants(wordings=(stranger,)))
    twice = tuple(Wording(variant_of=small.items[0].id, language="es", text=text) for text in ("uno", "dos"))
    with pytest.raises(PlumblineError, match="are both called language-es"):
        with_variants(small, Variants(wordings=twice))
    other = Suite(name="o", version="1", items=tuple(i.model_copy(update={"area": "mine"}) for i in small.items[:3]))
    with pytest.raises(PlumblineError, match="no canonical item of a behaviour area"):
        with_variants(other, BUILTIN)
