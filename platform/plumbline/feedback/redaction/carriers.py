"""What surrounds and disguises a value in the labelled set of redaction, and the texts in which nothing may be found.

Lists are dealt to two halves by turns, as in `samples`, whose templates the negatives use too.
"""

import random
from collections.abc import Callable

from plumbline.feedback.redaction.samples import Format, check_digit, fill, templates

_NEUTRAL = (
    "{}", "it is {}.", "use {} instead", "({})", "Thanks! {} - best regards", "> {}\n", "the answer was: {}",
    "{}, please", 'is "{}" still right?', "see {}; it changed", "* {}\n* nothing else",
    "I wrote {} there and it failed.",
    "es {} por favor", "das ist {}, danke", "c'est {} je crois", "era {} ieri", "é {} mesmo", "dat is {} toch",
    "to jest {} chyba", "это {} наверное", "我的是 {} 谢谢", "これは {} です", "هذا هو {} شكرا", "bu {} olmalı",
    "det er {} nu", "यह {} है",
)  # fmt: skip
CARRIERS: dict[str, tuple[str, ...]] = {
    "email": (
        *_NEUTRAL, "write to {} today", "mailto:{}", "Ana <{}>", "contact={}", "my mail is {}!", "escríbeme a {}",
        "联系{}吧", "メールは{}まで",
    ),
    "phone": (
        *_NEUTRAL, "call {} after six", "my number is {}", "ring me on {}", "tel. {}", "Fax: {}", "llámame al {}",
        "ruf mich an: {}", "电话：{}",
    ),
    "card": (
        *_NEUTRAL, "pay with {} exp 12/29 cvv 123", "my card number: {}", "card={}", "tarjeta {} caduca 05/28",
        "Karte {} sperren", "卡号：{}",
    ),
    "iban": (
        *_NEUTRAL, "transfer to {} today", "IBAN: {}", "iban={}", "Konto {} bei der Bank", "virement sur {} svp",
        "帐号：{}",
    ),
    "ip": (
        *_NEUTRAL, "ping {} fails", "from {} port 22", "host={}", "http://{}/", "der Server {} antwortet nicht",
        "服务器{}",
    ),
    "secret": (
        *_NEUTRAL, "token {} leaked", "export KEY={}", "'key': '{}',", "curl -H 'Authorization: Bearer {}'",
        "mein Schlüssel {}", "密钥：{}",
    ),
    "private_key": (
        "{}", "here:\n{}\nthanks", "key = '''{}'''", "cat id_rsa\n{}\n", "meine Datei:\n{}", '"private_key": "{}"',
    ),
}  # fmt: skip
SAID: dict[str, tuple[str, ...]] = CARRIERS | {
    "phone": (
        "call me on {}", "my phone number is {}", "phone: {}", "tel {}", "mobile {} any time", "text me at {}",
        "you can reach me at {}", "WhatsApp: {}", "llámame al {}", "mi teléfono es {}", "mon téléphone : {}",
        "meine Telefonnummer ist {}", "il mio cellulare è {}", "meu celular é {}", "мой телефон {}", "我的手机 {}",
        "電話は {} です", "zadzwoń {}",
    ),
    "secret": (
        "password: {}", "my password is {}", "PASSWORD={}", "db_password = '{}'", '"password": "{}"', "passwd={};",
        "Pwd={};Database=x", "login ana, password: {}", "postgres://app:{}@db.internal:5432/app",
        "https://ana:{}@host.example/x", "mi contraseña es {}", "Passwort: {}", "mot de passe : {}", "senha: {}",
        "пароль: {}", "密码：{}",
    ),
}  # fmt: skip

Change = Callable[[random.Random, str], str]


def _sprinkle(mark: str) -> Change:
    def change(dice: random.Random, value: str) -> str:
        for place in sorted(dice.sample(range(1, len(value)), k=min(3, len(value) - 1)), reverse=True):
            value = value[:place] + mark + value[place:]
        return value

    return change


def _digits_from(zero: int) -> Change:
    table = {ord("0") + digit: zero + digit for digit in range(10)}
    return lambda dice, value: value.translate(table)


def _replace(old: str, new: str) -> Change:
    return lambda dice, value: value.replace(old, new)


_INVISIBLES: tuple[tuple[str, Change], ...] = (
    ("zero-width space", _sprinkle("\u200b")), ("soft hyphen", _sprinkle("\u00ad")), ("word joiner",
    _sprinkle("\u2060")),
)  # fmt: skip
_NUMBERS: tuple[tuple[str, Change], ...] = (
    *_INVISIBLES, ("full-width digits", _digits_from(0xFF10)), ("Arabic digits", _digits_from(0x0660)),
    ("no-break space", _replace(" ", "\u00a0")), ("no-break hyphen", _replace("-", "\u2011")),
    ("thin space", _replace(" ", "\u2009")),
)  # fmt: skip
DISGUISED = 0.15
DISGUISES: dict[str, tuple[tuple[str, Change], ...]] = {
    "email": (
        *_INVISIBLES, ("full-width at", _replace("@", "＠")), ("small at", _replace("@", "﹫")),
        ("full-width dot", _replace(".", "．")),
    ),
    "phone": _NUMBERS,
    "card": _NUMBERS,
    "iban": _NUMBERS,
    "ip": (*_INVISIBLES, ("full-width digits", _digits_from(0xFF10)), ("full-width dot", _replace(".", "．"))),
    "secret": _INVISIBLES[:1],
}  # fmt: skip


