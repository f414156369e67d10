"""Texts that address a machine instead of answering a person: control tokens, injected orders, hidden characters.

`suspicion` names what is wrong with a demonstration, or nothing:

    control_tokens   a piece of a chat template (ChatML, Llama 2 and 3, Mistral, Gemma, Phi, DeepSeek, Qwen and Hermes
                     tools, BERT and T5 specials, Alpaca headers) or a new turn ("\\nHuman: ..."): a tokenizer may turn
                     it into the real token. Refused wherever it stands, also in a question about it.
    injection        an order to drop the instructions or to give them away, in fifteen languages, in full-width
                     letters, in base64 or hexadecimal, or an image whose address carries the conversation out
    invisible_text   characters that nobody sees and a model reads: tags, direction overrides, zero-width characters
                     within Latin words, runs of variation selectors

A question *about* injection is kept when it says so ("prompt injection", "jailbreak", "attack") and quotes the order;
the order unquoted is refused, whatever is said about it. Joiners in emoji, Persian and Indic text, direction marks in
Arabic and Hebrew text and the flags of England, Scotland and Wales are honest and stay.

Cheap on clean text: a few substrings decide whether a pattern is tried at all. Linear on hostile text: every
quantifier is bounded, and encoded runs are decoded once.
"""

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from plumbline.feedback.glance import glances, kind

CONTROL, INJECTION, INVISIBLE = "control_tokens", "injection", "invisible_text"

