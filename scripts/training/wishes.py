"""Sentences with which a writer asks for a length or an end, and facts to weave into a story.

`ending` and `length` word what the rest of a text will turn out to be. `weave` makes up a fact and sentences
that show it: natural stories tell too few kinds of facts for a model to learn to take up any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.training.words import read_list

SHORT_WORDS = 450  # up to which a text may be called short, and its end near

WEATHERS: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (
        ("It is raining.", "It rains.", "Rain.", "It is raining hard.", "Weather: rain.", "Make it rain."),
        (
            "Rain drummed on the roof.",
            "The rain had not stopped since morning.",
            "It was raining hard now.",
            "Rain ran down the windows.",
            "Water dripped from every leaf.",
            "The rain came down in sheets.",
            "Puddles had formed on the ground, and still it rained.",
        ),
    ),
    (
        ("It is snowing.", "It snows.", "Snow.", "Deep snow.", "Weather: snow.", "There is snow everywhere."),
        (
            "Snow fell without a sound.",
            "Large flakes of snow drifted past.",
            "The snow lay deep.",
            "Fresh snow covered everything.",
            "Snow crunched underfoot.",
            "It had begun to snow again.",
        ),
    ),
    (
        (
            "There is a storm.",
            "A storm is coming.",
            "Storm.",
            "Thunder and lightning.",
            "Weather: thunderstorm.",
        ),
        (
            "Thunder rolled in the distance.",
            "The storm was close now.",
            "Lightning lit the sky for a moment.",
            "The storm shook the shutters.",
            "Another flash of lightning, and then thunder.",
        ),
    ),
    (
        ("It is foggy.", "Fog.", "Thick fog.", "Weather: fog.", "There is fog everywhere."),
        (
            "The fog was so thick that the path vanished after a few steps.",
            "Fog hung between the trees.",
            "Everything was gray with fog.",
            "The fog swallowed every sound.",
            "Out of the fog came a sound.",
        ),
    ),
    (
        ("It is windy.", "A strong wind blows.", "Wind.", "Weather: strong wind."),
        (
            "The wind tugged at everything that was loose.",
            "A gust of wind slammed a door.",
            "The wind howled around the corners.",
            "The wind had grown stronger.",
        ),
    ),
    (
        ("It is very hot.", "Heat.", "A heat wave.", "It is the hottest day of the year.", "Weather: hot."),
        (
            "The heat was hard to bear.",
            "It was so hot that nothing moved.",
            "Sweat ran down their faces.",
            "The air shimmered with heat.",
            "Even in the shade it was too hot.",
        ),
    ),
    (
        ("It is bitterly cold.", "It is freezing.", "Cold.", "Weather: frost.", "Winter."),
        (
            "It was bitterly cold.",
            "Breath turned to white clouds.",
            "Ice had formed on the windows.",
            "The cold crept through every crack.",
            "Frost glittered on the ground.",
        ),
    ),
    (
        ("It is night.", "Night.", "It is the middle of the night.", "Time: midnight."),
        (
            "It was the middle of the night.",
            "The moon was the only light.",
            "Everybody else was asleep.",
            "Far away a clock struck midnight.",
            "The night was dark and without stars.",
        ),
    ),
)


@dataclass(frozen=True)
class Woven:
    """A made-up fact: how a writer says it, and sentences of a story that show it."""

    says: str
    shows: tuple[str, ...]


def ending(words: int, rng: np.random.Generator) -> str:
    """Word the wish that a text ends after so many words."""
    if words <= SHORT_WORDS and rng.random() < 0.65:
        return _one(read_list("soon"), rng)
    return _one(read_list("within"), rng).format(n=_round(words))


def length(words: int, rng: np.random.Generator) -> str:
    """Word the wish that a whole text has so many words."""
    if words <= SHORT_WORDS and rng.random() < 0.4:
        return _one(read_list("short"), rng)
    return _one(read_list("lengths"), rng).format(n=_round(words))


def weave(name: str, gender: str, rng: np.random.Generator) -> Woven:
    """Make up a fact about a person, or the weather."""
    she, her = ("She", "her") if gender == "f" else ("He", "his")
    kind = rng.random()
    if kind < 0.4:
        return _thing(name, she, her, rng)
    if kind < 0.6:
        says, shows = WEATHERS[int(rng.integers(len(WEATHERS)))]
        chosen = rng.permutation(len(shows))[:2]
        return Woven(_one(says, rng), tuple(shows[i] for i in chosen))
    if kind < 0.75:
        return _animal(name, her, rng)
    if kind < 0.87:
        fear = _one(read_list("fears"), rng)
        says = _one(
            (f"{name} is afraid of {fear}.", f"{name} fears {fear}.", f"{name}: afraid of {fear}."), rng
        )
        shows = (
            f"{name} had always been afraid of {fear}.",
            f"{she} thought of {fear} and shivered.",
            f"How afraid {name} was of {fear}, only the cat knew.",
        )
        return Woven(says, _two(shows, name, rng))
    job = _one(read_list("jobs"), rng)
    a = _article(job)
    says = _one((f"{name} is {a} {job}.", f"{name} works as {a} {job}.", f"{name}: {job}."), rng)
    shows = (
        f"{name} was {a} {job}, after all.",
        f"{she} had been {a} {job} for many years.",
        f"“You are the {job},” somebody said. {name} nodded.",
    )
    return Woven(says, _two(shows, name, rng))


def _thing(name: str, she: str, her: str, rng: np.random.Generator) -> Woven:
    thing, quality = _one(read_list("things"), rng), _one(read_list("adjectives"), rng)
    phrase = f"{quality} {thing}"
    a = _article(quality)
    says = (
        f"{name} has {a} {phrase}.",
        f"{name} carries {a} {phrase}.",
        f"{name} never goes anywhere without {her} {phrase}.",
        f"{name} owns {a} {phrase}.",
        f"{name}'s {thing} is {quality}.",
        f"There is {a} {phrase}.",
        f"{name}: {a} {phrase}.",
        f"{name} is looking for {a} {phrase}.",
    )
    shows = (
        f"{name} held the {phrase} tightly.",
        f"{she} put down the {phrase}.",
        f"{name} looked at the {phrase} for a long time.",
        f"The {phrase} was still there.",
        f"{she} reached for the {phrase}.",
        f"{name} thought of the {phrase}.",
        f"“Where is the {phrase}?” asked {name}.",
        f"There, on the floor, lay the {phrase}.",
        f"{name} had brought the {phrase}.",
        f"Without the {phrase} {name} would not go.",
    )
    return Woven(_one(says, rng), _two(shows, name, rng))


def _animal(name: str, her: str, rng: np.random.Generator) -> Woven:
    animal, called = _one(read_list("animals"), rng), _one(read_list("animal_names"), rng)
    says = (
        f"{name} has {_article(animal)} {animal} called {called}.",
        f"{name}'s {animal} is called {called}.",
        f"{called} is {name}'s {animal}.",
        f"{called}: {name}'s {animal}.",
    )
    shows = (
        f"{called}, {her} {animal}, followed {name} everywhere.",
        f"{called} the {animal} looked up.",
        f"Behind {name} came {called}, the {animal}.",
        f"“Come, {called},” said {name} to the {animal}.",
        f"{name} bent down to {called}.",
        f"{called} did not like this at all.",
    )
    first, _ = _two(shows[:4], animal, rng)
    return Woven(_one(says, rng), (first, _one([other for other in shows if other != first], rng)))


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _two(choices: Sequence[str], name: str, rng: np.random.Generator) -> tuple[str, str]:
    """Choose two sentences, of which the first has the name."""
    first = _one([choice for choice in choices if name in choice], rng)
    return first, _one([choice for choice in choices if choice != first], rng)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _round(words: int) -> int:
    step = 10 if words < 100 else 50 if words < 700 else 100
    return max(step, round(words / step) * step)
