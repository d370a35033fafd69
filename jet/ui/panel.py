"""The live panel and the line under the title: `RequestStats` and `EngineInfo` as HTML.

Every row is always there, with a dash until its number is known, so that nothing moves while a story is
being written. All text is escaped, braces too, since Gradio passes it through a template.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jet.api import EngineInfo, RequestStats
from jet.ui import format

_CONSTANT = (  # of the memory of one story, what a longer story does not add to: class, name, attribute
    ("recurrent", "Recurrent state", "recurrent_bytes"),
    ("conv", "Convolution", "conv_bytes"),
    ("window", "KV, sliding windows", "window_kv_bytes"),
)
_GROWING = (("full", "KV, full attention", "full_kv_bytes"),)
_WEIGHTS = {"on demand": "on demand, for each request", "remote": "on another server"}
_WITHOUT_ACCELERATOR = {"cpu": "no accelerator", "remote": "not known: the model runs elsewhere"}
_MATCH_CHARACTERS = 100  # characters at the end of what was written, by which it is known again
_SPARKLINE_SIZE = (100, 24)  # width and height of the curve's own units


def loading(progress: str | None = None) -> str:
    """The line under the title until the model is there."""
    text = "Loading the model…" if progress is None else f"{progress}."
    return f'<p class="jet-about">{_text(text)} You can begin your story.</p>'


def about(info: EngineInfo) -> str:
    """The line under the title: what runs, on what, under which licence."""
    size = None if info.parameters is None else f"{_parameters(info.parameters)} parameters"
    weights = info.quantization and f"{info.quantization} weights"
    facts = [
        ", ".join([f"<b>{_text(format.model_name(info.model))}</b>", *([size] if size else [])]),
        _text(", ".join(fact for fact in (info.device_name, info.dtype, weights) if fact)),
        f"license: {_text(info.licence)}",
    ]
    chat = "" if info.chat_tokens is None else " data-chat"
    return f'<p class="jet-about"{chat}>{"".join(f"<span>{fact}</span>" for fact in facts)}</p>'


@dataclass(frozen=True)
class GenerationSummary:
    """What a panel shows of a writing that is over, for as long as its words are on the sheet.

    Attributes:
        stats: the last ones.
        rates: tokens a second, from its beginning to its end.
        stories: how many were written at once.
        text: the sheet as it was left.
    """

    stats: RequestStats
    rates: tuple[float, ...]
    stories: int
    text: str

    def is_part_of(self, text: str) -> bool:
        """Whether its words are still on a sheet with this text."""
        end = self.text[-_MATCH_CHARACTERS:]
        return text == self.text or (bool(end.strip()) and end in text)


def idle_panel(
    summary: GenerationSummary | None, text: str, info: EngineInfo | None, used: int | None
) -> str:
    """The panel while nothing is written: what it knows of the last writing, and the sheet as it is now.

    `used` is what its text takes of the context; None where that is not known.
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
    """The panel of one story; without stats, that of a page on which nothing has been written yet.

    `rates` are tokens a second, from a while ago to now. Where several `stories` are written at once, the
    stats are those of all of them together. `used` is what is used of the context, if they do not know that.
    """
    shown = stats or RequestStats(phase="idle")
    if used is None:
        used = shown.prompt_tokens + shown.tokens // stories
    parts = [
        _status_view(stats),
        _speed_view(shown, info, rates, stories, used),
        _request_rows(shown, info, used),
        _memory_view(shown, info, stories, used),
        _device_view(shown, info),
        _model_view(info),
    ]
    phase = "error" if shown.finish_reason == "error" else shown.phase
    return f'<div class="jet-panel" data-phase="{_text(phase)}">{"".join(parts)}</div>'


def expand_toggle() -> str:
    """What brings all of the panel on a screen where it stands above the drawers and is one line."""
    return '<label class="jet-check jet-unfold"><input type="checkbox" id="jet-unfold"> All numbers</label>'


