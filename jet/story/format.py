"""A document as JSON and back, checked in every field.

The format, version 1. All offsets count characters (code points). Every field is required unless it may be
left out, and no other is allowed.

    {
      "format": "jet-stories", "version": 1,
      "title": "…",
      "author": "…",                      left out if the story names none
      "sampling": {…},                    the page's settings, by the names in SamplingParams
      "guidance": {
        "memory": "…",
        "note": {"text": "…", "depth": 3, "unit": "lines" | "paragraphs"},
        "lore": [{…}],                    by the names in guidance.LoreEntry
        "about": "…"                      the instruction for a chat model; left out if there is none
      },
      "stops": ["…"],                     texts to stop at; left out if there are none
      "told": [{…}],                      guidance that spans were generated with; left out if there is none
      "current": 4,                       the branch on the page
      "branches": [
        {"id": 4, "name": "…", "parent": 0 | null, "pieces": [[span, start, end], …]}
      ],
      "spans": [
        {"id": 1, "text": "…"},           the writer's
        {"id": 2, "text": "…", "model": "…", "sampling": {…}, "inserted": false,
         "finish_reason": "length" | null, "tokens": [[id, length, logprob | null, alternatives], …],
         "stops": ["…"], "told": 0}       the model's; the last two are left out if there are none, and the
                                          last is the index of the span's guidance in "told"
      ]
    }

An entry of the lore has `secondary_keywords` and `anti_keywords` only if there are any. Alternatives are
`[[id, text, logprob], …]`. The text of a branch is the concatenation of its pieces; a piece is the characters
of a span from start up to end (exclusive). Ids are unique among branches and among spans; parents form no
circle. Undo is not saved. Settings that were added in later versions are written only if they are in use. A
field of `sampling` that is left out has its default, so that files stay readable when settings are added; an
unknown field is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import Any, TypeVar

from jet.api import SamplingParams, TokenLogprob
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from jet.story.json_fields import TOP, Fields, items
from jet.story.line_breaks import normalize_branches
from jet.story.pieces import Generation, Piece, Span, Token, clean, length_of, to_valid_unicode
from jet.story.tree import MAX_BRANCHES, Branch, Tree, check_length, check_name

FORMAT, VERSION = "jet-stories", 1
_DEFAULT_SAMPLING = SamplingParams()
_LATER_SETTINGS = {
    *("presence_penalty", "frequency_penalty", "end_at", "top_n_sigma", "typical_p", "dynatemp_range"),
    *("dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"),
    "sampler_order",
}
_OPTIONAL = ("secondary_keywords", "anti_keywords")  # of a lore entry, if there are none

T = TypeVar("T")


def encode(document: Document) -> str:
    """Encode the document as JSON on one line. Equal documents give equal text."""
    return dump(to_dict(document, document.tree))


def dump(plain: object) -> str:
    """Encode as compact JSON that is valid UTF-8 whatever the text holds."""
    return to_valid_unicode(json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def to_dict(document: Document, tree: Tree) -> dict[str, Any]:
    """Convert the document to JSON's dicts and lists, with `tree` in place of the document's own tree."""
    used = {p.span.id: p.span for branch in tree.branches.values() for p in branch.pieces}
    guidance_table: dict[Guidance, int] = {}
    spans = [
        _with_guidance_reference(span_to_dict(used[id]), used[id], guidance_table) for id in sorted(used)
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": document.title,
        **({"author": document.author} if document.author else {}),
        "sampling": sampling_to_dict(document.sampling),
        "guidance": _guidance_to_dict(document.guidance),
        **({"stops": list(document.stops)} if document.stops else {}),
        **({"told": [_guidance_to_dict(one) for one in guidance_table]} if guidance_table else {}),
        "current": tree.current,
        "branches": [branch_to_dict(branch) for branch in tree.branches.values()],
        "spans": spans,
    }


def decode(text: str) -> Document:
    """Decode what `encode` returned. Raises StoryFileError for any other text."""
    return from_dict(load(text))


def load(text: str) -> object:
    """Parse any JSON. Raises StoryFileError if it is invalid, nested too deeply, or has NaN or infinity."""
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        raise StoryFileError(
            f"This is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except RecursionError:
        raise StoryFileError("This is not a story: its JSON is nested too deeply.") from None
    except ValueError as error:
        raise StoryFileError(f"This is not JSON: {error}.") from None


def from_dict(plain: object) -> Document:
    """Convert JSON's dicts and lists to a document. Raises StoryFileError if they are no valid story."""
    story = Fields(plain, TOP)
    if (found := story.take_text("format")) != FORMAT:
        raise StoryFileError(f"This is not a story of ours: its format is {found[:40]!r}, not {FORMAT!r}.")
    version = story.take("version", int)
    if version > VERSION:
        raise StoryFileError(
            f"This story has version {version} of the format, and only up to {VERSION} is known here: "
            "a newer Jet Stories can read it."
        )
    if version < 1:
        raise StoryFileError(f"This story has version {version} of the format, which does not exist.")
    title = story.take_text("title")
    author = story.take_text("author") if story.has("author") else ""
    sampling = _read_sampling(story.take("sampling", dict), "sampling")
    guidance = _read_guidance(story.take_object("guidance"))
    current = story.take("current", int)
    stops = _read_stops(story)
    guidance_table = (
        [_read_guidance(Fields(*item)) for item in story.take_items("told")] if story.has("told") else []
    )
    spans = _by_id((_read_span(Fields(*item), guidance_table) for item in story.take_items("spans")), "spans")
    branches = _by_id(
        (_read_branch(Fields(*item), spans) for item in story.take_items("branches")), "branches"
    )
    story.expect_no_more()
    if len(branches) > MAX_BRANCHES:
        raise StoryFileError(f"branches: a story can have {MAX_BRANCHES}, not {len(branches)}.")
    _check_parents(branches, current)
    return Document(Tree(normalize_branches(branches), current), title, guidance, sampling, stops, author)


