"""Numbers that lead to a person: IBANs (ISO 13616), payment cards (ISO 7812) and phones (E.164 and national shapes).

Digits alone are not personal. A card must have a length, a grouping and an issuer's range that exist, and pass Luhn;
an IBAN its country's length and mod 97; a phone a written shape that people give phones, or words like "call me"
just before it. Kept: years, dates, times, prices, versions, ISBN and EAN, IMEI, order and tracking numbers, epoch
seconds, hashes and UUIDs, CAS numbers, lists of small numbers. A bare run of ten digits is ambiguous: it is a phone
only beside such words, or with a national trunk zero.
"""

import re
from collections.abc import Iterator

Found = tuple[int, int, str]

# Lengths from the registry of ISO 13616-2.
_LENGTHS = (
    "15:NO 16:BE 18:DK,FI,FK,FO,GL,NL,SD 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,MN,XK 21:CH,HR,LI,LV "
    "22:BG,BH,CR,DE,GB,GE,IE,ME,RS 23:AE,GI,IL,IQ,OM,SO,TL 24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG "
    "25:LY,PT,ST 26:IS,TR 27:BI,DJ,FR,GR,IT,MC,MR,SM 28:AL,AZ,BY,CY,DO,GT,HN,HU,LB,NI,PL,SV "
    "29:BR,EG,PS,QA,UA 30:JO,KW,MU,YE 31:MT,SC 32:LC 33:RU"
)
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (entry.split(":") for entry in _LENGTHS.split())
    for country in countries.split(",")
}
_IBAN = re.compile(r"([A-Za-z]{2})[ -]?[0-9]{2}(?:[ .-]?[A-Za-z0-9]){11,31}+")
_CHECK = re.compile(r"[0-9]{2}(?:(?<=[A-Za-z]{2}[0-9]{2})|(?<=[A-Za-z]{2}[ -][0-9]{2}))")


_SHAPES_OF_BYTES = bytes(48 if chr(b).isdecimal() else 97 if b < 128 and chr(b).isalpha() else b for b in range(256))


def may_be_ibans(seen: bytes) -> bool:
    """Whether two letters and two digits stand as a country and its check digits do."""
    shape = seen.translate(_SHAPES_OF_BYTES)
    return b"aa00" in shape or b"aa 00" in shape or b"aa-00" in shape


def ibans(text: str) -> Iterator[Found]:
    position = 0
    while check := _CHECK.search(text, position):
        position = check.end()
        start = check.start() - (2 if text[check.start() - 1].isalpha() else 3)
        before = text[start - 1 : start] if start else ""
        if (before.isalnum() and before.isascii()) or (before in ("_", "\0") and before):
            continue
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        match = _IBAN.match(text, start) if length else None
        if length and match and (end := _nth(text, start, match.end(), length)):
            after = text[end : end + 1]
            if not (after.isalnum() or (after in ("_", "\0") and after)) and _mod97(text[start:end]):
                yield start, end, "iban"
                position = end


def _nth(text: str, start: int, end: int, count: int) -> int:
    """Where the `count`th letter or digit from `start` ends; 0 when there are fewer before `end`."""
    for place in range(start, end):
        count -= text[place].isalnum()
        if not count:
            return place + 1
    return 0


def _mod97(text: str) -> bool:
    compact = "".join(character for character in text if character.isalnum())
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _luhn(digits: str) -> bool:
    values = [int(digit) for digit in digits]
    doubled = [value * 2 - 9 if value > 4 else value * 2 for value in values[-2::-2]]
    return (sum(values[-1::-2]) + sum(doubled)) % 10 == 0


