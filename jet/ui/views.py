"""What unfolds around the sheet, as HTML: branches, ways, another word, guidance, the prompt, the history.

All text is escaped, braces too, since some of it passes through Gradio's templates. `data-do` and
`data-write` hold the orders that page.js sends when an element is pressed.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from jet.story.context import Prompt, PromptPart
from jet.story.document import Continuation
from jet.story.format import lore_to_dict
from jet.story.guidance import Guidance, LoreEntry
from jet.story.pieces import REPLACEMENT, Generation, TokenRange
from jet.story.tree import BranchView, Comparison
from jet.ui import format
from jet.ui.keywords import format_keywords
from jet.ui.presets import PRESETS
from jet.ui.reporting import FILES, ReportState
from jet.ui.sessions import FinishedRequest

SHOWN_CHARACTERS = 3_000  # of a text that is shown beside the sheet
SHOWN_BRANCHES = 256
_NEW_LORE = LoreEntry()
_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "min_p": "min-p",
    "repetition_penalty": "repetition penalty",
    "dry_multiplier": "DRY",
    "xtc_probability": "XTC",
    "max_new_tokens": "at most",
    "seed": "seed",
}
_ALWAYS_SHOWN = ("temperature", "top_p", "max_new_tokens", "seed")  # the others only where they did something
_NEUTRAL = asdict(PRESETS["neutral"])


def escape(text: str) -> str:
    """The text as it stands in HTML, also inside an attribute, whatever template it goes through."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def command_button(label: str, css: str = "", hint: str = "", **command: object) -> str:
    """A button that gives an order."""
    tooltip = f' title="{escape(hint)}" aria-label="{escape(hint)}"' if hint else ""
    command_json = escape(json.dumps(command))
    return f'<button type="button" class="{css}" data-do="{command_json}"{tooltip}>{escape(label)}</button>'


def json_payload(plain: object) -> str:
    """JSON for page.js, in the place of HTML."""
    return f'<i class="jet-carried">{escape(json.dumps(plain, ensure_ascii=False))}</i>'


# --- branches --------------------------------------------------------------------------------------------


def branches(outline: Sequence[BranchView]) -> str:
    """The tree of branches, the one on the sheet marked."""
    if len(outline) == 1:
        return (
            '<p class="jet-hint">One version so far. “Retry”, “3 options”, “New version from here” and '
            "“Other words” each make one more, and the old one stays.</p>"
        )
    return f'<ul class="jet-tree">{"".join(_branch(view) for view in outline[:SHOWN_BRANCHES])}</ul>'


def _branch(view: BranchView) -> str:
    name = format.branch_name(view.name, view.number)
    preview = view.preview or "(nothing of its own)"
    css = "jet-branch jet-current" if view.current else "jet-branch"
    here = ' aria-current="true"' if view.current else ""
    command = escape(json.dumps({"do": "show", "branch": view.id}))
    show = (
        f'<button type="button" class="{css}" data-do="{command}"{here}>'
        f"<b>{escape(name)}</b> <span>{escape(preview)}</span></button>"
    )
    tools = command_button(
        "Name", css="jet-quiet", hint=f"Name {name}", do="ask-name", branch=view.id, name=view.name
    )
    if not view.current:
        tools += command_button(
            "Compare", css="jet-quiet", hint=f"Compare with {name}", do="compare", branch=view.id
        )
    tools += command_button(
        "Delete version", css="jet-quiet", hint=f"Remove {name}", do="prune", branch=view.id
    )
    return f'<li style="--depth:{min(view.depth, 8)}">{show}<span class="jet-tools">{tools}</span></li>'


def comparison(pair: Comparison) -> str:
    """How two branches go on from where they part."""
    common = pair.common[-300:].lstrip()
    columns = "".join(
        f"<div><h2>{title}</h2><pre>{escape(_truncate(text.lstrip()) or '(nothing more)')}</pre></div>"
        for title, text in (("On the sheet", pair.first), ("The other", pair.second))
    )
    return f'<p class="jet-common">… {escape(common)}</p><div class="jet-columns">{columns}</div>'


def variants(continuations: Sequence[Continuation], writing: bool, number: int) -> str:
    """Several continuations side by side, each with a button that picks it; `number` is their order's."""
    columns = "".join(
        f"<div><h2>{label} option "
        f"{command_button('Use this one', css='jet-take', do='show', branch=variant.branch)}</h2>"
        f"<pre>{escape(variant.text.lstrip() or '…')}</pre></div>"
        for label, variant in zip(("First", "Second", "Third"), continuations, strict=False)
        if variant.text or writing
    )
    return f'<div class="jet-columns jet-three" data-n="{number}">{columns}</div>' if columns else ""


# --- another word ----------------------------------------------------------------------------------------


