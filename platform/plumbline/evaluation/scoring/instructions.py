"""Verifiable instructions: the 25 kinds of IFEval (Zhou et al. 2023, arXiv 2311.07911), each a small function.

Written from the published descriptions and behaviour, with three differences that are kept on purpose: the language of
a text is told without chance (`language`), sentences are counted without a download (`texts`), and an argument of zero
is an argument. Where the publication is lenient (a highlight in ** counts twice, "at least" for placeholders), so is
this, because scores are compared with published ones.

An instruction is written on one line, as an item's reference: its name, a space, its arguments as JSON.

    length_constraints:number_words {"num_words": 300, "relation": "at least"}

*Strict*: the answer as it is follows every instruction. *Loose*: some reading of it does, without its first line, its
last line, both, or its asterisks.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.evaluation.scoring.language import language_of
from plumbline.evaluation.scoring.texts import sentences, tokens, words

Arguments = dict[str, Any]
Check = Callable[..., bool]
RELATIONS = ("at least", "less than")
FIXED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(text: str, instruction: str) -> bool:
    """Whether `text` follows one written instruction. An empty text follows none."""
    name, arguments = parse(instruction)
    return bool(text.strip()) and CHECKS[name](text, **arguments)


def follows_all(text: str, instructions: Iterable[str], *, loose: bool = False) -> bool:
    """Prompt-level accuracy of one answer: every instruction is followed, strictly or in some loose reading each."""
    readings = loosened(text) if loose else [text]
    return all(any(follows(reading, instruction) for reading in readings) for instruction in instructions)


def loosened(text: str) -> list[str]:
    """The eight readings of a loose score: as is, without first line, last line, both; and each without asterisks."""
    lines = text.split("\n")
    kept = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return kept + [reading.replace("*", "") for reading in kept]


def write(name: str, arguments: Arguments) -> str:
    """An instruction on one line. Arguments that are None were not asked for; zero and "" were."""
    kept = {key: value for key, value in arguments.items() if value is not None}
    written = f"{name} {json.dumps(kept, ensure_ascii=False, sort_keys=True)}" if kept else name
    parse(written)
    return written


def parse(instruction: str) -> tuple[str, Arguments]:
    """Name and arguments. Raises PlumblineError for a kind that is not known, or arguments that do not fit it."""
    name, _, rest = instruction.partition(" ")
    try:
        arguments = json.loads(rest) if rest else {}
    except ValueError:
        arguments = None
    if name not in CHECKS or not isinstance(arguments, dict) or set(arguments) != set(ARGUMENTS[name]):
        wanted = f"{name} takes {', '.join(ARGUMENTS[name]) or 'nothing'}" if name in CHECKS else "no such kind"
        raise PlumblineError(
            f"the instruction {instruction[:120]!r} cannot be checked: {wanted}",
            consequence="the item cannot be scored, and a suite is scored whole or not at all",
            remedy=f"use one of the {len(CHECKS)} kinds with its arguments as JSON: {', '.join(CHECKS)}",
        )
    relations = [value for key, value in arguments.items() if key.endswith("relation")]
    if any(relation not in RELATIONS for relation in relations):
        raise PlumblineError(
            f"the instruction {instruction[:120]!r} compares with {relations[0]!r}",
            consequence="the item cannot be scored, and a suite is scored whole or not at all",
            remedy='say "at least" or "less than"',
        )
    return name, arguments


def _compares(count: int, relation: str, number: int) -> bool:
    return count >= number if relation == "at least" else count < number


def _found(pattern: str, text: str) -> int:
    """Occurrences of a keyword, which the publication reads as a regular expression; one that is none, as it stands."""
    try:
        return len(re.findall(pattern, text, re.IGNORECASE))
    except re.error:
        return len(re.findall(re.escape(pattern), text, re.IGNORECASE))


def _keywords(text: str, keywords: list[str]) -> bool:
    return all(_found(keyword, text) for keyword in keywords)


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compares(_found(keyword, text), relation, frequency)


def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compares(text.lower().count(letter.lower()), let_relation, let_frequency)


def _language(text: str, language: str) -> bool:
    return language_of(text) == language


def _sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compares(len(sentences(text)), relation, num_sentences)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are parted by ***; one that is empty counts as none at either end, and as a fault between two."""
    parts = _trimmed(re.split(r"\s?\*\*\*\s?", text))
    return all(part.strip() for part in parts) and len(parts) == num_paragraphs


def _words(text: str, num_words: int, relation: str) -> bool:
    return _compares(len(words(text)), relation, num_words)


def _nth_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are parted by two line ends; the nth of all parts begins with the word, quotes and case aside."""
    parts = re.split(r"\n\n", text)
    filled = sum(bool(part.strip()) for part in parts)
    if filled != num_paragraphs or not 1 <= nth_paragraph <= filled or not parts[nth_paragraph - 1].strip():
        return False
    opening = parts[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", opening, maxsplit=1)[0].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = known.get(postscript_marker, rf"\s*{re.escape(postscript_marker.lower())}.*$")
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def _bullets(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def _fixed_answer(text: str) -> bool:
    return any(answer in text for answer in FIXED_ANSWERS)


def _highlights(text: str, num_highlights: int) -> bool:
    single = [found for found in re.findall(r"\*[^\n\*]*\*", text) if found.strip("*").strip()]
    double = [found for found in re.findall(r"\*\*[^\n\*]*\*\*", text) if found[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections


def _json(text: str) -> bool:
    body = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(found.strip("<>").strip() for found in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    parts = _trimmed(text.split("******"))
    return len(parts) == 2 and all(part.strip() for part in parts) and parts[0].strip() != parts[1].strip()


def _repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    parts = (part for token in tokens(text) for part in re.split("['’]", token))  # of "I'm" the I is one
    return _compares(sum(part.isupper() for part in parts), capital_relation, capital_frequency)


def _all_capitals(text: str) -> bool:
    return text.isupper() and language_of(text) == "en"


def _all_lower(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


def _no_comma(text: str) -> bool:
    return "," not in text


def _trimmed(parts: list[str]) -> list[str]:
    """Without an empty first and an empty last part."""
    first = 0 if parts[0].strip() else 1
    return parts[first : len(parts) if parts[-1].strip() else -1]


CHECKS: dict[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _fixed_answer,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capitals,
    "change_case:english_lowercase": _all_lower,
    "punctuation:no_comma": _no_comma,
}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    name: check.__code__.co_varnames[1 : check.__code__.co_argcount] for name, check in CHECKS.items()
}
