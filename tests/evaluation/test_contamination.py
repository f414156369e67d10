"""Items that training holds are found by four signs; what a whole suite shares is nobody's own matter."""

import random
import time

import pytest

from plumbline.evaluation.suites.contamination import NEAR, contaminated_items, overlaps
from plumbline.records import Example, Provenance, SuiteItem, say

SEEN = "The old lighthouse keeper wrote every evening in a blue book which ships had passed the cape that day"
WORDS = [f"word{n}" for n in range(3000)]


def item(text, identity="i", system=None, cluster=None):
    messages = (say("user", text),) if system is None else (say("system", system), say("user", text))
    return SuiteItem(
        id=identity, area="a", slice="s", cluster=cluster or identity, messages=messages, scorer="exact"
    )  # fmt: skip


def example(prompt, target="yes", system=None):
    messages = (say("user", prompt), say("assistant", target))
    messages = messages if system is None else (say("system", system), *messages)
    return Example(messages=messages, slice="s", provenance=Provenance(origin="import", author="a", source="s"))


def signs(items, training, **more):
    return [(found.item, found.sign) for found in overlaps(items, training, **more)]


def prose(dice, n):
    return " ".join(dice.choices(WORDS, k=n))


@pytest.mark.parametrize(
    ("trained", "sign"),
    [
        (SEEN, "exact"),
        (SEEN.upper() + " .", "exact"),
        (SEEN.replace("blue", "red"), "near"),
        (SEEN.replace(" wrote", ", wrote:"), "near"),
        (SEEN.replace("blue", "red").replace("cape", "bay"), None),
        ("Please continue. " + SEEN + " and then it stopped for a very long time without any word", "ngram"),
        (SEEN.replace("lighthouse", "x").replace("evening", "y").replace("ships", "z"), None),
        ("Something else entirely", None),
    ],
)
def test_an_item_is_found_by_its_gravest_sign(trained, sign):
    found = overlaps([item(SEEN)], [example("unrelated"), example(trained)], addresses=["first", "second"])
    assert [one.sign for one in found] == ([] if sign is None else [sign])
    assert all(one.example == "second" and 0.5 <= one.share <= 1 for one in found)


def test_one_word_makes_short_prompts_different_and_long_ones_near():
    short = item("what is the capital city of france")
    assert signs([short], [example("what is the capital city of spain")]) == []
    long = " ".join(f"w{n}" for n in range(60))
    assert signs([item(long)], [example(long.replace("w30", "other"))]) == [("i", "near")]


def test_the_share_of_a_near_item_is_its_jaccard_similarity():
    (found,) = overlaps([item(" ".join(f"w{n}" for n in range(60)))], [example(" ".join(f"w{n}" for n in range(59)))])
    # 62 grams with marked ends against 61: the last three of the one and the last two of the other are their own
    assert found.sign == "near" and found.share == pytest.approx(59 / 64)


def test_an_answer_that_repeats_an_item_is_found_too():
    assert signs([item(SEEN)], [example("what did he do?", SEEN)]) == [("i", "ngram")]


def test_every_turn_of_a_training_conversation_is_a_prompt():
    turns = (say("user", "hello there"), say("assistant", "hi"), say("user", "who?"), say("assistant", "me"))
    trained = example("x").model_copy(update={"messages": turns})
    assert signs([item("Hello there!", "first")], [trained]) == [("first", "exact")]
    whole = item("q").model_copy(update={"messages": turns[:3]})
    assert signs([whole], [trained]) == [("i", "exact")]


def test_a_system_message_that_items_share_is_left_out():
    rules = "you are a patient librarian " * 8
    items = [item("what is a folio", "a", rules), item("what is a quarto", "b", rules)]
    assert signs(items, [example("something else", system=rules)]) == []
    assert signs(items, [example("What is a folio, please say, what is a folio", system=None)]) == []
    assert signs(items, [example("what is a folio")]) == [("a", "near")], "asked alike, under other rules"