# Issuer ranges in force and the lengths issued in them (ISO/IEC 7812-1; the schemes' own tables).
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}|(?:30[0-5]|309|3[689]\d)\d{11,16}|35(?:2[89]|[3-8]\d)\d{12,15}"
    r"|(?:62|81)\d{14,17}|(?:5018|5020|5038|5893|6304|6759|676[1-3]|67\d\d|56\d\d)\d{8,15}|220[0-4]\d{12}"
    r"|(?:60|82|508)\d{13,14}|9792\d{12}|5019\d{12}|(?:4011|4389|5041|5066|5067|6277|6362|6363)\d{12}|(?:606282"
    r"|3841)\d{10,13}"
)
_GROUPED = re.compile(r"[0-9]{3,19}+(?:[ .-][0-9]{1,13}+){0,5}+")
_DIGITS = re.compile(r"[0-9]++")


def _card_end(text: str, start: int) -> int:
    """Where a card number that starts here ends; 0 when none does."""
    match = _GROUPED.match(text, start)
    if match is None or match.end() - start < 12:
        return 0
    digits, groups, ends = "", [], []
    for group in _DIGITS.finditer(text, start, match.end()):
        digits += group[0]
        groups.append(len(group[0]))
        ends.append((len(groups), len(digits), group.end()))
    for count, length, end in reversed(ends):
        if not 12 <= length <= 19 or not _ends_free(text, end) or not _card_groups(groups[:count]):
            continue
        found = digits[:length]
        if len(set(found)) > 1 and _ISSUERS.fullmatch(found) and _luhn(found) and not (length == 13 and _ean(found)):
            return end
    return 0


def _card_groups(groups: list[int]) -> bool:
    """Unbroken, in fours (some may be joined, the last may be shorter), or 4-6-5, 4-6-4, 6-13, 4-3-3-3."""
    fours = all(size % 4 == 0 for size in groups[:-1]) and (groups[-1] <= 4 or groups[-1] % 4 == 0)
    return len(groups) == 1 or fours or tuple(groups) in _CARD_SHAPES


_CARD_SHAPES = {(4, 6, 5), (4, 6, 4), (6, 13), (4, 3, 3, 3), (6, 10)}


def _ean(digits: str) -> bool:
    return (sum(map(int, digits[::2])) + 3 * sum(map(int, digits[1::2]))) % 10 == 0


def _ends_free(text: str, end: int) -> bool:
    after = text[end : end + 2]
    if not after:
        return True
    if (after[0].isalnum() and after[0].isascii()) or after[0] in "_\0%°@":
        return False
    return not (after[0] in ".,:-" and after[1:].isdigit())


