"""Variants made on request: every canonical item of a suite asked again in other words, beside itself.

A file of variants is JSONL, and each line is one of two things:

    {"phrasing": "polite", "template": "Please answer: {request}"}
    {"variant_of": "facts/1", "language": "es", "text": "...", "references": ["..."], "choices": ["..."]}

A template is put around the last user message of every canonical item; what stands for the item word by word (another
language, another phrasing) is written for it alone, and its references and choices are the item's own where none are
given. `BUILTIN` holds two templates that change nothing of what is asked.

Variants are of the area `template_overfit`, which no margin holds: asking for them moves no area's estimate. They count
in the monitor of that name, and in each area's estimates by variant.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import Field, ValidationError, model_validator

from plumbline.errors import PlumblineError, first_fault
from plumbline.evaluation.suites.variants import CANONICAL, variant_of
from plumbline.records import AREAS, Record, Suite, SuiteItem, say

AREA = "template_overfit"
PLACE = "{request}"
BUILTIN_NAME = "builtin"


class Template(Record):
    """A phrasing of anything: `template` holds {request} where the request goes."""

    schema_id = "plumbline.dev/template-variant/v1"

    phrasing: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,40}$")
    template: str

    @model_validator(mode="after")
    def _has_a_place(self) -> "Template":
        if PLACE not in self.template or self.phrasing == CANONICAL:
            raise ValueError(f"a template holds {PLACE}, and its phrasing is another than {CANONICAL!r}")
        return self


class Wording(Record):
    """One item in other words, or in another language."""

    schema_id = "plumbline.dev/item-variant/v1"

    variant_of: str
    text: str = Field(min_length=1)
    language: str = "en"
    phrasing: str = CANONICAL
    references: tuple[str, ...] | None = None
    choices: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _differs(self) -> "Wording":
        if self.phrasing == CANONICAL and self.language == "en":
            raise ValueError("a variant names its phrasing, or a language other than en")
        return self


@dataclass(frozen=True)
class Variants:
    templates: tuple[Template, ...] = ()
    wordings: tuple[Wording, ...] = ()


BUILTIN = Variants(
    (
        Template(phrasing="polite", template=f"Please answer: {PLACE}"),
        Template(phrasing="labelled", template=f"Question: {PLACE}\nAnswer:"),
    )
)


def read_variants(source: str) -> Variants:
    """`builtin`, or a file. Raises PlumblineError that names the line."""
    if source == BUILTIN_NAME:
        return BUILTIN
    templates: list[Template] = []
    wordings: list[Wording] = []
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(source, f"it cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            if isinstance(row, dict) and "template" in row:
                templates.append(Template.model_validate(row))
            else:
                wordings.append(Wording.model_validate(row))
        except (ValidationError, orjson.JSONDecodeError) as error:
            raise _refused(source, f"line {number} is no variant: {first_fault(error)}") from error
    names = [one.phrasing for one in templates]
    if len(set(names)) < len(names):
        raise _refused(source, "two templates have one phrasing's name")
    if not templates and not wordings:
        raise _refused(source, "it holds no variant")
    return Variants(tuple(templates), tuple(wordings))


def with_variants(suite: Suite, wanted: Variants) -> Suite:
    """The suite's items, unchanged and in order, then their variants. PlumblineError where a wording names no item that
    is canonical, where two variants of an item have one name, or where nothing is canonical."""
    canonical = {item.id: item for item in suite.items if _is_canonical(item)}
    strangers = [one.variant_of for one in wanted.wordings if one.variant_of not in canonical]
    if strangers:
        raise _refused(suite.name, f"variant_of names {strangers[0]!r}, which is no canonical item of an area in it")
    made = [*_templated(canonical.values(), wanted.templates), *_worded(canonical, wanted.wordings)]
    known: set[str] = {item.id for item in suite.items}
    for item in made:
        if item.id in known:
            raise _refused(suite.name, f"two variants of {item.variant_of!r} are both called {variant_of(item)}")
        known.add(item.id)
    if not made:
        raise _refused(suite.name, "it has no canonical item of a behaviour area")
    return Suite(name=f"{suite.name}+variants", version=suite.version, items=(*suite.items, *made), terms=suite.terms)


def made_from(items: Iterable[SuiteItem]) -> dict[str, SuiteItem]:
    """The ids of variants that were made on request -> the canonical item each was made from. A variant that a suite's
    author wrote is of its twin's own area, and is not here."""
    by_id = {item.id: item for item in items}
    return {
        item.id: twin
        for item in by_id.values()
        if item.variant_of is not None
        and item.area == AREA
        and (twin := by_id.get(item.variant_of)) is not None
        and twin.area != AREA
    }


def _is_canonical(item: SuiteItem) -> bool:
    last = item.messages[-1].role == "user"
    return last and item.area in AREAS and item.variant_of is None and variant_of(item) == CANONICAL


def _templated(items: Iterable[SuiteItem], templates: Iterable[Template]) -> Iterator[SuiteItem]:
    kept = list(templates)
    for item in items:
        for one in kept:
            yield _variant(item, one.template.replace(PLACE, item.messages[-1].content), phrasing=one.phrasing)


def _worded(canonical: dict[str, SuiteItem], wordings: Iterable[Wording]) -> Iterator[SuiteItem]:
    for one in wordings:
        item = canonical[one.variant_of]
        made = _variant(item, one.text, phrasing=one.phrasing, language=one.language)
        yield made.model_copy(
            update={
                "references": item.references if one.references is None else one.references,
                "choices": item.choices if one.choices is None else one.choices,
            }
        )


def _variant(item: SuiteItem, text: str, *, phrasing: str, language: str = "en") -> SuiteItem:
    made = item.model_copy(
        update={
            "area": AREA,
            "slice": f"{item.area}/{item.slice}",
            "messages": (*item.messages[:-1], say("user", text)),
            "phrasing": phrasing,
            "language": language,
            "variant_of": item.id,
        }
    )
    return made.model_copy(update={"id": f"{item.id}~{variant_of(made)}"})


def _refused(where: str, fact: str) -> PlumblineError:
    return PlumblineError(
        f"the variants cannot be made of {where}: {fact}",
        consequence="nothing was asked",
        remedy=f"give --variants {BUILTIN_NAME}, or a file as docs/evaluation.md describes it",
    )
