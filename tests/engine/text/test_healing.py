"""Test the border between a writer's text and the model's: what is removed, and how it is drawn again."""

from __future__ import annotations

import codecs
import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from jet.api import RequestError
from jet.engine.text.healing import (
    MAX_HEALED_TOKENS,
    MAX_LOOKAHEAD,
    Healing,
    Logits,
    Node,
    draw,
    log_softmax,
    nodes,
)
from jet.engine.text.tokenizer import StoryTokenizer, start_id, stop_ids
from jet.engine.text.whitespace import strip_leading, strip_trailing
from tests.engine.small_tokenizers import KINDS, as_transformers

SCRIPTS = [
    "The old lighthouse keeper opened the door — and “nobody” was there. Don't!",
    "Das Mädchen öffnete die Tür; draußen schneite es über den Fluss.",
    "Старый смотритель маяка открыл дверь, и вошло море.",
    "Ο γέρος φαροφύλακας άνοιξε την πόρτα και μπήκε η θάλασσα.",
    "فتح حارس المنارة العجوز الباب ودخل البحر.",
    "שומר המגדלור הזקן פתח את הדלת והים נכנס.",
    "बूढ़े प्रकाशस्तंभ रक्षक ने दरवाज़ा खोला और समुद्र आ गया।",
    "คนเฝ้าประภาคารเก่าเปิดประตูแล้วทะเลก็เข้ามา",
    "老灯塔看守人打开门，大海就进来了。夜よ、灯台の「光」。",
    "늙은 등대지기가 문을 열자 바다가 들어왔다. 👩‍🚀🏳️‍🌈😀🎉 e\u0301 🇳🇿",
]
FEW = 1  # of the 20 texts a script
BLANKS = ["\t", "\N{NO-BREAK SPACE}", "  ", "   ", " \t", "\t ", "\u3000", "\u2009", "\u202f \t\t", " " * 40]


def texts(number: int) -> list[str]:
    """Return `number` variants of each script's sentence: rotated, and joined with the next script's."""
    found = []
    for script, after in zip(SCRIPTS, SCRIPTS[1:] + SCRIPTS[:1], strict=True):
        for turn in range(number):
            at = turn * len(script) // 20
            found.append((script[at:] + "\n\n" + after[: 12 + turn])[: 70 - turn])
    return found


@cache
def tokenizer(name: str) -> StoryTokenizer:
    plain = AutoTokenizer.from_pretrained(name) if "/" in name else as_transformers(KINDS[name])
    return StoryTokenizer(plain, start_id(plain), stop_ids(plain))


BYTE_LEVEL = ["assets/story-model", "byte_level"]


def spelled(tokens: StoryTokenizer, ids: object) -> bytes:
    return b"".join(tokens._bytes[int(token)] for token in ids)


@cache
def known_pieces(name: str) -> dict[bytes, int]:
    tokens = tokenizer(name)
    ids = sorted(tokens._backend.get_vocab(with_added_tokens=False).values(), reverse=True)
    return {tokens._bytes[token]: token for token in ids if token not in tokens.stop_ids}


class Knowing:
    """A network that is sure of one text and knows nothing else."""

    def __init__(self, name: str, text: bytes) -> None:
        self._pieces, self._text = known_pieces(name), text
        self._longest = max(map(len, self._pieces))

    def likely(self, written: bytes) -> dict[int, float]:
        """Return logits of the tokens that continue `written` in the text; all others are impossible."""
        assert self._text.startswith(written)
        left = self._text[len(written) : len(written) + self._longest]
        beginnings = (left[:end] for end in range(1, len(left) + 1))
        return {self._pieces[one]: 3.0 * len(one) for one in beginnings if one in self._pieces}

    def logits(self, written: bytes) -> Logits:
        found = np.full(1 + max(self._pieces.values()), -9.0)
        for token, logit in self.likely(written).items():
            found[token] = logit
        return found