def _status_view(stats: RequestStats | None) -> str:
    text = "Ready" if stats is None else format.status(stats)
    detail = "" if stats is None or stats.error is None else stats.error
    return f'<p class="jet-status"><i></i>{_text(text)}</p><p class="jet-detail">{_text(detail)}</p>'


def _speed_view(
    stats: RequestStats, info: EngineInfo | None, rates: Sequence[float], stories: int, used: int
) -> str:
    """How fast, how fast it could be, and how fast it has been."""
    limit = bandwidth_limit(stats, info, stories, used)
    rate = stats.tokens_per_second
    is_reliable = info is None or info.bandwidth_sure
    utilization = 0.0 if rate is None or limit is None or not is_reliable else min(1.0, rate / limit)
    text = _limit_text(rate, limit, is_reliable)
    current = f'<p class="jet-speed"><b>{format.rate(rate)}</b> tokens a second</p>'
    return (
        f'{current}{_bar([("reached", utilization)], text)}<p class="jet-limit">{text}</p>{_sparkline(rates)}'
    )


def bandwidth_limit(
    stats: RequestStats, info: EngineInfo | None, stories: int = 1, used: int | None = None
) -> float | None:
    """Tokens a second of `stories` together if nothing but moving their bytes took time; None if not known.

    `used` is the length of each where the stats do not know. All that are being written share one reading of
    the weights; the others are taken to be as long as these.
    """
    if info is None or info.footprint is None or info.bandwidth is None:
        return None
    length = stats.prompt_tokens + stats.tokens // stories if used is None else used
    decode_bytes = info.footprint.decode(max(1, length), 2)
    merge_streams = max(stories, stats.active_requests or 0)
    moved = decode_bytes.weights + merge_streams * (decode_bytes.total - decode_bytes.weights)
    return stories * info.bandwidth / moved


def _limit_text(rate: float | None, limit: float | None, is_reliable: bool) -> str:
    """In as few words as stand on one line."""
    if limit is None:
        return "Speed limit unknown"
    # Nothing is faster than its ceiling: a copy that says so was disturbed.
    if not is_reliable or (rate is not None and rate > limit):
        return "Speed limit not well measured"
    if rate is None:
        return f"{format.UNKNOWN} of the {format.rate(limit)} that memory bandwidth allows"
    return f"{rate / limit:.0%} of the {format.rate(limit)} that memory bandwidth allows"


def _sparkline(rates: Sequence[float]) -> str:
    """The speed so far as a line from 0 at the bottom to the highest at the top."""
    width, height = _SPARKLINE_SIZE
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


def _request_rows(stats: RequestStats, info: EngineInfo | None, used: int) -> str:
    """How long it is, and who else writes."""
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.active_requests is None:
        source = info
    rows = [
        ("Mean", f"{format.rate(stats.mean_tokens_per_second)} tok/s"),
        ("Time to first token", format.duration(stats.time_to_first_token_s)),
        ("Generated tokens", f"{'about ' if stats.tokens_estimated else ''}{format.count(stats.tokens)}"),
        ("Prompt tokens", format.prefilled(stats.prompt_tokens, stats.resumed_tokens)),
        ("Context used", _context_used(info, used)),
        ("Running", format.running(source.active_requests, source.queued_requests)),
        ("Seed", format.UNKNOWN if stats.seed is None else str(stats.seed)),
    ]
    return _rows(rows)


def _context_used(info: EngineInfo | None, used: int) -> str:
    """What of it is used. Several stories have one each; this is their mean."""
    if info is None:
        return format.UNKNOWN
    return f"{format.count(used)} of {format.count(info.context)}, {used / info.context:.0%}"