_CONTROL = re.compile(
    r"[<\[](?:(?<=<)(?:\|[^|<>\n]{1,40}\|?>|｜[^｜<>\n]{1,40}｜>|/?s>|</?SYS>>|(?:bos|eos|pad|unk|mask|sep|cls)>"
    r"|/?(?:start_of_turn|end_of_turn|start_of_image|tool_call|tool_response|tools|function_calls?|think|tool_code)>)"
    r"|(?<=\[)(?:/?INST|/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT|ARGS)|CLS|SEP|PAD"
    r"|UNK|MASK)\])",
    re.IGNORECASE,
)
# What opens a line: a header of Alpaca, or a turn. Lower-case roles are how prompts are joined here, and pass.
_LINE = re.compile(
    r"\n(?:#{2,4} ?(?i:system|instruction|response|assistant)\b"
    r"|\s{0,8}(?:\*\*)?(?:System|SYSTEM)(?: prompt| message)?(?:\*\*)?\s?: {0,3}(?:You (?:are|must|will)|you (?:are"
    r"|must|will)"
    r"|[Ii]gnore|[Ff]rom now|[Nn]ew instructions|[Oo]verride|[Aa]lways|[Nn]ever)\b)"
)
_TURN = re.compile(r"\n\s{0,8}(?:\*\*)?(?:Human|HUMAN|User|USER|Assistant|ASSISTANT)(?:\*\*)?\s?:")
_WHAT = (
    r"(?:instructions?|rules?|messages?|prompts?|guidelines?|directions?|directives?|commands?|context|programming|"
    r"safety (?:rules|guidelines|policies)|conversation)\b"
)
_ALL_THAT = (
    r"\s{1,4}(?:(?:everything|of|the|these|those|our|in|about|given)\s{1,4}){0,3}(?:(?:all|any|every|your"
    r"|my)\s{1,4}(?:of\s{1,4})?"
    rf"(?:the|these|those|your|my|our)?\s{{0,4}})?(?:(?:previous|prior|above|earlier|preceding|former|initial"
    rf"|original|system|and)"
    rf"\s{{1,4}}){{0,4}}(?<=[a-z] ){_WHAT}"
)
_POINTED = re.compile(
    r"\b(?:all|any|every|your|my|previous|prior|above|earlier|preceding|former|initial|original|system)\b"
)
_SAY = (
    r"(?:reveal|print|repeat|show|output|leak|tell me|give me)\s{1,4}(?:me\s{1,4})?"
    r"(?:all\s{1,4})?(?:of\s{1,4})?(?:the|your)\s{1,4}"
)
# A root that must be there, and the pattern that is searched for when it is; each starts with a literal, to be quick.
_ORDERS = tuple(
    (root, re.compile(pattern))
    for root, pattern in (
        ("ignor", rf"ignor(?:e|ing){_ALL_THAT}"), ("disregard", rf"disregard(?:ing)?{_ALL_THAT}"),
        ("forget", rf"forget(?:ting)?{_ALL_THAT}"), ("overrid", rf"overrid(?:e|ing){_ALL_THAT}"),
        ("bypass", rf"bypass(?:ing)?{_ALL_THAT}"), ("not follow", rf"not follow{_ALL_THAT}"),
        ("prompt", rf"{_SAY}(?:[a-z]{{1,10}} )?(?:system|hidden|developer|initial)\s{{1,4}}prompts?\b"),
        ("system instr", rf"{_SAY}system instructions?\b"), ("new instr",
        r"new instructions?:|new system instructions?:"),
        ("you are now", r"you are now (?:in )?(?:dan\b|developer mode|jailbroken|(?:an? )?unrestricted|free of)"),
        ("developer mode", r"developer mode (?:enabled|on|now|activated)"),
        ("developer mode", r"(?:enable|enter|activate) (?:the )?developer mode"),
    )
)  # fmt: skip
_NEEDS_POINTING = frozenset(("ignor", "disregard", "forget", "overrid", "bypass", "not follow"))
_ORDER_IN_LATIN = re.compile(
    r"\b(?:(?:ignor[aeá]|ignoren|olvida|olvide|haz caso omiso de|omite)\s{1,4}(?:(?:todas|todo|las|los|tus|sus|mis"
    r"|de)\s{1,4}){0,4}"
    r"(?:instrucciones|reglas|órdenes|indicaciones)"
    r"|(?:ignore[zr]?|oublie[zr]?|ne tiens pas compte)\s{1,4}(?:(?:toutes|tous|les|des|tes|vos|de)\s{1,4}){0,4}"
    r"(?:instructions|consignes|règles|directives) (?:précédentes|ci-dessus|antérieures|initiales|données)"
    r"|(?:ignorier(?:e|en)?|vergiss|vergesse|missachte)\s{1,4}(?:sie\s{1,4})?(?:(?:alle|die|deine|ihre|bisherigen"
    r"|vorherigen|"
    r"vorigen|obigen|früheren)\s{1,4}){1,4}(?:anweisungen|regeln|instruktionen|vorgaben|befehle)"
    r"|(?:ignora|dimentica|trascura)\s{1,4}(?:(?:tutte|tutti|le|gli|i|tue|precedenti)\s{1,4}){1,4}(?:istruzioni"
    r"|regole|indicazioni)"
    r"|(?:ignore|ignora|esqueça|desconsidere)\s{1,4}(?:(?:todas|todos|as|os|suas|tuas|das"
    r"|de)\s{1,4}){1,4}(?:instruções|regras|ordens)"
    r"|(?:negeer|vergeet)\s{1,4}(?:(?:alle|de|je|uw|vorige|bovenstaande|eerdere)\s{1,4}){1,4}(?:instructies|regels"
    r"|opdrachten)"
    r"|(?:zignoruj|ignoruj|zapomnij)\s{1,4}(?:(?:wszystkie|o|wszystkich|poprzednie|poprzednich|powyższe"
    r"|wcześniejsze)\s{1,4}){1,4}"
    r"(?:instrukcj\w{1,3}|poleceni\w{1,3}|zasad\w{0,2})"
    r")\b"
)
_LATIN_VERBS = (
    "ignora", "ignori", "ignoru", "ignore les", "ignore tou", "ignorez", "ignore as", "ignore toda", "olvid",
    "oubli", "vergi", "verge", "missacht", "dimentic", "esque", "negeer", "zapomn",
)  # fmt: skip
_ORDER_BEYOND_LATIN = re.compile(
    r"(?:önceki|yukarıdaki|tüm)\s{1,4}(?:tüm\s{1,4})?(?:talimatları|kuralları|komutları)\s{1,4}(?:yok say|unut"
    r"|görmezden gel)|"
    r"(?:игнорируй(?:те)?|забудь(?:те)?|проигнорируй(?:те)?)\s{1,4}(?:(?:все|обо|всех|всё|предыдущ\w{2}|прошл\w{2}"
    r"|прежн\w{2}|эти|свои)\s{1,4}){1,4}"
    r"(?:инструкци\w{1,3}|указани\w{1,3}|правил\w{0,2})"
    r"|(?:忽略|无视|無視|忘记|忘掉|不要理会)(?:你|掉|所有|全部|一切|之前|以前|先前|上面|以上|前面|的|了){1,8}(?:指令|指示|提示|规则|規則|要求|命令)"
    r"|(?:これまで|以前|前|上記|今まで|すべて|全て)の?(?:すべての|全ての|上の)?(?:指示|命令|ルール|プロンプト)を(?:すべて|全て)?(?:無視|忘れ)"
    r"|(?:이전|위의|앞의|모든)\s{0,3}(?:모든\s{0,3})?(?:지시|명령|규칙|지침)(?:사항)?[을를]?\s{0,3}(?:모두\s{0,3})?(?:무시|잊)"
    r"|(?:تجاهل|انس|تجاهلي)\s{1,4}(?:(?:كل|جميع|كافة)\s{1,4}){0,2}(?:التعليمات|الأوامر|القواعد)"
    r"|(?:पिछले|उपरोक्त|सभी)\s{1,4}(?:सभी\s{1,4})?(?:निर्देशों|नियमों|आदेशों)\s{1,4}(?:को\s{1,4})?(?:अनदेखा|भूल"
    r"|नज़रअंदाज़)"
)
_IMAGE = re.compile(
    r"(?:!\[[^\]\n]{0,200}\]\(\s{0,4}"
    r"|<img\b[^>\n]{0,200}?\bsrc\s{0,2}=\s{0,2}['\"]?)https?://[^\s)'\">?]{1,300}\?[^\s)'\">]{0,300}?"
    r"(?:(?<=[?&])(?:data|prompt|chat|history|conversation|secret|token|leak|exfil|payload|context|messages?|msg"
    r"|system|"
    r"input|text|content|info|steal|collect)=|=(?:\{|\[|<|%7[bB]|%5[bB]|\$))",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"prompt[ -]?injection|jailbreak|injection attack|attack|adversarial|inyección|injektion|"
    r"注入|инъекци|越狱|インジェクション",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"\"[^\"\n]{1,300}\"|“[^”\n]{1,300}”|«[^»\n]{1,300}»|„[^“\n]{1,300}“|「[^」\n]{1,300}」|`[^`\n]{1,300}`"
)