def continued(name: str, prompt: str, whole: str) -> str:
    """Return the text that is shown if a network that knows the whole text continues the prompt."""
    tokens = tokenizer(name)
    ids, healing, detokenizer = tokens.encode_healed(prompt, 10_000)
    front = len(tokens.start) if len(tokens.start) else int(ids[0] in tokens._empty)
    network = Knowing(name, whole.encode())
    written, shown = spelled(tokens, ids[front:]), ""
    if healing is not None:
        healed = draw(healing.root, lambda path: network.logits(written + spelled(tokens, path)), 0, 0.0)
        written += spelled(tokens, (*healed.path, healed.token))
        shown = detokenizer.push(healed.token, skip=len(healed.node.left))
    while written != whole.encode():
        likely = network.likely(written)
        token = max(likely, key=likely.__getitem__)
        written += tokens._bytes[token]
        shown += detokenizer.push(token)
    return shown + detokenizer.flush()


def check_every_place(name: str, number: int) -> None:
    tokens = tokenizer(name)
    for text in texts(number):
        for place in range(1, len(text)):
            prompt = text[:place]
            if tokens.normalize_prompt(prompt) != prompt:
                continue  # nothing of what follows is then known
            assert continued(name, prompt, text) == text[place:]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_what_was_taken_back_is_never_shown_twice_in_ten_scripts(name: str) -> None:
    check_every_place(name, FEW)


@pytest.mark.thorough
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_what_was_taken_back_is_never_shown_twice_in_200_texts(name: str) -> None:
    check_every_place(name, 20)


def check_tree(tokens: StoryTokenizer, ids: list[int], healing: Healing) -> None:
    """Check that every path spells the removed bytes in ordinary tokens, and one is the removed tokens."""
    taken = spelled(tokens, healing.tokens)
    special = set(tokens._backend.get_added_tokens_decoder()) | tokens.stop_ids
    assert 1 <= len(healing.tokens) <= MAX_HEALED_TOKENS
    assert not special & set(healing.tokens.tolist())
    paths = set()
    for path, node in nodes(healing.root):
        assert len(node.covers) and node.left and taken == spelled(tokens, path) + node.left
        assert not special & {*path, *node.covers.tolist()}
        assert all(tokens._bytes[token].startswith(node.left) for token in node.covers.tolist())
        assert node.exact == {token for token in node.covers.tolist() if tokens._bytes[token] == node.left}
        paths |= {(*path, token) for token in node.covers.tolist()}
    assert tuple(healing.tokens.tolist()) in paths


