"""Renders the parts of the page that change: versions, options, other words, guidance, prompt, history.

Each function returns HTML made by `templates/views.html`. Buttons in it carry their command in `data-command`
or `data-generate`; the page's script sends it when one is pressed.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict

from jet.story.context import Prompt
from jet.story.document import Continuation
from jet.story.format import lore_to_dict
from jet.story.guidance import Guidance
from jet.story.pieces import REPLACEMENT, Generation, TokenRange
from jet.story.tree import BranchView, Comparison
from jet.ui import format
from jet.ui.keywords import format_keywords
from jet.ui.presets import PRESETS
from jet.ui.rendering import render
from jet.ui.reporting import FILES, ReportState
from jet.ui.sessions import FinishedRequest
from jet.ui.stop_strings import format_stop

SHOWN_CHARACTERS = 3_000  # of a long text beside the editor
SHOWN_BRANCHES = 256
WORDS_A_MINUTE = 240  # read by most people, of prose
_COMMON_CHARACTERS = 300  # of the text that two compared branches share
_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "min_p": "min-p",
    "repetition_penalty": "repetition penalty",
    "dry_multiplier": "DRY",
    "xtc_probability": "XTC",
    "top_n_sigma": "top-nσ",
    "typical_p": "typical",
    "dynatemp_range": "temperature varies by",
    "adaptive_target": "adaptive-p",
    "mirostat": "mirostat",
    "sampler_order": "order",
    "max_new_tokens": "at most",
    "seed": "seed",
}
_ALWAYS_SHOWN = ("temperature", "top_p", "max_new_tokens", "seed")  # the others only where not neutral
_NEUTRAL = asdict(PRESETS["neutral"])
NEW_PARAGRAPH, NEW_LINE, BLANK = "¶ new paragraph", "↵ new line", "a blank"
_HISTORY_COLUMNS = ("At", "Prompt", "Generated", "tok/s", "First", "End", "Seed")


def json_payload(plain: object) -> str:
    """Render an element that carries JSON for the page's script."""
    return render("views.html", "payload", json=json.dumps(plain, ensure_ascii=False))


def branches(outline: Sequence[BranchView]) -> str:
    """Render the tree of branches; the one in the editor is marked."""
    rows = [(view, format.branch_name(view.name, view.number)) for view in outline[:SHOWN_BRANCHES]]
    return render("views.html", "branches", rows=rows)


def comparison(pair: Comparison) -> str:
    """Render how two branches continue from the place where they part."""
    return render(
        "views.html",
        "comparison",
        common=pair.common[-_COMMON_CHARACTERS:].lstrip(),
        first=_truncate(pair.first.lstrip()),
        second=_truncate(pair.second.lstrip()),
    )


def variants(continuations: Sequence[Continuation], generating: bool, number: int) -> str:
    """Render several continuations side by side, each with a button that selects it.

    Args:
        continuations: at most three; those without text are left out unless `generating`.
        generating: whether the model still generates.
        number: the number of the command that generates them.
    """
    columns = [
        (label, variant.branch, variant.text.lstrip())
        for label, variant in zip(("First", "Second", "Third"), continuations, strict=False)
        if variant.text or generating
    ]
    return render("views.html", "variants", columns=columns, number=number)


def alternatives(
    found: TokenRange,
    generation: Generation | None,
    at: int,
    current_guidance: Guidance,
    word: tuple[str, str] = ("", ""),
) -> str:
    """Render the words that the model might have chosen, each with its probability.

    Args:
        found: the token in the text, with its alternatives.
        generation: how the token was generated; None if unknown.
        at: the token's offset in UTF-16 units, for the commands of the buttons.
        current_guidance: the story's guidance now.
        word: the letters before and after the token that belong to its word, so that whole words are shown.
    """
    before, behind = word
    choices = [
        (
            _as_words(before + other.text + (behind if other.token_id == found.token.id else "")),
            math.exp(min(other.logprob, 0.0)),
            {"type": "replace_token", "at": at, "choice": index},
            other.token_id == found.token.id,
            not other.text or REPLACEMENT in other.text,
        )
        for index, other in enumerate(found.token.alternatives)
    ]
    details = None if generation is None else _generation_details(generation, at, current_guidance)
    return render("views.html", "alternatives", choices=choices, details=details)


def _generation_details(generation: Generation, at: int, current_guidance: Guidance) -> dict[str, object]:
    settings = asdict(generation.sampling)
    text = ", ".join(
        f"{label} {format.UNKNOWN if settings[name] is None else settings[name]}"
        for name, label in _SETTINGS.items()
        if name in _ALWAYS_SHOWN or settings[name] != _NEUTRAL[name]
    )
    if generation.stops:
        text += ", stops at " + ", ".join(f"“{format_stop(stop)}”" for stop in generation.stops)
    guidance = generation.guidance or Guidance()
    return {
        "at": at,
        "model": format.model_name(generation.model),
        "settings": text,
        "guidance": _guidance_summary(guidance),
        "differs": guidance != current_guidance,
    }


