"""What the labelled set of redaction is made of: formats by class, carriers, disguises, hard negatives.

A format is a name and a function that draws one value. Templates read: `#` a digit, `%` a digit from 1, `N` a digit
from 2; `{a20}` twenty letters or digits, `{u}` the URL-safe ones, `{h}` hexadecimal, `{A}` capitals or digits,
`{w}` a made-up word. Lists are dealt to two halves by turns (`check`), so order matters: neighbours are
siblings, and each half gets one of them. "said" in a format's name: it is ambiguous without words beside it, and
stands in a carrier that has them.
"""

import base64
import random
import re
import string
from collections.abc import Callable
from functools import partial

Make = Callable[[random.Random], str]
Format = tuple[str, Make]

_ALPHABETS = {
    "a": string.ascii_letters + string.digits,
    "u": string.ascii_letters + string.digits + "_-",
    "h": "0123456789abcdef",
    "A": string.ascii_uppercase + string.digits,
    "b": string.ascii_letters + string.digits + "+/",
    "n": string.digits,
    "l": string.ascii_uppercase,
}
_SYLLABLE = "ba be bi bo da de do fa fi go ha ja ka ki la le lo ma mi mo na ne no pa po ra re ri ro sa se so ta ti to"
_SYLLABLES = _SYLLABLE.split()
_TOKEN = re.compile(r"\{([a-zA-Z])(\d*)\}|[#%N]")


def word(dice: random.Random) -> str:
    return "".join(dice.choice(_SYLLABLES) for _ in range(dice.randint(2, 4)))


def fill(dice: random.Random, template: str) -> str:
    def draw(match: re.Match[str]) -> str:
        if match[1] is None:
            return str(dice.randint({"#": 0, "%": 1, "N": 2}[match[0]], 9))
        if match[1] == "w":
            return word(dice)
        return "".join(dice.choices(_ALPHABETS[match[1]], k=int(match[2] or 1)))

    return _TOKEN.sub(draw, template)


def templates(*rows: str) -> list[Format]:
    """`name|template` rows as formats."""
    pairs = (row.split("|", 1) for row in rows)
    return [(name, partial(fill, template=template)) for name, template in pairs]


# E-mail: local parts and domains of RFC 5321 4.1.2, RFC 5322 3.4.1, RFC 6531; spoken and defanged forms.
_EMAILS = templates(
    "plain|{w}@{w}.com", "dotted|{w}.{w}@{w}.org", "plus|{w}+{w}@{w}.net", "hyphens|{w}-{w}@{w}-{w}.de",
    "digits|{w}##@{w}.io", "underscore|{w}_{w}@{w}.fr", "subdomains|{w}@{w}.{w}.co.uk", "long top|{w}@{w}.museum",
    "new top|{w}.{w}@{w}.technology", "capitals|{l4}.{l5}@{l6}.COM", "apostrophe|o'{w}@{w}.ie", 
    "quoted|\"{w} {w}\"@{w}.com", "quoted dots|\"{w}..{w}\"@{w}.org", "literal|{w}@[203.0.113.N]",
    "literal v6|{w}@[IPv6:2001:db8::%]", "idn|{w}@bücher-{w}.de", "smtputf8|jürgen.{w}@{w}.de",
    "punycode|{w}@xn--{w}-kva.com", "atext|{w}&{w}=*{w}@{w}.com",
    "punycode top|{w}@{w}.xn--p1ai", "spelled|{w} at {w} dot com", "spelled dots|{w} at {w} dot co dot uk",
    "spelled capitals|{w} AT {w} dot org", "spelled local|{w}.{w} at {w} dot net", "bracketed|{w} [at] {w} [dot] com",
    "round|{w}(at){w}(dot)org", "bracket and dot|{w}[at]{w}.org", "braces|{w}{at}{w}.com", "defanged|{w}@{w}[.]com",
    "defanged at|{w}[@]{w}[.]net", "spaced|{w} @ {w}.com", "spaced dots|{w} @ {w} . org", "provider|{w}## at gmail.com",
    "provider two|{w} at outlook.com", "arroba|{w} arroba {w} punto com", "arobase|{w} arobase {w} point fr",
    "mailto|{w}.{w}@{w}.eu", "slashed|{w}/{w}@{w}.com", "one letter|{h1}@{w}.se", "digits only|########@qq.com",
)  # fmt: skip