# --- to JSON ---------------------------------------------------------------------------------------------


def _guidance_to_dict(guidance: Guidance) -> dict[str, Any]:
    plain = asdict(guidance)
    if not guidance.about:
        del plain["about"]
    plain["lore"] = list(map(lore_to_dict, guidance.lore))
    return plain


def lore_to_dict(entry: LoreEntry) -> dict[str, Any]:
    """Convert a lore entry to JSON's dicts and lists."""
    plain = asdict(entry)
    return {name: value for name, value in plain.items() if value or name not in _OPTIONAL}


def branch_to_dict(branch: Branch) -> dict[str, Any]:
    """Convert a branch to JSON's dicts and lists."""
    pieces = [[piece.span.id, piece.start, piece.end] for piece in branch.pieces]
    return {"id": branch.id, "name": branch.name, "parent": branch.parent, "pieces": pieces}


def sampling_to_dict(sampling: SamplingParams) -> dict[str, Any]:
    """Convert settings to a JSON dict.

    Settings that were added in later versions are left out if they have their defaults.
    """
    return {
        name: value
        for name, value in asdict(sampling).items()
        if name not in _LATER_SETTINGS or value != getattr(_DEFAULT_SAMPLING, name)
    }


def span_to_dict(span: Span) -> dict[str, Any]:
    """Convert a span to JSON's dicts and lists, without its guidance, which several spans may share."""
    plain: dict[str, Any] = {"id": span.id, "text": span.text}
    if (generation := span.generation) is not None:
        plain["model"] = generation.model
        plain["sampling"] = sampling_to_dict(generation.sampling)
        plain["inserted"] = generation.inserted
        plain["finish_reason"] = generation.finish_reason
        plain["tokens"] = [
            [
                token.id,
                token.length,
                token.logprob,
                [[a.token_id, a.text, a.logprob] for a in token.alternatives],
            ]
            for token in generation.tokens
        ]
        if generation.stops:
            plain["stops"] = list(generation.stops)
    return plain


def _with_guidance_reference(
    plain: dict[str, Any], span: Span, guidance_table: dict[Guidance, int]
) -> dict[str, Any]:
    if span.generation is not None and span.generation.guidance is not None:
        plain["told"] = guidance_table.setdefault(span.generation.guidance, len(guidance_table))
    return plain


# --- from JSON -------------------------------------------------------------------------------------------


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number there")


def _construct(where: str, construct: Callable[[], T]) -> T:
    """Call `construct`; re-raise its errors as StoryFileError, with the place in the file."""
    try:
        return construct()
    except (TypeError, ValueError, OverflowError) as error:
        raise StoryFileError(f"{where}: {error}") from None


def _read_sampling(plain: dict[str, Any], where: str) -> SamplingParams:
    known = {field.name for field in fields(SamplingParams)}
    if unknown := plain.keys() - known:
        raise StoryFileError(f"{where} has an unknown field {min(unknown)[:40]!r}.")
    values = {name: _to_tuple(value) for name, value in plain.items()}
    return _construct(where, lambda: SamplingParams(**values))


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read_guidance(plain: Fields) -> Guidance:
    memory = plain.take_text("memory")
    fields = plain.take_object("note")
    text, depth, unit = fields.take_text("text"), fields.take("depth", int), fields.take_text("unit")
    fields.expect_no_more()
    lore = tuple(read_lore(Fields(*item)) for item in plain.take_items("lore"))
    about = plain.take_text("about") if plain.has("about") else ""
    plain.expect_no_more()
    note = _construct(fields.where, lambda: AuthorsNote(text, depth, unit))  # type: ignore[arg-type]
    return Guidance(memory, note, lore, about)


