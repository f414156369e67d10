"""Secrets: private keys, tokens by the prefixes that their vendors document, passwords in URLs, and assignments.

A prefix alone is a word ("sk-learn", "hf_model"): a token also has the length that its vendor gives it, and a digit.
An assignment (`api_key = ...`, "my password is ...") counts when the value looks typed in rather than read from
somewhere: kept are `password=os.environ["X"]`, `${API_KEY}`, `<your-key>`, `********`, `max_tokens=1024`.
"""

import re
from collections.abc import Iterator

Found = tuple[int, int, str]

_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----[^\x00-]{0,40000}+"
    r"(?:-(?!----)[^\x00-]{0,40000}+){0,40}+(?:-----END [A-Z0-9 ]{0,30}KEY(?: BLOCK)?-----)?+"
    r"|PuTTY-User-Key-File-[123]:[^\x00]{0,4000}?Private-MAC: ?[0-9a-f]{40,64}"
    r"|AGE-SECRET-KEY-1[0-9A-Z]{50,70}+"
)


def private_keys(text: str) -> Iterator[Found]:
    for match in _KEY.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip()), "private_key"


_TOKEN = re.compile(
    r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS access key id
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,1000}+|GOCSPX-[A-Za-z0-9_-]{28}"  # Google
    r"|gh[pousr]_[A-Za-z0-9]{36,255}+|github_pat_[A-Za-z0-9_]{22,255}+"
    r"|gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|oas|ffct)-[A-Za-z0-9_.-]{20,300}+"  # GitLab
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}+|xapp-[0-9]-[A-Za-z0-9-]{20,255}+"  # Slack
    r"|hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{20,255}+"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}+|whsec_[A-Za-z0-9+/=]{24,255}+"  # Stripe
    r"|sk-(?:(?:proj|ant|or|svcacct|admin)-[A-Za-z0-9_-]{20,400}+"
    r"|[A-Za-z0-9]{20,400}+)"  # OpenAI, Anthropic, OpenRouter
    r"|hf_[A-Za-z0-9]{30,255}+|api_org_[A-Za-z0-9]{30,255}+"  # Hugging Face
    r"|(?:gsk|xai|r8|pplx|nvapi|csk|fw|tgp_v1|jina)[_-][A-Za-z0-9_-]{32,255}+"  # other model providers
    r"|npm_[A-Za-z0-9]{36,255}+|pypi-[A-Za-z0-9_-]{50,1000}+|rubygems_[0-9a-f]{48}|dckr_(?:pat"
    r"|oat)_[A-Za-z0-9_-]{20,100}+"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}+|SK[0-9a-f]{32}|key-[0-9a-f]{32}"  # SendGrid, Twilio, Mailgun
    r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,60}+"  # Shopify, Square
    r"|do[opr]_v1_[0-9a-f]{64}|dapi[0-9a-f]{32}|lin_api_[A-Za-z0-9]{40}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}"
    r"|gl(?:c|sa)_[A-Za-z0-9_=+/]{32,300}+|hv[sbr]\.[A-Za-z0-9_-]{24,300}+|sbp_[0-9a-f]{40}|secret_[A-Za-z0-9]{43}"
    r"|ATATT3[A-Za-z0-9_=-]{50,400}+|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"  # Atlassian, Telegram
    r"|eyJ[A-Za-z0-9_-]{10,4000}+\.[A-Za-z0-9_-]{10,8000}+\.[A-Za-z0-9_-]{10,4000}+"  # JWT, RFC 7519
)
_LONG = bytes(97 if b < 128 and (chr(b).isalnum() or chr(b) in "_-") else 32 for b in range(256))
_WIDE = bytes(97 if b < 128 and (chr(b).isalnum() or chr(b) in "_-.:/+=") else 32 for b in range(256))
_LONG_WORD = b"a" * 16
_ANY_DIGIT = re.compile(r"[0-9]")
AWS = ("AKIA", "ASIA", "ABIA", "ACCA")  # base 32: one key id in 28 has no digit


def long_words(seen: bytes) -> bool:
    """Whether there is a word of sixteen letters, digits, underscores or hyphens: no token is shorter."""
    return _LONG_WORD in seen.translate(_LONG)


def tokens(text: str) -> Iterator[Found]:
    seen = text.encode("ascii", "replace")  # one byte for one character
    words, wide = seen.translate(_LONG), seen.translate(_WIDE)
    position = words.find(_LONG_WORD)
    while position >= 0:
        start = wide.rfind(b" ", 0, position) + 1
        end = wide.find(b" ", position)
        end = end if end >= 0 else len(text)
        for match in _TOKEN.finditer(text, start, end):
            before = text[match.start() - 1] if match.start() else " "
            told = _ANY_DIGIT.search(match[0]) or match[0].startswith(AWS)
            if not (before.isascii() and before.isalnum()) and before != "\0" and told:
                yield match.start(), match.start() + len(match[0].rstrip(".")), "secret"
        position = words.find(_LONG_WORD, end)


_URL = re.compile(r"://(?=([^\s/:@\x00]{0,100}+:[^\s/@\x00]{1,200}+)@)")


def passwords_in_urls(text: str) -> Iterator[Found]:
    if "://" in text:
        for match in _URL.finditer(text):
            if not _read_from_elsewhere(match[1].partition(":")[2]):
                yield match.start(1), match.end(1), "secret"