@settings(max_examples=60)
@given(
    name=st.sampled_from(BYTE_LEVEL),
    text=st.text(max_size=25)
    | st.builds(lambda script, end: script[:end], st.sampled_from(SCRIPTS), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    chance=st.floats(0, 1, exclude_max=True),
)
@example("assets/story-model", "The old lighth", 0, 1.0, 0.5)
@example("assets/story-model", "x<|endoftext|>", 0, 1.0, 0.999)
@example("byte_level", "<note>", 1, 1.0, 0.5)
@example("byte_level", "→日本 th", 1, 1.0, 0.0)
def test_any_draw_writes_the_bytes_again(
    name: str, text: str, seed: int, temperature: float, chance: float
) -> None:
    tokens = tokenizer(name)
    try:
        whole = tokens.encode(tokens.normalize_prompt(text), 1000).tolist()
    except RequestError:  # half a character
        return
    ids, healing, _ = tokens.encode_healed(text, 1000)
    assert len(ids) >= 1
    if healing is None:
        assert ids.tolist() == whole
        return
    assert [*ids.tolist(), *healing.tokens.tolist()][-len(whole) :] == whole
    check_tree(tokens, whole, healing)
    looked: list[tuple[int, ...]] = []
    size = 1 + max(tokens._backend.get_vocab(with_added_tokens=True).values())

    def look(path: tuple[int, ...]) -> Logits:
        looked.append(path)
        return np.random.default_rng([seed, *path]).normal(0, 4, size)

    healed = draw(healing.root, look, temperature, chance)
    assert spelled(tokens, (*healed.path, healed.token)).startswith(spelled(tokens, healing.tokens))
    assert healed.adds == (spelled(tokens, (*healed.path, healed.token)) != spelled(tokens, healing.tokens))
    assert looked[0] == () and len(looked) <= 1 + MAX_LOOKAHEAD


def test_every_way_is_as_likely_as_the_network_says() -> None:
    """Compare frequencies with exact ones: " light" counts only as much as "h" is likely after it."""
    end = Node(b"h", np.array([4, 5], np.int32), frozenset([4]))
    root = Node(b" lighth", np.array([3], np.int32), frozenset(), {2: end})
    logits = {
        (): np.log([0.2, 0.19, 0.6, 0.01, 1e-30, 1e-30]),
        (2,): np.log([0.9, 0.0875, 1e-30, 1e-30, 0.01, 0.0025]),
    }
    expected = {((), 3): 0.01, ((2,), 4): 0.006, ((2,), 5): 0.0015}
    grid = (np.arange(4000) + 0.5) / 4000
    for temperature in (1.0, 0.5, 2.0):
        looks = {path: np.exp(log_softmax(some, temperature)) for path, some in logits.items()}
        likely = {
            ((), 3): looks[()][3],
            ((2,), 4): looks[()][2] * looks[2,][4],
            ((2,), 5): looks[()][2] * looks[2,][5],
        }
        if temperature == 1.0:
            assert likely == pytest.approx(expected)
        drawn = [draw(root, logits.__getitem__, temperature, chance) for chance in grid]
        for (path, token), share in likely.items():
            count = sum((healed.path, healed.token) == (path, token) for healed in drawn)
            assert count / len(grid) == pytest.approx(share / sum(likely.values()), abs=2e-3)
    best = draw(root, logits.__getitem__, 0, 0.9)
    assert (best.path, best.token, best.adds) == ((), 3, True)


def test_ways_that_hardly_matter_are_not_looked_at() -> None:
    end = Node(b"h", np.array([1], np.int32), frozenset([1]))
    root = Node(b" lighth", np.array([0], np.int32), frozenset(), {2: end})
    looked = []

    def look(path: tuple[int, ...]) -> Logits:
        looked.append(path)
        return np.log([0.9, 0.095, 0.005])

    assert draw(root, look, 1.0, 0.999999).token == 0
    assert looked == [()]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    root = Node(b"a", np.array([0], np.int32), frozenset())
    with pytest.raises(FloatingPointError, match="not a number"):
        draw(root, lambda path: np.array([0.0, bad]), 1.0, 0.5)


@pytest.mark.parametrize("blanks", BLANKS)
def test_blanks_that_no_token_continues_are_read_as_one_space(blanks: str) -> None:
    tokens = tokenizer("assets/story-model")
    assert tokens.normalize_prompt(f"The door and{blanks}") == "The door and "
    ids, healing, _ = tokens.encode_healed(f"The door and{blanks}", 100)
    other, same, _ = tokens.encode_healed("The door and ", 100)
    assert ids.tolist() == other.tolist() and healing is not None and same is not None
    assert healing.root.left == same.root.left == b" "


@pytest.mark.parametrize("blanks", [" ", *BLANKS])
@pytest.mark.parametrize("line", ["", "The end.\n\n", "“No.”\n", "A\u2028", "A\r\n", "one \n"])
def test_blanks_at_the_beginning_of_a_line_are_not_read(line: str, blanks: str) -> None:
    assert tokenizer("assets/story-model").normalize_prompt(line + blanks) == line


@pytest.mark.parametrize(
    "text", ["The door and ", "The door", "a  b", "\tb", "The end.\n\n", "", "a\u200d", "日本"]
)
def test_all_other_texts_are_read_as_they_are(text: str) -> None:
    assert tokenizer("assets/story-model").normalize_prompt(text) == text


def test_half_a_word_can_become_each_word_that_begins_so() -> None:
    tokens = tokenizer("assets/story-model")
    for cut, words in {
        "The old lighth": ["ouse"],
        "by the oc": ["ean"],
        "opened the do": ["or", "wn"],
    }.items():
        _, healing, _ = tokens.encode_healed(cut, 100)
        assert healing is not None
        left = healing.root.left
        found = {tokens._bytes[token][len(left) :].decode() for token in healing.root.covers.tolist()}
        assert found >= set(words)


@pytest.mark.parametrize("start", [None, 0])
def test_one_token_stays_to_be_read(start: int | None) -> None:
    tokens = StoryTokenizer(as_transformers(KINDS["byte_level"]), start, frozenset())
    healed = 0
    for prompt in map(chr, range(97, 123)):
        whole = tokens.encode(prompt, 100).tolist()
        ids, healing, _ = tokens.encode_healed(prompt, 100)
        if start is None:
            assert ids.tolist() == whole[: len(ids)] and len(ids) >= 1
        elif healing is not None:
            assert ids.tolist() == [start] and healing.tokens.tolist() == whole
            healed += 1
    assert healed or start is None


def test_no_more_tokens_are_read_than_fit() -> None:
    tokens = tokenizer("assets/story-model")
    whole = len(tokens.encode("The old lighth", 100))
    with pytest.raises(RequestError, match="too long"):
        tokens.encode_healed("The old lighth", whole - 1)
    ids, healing, _ = tokens.encode_healed("The old lighth", whole)
    assert healing is not None and len(ids) + len(healing.tokens) == whole


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_tokenizers_without_bytes_get_no_blanks_at_the_end_and_bring_none(kind: str) -> None:
    tokens = tokenizer(kind)
    for blanks in (" ", "\t", "  "):
        ids, healing, detokenizer = tokens.encode_healed(f"the old{blanks}", 100)
        assert healing is None and ids.tolist() == tokens.encode("the old", 100).tolist()
        following = tokens.encode("the old the", 100)[len(ids) :]
        shown = "".join(detokenizer.push(int(token)) for token in following) + detokenizer.flush()
        assert shown == "the"
    ids, healing, detokenizer = tokens.encode_healed("the old", 100)
    following = tokens.encode("the old the", 100)[len(ids) :]
    assert "".join(detokenizer.push(int(token)) for token in following) + detokenizer.flush() == " the"


def test_what_is_asked_for_is_never_taken_back() -> None:
    plain = AutoTokenizer.from_pretrained("assets/story-model")
    plain.chat_template = "<|tale|>{{ messages[0]['content'] }}<|tale|>the lighth"
    tokens = StoryTokenizer(plain, 0, frozenset([0]))
    ids, healing, _ = tokens.encode_healed("", 100, instruction="A tale")
    assert healing is None and ids.tolist() == tokens.encode("", 100, "A tale").tolist()
    ids, healing, _ = tokens.encode_healed("ouse kee", 100, instruction="A tale")
    assert healing is not None and len(spelled(tokens, healing.tokens)) <= len("ouse kee")


def test_only_blanks_are_stripped() -> None:
    assert strip_trailing("a \t\u3000\N{NO-BREAK SPACE}") == "a"
    assert strip_leading(" \ta ") == "a "
    assert strip_trailing("a\n ") == "a\n" and strip_trailing(" \t") == ""


def test_a_character_that_is_cut_by_tokens_comes_out_whole() -> None:
    tokens = tokenizer("assets/story-model")
    emoji = "😀"
    parts = tokens.encode(emoji, 100)[len(tokens.start) :].tolist()
    assert len(parts) > 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    assert "".join(decoder.decode(tokens._bytes[part]) for part in parts) == emoji
    for text in (f"a{emoji}b{emoji}", f"{emoji}{emoji}c"):
        for before, _ in pairwise(range(1, len(text) + 1)):
            assert continued("assets/story-model", text[:before], text) == text[before:]
