"""Which language a text is in: by its script, and within a script by its commonest words. Deterministic, in a page.

The usual detector of instruction benchmarks samples at random, so that one text gets two scores. Here the same text
has the same answer for ever. It is meant for whole answers of some words in the languages below; of a word or two, or
of babble, it says None, and None is no language that anybody asked for.

1. Letters are counted by script. A script that one language owns decides.
2. Latin, Cyrillic, Arabic and Devanagari are shared: each language has a list of function words, worth one each; some
   have letters of their own, and endings of long words, worth a half. The language with most wins when that is a
   twelfth of the words or more; a tie is None.
"""

import re
import unicodedata
from collections import Counter
from functools import cache

OWNED = {
    "BENGALI": "bn", "GREEK": "el", "GUJARATI": "gu", "HANGUL": "ko", "HEBREW": "he", "HIRAGANA": "ja",
    "KANNADA": "kn", "KATAKANA": "ja", "MALAYALAM": "ml", "GURMUKHI": "pa", "TAMIL": "ta", "TELUGU": "te",
    "THAI": "th", "CJK": "zh",
}  # fmt: skip
FUNCTION_WORDS = {
    "LATIN": {
        "en": "the of and to a in is that it for was on are as with his they be at this have from or had by but not"
        " what all were we when your can said there an each which she do how their if will up other about out many"
        " then them these so some her would make like him into has two more no could my than been who its now did you"
        " i me our",
        "es": "de la que el en y los del se las por un para con no una su al lo como más pero sus le ya o este sí"
        " porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante es son fue",
        "pt": "de a o que e do da em um para com não uma os no se na por mais as dos como mas ao ele das à seu sua ou"
        " quando muito nos já eu também só pelo pela até isso ela entre depois sem mesmo aos seus quem são é foi",
        "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la mais"
        " comme ou si leur y dont tout aux avec cette ces ses être fait nous vous je elle on d l c qu",
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus"
        " er hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber",
        "it": "di e il la che in a per un è del non sono una i con si da come le dei nel alla più della anche ma gli"
        " al lo ha su o delle nella questo se dal questa ci cui perché essere stato io mi ti l dell",
        "pl": "w i na z do się nie to że jest o za po od jak przez co ale dla ze być czy tak tym już są może ich go"
        " jego był oraz która który które tylko przy także jednak lub bardzo",
        "vi": "và của là có được cho trong không một các những này với người khi đã để từ cũng như về ra đến nhiều vào"
        " tôi bạn thì lại nếu rất sẽ đó hay bị",
        "sw": "ya na wa kwa ni katika la za cha kuwa hii kama au lakini yake watu si kila moja wao pia hata zaidi baada"
        " kabla hiyo huo yao sana mimi wewe yeye sisi",
        "fi": "ja on ei että oli se hän mutta joka ovat kun niin myös kuin tai sen jos olla voi mitä jo vain ole ne"
        " sekä tämä minä sinä me te he tämän hyvin",
        "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als dan maar bij uit nog naar wordt"
        " heeft hij ze deze je was door over",
    },
    "CYRILLIC": {
        "ru": "и в не на я что он с как это а по но они мы она так его из за то все у же бы от для вы к был только мне"
        " есть или ещё быть",
        "uk": "і в не на я що він з як це а по але вони ми вона так його із за то все у ж би від для ви до був тільки"
        " мені є або ще бути та",
        "bg": "и в не на аз че той с как това а по но те ние тя така го от за то всички у же бих до вие към беше само"
        " ми е или още да се са ще",
    },
    "ARABIC": {
        "ar": "في من على أن إلى هذا التي الذي ما كان لا مع عن هو هي كل بعد قبل أو ثم هذه قد لم إن كما",
        "fa": "و در به از که این را با است برای آن یک خود تا بر هم نیز می شود کرد ها من شما او ما اما یا هر",
        "ur": "کے کی ہے میں اور سے کا کو نے پر یہ ہیں کہ بھی اس ایک تھا نہیں ہو گیا لئے اپنے جو وہ تو ہم آپ",
    },
    "DEVANAGARI": {
        "hi": "के में की है और से का को पर यह हैं कि भी इस एक था नहीं हो गया लिए अपने जो वह तो हम आप ने मैं",
        "mr": "आणि आहे या च्या ते मी हे तो ती आहेत नाही होते एक मध्ये की पण असे करून व आपण तुम्ही त्या काही",
        "ne": "र छ मा को का ले हो यो पनि छन् एक भएको गर्न थियो यस लागि हुन्छ गरेको म तपाईं हामी तर छैन",
    },
}  # fmt: skip
LETTERS = {
    "ru": "ыэъё", "uk": "іїєґ", "bg": "ъ", "fa": "پچژگ", "ur": "ٹڈڑںےھہ", "ar": "ةىؤئ", "vi": "ơưđạảấầẩẫậắằẳẵặẹẻẽ",
    "pl": "łśżźćńąę", "de": "ßäöü", "es": "ñ¿¡", "pt": "ãõ", "fr": "çèêœù", "fi": "äö", "mr": "ळ",
}  # fmt: skip
_WORD = re.compile(r"[^\s\d_.,;:!?()\[\]\"“”'’«»…।॥؟،۔*#<>/-]+")  # vowel signs are no letters, and part of words
ENDINGS = {
    "en": ("ing", "ly", "ed", "tion", "ness", "ous", "ful"), "es": ("ción", "mente", "ado", "idad", "ando", "oso"),
    "pt": ("ção", "mente", "ado", "idade", "ando", "oso"), "fr": ("tion", "ment", "eux", "ité", "ée", "ais"),
    "de": ("ung", "lich", "keit", "heit", "isch", "en"), "it": ("zione", "mente", "ità", "ando", "oso", "ato"),
}  # fmt: skip
LONG = 5  # letters of a word whose ending tells something
LEAST = 1 / 12  # of a text's words must be function words of its language
LANGUAGES = tuple(sorted({*OWNED.values(), *(one for shared in FUNCTION_WORDS.values() for one in shared)}))


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the language that most of `text` is in, or None where nothing tells."""
    scripts = Counter(_script(character) for character in text if character.isalpha())
    if not scripts:
        return None
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.1 * scripts.total():  # Japanese mixes in Chinese characters
        return "ja"
    script, letters = scripts.most_common(1)[0]
    if letters < 0.5 * scripts.total():
        return None
    return OWNED.get(script) or _by_words(text.casefold(), script)


def _by_words(text: str, script: str) -> str | None:
    found = _WORD.findall(unicodedata.normalize("NFC", text))
    hits = {
        language: sum(word in listed for word in found)
        + sum(letter in text for letter in LETTERS.get(language, "")) / 2
        + sum(len(word) >= LONG and word.endswith(ENDINGS.get(language, ())) for word in found) / 2
        for language, listed in _listed(script).items()
    }
    best = max(hits.values(), default=0.0)
    winners = [language for language, count in hits.items() if count == best]
    return winners[0] if len(winners) == 1 and best >= max(1.0, LEAST * len(found)) else None


@cache
def _listed(script: str) -> dict[str, frozenset[str]]:
    return {language: frozenset(listed.split()) for language, listed in FUNCTION_WORDS.get(script, {}).items()}


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split(" ")[0].removesuffix("-COMPATIBILITY")
