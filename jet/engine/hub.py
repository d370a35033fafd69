"""Fetches checkpoints from the Hugging Face hub, with progress and clear errors."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from huggingface_hub import HfApi, constants, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import DryRunFileInfo
from tqdm import tqdm

from jet.credentials import SecretError, clean, redact
from jet.engine.partial_download import DownloadError, fetch_weights, partial_bytes
from jet.engine.progress import LOADING, Transfer
from jet.modeling.checkpoint import CheckpointError, check_folder, looks_like_path
from jet.proxies import prepare_environment, proxy_of_url

FILES = [
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.jinja",
    "README.md",
]  # files of a repository that a model needs

_TIMEOUT_S = 3.0  # to check whether the hub has a model
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

Result = TypeVar("Result")
Watch = Callable[[int, int], object]  # is told bytes done and in all; what it raises ends the download


class Canceled(Exception):
    """A download or conversion was canceled by its `watch` function."""


log = logging.getLogger(__name__)


class _TokenRefused(Exception):
    """The hub rejects the token, and a request without it fails, too.

    `__cause__` is the second request's error.
    """


def split(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split "owner/name" or "owner/name@revision" into repository and revision. Raises CheckpointError."""
    repository, at, pinned = name.rpartition("@")
    if not at:
        return name, revision
    if not repository or not pinned or (revision is not None and revision != pinned):
        raise CheckpointError(f"{name} names a revision as owner/name@revision does; name one, and only one.")
    return repository, pinned


def is_repository(name: str) -> bool:
    """Return whether a model name is a hub id rather than a folder."""
    return not (Path(name).exists() or looks_like_path(name))


def fetch(repository: str, revision: str | None = None, watch: Watch | None = None, spare: int = 0) -> Path:
    """Return the folder of a complete checkpoint, from the local cache or the hub.

    An interrupted download is resumed by the next call. If the hub rejects the token, the request is
    repeated without it. Raises CheckpointError.

    Args:
        repository: "owner/name".
        revision: branch, tag or commit.
        watch: is called with the bytes done and in all, in place of `LOADING`; may raise `Canceled` to end
            the download.
        spare: bytes of disk space that must be left after the download.
    """
    _reach_mirrors()
    with _explained(repository, revision):
        folder = _cached_if_cut_off(repository, revision) or _with_token(
            lambda token: _download(repository, revision, token, watch, spare)
        )
    check_folder(Path(folder))
    return Path(folder)


def cached_folder(repository: str, revision: str | None = None) -> Path | None:
    """Return the folder of a checkpoint that is complete in the local cache; None if it is not."""
    try:
        folder = Path(_cached(repository, revision))
        check_folder(folder)
        return folder
    except (OSError, ValueError):  # missing or incomplete
        return None


def fetch_config(repository: str, revision: str | None = None) -> Path:
    """Return the config.json of a checkpoint, from the local cache or the hub. Raises CheckpointError."""
    _reach_mirrors()
    with _explained(repository, revision):
        return Path(
            _with_token(
                lambda token: hf_hub_download(repository, "config.json", revision=revision, token=token)
            )
        )


def is_available(repository: str, revision: str | None = None) -> bool:
    """Return whether a checkpoint is complete in the local cache or available on the hub."""
    if cached_folder(repository, revision) is not None:
        return True
    if constants.HF_HUB_OFFLINE or _broken_proxy():
        return False
    _reach_mirrors()

    def ask(token: bool | None) -> None:
        api = HfApi() if token is None else HfApi(token=token)
        api.model_info(repository, revision=revision, timeout=_TIMEOUT_S)

    try:
        _with_token(ask)
        return True
    except Exception:  # the hub does not answer
        return False


def _cached(repository: str, revision: str | None) -> str:
    """Return the folder in the local cache. Raises OSError or ValueError if files are missing."""
    return str(snapshot_download(repository, revision=revision, allow_patterns=FILES, local_files_only=True))


def _cached_if_cut_off(repository: str, revision: str | None) -> str | None:
    """Return the cached folder if the hub's proxy cannot be used; None if it can.

    Raises CheckpointError if the checkpoint is not cached: the proxy is never bypassed.
    """
    if constants.HF_HUB_OFFLINE or not (trouble := _broken_proxy()):
        return None
    try:
        return _cached(repository, revision)
    except (OSError, ValueError):
        host = urlsplit(constants.ENDPOINT).hostname
        raise CheckpointError(
            f"{repository} is not in the local cache, and {trouble}: set another, or NO_PROXY={host} to ask "
            "the hub without one."
        ) from None


def _broken_proxy() -> str:
    """Return a message if the hub's proxy cannot be used, else an empty string."""
    proxy = proxy_of_url(constants.ENDPOINT)
    return f"the proxy {proxy.shown} of {proxy.variable} {proxy.trouble}" if proxy and proxy.trouble else ""


def _download(
    repository: str, revision: str | None, token: bool | None, watch: Watch | None, spare: int
) -> str:
    files = _wanted(repository, revision, token)
    missing = _check_disk(repository, files, spare)
    if watch is None:
        transfer = Transfer(repository, missing)
        watch = lambda done, total: LOADING.say(transfer.words(done)) if done else None  # noqa: E731
    try:
        meter = _meter(watch, missing)
        watch(0, missing)
        fetch_weights(repository, files, token, meter)
        return str(
            snapshot_download(
                repository, revision=revision, allow_patterns=FILES, token=token, tqdm_class=meter
            )
        )
    finally:
        LOADING.say(None)


