"""The live panel and the line under the title: `RequestStats` and `EngineInfo` as HTML.

Every row is always there, with a dash until its number is known, so that nothing moves while a story is
being written. All text is escaped, braces too, since Gradio passes it through a template.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from jet.engine.types import EngineInfo, RequestStats
from jet.ui import words

_CONSTANT = (  # of the memory of one story, what a longer story does not add to: class, name, attribute
    ("recurrent", "Recurrent state", "recurrent_bytes"),
    ("conv", "Convolution", "conv_bytes"),
    ("window", "KV, sliding windows", "window_kv_bytes"),
)
_GROWING = (("full", "KV, full attention", "full_kv_bytes"),)
_CURVE = (100, 24)  # width and height of the curve's own units


def loading() -> str:
    """The line under the title until the model is there."""
    return '<p class="jet-about">Loading the model… You can begin your story.</p>'


def about(info: EngineInfo) -> str:
    """The line under the title: what runs, on what, under which licence."""
    facts = [
        f"<b>{_text(info.model)}</b>, {_parameters(info.parameters)} parameters",
        f"{_text(info.device_name)}, {_text(info.dtype)}",
        f"licence: {_text(info.licence)}",
    ]
    return f'<p class="jet-about">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>'


def panel(stats: RequestStats | None, info: EngineInfo | None, rates: Sequence[float] = ()) -> str:
    """The panel of one story; without stats, that of a page on which nothing has been written yet.

    `rates` are tokens a second, from a while ago to now.
    """
    shown = stats or RequestStats(phase="idle")
    parts = [_status(stats), _speed(shown, rates), _story_memory(shown), _machine(shown, info), _model(info)]
    phase = "error" if shown.finish_reason == "error" else shown.phase
    return f'<div class="jet-panel" data-phase="{_text(phase)}">{"".join(parts)}</div>'


def _status(stats: RequestStats | None) -> str:
    said = "Ready" if stats is None else words.state(stats)
    detail = "" if stats is None or stats.error is None else stats.error
    return f'<p class="jet-status"><i></i>{_text(said)}</p><p class="jet-detail">{_text(detail)}</p>'


def _speed(stats: RequestStats, rates: Sequence[float]) -> str:
    now = f"<b>{words.rate(stats.tokens_per_second)}</b> tokens a second"
    rows = [
        ("Mean", f"{words.rate(stats.mean_tokens_per_second)} tok/s"),
        ("Tokens written", words.count(stats.tokens)),
        ("Tokens read", words.count(stats.prompt_tokens)),
        ("First token after", words.seconds(stats.time_to_first_token_s)),
        ("Seed", words.UNKNOWN if stats.seed is None else str(stats.seed)),
    ]
    return f'<p class="jet-speed">{now}</p>{_curve(rates)}{_rows(rows)}'


def _curve(rates: Sequence[float]) -> str:
    """The speed so far as a line from 0 at the bottom to the highest at the top."""
    width, height = _CURVE
    top = max(rates, default=0.0) or 1.0
    last = max(1, len(rates) - 1)
    points = " ".join(
        f"{width * index / last:.1f},{height - 1 - (height - 2) * rate / top:.1f}"
        for index, rate in enumerate(rates)
    )
    return (
        f'<svg class="jet-curve" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true"><polyline points="{points}"/></svg>'
    )


def _story_memory(stats: RequestStats) -> str:
    constant, growing = _sizes(stats, _CONSTANT), _sizes(stats, _GROWING)
    sizes = constant + growing
    total = sum(size for _, _, size in sizes)
    bar = "".join(
        f'<i class="jet-{part}" style="width:{100 * size / max(total, 1):.2f}%"></i>'
        for part, _, size in sizes
    )
    rows = "".join(
        f"<dt><b>{label}</b></dt><dd><b>{words.memory(sum(s[2] for s in group) if total else None)}</b></dd>"
        + "".join(
            f'<dt><i class="jet-{part}"></i>{name}</dt><dd>{words.memory(size if total else None)}</dd>'
            for part, name, size in group
        )
        for label, group in (("Constant", constant), ("Grows with the story", growing))
    )
    heading = f"<h3>Memory of this story <b>{words.memory(total or None)}</b></h3>"
    return f'{heading}<div class="jet-bar">{bar}</div><dl>{rows}</dl>'


def _sizes(stats: RequestStats, parts: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str, int]]:
    return [(part, name, int(getattr(stats, field))) for part, name, field in parts]


def _machine(stats: RequestStats, info: EngineInfo | None) -> str:
    """The stats of a request are fresher than the engine's, which stand in before the first request."""
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.process_memory_bytes is None:
        source = info
    rows = [("This process", words.memory(source.process_memory_bytes))]
    if info is None:
        rows.append(("Accelerator", words.UNKNOWN))
    elif info.device == "cpu":
        rows.append(("Accelerator", "no accelerator"))
    else:
        rows += [
            ("Accelerator, in use", words.memory(source.device_memory_bytes)),
            ("reserved", words.memory(source.device_reserved_bytes)),
            ("peak", words.memory(source.device_peak_bytes)),
            ("total", words.memory(source.device_total_bytes)),
        ]
    return f"<h3>Memory of this machine</h3>{_rows(rows)}"


def _model(info: EngineInfo | None) -> str:
    rows = [
        ("Loaded in", words.seconds(info.load_s if info else None)),
        ("Warmed up in", words.seconds(info.warmup_s if info else None)),
    ]
    return f"<h3>Model</h3>{_rows(rows)}"


def _rows(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows)
    return f"<dl>{cells}</dl>"


def _parameters(number: int) -> str:
    if number >= 10**9:
        return f"{number / 10**9:.2f} billion"
    return f"{number / 10**6:.1f} million" if number >= 10**6 else words.count(number)


def _text(value: str) -> str:
    return html.escape(value).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")
