"""Test that files made to do harm are refused with a message before they take time or memory."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from contextlib import suppress

import pytest

from jet.files.encodings import decode
from jet.files.html_tokens import tokens
from jet.files.losses import Losses
from jet.files.markup import compose, parse
from jet.files.package import MAX_BYTES
from jet.files.reading import Refused, read, read_all
from jet.files.web import read_html
from jet.files.writing import write
from jet.story.document import Document
from jet.story.errors import StoryError, StoryFileError
from tests.files.bounds import Bounded
from tests.files.samples import card_chunk, chunk, package, picture, story

LAUGHS = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'


def changed(data: bytes, **members: bytes) -> bytes:
    """Return a package with these members replaced or added."""
    names = {name.replace("__", "/").replace("_dot_", "."): body for name, body in members.items()}
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, names.pop(name, old.read(name)))
        for name, body in names.items():
            new.writestr(name, body)
    return stream.getvalue()


DOCX, EPUB = write(story(), "docx").data, write(story(), "epub").data
DEEP = 100_000


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bomb.docx", changed(DOCX, word__document_dot_xml=b" " * 25_000_000)),
        ("bomb.epub", changed(EPUB, OEBPS__style_dot_css=b" " * 25_000_000)),
        ("bomb.zip", package(**{f"a{n}_dot_txt": b"x" * 900_000 for n in range(80)})),
        ("many.zip", package(**{f"a{n}_dot_txt": b"" for n in range(4_100)})),
        ("tags.docx", changed(DOCX, word__document_dot_xml=b"<w:p/>" * 1_300_000)),
        ("entities.docx", changed(DOCX, word__document_dot_xml=LAUGHS)),
        ("bomb.png", picture(chunk(b"zTXt", b"chara\0\0" + zlib.compress(b" " * 15_000_000)))),
        ("chunks.png", picture(*[chunk(b"tEXt", b"a\0")] * 20_001)),
        ("deep.json", b"[" * DEEP + b"]" * DEEP),
        ("deep2.json", b'{"a":' * DEEP + b"1" + b"}" * DEEP),
        ("lists.json", b"[" + b"[]," * 700_000 + b"[]]"),
        ("large.txt", b"x" * (MAX_BYTES + 1)),
        ("long.txt", b"x" * 4_100_000),
        ("deep.rtf", b"{\\rtf1 " + b"{" * 5_000),
        ("marks.rtf", b"{\\rtf1 " + b"\\b" * 900_000),
        ("words.rtf", b"{\\rtf1 " + b"\\x " * 2_600_000),
        ("lines.jsonl", b'{"mes":\n' * 200_002),
        ("deep.html", b"<div>" * 5_000),
        ("deep.epub", changed(EPUB, **{"OEBPS__chapter-0001_dot_xhtml": b"<b>" * 5_000})),
    ],
)
def test_what_unfolds_or_nests_without_end_is_refused(name: str, data: bytes) -> None:
    assert {type(one) for one in read_all(name, data)} == {Refused}
    with pytest.raises(StoryFileError):
        read(name, data)


def test_a_card_of_many_objects_is_refused() -> None:
    with pytest.raises(StoryFileError, match="more than a story may have"):
        read("x.json", json.dumps({"entries": [{}] * 200_001}).encode())
    with pytest.raises(StoryFileError, match="more than a story may have"):
        read("x.png", picture(card_chunk({"name": "x", "first_mes": "y" * 10_500_000})))


def test_entities_of_a_books_index_do_not_unfold() -> None:
    opf = zipfile.ZipFile(io.BytesIO(EPUB)).read("OEBPS/content.opf")
    laughs = opf.replace(b"<package", b'<!DOCTYPE package [<!ENTITY a "haha">]><package', 1)
    data = changed(EPUB, OEBPS__content_dot_opf=laughs.replace(b"Ida V", b"&a;Ida V"))
    assert read("x.epub", data).document.author.startswith("&a;Ida")


def test_names_that_lead_out_of_a_package_lead_nowhere() -> None:
    opf = zipfile.ZipFile(io.BytesIO(EPUB)).read("OEBPS/content.opf")
    data = changed(EPUB, OEBPS__content_dot_opf=opf.replace(b"chapter-0001.xhtml", b"../../../etc/passwd"))
    found = read("x.epub", data)
    assert found.losses == ("1 page that is missing in the book",)
    name = read_all("x.zip", package(**{"..__..__a_dot_txt": b"One."}))[0].name
    assert name == "a.txt"


@pytest.mark.parametrize(
    "page",
    [
        *("<" * 66_000, "<a" * 33_000, "<a " * 33_000, '<a "' * 26_000, "<!--" * 26_000, "<!" * 33_000),
        *("<title>" * 20_000, "<script>" * 20_000, "&" * 66_000, "</p>" * 26_000, "<p>" * 1_500),
        *("<svg>" * 1_500, "&#" * 33_000, "<![CDATA[" * 20_000, "<a b=" * 20_000, "<style>{" * 20_000),
        *("<?" * 33_000, "<style>" + "x" * 300_000 + "</style>", "<i>" + "*" * 30_000, "_a" * 30_000),
    ],
)
def test_damaged_pages_take_time_that_grows_with_their_length_alone(page: str) -> None:
    """Rely on the suite's time limit: quadratic time would take minutes for these pages."""
    assert sum(1 for _ in tokens(page)) > 0
    with suppress(StoryFileError):
        read_html(page, Losses())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", json.dumps({"prompt": "[<|p|a|1|>] <think>" * 100_000, "actions": []}).encode()),
        ("x.json", json.dumps({"prompt": " " * 900_000 + "{{[INPUT]}}x", "actions": []}).encode()),
        ("x.json", json.dumps({"name": "x", "first_mes": "y", "mes_example": "\n" * 900_000 + "x"}).encode()),
        ("x.json", json.dumps({"entries": [{"key": ["a"], "content": "b"}] * 90_000}).encode()),
        ("x.json", json.dumps({"scenarioVersion": 1, "prompt": ("${" + "a" * 45) * 50_000}).encode()),
        ("x.rtf", b"{\\rtf1 " + b"\\'e4" * 900_000 + b"}"),
        ("x.rtf", b"{\\rtf1 " + b"\\u1076\\'e4" * 300_000 + b"}"),
        ("x.html", b"<p " + b"a" * 300_000 + b" " * 300_000 + b">x"),
    ],
)
def test_long_files_take_time_that_grows_with_their_length_alone(name: str, data: bytes) -> None:
    bounded = Bounded()
    bounded(lambda: read(name, data), name)