def read_lore(plain: Fields) -> LoreEntry:
    """Read a lore entry from its fields. Raises StoryFileError for a missing, unknown or invalid field."""
    values: dict[str, Any] = {}
    for field in fields(LoreEntry):
        kind: Any = type(field.default)
        if field.name in _OPTIONAL and not plain.has(field.name):
            continue
        if kind is tuple:
            values[field.name] = tuple(_read_text(*item) for item in plain.take_items(field.name))
        elif kind is str:
            values[field.name] = plain.take_text(field.name)
        else:
            values[field.name] = plain.take(field.name, kind)
    plain.expect_no_more()
    return _construct(plain.where, lambda: LoreEntry(**values))


def _read_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise StoryFileError(f"{where} must be text.")
    return clean(value)


def _read_stops(plain: Fields) -> tuple[str, ...]:
    return tuple(_read_text(*item) for item in plain.take_items("stops")) if plain.has("stops") else ()


def _read_guidance_reference(plain: Fields, guidance_table: list[Guidance]) -> Guidance | None:
    place = plain.take("told", int) if plain.has("told") else None
    if place is not None and not 0 <= place < len(guidance_table):
        raise StoryFileError(f"{plain.where}: there is no guidance {place} in 'told'.")
    return None if place is None else guidance_table[place]


def _read_span(plain: Fields, guidance_table: list[Guidance]) -> Span:
    id, text = plain.take("id", int), plain.take_raw_text("text")
    generation = None
    if plain.has("model"):
        generation = Generation(
            model=plain.take_text("model"),
            sampling=_read_sampling(plain.take("sampling", dict), f"{plain.where}.sampling"),
            inserted=plain.take("inserted", bool),
            finish_reason=plain.take_or_null("finish_reason", str),
            tokens=tuple(_read_token(*item) for item in plain.take_items("tokens")),
            stops=_read_stops(plain),
            guidance=_read_guidance_reference(plain, guidance_table),
        )
    plain.expect_no_more()
    return Span(id, text, generation)


def _read_token(plain: object, where: str) -> Token:
    match plain:
        case [int(id), int(length), None | float() | int() as logprob, list(others)] if _has_no_bool(plain):
            alternatives = tuple(_read_alternative(*item) for item in items(others, where))
            return _construct(where, lambda: Token(id, length, logprob, alternatives))
    raise StoryFileError(f"{where} must be [id, length, log-probability, alternatives].")


def _read_alternative(plain: object, where: str) -> TokenLogprob:
    match plain:
        case [int(id), str(text), float() | int() as logprob] if _has_no_bool(plain):
            return TokenLogprob(id, _read_text(text, where), logprob)
    raise StoryFileError(f"{where} must be [id, text, log-probability].")


def _has_no_bool(plain: Iterable[object]) -> bool:
    """Return whether no item is a boolean, which Python counts as an integer."""
    return not any(isinstance(value, bool) for value in plain)


def _read_branch(plain: Fields, spans: dict[int, Span]) -> Branch:
    pieces = tuple(
        _read_piece(item, where, spans)
        for item, where in items(plain.take("pieces", list), f"{plain.where}.pieces")
    )
    _construct(plain.where, lambda: check_length(length_of(pieces)))
    id, name, parent = plain.take("id", int), plain.take_text("name"), plain.take_or_null("parent", int)
    plain.expect_no_more()
    return Branch(id, pieces, check_name(name), parent)


def _read_piece(plain: object, where: str, spans: dict[int, Span]) -> Piece:
    match plain:
        case [int(id), int(start), int(end)] if _has_no_bool(plain):
            if id not in spans:
                raise StoryFileError(f"{where}: there is no span {id}.")
            if not 0 <= start < end <= len(spans[id].text):
                raise StoryFileError(f"{where}: span {id} has no characters from {start} to {end}.")
            return Piece(spans[id], start, end)
    raise StoryFileError(f"{where} must be [span, start, end].")


def _by_id(found: Iterable[T], where: str) -> dict[int, T]:
    by_id: dict[int, T] = {}
    for one in found:
        id: int = one.id  # type: ignore[attr-defined]
        if not 0 <= id < 2**53:  # what JavaScript counts exactly
            raise StoryFileError(f"{where}: {id} cannot be an id.")
        if id in by_id:
            raise StoryFileError(f"{where}: two have the id {id}.")
        by_id[id] = one
    return by_id


def _check_parents(branches: dict[int, Branch], current: int) -> None:
    if current not in branches:
        raise StoryFileError(f"current: there is no branch {current}.")
    without_cycle: set[int] = set()
    for branch in branches.values():
        path: list[int] = []
        current_id: int | None = branch.id
        while current_id is not None and current_id not in without_cycle:
            if current_id not in branches:
                raise StoryFileError(
                    f"branches: the parent {current_id} of branch {path[-1]} does not exist."
                )
            if current_id in path:
                raise StoryFileError(f"branches: the parents of branch {current_id} form a circle.")
            path.append(current_id)
            current_id = branches[current_id].parent
        without_cycle.update(path)