# A word that ends what is assigned to, what stands before it, and what may follow until the value begins.
_PASSWORDS = (
    "password", "passwd", "passphrase", "passcode", "passwort", "pwd", "contraseña", "contrasena", "mot de passe",
    "kennwort", "senha", "wachtwoord", "lösenord", "hasło", "haslo", "parola", "пароль", "şifre", "sifre", "密码",
    "密碼", "パスワード", "비밀번호",
)  # fmt: skip
_TERM = re.compile(
    rf"(?P<password>{'|'.join(_PASSWORDS)})|(?P<pass>pass)|(?P<secret>secret|credential)|token|key|bearer "
)
_OWNER = re.compile(
    r"(?:api|access|secret|private|account|auth|client|encryption|signing|subscription|master|license|webhook|app|"
    r"service|storage|admin|deploy|bot|refresh|session|personal|user|root|db|database|shared[ _-]?access)[ _.-]?$"
)
_LINK = re.compile(
    r"(?P<rest>[a-z0-9_-]{0,24}+)['\"`]?(?:\s{0,3}(?P<sign>:=|=>|==?|:|：|＝)|(?P<is>\s{1,3}(?:is|was|es|est|ist|é|è|"
    r"это|jest|lautet|to):?(?=\s)|は|는|是))\s{0,3}(?P<quote>['\"`]?)(?:(?:bearer|basic|token) )?"
)
_VALUE = re.compile(r"[^\s'\"`\x00]{6,200}+")
_LONGER = re.compile(r"[^\s'\"`\x00;&,]*+")
_BEARER = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}+")
_MARKED = re.compile(r"[0-9!@#$%^&*~?+]")
_ELSEWHERE = re.compile(
    r"(?i)[$<{(%\[]|os\.|process\.|env\b|getenv|config|settings|self\.|args\.|request|input\(|none\b|null\b|true\b"
    r"|false\b"
    r"|your|my[_-]|example|changeme|x{4}|\*{3}|\.{3}|//"
)
_SIGNED_VALUE = re.compile(
    r"[:=]>?\s{0,3}(?:[Bb]earer |[Bb]asic |[Tt]oken )?['\"`]?(?=[^\s]{0,80}[0-9@#$%^&*~+!?])[^\s'\"`]{6}"
)
_SIGNED_ROOTS = (
    "secret", "token", "key", "credential", "pwd", "kennwort", "senha", "wachtwoord", "parola", "haslo", "sifre",
)  # fmt: skip
_FOREIGN_ROOTS = ("contrase", "lösen", "hasło", "пароль", "şifre", "密", "パスワード", "비밀번호")


def assignments(text: str) -> Iterator[Found]:
    low = text.lower()
    if len(low) != len(text):  # a letter whose lower case is longer
        low = text
    free = 0
    for term in _TERM.finditer(low):
        if term.start() < free or (span := _value(text, low, term)) is None:
            continue
        free = span[1]
        yield *span, "secret"


def _value(text: str, low: str, term: re.Match[str]) -> tuple[int, int] | None:
    """Where the value assigned to this word lies, if one is and it looks typed in."""
    if term[0] == "bearer ":
        match = _BEARER.match(text, term.end())
        return _grown(text, match.span()) if match and _ANY_DIGIT.search(match[0]) else None
    link = _LINK.match(low, term.end())
    if link is None:
        return None
    owned = _OWNER.search(low[max(0, term.start() - 24) : term.start()]) is not None
    password = term.lastgroup == "password"
    if term.lastgroup == "pass" and (link["is"] or link["rest"] or not _alone(low, term.start())):
        return None
    if term[0] == "key" and not owned:
        return None
    if (link["is"] and not (password or owned)) or (link["rest"][:1].isalpha() and not password):
        return None
    match = _VALUE.match(text, link.end())
    if match is None:
        return None
    start, end = match.span()
    if link["sign"] in ("=", "==") and not link["quote"]:
        end = start + len(re.split(r"[;&]", match[0], maxsplit=1)[0])
    end = start + len(text[start:end].rstrip(".,;:)]}"))
    value = text[start:end]
    least = 6 if password or term.lastgroup == "pass" else 8 if owned or term.lastgroup == "secret" else 16
    if end - start < least or not _MARKED.search(value) or _read_from_elsewhere(value):
        return None
    if not password and (not _ANY_DIGIT.search(value) or value.replace(".", "").replace(",", "").isdigit()):
        return None
    return _grown(text, (start, end)) if end - start > 150 else (start, end)


def _alone(low: str, start: int) -> bool:
    return start == 0 or not low[start - 1].isalpha()


def _grown(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """A value longer than the pattern's bound, to its end."""
    more = _LONGER.match(text, span[1])
    return (span[0], more.end() if more else span[1])


def _read_from_elsewhere(value: str) -> bool:
    return _ELSEWHERE.match(value) is not None or len(set(value)) < 3


def may_be_assigned(low: str, signed: bool) -> bool:
    """Whether a word is there that secrets are assigned to; `signed`: so is a colon or an equals sign."""
    if "pass" in low or "bearer " in low:
        return True
    if signed and _SIGNED_VALUE.search(low) and any(root in low for root in _SIGNED_ROOTS):
        return True
    return not low.isascii() and any(root in low for root in _FOREIGN_ROOTS)
