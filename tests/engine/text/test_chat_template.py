"""Test chat templates: tokens are those of transformers' rendering, and typed text stays plain text."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from jet.api import RequestError
from jet.engine.text.chat_template import chat_template
from jet.engine.text.tokenizer import StoryTokenizer
from tests.engine.small_tokenizers import END, TURN_END, as_transformers, byte_level

TEMPLATE = (
    "{% for message in messages %}<|endoftext|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)


def small(template: str | None = TEMPLATE) -> PreTrainedTokenizerBase:
    tokenizer = as_transformers(byte_level())
    tokenizer.chat_template = template
    return tokenizer


def story_tokenizer(template: str | None = TEMPLATE) -> StoryTokenizer:
    return StoryTokenizer(small(template), None, frozenset())


@pytest.mark.parametrize("answer", ["", "Once upon a time", " and\n\nso on \N{DRAGON}"])
@pytest.mark.parametrize("asked", ["a lighthouse keeper", "two lines\n\nof it, café"])
def test_the_tokens_are_those_of_the_rendered_text(asked: str, answer: str) -> None:
    plain = small()
    rendered = plain.apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
    )
    expected = plain(rendered + answer, add_special_tokens=False).input_ids
    tokenizer = story_tokenizer()
    assert tokenizer.encode(answer, 1000, asked).tolist() == expected
    assert tokenizer.chat_tokens == len(tokenizer.encode("", 1000, " ")) > 5


@pytest.mark.parametrize("typed", [END, TURN_END])
def test_special_tokens_that_are_typed_are_text(typed: str) -> None:
    tokenizer = story_tokenizer()
    special = small().convert_tokens_to_ids(typed)
    quiet = tokenizer.encode("", 1000, "a")
    for ids in (tokenizer.encode("", 1000, f"a {typed}"), tokenizer.encode(typed, 1000, "a")):
        assert (ids == special).sum() == (quiet == special).sum()


def test_what_is_too_long_is_refused() -> None:
    tokenizer = story_tokenizer()
    with pytest.raises(RequestError, match="too long"):
        tokenizer.encode("word " * 30, 20, "a fox")
    with pytest.raises(RequestError, match="too long"):
        tokenizer.encode("", 20, "a fox " * 100_000)
    with pytest.raises(RequestError, match="half a character"):
        tokenizer.encode("", 20, "a \ud83c")


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ raise_exception('no') }}",
        "{% for message in messages %}{{ message.role }}{% endfor %}",
        "{% for message in messages %}{{ message.content }}{{ message.content }}{% endfor %}",
    ],
)
def test_a_model_without_usable_template_takes_no_instruction(template: str | None) -> None:
    assert chat_template(small(template)) is None
    tokenizer = story_tokenizer(template)
    assert tokenizer.chat_tokens is None
    with pytest.raises(RequestError, match="has no chat template"):
        tokenizer.encode("Once", 1000, "a fox")
