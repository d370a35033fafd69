"""Test where sentences end: in dialogue, after abbreviations and numbers, and in many scripts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.engine.text.sentence_end import (
    SENTENCE,
    paragraph_ends,
    scene_ends,
    sentence_ends,
)

# A bar stands where a sentence ends for certain.
MARKED = [
    # plain
    "He left.| She stayed.| Who knew?| Everyone!| Done.",
    "He left.| (She stayed.)| Then it rained.| It",
    "He left (she stayed, as always. Always!) and slept.| It",
    "It was over.|\n\nIt began again.|\n",
    "What?!| No!!!| He ran.| So",
    "The thing (and what a thing!) was gone.| It",
    'The sign said "Keep out".| He did not.| So',
    # dialogue, straight and curly
    '"Stop!" he said.| He ran.| So',
    '"Stop!" She ran.| So'.replace('" She', '"| She'),
    '"Stop! I will not go. Not today." He sat.| So'.replace('" He', '"| He'),
    "“Stop!” he said.| “Why?”| “Because.”| He ran.| So",
    "“Stop,” he said.| “Now!”| She ran.| So",
    "‘Stop!’ he said.| ‘Don’t you dare. I mean it.’| She ran.| So",
    "'Stop!' he said.| 'Don't you dare. I mean it.'| She ran.| So",
    "“He said ‘stop.’ Then he ran.”| So it was.| So",
    "“He told me, ‘Stop!’”| She laughed.| So",
    "“But I—”|\n“No.”|\n",
    '"Yes," he said — "go!"| He went.| So',
    '"Well . . . maybe." He went.| So'.replace('" He', '"| He'),
    "’Twas night.| He slept.| So",
    "'Tis late.| He slept.| So",
    "The boys’ room was cold.| They slept.| So",
    "Rock ’n’ roll.| He danced.| So",
    # other quotation marks
    "„Halt!“ rief er.| „Ich gehe nicht. Nie.“| Sie lief.| So",
    "»Halt!« rief er.| »Ich gehe nicht. Nie.«| Sie lief.| So",
    "« Arrête ! » dit-il.| « Je reste. Toujours. »| Elle partit.| Il",
    "«Стой!» — сказал он.| «Не пойду. Никогда.»| Она ушла.| Он",
    "— Стой! — сказал он.| — Нет!| — Да.| Она ушла.| Он",
    "”Seis!” hän sanoi.| ”En lähde. Koskaan.”| Hän lähti.| Se",
    "—¡Alto! —dijo él.| ¿Por qué?| ¡No!| Él corrió.| Ella",
    "—Ven —dijo ella—.| Siéntate.| Él obedeció.| Ella",
    # abbreviations, initials, numbers
    "Mr. Smith met Dr. Jones at St. Mary.| They left.| So",
    "J. R. R. Tolkien wrote it.| He smoked.| So",
    "It was Plan B.| She smiled.| So",
    "It was I.| He smiled.| So",
    "At 5 p.m. on Monday he left.| So",
    "He left at 5 p.m.| She stayed.| So",
    "The U.S. Army came.| It left the U.S.| She stayed.| So",
    "He saw cats, dogs, etc. and left.| So",
    "It cost 3.14 dollars, i.e. nothing.| He paid 2.50.| So",
    "It was 1984.| He paid.| So",
    "No.| He paid no. 5 and No. 6 in Vol. 2 of it.| So",
    "See www.example.com or a.txt.| He paid.| So",
    "1. The first.| He paid.|\n2. The second.|\n",
    "Am 3. Mai kam er.| Er ging um 4.| Sie blieb, z.B. heute.| Er",
    "M. Dupont et Mme. Petit dînent.| Il part.| Elle",
    "El Sr. Pérez y la Sra. Gil cenan.| Él sale.| Ella",
    "Это было в 1812 г.| Он ушёл и т. д.| Она",
    "Smith Jr. left.| So did Acme Inc.| He smiled.| So",
    # ellipses
    "He waited... and waited… then left.| So",
    "He waited...| Then he left.| So",
    "Well… I think… I don’t know.| So",
    "“Wait...” he said.| “I... I can’t.”| So",
    "...and then he left.| So",
    "“...”| She left.| So",
    "He left. . . . Then he came.| So".replace(". Then", ".| Then"),
    # emphasis, symbols
    "*Stop.*| He ran.| _No!_| So it went.| So",
    "He ran.| — and fell".replace(".| —", ". —"),
    # lines
    "He met Mr.|\nSmith came.|\n".replace("Mr.|\n", "Mr.|\n"),
    "He was very\ntired and fell\nasleep.| So",
    "the end.\nof it all.| So",
    # other scripts
    "他走了。|她留下了！|为什么？|没有人知道。|“站住！”他说。|她跑了。|然",
    "「止まれ！」と彼は言った。|「行かない。絶対に。」|\n彼女は走った。|そ",
    "彼は『来い。』と言った。|彼女は来た。|そ",
    "그는 떠났다.| 그녀는 남았다!| 왜?| 아무도",
    "وصل الرجل.| من أنت؟| لا أعرف!| ثم",
    "وہ چلا گیا۔| وہ رہی۔| پھر",
    "वह चला गया।| वह रुकी।| “रुको!”| उसने",
    "Նա գնաց։| Նա մնաց։| Ապա",
    "እሱ ሄደ።| እሷ ቀረች።| ከዚያ",
    "Έφυγε.| Γιατί;| Κανείς δεν ξέρει.| Και",
    "เขาเดินออกไป แล้วเธอก็อยู่|\nต่อมา",
    "သူသွားသည်။| သူမနေသည်။| ထို့",
    "הוא הלך.| היא נשארה?| ואז",
]


def settled(text: str) -> list[int]:
    return [end.position for end in sentence_ends(text) if end.settled and end.rank == SENTENCE]


@pytest.mark.parametrize("marked", MARKED)
def test_sentences_end_where_a_reader_ends_them(marked: str) -> None:
    parts = marked.split("|")
    positions = [len("".join(parts[: number + 1])) for number in range(len(parts) - 1)]
    text = marked.replace("|", "")
    found = settled(text)
    assert [text[:at][-12:] for at in found] == [text[:at][-12:] for at in positions]


# Nothing follows: "sure" ends whatever comes, "maybe" may go on, "no" is none.
OPEN_ENDED = [
    ("He left.", "sure"),
    ("He left!", "sure"),
    ("He left...", "maybe"),
    ("He left…", "maybe"),
    ("“Stop!”", "maybe"),
    ('"Stop."', "sure"),
    ("“Stop!", "quoted"),
    ("(He left.", "quoted"),
    ("He met Mr.", "no"),
    ("by J.", "no"),
    ("It cost 3.", "maybe"),
    ("in the U.S.", "maybe"),
    ("cats, dogs, etc.", "maybe"),
    ("No.", "maybe"),
    ("他走了。", "sure"),
    ("「止まれ！」", "maybe"),
    ("वह चला गया।", "sure"),
    ("من أنت؟", "sure"),
    ("Նա գնաց։", "sure"),
    ("እሱ ሄደ።", "sure"),
    ("เขาเดินออกไป", "no"),
    ("He left", "no"),
    ("“He left,”", "no"),
    ("He left:", "no"),
    ("...", "no"),
    ("", "no"),
]


@pytest.mark.parametrize(("text", "wanted"), OPEN_ENDED)
def test_an_end_that_nothing_follows_is_sure_only_where_nothing_can_change_it(text: str, wanted: str) -> None:
    found = [end for end in sentence_ends(text) if end.position == len(text)]
    if not found:
        assert wanted == "no"
        return
    (end,) = found
    assert ("quoted" if end.rank != SENTENCE else "sure" if end.sure else "maybe") == wanted


def test_paragraphs_end_at_lines_that_end_a_sentence_or_before_blank_ones() -> None:
    text = "One. Two\nhard wrapped.\nNext.\n\nHeading\n\nLast. And"
    assert [text[: end.position].split("\n")[-1] for end in paragraph_ends(text)] == [
        "hard wrapped.",
        "Next.",
        "Heading",
    ]


@pytest.mark.parametrize(
    "line", ["***", "* * *", "---", "⁂", "#", "~ ~ ~", "## Two", "Chapter Two", "第二章"]
)
def test_scenes_end_before_a_line_that_breaks_them(line: str) -> None:
    text = f"He left.\n\n{line}\n\nShe stayed.\n"
    assert [end.position for end in scene_ends(text)] == [len("He left.")]


def test_neither_dialogue_nor_an_unfinished_line_breaks_a_scene() -> None:
    assert not scene_ends("He left.\n\n“...”\n\n...\n\nShe *** stayed.\n\n**")
    assert [end.position for end in scene_ends("He left.\n\n\nShe stayed.")] == [len("He left.")]


PROSE = st.lists(
    st.sampled_from(
        [
            *(
                "He left",
                " ",
                ".",
                "!",
                "?",
                "…",
                "...",
                '"',
                "'",
                "“",
                "”",
                "‘",
                "’",
                "(",
                ")",
                "\n",
                "\n\n",
            ),
            *(
                "Mr",
                "J",
                "3",
                " she",
                " She",
                "—",
                "«",
                "»",
                "„",
                "「",
                "」",
                "。",
                "走",
                "ไป",
                ";",
                ",",
                "*",
                "-",
            ),
        ]
    ),
    max_size=25,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(PROSE | st.text(max_size=40))
def test_ends_are_ordered_places_in_the_text_behind_something_visible(text: str) -> None:
    ends = sentence_ends(text)
    positions = [end.position for end in ends]
    assert positions == sorted(positions)
    assert all(0 < at <= len(text) and not text[at - 1].isspace() for at in positions)
    assert all(end.settled or not text[end.position :].split("\n")[0].rstrip().isalpha() for end in ends)


@settings(max_examples=150, deadline=None)
@given(PROSE, PROSE)
def test_a_settled_end_stays_one_whatever_follows(text: str, more: str) -> None:
    # What follows directly may go on with the last word, so it starts with a word of its own.
    final = settled(text + " Then")
    assert [at for at in settled(text + " Then " + more) if at <= len(text)] == [
        at for at in final if at <= len(text)
    ]
