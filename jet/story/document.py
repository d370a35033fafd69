"""The story that a page shows: its text with the author of every character, its branches, Undo and Redo.

A `Document` belongs to one page and is used from one thread at a time. Everything it returns is immutable.
While the model is generating, the writer can only choose the branch on the page. Stop the model before any
other change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from itertools import accumulate
from types import TracebackType

from jet.api import SamplingParams, TokenChunk
from jet.story.alignment import Aligner
from jet.story.diff import changes
from jet.story.edits import splice
from jet.story.errors import StoryError
from jet.story.guidance import Guidance
from jet.story.history import History
from jet.story.line_breaks import LineBreaks, StreamLineBreaks
from jet.story.pieces import (
    REPLACEMENT,
    Generation,
    Pieces,
    PieceTable,
    Range,
    Span,
    Token,
    TokenRange,
    as_piece,
    clean,
    ends_at_token_boundary,
    length_of,
    ranges,
    text_of,
    token_ranges,
)
from jet.story.tree import (
    MAX_BRANCHES,
    Branch,
    BranchView,
    Comparison,
    Tree,
    check_length,
    check_name,
)

MAX_UNDO = 200  # steps
MAX_VARIANTS = 8  # continuations written at once

# A step that goes on with the one before it is no step of its own: typing, and walking along branches.
_EDIT, _SELECT = "typing", "walking"


class Document:
    """A story with all its branches, one of which is on the page.

    Every method that changes something makes one step for `undo`, unless it says otherwise. A step that is
    not possible raises StoryError and changes nothing. An omitted `branch` argument means the branch on the
    page. Text from outside goes through `pieces.clean`.

    Attributes:
        guidance: memory, note, lorebook and instruction. Setting it is no step; `set_guidance` makes one.
        sampling: the page's settings. Undo does not cover them.
        stops: the stop strings. Undo does not cover them.
    """

    def __init__(
        self,
        tree: Tree | None = None,
        title: str = "",
        guidance: Guidance | None = None,
        sampling: SamplingParams | None = None,
        stops: tuple[str, ...] = (),
        author: str = "",
    ) -> None:
        """Create a new story, or restore one from its `tree`.

        `guidance` and `sampling`: None for those of the tree, and for the defaults.
        """
        tree = tree or Tree({0: Branch(0)}, current=0)
        self.title = title
        self.author = author
        self.sampling = sampling or SamplingParams()
        self.stops = stops
        self._history = History(tree if guidance is None else replace(tree, guidance=guidance), MAX_UNDO)
        self._running: dict[int, Continuation] = {}  # by branch
        self._state_before = self._history  # what to return to if the model writes nothing
        self._any_text = False  # whether it has written anything since then
        self._last_step: str | None = None  # what the latest step was, if one like it goes on with it
        spans = {piece.span.id for branch in tree.branches.values() for piece in branch.pieces}
        self._last_id = max(spans | set(tree.branches))  # one row of ids for spans and branches

    @classmethod
    def from_text(cls, text: str, title: str = "") -> Document:
        """Create a story of one branch, all of it the writer's, with nothing to undo."""
        document = cls(title=title)
        document.edit(text)
        return cls(document.tree, title=title)

    # --- looking ---------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """Return the title on one line; "" if the story has none."""
        return self._title

    @title.setter
    def title(self, title: str) -> None:
        self._title = check_name(clean(title))

    @property
    def author(self) -> str:
        """Return the author's name that exported books show, on one line; empty if none is set."""
        return self._author

    @author.setter
    def author(self, author: str) -> None:
        self._author = check_name(clean(author))

    @property
    def guidance(self) -> Guidance:
        """Return memory, note, lorebook and instruction."""
        return self.tree.guidance

    @guidance.setter
    def guidance(self, guidance: Guidance) -> None:
        if guidance != self.guidance:
            self._history.replace(replace(self.tree, guidance=guidance))

    @property
    def tree(self) -> Tree:
        """Return all branches; the same object as long as nothing changes."""
        return self._history.present

    @property
    def text(self) -> str:
        """Return the text on the page."""
        return self.tree.branch().text

    @property
    def current(self) -> int:
        """Return the id of the branch on the page."""
        return self.tree.current

    @property
    def generating(self) -> bool:
        """Return whether the model is generating on any branch."""
        return bool(self._running)

    @property
    def can_undo(self) -> bool:
        """Return whether there is a step to undo now."""
        return bool(self._history.past) and not self._running

    @property
    def can_redo(self) -> bool:
        """Return whether there is a step to redo now."""
        return bool(self._history.future) and not self._running

    @property
    def can_retry(self) -> bool:
        """Return whether the page's branch has a continuation to retry now."""
        written = any(piece.span.generation is not None for piece in self.tree.branch().pieces)
        return written and not self._running

    @property
    def retry_offset(self) -> int:
        """Return the offset at which the latest continuation of the page's branch begins.

        Raises StoryError if there is no continuation.
        """
        return length_of(self.tree.branch().pieces[: self._latest_generation_index()])

    def _latest_generation_index(self) -> int:
        """Return the index of the first piece of the latest continuation on the page's branch.

        Raises StoryError if there is no continuation.
        """
        pieces = self.tree.branch().pieces
        written = [piece.span.id for piece in pieces if piece.span.generation is not None]
        if not written:
            raise StoryError("There is no continuation to retry on this branch.")
        return next(index for index, piece in enumerate(pieces) if piece.span.id == max(written))

    def ranges(self, branch: int | None = None) -> list[Range]:
        """Return the author of every range of the text, in order and without gaps."""
        return ranges(self.tree.branch(branch).pieces)

    def tokens(self, branch: int | None = None) -> list[TokenRange]:
        """Return the model's tokens that are in the text with all their characters, in order."""
        return list(token_ranges(self.tree.branch(branch).pieces))

    def token_at(self, offset: int) -> TokenRange | None:
        """Return the token that added the character at `offset` of the text on the page; None if none did."""
        return next((found for found in self.tokens() if found.start <= offset < found.end), None)

    def generation(self, span: int) -> Generation | None:
        """Return how a span was generated; None if the writer wrote it or it is not on the page."""
        return next((p.span.generation for p in self.tree.branch().pieces if p.span.id == span), None)

    def outline(self) -> list[BranchView]:
        """Return all branches, each followed by its children."""
        return self.tree.outline()

    def compare(self, first: int, second: int) -> Comparison:
        """Return the common beginning of two branches and how each continues."""
        return self.tree.compare(first, second)

    # --- the writer ------------------------------------------------------------------------------------

    def edit(self, text: str, join: bool = False) -> bool:
        """Set the text on the page. Changed regions become the writer's, all others keep their author.

        Args:
            text: the whole text of the editor.
            join: merge into the previous step if that was an edit, so that Undo reverts both.

        Returns:
            Whether anything changed.
        """
        text = clean(text)
        branch = self.tree.branch()
        found = changes(branch.text, text)
        if not found:
            return False
        self._check_idle()
        check_length(len(text))
        pieces = splice(branch.pieces, found, self._new_id)
        tree = self.tree.with_branch(replace(branch, pieces=pieces))
        self._push(tree, _EDIT, join)
        return True

    def set_guidance(self, guidance: Guidance) -> None:
        """Set the guidance, as a step for `undo`."""
        if guidance == self.guidance:
            return
        self._check_idle()
        self._push(replace(self.tree, guidance=guidance))

    def fork(self, offset: int) -> int:
        """Create a branch with the text up to `offset`, put it on the page, and return its id."""
        self._check_idle()
        parent = self.tree.branch()
        self._check_offset(offset)
        branch = self._child(parent, offset, PieceTable(parent.pieces).slice(0, offset))
        self._push(self.tree.with_branch(branch, show=True))
        return branch.id

    def replace_token(self, offset: int, choice: int) -> int:
        """Replace the token at `offset` by an alternative, on a new branch that goes on the page.

        The new branch lacks the text that the model generated after the token. It keeps text that followed
        the continuation when the continuation was generated. The old branch stays as it is.

        Args:
            offset: the offset of any character of the token.
            choice: index of the alternative.

        Returns:
            The offset behind the new token, where `start_continuation` goes on.
        """
        self._check_idle()
        found = self.token_at(offset)
        generation = self.generation(found.span) if found else None
        if found is None or generation is None or not 0 <= choice < len(found.token.alternatives):
            raise StoryError("There is no such alternative at this place.")
        other = found.token.alternatives[choice]
        text = clean(other.text)
        if not text or REPLACEMENT in text:
            raise StoryError("This alternative has no text of its own: it is a part of a character, or none.")
        parent = self.tree.branch()
        token = Token(other.token_id, len(text), other.logprob, found.token.alternatives)
        generation = replace(generation, finish_reason=None, tokens=(token,))
        before = PieceTable(parent.pieces).slice(0, found.start)
        pieces = (
            *before,
            as_piece(Span(self._new_id(), text, generation)),
            *_suffix_of(parent.pieces, found.span),
        )
        self._push(self.tree.with_branch(self._child(parent, found.start, pieces), show=True))
        return found.start + len(text)

    # --- the model -------------------------------------------------------------------------------------

    def start_continuation(self, model: str, sampling: SamplingParams, at: int | None = None) -> Continuation:
        """Start a continuation on the page at the offset `at`; None for the end of the text.

        Text behind the offset stays behind the continuation.
        """
        self._check_idle()
        before, after = self._split_at(at)
        return self._start(self.tree, [(self.current, before, after)], model, [sampling])[0]

    def retry(self, model: str, sampling: SamplingParams) -> Continuation:
        """Start another continuation where the latest one on the page began.

        It is on a new branch, which goes on the page. Its prompt is the same, so for the engine a retry is an
        ordinary prefix hit.
        """
        self._check_idle()
        old = self.tree.branch()
        first = self._latest_generation_index()
        span, before = old.pieces[first].span, old.pieces[:first]
        after = _suffix_of(old.pieces, span.id)
        branch = self._child(old, length_of(before), before + after)
        tree = self.tree.with_branch(branch, show=True)
        return self._start(tree, [(branch.id, before, after)], model, [sampling])[0]

    def start_rewrite(self, model: str, sampling: SamplingParams, start: int, end: int) -> Continuation:
        """Start a continuation that replaces the text from `start` to `end`.

        It is on a new branch, which goes on the page. The replaced text stays on the old branch.
        """
        self._check_idle()
        self._check_offset(start)
        self._check_offset(end)
        parent, table = self.tree.branch(), PieceTable(self.tree.branch().pieces)
        before, after = table.slice(0, start), table.slice(end)
        branch = self._child(parent, start, before + after)
        tree = self.tree.with_branch(branch, show=True)
        return self._start(tree, [(branch.id, before, after)], model, [sampling])[0]

    def start_variants(
        self, model: str, samplings: Sequence[SamplingParams], at: int | None = None
    ) -> list[Continuation]:
        """Start several continuations of the text on the page, each on a branch of its own.

        The page keeps its branch. `select_branch` puts one of the new branches on the page, also while
        generating.

        Args:
            model: the name of the model.
            samplings: the sampling parameters of each continuation, 1 to `MAX_VARIANTS`.
            at: the offset at which all continuations begin; None for the end of the text.
        """
        self._check_idle()
        if not 1 <= len(samplings) <= MAX_VARIANTS:
            raise StoryError(f"From 1 to {MAX_VARIANTS} continuations can be written at once.")
        tree, parent = self.tree, self.tree.branch()
        before, after = self._split_at(at)
        starts = []
        for _ in samplings:
            branch = self._child(parent, length_of(before), before + after)
            tree = tree.with_branch(branch)
            starts.append((branch.id, before, after))
        return self._start(tree, starts, model, samplings)

    # --- branches and steps ----------------------------------------------------------------------------

    def select_branch(self, branch: int) -> None:
        """Put a branch on the page.

        Consecutive selections make one step. A selection while the model is generating makes none.
        """
        tree = self.tree.selecting(branch)
        if self._running:
            self._history.replace(tree)
        elif branch != self.current:
            self._push(tree, _SELECT, join=True)

    def rename(self, branch: int, name: str) -> None:
        """Name a branch; the name is put on one line. An empty name removes the branch's name."""
        self._check_idle()
        old = self.tree.branch(branch)
        new = replace(old, name=check_name(clean(name)))
        if new != old:
            self._push(self.tree.with_branch(new))

    def delete_branch(self, branch: int) -> None:
        """Delete a branch. Its children keep all their text. The only branch cannot be deleted."""
        self._check_idle()
        self._push(self.tree.without(branch))

    def undo(self) -> bool:
        """Revert the latest step. Return whether there was a step."""
        self._check_idle()
        self._last_step = None
        return self._history.undo()

    def redo(self) -> bool:
        """Repeat the step that was reverted last. Return whether there was a step."""
        self._check_idle()
        self._last_step = None
        return self._history.redo()

    # --- inside ----------------------------------------------------------------------------------------

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _check_idle(self) -> None:
        if self._running:
            raise StoryError("The model is still writing: stop it first.")

    def _check_offset(self, offset: int) -> None:
        length = length_of(self.tree.branch().pieces)
        if not 0 <= offset <= length:
            raise StoryError(f"There is no place {offset} in a text of {length} characters.")

    def _split_at(self, at: int | None) -> tuple[Pieces, Pieces]:
        """Split the page's pieces at the offset `at`; None for the end."""
        pieces = self.tree.branch().pieces
        if at is None:
            return pieces, ()
        self._check_offset(at)
        table = PieceTable(pieces)
        return table.slice(0, at), table.slice(at)

    def _child(self, parent: Branch, offset: int, pieces: Pieces) -> Branch:
        return Branch(self._new_id(), pieces, parent=self.tree.origin(parent.id, offset))

    def _push(self, tree: Tree, kind: str | None = None, join: bool = False) -> None:
        if join and kind == self._last_step and self._history.past and not self._history.future:
            self._last_step = kind if self._history.join(tree) else None
        else:
            self._history.step(self._keep_undone_generations(tree))
            self._last_step = kind

    def _keep_undone_generations(self, tree: Tree) -> Tree:
        """Return the tree with branches for generated text that Undo has reverted.

        This is done before a new step, since Redo can no longer restore the text after it.
        """
        if not self._history.future:
            return tree
        known = {piece.span.id for branch in tree.branches.values() for piece in branch.pieces}
        for branch in self._history.future[0].branches.values():  # as after the latest step of all
            new = any(p.span.generation is not None and p.span.id not in known for p in branch.pieces)
            if not new or len(tree.branches) >= MAX_BRANCHES:
                continue
            if branch.id in tree.branches:
                branch = replace(branch, id=self._new_id(), parent=branch.id)
            elif branch.parent not in tree.branches:
                branch = replace(branch, parent=tree.current)
            tree = tree.with_branch(branch)
        return tree

    def _start(
        self,
        tree: Tree,
        starts: Iterable[tuple[int, Pieces, Pieces]],
        model: str,
        samplings: Iterable[SamplingParams],
    ) -> list[Continuation]:
        self._state_before, self._any_text = copy(self._history), False
        self._push(tree)
        guidance = None if self.guidance == Guidance() else self.guidance
        for (branch, before, after), sampling in zip(starts, samplings, strict=True):
            generation = Generation(model, sampling, bool(after), stops=self.stops, guidance=guidance)
            self._running[branch] = Continuation(self, branch, before, after, self._new_id(), generation)
        return list(self._running.values())

    def _replace_pieces(self, branch: int, pieces: Pieces) -> None:
        """Set the pieces of a branch while generating, as part of the step that started it."""
        tree = self.tree
        self._history.replace(tree.with_branch(replace(tree.branch(branch), pieces=pieces)))

    def _remove_continuation(self, continuation: Continuation) -> None:
        """Remove an ended continuation from the running ones.

        If the continuation has no text, the branch that was created for it is removed. If no continuation of
        a step has text, the step is removed from the history.
        """
        del self._running[continuation.branch]
        self._any_text = self._any_text or bool(continuation.text)
        if not continuation.text and continuation.branch not in self._state_before.present.branches:
            self._history.replace(self.tree.without(continuation.branch))
        if not self._running and not self._any_text:
            self._history = self._state_before


