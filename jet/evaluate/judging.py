"""Judge many continuations: the share for which each rule of `measures` holds, and repetition in their prose.

For example:

    rows = judge({opening: ["a continuation", "another"], …}, load_probes(), held_out_stories)
    print(format_table(rows))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jet.evaluate import measures
from jet.evaluate.measures import Opening
from jet.evaluate.probes import Probes
from jet.evaluate.rows import Row, to_row
from jet.evaluate.spread import estimate
from jet.evaluate.text import words

Rule = Callable[[Opening, str], "bool | float | None"]

# What is measured of each continuation on its own: label, rule.
RULES: dict[str, Rule] = {
    "named person still there at the end": measures.person_is_there,
    "… and named as often as anybody": measures.person_leads,
    "person switched": measures.person_switched,
    "tense switched": measures.tense_switched,
    "chapter headings without one before": measures.adds_chapter,
}


def judge(
    written: Mapping[Opening, Sequence[str]], probes: Probes, held_out: Sequence[str] = ()
) -> list[Row]:
    """Return the rows of all rules for continuations, which are given by opening.

    `probes`: the openings and stock phrases to compare with. `held_out`: stories from which samples of the
    same lengths are taken, for comparison.
    """
    texts = [text for continuations in written.values() for text in continuations]
    like = measures.samples_like(texts, held_out) if held_out else []
    rows = [_of_rule(label, rule, written) for label, rule in RULES.items()]
    rows.insert(2, _premise(written, list(probes.openings)))
    for label, measure, unit in (
        ("distinct 4-grams, all stories together", measures.distinct_grams, "%"),
        ("distinct 4-grams within a story", measures.distinct_within, "%"),
        ("stock phrases per 1,000 words", _stock(probes), ""),
    ):
        rows.append(
            Row(
                label, measure(texts), stories=len(texts), held_out=measure(like) if like else None, unit=unit
            )
        )
    return [*rows, non_words("words that are none, per 10,000", written, like)]


def _of_rule(label: str, rule: Rule, written: Mapping[Opening, Sequence[str]]) -> Row:
    values = {
        opening.id: [float(found) for text in texts if (found := rule(opening, text)) is not None]
        for opening, texts in written.items()
    }
    return to_row(label, estimate(values))


def _premise(written: Mapping[Opening, Sequence[str]], openings: Sequence[Opening]) -> Row:
    own = {
        opening.id: [found for text in texts if (found := measures.premise_kept(opening, text)) is not None]
        for opening, texts in written.items()
    }
    shuffled = {
        opening.id: [measures.premise_of_others(openings, opening, text) for text in texts]
        for opening, texts in written.items()
    }
    return to_row("premise words kept", estimate(own), estimate(shuffled))


def _stock(probes: Probes) -> Callable[[Sequence[str]], float]:
    return lambda texts: measures.per_thousand_words(probes.stock_phrases, texts)


def non_words(label: str, written: Mapping[Opening, Sequence[str]], like: Sequence[str] = ()) -> Row:
    """Return the number of non-words per 10,000 words, with examples; `like`: samples of held-out stories.

    The value is None without the package pyspellchecker.
    """
    is_word = measures.dictionary()
    if is_word is None:
        return Row(label, None, unit="", remark="needs a dictionary: pip install pyspellchecker")
    pairs = [(text, opening.text) for opening, texts in written.items() for text in texts]
    found = [word for text, given in pairs for word in measures.non_words(text, is_word, given)]
    rate = 10_000 * len(found) / max(1, sum(len(words(text)) for text, _ in pairs))
    of_held_out = None
    if like:
        real = sum(len(measures.non_words(text, is_word)) for text in like)
        of_held_out = 10_000 * real / max(1, sum(len(words(text)) for text in like))
    examples = ", ".join(list(dict.fromkeys(found))[:12])
    return Row(label, rate, stories=len(pairs), held_out=of_held_out, unit="", remark=examples)