def _memory_view(stats: RequestStats, info: EngineInfo | None, stories: int, used: int) -> str:
    constant, growing = _sizes(stats, _CONSTANT), _sizes(stats, _GROWING)
    sizes = constant + growing
    total = sum(size for _, _, size in sizes)
    label = ", ".join(f"{name} {format.size(size if total else None)}" for _, name, size in sizes)
    bar = _bar([(part, size / max(total, 1)) for part, _, size in sizes], label)
    rows = "".join(
        f"<dt><b>{label}</b></dt><dd><b>{format.size(sum(s[2] for s in group) if total else None)}</b></dd>"
        + "".join(
            f'<dt><i class="jet-{part}"></i>{name}</dt><dd>{format.size(size if total else None)}</dd>'
            for part, name, size in group
        )
        for label, group in (("Constant", constant), ("Grows with the story", growing))
    )
    remote = info is not None and info.residence == "remote"
    known = "not known here" if remote else format.size(total or None)
    heading = f"<h2>Memory of this story <b>{known}</b></h2>"
    return f"{heading}{bar}<dl>{rows}</dl>{_full_attention_comparison(info, stories, used)}"


def _full_attention_comparison(info: EngineInfo | None, stories: int, used: int) -> str:
    """The same story in a model whose every layer remembers every token; and both with the context full."""
    current = hybrid = full_attention = None
    if info is not None and (footprint := info.footprint) is not None:
        current = footprint.kept_by_full_attention(stories * used) or None
        hybrid, full_attention = footprint.kept(info.context), footprint.kept_by_full_attention(info.context)
    rows = [
        ("With full attention in every layer", format.size(current)),
        ("… and the context full", format.size(full_attention)),
        ("This model, the context full", format.size(hybrid)),
    ]
    return _rows(rows, "jet-beside")


def _sizes(stats: RequestStats, parts: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str, int]]:
    return [(part, name, int(getattr(stats, field))) for part, name, field in parts]


def _device_view(stats: RequestStats, info: EngineInfo | None) -> str:
    """The stats of a request are fresher than the engine's, which stand in before the first request."""
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.process_memory_bytes is None:
        source = info
    heading = "<h2>Memory of this machine</h2>"
    rows = [("This process", format.size(source.process_memory_bytes))]
    if info is None or info.device in _WITHOUT_ACCELERATOR:
        rows.append(("Accelerator", format.UNKNOWN if info is None else _WITHOUT_ACCELERATOR[info.device]))
        return f"{heading}{_rows(rows)}"
    rows += [
        ("Accelerator, in use", format.size(source.device_memory_bytes)),
        ("reserved", format.size(source.device_reserved_bytes)),
        ("peak", format.size(source.device_peak_bytes)),
        ("total", format.size(source.device_total_bytes)),
    ]
    total, used = source.device_total_bytes or 1, source.device_memory_bytes or 0
    reserved = max(0, (source.device_reserved_bytes or 0) - used)
    label = f"{format.size(source.device_memory_bytes)} of {format.size(source.device_total_bytes)} in use"
    return f"{heading}{_bar([('used', used / total), ('spare', reserved / total)], label)}{_rows(rows)}"


def _model_view(info: EngineInfo | None) -> str:
    if info is not None and info.residence != "resident":
        rows = [("Weights", _WEIGHTS[info.residence])]
    else:
        rows = [
            ("Loaded in", format.duration(info.load_s if info else None)),
            ("Warmed up in", format.duration(info.warmup_s if info else None)),
            ("Maximum running", format.count(info.writers) if info and info.writers else format.UNKNOWN),
        ]
    return f"<h2>Model</h2>{_rows(rows)}"


def _bar(parts: Sequence[tuple[str, float]], label: str) -> str:
    """A bar of parts with their shares of it; what it says for those who do not see it."""
    filled = "".join(
        f'<i class="jet-{part}" style="width:{100 * fraction:.2f}%"></i>' for part, fraction in parts
    )
    return f'<div class="jet-bar" role="img" aria-label="{_text(label)}">{filled}</div>'


def _rows(rows: list[tuple[str, str]], css: str = "") -> str:
    cells = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows)
    return f'<dl class="{css}">{cells}</dl>'


def _parameters(number: int) -> str:
    if number >= 10**9:
        return f"{number / 10**9:.2f} billion"
    return f"{number / 10**6:.1f} million" if number >= 10**6 else format.count(number)


def _text(value: str) -> str:
    return html.escape(value).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")
