"""Addresses of people and machines: e-mail (RFC 5321, 5322, 6531) and IP (RFC 4291, RFC 791).

An address is looked for around its mark (`@`, ` at `, `::`), never from every letter: that is what keeps it fast, and
linear when the text is a megabyte of marks.

Kept: `a[i]@b` and `x@W` (no top-level domain), `@handle`, `git@host:path`, `look at the dot`; versions (`v1.2.3.4`,
`section 4.2.1.3`), `std::vector`, times, MAC addresses; loopback, unspecified and mask addresses, which are nobody's.
"""

import ipaddress
import re
from collections.abc import Iterator

Found = tuple[int, int, str]

_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?+"
_TOP = r"(?:[A-Za-z]{2,24}(?![A-Za-z0-9_\x00-])|(?:[^\W\d_]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![\w\x00]))"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.){{1,8}}{_TOP}")
_LITERAL = re.compile(r"\[(?:IPv6:)?[0-9A-Fa-f:.]{3,45}\]")
_SPACED = re.compile(rf" ?({_LABEL} ?\. ?(?:{_LABEL} ?\. ?){{0,2}}(?:com|org|net|edu|gov|io|[a-z][a-z]))(?![\w\x00])")
_REMOTE_USERS = ("git", "hg", "svn")


def emails(text: str) -> Iterator[Found]:
    at, free = text.find("@"), 0
    while at >= 0:
        match = _DOMAIN.match(text, at + 1) or _LITERAL.match(text, at + 1)
        start = _local_start(text, at, free)
        if match is None and " " in (text[at - 1 : at], text[at + 1 : at + 2]):
            match = _SPACED.match(text, at + 1)
            before = at - 1 if text[at - 1 : at] == " " else at
            start = _local_start(text, before, free)
        if (
            match is not None
            and start < at
            and not (text[start:at] in _REMOTE_USERS and text[match.end() :][:1] == ":")
        ):
            yield start, match.end(), "email"
            free = match.end()
        at = text.find("@", max(at + 1, free))


def _local_start(text: str, end: int, free: int) -> int:
    """Where the local part that ends at `end` starts; `end` itself when there is none."""
    low = max(free, end - 64)
    if text[end - 1 : end] == '"':
        quote = text.rfind('"', low, end - 1)
        return quote if quote >= 0 else end
    tail = text[low:end]
    start = low + len(tail.rstrip(_LOCAL))
    last = "\u0e00" if text[end - 1 : end].isascii() else "\U0010ffff"  # no space parts Chinese words from a name
    while start > low and text[start - 1] < last and (text[start - 1].isalnum() or text[start - 1] in _LOCAL):
        start -= 1
    while start < end and text[start] in "./'`{|}=*?!":  # what belongs to the sentence, not to the name
        start += 1
    blocked = start > 0 and text[start - 1] == "\0"
    return end if blocked or text[end - 1 : end] == "." else start


_AT_WORDS = r" (?:at|AT|At|arroba|Arroba|arobase|chiocciola|ät|собака) "
_PROVIDERS = (
    "gmail", "googlemail", "outlook", "hotmail", "yahoo", "icloud", "protonmail", "proton", "gmx", "aol", "yandex",
    "qq",
)  # fmt: skip
_NAMES_OF_PROVIDERS = "|".join(_PROVIDERS)
_SPELLED_AT = re.compile(_AT_WORDS)
_WORD = r"[a-z0-9-]{1,63}+"
_SPELLED_DOMAIN = re.compile(
    rf"(?:{_WORD}(?: (?:dot|punto|punkt|ponto|point|точка) {_WORD}){{0,3}}? (?:dot|punto|punkt|ponto|point|точка) "
    rf"[a-z]{{2,13}}|(?:{_NAMES_OF_PROVIDERS})\.com?)(?![a-z0-9_\x00-])"
)
_NOT_NAMES = (
    "a all and are be call chat find found here hosted i info is it live look looking me meet more on online or out "
    "page reach read see shop site stay that the them there this us visit was we website work working write you"
)
_NO_NAMES = frozenset(_NOT_NAMES.split())


