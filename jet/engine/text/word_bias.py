"""Word bias: find the token sequences that spell a word, and make the word likelier or forbid it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jet.api import RequestError

# Token ids of one spelling, and what is added to the logit of each where the ones before it stand.
BiasedSequence = tuple[tuple[int, ...], tuple[float, ...]]


def spellings(word: str) -> list[str]:
    """Return the spellings of a word in a text: as given and capitalized, with and without a space before.

    A word that is given with a space before or after it has only this spelling.
    """
    if word != word.strip():
        return [word]
    forms = dict.fromkeys([word, word[:1].upper() + word[1:]])
    return [blank + form for form in forms for blank in (" ", "")]


def biased_sequences(
    words: Iterable[tuple[str, float]], ids_of: Callable[[str], Iterable[int]]
) -> tuple[BiasedSequence, ...]:
    """Return the token sequences of all spellings of words, with the bias of each token.

    A positive bias is spread over the tokens of a word, so that its beginning becomes likelier, too. A
    negative bias applies to the last token only, so that other words with the same beginning are not
    affected. `words`: pairs of a word and its bias. Raises RequestError for a word without tokens.
    """
    found: dict[tuple[int, ...], float] = {}
    for word, bias in words:
        for spelling in spellings(word):
            ids = tuple(int(token) for token in ids_of(spelling))
            if not ids:
                raise RequestError(f"The word {word[:40]!r} has no tokens.")
            found[ids] = bias
    return tuple((ids, _spread(len(ids), bias)) for ids, bias in found.items())


def _spread(count: int, bias: float) -> tuple[float, ...]:
    return (bias / count,) * count if bias > 0 else (0.0,) * (count - 1) + (bias,)


def biases_now(sequences: Iterable[BiasedSequence], history: Sequence[int]) -> dict[int, float]:
    """Return the bias of each token id as the next token after `history`, except for ids without a bias.

    If several sequences bias the same token, their biases are added.
    """
    found: dict[int, float] = {}
    for ids, biases in sequences:
        for place, (token, bias) in enumerate(zip(ids, biases, strict=True)):
            behind = tuple(history[len(history) - place :]) if place <= len(history) else None
            if bias and behind == ids[:place]:
                found[token] = found.get(token, 0.0) + bias
    return found
