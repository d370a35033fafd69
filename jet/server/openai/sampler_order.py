"""Parse the order of samplers. Clients send llama.cpp's names or KoboldAI's numbers."""

from __future__ import annotations

from collections.abc import Sequence

from jet.api import SAMPLERS
from jet.server.openai.errors import ApiError, invalid

_NAMES = {"typ_p": "typical_p", "typical": "typical_p", "temp": "temperature", "nsigma": "top_n_sigma"}
# KoboldAI applies min-p with top-p; top-nσ comes before its samplers and XTC behind them.
_NUMBERS: dict[int, tuple[str, ...]] = {
    0: ("top_k",),
    2: ("top_p", "min_p"),
    4: ("typical_p",),
    5: ("temperature",),
    1: (),
    3: (),
    6: (),  # top-a, tail-free, and the repetition penalty, which always comes first
}
_FIRST = ("penalties", "dry", "logit_bias")
MAX_NAMES = 32


def order_of(given: str | Sequence[str] | Sequence[int] | None) -> str:
    """Return the value for `SamplingParams.sampler_order`; "" for the default order.

    Drops unknown names. Raises ApiError for unknown numbers, too many samplers, or one that must come first.
    """
    if given is None or not len(given):
        return ""
    names = given.split(";") if isinstance(given, str) else list(given)
    if len(names) > MAX_NAMES:
        raise invalid(f"samplers can name {MAX_NAMES}.", param="samplers")
    order: list[str] = []
    if isinstance(names[0], int):
        order = ["top_n_sigma", *(one for number in names for one in _of_number(number)), "xtc"]
    else:
        for name in names:
            plain = _NAMES.get(str(name), str(name))
            if plain in _FIRST and order:
                raise invalid(f"samplers: {plain} always comes first here.", param="samplers")
            order += [plain] if plain in SAMPLERS else []
    return ";".join(dict.fromkeys(order))


def _of_number(number: object) -> tuple[str, ...]:
    found = _NUMBERS.get(number) if isinstance(number, int) else None
    if found is None:
        raise _unknown(number)
    return found


def _unknown(number: object) -> ApiError:
    return invalid(f"sampler_order has numbers from 0 to 6, not {number!r:.20}.", param="samplers")
