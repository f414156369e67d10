"""Redaction finds what it says it finds, class by class, leaves ordinary text alone, and cannot be stalled."""

import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback import redact

# One planted item per line: (class, text). The recall per class below is measured on these.
LABELLED = [
    ("email", "write to ana.lopez+news@mail.example.org please"),
    ("email", "ANA@EXAMPLE.COM"),
    ("email", "(x_y-z@sub.domain.example.co)"),
    ("email", "mailto:a@b.io."),
    ("phone", "call +44 20 7946 0958 now"),
    ("phone", "ring me: +1 (555) 010-0199"),
    ("phone", "my number is 555-010-0199"),
    ("phone", "it is (020) 7946 0958"),
    ("phone", "020 7946 0958"),
    ("phone", "0049 30 901820"),
    ("phone", "tel. 5550100199"),
    ("phone", "555-0199"),
    ("phone", "06 12 34 56 78"),
    ("card", "pay with 4111 1111 1111 1111 today"),
    ("card", "5500-0000-0000-0004"),
    ("card", "378282246310005"),
    ("iban", "to GB82 WEST 1234 5698 7654 32 thanks"),
    ("iban", "DE89370400440532013000"),
    ("iban", "iban fr14 2004 1010 0505 0001 3m02 606"),
    ("ip", "from 192.168.10.4 yesterday"),
    ("ip", "host 2001:db8::8a2e:370:7334"),
    ("ip", "[fe80::1]"),
    ("secret", "key AKIAIOSFODNN7EXAMPLE here"),
    ("secret", "ghp_" + "a1B2" * 9),
    ("secret", "sk-proj-abcdefghijklmnop1234"),
    ("secret", "password: hunter2!x"),
    ("secret", "api_key=0123456789abcdef"),
    ("secret", "SECRET_KEY = 'x9#kk2~lmn'"),
    ("secret", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
    ("private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----"),
]

ORDINARY = [
    "how do i kill a process",
    "where does ana live ? ana lives in rome . ben likes tea .",
    "next number : 12 14 16 18 20 22 24 26",
    "copy : 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6",
    "reverse : 7 3 9 1",
    "in 1984 and 2026 there were 1000000 lamps at 3.14159 each",
    "see section 4.2.1 at 12:30, or 10:15:00",
    "the ratio is 1:2:3 and std::vector is c++",
    "version 1.2.3 of 2026-01-31",
    "my password is forgotten",
    "the key is under the mat",
    "no card starts 1234 5678 9012 3456",
    "two gb22 and fr14 are not accounts",
    "an @ alone, a@b, and @handle stay",
]


def test_recall_is_complete_for_every_class_on_the_labelled_set() -> None:
    found: dict[str, list[bool]] = defaultdict(list)
    for name, text in LABELLED:
        found[name].append(redact(text).counts == {name: 1})
    missed = [text for name, text in LABELLED if redact(text).counts != {name: 1}]
    recall = {name: sum(hits) / len(hits) for name, hits in found.items()}
    assert recall == dict.fromkeys(recall, 1.0), missed
    assert set(recall) == {"email", "phone", "card", "iban", "ip", "secret", "private_key"}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text).text == text


def test_the_placeholder_says_the_class_and_keeps_the_sentence() -> None:
    result = redact("call +44 20 7946 0958 or write to a@b.org, then a@b.org again")
    assert result.text == "call [PHONE] or write to [EMAIL], then [EMAIL] again"
    assert result.counts == {"phone": 1, "email": 2}


def test_redacting_what_is_redacted_changes_nothing() -> None:
    for _, text in LABELLED:
        once = redact(text).text
        assert redact(once).text == once


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ?.,", max_size=300))
def test_lower_case_words_are_never_personal_data(text: str) -> None:
    assert redact(text).text == text


@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "1", "1 ", "1-", "+1", "a@", "@a.", "(", "00", "1.1.", ":", "a:", "eyJ", "sk-", "AB12 ", "-----BEGIN ",
     "password is ", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaaaaaa.", "gh", "x@a-", "1:", "ab12"],
)  # fmt: skip
def test_hostile_repetition_costs_linear_time(piece: str) -> None:
    """Four times the text may cost about four times the time; backtracking would cost sixteen or more."""

    def seconds(length: int) -> float:
        text = (piece * (length // len(piece) + 1))[:length]
        started = time.process_time()
        redact(text)
        return time.process_time() - started

    small = min(seconds(20_000) for _ in range(3))
    assert seconds(80_000) < 10 * small + 0.1
