"""DRY: penalize tokens that would continue a repetition of earlier text, the more the longer the repetition.

Its author describes this sampler at https://github.com/oobabooga/text-generation-webui/pull/5677. A
repetition penalty also penalizes repeated names and commas, since it looks at single tokens. DRY looks at
sequences.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MAX_MATCH_LENGTH = 50  # a longer repetition is not punished harder; by then the penalty is beyond every logit
MAX_PENALTY = 1e4  # a penalty, likewise

Ids = npt.NDArray[np.int64]


def dry_penalties(
    history: Ids,
    sequence_breakers: npt.NDArray[np.bool_],
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
) -> tuple[Ids, npt.NDArray[np.float64]]:
    """Find the tokens that would continue a repetition, and the DRY penalty of each.

    If the last n tokens also precede an earlier occurrence of a token, that token's penalty is
    `multiplier * base ** (n - allowed_length)`, provided that n is at least `allowed_length`. Of several
    occurrences, the longest match counts. A match does not extend across a sequence breaker, such as a line
    break or a quotation mark. Breakers are never penalized. A match counts up to `MAX_MATCH_LENGTH` tokens,
    and a penalty is at most `MAX_PENALTY`.

    Args:
        history: the tokens so far, `[T]`.
        sequence_breakers: bool `[V]`, whether each token of the vocabulary is a sequence breaker.
        multiplier: penalty of a match of `allowed_length` tokens.
        base: factor for each further token.
        allowed_length: shortest match that is penalized, in tokens.

    Returns:
        Token ids and penalties to subtract from the logits, `[N]` each, no token twice.
    """
    none = np.empty(0, np.int64), np.empty(0, np.float64)
    if len(history) < 2 or sequence_breakers[history[-1]]:
        return none
    ends = np.flatnonzero(history[:-1] == history[-1])  # where what was written last had stood before
    ends = ends[~sequence_breakers[history[ends + 1]]]
    lengths = np.ones(len(ends), np.int64)
    active = np.arange(len(ends))
    for length in range(1, min(MAX_MATCH_LENGTH, len(history) - 1)):
        before = history[-1 - length]
        if sequence_breakers[before]:
            break
        active = active[ends[active] >= length]
        active = active[history[ends[active] - length] == before]
        if not len(active):
            break
        lengths[active] += 1
    penalized = lengths >= allowed_length
    if not penalized.any():
        return none
    ids, place = np.unique(history[ends[penalized] + 1], return_inverse=True)
    longest = np.zeros(len(ids), np.int64)
    np.maximum.at(longest, place, lengths[penalized])
    return ids, np.minimum(multiplier * base ** (longest - allowed_length).astype(np.float64), MAX_PENALTY)