_LISTED = re.compile(r"[0-9],?[ -]{1,2}$")
_START = re.compile(r"[+(0-9][+(0-9]*+")
_CURRENCY = frozenset("$€£¥₹₽₩#@_\0")
_SHAPES = re.compile(
    r"""
      (?P<abroad>\(?(?:\+|00)\)?[ ]?\(?[1-9][0-9]{0,14}\)?(?:[ ./()-]{1,3}[0-9]{1,12}){0,7})
    | (?P<america>(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ .-]{0,2}|[2-9][0-9]{2}(?P<s>[ .-]))[0-9]{3}[ .-][0-9]{4})
    | (?P<written>[0-9]{3}(?P<t>[.-])[0-9]{3}(?P=t)[0-9]{4})
    | (?P<trunk>\(?0[0-9]{0,5}\)?(?:[ ./()-]{1,3}[0-9]{2,8}){1,4})
    | (?P<area>\([0-9]{2,5}\)[ .-]?[0-9]{3,5}(?:[ .-]?[0-9]{2,5}){1,2})
    | (?P<russia>8[ -]?\(?[0-9]{3,4}\)?[ -]?[0-9]{2,3}[ -][0-9]{2}[ -]?[0-9]{2})
    | (?P<mobile>[6-9][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}|1[3-9][0-9][ -][0-9]{4}[ -][0-9]{4}
        |[6-9][0-9]{4}[ -][0-9]{5}|[1-9][0-9][ ]9[0-9]{4}-[0-9]{4}|555-[0-9]{4})
    | (?P<bare>0[1-9][0-9]{8,9})
    | (?P<any>\(?[0-9]{2,14}\)?(?:[ ./()-]{1,2}[0-9]{1,8}){0,6})
    """,
    re.VERBOSE,
)
_EXTENSION = re.compile(
    r"[ ,;]{0,2}(?:ext(?:ension)?[.:]?|extn\.?|x|durchwahl|poste|int\.|interno|доб\.?)[ =]?[0-9]{1,6}+"
)
_DATE = re.compile(
    r"(?:[0-3]?[0-9](?P<a>[./-])[01]?[0-9](?P=a)[0-9]{2}(?![./-]?[0-9])"
    r"|[0-3]?[0-9][ ./-][01]?[0-9][ ./-](?:19|20)[0-9]{2}(?![0-9])"
    r"|(?:19|20)[0-9]{2}[ ./-][01]?[0-9][ ./-][0-3]?[0-9](?![0-9]))"
)
_PHONE_WORDS = (
    "tel telephone telefon telefono teléfono telefone téléphone telefoon phone phones mobile móvil movil mobil "
    "cell cellulare celular portable handy fax whatsapp signal sms text texted call called calling ring dial "
    "hotline numéro numero número nummer reach contact llama llámame llamar appelle appelez ruf rufe anrufen "
    "chiama ligue liga bel zadzwoń telefonu тел телефон номер звоните позвони هاتف फ़ोन फोन ara cep "
)
_OTHER_WORDS = (
    "isbn issn ean upc gtin imei doi orcid pmid arxiv order invoice ticket ref reference tracking serial version "
    "build id case sku cas part model batch lot timestamp epoch unix commit port page pages line row account "
    "member booking bestellung bestellnummer rechnung pedido factura commande facture article item code pin zip "
    "plz seed year years date population price total sum score random error patent flight bill vat ein ssn "
)
_KNOWN: dict[str, str] = {"my number": "phone", "number is": "phone"}
_KNOWN |= dict.fromkeys(_PHONE_WORDS.split(), "phone") | dict.fromkeys(_OTHER_WORDS.split(), "other")
_UNPARTED = ("电话", "手机", "電話", "携帯", "전화")
_WORD = re.compile(r"my number|number is|[^\W\d_]+")
# Digits after the country code, for countries whose plans are narrow; others: 5 to 12 (E.164 allows 15 in all).
_PLANS = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9),
    "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9), "41": (9, 9), "43": (4, 13), "44": (9, 10),
    "45": (8, 8), "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (5, 13), "52": (10, 11), "54": (10, 11),
    "55": (10, 11), "56": (9, 9), "57": (10, 10), "61": (9, 9), "62": (7, 12), "63": (8, 10), "64": (8, 10),
    "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 11), "84": (9, 10), "86": (9, 11), "90": (10, 10),
    "91": (10, 10), "351": (9, 9), "353": (7, 9), "358": (6, 12), "420": (9, 9), "852": (8, 8), "971": (8, 9),
    "972": (8, 9), "966": (8, 9), "380": (9, 9), "234": (8, 10), "254": (9, 9),
}  # fmt: skip


def cards_and_phones(text: str) -> Iterator[Found]:
    position = free = 0
    before = ""  # the last characters before `free` as they stand once every find is blanked
    while run := _START.search(text, position):
        start, position = run.span()
        found = _at(text, start, position)
        if found is None and free and start - free < _BEFORE:  # what is blanked beside it may have kept it from us
            here = (before + text[free:start])[-_BEFORE:]
            on = start - len(here)
            beside = _at(here + text[start : start + _BEYOND], len(here), position - on)
            inside = _START.finditer(text, position, beside[1] + on) if beside else ()
            if beside and not any(_at(text, *run.span()) for run in inside):
                found = beside[0] + on, beside[1] + on, beside[2]
        if found is not None:
            yield found
            before = (before + text[free : found[0]])[-_BEFORE:] + "\0" * len(f"[{found[2]}]")
            position = free = found[1]


