"""Facts that are made up and woven into a story, so that what a writer tells comes true soon and every time.

Natural stories tell few kinds of facts, and show them late or not at all. Names and words are drawn from long
lists, and half of the names are made of syllables. A model can then only copy what it is told, and cannot
learn it by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.training.atmosphere import MOODS, WEATHERS
from scripts.training.names import BY_GENDER
from scripts.training.words import draw, read_list

RELATIVES = {
    "f": ("sister", "aunt", "niece", "daughter", "cousin", "friend", "neighbor", "teacher", "grandmother"),
    "m": ("brother", "uncle", "nephew", "son", "cousin", "friend", "neighbor", "teacher", "grandfather"),
}
FEELINGS = (
    ("is afraid of", "was afraid of"),
    ("fears", "feared"),
    ("loves", "loved"),
    ("hates", "hated"),
    ("dreams of", "dreamed of"),
    ("cannot stop talking about", "could not stop talking about"),
)
PLACES = ("corner", "cellar", "hall", "garden", "yard", "kitchen", "window", "cupboard", "shed", "doorway")
_ONSETS = ("b", "br", "c", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "qu", "r", "s", "st",
           "t", "tr", "v", "w", "z", "th", "sh", "")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ei", "au", "ia", "oo", "y")
_CODAS = ("", "", "", "l", "n", "r", "s", "m", "th", "ck", "nd", "rt", "x")


@dataclass(frozen=True)
class Woven:
    """A made-up fact: how a writer says it, and sentences of a story that show it, in their order."""

    says: str
    shows: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    """A person of a story: name, and gender ("f" or "m")."""

    name: str
    gender: str

    def fill(self, sentence: str, **more: str) -> str:
        """Fill the placeholders of a sentence in braces: name, she, She, her, Her, and those in `more`."""
        she, her = ("she", "her") if self.gender == "f" else ("he", "his")
        words = {"name": self.name, "she": she, "She": she.capitalize(), "her": her, "Her": her.capitalize()}
        return sentence.format(**words, **more)


def weave(person: Person | None, rng: np.random.Generator) -> Woven:
    """Make up a fact about a person, somebody near, the place, the weather, or the mood.

    If `person` is None, the fact names no person.
    """
    kinds = [(share, make) for share, make in KINDS if person or make in WITHOUT_A_PERSON]
    shares = np.array([share for share, _ in kinds])
    _, make = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    return make(person, rng)


def make_name(rng: np.random.Generator, gender: str | None = None) -> str:
    """Return a first name of `gender` or an invented one, by chance; if `gender` is None, an invented one."""
    if gender is not None and rng.random() < 0.5:
        return draw(BY_GENDER[gender], rng)
    syllables = [draw(_ONSETS, rng) + draw(_VOWELS, rng) for _ in range(int(rng.integers(1, 4)))]
    return ("".join(syllables) + draw(_CODAS, rng)).capitalize()


def _thing(person: Person | None, rng: np.random.Generator) -> Woven:
    phrase = f"{draw(read_list('adjectives'), rng)} {draw(read_list('things'), rng)}"
    says = (
        "{name} has {a} {phrase}.",
        "{name} carries {a} {phrase}.",
        "{name} never goes anywhere without {her} {phrase}.",
        "{name} owns {a} {phrase}.",
        "{name} keeps {a} {phrase} under the bed.",
        "{name}: {a} {phrase}.",
        "{name} is looking for {a} {phrase}.",
        "{name} wears {a} {phrase} around {her} neck.",
    )
    shows = (
        "{name} held the {phrase} tightly.",
        "{She} put down the {phrase}.",
        "{name} looked at the {phrase} for a long time.",
        "{She} reached for the {phrase}.",
        "{name} thought of the {phrase}.",
        "“Where is the {phrase}?” asked {name}.",
        "{name} had brought the {phrase}.",
        "Without the {phrase} {name} would not go.",
        "{Her} hand closed around the {phrase}.",
        "{She} turned the {phrase} over and over.",
    )
    return _told(person, says, shows, rng, phrase=phrase)


def _there_is(person: Person | None, rng: np.random.Generator) -> Woven:
    phrase = f"{draw(read_list('adjectives'), rng)} {draw(read_list('things'), rng)}"
    place = draw(PLACES, rng)
    says = (
        "There is {a} {phrase}.",
        "There is {a} {phrase} in the {place}.",
        "In the {place} is {a} {phrase}.",
        "The {phrase} is important.",
        "Use {a} {phrase}.",
    )
    shows = (
        "In the {place} was {a} {phrase}.",
        "The {phrase} was still there.",
        "There, in the {place}, lay {a} {phrase}.",
        "Somebody had left {a} {phrase} in the {place}.",
        "{name} saw the {phrase} at once.",
        "It was {a} {phrase}.",
        "The {phrase} had not been touched for years.",
    )
    return _told(person, says, shows, rng, phrase=phrase, place=place)


def _animal(person: Person | None, rng: np.random.Generator) -> Woven:
    animal = draw(read_list("animals"), rng)
    chance = rng.random()
    if chance < 0.4:
        called = draw(read_list("things"), rng).capitalize()
    else:
        called = draw(read_list("animal_names"), rng) if chance < 0.6 else make_name(rng)
    says = (
        "{name} has {a} {animal} called {called}.",
        "{name}'s {animal} is called {called}.",
        "{called} is {name}'s {animal}.",
        "{called}: {name}'s {animal}.",
        "The {animal} is called {called}.",
        "There is {a} {animal} called {called}.",
    )
    shows = (
        "{called}, the {animal}, followed {name} everywhere.",
        "{called} the {animal} looked up.",
        "Behind {name} came {called}, the {animal}.",
        "“Come, {called},” said {name} to the {animal}.",
        "{called} did not like this at all.",
        "{name} bent down to {called}, the {animal}.",
        "And where was {called}, the {animal}?",
        "{called} was asleep, as {animal}s are at that hour.",
    )
    return _told(person, says, shows, rng, animal=animal, called=called)


def _relative(person: Person | None, rng: np.random.Generator) -> Woven:
    gender = ("f", "m")[int(rng.integers(2))]
    relative, called = draw(RELATIVES[gender], rng), make_name(rng, gender)
    says = (
        "{name} has {a} {relative} called {called}.",
        "{name}'s {relative} is called {called}.",
        "{called} is {name}'s {relative}.",
        "{called}: {name}'s {relative}.",
        "The name of {name}'s {relative} is {called}.",
    )
    shows = (
        "{called}, {her} {relative}, was waiting by the door.",
        "“I will come with you,” said {called}, {her} {relative}.",
        "{name} thought of {called}, {her} {relative}.",
        "Then {called} came in, {name}'s {relative}.",
        "“Ask {called},” said {name}. “You know my {relative}.”",
        "{called} laughed.",
        "{called} shook {other} head.",
        "“And what does {called} say?” somebody asked.",
    )
    other = "her" if gender == "f" else "his"
    return _told(person, says, shows, rng, relative=relative, called=called, other=other)


def _liking(person: Person | None, rng: np.random.Generator) -> Woven:
    liked = draw(read_list("likings"), rng)
    feeling, felt = FEELINGS[int(rng.integers(len(FEELINGS)))]
    says = ("{name} {feeling} {liked}.", "{name}: {feeling} {liked}.")
    shows = (
        "{name} had always been like that: {she} {felt} {liked}.",
        "“You know me,” said {name}, who {felt} {liked}.",
        "{name} {felt} {liked}, and everybody knew it.",
        "{She} thought of {liked}.",
        "If only there were no talk of {liked}.",
    )
    return _told(person, says, shows, rng, liked=liked, feeling=feeling, felt=felt)


def _job(person: Person | None, rng: np.random.Generator) -> Woven:
    job = draw(read_list("jobs"), rng)
    says = (
        "{name} is {a} {job}.",
        "{name} works as {a} {job}.",
        "{name}: {job}.",
        "{name} is the {job} here.",
    )
    shows = (
        "{name} was {a} {job}, after all.",
        "{name} had been {a} {job} for many years.",
        "“You are the {job},” somebody said. {name} nodded.",
        "It is not easy to be {a} {job}.",
        "{name} knew it, as every {job} does.",
    )
    return _told(person, says, shows, rng, job=job)


def _weather(person: Person | None, rng: np.random.Generator) -> Woven:
    says, shows = WEATHERS[int(rng.integers(len(WEATHERS)))]
    return Woven(draw(says, rng), tuple(shows[i] for i in rng.permutation(len(shows))[:3]))


def _mood(person: Person | None, rng: np.random.Generator) -> Woven:
    words, shows = MOODS[int(rng.integers(len(MOODS)))]
    says = (
        "The mood is {word}.",
        "The tone is {word}.",
        "Make it {word}.",
        "Mood: {word}.",
        "Keep it {word}.",
    )
    assert person is not None  # see WITHOUT_A_PERSON
    chosen = tuple(person.fill(shows[i]) for i in rng.permutation(len(shows))[:3])
    return Woven(draw(says, rng).format(word=draw(words, rng)), chosen)


KINDS: Sequence[tuple[float, Callable[[Person | None, np.random.Generator], Woven]]] = (
    (0.24, _thing),
    (0.12, _there_is),
    (0.14, _animal),
    (0.14, _relative),
    (0.08, _liking),
    (0.06, _job),
    (0.12, _weather),
    (0.10, _mood),
)


WITHOUT_A_PERSON = (_there_is, _animal, _weather)


def _sayable(person: Person | None, sentences: Sequence[str]) -> Sequence[str]:
    """Return the sentences; if `person` is None, only those without placeholders for a person."""
    return [
        s
        for s in sentences
        if person or not any(f"{{{word}" in s for word in ("name", "she", "She", "her", "Her"))
    ]


def _filled(person: Person | None, sentence: str, **words: str) -> str:
    return person.fill(sentence, **words) if person else sentence.format(**words)


NOUNS = ("phrase", "animal", "relative", "liked", "job")


def _told(
    person: Person | None, says: Sequence[str], shows: Sequence[str], rng: np.random.Generator, **words: str
) -> Woven:
    """Choose how a writer says the fact, and up to three sentences that show it.

    The first of these sentences contains all words that were made up. `words` has a noun, for which `{a}` is
    the article. For some facts it also has `called`, the noun's name.
    """
    noun = next(word for word in NOUNS if word in words)
    words["a"] = _article(words[noun])
    made_up = [f"{{{word}}}" for word in (noun, "called") if word in words]
    says, shows = _sayable(person, says), _sayable(person, shows)
    firsts = [i for i, show in enumerate(shows) if all(word in show for word in made_up)]
    first = firsts[int(rng.integers(len(firsts)))]
    others = [int(i) for i in rng.permutation(len(shows)) if i != first][:2]
    return Woven(
        _filled(person, draw(says, rng), **words),
        tuple(_filled(person, shows[i], **words) for i in (first, *others)),
    )


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" and not phrase.startswith(("use", "uni", "uku")) else "a"
