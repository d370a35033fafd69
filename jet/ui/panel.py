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
_ENDING = 100  # characters at the end of what was written, by which it is known again
_CURVE = (100, 24)  # width and height of the curve's own units


def loading(progress: str | None = None) -> str:
    """The line under the title until the model is there."""
    said = "Loading the model…" if progress is None else f"{progress}."
    return f'<p class="jet-about">{_text(said)} You can begin your story.</p>'


def about(info: EngineInfo) -> str:
    """The line under the title: what runs, on what, under which licence."""
    size = None if info.parameters is None else f"{_parameters(info.parameters)} parameters"
    weights = info.quantization and f"{info.quantization} weights"
    facts = [
        ", ".join([f"<b>{_text(info.model)}</b>", *([size] if size else [])]),
        _text(", ".join(fact for fact in (info.device_name, info.dtype, weights) if fact)),
        f"licence: {_text(info.licence)}",
    ]
    chat = "" if info.chat_tokens is None else " data-chat"
    return f'<p class="jet-about"{chat}>{"".join(f"<span>{fact}</span>" for fact in facts)}</p>'


@dataclass(frozen=True)
class Written:
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

    def stands_in(self, text: str) -> bool:
        """Whether its words are still on a sheet with this text."""
        end = self.text[-_ENDING:]
        return text == self.text or (bool(end.strip()) and end in text)


def at_rest(written: Written | None, text: str, info: EngineInfo | None, used: int | None) -> str:
    """The panel while nothing is written: what it knows of the last writing, and the sheet as it is now.

    `used` is what its text takes of the context; None where that is not known.
    """
    if written is None or not written.stands_in(text):
        return panel(None, info, used=used)
    stats = written.stats
    if info is not None:  # the engine knows who writes now
        stats = replace(stats, active_requests=info.active_requests, queued_requests=info.queued_requests)
    used = None if text == written.text else used
    return panel(stats, info, written.rates, written.stories, used)


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
        _status(stats),
        _speed(shown, info, rates, stories, used),
        _story(shown, info, used),
        _story_memory(shown, info, stories, used),
        _machine(shown, info),
        _model(info),
    ]
    phase = "error" if shown.finish_reason == "error" else shown.phase
    return f'<div class="jet-panel" data-phase="{_text(phase)}">{"".join(parts)}</div>'


def unfold() -> str:
    """What brings all of the panel on a screen where it stands above the drawers and is one line."""
    return '<label class="jet-check jet-unfold"><input type="checkbox" id="jet-unfold"> All numbers</label>'


def _status(stats: RequestStats | None) -> str:
    said = "Ready" if stats is None else format.state(stats)
    detail = "" if stats is None or stats.error is None else stats.error
    return f'<p class="jet-status"><i></i>{_text(said)}</p><p class="jet-detail">{_text(detail)}</p>'


def _speed(
    stats: RequestStats, info: EngineInfo | None, rates: Sequence[float], stories: int, used: int
) -> str:
    """How fast, how fast it could be, and how fast it has been."""
    ceiling = speed_limit(stats, info, stories, used)
    rate = stats.tokens_per_second
    sure = info is None or info.bandwidth_sure
    share = 0.0 if rate is None or ceiling is None or not sure else min(1.0, rate / ceiling)
    said = _limit(rate, ceiling, sure)
    now = f'<p class="jet-speed"><b>{format.rate(rate)}</b> tokens a second</p>'
    return f'{now}{_bar([("reached", share)], said)}<p class="jet-limit">{said}</p>{_curve(rates)}'


def speed_limit(
    stats: RequestStats, info: EngineInfo | None, stories: int = 1, used: int | None = None
) -> float | None:
    """Tokens a second of `stories` together if nothing but moving their bytes took time; None if not known.

    `used` is the length of each where the stats do not know. All that are being written share one reading of
    the weights; the others are taken to be as long as these.
    """
    if info is None or info.footprint is None or info.bandwidth is None:
        return None
    length = stats.prompt_tokens + stats.tokens // stories if used is None else used
    floor = info.footprint.decode(max(1, length), 2)
    together = max(stories, stats.active_requests or 0)
    moved = floor.weights + together * (floor.total - floor.weights)
    return stories * info.bandwidth / moved


def _limit(rate: float | None, ceiling: float | None, sure: bool) -> str:
    """In as few words as stand on one line."""
    if ceiling is None:
        return "What memory allows here is not known"
    # Nothing is faster than its ceiling: a copy that says so was disturbed.
    if not sure or (rate is not None and rate > ceiling):
        return "What memory allows here is not well measured"
    if rate is None:
        return f"{format.UNKNOWN} of the {format.rate(ceiling)} that memory allows here"
    return f"{rate / ceiling:.0%} of the {format.rate(ceiling)} that memory allows here"


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


def _story(stats: RequestStats, info: EngineInfo | None, used: int) -> str:
    """How long it is, and who else writes."""
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.active_requests is None:
        source = info
    rows = [
        ("Mean", f"{format.rate(stats.mean_tokens_per_second)} tok/s"),
        ("First token after", format.seconds(stats.time_to_first_token_s)),
        ("Tokens written", f"{'about ' if stats.tokens_estimated else ''}{format.count(stats.tokens)}"),
        ("Tokens read", format.tokens_read(stats.prompt_tokens, stats.resumed_tokens)),
        ("Context used", _context(info, used)),
        ("Writing now", format.crowd(source.active_requests, source.queued_requests)),
        ("Seed", format.UNKNOWN if stats.seed is None else str(stats.seed)),
    ]
    return _rows(rows)


