"""Verifiable instructions: every kind holds where it should and fails where it should, the same on every machine."""

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation.scoring.instructions import ARGUMENTS, CHECKS, follows, follows_all, loosened, parse, write
from plumbline.evaluation.scoring.language import LANGUAGES, language_of
from plumbline.evaluation.scoring.texts import sentences, words

CASES = [
    ("keywords:existence", {"keywords": ["Tide", "moon"]}, "The MOON makes tides.", "The moon is far."),
    ("keywords:frequency", {"keyword": "so", "frequency": 2, "relation": "at least"}, "so and so", "so it is"),
    ("keywords:frequency", {"keyword": "so", "frequency": 2, "relation": "less than"}, "so it is", "so and so"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "a category", "the cat."),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 0, "let_relation": "less than"}, None, "quo"),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": "at least"}, "eel eye", "eel"),
    ("language:response_language", {"language": "de"}, "Das ist nicht so gut wie es war.", "It is not as good."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "I am.", "I am. So is he."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two, three", "one two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        'First.\n\n"Then, it rained.',
        "First.\n\nIt rained then.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] and [address]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write.", "Bye. PS write."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S Write.", "Bye.\nP.S. Write."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\nx\nSection 2\ny",
        "Section 1\nx",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<On tides>>\ntext", "<< >>\ntext"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, " say IT, and so on", "I say it"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'That was "the END."', "The end. Really."),
    ("startend:quotation", {}, ' "all of it" ', '"some" of it'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "A BIG ox", "A"),
    ("change_case:english_capital", {}, "THIS IS WHAT THE SEA SAID.", "THIS is what the sea said."),
    ("change_case:english_lowercase", {}, "this is what the sea said.", "This is what the sea said."),
    ("punctuation:no_comma", {}, "no pause", "a, pause"),
]  # fmt: skip


def test_there_are_the_twenty_five_published_kinds_and_each_is_tried():
    assert len(CHECKS) == 25
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_a_kind_holds_where_it_should_and_fails_where_it_should(name, arguments, good, bad):
    written = write(name, arguments)
    assert good is None or follows(good, written)
    assert not follows(bad, written)
    assert not follows("  \n", written), "an empty answer follows nothing"


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_an_instruction_is_written_and_read_back_with_its_zeros(name, arguments, good, bad):
    assert parse(write(name, arguments)) == (name, arguments)
    assert set(arguments) == set(ARGUMENTS[name])


def test_zero_is_an_argument_and_null_is_none():
    written = write("keywords:frequency", {"keyword": "so", "frequency": 0, "relation": "at least", "letter": None})
    assert '"frequency": 0' in written and "letter" not in written
    assert follows("anything", written)
    never = write("keywords:frequency", {"keyword": "so", "frequency": 0, "relation": "less than"})
    assert not follows("anything", never), "nothing occurs less often than never"


def test_a_keyword_that_is_no_regular_expression_is_taken_as_it_stands():
    assert follows("what (a day", write("keywords:existence", {"keywords": ["(a"]}))


@pytest.mark.parametrize(
    "instruction", ["vibes", "keywords:existence", "punctuation:no_comma {", 'punctuation:no_comma {"a": 1}']
)
def test_what_cannot_be_checked_is_refused_with_the_kinds_that_can(instruction):
    with pytest.raises(PlumblineError, match="cannot be checked"):
        parse(instruction)


def test_strict_reads_the_answer_as_it_is_and_loose_lets_go_of_wrapping():
    wanted = [write("startend:quotation", {}), write("punctuation:no_comma", {})]
    wrapped = 'Sure, here it is:\n"the *words*"'
    assert not follows_all(wrapped, wanted)
    assert follows_all(wrapped, wanted, loose=True)
    assert follows_all('"the words"', wanted)
    assert len(loosened(wrapped)) == 8


