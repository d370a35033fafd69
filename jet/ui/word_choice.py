"""Parse the words that the writer wants to be likelier or less likely into a request's word bias."""

from __future__ import annotations

from jet.story.errors import StoryError
from jet.story.json_fields import Fields

USUAL_STRENGTH, MAX_STRENGTH = 3.0, 10.0
_SIGNS = {"likelier": 1, "rarer": -1}


def parse_word_bias(fields: Fields) -> tuple[tuple[str, float], ...]:
    """Parse the words of a command; return each with the number to add to its logits. Raises StoryError.

    A line has a word or phrase, and after a colon its strength: "moon: 5". Without a strength, it is 3.
    """
    found: dict[str, float] = {}
    for name, sign in _SIGNS.items():
        for line, _ in fields.take_items(name) if fields.has(name) else ():
            if not isinstance(line, str) or not line.strip():
                continue
            word, bias = _parse(line)
            if found.setdefault(word, sign * bias) * sign < 0:
                raise StoryError(
                    f"“{word[:40]}” is to be both likelier and less likely: take one of them out."
                )
            found[word] = sign * bias
    return tuple(found.items())


def _parse(line: str) -> tuple[str, float]:
    word, colon, strength = (part.strip() for part in line.rpartition(":"))
    if not colon or not word:
        return line.strip(), USUAL_STRENGTH
    try:
        bias = float(strength.replace(",", "."))
    except ValueError:
        return line.strip(), USUAL_STRENGTH
    if not 0 < bias <= MAX_STRENGTH:
        raise StoryError(
            f"“{word[:40]}” can be meant from 1 to {MAX_STRENGTH:g} strong, not {strength[:20]}."
        )
    return word, bias
