"""Test random sequences of requests against prefix cache, host memory and page pool, on a tiny network.

Whatever state a request starts from, it must draw the token that the network gives after reading all its
tokens afresh. States are isolated between users. No state remains of tokens that were taken back. Every page,
slot and byte is accounted for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jet.api import SamplingParams
from jet.cache import state_pool as slots_module
from jet.cache.host_pool import HostSnapshot
from jet.engine import model_runner as runner_module
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from jet.engine.text.healing import Healing, Logits, Node, NoPathError, draw
from jet.modeling import JetNemotronForCausalLM
from tests.engine.ahead import decoding_ahead
from tests.networks import small_model

PAGE_SIZE, CONTEXT, SLOTS, KEPT = 4, 40, 3, 4
END = 0
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=12, seed=0)
PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=14)  # alike enough to share beginnings


@cache
def network() -> JetNemotronForCausalLM:
    return small_model(num_hidden_layers=3, layer_types=["jet", "swa", "attn"]).requires_grad_(False)


@cache
def logits(tokens: tuple[int, ...]) -> Logits:
    """Return the logits of the token after `tokens`, computed afresh."""
    with torch.inference_mode():
        return network()(input_ids=torch.tensor([tokens])).logits[0, -1].double().numpy()


def borders() -> st.SearchStrategy[Healing | None]:
    """Return a strategy for healings, or None; each token of these networks stands for its own byte."""
    some = st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True)

    def border(covers: list[int], shorter: list[int], behind: list[int]) -> Healing:
        children = {token: Node(b"y", np.array(behind, np.int32), frozenset(behind[:1])) for token in shorter}
        root = Node(b"xy", np.array(covers, np.int32), frozenset(covers[:1]), children)
        return Healing(np.array(covers[:1], np.int32), root)

    return st.none() | st.builds(border, some, st.lists(st.integers(41, 60), max_size=3, unique=True), some)


@dataclass(eq=False)
class Live:
    """A request, and what must be true of it."""

    sequence: Sequence
    user: str
    prompt: list[int]
    healing: Healing | None
    text: list[int] = field(default_factory=list)  # to be read before the next token
    read: int | None = None
    drawn: list[int] = field(default_factory=list)
    ended: bool = False
    border: Healing | None = None  # the healing, for good
    path: int = 0  # tokens drawn by healing
    kept: int = 0  # drawn tokens that are not taken back any more
    barred: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by the number of drawn tokens

    @property
    def can_go_back(self) -> bool:
        return self.sequence.guarded and self.read == len(self.text) and self.kept < len(self.drawn)

    @property
    def ready(self) -> bool:
        return self.read == len(self.text) and not self.ended

    @property
    def generated(self) -> int:
        """Return the number of drawn tokens that the host knows."""
        return self.sequence.num_generated - (self.sequence.in_flight is not None)


class Requests(RuleBasedStateMachine):
    ahead = False  # whether steps are launched ahead

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            mock.patch.object(module, "PAGE_SIZE", PAGE_SIZE) for module in (slots_module, runner_module)
        ]
        for patch in self.patches:
            patch.start()
        with decoding_ahead(self.ahead):
            self.runner = ModelRunner(
                network(), frozenset([END]), slots=SLOTS, cache_slots=KEPT,
                tokens=14 * PAGE_SIZE, context=CONTEXT,
                snapshot_interval=5, host_bytes=120_000,
            )  # fmt: skip
        self.live: list[Live] = []
        self.texts: dict[str, set[tuple[int, ...]]] = {"ann": set(), "bob": set(), "": set()}

    def one(self, data: st.DataObject, among: list[Live]) -> Live:
        return among[data.draw(st.integers(0, len(among) - 1))]

    @property
    def readers(self) -> list[Live]:
        return [one for one in self.live if one.read is None or one.read < len(one.text)]

    @property
    def writers(self) -> list[Live]:
        return [one for one in self.live if one.ready]

    @rule(
        user=st.sampled_from(["ann", "bob", ""]),
        prompt=PROMPTS,
        healing=borders(),
        data=st.data(),
        barred=st.integers(0, 3),
        guarded=st.booleans(),
    )
    def come(
        self,
        user: str,
        prompt: list[int],
        healing: Healing | None,
        data: st.DataObject,
        barred: int,
        guarded: bool,
    ) -> None:
        self.open(user, prompt, healing, data, barred, guarded)

    def open(
        self,
        user: str,
        prompt: list[int],
        healing: Healing | None,
        data: st.DataObject,
        barred: int,
        guarded: bool,
    ) -> None:
        """Start a request with a new prompt, or with a prompt that continues a text of the user."""
        if len(self.live) == SLOTS:  # the engine runs no more at once
            return
        known = sorted(self.texts[user])
        if known and data.draw(st.booleans()):
            base = list(known[data.draw(st.integers(0, len(known) - 1))])
            prompt = (base[: data.draw(st.integers(0, len(base)))] + prompt)[: CONTEXT - 16]
        try:
            sequence = self.runner.allocate(GREEDY, 0, prompt, min(len(prompt) + 14, CONTEXT), user)
        except MemoryError:
            return
        if healing is not None:
            self.runner.heal(sequence, healing)
        self.runner.set_min_tokens(sequence, barred)
        if guarded:
            self.runner.guard(sequence)
        self.live.append(Live(sequence, user, prompt, healing, list(prompt), border=healing))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), size=st.integers(1, 9), pieces=st.integers(1, 12))
    def read(self, data: st.DataObject, size: int, pieces: int) -> None:
        """Read chunks of a request's prompt; the first of them restores the cached prefix."""
        one = self.one(data, self.readers)
        for _ in range(pieces):
            if one in self.readers:
                self.read_piece(one, size)

    def read_piece(self, one: Live, size: int) -> None:
        if one.read is None:
            one.read = self.runner.restore_prefix(one.sequence, one.text)
            if one.read and one.user:
                # Only from what the very same user has read before.
                assert any(text[: one.read] == tuple(one.text[: one.read]) for text in self.texts[one.user])
            else:
                assert not one.read
        elif piece := one.text[one.read : one.read + size]:
            try:
                self.runner.prefill(one.sequence, piece)
            except MemoryError:
                self.end(one, keep=False)
                return
            one.read += len(piece)
        self.texts[one.user].add(tuple(one.text[: one.read]))

    @precondition(lambda self: self.writers)
    @rule(steps=st.integers(1, 8), alone=st.booleans())
    def write(self, steps: int, alone: bool) -> None:
        """Decode steps of all ready requests, or of one; each must get the network's token."""
        for _ in range(steps):
            if self.writers:
                self.step(self.writers[:1] if alone else self.writers)

    @rule(user=st.sampled_from(["ann", "bob"]), prompt=PROMPTS, healing=borders(), data=st.data())
    def whole_story(self, user: str, prompt: list[int], healing: Healing | None, data: st.DataObject) -> None:
        """Run a request from its prompt to its end, as most requests go."""
        before = len(self.live)
        self.open(user, prompt, healing, data, 0, data.draw(st.booleans()))
        for one in self.live[before:]:
            while one in self.readers:
                self.read_piece(one, 9)
            for _ in range(6):
                if one in self.writers:
                    self.step([one])
                if one in self.live and one.can_go_back and data.draw(st.integers(0, 3)) == 0:
                    self.go_back(one, data)
            if one in self.live:
                self.end(one, keep=True)

    def step(self, some: list[Live]) -> None:
        outcomes = self.runner.decode([one.sequence for one in some])
        for one, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, MemoryError):
                self.end(one, keep=False)
                continue
            if isinstance(outcome, NoPathError):
                assert one.border is not None and one.barred.get(0)
                self.end(one, keep=False)
                continue
            assert isinstance(outcome, int)
            self.check(one, outcome)
            if one.sequence.guarded:
                waits = len(one.drawn) % 3 == 0
                self.runner.mark(one.sequence, len(one.prompt) + one.kept, waits)
            if outcome == END or len(one.prompt + one.drawn) >= CONTEXT:
                one.ended = True
            if one.generated >= GREEDY.max_new_tokens:
                one.ended = True

    def check(self, one: Live, outcome: int) -> None:
        before = (*one.prompt, *one.drawn)
        if one.healing is not None:
            barred = one.barred.get(0, ())
            expected = draw(one.healing.root, lambda path: logits(before + path), 0, 0.0, barred=barred)
            way, one.healing = self.runner.healed_path(one.sequence), None
            assert way is not None and (way.path, way.token) == (expected.path, expected.token)
            assert outcome == way.token and one.generated == way.adds
            one.drawn += [*way.path, way.token]
            one.path = len(one.drawn)
        else:
            found = logits(before).copy()
            if one.generated - 1 < one.sequence.min_tokens:
                found[END] = -np.inf
            found[list(one.barred.get(len(one.drawn), ()))] = -np.inf
            assert outcome == int(found.argmax())
            one.drawn.append(outcome)
        self.texts[one.user].add((*one.prompt, *one.drawn))

    @precondition(lambda self: any(one.sequence.guarded for one in self.live))
    @rule(data=st.data(), count=st.integers(0, 6))
    def settle(self, data: st.DataObject, count: int) -> None:
        """Mark some drawn tokens of a request as final."""
        one = self.one(data, [one for one in self.live if one.sequence.guarded])
        one.kept = min(one.kept + count, len(one.drawn))
        if 0 < one.kept < one.path:
            one.kept = 0

    @precondition(lambda self: any(one.can_go_back for one in self.live))
    @rule(data=st.data(), many=st.integers(1, 3))
    def take_back(self, data: st.DataObject, many: int) -> None:
        """Take drawn tokens back several times, as if banned phrases had been completed."""
        one = self.one(data, [one for one in self.live if one.can_go_back])
        for _ in range(many):
            if one in self.live and one.can_go_back:
                self.go_back(one, data)

    def go_back(self, one: Live, data: st.DataObject) -> None:
        """Take some tokens back, and draw again with the first of them barred."""
        at = data.draw(st.integers(one.kept, len(one.drawn) - 1))
        at = at if at >= one.path else 0  # a healed end is drawn again as a whole
        healing = one.border if at < one.path else None
        lost = one.drawn[one.path - 1 if healing is not None else at]
        barred = (*one.barred.get(at, ()), lost)
        one.barred = {place: some for place, some in one.barred.items() if place < at} | {at: barred}
        way = one.sequence.healed_path
        generated = 0 if healing is not None else at - one.path + (way is not None and way.adds)
        one.drawn, one.ended, one.healing = one.drawn[:at], False, healing
        one.path = 0 if healing is not None else one.path
        length = len(one.prompt) + at
        for _ in range(data.draw(st.integers(0, 2))):  # others need room
            self.runner._prefix_cache.evict()
        if not self.runner.roll_back(one.sequence, length, generated, barred, healing):
            self.read_again(one)
            return
        assert one.sequence.num_computed_tokens == length
        assert one.sequence.token_ids.tolist() == [*one.prompt, *one.drawn]
        expected = logits((*one.prompt, *one.drawn))
        assert np.abs(one.sequence.logits[0].double().numpy() - expected).max() < 1e-3
        left = self.runner._prefix_cache._by_request.get(id(one.sequence), ())
        assert all(len(entry.tokens) <= length for entry in left), "nothing lies past it"
        self.step([one])

    def read_again(self, one: Live) -> None:
        try:
            self.runner.reset(one.sequence)
        except MemoryError:
            self.live.remove(one)
            return
        one.text, one.read = [*one.prompt, *one.drawn], None

    @precondition(lambda self: any(one.read is not None for one in self.live))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Let a request compute all its tokens again, as after a failed step."""
        one = self.one(data, [one for one in self.live if one.read is not None])
        one.ended = False
        self.read_again(one)
        if one in self.live and one.drawn and one.drawn[-1] == END:
            self.end(one, keep=False)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), keep=st.booleans())
    def stop(self, data: st.DataObject, keep: bool) -> None:
        """End a request; keep its snapshot as after a story's end, or not as after an error."""
        one = self.one(data, self.live)
        self.end(one, keep)
        if not keep:
            left = self.runner._prefix_cache._by_request
            assert id(one.sequence) not in left, "what failed leaves nothing"

    def end(self, one: Live, keep: bool) -> None:
        self.live.remove(one)
        self.runner.free(one.sequence, keep)

    @rule(far=st.booleans())
    def make_room(self, far: bool) -> None:
        """Evict an entry from host memory if `far`, else from the device."""
        if far:
            self.runner._prefix_cache.evict_host()
        else:
            self.runner._prefix_cache.evict()

    @invariant()
    def pages_add_up(self) -> None:
        pool, ledger = self.runner._pool, self.runner._pool.allocator
        live = Counter(page for slot in pool._reserved_pages for page in pool._pages[slot])
        kept = Counter(
            page for slot in pool._pages if slot not in pool._reserved_pages for page in pool._pages[slot]
        )
        for one in self.live:
            if one.sequence.cache_handle is not None:
                live.update(one.sequence.cache_handle[1])
        for page in range(1, len(ledger._live_refs)):
            assert (ledger._live_refs[page], ledger._cached_refs[page]) == (live[page], kept[page])
        assert sorted([*ledger._free, *(live | kept)]) == list(range(1, len(ledger._live_refs)))
        assert ledger.reserved_pages == sum(pool._reserved_pages.values()) >= 0
        assert sorted([*pool._free_slots, *pool._pages]) == list(range(pool.null_slot))

    @invariant()
    def states_are_where_they_are_said_to_be(self) -> None:
        runner, sessions = self.runner, self.runner._prefix_cache
        slots = {one.state.location for one in sessions._device_lru}
        assert slots == set(runner._pool._pages) - set(runner._pool._reserved_pages)
        saved = [one.state.location for one in sessions._host_lru]
        holders = Counter(id(page) for one in saved if isinstance(one, HostSnapshot) for page in one.pages)
        assert {id(page): page.ref_count for page in runner._host_pool._pages.values()} == dict(holders)
        assert runner._host_pool.nbytes <= 120_000
        pins = Counter(
            id(one.sequence.cache_handle[0]) for one in self.live if one.sequence.cache_handle is not None
        )
        for resident in (*sessions._device_lru, *sessions._host_lru):
            assert resident.lock_ref == pins[id(resident)]
            tokens = tuple(resident.tokens.tolist())
            marked = [one for one in self.live if one.sequence.mark_salt == resident.cache_salt]
            if marked:  # to roll back to
                assert tuple(marked[0].sequence.token_ids[: len(tokens)]) == tokens
                assert resident in marked[0].sequence.marks
                continue
            # Only its own tokens, none from lookaheads of healing.
            assert any(text[: len(tokens)] == tokens for text in self.texts[resident.cache_salt])
            if resident.state.logits is not None:
                expected = logits(tokens)
                assert np.abs(resident.state.logits[0].double().numpy() - expected).max() < 1e-3

    def teardown(self) -> None:
        for one in list(self.live):
            self.end(one, keep=True)
        self.pages_add_up()
        while self.runner._prefix_cache.evict() or self.runner._prefix_cache.evict_host():
            pass
        ledger = self.runner._pool.allocator
        assert ledger.free == len(ledger._live_refs) - 1 and ledger.reserved_pages == 0
        assert self.runner.num_on_host == (0, 0) and self.runner.pages_in_use == 0
        self.runner.close()
        for patch in self.patches:
            patch.stop()


class RequestsAhead(Requests):
    """The same requests, with steps launched before the host knows the last token."""

    ahead = True


def examples(count: int) -> settings:
    return settings(
        max_examples=count, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )


TestRequests, TestRequestsAhead = Requests.TestCase, RequestsAhead.TestCase
TestRequests.settings, TestRequestsAhead.settings = examples(8), examples(6)


@pytest.mark.thorough
@pytest.mark.parametrize("requests", [Requests, RequestsAhead])
def test_long_sequences_of_requests(requests: type[Requests]) -> None:
    run_state_machine_as_test(
        requests,
        settings=settings(
            max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