# Phones: E.164, and the written forms of national numbering plans (ITU-T E.123 for the notation).
_PHONES = templates(
    "us e.164|+1NNN555####", "us +1|+1 NNN-555-####", "us (3) 3-4|(N##) N##-####", "us 3-3-4|N##-N##-####",
    "us dots|N##.N##.####", "us spaces|N## N## ####", "us 1-|1-8##-N##-####", "us +1 ( )|+1 (N##) N##-####",
    "us ext|(N##) N##-#### ext. ###", "us x|N##-N##-#### x####", "us bare said|N##N######", "us local said|N##-####",
    "gb london|020 %### ####", "gb mobile|07### ######", "gb +44|+44 20 %### ####", "gb +44 (0)|+44 (0)7### ######",
    "gb area|0%##% ######", "gb brackets|(01%##) ######", "gb bare|07#########", "gb 0044|0044 20 %### ####",
    "de slash|030/%#######", "de +49|+49 30 %#######", "de mobile|0176 %#######", "de hyphen|0%#%-%######",
    "de (0)|+49 (0)89 %######", "de extension|0%# %####-##", "fr pairs|0% ## ## ## ##", "fr dots|06.##.##.##.##",
    "fr +33|+33 6 ## ## ## ##", "fr +33(0)|+33(0)1 ## ## ## ##", "es 3-2-2-2|6## ## ## ##", "es 3-3-3 said|6## ### ###",
    "es +34|+34 6## ### ###", "it mobile said|3## #######", "it +39|+39 3## ### ####", "it rome|06 %### ####",
    "nl|06-########", "nl +31|+31 6 ########", "be|0%## ## ## ##", "be +32|+32 4## ## ## ##", "ch|0%% ### ## ##",
    "ch +41|+41 %# ### ## ##", "at|0664 %######", "at +43|+43 1 %######", "se|070-### ## ##", "se +46|+46 70 ### ## ##",
    "no said|%# ## ## ##", "no +47|+47 %## ## ###", "dk said|%# ## ## ##", "dk +45|+45 %# ## ## ##",
    "pl said|5## ### ###", "pl +48|+48 5## ### ###", "ru 8|8 (9##) ###-##-##", "ru +7|+7 9## ###-##-##",
    "ru +7 ( )|+7 (495) ###-##-##", "ua|+380 %# ### ## ##", "tr|0 5## ### ## ##", "tr +90|+90 5## ### ## ##",
    "in 5-5|9#### #####", "in +91|+91 9#### #####", "in bare said|9#########", "in +91-|+91-9#########",
    "cn 3-4-4|13# #### ####", "cn +86|+86 13# #### ####", "cn bare said|13#########", "jp mobile|090-####-####",
    "jp tokyo|03-####-####", "jp +81|+81 90 #### ####", "kr|010-####-####", "kr +82|+82 10-####-####",
    "br|(11) 9####-####", "br +55|+55 11 9####-####", "mx said|55 #### ####", "mx +52|+52 55 #### ####",
    "au|04## ### ###", "au +61|+61 4## ### ###", "au area|(02) %### ####", "nz|021 ### ####", "za|08# ### ####",
    "ng|080# ### ####", "ie|08# ### ####", "ie +353|+353 8# ### ####", "il|05#-###-####", "sg +65|+65 9### ####",
    "hk +852|+852 9### ####", "tel uri said|tel:+1-N##-N##-####", "0049|0049 170 %######", "011|011 44 20 %### ####",
)  # fmt: skip


def check_digit(body: str) -> str:
    values = [int(digit) for digit in body]
    total = sum(
        value if place % 2 else (value * 2 - 9 if value > 4 else value * 2)
        for place, value in enumerate(reversed(values))
    )
    return str(-total % 10)


def _card(template: str, groups: str, mark: str) -> Make:
    def make(dice: random.Random) -> str:
        body = fill(dice, template)
        digits, pieces, done = body + check_digit(body), [], 0
        for size in groups.split("-"):
            pieces.append(digits[done : done + int(size)])
            done += int(size)
        return mark.join(pieces)

    return make


_CARDS: list[Format] = [
    (f"{scheme} {groups}{'.' if mark == '.' else ''}", _card(prefix + "#" * (length - 1 - len(prefix)), groups, mark))
    for scheme, prefix, length, shapes in (
        ("visa", "4", 16, ("16", "4-4-4-4")), ("visa 19", "4", 19, ("19", "4-4-4-4-3")),
        ("mastercard 5", "53", 16, ("4-4-4-4", "16")), ("mastercard 2", "2350", 16, ("4-4-4-4", "16")),
        ("amex 34", "34", 15, ("4-6-5", "15")), ("amex 37", "37", 15, ("15", "4-6-5")),
        ("discover", "6011", 16, ("4-4-4-4", "16")), ("discover 65", "65", 16, ("16", "4-4-4-4")),
        ("diners", "36", 14, ("4-6-4", "14")), ("diners 38", "38", 14, ("14", "4-6-4")),
        ("jcb", "3530", 16, ("4-4-4-4", "16")), ("unionpay", "62", 16, ("16", "4-4-4-4")),
        ("unionpay 19", "6221", 19, ("19", "6-13")), ("maestro", "6759", 16, ("4-4-4-4", "16")),
        ("maestro 12", "5018", 12, ("12", "4-4-4")), ("mir", "2200", 16, ("16", "4-4-4-4")),
        ("rupay", "6521", 16, ("4-4-4-4", "16")), ("troy", "9792", 16, ("16", "4-4-4-4")),
    )
    for groups, mark in ((shapes[0], " "), (shapes[1], "-"), (shapes[0], "-"), (shapes[1], " "))
]  # fmt: skip

