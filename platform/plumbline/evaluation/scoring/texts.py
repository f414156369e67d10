"""Words, sentences and paragraphs of a text, counted the same everywhere: no model, no download, no random number."""

import re

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:['’.-]\w+)*")
_END = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s|$)|[。！？।॥؟۔]+|\n\s*\n")
_BULLET = re.compile(r"^\s*(?:[*+-]|\d+[.)])\s+", re.MULTILINE)
_ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st vs etc e.g i.e cf fig no vol approx inc ltd co corp dept est gen gov jan feb mar apr"
    " jun jul aug sep sept oct nov dec a.m p.m u.s u.k u.n ph.d"
)


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores: what IFEval counts as words."""
    return _WORD.findall(text)


def tokens(text: str) -> list[str]:
    """Words with the apostrophes, dots and hyphens inside them: "don't", "U.S", "well-known" are one each."""
    return _TOKEN.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences end at . ! ? and their kin before white space, at the full stops of scripts that write no space, and at
    an empty line. Abbreviations, initials and the numbers of a list end none."""
    text = _BULLET.sub("", text)
    found, start = [], 0
    for end in _END.finditer(text):
        if not _ends_sentence(text, end):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    return [sentence for sentence in [*found, text[start:]] if _WORD.search(sentence)]


def _ends_sentence(text: str, end: re.Match[str]) -> bool:
    if end.group()[0] != "." or end.group().startswith(".."):
        return True
    before = re.search(r"\S+$", text[: end.start()])
    word = before.group().lower().lstrip("(\"'“‘[") if before else ""
    initials = word != "i" and re.fullmatch(r"(?:[^\W\d_]\.)*[^\W\d_]", word) is not None
    return not (initials or word in _ABBREVIATIONS.split()) or not text[end.end() :].strip()
