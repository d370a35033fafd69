"""Test endings past the requested length: where they are, what is shown meanwhile, what is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.api import Request, RequestError, SamplingParams
from jet.engine.text.ending import OVERRUN_TOKENS, Ending, make_ending


def write(ending: Ending, pieces: list[str], length: int, reason: str = "length") -> tuple[str, int]:
    """Pass an answer through `ending` as an engine does; return the text shown and the pieces used."""
    shown = ""
    for number, piece in enumerate(pieces, start=1):
        left = length - number
        shown += ending.push(piece, None if left > 0 else float(left == 0))
        if ending.done or number == length + OVERRUN_TOKENS:
            break
    return shown + ending.close(cut=reason == "length"), number


def words(text: str) -> list[str]:
    """Split a text as tokenizers do: words with the blank before them, and punctuation marks alone."""
    found: list[str] = []
    for character in text:
        if found and character == "." and found[-1] in (".", ".."):  # noqa: SIM114 (said apart)
            found[-1] += character
        elif found and character.isalpha() and (found[-1][-1].isalpha() or found[-1] == " "):
            found[-1] += character
        else:
            found.append(character)
    return found


CASES = [
    ("", "He ran home. She stayed.", 2, "He ran home."),
    ("", "He ran. She stayed.", 4, "He ran. She stayed."),
    ("", "He ran. ", 3, "He ran."),
    ("", '"Stop!" he said. She ran.', 2, '"Stop!" he said.'),
    ("", '"Stop!" She ran. He did.', 2, '"Stop!"'),
    ("", "“Stop!” he cried. “Now!” So", 2, "“Stop!” he cried."),
    ("", "Mr. Smith met Dr. Jones. He ran.", 1, "Mr. Smith met Dr. Jones."),
    ("", "It cost 3.14 dollars. He ran.", 2, "It cost 3.14 dollars."),
    ("", "He waited... and left. She ran.", 2, "He waited... and left."),
    ('He said, "Go', ' on. Now." She ran. He did.', 1, ' on. Now."'),
    ("He met Mr", ". Smith. She ran.", 1, ". Smith."),
    ("", "他走了。她也走了。", 1, "他走了。"),
]


@pytest.mark.parametrize(("prompt", "text", "length", "wanted"), CASES)
def test_the_story_goes_on_to_the_end_of_its_sentence(
    prompt: str, text: str, length: int, wanted: str
) -> None:
    ending = Ending("sentence", prompt)
    assert write(ending, words(text), length)[0] == wanted
    assert not ending.unfinished


@pytest.mark.parametrize(("prompt", "text", "length", "wanted"), CASES)
def test_pieces_of_any_size_end_at_the_same_place(prompt: str, text: str, length: int, wanted: str) -> None:
    ending = Ending("sentence", prompt)
    assert write(ending, list(text), length=1 + (words(text)[0:1] == [text]))[0].strip()
    whole = Ending("sentence", prompt)
    at = len("".join(words(text)[:length])) / len(text)
    assert whole.push(text, at).rstrip() == wanted.rstrip() and whole.done


def test_an_answer_without_an_end_is_cut_back_to_its_last_whole_sentence() -> None:
    ending = Ending("sentence")
    text = "He ran. And " + "on and " * 40
    shown, used = write(ending, words(text), 5)
    assert used == 5 + OVERRUN_TOKENS
    assert shown.removesuffix(ending.unfinished) == "He ran." and ending.unfinished


def test_an_answer_without_any_sentence_is_kept() -> None:
    ending = Ending("sentence")
    shown, _ = write(ending, words("and on " * 40), 5)
    assert shown and not ending.unfinished


def test_half_a_speech_is_cut_inside_of_it_where_its_beginning_is_far_back() -> None:
    ending = Ending("sentence")
    speech = "He spoke. “" + "I said so. " * 9 + "And on " + "and on " * 20
    shown, _ = write(ending, words(speech), 41)
    assert shown.removesuffix(ending.unfinished).endswith("I said so.")


def test_paragraphs_and_scenes_go_on_to_their_ends_or_back_to_a_near_one() -> None:
    text = "He ran. She stayed.\n\nIt rained. It went on.\n***\nNext day he came."
    assert write(Ending("paragraph"), words(text), 2)[0] == "He ran. She stayed."
    assert write(Ending("scene"), words(text), 2)[0] == text[: text.index("\n***")]
    ending = Ending("scene")
    shown, _ = write(ending, words("He ran. It rained. It went on. " * 3 + "\nAnd " + "on and " * 30), 37)
    assert shown.removesuffix(ending.unfinished) == ("He ran. It rained. It went on. " * 3).strip()


def test_a_story_that_the_writer_stops_or_the_model_ends_is_not_cut() -> None:
    ending = Ending("sentence")
    shown = ending.push("He ran. And th") + ending.close(cut=False)
    assert shown == "He ran. And th" and not ending.unfinished


def test_what_waits_for_what_follows_is_shown_in_the_end() -> None:
    ending = Ending("sentence")
    assert ending.push("“Stop!”", 1.0) == "“Stop!”"
    assert ending.push(" ", 0.0) == ""
    assert ending.close(cut=False) == " "


def test_without_a_wish_there_is_no_ending_and_wrong_ones_are_refused() -> None:
    assert make_ending(Request("He ran")) is None
    with pytest.raises(RequestError, match="end_at must be one of none, sentence"):
        SamplingParams(end_at="word")


def test_a_prompt_of_tokens_is_read_for_its_open_quotation_marks() -> None:
    request = Request("", SamplingParams(end_at="sentence"), prompt_ids=(1, 2))
    ending = make_ending(request, {1: "He said, “", 2: "Go"}.__getitem__)
    assert ending is not None and ending.push(". Now.” She ran.", 0.1) == ". Now.”"


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                " he",
                " She",
                ".",
                "!",
                "...",
                '"',
                " “",
                "”",
                "\n",
                " ",
                " Mr",
                "。",
                "走",
                ", ",
                "—",
                "\n***\n",
            )
        ]
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(PIECES, st.integers(1, 20), st.sampled_from(["sentence", "paragraph", "scene"]))
def test_the_shown_text_grows_and_is_the_answers_own_and_within_bounds(
    pieces: list[str], length: int, end_at: str
) -> None:
    ending = Ending(end_at)
    shown, used = write(ending, pieces, length)
    text = "".join(pieces[:used])
    assert text.startswith(shown) and shown.endswith(ending.unfinished)
    assert used <= length + OVERRUN_TOKENS
    assert len(shown) >= len("".join(pieces[: min(length, used)]).rstrip())
    if ending.unfinished:
        assert shown.removesuffix(ending.unfinished).strip()