_RUN = bytes(97 if b < 128 and (chr(b).isalnum() or chr(b) in "+/=_-") else 32 for b in range(256))
_RUN_OF = b"a" * 24
_RUN_KIND = bytes(byte == 97 for byte in _RUN)
_MARKS = tuple(map(kind, ("<[", "#", ":", "\n")))
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{24,}+={0,2}")

_FLAGS = re.compile("\U0001f3f4[\U000e0061-\U000e007a\U000e0030-\U000e0039]{1,6}\U000e007f")
_HIDDEN = re.compile(
    "[\U000e0000-\U000e007f\u202d\u202e\u2061-\u2064\u206a-\u206f\ufff9-\ufffb]|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2}"
    "|[A-Za-z][\u00ad\u200b-\u200d\u2060\ufeff\u180e\u034f]+[A-Za-z]|[\u200b-\u200d\u2060\ufeff\u180e]{4}"
)
_DIRECTION = re.compile("[\u202a\u202b\u2066\u2067]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_HEX = re.compile(r"[0-9A-Fa-f]{24,}+")
_UNSEEN = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]")
_FULL_WIDTH = re.compile("[\uff01-\uff5e]")
_SCRIPTS = re.compile(
    rb"[\xd0\xd1\xd8-\xdb\xe0\xe3-\xed]"
)  # first bytes of Cyrillic, Arabic, Indic and Chinese letters
_SEEN_OUT = re.compile(
    "[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]"
)


def suspicion(*texts: str) -> str:
    """What is wrong with a demonstration's texts: `control_tokens`, `invisible_text`, `injection`, or ""."""
    return worst(map(_suspicion, texts))


def worst(found: Iterable[str]) -> str:
    """The suspicion that counts among those of several texts."""
    return min(filter(None, found), key=(CONTROL, INVISIBLE, INJECTION).index, default="")