_BEFORE, _BEYOND = 32, 160  # how far a rule of this file looks back from where a number starts, and ahead


def _at(text: str, start: int, end: int) -> Found | None:
    """The card or phone of a run of digits and brackets that starts here, if it may start there."""
    if start and (text[start - 1] in _CURRENCY or _in_a_word(text, start)):
        return None
    found = _number(text, start)
    if found is None and text[start] == "(" and end > start + 1:  # the bracket belongs to the sentence
        found = _number(text, start + 1)
    return found


def _number(text: str, start: int) -> Found | None:
    """The card or phone that starts exactly here."""
    listed = _LISTED.search(text[max(0, start - 6) : start]) is not None
    if not listed and "0" <= text[start] <= "9" and (end := _card_end(text, start)):
        return start, end, "card"
    if end := _phone_end(text, start, listed):
        bracket = text[start] == "(" and ")" not in text[start:end]
        return start + bracket, end, "phone"
    return None


def _in_a_word(text: str, start: int) -> bool:
    """Whether a number that starts here goes on from a word, an identifier or another number."""
    before = text[start - 1]
    if before.isalnum():
        return before.isascii() or before.isdigit()
    if start < 2 or before not in ".,:/-":
        return before == "_"
    further = text[start - 2]
    return further.isdigit() or (before == "-" and further.isalnum()) or further == "\0"


def _phone_end(text: str, start: int, listed: bool) -> int:
    match = _SHAPES.match(text, start, start + 48)
    if match is None:
        return 0
    shape = match.lastgroup if match.lastgroup not in ("s", "t") else "america"
    digits = sum(map(str.isdigit, match[0]))
    if digits < 7 or _DATE.match(text, start):
        return 0
    words = _said_before(text, start)
    if shape == "abroad":
        end = _abroad_end(text, start, match.end())
    elif words == "other" or listed:
        return 0
    elif shape == "any" or text[start - 1 : start] == "=":
        end = match.end() if words == "phone" and digits <= 15 else 0
    elif shape == "trunk":
        end = _longest(text, start, match.end(), 9 if words != "phone" else 7, 12)
    elif shape == "bare":
        end = match.end() if text[start - 1 : start] != "/" else 0
    else:
        end = match.end()
    if not end or not _ends_free(text, end):
        return 0
    more = _EXTENSION.match(text[end : end + 24].lower())
    return end + more.end() if more else end


def _said_before(text: str, start: int) -> str:
    """What the last telling word shortly before says the number is: "phone", "other", or nothing."""
    tail = text[max(0, start - 32) : start].lower()
    for word in reversed(_WORD.findall(tail)):
        if found := _KNOWN.get(word):
            return found
    return "phone" if not tail.isascii() and any(word in tail for word in _UNPARTED) else ""


def _abroad_end(text: str, start: int, end: int) -> int:
    """The end of an international number: the longest that its country's plan allows."""
    digits = "".join(filter(str.isdigit, text[start:end]))
    prefix = 2 if "+" not in text[start : start + 3] else 0
    code = next((digits[prefix : prefix + n] for n in (1, 2, 3) if digits[prefix : prefix + n] in _PLANS), "")
    low, high = _PLANS.get(code, (5, 12))
    size = prefix + (len(code) or 3)
    trunk = 1 if "(0)" in text[start:end] else 0
    return _longest(text, start, end, max(8, size + low), size + high + trunk)


def _longest(text: str, start: int, end: int, least: int, most: int) -> int:
    """The end of the last group of digits with which the number has from `least` to `most` digits; 0 when none."""
    count = best = 0
    for group in _DIGITS.finditer(text, start, end):
        count += len(group[0])
        if least <= count <= most and _ends_free(text, group.end()):
            best = group.end()
    return best
