"""Download a repository's weight files into the hub's cache; an interrupted download is resumed later.

huggingface_hub deletes a partial file when a download fails, and gigabytes over a home connection may need
several attempts. Weight files are therefore fetched by the library's own transfer function into a file that
stays (`BLOB.jet-partial`). A complete file becomes a blob of the cache, where the library finds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import Timeout
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import DryRunFileInfo, http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

WEIGHTS = ".safetensors"  # other files are small
PARTIAL = ".jet-partial"

_CHUNK = 2**18  # bytes between two looks at progress and cancellation
_SHA256_DIGITS = 64  # etags of large files; those of small ones are shorter hashes of another kind
_LOCK_S = 3.0


class DownloadError(OSError):
    """A file is damaged, or another program is downloading it. The message is for the user."""


def blobs_folder(repository: str) -> Path:
    """Return the folder of the hub's cache that holds a repository's files by their hashes."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "blobs"


def partial_bytes(repository: str) -> int:
    """Return the bytes of a repository's partial files, which the next attempt resumes."""
    found = blobs_folder(repository).glob(f"*{PARTIAL}")
    return sum(file.stat().st_size for file in found)


def blob_bytes(repository: str) -> int:
    """Return the bytes of a repository's complete files in the hub's cache."""
    folder = blobs_folder(repository)
    whole = (file for file in folder.glob("*") if "." not in file.name and file.is_file())
    return sum(file.stat().st_size for file in whole)


def fetch_weights(
    repository: str, files: Iterable[DryRunFileInfo], token: bool | None, meter: Callable[..., Any]
) -> None:
    """Download the missing weight files one after the other, resuming partial ones.

    `meter` is a tqdm class for the transfer; an exception that it raises ends the download. Raises the errors
    of the hub's library, and DownloadError.
    """
    for file in sorted(files, key=lambda file: file.filename):
        if file.will_download and file.filename.endswith(WEIGHTS):
            _fetch(repository, file, token, meter)


def _fetch(repository: str, file: DryRunFileInfo, token: bool | None, meter: Any) -> None:
    url = hf_hub_url(repository, file.filename, revision=file.commit_hash, endpoint=constants.ENDPOINT)
    metadata = get_hf_file_metadata(url, token=token)
    if not metadata.etag:
        return  # left to the library
    blob = blobs_folder(repository) / metadata.etag
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(blob.name + PARTIAL)
    try:
        with WeakFileLock(blob.with_name(blob.name + ".jet-lock"), timeout=_LOCK_S):
            _transfer(url, partial, metadata.size, token, meter)
            _check(partial, metadata.etag, file.filename)
            partial.replace(blob)
    except Timeout:
        raise DownloadError(f"Another program is fetching {repository} just now: wait for it.") from None


def _transfer(url: str, partial: Path, size: int | None, token: bool | None, meter: Any) -> None:
    with partial.open("ab") as stream:
        begun = stream.tell()
        if size is not None and begun > size:  # of another file, or written twice
            stream.truncate(0)
            begun = 0
        if size is not None and begun == size:
            return
        # The library's own chunks are of 10 MB: ten seconds without a sign on a slow line.
        constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _CHUNK)
        http_get(
            url,
            stream,
            resume_size=begun,
            headers=build_hf_headers(token=token),
            expected_size=size,
            tqdm_class=meter,
        )


def _check(partial: Path, etag: str, name: str) -> None:
    """Check a complete file against `etag`, its SHA-256 hash; other kinds of etags are not checked.

    If they differ, the file is removed and DownloadError is raised; `name` is for the message.
    """
    if len(etag) != _SHA256_DIGITS:
        return
    digest = hashlib.sha256()
    with partial.open("rb") as stream:
        while chunk := stream.read(2**22):
            digest.update(chunk)
    if digest.hexdigest() != etag:
        partial.unlink()
        raise DownloadError(f"{name} has come damaged and is removed: it is fetched anew the next time.")