def alternatives(
    found: TokenRange, generation: Generation | None, at: int, current_guidance: Guidance
) -> str:
    """The tokens that might have stood in a place, each with its probability; `at` is what an order names.

    `current_guidance` is the story's guidance as it is.
    """
    rows = []
    for index, other in enumerate(found.token.alternatives):
        probability = math.exp(min(other.logprob, 0.0))
        text = _show_whitespace(other.text)
        drawn = other.token_id == found.token.id
        broken = not other.text or REPLACEMENT in other.text
        command = escape(json.dumps({"do": "pick", "at": at, "choice": index}))
        off = ' disabled aria-current="true"' if drawn else " disabled" if broken else ""
        rows.append(
            f'<button type="button" data-write="{command}"{off}><span>{escape(text)}</span>'
            f'<i style="--p:{probability:.3f}"></i><b>{100 * probability:.1f} %</b></button>'
        )
    details = "" if generation is None else _generation_details(generation, at, current_guidance)
    return f"<h2>Other words, and on from there</h2>{''.join(rows)}{details}"


def _generation_details(generation: Generation, at: int, current_guidance: Guidance) -> str:
    """How the words there came to be, all that it takes to have them again, and buttons that set it."""
    settings = asdict(generation.sampling)
    text = ", ".join(
        f"{label} {format.UNKNOWN if settings[name] is None else settings[name]}"
        for name, label in _SETTINGS.items()
        if name in _ALWAYS_SHOWN or settings[name] != _NEUTRAL[name]
    )
    if generation.stops:
        text += ", stops at " + ", ".join(f"“{_show_whitespace(stop)}”" for stop in generation.stops)
    summary = _guidance_summary(generation.guidance or Guidance())
    buttons = command_button("Use these settings", css="jet-reuse", do="reuse", at=at, guidance=False)
    if (generation.guidance or Guidance()) != current_guidance:
        hint = "Settings, memory, note and lorebook as they were then, in place of those that are there now"
        buttons += command_button("… and its guidance", "jet-reuse", hint, do="reuse", at=at, guidance=True)
    return f"<p>{escape(format.model_name(generation.model))}: {escape(text)}</p><p>{summary}</p>{buttons}"


def _guidance_summary(guidance: Guidance) -> str:
    """In words, what the model was told beside a story."""
    entries = sum(entry.enabled for entry in guidance.lore)
    parts = [
        *(["what it was asked for"] if guidance.about else []),
        *(["memory"] if guidance.memory else []),
        *(["author’s note"] if guidance.note.text else []),
        *([f"{entries} of the lorebook"] if entries else []),
    ]
    return f"With {', '.join(parts)}" if parts else "No memory, note or lore"


def _show_whitespace(text: str) -> str:
    return (
        text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·", 1)
        if text.strip(" ")
        else "␣" * len(text)
    )


# --- guidance --------------------------------------------------------------------------------------------


def guidance(guidance: Guidance) -> dict[str, str]:
    """The fields of the guidance drawer, by the id of where they stand."""
    units = "".join(
        f"<option{' selected' if guidance.note.unit == unit else ''}>{unit}</option>"
        for unit in ("lines", "paragraphs")
    )
    fields = (
        '<label class="jet-field"><b>Memory</b><small>What always holds. It stands above the story.</small>'
        f'<textarea id="jet-memory" dir="auto" rows="4">{_in_textarea(guidance.memory)}</textarea></label>'
        '<label class="jet-field"><b>Author’s note</b><small>Mood, style, what comes next. '
        "It stands close to the end, where it weighs most.</small>"
        f'<textarea id="jet-note" dir="auto" rows="2">{_in_textarea(guidance.note.text)}</textarea></label>'
        '<p class="jet-depth"><label>before the last <input id="jet-depth" type="number" min="1" max="1000" '
        f'value="{guidance.note.depth}"></label> <label><span class="jet-hidden">counted in</span>'
        f'<select id="jet-unit">{units}</select></label></p>'
    )
    about = (
        '<input id="jet-about-what" dir="auto" maxlength="2000" '
        f'placeholder="a lighthouse keeper who fears the sea" value="{escape(guidance.about)}">'
    )
    lore = "".join(map(lore_row, guidance.lore))
    return {"jet-guidance": fields, "jet-lore": lore, "jet-about-field": about}