# BBAN structures of the registry of ISO 13616 (n digits, a capitals, c either).
_STRUCTURES = (
    "DE18n GB4a14n FR10n11c2n ES20n IT1a10n12c NL4a10n BE12n CH5n12c AT16n PT21n PL24n SE20n NO11n DK14n FI14n IE4a14n "
    "CZ20n SK20n HU24n RO4a16c GR7n16c BG4a6n8c HR17n SI15n LT16n LV4a13c EE16n LU3n13c MT4a5n18c CY8n16c IS22n "
    "LI5n12c TR5n1n16c UA6n19c SA2n18c AE19n QA4a21c IL19n KW4a22c BR23n1a1c DO4c20n GE2a16n KZ3n13c PK4a16c "
    "AZ4a20c MD2c18c "
    "RS18n MK3n10c2n BA16n AL8n16c MC10n11c2n SM1a10n12c EG25n JO4a4n18c LB4n20c TN20n MU4a19n3a GI4a15c"
)
_BBANS = _STRUCTURES.split()


def _iban(country: str, structure: str, written: Callable[[str], str]) -> Make:
    sets = {"n": string.digits, "a": string.ascii_uppercase, "c": _ALPHABETS["A"]}

    def make(dice: random.Random) -> str:
        parts = re.findall(r"(\d+)([nac])", structure)
        body = "".join("".join(dice.choices(sets[kind], k=int(size))) for size, kind in parts)
        check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
        return written(f"{country}{check:02d}{body}")

    return make


_WRITTEN: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("fours", lambda iban: " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))),
    ("electronic", lambda iban: iban),
    ("lower", lambda iban: iban.lower()),
    ("hyphens", lambda iban: "-".join(iban[i : i + 4] for i in range(0, len(iban), 4))),
)
_IBANS: list[Format] = [
    (f"{entry[:2]} {name}", _iban(entry[:2], entry[2:], written))
    for number, entry in enumerate(_BBANS)
    for name, written in (_WRITTEN[number // 2 % 4],)
]


def _public4(dice: random.Random) -> str:
    return ".".join(str(dice.randint(1, 223 if place == 0 else 254)) for place in range(4)).replace("127.", "126.", 1)


def _groups6(dice: random.Random, count: int) -> list[str]:
    return [f"{dice.randint(1, 65535):x}" for _ in range(count)]


_IPS: list[Format] = [
    ("v4", _public4), ("v4 cidr", lambda dice: _public4(dice)),
    ("v4 private", lambda dice: f"192.168.{dice.randint(0, 255)}.{dice.randint(1, 254)}"),
    ("v4 ten", lambda dice: f"10.{dice.randint(0, 255)}.{dice.randint(0, 255)}.{dice.randint(1, 254)}"),
    ("v4 defanged", lambda dice: _public4(dice).replace(".", "[.]")),
    ("v4 defanged once", lambda dice: "[.]".join(_public4(dice).rsplit(".", 1))),
    ("v4 round", lambda dice: _public4(dice).replace(".", "(.)")),
    ("v4 dot", lambda dice: _public4(dice).replace(".", "[dot]")),
    ("v6 full", lambda dice: ":".join(f"{dice.randint(0, 65535):04x}" for _ in range(8))),
    ("v6 full upper", lambda dice: ":".join(f"{dice.randint(4096, 65535):X}" for _ in range(8))),
    ("v6 compressed", lambda dice: f"2001:db8:{':'.join(_groups6(dice, 2))}::{dice.randint(1, 99)}"),
    ("v6 compressed middle", lambda dice: f"2a02:{':'.join(_groups6(dice, 2))}::{':'.join(_groups6(dice, 2))}"),
    ("v6 link local", lambda dice: f"fe80::{':'.join(_groups6(dice, 4))}"),
    ("v6 zone", lambda dice: f"fe80::{':'.join(_groups6(dice, 3))}%eth0"),
    ("v6 mapped", lambda dice: f"::ffff:{_public4(dice)}"), ("v6 nat64", lambda dice: f"64:ff9b::{_public4(dice)}"),
    ("v6 prefix", lambda dice: f"2001:{':'.join(_groups6(dice, 2))}::"), ("v6 unique",
    lambda dice: f"fd12:{':'.join(_groups6(dice, 3))}::1"),
]  # fmt: skip


def _jwt(dice: random.Random) -> str:
    parts = (
        '{"alg":"HS256","typ":"JWT"}',
        fill(dice, '{"sub":"##########","iat":17########}'.replace("{", "\0")).replace("\0", "{"),
    )
    encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, fill(dice, "{u43}")])