def _isbn(dice: random.Random) -> str:
    body = "978" + fill(dice, "#########")
    body += str(-sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body)) % 10)
    return f"{body[:3]}-{body[3]}-{body[4:8]}-{body[8:12]}-{body[12]}"


def _imei(dice: random.Random) -> str:
    body = "35" + fill(dice, "############")
    return f"the IMEI is {body}{check_digit(body)}"


# What must stay. Each kind is drawn equally often.
NEGATIVES: list[Format] = [
    ("isbn", lambda dice: f"a good book, ISBN {_isbn(dice)}, second edition"),
    ("isbn plain", lambda dice: "isbn " + _isbn(dice).replace("-", "")),
    ("ean", lambda dice: "barcode " + _isbn(dice).replace("-", "").replace("978", "590", 1)),
    ("imei", _imei),
    *templates(
        "years|from 19## to 20##, and 19##-20## again", "year list|in 1987 1991 2003 2014 and 2022",
        "price|it costs $1,### or 2.###,## EUR", "price big|a budget of 12 ### ### euros",
        "version|upgrade to 3.1#.% or v%.#.#.#", "version four|version 1.2.%.4 is out", "time|at 1#:3#:0# or 10:15",
        "iso time|2024-0%-1#T10:1#:00Z started", "date|on 1#/0%/2024 and 2024-0%-1#",
        "date dots|am 1#.0%.2023 um 12:30 Uhr",
        "uuid|id {h8}-{h4}-4{h3}-a{h3}-{h12}", "uuid digits|id {n8}-{n4}-4{n3}-8{n3}-{n12}", "sha1|commit {h40}",
        "sha256|sha256:{h64}", "short hash|fixed in {h7} and {h12}", "md5|md5 {h32} matches",
        "epoch|at 17######## it began",
        "epoch ms|timestamp 17###########", "order|order 40######## shipped", "tracking|tracking 1Z{A6}#########",
        "invoice|invoice no. 2024-00####", "ticket|ticket #10######", "decimal|pi is 3.14159265358979",
        "number|the sum is 12345678 exactly", "sequence|count 1 2 3 4 5 6 7 8 9 10 11 12",
        "evens|copy 12 14 16 18 20 22 24 26 28", "table|10 200 3000\n20 400 6000\n30 600 9000",
        "coordinates|at 48.8566%, 2.3522% in town", "geo|lat -33.865143 lon 151.209900",
        "ratio|the ratio 16:9 or 1:2:3",
        "range|300-1000 words, pages 120-1345", "score|they won 104-99 and 88-101",
        "thousands|about 1,234,567 people or 7.900.000.000", "science|6.02214076e23 and 1.38e-23",
        "cas|water is 7732-18-5, ethanol 64-17-5", "chemistry|2,4,6-trinitrotoluene and 1,3,7-trimethylxanthine",
        "formula|C6H12O6 + 6 O2", "doi|doi 10.1038/s41586-02#-0####-#", "arxiv|see arXiv:2403.1####",
        "scope|std::vector<int> a = ns::make()", "hex scope|use dead::beef or Add::cafe",
        "slice|x[::2] and y[1::3] work",
        "mac|00:1a:2b:3c:4d:{h2}", "index|a[i]@b and W@x.T in numpy", "decorator|@app.route('/') above def f()",
        "handle|thanks @ana and @ben99", "git|git clone git@host.example:team/repo.git",
        "at alone|5 kg @ 3 each, meet @ noon", "scoped|npm i @types/node@18.1#.2", "at dot|look at the dot com bubble",
        "site|find us at example.com or example.org", "path|/usr/lib/python3.11/site-packages/x_2.1.0",
        "url|https://example.com/a/1234567/b?page=2", "css|#ff00aa and rgb(255, 0, 10)",
        "math|2+2=4, 12345*6789 = 83810205", "phone word|call me at 5 or at 17:30",
        "loopback|127.0.0.1, 0.0.0.0 and ::1 are here", "mask|use 255.255.255.0 there",
        "env|password=os.environ['DB_PASSWORD']", "placeholder|api_key=<your-api-key>",
        "variable|token=${GITHUB_TOKEN}",
        "stars|password: ********", "tokens|max_tokens=1024 and min_tokens: 16", "key prose|the key is in section 4.2",
        "password prose|my password is forgotten", "reset|password: reset it in 24 hours",
        "token prose|a token is about 4 characters", "secret prose|the secret: practise 10 minutes a day",
        "sklearn|pip install sk-learn-contrib-extensions-2", "snake|hf_model_name and npm_config_user_agent_v2",
        "isotope|carbon-14, uranium-235, U-238 at 4.468e9", "bible|John 3:16 and Luke 10:25-37",
        "flight|flight LH 400 at gate 12, seat 14C", "card words|no card starts 1234 5678 9012 3457",
        "dimension|1920x1080 at 60 Hz, 210 x 297 mm", "size|12345678 bytes of 16777216",
        "temperature|-40.5 to +85.0 degrees, +1000000 volts", "grade|5-4-3-2-1 then 10-20-30",
        "law|section 230 of 47 U.S.C. 1996", "zip|Springfield 90210 and 10001-1234",
        "int max|2147483647 and 4294967295",
        "hex|0xDEADBEEF00112233", "binary|0b1011 and 10110011 10001111", "public key|-----BEGIN PUBLIC KEY-----",
        "bank words|two gb22 and fr14 are no accounts", "dataset|MS-COCO 2017: 118287/5000/40670",
        "emergency|is 911 or 112 the emergency number", "statistics|p=0.0123, n=1200, t(118)=2.34",
        "bullet|1. one 2. two 3. three 10. ten",
    ),
]  # fmt: skip
