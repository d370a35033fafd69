"""Test that written files open in LibreOffice, and that epubcheck accepts them.

Both are Debian packages, libreoffice-writer-nogui and epubcheck. Without them these tests are skipped, and
say what to install.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jet.files.reading import read
from jet.files.writing import write
from jet.story.document import Document
from tests.files.samples import PROSE, story

SOFFICE = shutil.which("soffice") or shutil.which("libreoffice")
JAVA, EPUBCHECK = shutil.which("java"), Path("/usr/bin/epubcheck")
TEXTS = {
    "everything": PROSE,
    "marks": "# \n\n## A\n\n# B\n\n# C\n\n* * *\n\n***\n\n# <b>&\n\n]]>\n\n*a*_b_\n\n\n\n\n   \n\tx",
    "controls": "a\x02_a\x1bb_ *\x03*\u2028\n\n# \x01\n\n\x85",
}

pytestmark = pytest.mark.thorough
needs_office = pytest.mark.skipif(
    SOFFICE is None, reason="LibreOffice is missing: apt install libreoffice-writer-nogui"
)
needs_epubcheck = pytest.mark.skipif(
    JAVA is None or not EPUBCHECK.exists(), reason="epubcheck is missing: apt install epubcheck"
)


def converted(path: Path, kind: str) -> Path:
    """Convert a file by LibreOffice; return the path of the result."""
    profile = f"-env:UserInstallation=file://{path.parent / 'profile'}"
    command = [
        str(SOFFICE),
        profile,
        "--headless",
        "--convert-to",
        kind,
        "--outdir",
        str(path.parent / "out"),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    made = path.parent / "out" / f"{path.stem}.{kind.partition(':')[0]}"
    assert made.exists(), done.stdout + done.stderr
    return made


@needs_office
def test_libreoffice_shows_every_word_and_saves_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "story.docx"
    text = PROSE + "\n\nThe \x02 end*\x1b*\u2028"
    path.write_bytes(write(story(text), "docx").data)
    again = read("story.docx", converted(path, "docx").read_bytes())
    assert again.document.text == text
    assert (again.document.title, again.document.author) == ("The <Lamp> & the Sea", "Ida Várga")
    shown = converted(path, "txt:Text (encoded):UTF8").read_text(encoding="utf-8-sig")
    plain = PROSE.replace("*", "").replace("_louder_", "louder").replace("#", "")
    for word in plain.split():
        assert word in shown.replace("*", ""), word


@needs_epubcheck
@pytest.mark.parametrize("name", TEXTS)
def test_epubcheck_finds_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "story.epub"
    document = story(TEXTS[name]) if name == "everything" else Document.from_text(TEXTS[name], "A & B")
    path.write_bytes(write(document, "epub").data)
    command = [str(JAVA), "-jar", str(EPUBCHECK), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 fatals / 0 errors / 0 warnings" in done.stdout
