"""Open untrusted zip packages (DOCX, EPUB, all stories at once) with limits on every size."""

from __future__ import annotations

import io
import zipfile

from jet.story.errors import StoryFileError

MAX_BYTES = 20_000_000  # of the package itself
MAX_UNFOLDED = 60_000_000  # bytes of all members together
MAX_MEMBER = 30_000_000
MAX_MEMBERS = 4_000
MAX_RATIO = 300  # unfolded to packed, for members large enough to matter
_SMALL = 1_000_000


def open_zip(data: bytes) -> zipfile.ZipFile:
    """Open a zip package. Raises StoryFileError if it is damaged, encrypted, or too large when unpacked."""
    if len(data) > MAX_BYTES:
        raise StoryFileError(
            f"This file has {len(data) / 1e6:,.1f} MB; {MAX_BYTES / 1e6:,.0f} MB are read at most."
        )
    try:
        package = zipfile.ZipFile(io.BytesIO(data))
        members = package.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError):
        raise StoryFileError("This file is damaged: it is no whole DOCX, EPUB or zip file.") from None
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_UNFOLDED:
        raise StoryFileError("This file unfolds to more than a story may have.")
    for member in members:
        if member.flag_bits & 1:
            raise StoryFileError("This file is locked with a password: save it without one first.")
        ratio = member.file_size / max(1, member.compress_size)
        if member.file_size > MAX_MEMBER or (member.file_size > _SMALL and ratio > MAX_RATIO):
            raise StoryFileError("This file unfolds to more than a story may have.")
    return package


def read_member(package: zipfile.ZipFile, name: str, most: int = MAX_MEMBER) -> bytes:
    """Return the unpacked bytes of a member.

    Raises StoryFileError if the member is missing or damaged, or has more than `most` bytes, whatever its
    header says.
    """
    try:
        with package.open(name) as member:
            data = member.read(most + 1)
    except KeyError:
        raise StoryFileError(f"This file is damaged: {name[:80]!r} is missing in it.") from None
    except Exception as error:  # a damaged stream makes zlib, lzma and zipfile raise many things
        raise StoryFileError(
            f"This file is damaged: {name[:80]!r} cannot be read ({type(error).__name__})."
        ) from None
    if len(data) > most:
        raise StoryFileError("This file unfolds to more than a story may have.")
    return data
