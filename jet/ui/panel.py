"""Render the live panel and the line about the model from `RequestStats` and `EngineInfo`.

Every row is always there, with a dash until its number is known, so that nothing moves while text is
generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jet.api import EngineInfo, RequestStats
from jet.ui import format
from jet.ui.rendering import render

_CONSTANT = (  # of the memory of one story, what a longer story does not add to: class, name, attribute
    ("recurrent", "Recurrent state", "recurrent_bytes"),
    ("conv", "Convolution", "conv_bytes"),
    ("window", "KV, sliding windows", "window_kv_bytes"),
)
_GROWING = (("full", "KV, full attention", "full_kv_bytes"),)
_WEIGHTS = {"zerogpu": "on demand, for each request", "remote": "on another server"}
_WITHOUT_ACCELERATOR = {"cpu": "no accelerator", "remote": "not known: the model runs elsewhere"}
_MATCH_CHARACTERS = 100  # characters at the end of what was written, by which it is known again
_SPARKLINE_SIZE = (100, 24)  # width and height of the curve's own units


def loading(progress: str | None = None) -> str:
    """Render the line about the model until it is loaded."""
    text = "Loading the model…" if progress is None else f"{progress}."
    return render("panel.html", "loading", text=text)


def about(info: EngineInfo) -> str:
    """Render the model's name, which unfolds to its size, device and license."""
    weights = info.quantization and f"{info.quantization} weights"
    return render(
        "panel.html",
        "model_info",
        name=format.model_name(info.model),
        size=None if info.parameters is None else f"{_parameters(info.parameters)} parameters",
        runs_on=", ".join(fact for fact in (info.device_name, info.dtype, weights) if fact),
        license=info.license,
        has_chat=info.chat_tokens is not None,
    )


@dataclass(frozen=True)
class GenerationSummary:
    """The last generation, as the panel shows it while its text is in the editor.

    Attributes:
        stats: the stats at the end of the generation.
        rates: tokens per second, oldest first.
        stories: number of continuations generated at once.
        text: the editor's text at the end of the generation.
    """

    stats: RequestStats
    rates: tuple[float, ...]
    stories: int
    text: str

    def is_part_of(self, text: str) -> bool:
        """Return whether the editor's `text` still contains the end of the text of this generation."""
        end = self.text[-_MATCH_CHARACTERS:]
        return text == self.text or (bool(end.strip()) and end in text)


def idle_panel(
    summary: GenerationSummary | None, text: str, info: EngineInfo | None, used: int | None
) -> str:
    """Render the panel while nothing is generated: the last generation, and the editor's text now.

    Args:
        summary: the last generation; None if there was none.
        text: the editor's text.
        info: the engine's info; None if unknown.
        used: the number of tokens of the text; None if unknown.
    """
    if summary is None or not summary.is_part_of(text):
        return panel(None, info, used=used)
    stats = summary.stats
    if info is not None:  # the engine knows who writes now
        stats = replace(stats, active_requests=info.active_requests, queued_requests=info.queued_requests)
    used = None if text == summary.text else used
    return panel(stats, info, summary.rates, summary.stories, used)


def panel(
    stats: RequestStats | None,
    info: EngineInfo | None,
    rates: Sequence[float] = (),
    stories: int = 1,
    used: int | None = None,
) -> str:
    """Render the panel of a generation.

    Args:
        stats: the stats of the request, or the merged stats of several `stories`; None before the first
            generation.
        info: the engine's info; None if unknown.
        rates: tokens per second, oldest first.
        stories: number of continuations generated at once.
        used: tokens of the context in use; None computes them from `stats`.
    """
    shown = stats or RequestStats(phase="idle")
    if used is None:
        used = shown.prompt_tokens + shown.tokens // stories
    return render(
        "panel.html",
        "panel",
        phase="error" if shown.finish_reason == "error" else shown.phase,
        status="Ready" if stats is None else format.status(stats),
        error="" if stats is None or stats.error is None else stats.error,
        speed=_speed(shown, info, rates, stories, used),
        context={
            "text": _context_used(info, used),
            "fraction": 0.0 if info is None else min(1.0, used / info.context),
        },
        request=_request_rows(shown, info, used),
        memory=_memory(shown, info, stories, used),
        device=_device(shown, info),
        model=_model_rows(info),
    )


