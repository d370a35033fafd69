"""Test random sequences of all actions against a plain reference: texts in dicts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jet.story.document import MAX_UNDO, Continuation, Document
from jet.story.format import decode, encode
from jet.story.shrink import shrink
from jet.story.tree import Tree
from tests.story.factory import MODEL, SAMPLING, texts, tokens


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.document = Document()
        self.live: list[Continuation] = []
        self.seen: set[str] = {""}  # every text that ever was complete, but for pruned ones

    # What a step must do: be taken back by Undo, made again by Redo.
    def check_step(self, before: Tree) -> None:
        after = self.document.tree
        if after is before:
            return
        assert self.document.undo()
        assert self.document.tree == before
        assert self.document.redo()
        assert self.document.tree == after
        self.note()

    def note(self) -> None:
        self.seen |= {branch.text for branch in self.document.tree.branches.values()}

    def idle(self) -> bool:
        return not self.live

    def branch(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.document.tree.branches)))

    def offset(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.document.text)))

    @precondition(idle)
    @rule(text=texts, data=st.data())
    def edit(self, text: str, data: st.DataObject) -> None:
        before, old = self.document.tree, self.document.text
        start = self.offset(data)
        new = old[:start] + text + old[data.draw(st.integers(start, len(old))) :]
        self.document.edit(new)
        assert self.document.text == new
        self.check_step(before)

    @precondition(idle)
    @rule(data=st.data(), number=st.integers(1, 3), at_end=st.booleans())
    def write(self, data: st.DataObject, number: int, at_end: bool) -> None:
        at = None if at_end else self.offset(data)
        if number == 1:
            self.live = [self.document.start_continuation(MODEL, SAMPLING, at)]
        else:
            self.live = self.document.start_variants(MODEL, [SAMPLING] * number, at)

    @precondition(lambda self: not self.live and "model" in {r.author for r in self.document.ranges()})
    @rule()
    def retry(self) -> None:
        self.live = [self.document.retry(MODEL, SAMPLING)]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), pieces=st.lists(texts, max_size=3))
    def append(self, data: st.DataObject, pieces: list[str]) -> None:
        continuation = data.draw(st.sampled_from(self.live))
        before = self.document.tree.branch(continuation.branch).text
        old, text = continuation.text, "".join(pieces)
        continuation.append(text, tokens(*pieces, alternatives=(" b", "語")))
        start = continuation.start + len(old)
        assert self.document.tree.branch(continuation.branch).text == before[:start] + text + before[start:]

    @precondition(lambda self: self.live)
    @rule()
    def finish(self) -> None:
        for continuation in self.live:
            continuation.finish("length")
        self.live = []
        self.note()

    @precondition(lambda self: not self.live and self.document.tokens())
    @rule(data=st.data())
    def replace_token(self, data: st.DataObject) -> None:
        before = self.document.tree
        token = data.draw(st.sampled_from(self.document.tokens()))
        old = self.document.text
        choice = data.draw(st.integers(0, 1))
        at = self.document.replace_token(token.end - 1, choice)
        assert self.document.text[:at] == old[: token.start] + (" b", "語")[choice]
        self.check_step(before)

    @precondition(idle)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        before, offset, old = self.document.tree, self.offset(data), self.document.text
        self.document.fork(offset)
        assert self.document.text == old[:offset]
        self.check_step(before)

    @rule(data=st.data())
    def show(self, data: st.DataObject) -> None:
        branch = self.branch(data)
        self.document.select_branch(branch)
        assert self.document.current == branch

    @precondition(lambda self: not self.live and len(self.document.tree.branches) > 1)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        before = self.document.tree
        self.document.delete_branch(self.branch(data))
        self.check_step(before)

    @precondition(idle)
    @rule(data=st.data(), name=texts)
    def rename(self, data: st.DataObject, name: str) -> None:
        before, text = self.document.tree, self.document.text
        self.document.rename(self.branch(data), name)
        assert self.document.text == text
        self.check_step(before)

    @precondition(idle)
    @rule()
    def undo(self) -> None:
        before = self.document.tree
        if self.document.undo():
            after = self.document.tree
            assert self.document.redo()
            assert self.document.tree == before
            self.document.undo()
            assert self.document.tree == after

    @precondition(idle)
    @rule()
    def redo(self) -> None:
        before = self.document.tree
        if self.document.redo():
            self.document.undo()
            assert self.document.tree == before
            self.document.redo()

    @precondition(idle)
    @rule()
    def save_and_load(self) -> None:
        kept = encode(self.document)
        loaded = decode(kept)
        assert loaded.tree == self.document.tree
        assert encode(loaded) == kept
        small = shrink(self.document, limit=900)
        assert decode(small.text).text == self.document.text
        assert small.fits == (len(small.text.encode()) <= 900)

    @invariant()
    def ranges_cover_the_text(self) -> None:
        at = 0
        for found in self.document.ranges():
            assert found.start == at < found.end
            at = found.end
        assert at == len(self.document.text)
        for token in self.document.tokens():
            assert 0 <= token.start < token.end <= at

    @invariant()
    def the_outline_has_every_branch_once(self) -> None:
        views = self.document.outline()
        assert sorted(view.id for view in views) == sorted(self.document.tree.branches)
        assert [view.id for view in views if view.current] == [self.document.current]
        seen: dict[int, int] = {}
        for view in views:
            assert view.depth == (0 if view.parent is None else seen[view.parent] + 1)
            seen[view.id] = view.depth

    @invariant()
    def nothing_is_lost(self) -> None:
        history = self.document._history
        if len(history.past) + len(history.future) < MAX_UNDO:
            trees = [*history.past, history.present, *history.future]
            reachable = {branch.text for tree in trees for branch in tree.branches.values()}
            if not self.live:
                assert self.seen <= reachable


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
