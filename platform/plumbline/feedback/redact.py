"""Redaction: what looks like a person's data or a secret becomes a typed placeholder before anyone trains on it.

Found: e-mail addresses, phone numbers, payment cards (Luhn), IBANs (mod 97), IPv4 and IPv6 addresses, private keys,
tokens and passwords of known shapes. NOT found: names, postal addresses, anything that only meaning reveals; that
stays said beside every count. Digits alone are not personal: a short number, or a run of small numbers, is kept.

User text is hostile: every quantifier is bounded or possessive, so the time is linear in the text's length.
Originals are never logged and never returned, only counts.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field

NOT_DETECTED = ("names", "postal addresses", "dates of birth")


@dataclass(frozen=True)
class Redacted:
    """`counts` by class; empty when the text is as it was."""

    text: str
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rule:
    name: str
    pattern: re.Pattern[str]
    needs: str  # characters of which one must be in the text: a cheap test that skips most texts
    accept: Callable[[str], bool] = lambda _: True


def _luhn(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    compact = text.replace(" ", "").replace("-", "").upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _phone(text: str) -> bool:
    return 7 <= sum(character.isdigit() for character in text) <= 15


_DIGITS = "0123456789"
_RULES = (
    _Rule(
        "private_key",
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]{0,20000}+(?:-----END [A-Z ]{0,30}KEY-----)?"
        ),
        "-",
    ),
    _Rule(
        "secret",
        re.compile(
            r"(?<![A-Za-z0-9])(?:"
            r"A(?:KIA|SIA)[0-9A-Z]{16}"
            r"|gh[pousr]_[A-Za-z0-9]{36,255}+"
            r"|github_pat_[A-Za-z0-9_]{22,255}+"
            r"|sk-[A-Za-z0-9_-]{20,255}+"
            r"|xox[abprs]-[A-Za-z0-9-]{10,255}+"
            r"|AIza[0-9A-Za-z_-]{35}"
            r"|hf_[A-Za-z0-9]{30,255}+"
            r"|eyJ[A-Za-z0-9_-]{10,4000}+\.[A-Za-z0-9_-]{10,8000}+\.[A-Za-z0-9_-]{10,4000}+"
            r")"
        ),
        "AgsxhE_-",
    ),
    _Rule(
        "secret",
        re.compile(
            r"(?i)(?<![a-z0-9])(?:password|passwd|api[_-]?key|secret[_-]?key|access[_-]?token)"
            r"\s{0,3}(?:=|:|is)\s{0,3}['\"]?(?=[^\s'\"]{0,200}[0-9_!@#$%^&*-])[^\s'\"]{8,200}+"
        ),
        "aAkK",
    ),
    _Rule(
        "email",
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}"
            r"(?![A-Za-z0-9])"
        ),
        "@",
    ),
    _Rule(
        "iban",
        re.compile(
            r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])"
        ),
        _DIGITS,
        _iban,
    ),
    _Rule("card", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d])"), _DIGITS, _luhn),
    _Rule("ip", re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d]|\.\d)"), ".", _address),
    _Rule(
        "ip",
        re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,39}(?:\.\d{1,3}){0,3}(?![\w:])"),
        ":",
        lambda text: text.count(":") >= 2 and any(c.isalnum() for c in text) and _address(text),
    ),
    _Rule(
        "phone",
        re.compile(
            r"(?<![\w+])(?:"
            r"(?:\+|00)\d{1,3}(?:[ .()/-]{0,2}\d{1,5}){1,6}"  # international
            r"|\(0?\d{2,5}\)[ .-]?\d{2,5}(?:[ .-]?\d{2,5}){0,3}"  # (area) number
            r"|\d{3}[ .-]\d{3}[ .-]\d{4}"  # 3-3-4
            r"|\d{3}[-.]\d{4}"  # local 3-4
            r"|0\d{1,4}(?:[ .-]\d{2,5}){1,4}"  # national with a leading zero
            r"|0\d{8,10}"
            r"|\d{10,11}"
            r")(?![\w]|[.-]\d)"
        ),
        _DIGITS,
        _phone,
    ),
)  # fmt: skip


def redact(text: str) -> Redacted:
    """Replace every find by `[EMAIL]`, `[PHONE]`, `[CARD]`, `[IBAN]`, `[IP]`, `[SECRET]` or `[PRIVATE_KEY]`."""
    counts: dict[str, int] = {}
    for rule in _RULES:
        if not any(character in text for character in rule.needs):
            continue

        def replace(match: re.Match[str], rule: _Rule = rule) -> str:
            if not rule.accept(match[0]):
                return match[0]
            counts[rule.name] = counts.get(rule.name, 0) + 1
            return f"[{rule.name.upper()}]"

        text = rule.pattern.sub(replace, text)
    return Redacted(text, counts)
