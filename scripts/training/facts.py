"""Find facts in a story by rules, as a writer would put them into memory, note or lorebook.

A fact is a place in the text and short sentences that say what the text says there: who somebody is, what
she has, where it happens, what the weather is, what happens next. Sentences in quotation marks are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.training.words import read_list

PRESENT = {
    "was": "is",
    "were": "are",
    "had": "has",
    "lived": "lives",
    "worked": "works",
    "loved": "loves",
    "wore": "wears",
    "carried": "carries",
    "kept": "keeps",
    "owned": "owns",
    "held": "holds",
    "wanted": "wants",
    "knew": "knows",
    "dreamed": "dreams",
    "stood": "stands",
    "spent": "spends",
    "ran": "runs",
    "sold": "sells",
    "made": "makes",
    "played": "plays",
    "studied": "studies",
    "feared": "fears",
    "hated": "hates",
    "longed": "longs",
    "hid": "hides",
}
RELATIONS = (
    "mother|father|sister|brother|grandmother|grandfather|aunt|uncle|cousin|daughter|son|wife|husband|friend|"
    "best friend|neighbor|neighbour|teacher|dog|cat|horse|parrot|goat|donkey|younger brother|younger sister|"
    "older brother|older sister|little brother|little sister|childhood friend|twin brother|twin sister"
)
WEATHER = {
    "rain": (r"rain(?:ed|ing|s)?|drizzle|downpour", ("It is raining.", "Rain is falling.", "Weather: rain.")),
    "storm": (
        r"storm(?:s|y)?|thunder|lightning",
        ("There is a storm.", "A storm is raging.", "Weather: thunderstorm."),
    ),
    "snow": (
        r"snow(?:ed|ing|y|flakes?|storm)?|blizzard",
        ("It is snowing.", "Snow is falling.", "Deep snow lies everywhere."),
    ),
    "fog": (r"fog(?:gy)?|mist(?:y|s)?", ("There is thick fog.", "It is foggy.", "Weather: fog.")),
    "wind": (r"wind(?:s|y)?|gusts?|gale", ("A strong wind is blowing.", "It is windy.", "Weather: wind.")),
    "heat": (r"heat|hot|scorching|sweltering", ("It is very hot.", "Weather: heat.", "It is a hot day.")),
    "cold": (
        r"cold|chill(?:y|ed)?|frost(?:y)?|icy|freezing",
        ("It is bitterly cold.", "It is freezing.", "Weather: cold."),
    ),
    "night": (
        r"night|midnight|moon(?:light|lit)?|stars",
        ("It is night.", "It is the middle of the night.", "Time: night."),
    ),
    "winter": (r"winter", ("It is winter.", "The season is winter.")),
    "autumn": (r"autumn|fall leaves", ("It is autumn.", "The season is autumn.")),
    "spring": (r"springtime|blossoms?|in spring", ("It is spring.", "The season is spring.")),
    "summer": (r"summer", ("It is summer.", "The season is summer.")),
}
TONES = {
    "eerie": r"shadows?|eerie|ghost\w*|darkness|whisper\w*|silence|strange|haunt\w*|creak\w*|dread",
    "sad": r"tears?|grief|sorrow|mourn\w*|lost|alone|lonely|wept|cried|sobb\w*|loss",
    "funny": r"laugh\w*|giggl\w*|chuckl\w*|silly|joke\w*|grin\w*|funny|snort\w*",
    "warm": r"warm\w*|hug\w*|smil\w*|embrac\w*|kind\w*|love\w*|gentle|tender\w*",
    "tense": r"danger\w*|hurr\w*|raced|pounding|froze|fear\w*|scream\w*|panic\w*|escape\w*|threat\w*",
    "hopeful": r"hope\w*|dream\w*|promise\w*|bright\w*|future|believ\w*",
    "mysterious": r"myster\w*|secret\w*|hidden|ancient|unknown|riddle\w*|puzzl\w*|clue\w*",
}
TONE_WINDOW, TONE_HITS = 900, 5  # characters, and how many words of a tone make one
_QUOTED = re.compile(r"“[^”\n]*(?:”|$)|\"[^\"\n]*(?:\"|$)", re.MULTILINE)
SENTENCE = re.compile(r"(?:(?<=\s)|\A)[A-Z][^.!?\n“”\"]*[.!?](?=\s|\Z)")
_STOP_NOUNS = frozenset(read_list("stop_nouns"))


_NO_EVENT = re.compile(rf"^\w+(?: and \w+)?(?:['’]s|,? (?:{'|'.join(read_list('no_event_verbs'))})\b)")


@dataclass(frozen=True)
class Fact:
    """A fact of a story.

    Attributes:
        start: index in the text where the fact is stated.
        kind: "person", "relation", "place", "thing", "weather", "tone" or "event".
        subject: the name or noun that the fact is about; for weather and tone, the weather or tone.
        says: sentences, each of which tells the fact; an event has a single one, in the past tense.
    """

    start: int
    kind: str
    subject: str
    says: tuple[str, ...]


def find_facts(text: str, people: dict[str, str], start: int = 0) -> list[Fact]:
    """Return the facts of a text from `start` on, in their order."""
    facts: list[Fact] = []
    narration = _QUOTED.sub(lambda quote: "“" * len(quote[0]), text)
    for found in SENTENCE.finditer(narration, start):
        facts += _of_sentence(found[0], found.start(), people)
    facts += _relations(narration, people, start)
    facts += _things(narration, start)
    facts += _tones(text, start)
    unique = {(fact.kind, fact.subject, fact.says): fact for fact in reversed(facts)}
    return sorted(unique.values(), key=lambda fact: fact.start)


def _of_sentence(sentence: str, at: int, people: dict[str, str]) -> Iterator[Fact]:
    names = [name for name in people if name in sentence]
    for name in names:
        for who in (
            rf"\b{name}, (an? [a-z][^,.;:—()]{{3,60}}?)(?=[,.])",
            rf"\b(an? [a-z][a-z ,-]{{2,50}}?) (?:named|called) {name}\b",
        ):
            if (found := re.search(who, sentence)) and not _is_clause(found[1]):
                yield Fact(at, "person", name, (f"{name} is {found[1]}.", f"{name}: {found[1]}."))
        does = rf"\b{name},? ({'|'.join(PRESENT)}) ([^.,;!?—]{{4,70}})(?=[.,;])"
        if (found := re.search(does, sentence)) and _states(found[1], found[2]):
            yield Fact(at, "person", name, (f"{name} {PRESENT[found[1]]} {found[2]}.",))
    if (
        names
        and 20 <= len(sentence) <= 110
        and sentence.startswith(tuple(names))
        and not _NO_EVENT.search(sentence)
    ):
        yield Fact(at, "event", names[0], (sentence,))
    for found in re.finditer(
        r"\b(village|town|city|kingdom|island|valley|forest|port|planet|land) (?:of|called|named) "
        r"([A-Z][\w’']+(?: [A-Z][\w’']+)?)",
        sentence,
    ):
        name = found[2].removesuffix("'s").removesuffix("’s")
        yield Fact(
            at,
            "place",
            name,
            (
                f"The story takes place in {name}.",
                f"{name} is a {found[1]}.",
                f"Place: {name}, a {found[1]}.",
            ),
        )
    for kind, (words, says) in WEATHER.items():
        if re.search(rf"\b(?:{words})\b", sentence):
            yield Fact(at, "weather", kind, says)


def _is_clause(phrase: str) -> bool:
    return bool(re.search(r"\b(?:was|were|had|said|and then)\b", phrase))


def _states(verb: str, rest: str) -> bool:
    """Return whether a verb and the words after it state something that lasts."""
    if verb in ("was", "were"):
        return bool(
            re.match(
                r"(?:an?|afraid|born|blind|deaf|\w+ years old|only|known|the \w+ (?:of|in)|famous)\b", rest
            )
        )
    if verb == "had":
        fits = r"(?:an?|two|three|four|no|long|short|dark|bright|blue|green|brown|black|red|golden|curly)\b"
        return bool(re.match(fits, rest)) and not re.match(r"an? (?:feeling|sense|moment|idea|chance)", rest)
    if verb in ("held", "kept", "wore", "carried", "made", "sold", "hid", "owned"):
        return bool(re.match(r"(?:an?|her|his|two|three|small|old)\b", rest))
    if verb in ("knew", "stood", "ran"):
        return verb == "ran" and bool(
            re.match(r"(?:an?|the) (?:\w+ )?(?:shop|cafe|café|inn|bakery|farm|store)", rest)
        )
    if rest.startswith("the next"):
        return False
    return bool(re.match(r"(?:in|at|with|as|to|by|near|on|her|his|the|an?|for|every|of)\b", rest))


def _relations(text: str, people: dict[str, str], start: int) -> Iterator[Fact]:
    pattern = rf"\b([A-Z][a-z]+['’]s|[Hh]er|[Hh]is) ({RELATIONS}),? ([A-Z][a-zà-ÿ]+)\b"
    for found in re.finditer(pattern, text[start:]):
        owner, relation, name = found.groups()
        at = start + found.start()
        if owner.lower() in ("her", "his"):
            before = text[max(0, at - 200) : at]
            gender = "f" if owner.lower() == "her" else "m"
            fits = [(before.rfind(who), who) for who, g in people.items() if g == gender and who != name]
            place, owner = max(fits, default=(-1, ""))
            if place < 0:
                continue
        else:
            owner = owner[:-2]
        if name in people and owner in people and name != owner:
            says = (f"{name} is {owner}'s {relation}.", f"{owner}'s {relation} is called {name}.")
            yield Fact(at, "relation", name, says)


def _things(text: str, start: int) -> Iterator[Fact]:
    """Yield things that are introduced by "a" or "an" and come up again soon."""
    frequent = Counter(re.findall(r"\b[Tt]he (?:[a-z-]+ )?([a-z]{3,})\b", text))
    for found in re.finditer(r"\b(an? (?:[a-z-]+,? ){0,2}?([a-z]{3,}))\b(?= [a-z]|[,.])", text[start:]):
        phrase, noun = found.groups()
        if noun in _STOP_NOUNS or frequent[noun] < 2 or noun.endswith(("ing", "ly", "ed", "ness")):
            continue
        at = start + found.start()
        if len(re.findall(rf"\b{noun}\b", text[at : at + 2_500])) >= 3:
            says = (f"There is {phrase}.", f"{phrase[0].upper()}{phrase[1:]} plays a part.")
            yield Fact(at, "thing", noun, says)


def _tones(text: str, start: int) -> Iterator[Fact]:
    for at in range(start, len(text) - TONE_WINDOW, TONE_WINDOW // 2):
        window = text[at : at + TONE_WINDOW].lower()
        hits = {tone: len(re.findall(rf"\b(?:{words})\b", window)) for tone, words in TONES.items()}
        tone = max(hits, key=lambda tone: hits[tone])
        if hits[tone] >= TONE_HITS and hits[tone] > 1.5 * sorted(hits.values())[-2]:
            says = (f"The tone is {tone}.", f"Make it {tone}.", f"Tone: {tone}.", f"Keep it {tone}.")
            yield Fact(at, "tone", tone, says)
