"""Test the rows that the story model is trained on: what rules find, what is told and learned, packing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from scripts import prepare_stories
from scripts.training import show
from scripts.training.data import END_OF_TEXT, TALE
from scripts.training.guided import READ, STRESSED, Marked, Mix, apply_guidance, compose
from scripts.training.headings import find_headings
from scripts.training.made_up import KINDS, Person, weave
from scripts.training.names import BY_GENDER
from scripts.training.people import find_people
from scripts.training.prepared import PreparedStory, is_first_person, prepare, read_prepared
from scripts.training.recipe import Recipe
from scripts.training.rows import (
    SETS,
    STRESS,
    TOKEN,
    UNLEARNT,
    Composer,
    Epochs,
    Mixture,
    Source,
    encode,
    front,
    pack,
)
from scripts.training.stock_phrases import PhraseFinder, find_phrases
from scripts.training.words import read_list
from tests.conftest import ROOT
from tests.scripts.stories import write_stories

PARAGRAPHS = [
    "Lira, a young weaver with restless hands, lived in the village of Tarrafal. She had never left it.",
    "Lira had a red boat. Her brother, Omar, carried a lantern. The lantern was old, but it was bright.",
    "“I will go,” said Lira. “It is raining, and no one will see me.” Omar said that she should wait.",
    "Lira climbed into the boat before anybody woke. It was raining hard, and Omar stood on the shore.",
    "Omar called after Lira. She waved to him, and he waved back at her until the rain hid the boat.",
    "Part of her wanted to stay. Lira thought of her mother, and of the loom, and of the long winter.",
] * 10  # fmt: skip
TEXT = "The Red Boat\n\nChapter 1: The Shore\n\n" + "\n\n".join(
    f"{paragraph}\n\nChapter {number}: On and On" if number % 10 == 9 else paragraph
    for number, paragraph in enumerate(PARAGRAPHS, 1)
)
STORY = prepare(TEXT, PhraseFinder(["anybody woke it was"]))


def told(text: Marked) -> str:
    """Return the characters that are read and not learned."""
    return "".join(c for c, weight in zip(text.text, text.weights, strict=True) if weight == READ)


def stressed(text: Marked) -> str:
    """Return the characters that are learned with more weight."""
    return "".join(c for c, weight in zip(text.text, text.weights, strict=True) if weight == STRESSED)


def everything(**shares: float) -> Mix:
    none = dict.fromkeys(vars(Mix()), 0.0)
    return Mix(**{**none, "stock_learnt": 1.0, **shares})


def texts(mix: Mix, number: int = 25) -> list[Marked]:
    return [compose(STORY, mix, np.random.default_rng(seed)) for seed in range(number)]


def test_rules_find_people_and_what_a_story_says_about_them():
    assert find_people(TEXT) == {"Lira": "f", "Omar": "m"}
    says = {sentence for fact in STORY.facts for sentence in fact.says}
    assert {
        "Lira is a young weaver with restless hands.",
        "Lira has a red boat.",
        "Omar is Lira's brother.",
        "Omar carries a lantern.",
        "Tarrafal is a village.",
        "It is raining.",
        "Lira climbed into the boat before anybody woke.",
    } <= says
    first_rain = min(fact.start for fact in STORY.facts if fact.subject == "rain")
    assert TEXT[first_rain:].startswith("It was raining hard")  # what people say is no fact


def test_headings_are_found_and_sentences_like_them_are_not():
    headings = [TEXT[start:end] for start, end in find_headings(TEXT, STORY.body)]
    assert headings == [f"Chapter {n}: On and On\n\n" for n in range(9, 60, 10)]
    assert TEXT[STORY.body :].startswith("Lira, a young weaver")


def test_headings_stand_only_where_the_text_began_with_one():
    for text in texts(everything(middle=0.4, ending=0.3)):
        assert "Chapter" not in text.text and text.text.endswith("the long winter.")
    assert all("Chapter 9" in text.text for text in texts(everything(whole=1.0), 5))


def test_equal_generators_give_equal_texts_and_others_do_not():
    first, again = texts(Mix()), texts(Mix())
    assert all(a.text == b.text and (a.weights == b.weights).all() for a, b in zip(first, again, strict=True))
    assert len({text.text for text in first}) > 20


def test_names_change_everywhere_or_nowhere():
    for text in texts(everything(renamed=1.0, memory=1.0, note=1.0)):
        assert not re.search(r"\b(?:Lira|Omar)\b", text.text)
        people = find_people(text.text)
        assert len(people) <= 2 and all(name in BY_GENDER[gender] for name, gender in people.items())
    assert all("Lira" in text.text for text in texts(everything(memory=1.0)))


def test_what_is_told_comes_true_behind_it():
    facts = {says: fact for fact in STORY.facts for says in fact.says}
    memories = [told(text).strip().split("\n") for text in texts(everything(memory=1.0))]
    sentences = {s for memory in memories for line in memory for s in facts if s in line}
    assert len(sentences) > 5
    for text in texts(everything(note=1.0)):
        note = re.fullmatch(r"\[Author's note: (.*)\]\n", told(text))
        assert note or told(text) == ""


@pytest.mark.parametrize("person", [Person("Lira", "f"), Person("Omar", "m"), None], ids=str)
def test_made_up_facts_are_sentences_and_the_first_shows_what_is_new(person):
    facts = [weave(person, np.random.default_rng(seed)) for seed in range(400)]
    for fact in facts:
        assert 2 <= len(fact.shows) <= 3 and all(show.endswith((".", "”", "?")) for show in fact.shows)
        assert not re.search(r"[{}]|\ba [aeio]", " ".join((fact.says, *fact.shows)))
    assert len({fact.says for fact in facts}) > (300 if person else 200)
    if person is None:
        assert not re.search(
            r"\b(?:she|he|her|his)\b", " ".join(" ".join(fact.shows) for fact in facts), re.I
        )
    called = [(match, fact) for fact in facts if (match := re.search(r"is called (\w+)", fact.says))]
    assert called and all(match[1] in fact.shows[0] for match, fact in called)


def test_every_kind_of_made_up_fact_can_be_made():
    for _, make in KINDS:
        for seed in range(30):
            assert make(Person("Lira", "f"), np.random.default_rng(seed)).shows


def test_no_word_that_models_are_judged_by_is_taught():
    """Check that evaluation asks for what was copied: no word that it asks for is in a list for training."""
    probes = json.loads((ROOT / "jet/evaluate/probes.json").read_text())
    asked = [
        re.compile(f"(?:{p})", re.I)
        for kind in ("facts", "lore")
        for one in probes[kind]
        for p in one["found"]
    ]
    for name in ("things", "animals", "animal_names", "jobs", "likings", "adjectives", "female", "male"):
        for entry in read_list(name):
            for word in entry.split():
                assert not any(pattern.fullmatch(word) for pattern in asked), (name, entry)


def test_what_is_woven_into_a_text_is_told_and_stressed():
    for text in texts(everything(woven=1.0)):
        assert told(text).strip() and stressed(text).strip()
        assert len(text.text) > len(TEXT) / 3 and text.ends


def test_what_is_told_is_stressed_where_it_comes_true():
    for text in texts(everything(note=1.0)):
        assert bool(told(text)) == bool(stressed(text))


def test_a_text_is_cut_behind_what_was_told():
    cut = [text for text in texts(everything(memory=1.0, woven=1.0, cut=1.0), 60) if not text.ends]
    whole = texts(everything(memory=1.0, woven=1.0), 60)
    assert len(cut) > 40 and all(text.ends for text in whole)
    assert all(text.text.endswith((".", "”")) and stressed(text) for text in cut)
    assert sum(map(len, cut)) / len(cut) < 0.7 * sum(map(len, whole)) / len(whole)
    assert all(text.ends for text in texts(everything(memory=1.0, ending=1.0, cut=1.0, wish=1.0)))


def test_wishes_for_an_end_are_true():
    for text in texts(everything(ending=1.0, wish=0.5)):
        rest = text.text.rpartition("]\n")[2]
        number = re.search(r"(\d+) words", told(text))
        if number:
            assert abs(len(rest.split()) - int(number[1])) < 0.35 * int(number[1]) + 60
        assert len(rest.split()) < 700


def test_guidance_stands_as_the_page_puts_it():
    story = Marked.plain("One.\nTwo.\nThree.\nFour.\nFive, and so on.")
    guidance = Guidance(
        "Ada is tall.", AuthorsNote("Rain."), (LoreEntry(keywords=("Two",), content="Lore."),)
    )
    visible = story.text.index("Five")
    text = apply_guidance(story, visible, guidance)
    assert text.text == (
        "Ada is tall.\n\nLore.\n\nOne.\n[Author's note: Rain.]\nTwo.\nThree.\nFour.\nFive, and so on."
    )
    assert told(text) == "Ada is tall.\n\nLore.\n\n[Author's note: Rain.]\n"


def test_stock_phrases_are_those_that_many_modern_stories_share():
    modern = [f"the sun dipped below word{i} and he went to the shop of words{i}" for i in range(40)]
    others = [f"he went to the shop of things{i}" for i in range(40)]
    phrases = find_phrases(modern, others)
    assert "the sun dipped below" in phrases and "he went to the" not in phrases
    text = "So the sun dipped below the hill."
    assert [text[a:b] for a, b in PhraseFinder(phrases).spans(text)] == ["the sun dipped below"]


def test_stock_phrases_are_read_and_learnt_less_often():
    unlearnt = [told(text) for text in texts(everything(stock_learnt=0.0), 5)]
    assert all(set(re.findall(r"anybody woke\. It was", text)) for text in unlearnt)
    assert all(told(text) == "" for text in texts(everything(stock_learnt=1.0), 5))


def test_stories_told_by_an_i_are_read_more_often():
    assert is_first_person("I went home. My dog saw me.") and not is_first_person("“I am,” said Ann. " * 20)
    assert prepare("I went to my house. " * 400, PhraseFinder([])).copies > STORY.copies


def test_prepared_stories_are_read_back_as_they_were():
    assert PreparedStory.parse(STORY.dump()) == STORY
    assert "\n" not in STORY.dump()


# --- rows -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    modern = folder / "modern.txt"
    separator = "\n<|endoftext|>\n"
    modern.write_text(separator.join(TEXT.replace("Red", f"Red {n}") for n in range(12)), encoding="utf-8")
    classics = write_stories(folder / "classics.txt", 40, 2)
    prepare_stories.main(
        [str(modern), str(classics), "--output", str(folder), "--vocabulary", "400", "--hold-out", "4"]
    )
    return folder


def test_tokens_are_flagged_where_text_is_only_read(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = Marked.join(
        Marked.plain("Ada is tall.\n\n", READ), Marked.plain("Omar called after Lira.")
    ).insert(37, " She waved.")
    tokens = encode(text, tokenizer)
    assert tokenizer.decode((tokens & TOKEN).tolist()) == text.text
    learnt = tokens[tokens < UNLEARNT]
    assert tokenizer.decode((learnt & TOKEN).tolist()) == "Omar called after Lira. She waved."
    assert tokenizer.decode((learnt[learnt >= STRESS] & TOKEN).tolist()) == " She waved."


def test_the_place_where_a_text_was_cut_is_not_learnt_as_an_end(folder):
    source = Source(folder / "modern.jsonl.xz", folder, Mix(**{**vars(Mix()), "cut": 1.0}), (5, 0))
    composer = Composer(source)
    texts = composer.texts(0, 0, len(composer.numbers))
    assert {int(text[0]) for text in texts} == {END_OF_TEXT, END_OF_TEXT | UNLEARNT}
    assert front(STORY, after_end=False).tolist() == [END_OF_TEXT | UNLEARNT]
    rows = list(pack(texts, 300, np.zeros(int(STRESS), np.bool_)))
    assert all(row[0] == END_OF_TEXT for row in rows)


def test_rows_begin_with_a_text_and_hold_all_of_them(folder):
    blank = np.zeros(400, np.bool_)
    blank[7] = True
    long = [np.array([END_OF_TEXT, *range(10, 30), 7, *range(30, 39)], np.uint16) for _ in range(9)]
    rows = list(pack(long, 40, blank))
    assert all(len(row) == 41 and row[0] == END_OF_TEXT for row in rows)
    joined = np.concatenate(rows)
    assert (joined == 38).sum() >= 6  # the ends of texts that were cut come in the next row
    tales = [np.array([END_OF_TEXT, TALE | UNLEARNT, *[10] * 900], np.uint16)]
    assert all((row[:2] == [END_OF_TEXT, TALE | UNLEARNT]).all() for row in pack(tales, 440, blank))


def test_epochs_repeat_exactly_and_differ_from_each_other(folder):
    source = Source(folder / "modern.jsonl.xz", folder, Mix(), (5, 0))
    composer = Composer(source)
    assert len(composer.stories) == len(read_prepared(source.stories))
    epochs = [list(Epochs(source, 0).texts(epoch)) for epoch in (0, 0, 1)]
    same = [np.array_equal(a, b) for a, b in zip(epochs[0], epochs[1], strict=True)]
    assert all(same) and not any(map(np.array_equal, epochs[0], epochs[2]))
    parts = [text for begin in range(0, 12, 5) for text in composer.texts(1, begin, begin + 5)]
    assert all(map(np.array_equal, parts, epochs[2]))


def test_batches_follow_the_share_of_classics_and_go_on_from_a_position(folder):
    shape = {"length": 64, "batch": 4, "micro_batch": 2}
    recipe = Recipe(**shape, classics_first=1.0, classics_last=0.0, quantized=0.1)
    mixture = Mixture(folder, folder, recipe, Mix())
    assert set(mixture.streams) == set(SETS)
    batches = [mixture.batch(step, 0.0) for step in range(3)]
    assert all((batch[:, :2] == [END_OF_TEXT, TALE | UNLEARNT]).all() for batch in batches)
    assert mixture.streams["modern"].row == 0
    assert (mixture.batch(3, 0.95)[:, 1] != TALE | UNLEARNT).all()  # none while weights are rounded
    place = mixture.position()
    expected = [mixture.batch(step, 0.5) for step in (4, 5)]
    other = Mixture(folder, folder, recipe, Mix())
    other.go_to(place)
    assert all(map(np.array_equal, expected, (other.batch(step, 0.5) for step in (4, 5))))


def test_stories_too_short_for_a_row_are_refused(folder):
    with pytest.raises(ValueError, match="do not fill one row of 100000"):
        Mixture(folder, folder, Recipe(length=100_000), Mix()).batch(0, 1.0)


def test_rows_can_be_looked_at(folder, capsys):
    show.main([str(folder), "3", "--memory", "1.0", "--whole", "0.0"])
    printed = capsys.readouterr().out
    assert printed.count("=== ") == 3 and "⟦" in printed and "characters …]" in printed
