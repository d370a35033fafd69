"""Descriptions of the samplers, for the page's help, `docs/samplers.md` and `docs/api.md`."""

from __future__ import annotations

from typing import NamedTuple


class SamplerHelp(NamedTuple):
    """One setting of a sampler.

    Attributes:
        name: its name in `SamplingParams` and in /v1.
        does: a sentence about its effect.
        least, most: its range.
        off: the value at which it has no effect; "" if it belongs to another setting.
        place: its place in the order of samplers.
        cost: the additional time for a token when it is on.
        source: paper or first implementation.
    """

    name: str
    does: str
    least: float
    most: float
    off: str
    place: str
    cost: str
    source: str


_HOST = "host"
_GRAPH = "none"
_KERNEL = "a kernel"

SAMPLERS = (
    SamplerHelp(
        "repetition_penalty",
        "Divides positive logits of tokens that the text has already, and multiplies negative ones.",
        *(0.1, 10, "1", "first", _GRAPH, "Keskar et al., arXiv 1909.05858"),
    ),
    SamplerHelp(
        "presence_penalty",
        "Is taken from the logits of tokens that the answer has already.",
        *(-2, 2, "0", "first", _HOST, "OpenAI's API"),
    ),
    SamplerHelp(
        "frequency_penalty",
        "Is taken once for every time that the answer has the token.",
        *(-2, 2, "0", "first", _HOST, "OpenAI's API"),
    ),
    SamplerHelp(
        "dry_multiplier",
        "DRY: makes a token the less likely the longer the repetition is that it would carry on.",
        *(0, 100, "0", "first", _HOST, "p-e-w, text-generation-webui pull request 5677"),
    ),
    SamplerHelp(
        "dry_base",
        "Is how much DRY's penalty grows with each token of a repetition.",
        *(1, 10, "", "first", _HOST, "as above"),
    ),
    SamplerHelp(
        "dry_allowed_length",
        "Is the length of a repetition, in tokens, from which DRY acts.",
        *(1, 1000, "", "first", _HOST, "as above"),
    ),
    SamplerHelp(
        "top_n_sigma",
        "Keeps the tokens whose logits are at most so many standard deviations below the largest.",
        *(0, 100, "0", "1", _KERNEL, "Tang et al., arXiv 2411.07641"),
    ),
    SamplerHelp(
        "temperature",
        "Divides the logits: 0 always takes the likeliest token, and the higher, the more is left to chance.",
        *(0, 5, "1", "2", _GRAPH, "Ackley et al., 1985"),
    ),
    SamplerHelp(
        "dynatemp_range",
        "Lets the temperature vary by so much: low where the model is sure, high where it is not.",
        *(0, 5, "0", "2", _KERNEL, "kalomaze; llama.cpp temp_ext"),
    ),
    SamplerHelp(
        "dynatemp_exponent",
        "Is the power of the normalized entropy that a varying temperature follows.",
        *(0, 10, "", "2", _KERNEL, "as above"),
    ),
    SamplerHelp(
        "typical_p",
        "Keeps the tokens whose surprise is nearest to the expected one, together of this probability.",
        *(0, 1, "1", "3", _KERNEL, "Meister et al., arXiv 2202.00666"),
    ),
    SamplerHelp(
        "top_k",
        "Keeps so many of the likeliest tokens.",
        *(0, 1_000_000, "0", "4", _GRAPH, "Fan et al., arXiv 1805.04833"),
    ),
    SamplerHelp(
        "top_p",
        "Keeps the likeliest tokens that together have this probability.",
        *(0, 1, "1", "5", _GRAPH, "Holtzman et al., arXiv 1904.09751"),
    ),
    SamplerHelp(
        "min_p",
        "Keeps the tokens at least this fraction as likely as the likeliest.",
        *(0, 1, "0", "6", _GRAPH, "Nguyen et al., arXiv 2407.01082"),
    ),
    SamplerHelp(
        "xtc_probability",
        "XTC: with this probability, excludes all likely tokens but the least likely of them.",
        *(0, 1, "0", "7", _KERNEL, "p-e-w, text-generation-webui pull request 6335"),
    ),
    SamplerHelp(
        "xtc_threshold",
        "Is the probability from which XTC takes a token for likely.",
        *(0, 0.5, "", "7", _KERNEL, "as above"),
    ),
    SamplerHelp(
        "adaptive_target",
        "Adaptive-p: draws tokens of about this probability on the average, making up for the last ones.",
        *(-1, 1, "-1", "last", _KERNEL, "MrJackSpade, adaptive-p-docs; llama.cpp"),
    ),
    SamplerHelp(
        "adaptive_decay",
        "Is how much of its past adaptive-p remembers.",
        *(0, 0.99, "", "last", _KERNEL, "as above"),
    ),
    SamplerHelp(
        "mirostat",
        "2 holds the surprise of the drawn tokens at a level; only temperature and penalties act beside it.",
        *(0, 2, "0", "last", _KERNEL, "Basu et al., arXiv 2007.14966"),
    ),
    SamplerHelp(
        "mirostat_tau",
        "Is that level of surprise, in bits.",
        *(0, 20, "", "last", _KERNEL, "as above"),
    ),
    SamplerHelp(
        "mirostat_eta",
        "Is how quickly mirostat learns.",
        *(0, 1, "", "last", _KERNEL, "as above"),
    ),
)
HELP = {sampler.name: sampler.does for sampler in SAMPLERS}


def as_table() -> str:
    """Return the descriptions as the Markdown table of `docs/samplers.md`."""
    rows = [
        "| field | what it does | range | off | order | cost | source |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += (
        f"| `{one.name}` | {one.does} | {one.least:g} to {one.most:g} | {one.off or '–'} | {one.place} | "
        f"{one.cost} | {one.source} |"
        for one in SAMPLERS
    )
    return "\n".join(rows)