def _context(info: EngineInfo | None, used: int) -> str:
    """What of it is used. Several stories have one each; this is their mean."""
    if info is None:
        return format.UNKNOWN
    return f"{format.count(used)} of {format.count(info.context)}, {used / info.context:.0%}"


def _story_memory(stats: RequestStats, info: EngineInfo | None, stories: int, used: int) -> str:
    constant, growing = _sizes(stats, _CONSTANT), _sizes(stats, _GROWING)
    sizes = constant + growing
    total = sum(size for _, _, size in sizes)
    said = ", ".join(f"{name} {format.memory(size if total else None)}" for _, name, size in sizes)
    bar = _bar([(part, size / max(total, 1)) for part, _, size in sizes], said)
    rows = "".join(
        f"<dt><b>{label}</b></dt><dd><b>{format.memory(sum(s[2] for s in group) if total else None)}</b></dd>"
        + "".join(
            f'<dt><i class="jet-{part}"></i>{name}</dt><dd>{format.memory(size if total else None)}</dd>'
            for part, name, size in group
        )
        for label, group in (("Constant", constant), ("Grows with the story", growing))
    )
    remote = info is not None and info.residence == "remote"
    known = "not known here" if remote else format.memory(total or None)
    heading = f"<h2>Memory of this story <b>{known}</b></h2>"
    return f"{heading}{bar}<dl>{rows}</dl>{_beside_full_attention(info, stories, used)}"


def _beside_full_attention(info: EngineInfo | None, stories: int, used: int) -> str:
    """The same story in a model whose every layer remembers every token; and both with the context full."""
    now = ours = theirs = None
    if info is not None and (footprint := info.footprint) is not None:
        now = footprint.kept_by_full_attention(stories * used) or None
        ours, theirs = footprint.kept(info.context), footprint.kept_by_full_attention(info.context)
    rows = [
        ("With full attention in every layer", format.memory(now)),
        ("… and the context full", format.memory(theirs)),
        ("This model, the context full", format.memory(ours)),
    ]
    return _rows(rows, "jet-beside")


def _sizes(stats: RequestStats, parts: tuple[tuple[str, str, str], ...]) -> list[tuple[str, str, int]]:
    return [(part, name, int(getattr(stats, field))) for part, name, field in parts]


def _machine(stats: RequestStats, info: EngineInfo | None) -> str:
    """The stats of a request are fresher than the engine's, which stand in before the first request."""
    source: RequestStats | EngineInfo = stats
    if info is not None and stats.process_memory_bytes is None:
        source = info
    heading = "<h2>Memory of this machine</h2>"
    rows = [("This process", format.memory(source.process_memory_bytes))]
    if info is None or info.device in _WITHOUT_ACCELERATOR:
        rows.append(("Accelerator", format.UNKNOWN if info is None else _WITHOUT_ACCELERATOR[info.device]))
        return f"{heading}{_rows(rows)}"
    rows += [
        ("Accelerator, in use", format.memory(source.device_memory_bytes)),
        ("reserved", format.memory(source.device_reserved_bytes)),
        ("peak", format.memory(source.device_peak_bytes)),
        ("total", format.memory(source.device_total_bytes)),
    ]
    total, used = source.device_total_bytes or 1, source.device_memory_bytes or 0
    spare = max(0, (source.device_reserved_bytes or 0) - used)
    said = f"{format.memory(source.device_memory_bytes)} of {format.memory(source.device_total_bytes)} in use"
    return f"{heading}{_bar([('used', used / total), ('spare', spare / total)], said)}{_rows(rows)}"


def _model(info: EngineInfo | None) -> str:
    if info is not None and info.residence != "resident":
        rows = [("Weights", _WEIGHTS[info.residence])]
    else:
        rows = [
            ("Loaded in", format.seconds(info.load_s if info else None)),
            ("Warmed up in", format.seconds(info.warmup_s if info else None)),
            ("Stories at once", format.count(info.writers) if info and info.writers else format.UNKNOWN),
        ]
    return f"<h2>Model</h2>{_rows(rows)}"


def _bar(parts: Sequence[tuple[str, float]], said: str) -> str:
    """A bar of parts with their shares of it; what it says for those who do not see it."""
    filled = "".join(f'<i class="jet-{part}" style="width:{100 * share:.2f}%"></i>' for part, share in parts)
    return f'<div class="jet-bar" role="img" aria-label="{_text(said)}">{filled}</div>'


def _rows(rows: list[tuple[str, str]], css: str = "") -> str:
    cells = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows)
    return f'<dl class="{css}">{cells}</dl>'


def _parameters(number: int) -> str:
    if number >= 10**9:
        return f"{number / 10**9:.2f} billion"
    return f"{number / 10**6:.1f} million" if number >= 10**6 else format.count(number)


def _text(value: str) -> str:
    return html.escape(value).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")
