"""Stories with all that a book must contain, and files made of them."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from base64 import b64encode
from typing import Any

from jet.story.document import Document
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry

PROSE = """# The Lamp at Skell

“Again,” she said. *Quietly.* And then _louder_, **loud**, ***loudest***.
A second line\twith a tab.

* * *

Chapter 2: The Way Down

השומר הזקן פתח את הדלת. فتح الباب ورأى البحر.

古い灯台の番人がドアを開けた。 😀👩\u200d👩\u200d👧 e\u0301

  two blanks at the beginning, and at the end\x20\x20


## Below
Close to its heading & <not a tag>, 5 * 3 * 2, snake_case_name, *unclosed
"""


def story(text: str = PROSE) -> Document:
    """Return a story with title, author, guidance and two branches."""
    document = Document.from_text(text, "The <Lamp> & the Sea")
    document.author = "Ida Várga"
    document.guidance = Guidance(
        "Mira is sixty.",
        AuthorsNote("Plain.", 2, "paragraphs"),
        (
            LoreEntry(
                "Pier", ("pier", "Doe, John"), "Old.", enabled=False, order=3, secondary_keywords=("sea",)
            ),
        ),
    )
    document.fork(10)
    document.select_branch(0)
    return Document(document.tree, document.title, stops=("###",), author=document.author)


def long_story(words: int = 50_000) -> str:
    """Return a novel of about `words` words, with chapters, scene breaks, italics and dialogue."""
    line = (
        "“No,” said the keeper, and *waited* for the lamp to burn as it had burned before the storm came in. "
    )
    paragraph = (line * 5).rstrip()  # 95 words
    parts = []
    for number in range(words // 95 + 1):
        if number % 24 == 0:
            parts.append(f"# Chapter {number // 24 + 1}")
        parts.append("* * *" if number % 24 == 12 else paragraph)
    return "\n\n".join(parts)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def picture(*chunks: bytes) -> bytes:
    """Return a PNG of one pixel with these additional chunks."""
    head = chunk(b"IHDR", (1).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0")
    body = chunk(b"IDAT", zlib.compress(b"\0\x2f\x5d\x50"))
    return b"\x89PNG\r\n\x1a\n" + head + body + b"".join(chunks) + chunk(b"IEND", b"")


def card_chunk(card: dict[str, Any], keyword: bytes = b"chara", kind: bytes = b"tEXt") -> bytes:
    """Return the PNG chunk that contains a character card."""
    text = b64encode(json.dumps(card).encode())
    if kind == b"zTXt":
        return chunk(kind, keyword + b"\0\0" + zlib.compress(text))
    if kind == b"iTXt":
        return chunk(kind, keyword + b"\0\0\0\0\0" + text)
    return chunk(kind, keyword + b"\0" + text)


def package(**members: bytes) -> bytes:
    """Return a compressed zip; in the names of members, "__" stands for "/" and "_dot_" for a dot."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return stream.getvalue()