def _guidance_summary(guidance: Guidance) -> str:
    entries = sum(entry.enabled for entry in guidance.lore)
    parts = [
        *(["what it was asked for"] if guidance.about else []),
        *(["memory"] if guidance.memory else []),
        *(["author’s note"] if guidance.note.text else []),
        *([f"{entries} of the lorebook"] if entries else []),
    ]
    return f"With {', '.join(parts)}" if parts else "No memory, note or lore"


def _as_words(text: str) -> str:
    """Replace line breaks in a text by visible names, and name a text that consists of blanks."""
    shown = re.sub(r"\s*\n\s*\n\s*", f" {NEW_PARAGRAPH} ", text)
    shown = re.sub(r"\s*\n\s*", f" {NEW_LINE} ", shown).strip()
    return shown or (BLANK if text else "")


def guidance(guidance: Guidance) -> dict[str, str]:
    """Render the fields of the guidance tab, by the id of the element that holds them."""
    entries = [(entry, format_keywords(entry.keywords), lore_to_dict(entry)) for entry in guidance.lore]
    return {
        "jet-guidance": render("views.html", "guidance", guidance=guidance),
        "jet-lore": render("views.html", "lore", entries=entries),
        "jet-about-field": render("views.html", "about", about=guidance.about),
    }


def context_view(prompt: Prompt | None, error: str = "") -> str:
    """Render the parts of the prompt, their tokens, and what was left out; without a prompt `error`."""
    if prompt is None:
        return render("views.html", "hint", text=error or "Known once the model is loaded.")
    return render(
        "views.html",
        "context",
        parts=[(part, _truncate(part.text)) for part in prompt.parts],
        omitted=prompt.omitted,
        total=f"{prompt.tokens:,} of {prompt.budget:,} tokens",
        budget=prompt.budget,
    )


def summary(own_words: int, model_words: int) -> str:
    """Render the number of words of a story, how many are the writer's, and the time to read it."""
    words = own_words + model_words
    share = f", {own_words / words:.0%}" if words else ""
    minutes = max(1, round(words / WORDS_A_MINUTE))
    rows = [
        ("Words", f"{words:,}"),
        ("Yours", f"{own_words:,}{share}"),
        ("The model’s", f"{model_words:,}"),
        ("To read", f"{minutes} min"),
    ]
    return render("tools.html", "summary", rows=rows)


def history(log: Sequence[FinishedRequest]) -> str:
    """Render the requests of this tab, latest first. The page's script shows their times in local time."""
    if not log:
        return render("views.html", "hint", text="Nothing has been written in this tab yet.")
    rows = [(request.at, _request_cells(request)) for request in reversed(log)]
    return render("views.html", "history", columns=_HISTORY_COLUMNS, rows=rows)


def _request_cells(request: FinishedRequest) -> tuple[str, ...]:
    stats = request.stats
    return (
        format.count(stats.prompt_tokens),
        format.count(stats.tokens),
        format.rate(stats.mean_tokens_per_second),
        format.duration(stats.time_to_first_token_s),
        stats.finish_reason or format.UNKNOWN,
        format.UNKNOWN if stats.seed is None else str(stats.seed),
    )


def report(state: ReportState) -> str:
    """Render the performance report, or its progress while it is being made."""
    if state.phase == "done" and state.files is not None:
        links = [
            (extension, f"data:{kind};base64,{base64.b64encode(state.files[extension].encode()).decode()}")
            for extension, kind in FILES.items()
        ]
        return render(
            "views.html", "report", message=state.message, links=links, document=state.files["html"]
        )
    if state.phase == "failed":
        return render("views.html", "report_failed", message=state.message)
    text = {
        "idle": "Measures how fast this machine runs this model, where the time goes, and how speed and "
        "memory depend on the length of the text. Takes about a minute, waits until no story is being "
        "written, and stops none from beginning.",
        "loading": "Waiting for the model",
        "waiting": "Waiting until no story is being written",
        "measuring": f"Measuring: {state.part or 'getting ready'}, {state.done} of {state.total or '…'} done",
    }[state.phase]
    return render(
        "views.html",
        "report_progress",
        text=text,
        is_running=state.running,
        done=state.done,
        total=state.total or 1,
    )


def _truncate(text: str) -> str:
    """Shorten a long text to its beginning and end."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n\n… {len(text) - 2 * half:,} characters …\n\n{text[-half:]}"