def test_loose_never_refuses_what_strict_accepts():
    for name, arguments, good, _ in CASES:
        if good is not None:
            assert follows_all(good, [write(name, arguments)], loose=True)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("Dr. Smith met Mrs. Jones at 3.5 km. They spoke.", 2),
        ('He said "Go." Then he went.', 2),
        ("It rained... It poured.", 2),
        ("She lives in the U.S. and likes it.", 1),
        ("1. First point\n2. Second point\n\nAnd a last one", 2),
        ("今天很好。我去了。", 2),
        ("यह अच्छा है। वह गया।", 2),
        ("J. R. Tolkien wrote it. So did I.", 2),
        ("J.R.R. Tolkien wrote it. So did I. Truly.", 3),
    ],
)
def test_sentences_are_counted_without_a_download(text, count):
    assert len(sentences(text)) == count, sentences(text)


def test_words_are_runs_of_letters_and_digits():
    assert words("well-known, isn't it? 3.5") == ["well", "known", "isn", "t", "it", "3", "5"]


LANGUAGE = {
    "en": "The house on the hill was sold to them for more than it is worth.",
    "es": "La casa de la colina no era para ellos, pero se la dieron con mucho gusto.",
    "pt": "A casa não é para eles, mas também foi dada com muito gosto pelo seu dono.",
    "fr": "La maison sur la colline est dans un parc, et elle n'est pas pour nous.",
    "de": "Das Haus auf dem Hügel ist nicht für uns, aber wir werden es sehen.",
    "it": "La casa sulla collina non è per noi, ma anche gli altri la vogliono con il parco.",
    "pl": "Dom na wzgórzu nie jest dla nas, ale to się może zmienić.",
    "fi": "Talo on mäellä, mutta se ei ole meille, koska he ovat myös siellä.",
    "nl": "Het huis op de heuvel is niet voor ons, maar het wordt door hen gekocht.",
    "vi": "Ngôi nhà này không phải là của chúng tôi và người khác đã mua nó.",
    "sw": "Nyumba hii ni ya watu wa kijiji na si yetu, lakini tunaipenda sana.",
    "ru": "Дом на холме был продан им, но мы всё ещё думаем о нём, что это так.",
    "uk": "Будинок на пагорбі був проданий їм, але ми все ще думаємо про нього, що це так.",
    "bg": "Къщата на хълма не е за нас, но те ще я купят и ще са там.",
    "ar": "البيت على التل ليس لنا و لكن هذا ما كان في القصة من البداية إلى النهاية",
    "fa": "این خانه از آن ما نیست و آنها را در این شهر می شناسند که است",
    "ur": "یہ گھر ہمارا نہیں ہے اور اس کے بارے میں بھی کوئی نہیں جانتا",
    "hi": "यह घर हमारा नहीं है और इस के बारे में भी कोई नहीं जानता",
    "mr": "हे घर आपले नाही आणि ते कोणाचे आहे हे मी सांगू शकत नाही",
    "ne": "यो घर हाम्रो हो र यस मा धेरै मानिस छन्",
    "bn": "বাড়িটি আমাদের নয়", "el": "Το σπίτι δεν είναι δικό μας", "gu": "આ ઘર અમારું નથી",
    "he": "הבית הזה אינו שלנו", "ja": "この家は私たちのものではありません", "kn": "ಈ ಮನೆ ನಮ್ಮದಲ್ಲ",
    "ko": "이 집은 우리 것이 아닙니다", "ml": "ഈ വീട് ഞങ്ങളുടേതല്ല", "pa": "ਇਹ ਘਰ ਸਾਡਾ ਨਹੀਂ ਹੈ",
    "ta": "இந்த வீடு எங்களுடையது அல்ல", "te": "ఈ ఇల్లు మాది కాదు", "th": "บ้านหลังนี้ไม่ใช่ของเรา", "zh": "这座房子不是我们的",
}  # fmt: skip


def test_every_language_that_is_known_is_tried():
    assert set(LANGUAGE) == set(LANGUAGES)


@pytest.mark.parametrize("language", sorted(LANGUAGE))
def test_a_language_is_told_and_always_the_same(language):
    assert {language_of(LANGUAGE[language]) for _ in range(3)} == {language}
    assert language_of(LANGUAGE[language].upper()) == language


@pytest.mark.parametrize("text", ["", "42 + 7", "xq zzv bbrt kq", "ok", "!!!"])
def test_what_tells_nothing_is_in_no_language(text):
    assert language_of(text) is None