def _with_token(ask: Callable[[bool | None], Result]) -> Result:
    """Call `ask(None)`, which uses this machine's token; if that is malformed or rejected, call `ask(False)`.

    `ask(False)` uses no token. Raises the exception of `ask`, or _TokenRefused if both calls fail.
    """
    said = get_token()
    if said is None:
        return ask(None)
    try:
        clean(said, _token_name())
        return ask(None)
    except SecretError as error:
        why = str(error)
    except Exception as error:
        if _status(error) != 401:
            raise
        why = f"The hub does not accept {_token_name()} (401): it has expired, or is not copied whole."
    try:
        found = ask(False)
    except Exception as error:
        raise _TokenRefused(why) from error
    log.warning("%s It is left out, and not needed here.", why)
    return found


def _token_name() -> str:
    """Return the name of the variable or file that `get_token` reads."""
    return next((name for name in _TOKEN_VARIABLES if os.environ.get(name)), "the token of hf auth login")


def _reach_mirrors() -> None:
    """Bypass proxies for a hub on this machine."""
    prepare_environment(urlsplit(constants.ENDPOINT).hostname)


def _wanted(repository: str, revision: str | None, token: bool | None) -> list[DryRunFileInfo]:
    """List the files of a checkpoint, cached or not; an empty list if the hub does not list them."""
    try:
        return list(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=FILES,
                token=token,
                dry_run=True,
                tqdm_class=_meter(None, 0),
            )
        )
    except Exception:  # the download reports it, or finds everything in the cache
        return []


def _check_disk(repository: str, files: Sequence[DryRunFileInfo], spare: int) -> int:
    """Return the bytes to download; 0 if unknown. Raises CheckpointError if the disk is too full."""
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    if not missing:
        return 0
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if missing - partial_bytes(repository) + spare > free:
        also = f" and {spare / 1e9:.2f} GB for its quantized form" if spare else ""
        raise CheckpointError(
            f"{repository} takes {missing / 1e9:.2f} GB{also}, and only {free / 1e9:.2f} GB are free in "
            f"{cache}: make room there, or set HF_HOME to a folder with more."
        )
    return missing


def _meter(watch: Watch | None, total: int) -> type[Any]:
    """Return a tqdm class for the hub's library that reports to `watch` and prints nothing.

    Its instances share one byte count, since the hub's library makes an instance for each weight file and one
    for all other files. `total`: the bytes to download.
    """
    done = 0

    class Meter(tqdm):  # type: ignore[misc] # it ships no types
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal done
            super().__init__(*arguments, **options)
            # The library's own sum counts bytes that come, again those that it writes.
            self._counts = self.unit == "B" and "bytes" not in (options.get("desc") or "")
            if self._counts:
                done += int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            """Count downloaded bytes and report them to `watch`, which may raise to end the download."""
            nonlocal done
            if self._counts and watch is not None:
                done += int(n or 0)
                watch(done, total)
            return cast("bool | None", super().update(n))

        def display(self, *_: Any, **__: Any) -> None:
            """Print nothing."""

    return Meter


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the hub and its library into CheckpointError, with a message that says what to do."""
    try:
        yield
    except (CheckpointError, Canceled):
        raise
    except Exception as error:
        said = _explain(repository, revision, error)
        raise CheckpointError(redact(said)) from None


def _explain(repository: str, revision: str | None, error: Exception) -> str:
    cache, again = (
        constants.HF_HUB_CACHE,
        "What has come is kept: start again to go on from there.",
    )
    if isinstance(error, DownloadError):
        return str(error)
    if isinstance(error, _TokenRefused) and isinstance(error.__cause__, Exception):
        return f"{error} Without it: {_explain(repository, revision, error.__cause__)}"
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated: accept its license at {constants.ENDPOINT}/{repository}, "
            "then set HF_TOKEN to a token of that account, or log in with hf auth login."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision}: look it up at {constants.ENDPOINT}/{repository}."
    if isinstance(error, RepositoryNotFoundError) or _status(error) in (401, 403):
        return (
            f"{repository} is not on the hub, or not for everybody: check the name; "
            "for a private one set HF_TOKEN to a token that may read it."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: make room in {cache}, or set HF_HOME to a folder elsewhere. {again}"
    if isinstance(error, PermissionError):
        return f"{error.filename or cache} cannot be written: set HF_HOME to a folder of your own."
    if constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
        return (
            f"{repository} is not whole in the local cache {cache}, and offline the hub is not asked: "
            "fetch it once with a connection, or give the folder of a checkpoint."
        )
    proxy = proxy_of_url(constants.ENDPOINT)
    through = f" through the proxy {proxy.shown} of {proxy.variable}" if proxy is not None else ""
    if (status := _status(error)) is not None and not (proxy is not None and status == 407):
        return f"The hub cannot send {repository} now ({status}): try again later. {again}"
    if isinstance(error, (httpx.HTTPError, LocalEntryNotFoundError, OSError)):
        return (
            f"The hub cannot be reached for {repository}{through}: {_first_line(error)} {again} "
            "Without a connection, give the folder of a checkpoint on this machine."
        )
    return f"{repository} cannot be loaded from the model hub{through}: {_first_line(error)}"


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of the hub's answer that caused an error; None if there is none."""
    for one in (error, error.__cause__):
        if isinstance(one, HfHubHTTPError):
            return one.response.status_code
    return None


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    text = str(cause).strip().splitlines() or [type(cause).__name__]
    return text[0].rstrip(".") + "."