def expand_toggle() -> str:
    """Render the checkbox that expands the panel from its one line."""
    return render("panel.html", "expand_toggle")


def _speed(
    stats: RequestStats, info: EngineInfo | None, rates: Sequence[float], stories: int, used: int
) -> dict[str, object]:
    """Return the panel's values about speed: now, as a share of the bandwidth limit, and as a curve."""
    limit = bandwidth_limit(stats, info, stories, used)
    rate = stats.tokens_per_second
    is_reliable = info is None or info.bandwidth_confirmed
    width, height = _SPARKLINE_SIZE
    return {
        "rate": format.rate(rate),
        "utilization": 0.0 if rate is None or limit is None or not is_reliable else min(1.0, rate / limit),
        "limit": _limit_text(rate, limit, is_reliable),
        "width": width,
        "height": height,
        "points": _sparkline(rates),
    }


def bandwidth_limit(
    stats: RequestStats, info: EngineInfo | None, stories: int = 1, used: int | None = None
) -> float | None:
    """Return the tokens per second of all `stories` if memory bandwidth were the only limit; None if unknown.

    All running requests share one read of the weights. Requests of others are assumed to be as long as these
    stories.

    Args:
        stats: the stats of the request, or the merged stats of several stories.
        info: the engine's info; None if unknown.
        stories: number of continuations generated at once.
        used: length of each story in tokens; None computes it from `stats`.
    """
    if info is None or info.footprint is None or info.bandwidth is None:
        return None
    length = stats.prompt_tokens + stats.tokens // stories if used is None else used
    decode_bytes = info.footprint.decode(max(1, length), 2)
    running = max(stories, stats.active_requests or 0)
    moved = decode_bytes.weights + running * (decode_bytes.total - decode_bytes.weights)
    return stories * info.bandwidth / moved


def _limit_text(rate: float | None, limit: float | None, is_reliable: bool) -> str:
    """Return a line that says what share of the limit the speed reaches.

    Args:
        rate: tokens per second; None if unknown.
        limit: most tokens per second that memory bandwidth allows; None if unknown.
        is_reliable: whether the bandwidth was measured without disturbance.
    """
    if limit is None:
        return "Speed limit unknown"
    # Nothing is faster than its ceiling: a copy that says so was disturbed.
    if not is_reliable or (rate is not None and rate > limit):
        return "Speed limit not well measured"
    if rate is None:
        return f"{format.UNKNOWN} of the {format.rate(limit)} that memory bandwidth allows"
    return f"{rate / limit:.0%} of the {format.rate(limit)} that memory bandwidth allows"


def _sparkline(rates: Sequence[float]) -> str:
    """Return the points of a curve of the rates. The bottom is 0, the top is the highest rate."""
    width, height = _SPARKLINE_SIZE
    top = max(rates, default=0.0) or 1.0
    last = max(1, len(rates) - 1)
    return " ".join(
        f"{width * index / last:.1f},{height - 1 - (height - 2) * rate / top:.1f}"
        for index, rate in enumerate(rates)
    )


def _request_rows(stats: RequestStats, info: EngineInfo | None, used: int) -> list[tuple[str, str]]:
    """Return the rows about the request, with the numbers of running and waiting requests."""
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.active_requests is None:
        source = info
    return [
        ("Mean", f"{format.rate(stats.mean_tokens_per_second)} tok/s"),
        ("Time to first token", format.duration(stats.time_to_first_token_s)),
        ("Generated tokens", f"{'about ' if stats.tokens_estimated else ''}{format.count(stats.tokens)}"),
        ("Prompt tokens", format.prefilled(stats.prompt_tokens, stats.cached_tokens)),
        ("Context used", _context_used(info, used)),
        ("Running", format.running(source.active_requests, source.queued_requests)),
        ("Seed", format.UNKNOWN if stats.seed is None else str(stats.seed)),
    ]


def _context_used(info: EngineInfo | None, used: int) -> str:
    """Return how much of the context is used, as text.

    `used`: tokens of the story; for several stories, their mean.
    """
    if info is None:
        return format.UNKNOWN
    return f"{format.count(used)} of {format.count(info.context)}, {used / info.context:.0%}"