def test_the_same_question_about_other_notes_is_another_question():
    asked = item("what does the document say about the price", system="the document: " + " ".join(WORDS[:40]))
    other = example(asked.messages[1].content, system="the document: " + " ".join(WORDS[40:80]))
    same = example(asked.messages[1].content, system="The document: " + " ".join(WORDS[:39]))
    assert signs([asked], [other]) == []
    assert signs([asked], [same]) == [("i", "near")]


def test_a_template_that_many_clusters_share_is_nobodys_own_matter():
    template = (
        "please rewrite the following sentence in a formal tone and keep its meaning exactly as it was given here"
    )
    items = [item(f"{template} {WORDS[n]} {WORDS[n + 1]} {WORDS[n + 2]} {WORDS[n + 3]}", f"{n:02d}") for n in range(40)]
    trained = [example(f"{template} {WORDS[n]} {WORDS[n + 7]} {WORDS[n + 9]}") for n in range(1000, 1040)]
    assert signs(items, trained) == []
    assert signs(items[:3], trained) != [], "of a few items nobody can say what is template"
    leaked = example(items[5].messages[0].content.replace("please", "Please,"))
    assert signs(items, [*trained, leaked]) == [("05", "exact")] or signs(items, [leaked]) == [("05", "near")]


def test_a_canary_in_training_taints_every_item():
    canary = "6F1C3A52-88d7-4c1e-9c0b-2f4a5d6e7f80"
    trained = [example("x"), example("dump", f'{{"suite": "s", "canary": "{canary.lower()}"}}')]
    found = overlaps([item("one", "a"), item("two", "b")], trained, canaries=[canary], addresses=["p", "q"])
    assert [(one.item, one.sign, one.example) for one in found] == [("a", "canary", "q"), ("b", "canary", "q")]
    assert contaminated_items([item("one", "a")], trained, [canary]) == ["a"]
    assert contaminated_items([item("one", "a")], trained) == []


def test_no_training_and_no_items_overlap_with_nothing():
    assert overlaps([], [example("x")]) == overlaps([item("x")], []) == []
    assert overlaps([item("?!")], [example("...")]) == [] or signs([item("?!")], [example("...")]) == [("i", "exact")]


def jaccard(one, other):
    def grams(text):
        padded = ["", "", *text.split(), "", ""]
        return set(zip(padded, padded[1:], padded[2:], strict=False))

    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def test_near_items_are_those_that_comparing_all_with_all_finds():
    dice = random.Random(5)
    texts = [prose(dice, dice.randint(4, 60)) for _ in range(60)]
    trained = []
    for text in texts:
        changed = text.split()
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(changed))] = dice.choice(WORDS)
        trained.append(" ".join(changed))
    expected = [str(n) for n, text in enumerate(texts) if max(jaccard(text, other) for other in trained) >= NEAR]
    items = [item(text, str(n)) for n, text in enumerate(texts)]
    found = overlaps(items, [example(text) for text in trained])
    assert [one.item for one in found if one.sign == "near"] == expected
    assert 5 < len(expected) < 55, "some are near and some are not"


def test_twice_the_training_costs_about_twice_the_time():
    dice = random.Random(1)
    items = [item(prose(dice, 40), str(n)) for n in range(300)]
    trained = [example(prose(dice, 60), prose(dice, 60)) for _ in range(4000)]

    def cost(n):
        start = time.process_time()
        overlaps(items, trained[:n])
        return time.process_time() - start

    cost(500)
    assert cost(4000) < 6 * max(cost(2000), 0.05)


def test_the_order_of_training_does_not_decide_which_items_are_found():
    trained = [example(SEEN), example(SEEN.replace("blue", "red")), example("x")]
    items = [item(SEEN, "a"), item("x", "b"), item("y", "c")]
    assert signs(items, trained) == signs(items, trained[::-1]) == [("a", "exact"), ("b", "exact")]
