"""Redaction: what looks like a person's data or a secret becomes a typed placeholder before anyone trains on it.

Found: e-mail addresses, phone numbers, payment cards, IBANs, IPv4 and IPv6 addresses, private keys, tokens and
passwords, by the shapes that their publishers document (`addresses`, `numbers`,
`secrets`), also as people disguise them: "ana at example dot com", full-width or Arabic digits, zero-width
characters and soft hyphens inside, `1[.]2[.]3[.]4`. NOT found: names, postal addresses, dates of birth, national
identity numbers, anything that only meaning reveals; that stays said beside every count. How much is found is
measured, class by class, on a labelled set (`check`), and goes into a version's card.

Most texts hold nothing, so most of the work is to see that quickly: one pass that deletes letters and white space
leaves what a find cannot do without (digits, `@`, `:`, `=` ...), and each rule runs only when its part is there.

User text is hostile. Every pattern is bounded or possessive and tried from marked places only, so the time is linear
in the text's length. Finds are blanked with NUL, which no pattern matches and every boundary refuses; placeholders
that are there already are blanked as well, so nothing is found twice. What is left beside a find may be one in its turn
("call 04111 1111 1111 1111"), so a text with finds is searched again until there are none.
Originals are never logged and never returned, only counts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from plumbline.feedback.glance import glances, kind
from plumbline.feedback.redaction import addresses, numbers, secrets

NOT_DETECTED = ("names", "postal addresses", "dates of birth", "national identity numbers")
CLASSES = ("email", "phone", "card", "iban", "ip", "secret", "private_key")
Found = tuple[int, int, str]
Rule = Callable[[str], Iterator[Found]]
_PASSES = 16  # a text that still shows something new after so many was made to


class Redacted(NamedTuple):
    """`counts` by class; empty when the text is as it was."""

    text: str
    counts: Mapping[str, int] = MappingProxyType({})


def redact(text: str) -> Redacted:
    """Replace every find by `[EMAIL]`, `[PHONE]`, `[CARD]`, `[IBAN]`, `[IP]`, `[SECRET]` or `[PRIVATE_KEY]`."""
    counts: dict[str, int] = {}
    for _ in range(_PASSES):
        found = find(text)
        if not found:
            break
        pieces: list[str] = []
        done = 0
        for start, end, name in found:
            pieces += text[done:start], _PLACEHOLDERS[name]
            counts[name] = counts.get(name, 0) + 1
            done = end
        pieces.append(text[done:])
        text = "".join(pieces)
    return Redacted(text, counts)


def redact_many(texts: Sequence[str]) -> list[Redacted]:
    """`redact` of each, at a fraction of the cost where most hold nothing."""
    held = may_hold(texts)
    return [redact(text) if may else Redacted(text) for text, may in zip(texts, held, strict=True)]


def may_hold(texts: Sequence[str]) -> list[bool]:
    """Which texts `find` must look at: it finds nothing in the others. Texts beyond ASCII it must."""
    held = np.ones(len(texts), bool)
    for seen, places in glances(texts):
        digits, colons, hyphens, equals, always, typed = seen.counts(*_TELLING_KINDS)
        held[places] = (
            (always > 0)
            | (digits >= 4)
            | (colons > 1)
            | (hyphens > 4)
            | (digits > 0) & ((hyphens > 1) | seen.runs(_OF_TOKENS, 16))
            | ((colons > 0) | (equals > 0)) & ((digits > 0) | (typed > 0))
            | seen.having(b"pass", b"bear", b"rrob", b"arob", b"iocc")
            | seen.having(b" at ") & seen.having(b" dot", b"unkt", b".co")
            | seen.having_exactly(*(name.encode() for name in secrets.AWS))
        )
    return held.tolist()


def find(text: str) -> list[Found]:
    """Where the finds are: (start, end, class), in order, never overlapping."""
    seen = text.encode("utf-8", "surrogatepass")
    marks = seen.translate(None, _SILENT)
    if _disguised(text, seen, marks):
        plain, starts, ends = _plain(text)
        seen = plain.encode("utf-8", "surrogatepass")
        rules = _rules_for(plain, seen, seen.translate(None, _SILENT))
        return [(starts[start], ends[end - 1], name) for start, end, name in _search(plain, rules)]
    rules = _rules_for(text, seen, marks)
    return _search(text, rules) if rules else []


def _disguised(text: str, seen: bytes, marks: bytes) -> bool:
    """Whether something must be taken off first: hidden characters, other digits, brackets about a dot."""
    if marks:
        if _CONTROL.search(marks):
            return True
        if (b"[" in marks or b"(" in marks or b"{" in marks) and _BRACKETED.search(text):
            return True
    if text.isascii():
        return False
    if _RARE.search(text) or ((b"\xf0" in seen or b"\xf3" in seen) and _RARE_BEYOND.search(text)):
        return True
    return _TELLING.search(marks) is not None and _ODD.search(text) is not None


def _rules_for(text: str, seen: bytes, marks: bytes) -> list[Rule]:
    """The rules that could find anything; `marks` are the characters other than letters, white space and `,.'"!?;`."""
    rules: list[Rule] = []
    low = text.lower()
    if marks:
        digits = len(marks) - len(marks.translate(None, b"0123456789"))
        colons = marks.count(b":")
        if b"-----" in marks or (digits and b"--" in marks and ("AGE-SECRET" in text or "PuTTY-User-Key" in text)):
            rules.append(secrets.private_keys)
        if digits and secrets.long_words(seen):
            rules.append(secrets.tokens)
        if b"@" in marks and b"/" in marks and "://" in text:
            rules.append(secrets.passwords_in_urls)
        if (digits or "!" in text or "?" in text or _SYMBOL.search(marks)) and secrets.may_be_assigned(
            low, colons > 0 or b"=" in marks
        ):
            rules.append(secrets.assignments)
        if b"@" in marks:
            rules.append(addresses.emails)
        if digits >= 4 and numbers.may_be_ibans(seen):
            rules.append(numbers.ibans)
        if colons > 6 or (colons > 1 and "::" in text):
            rules.append(addresses.ip6)
        if digits >= 4 and text.count(".") >= 3 and addresses.may_be_ip4(seen):
            rules.append(addresses.ip4)
        if digits >= 7:
            rules.append(numbers.cards_and_phones)
    if secrets.tokens not in rules and ("IA" in text or "ACCA" in text) and any(name in text for name in secrets.AWS):
        rules.append(secrets.tokens)
    if addresses.may_be_spelled(low):
        rules.append(addresses.spelled_emails)
    return rules


def _search(plain: str, rules: Iterable[Rule]) -> list[Found]:
    """Run the rules in order over a text without disguises. What one has found, the next no longer sees."""
    found: list[Found] = []
    if "[" in plain:
        plain = _PLACEHOLDER.sub(lambda match: "\0" * len(match[0]), plain)
    for rule in rules:
        spans = sorted(rule(plain))
        if spans:
            pieces: list[str] = []
            done = 0
            for start, end, _ in spans:
                pieces += plain[done:start], "\0" * (end - start)
                done = end
            plain = "".join([*pieces, plain[done:]])
            found += spans
    return sorted(found)


def _plain(text: str) -> tuple[str, list[int], list[int]]:
    """The text without its disguises, and for each of its characters where it starts and ends in the original."""
    visible: list[str] = []
    places: list[int] = []
    done = 0
    for match in _INVISIBLES.finditer(text):
        visible.append(text[done : match.start()])
        places += range(done, match.start())
        done = match.end()
    visible.append(text[done:])
    places += range(done, len(text))
    plain = "".join(visible).translate(_FOLDED)
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    done = 0
    for match in _BRACKETED.finditer(plain):
        start = match.start() - (
            match.start() > done and plain[match.start() - 1] == " " and match.lastgroup != "colon"
        )
        pieces += plain[done:start], _MARKS[match.lastgroup or ""]
        starts += *places[done:start], places[start]
        ends += *(place + 1 for place in places[done:start]), places[match.end() - 1] + 1
        done = match.end()
    pieces.append(plain[done:])
    starts += places[done:]
    ends += [place + 1 for place in places[done:]]
    return "".join(pieces), starts, ends


# Letters, white space and the punctuation of prose: by themselves nothing that any rule looks for.
_SILENT = bytes(b for b in range(256) if b > 127 or chr(b).isalpha() or chr(b) in " \t\n\r\v\f,.'\"!?;")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_SYMBOL = re.compile(rb"[@#$%^&*~+]")
_TELLING_KINDS = tuple(
    map(kind, ("0123456789", ":", "-", "=", "@[({" + "".join(map(chr, (*range(9), *range(14, 32), 127))), "!?#$%^&*~+"))
)
_OF_TOKENS = kind("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_TELLING = re.compile(rb"@|[0-9][^0-9]{0,3}[0-9][^0-9]{0,3}[0-9]")

_INVISIBLE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_ZEROS = (
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0DE6, 0x0E50,
    0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0xA620, 0xFF10, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6,
)  # fmt: skip


def _folded() -> dict[int, str]:
    """One character for one: digits of other scripts, full-width ASCII, the many dashes, dots and spaces."""
    folds = {0xFF01 + offset: chr(0x21 + offset) for offset in range(94)}
    for zero in _ZEROS:
        folds |= {zero + digit: str(digit) for digit in range(10)}
    folds |= dict.fromkeys([*range(0x2010, 0x2016), 0x2043, 0x2212, 0xFE58, 0xFE63], "-")
    folds |= dict.fromkeys([0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ")
    folds |= dict.fromkeys([0x2024, 0x3002, 0xFE52, 0xFF61], ".")
    folds |= {0xFE6B: "@", 0x2044: "/", 0xFE55: ":", 0xA789: ":", 0x02D0: ":"}
    return folds


_FOLDED = _folded()
# What gives a disguise away by itself; the rest (dashes, spaces, joiners, full-width commas) is common in honest
# text, and matters only beside digits or an at sign.
_RARE = re.compile(
    "[\u00ad\u200b\u2060-\u2064\ufeff"
    + "".join(chr(letter) for letter, to in _FOLDED.items() if letter < 0x10000 and (to.isalnum() or to == "@")) + "]"
)  # fmt: skip
_RARE_BEYOND = re.compile("[\U0001d7ce-\U0001d7ff\U000e0000-\U000e007f]")  # mathematical digits, tags
_ODD = re.compile(f"[{_INVISIBLE}{''.join(map(chr, _FOLDED))}]")
_MARKS = {"at": "@", "dot": ".", "colon": ":"}
_BRACKETED = re.compile(
    r"[\[({]\s?(?:(?P<at>@|at|AT|At|arroba|arobase|chiocciola|собака)"
    r"|(?P<dot>\.|dot|DOT|Dot|punto|punkt|point|ponto|точка)|(?P<colon>:))\s?[\])}] ?"
)
_INVISIBLES = re.compile(f"[{_INVISIBLE}]+")
_PLACEHOLDERS = {name: f"[{name.upper()}]" for name in CLASSES}
_PLACEHOLDER = re.compile("|".join(re.escape(shown) for shown in _PLACEHOLDERS.values()))