def suspicions(texts: Sequence[str]) -> list[str]:
    """`suspicion` of each text alone, at a fraction of the cost where most are clean."""
    may = np.ones(len(texts), bool)
    for seen, places in glances(texts):
        brackets, hashes, colons, breaks = seen.counts(*_MARKS)
        may[places] = (
            (brackets > 0)
            | (hashes > 1)
            | (colons > 0) & ((breaks > 1) | seen.having_exactly(b"Syst", b"SYST"))
            | seen.having(b"igno", b"nstr", b"prom", b"disr", b"forg", b"rrid", b"bypa", b"elop", b"weis", b"ruzi")
            | seen.having(b"you ") & seen.having(b" now")
            | seen.runs(_RUN_KIND, len(_RUN_OF))
        )
    return [_suspicion(text) if one else "" for text, one in zip(texts, may.tolist(), strict=True)]


def _suspicion(text: str) -> str:
    if text.isascii():
        return CONTROL if _control(text) else INJECTION if _injected(text) or _hidden_blob(text) else ""
    seen = text.encode("utf-8", "surrogatepass")
    odd = _UNSEEN.search(text) is not None or b"\xf3\xa0" in seen
    if odd and _invisible(text):
        return CONTROL if _control(text) else INVISIBLE
    if odd or _FULL_WIDTH.search(text) or b"\xf0\x9d" in seen:
        text = unicodedata.normalize("NFKC", _SEEN_OUT.sub("", text))
    if _control(text):
        return CONTROL
    foreign = (_SCRIPTS.search(seen) or "talimat" in text) and _ORDER_BEYOND_LATIN.search(text.lower())
    return INJECTION if foreign or _injected(text) or _hidden_blob(text) else ""


def _control(text: str) -> bool:
    if ("<" in text or "[" in text) and _CONTROL.search(text):
        return True
    if ":" in text and "\n" in text and _TURN.search(text):
        return True
    return ("##" in text or "\n" in text or text[:1] in "Ss ") and _LINE.search("\n" + text) is not None


def _injected(text: str) -> bool:
    low = text.lower()
    order = _ordered(low)
    if order and not (_ABOUT.search(low) and not _ordered(_QUOTED.sub(" ", low))):
        return True
    return "://" in low and ("![" in low or "<img" in low) and _IMAGE.search(text) is not None


def _ordered(low: str) -> bool:
    """Whether an order to the machine stands in a lower-case text."""
    if not (
        "ignor" in low or "instru" in low or "prompt" in low or "disregard" in low or "forget" in low
        or "overrid" in low or "bypass" in low or "you are now" in low or "developer mode" in low
        or "anweisungen" in low or "istruzioni" in low
    ):  # fmt: skip
        return False
    for root, pattern in _ORDERS:
        if root in low:
            for match in pattern.finditer(low):
                inside = match.start() > 0 and low[match.start() - 1].isalpha()
                if not inside and (root not in _NEEDS_POINTING or _POINTED.search(match[0])):
                    return True
    return any(verb in low for verb in _LATIN_VERBS) and _ORDER_IN_LATIN.search(low) is not None


def _hidden_blob(text: str) -> bool:
    """Whether a run of base64 or hexadecimal decodes to text that would be refused."""
    seen = text.encode("ascii", "replace")
    if _RUN_OF not in seen.translate(_RUN):
        return False
    for match in _ENCODED.finditer(text):
        plain = _decoded(match[0])
        if plain and (_control(plain) or _ordered(plain.lower())):
            return True
    return False


def _decoded(run: str) -> str:
    """The readable text that a run encodes, or ""."""
    try:
        if _HEX.fullmatch(run):
            data = binascii.unhexlify(run[: len(run) // 2 * 2])
        else:
            body = run.rstrip("=").replace("-", "+").replace("_", "/")
            data = base64.b64decode(body[: len(body) - (len(body) % 4 == 1)] + "=" * (-len(body) % 4 % 3))
        plain = data.decode("utf-8", "ignore")
    except (binascii.Error, ValueError):
        return ""
    return plain if plain and sum(map(str.isprintable, plain[:200])) > 0.9 * len(plain[:200]) else ""


def _invisible(text: str) -> bool:
    if _HIDDEN.search(text) and _HIDDEN.search(_FLAGS.sub("", text)):
        return True
    return _DIRECTION.search(text) is not None and _RIGHT_TO_LEFT.search(text) is None