def lore_row(entry: LoreEntry | None = None) -> str:
    """One entry of the lorebook, or the form of a new one. It carries along what it does not show."""
    original = "{}" if entry is None else json.dumps(lore_to_dict(entry), ensure_ascii=False)
    entry = entry or _NEW_LORE
    checks = "".join(
        f'<label><input type="checkbox" data-lore="{name}"{" checked" if on else ""}> {label}</label>'
        for name, label, on in (("enabled", "on", entry.enabled), ("constant", "always", entry.constant))
    )
    return (
        f'<div class="jet-entry" data-kept="{escape(original)}">'
        f'<input data-lore="keywords" dir="auto" aria-label="Keywords, with commas between them" '
        f'placeholder="keywords, with commas" value="{escape(format_keywords(entry.keywords))}">'
        f'<textarea data-lore="content" dir="auto" rows="2" aria-label="What the model is told then" '
        'placeholder="what the model is told when one of them comes up">'
        f"{_in_textarea(entry.content)}</textarea>"
        f'<span class="jet-tools">{checks}<button type="button" class="jet-quiet" data-lore-remove>'
        "Remove</button></span></div>"
    )


def _in_textarea(text: str) -> str:
    """What stands in a text area. HTML drops a line break at its very beginning, so there is always one."""
    return "\n" + escape(text)


def context_view(prompt: Prompt | None, error: str = "") -> str:
    """What is in the prompt, what it costs, and what did not get in."""
    if prompt is None:
        return f'<p class="jet-hint">{escape(error or "Known once the model is loaded.")}</p>'
    bar = "".join(
        f'<i class="jet-part-{part.kind}" style="width:{100 * part.tokens / prompt.budget:.2f}%"></i>'
        for part in prompt.parts
    )
    omitted = "".join(
        f"<li>Left out: {escape(omission.title)}, {omission.tokens:,} tokens: {escape(omission.reason)}.</li>"
        for omission in prompt.omitted
    )
    total = f"{prompt.tokens:,} of {prompt.budget:,} tokens"
    return (
        f'<p class="jet-meter"><b>What the model sees</b> <span>{total}</span></p>'
        f'<div class="jet-bar" role="img" aria-label="{total}">{bar}</div>'
        f'{"".join(map(_prompt_part, prompt.parts))}<ul class="jet-lost">{omitted}</ul>'
    )


def _prompt_part(part: PromptPart) -> str:
    return (
        f'<details class="jet-part"><summary><i class="jet-part-{part.kind}"></i>{escape(part.title)} '
        f"<span>{part.tokens:,}</span></summary><pre>{escape(_truncate(part.text))}</pre></details>"
    )


# --- history ---------------------------------------------------------------------------------------------


def history(log: Sequence[FinishedRequest]) -> str:
    """The requests of this tab, latest first. page.js puts the times into the reader's own."""
    if not log:
        return '<p class="jet-hint">Nothing has been written in this tab yet.</p>'
    rows = "".join(_request_row(request) for request in reversed(log))
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("At", "Read", "Written", "tok/s", "First", "End", "Seed")
    )
    table = f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="jet-scroll" tabindex="0"><table class="jet-table">{table}</table></div>'


def _request_row(request: FinishedRequest) -> str:
    stats = request.stats
    cells = (
        format.count(stats.prompt_tokens),
        format.count(stats.tokens),
        format.rate(stats.mean_tokens_per_second),
        format.duration(stats.time_to_first_token_s),
        stats.finish_reason or format.UNKNOWN,
        format.UNKNOWN if stats.seed is None else str(stats.seed),
    )
    at = f'<td><time datetime="{request.at.isoformat()}">{request.at:%H:%M:%S} UTC</time></td>'
    return f"<tr>{at}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


# --- the performance report ------------------------------------------------------------------------------


def report(state: ReportState) -> str:
    """How a report stands, or the report."""
    if state.phase == "done" and state.files is not None:
        save_links = "".join(
            f'<a class="jet-opening" download="report.{ending}" href="data:{kind};base64,'
            f'{base64.b64encode(state.files[ending].encode()).decode()}">{ending}</a>'
            for ending, kind in FILES.items()
        )
        return (
            f'<p class="jet-verdict">{escape(state.message)}</p>'
            f'<div class="jet-files"><span>Save as</span>{save_links}</div>'
            '<iframe class="jet-report" title="The performance report" sandbox '
            f'srcdoc="{escape(state.files["html"])}"></iframe>'
        )
    if state.phase == "failed":
        return f'<p class="jet-bad" role="alert">There is no report: {escape(state.message)}</p>'
    text = {
        "idle": "Measures how fast this machine is with this model, where its time goes, and how speed and "
        "memory go with the length of the text. It takes about a minute, waits until no story is being "
        "written, and keeps nobody from writing.",
        "loading": "Waiting for the model",
        "waiting": "Waiting until no story is being written",
        "measuring": f"Measuring: {state.part or 'getting ready'}, {state.done} of {state.total or '…'} done",
    }[state.phase]
    bar = f'<progress max="{state.total or 1}" value="{state.done}" aria-label="Done"></progress>'
    return f'<p class="jet-hint" role="status">{escape(text)}</p>{bar if state.running else ""}'


def _truncate(text: str) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n\n… {len(text) - 2 * half:,} characters …\n\n{text[-half:]}"