@pytest.mark.parametrize(
    "text", ["*" * 90_000, "*a " * 40_000, "_a" * 60_000, "*a" * 60_000 + "*", "# " * 60_000]
)
def test_odd_texts_are_parsed_in_time_that_grows_with_their_length_alone(text: str) -> None:
    assert compose(parse(text)) == text


def test_tokens_are_what_a_page_says() -> None:
    page = '<!DOCTYPE html><p class="a b" id=c>1 &lt; 2<br/>x</P><!-- <i> -->'
    page += '<script>if (a<b) "</p>"</script>&amp;<'
    found = [(token.kind, token.name, token.text, token.attributes) for token in tokens(page)]
    assert found == [
        ("start", "p", "", {"class": "a b", "id": "c"}),
        ("text", "", "1 < 2", {}),
        ("start", "br", "", {}),
        ("text", "", "x", {}),
        ("end", "p", "", {}),
        ("start", "script", "", {}),
        ("raw", "script", 'if (a<b) "</p>"', {}),
        ("end", "script", "", {}),
        ("text", "", "&", {}),
        ("text", "", "<", {}),
    ]


def test_a_page_of_scripts_is_no_story() -> None:
    found = read("x.html", b"<p>One.</p><script>two</script><style>p {}</style><svg><text>three</text></svg>")
    assert found.document.text == "One."
    assert found.losses == ("1 picture",)


def test_bytes_that_look_like_any_encoding_are_told_soon() -> None:
    assert decode("åäö".encode("cp1252") * 90_000).encoding.name in ("cp1252", "cp1251")
    with suppress(StoryError):
        decode(bytes(range(0x80, 0x100)) * 3_000)


def test_a_story_of_any_title_has_a_safe_name() -> None:
    for title in ("../../etc/passwd", "con", "a/b\\c:d", "\u202e.exe", "." * 300):
        name = write(Document.from_text("x", title), "docx").name
        assert name.endswith(".docx")
        assert not set(name) & set('/\\:*?"<>|')