# Tokens by the shapes that vendors document; `said` ones need the word beside them.
_SECRETS: list[Format] = [
    *templates(
        "aws id|AKIA{A16}", "aws session id|ASIA{A16}", "github classic|ghp_{a36}", "github server|ghs_{a36}",
        "github fine|github_pat_{a22}_{a59}", "github oauth|gho_{a36}", "gitlab pat|glpat-{u20}",
        "gitlab runner|glrt-{u20}",
        "slack bot|xoxb-{n12}-{n12}-{a24}", "slack user|xoxp-{n12}-{n12}-{n12}-{h32}",
        "slack app|xapp-1-{A11}-{n13}-{h64}",
        "slack hook|hooks.slack.com/services/T{A8}/B{A8}/{a24}", "google api|AIza{u35}", "google oauth|ya29.{u60}",
        "google secret|GOCSPX-{u28}", "openai|sk-{a48}", "openai project|sk-proj-{u74}T3BlbkFJ{u74}",
        "anthropic|sk-ant-api03-{u93}AA",
        "hugging face|hf_{a34}", "hugging face org|api_org_{a34}", "stripe live|sk_live_{a24}",
        "stripe restricted|rk_live_{a24}",
        "stripe test|sk_test_{a99}", "stripe hook|whsec_{a32}", "npm|npm_{a36}", "pypi|pypi-AgEIcHlwaS5vcmc{u140}",
        "sendgrid|SG.{u22}.{u43}", "twilio|SK{h32}", "mailgun|key-{h32}", "telegram|{n9}:AA{u33}",
        "shopify|shpat_{h32}",
        "square|sq0atp-{u22}", "digitalocean|dop_v1_{h64}", "databricks|dapi{h32}", "docker|dckr_pat_{u27}",
        "linear|lin_api_{a40}",
        "postman|PMAK-{h24}-{h34}", "grafana|glsa_{a32}_{h8}", "vault|hvs.{u90}", "supabase|sbp_{h40}",
        "groq|gsk_{a52}",
        "xai|xai-{a80}", "replicate|r8_{a37}", "perplexity|pplx-{a48}",
    ),
    ("jwt", _jwt), ("jwt again", _jwt),
    *templates(
        "password: said|{w}##!{w}", "password short said|{w}##", "password symbols said|{a4}!{a4}#",
        "password mixed said|{a12}9",
        "password hex said|{h12}7", "password punctuation said|{w}&{w}##", "password long said|{w}-{w}-{w}-##",
        "password leet said|P4ss{w}#",
    ),
]  # fmt: skip


def _pem(label: str, *, closed: bool = True, one_line: bool = False) -> Make:
    def make(dice: random.Random) -> str:
        lines = [fill(dice, "{b64}") for _ in range(dice.randint(3, 12))]
        end = [f"-----END {label}-----"] if closed else []
        return ("\\n" if one_line else "\n").join([f"-----BEGIN {label}-----", *lines, fill(dice, "{b22}=="), *end])

    return make


_KEYS: list[Format] = [
    ("pkcs1", _pem("RSA PRIVATE KEY")), ("pkcs8", _pem("PRIVATE KEY")), ("ec", _pem("EC PRIVATE KEY")),
    ("openssh", _pem("OPENSSH PRIVATE KEY")), ("encrypted", _pem("ENCRYPTED PRIVATE KEY")), ("dsa",
    _pem("DSA PRIVATE KEY")),
    ("escaped", _pem("PRIVATE KEY", one_line=True)), ("escaped rsa", _pem("RSA PRIVATE KEY", one_line=True)),
    ("cut off", _pem("RSA PRIVATE KEY", closed=False)), ("cut off ec", _pem("EC PRIVATE KEY", closed=False)),
    ("pgp", _pem("PGP PRIVATE KEY BLOCK")), ("age", lambda dice: "AGE-SECRET-KEY-1" + fill(dice, "{A58}")),
]  # fmt: skip

FORMATS: dict[str, list[Format]] = {
    "email": _EMAILS, "phone": _PHONES, "card": _CARDS, "iban": _IBANS, "ip": _IPS, "secret": _SECRETS,
    "private_key": _KEYS,
}  # fmt: skip