class Continuation:
    """A continuation that the model is generating. Use it in a `with` block, so that it ends in any case.

    Attributes:
        branch: the id of the continuation's branch.
        start: the offset in the branch's text at which the continuation begins.
        text: the text generated so far; the document has it already.
        limit: the number of characters to keep when the continuation ends; None for all.
        unfinished: the incomplete sentence that `finish` cuts off the end of the text; empty if there is
            none.
        cuts: whether an incomplete sentence is cut off.
    """

    def __init__(
        self,
        document: Document,
        branch: int,
        before: Pieces,
        after: Pieces,
        span: int,
        generation: Generation,
    ) -> None:
        self.branch = branch
        self.start = length_of(before)
        self._document: Document | None = document
        self._prefix = before
        self._suffix = after
        self.text = ""
        self.limit: int | None = None
        self.unfinished, self.cuts = "", True
        self._span = span
        self._generation = generation
        self._aligner = Aligner()
        self._breaks, self._appended = StreamLineBreaks(), LineBreaks()

    @property
    def prompt(self) -> str:
        """Return the text before the continuation."""
        return text_of(self._prefix)

    @property
    def starts_at_token_boundary(self) -> bool:
        """Return whether the text before the continuation ends with a whole token that is unedited."""
        return ends_at_token_boundary(self._prefix)

    @property
    def suffix(self) -> str:
        """Return the text behind the continuation."""
        return text_of(self._suffix)

    def add_chunk(self, chunk: TokenChunk) -> None:
        """Append a chunk of the engine's stream; end the continuation if the chunk has a finish reason.

        Raises StoryError like `append`.
        """
        chunk = self._breaks.chunk(chunk)
        self.append(chunk.text, self._aligner.add(chunk.text, chunk.logprobs))
        if chunk.stats.finish_reason is not None:
            self._cut_unfinished(clean(chunk.stats.unfinished))
            self.finish(chunk.stats.finish_reason)

    def _cut_unfinished(self, unfinished: str) -> None:
        if self.limit is None and unfinished and self.text.endswith(unfinished) and self.cuts:
            self.limit, self.unfinished = len(self.text) - len(unfinished), unfinished

    def append(self, text: str, tokens: Iterable[Token] = ()) -> None:
        """Append text, and the tokens whose characters are certain by now.

        Raises StoryError if the continuation has ended or the story is full.
        """
        if self._document is None:
            raise StoryError("This continuation has ended.")
        generation = replace(self._generation, tokens=(*self._generation.tokens, *tokens))
        text = self.text + self._appended.push(text)
        self._document._replace_pieces(self.branch, self._pieces(text, generation))
        self.text, self._generation = text, generation

    def finish(self, reason: str | None = None) -> None:
        """End the continuation; its text stays. A second call does nothing.

        Args:
            reason: as in `RequestStats.finish_reason`; None if the continuation was interrupted.
        """
        document, self._document = self._document, None
        if document is None:
            return
        if self.text:
            tokens = (*self._generation.tokens, *self._aligner.finish())
            if self.limit is not None and self.limit < len(self.text):
                self.text, tokens = self.text[: self.limit], _tokens_within(tokens, self.limit)
            self._generation = replace(self._generation, finish_reason=reason, tokens=tokens)
            document._replace_pieces(self.branch, self._pieces(self.text, self._generation))
        document._remove_continuation(self)

    def _pieces(self, text: str, generation: Generation) -> Pieces:
        span = Span(self._span, text, generation)
        return (*self._prefix, *([as_piece(span)] if text else []), *self._suffix)

    def __enter__(self) -> Continuation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()


def _tokens_within(tokens: Sequence[Token], limit: int) -> tuple[Token, ...]:
    """Return the first tokens that together add at most `limit` characters."""
    ends = accumulate(token.length for token in tokens)
    return tuple(token for token, end in zip(tokens, ends, strict=True) if end <= limit)


def _suffix_of(pieces: Pieces, span: int) -> Pieces:
    """Return the pieces that followed a span when the model generated it, as far as they still exist.

    A continuation that was generated at the end of the text had no suffix; text that follows it now was added
    later.
    """
    last = max(index for index, piece in enumerate(pieces) if piece.span.id == span)
    generation = pieces[last].span.generation
    return pieces[last + 1 :] if generation is not None and generation.inserted else ()