def _memory(stats: RequestStats, info: EngineInfo | None, stories: int, used: int) -> dict[str, object]:
    """Return the panel's values about the story's memory by kind, and in comparison with full attention."""
    constant, growing = _sizes(stats, _CONSTANT), _sizes(stats, _GROWING)
    sizes = constant + growing
    total = sum(size for _, _, size in sizes)

    def text(size: int) -> str:
        return format.size(size if total else None)

    groups = (("Constant", constant), ("Grows with the story", growing))
    is_remote = info is not None and info.placement == "remote"
    return {
        "total": "not known here" if is_remote else format.size(total or None),
        "label": ", ".join(f"{name} {text(size)}" for _, name, size in sizes),
        "parts": [(css, size / max(total, 1)) for css, _, size in sizes],
        "groups": [
            (
                label,
                text(sum(size for _, _, size in group)),
                [(css, name, text(size)) for css, name, size in group],
            )
            for label, group in groups
        ],
        "comparison": _full_attention_comparison(info, stories, used),
    }


def _full_attention_comparison(info: EngineInfo | None, stories: int, used: int) -> list[tuple[str, str]]:
    """Return rows that compare memory with a model that has full attention in every layer.

    The rows show that model now and with a full context, and this model with a full context.
    """
    current = hybrid = full_attention = None
    if info is not None and (footprint := info.footprint) is not None:
        current = footprint.full_attention_cache_bytes(stories * used) or None
        hybrid, full_attention = (
            footprint.cache_bytes(info.context),
            footprint.full_attention_cache_bytes(info.context),
        )
    return [
        ("With full attention in every layer", format.size(current)),
        ("… and the context full", format.size(full_attention)),
        ("This model, the context full", format.size(hybrid)),
    ]


def _sizes(stats: RequestStats, parts: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str, int]]:
    return [(part, name, int(getattr(stats, field))) for part, name, field in parts]


def _device(stats: RequestStats, info: EngineInfo | None) -> dict[str, object]:
    """Return the panel's values about the memory of process and accelerator.

    They come from the request if it has any, since they are newer than the engine's.
    """
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.process_memory_bytes is None:
        source = info
    rows = [("This process", format.size(source.process_memory_bytes))]
    if info is None or info.device in _WITHOUT_ACCELERATOR:
        rows.append(("Accelerator", format.UNKNOWN if info is None else _WITHOUT_ACCELERATOR[info.device]))
        return {"rows": rows, "parts": (), "label": ""}
    rows += [
        ("Accelerator, in use", format.size(source.device_memory_bytes)),
        ("reserved", format.size(source.device_reserved_bytes)),
        ("peak", format.size(source.device_peak_bytes)),
        ("total", format.size(source.device_total_bytes)),
    ]
    total, used = source.device_total_bytes or 1, source.device_memory_bytes or 0
    reserved = max(0, (source.device_reserved_bytes or 0) - used)
    return {
        "rows": rows,
        "parts": (("used", used / total), ("reserved", reserved / total)),
        "label": f"{format.size(source.device_memory_bytes)} of "
        f"{format.size(source.device_total_bytes)} in use",
    }


def _model_rows(info: EngineInfo | None) -> list[tuple[str, str]]:
    if info is not None and info.placement != "local":
        return [("Weights", _WEIGHTS[info.placement])]
    stored = None if info is None or info.stored_limit is None else info
    return [
        ("Loaded in", format.duration(info.load_s if info else None)),
        ("Warmed up in", format.duration(info.warmup_s if info else None)),
        (
            "Maximum running",
            format.count(info.max_running_requests) if info and info.max_running_requests else format.UNKNOWN,
        ),
        *([] if stored is None else [("States on disk", _stored(stored))]),
    ]


def _stored(info: EngineInfo) -> str:
    return f"{format.size(info.stored_bytes)} of {format.size(info.stored_limit)}"


def _parameters(number: int) -> str:
    if number >= 10**9:
        return f"{number / 10**9:.2f} billion"
    return f"{number / 10**6:.1f} million" if number >= 10**6 else format.count(number)