def may_be_spelled(low: str) -> bool:
    """Whether a spelled address ("ana at example dot com") is possible at all in a lower-case text."""
    if " at " in low and (" dot " in low or " punkt " in low or ".co" in low):
        return True
    if " arroba " in low or " arobase " in low or " chiocciola " in low:
        return True
    return not low.isascii() and (" собака " in low or " ät " in low)


def spelled_emails(text: str) -> Iterator[Found]:
    low = text.lower()
    if len(low) != len(text):  # a letter whose lower case is longer
        low = text
    free = 0
    for mark in _SPELLED_AT.finditer(text):
        match = _SPELLED_DOMAIN.match(low, mark.end())
        if match is None:
            continue
        start = _local_start(text, mark.start(), free)
        if " point " in match[0] and mark[0] != " arobase ":
            continue
        if start < mark.start() and low[start : mark.start()] not in _NO_NAMES:
            yield start, match.end(), "email"
            free = match.end()


_IP4 = re.compile(r"[0-9]{1,3}+(?:\.[0-9]{1,3}+){3}(?![\w\x00]|\.[0-9])")
_DIGITS = re.compile(r"[0-9]++")
_NO_IP = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|section|sections|sec|chapter|clause|article|rule|build|firmware|step|"
    r"figure|table|part|paragraph|appendix|kapitel|abschnitt|sección|capítulo|версия)\.?|§) ?$|== ?$"
)


_DIGITS_ALIKE = bytes(48 if chr(b).isdecimal() else b for b in range(256))


def may_be_ip4(seen: bytes) -> bool:
    """Whether a dot stands between two digits."""
    return b"0.0" in seen.translate(_DIGITS_ALIKE)


def ip4(text: str) -> Iterator[Found]:
    position = 0
    while group := _DIGITS.search(text, position):
        start, position = group.span()
        if text[position : position + 1] != "." or position - start > 3:
            continue
        match = _IP4.match(text, start)
        if match is None or not _free_before(text, start):
            continue
        position = match.end()
        parts = [int(part) for part in match[0].split(".")]
        if max(parts) < 256 and not _nobodys(parts) and not _NO_IP.search(text[max(0, start - 16) : start].lower()):
            yield start, position, "ip"


def _nobodys(parts: list[int]) -> bool:
    return parts[0] in (0, 127) or parts[:2] == [255, 255] or (parts[0] == 255 and parts[2:] == [0, 0])


def _free_before(text: str, start: int) -> bool:
    """Whether a number may begin here: not within a word, an identifier or a longer number."""
    before = text[start - 1 : start] if start else ""
    if before.isalnum() or before in ("_", "\0"):
        return False
    return not (before == "." and start > 1 and text[start - 2].isdigit())


def ip6(text: str) -> Iterator[Found]:
    for match in _IP6_RUN.finditer(text):
        start, end = match.span()
        whole = match[0].rstrip(".")
        if whole.endswith(":") and not whole.endswith("::"):
            whole = whole[:-1]
        if whole.startswith(":") and not whole.startswith("::"):
            whole, start = whole[1:], start + 1
        end = start + len(whole)
        if whole.count(":") < 2 or end - start > 60 or not any(character.isdigit() for character in whole):
            continue
        if _glued(text[start - 1 : start]) or _glued(text[end : end + 1]):
            continue
        if (address := _address6(whole)) and not (address.is_loopback or address.is_unspecified):
            yield start, end, "ip"


_IP6_RUN = re.compile(r"[0-9A-Fa-f:][0-9A-Fa-f:.]{2,}+(?:%[A-Za-z0-9]{1,15}+)?")


def _glued(character: str) -> bool:
    return character.isalnum() or (character in ("_", "\0") and character != "")


def _address6(text: str) -> ipaddress.IPv6Address | None:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        return None
