"""Jet Stories: `python app.py` opens the page. Parses the command line and launches, nothing else."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import ModuleType

    from jet.api import Engine, EngineInfo
    from jet.engine.holder import EngineConfig, ModelHandle
    from jet.engine.stored_states import StateFolder
    from jet.server.hosting import Hosting

_USER_IN_URL = re.compile(r"(?<=//)[^/?#\s]*@")


class _Parser(argparse.ArgumentParser):
    """Reports errors of the command line without passwords in URLs."""

    def error(self, message: str) -> NoReturn:
        super().error(_USER_IN_URL.sub("…@", message))


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Most options are absent from the result if they are not given; their defaults are defined where they are
    used.
    """
    parser = _Parser(
        description="Write stories with NVIDIA's Jet-Nemotron in the browser.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="checkpoint folder or Hub id (default: chosen for this machine)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id; also owner/name@revision")
    parser.add_argument(
        "--offline", action="store_true", default=False, help="use only the local cache of the Hub"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: CUDA where there is any)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: chosen for the device)")
    parser.add_argument(
        "--quantize",
        choices=["int8", "int4"],
        help="quantize weights to int8 or int4: a half or a third of the memory (default: no)",
    )
    parser.add_argument("--attention", help="attention kernels: eager, sdpa or flash_attention_2")
    parser.add_argument(
        "--context",
        type=_context,
        help="maximum tokens of a story; fewer take less memory (default: the model's context)",
    )
    parser.add_argument(
        "--max-running-requests",
        type=_positive_integer,
        help="stories generated at once; others wait in the queue (default: as many as memory allows)",
    )
    # This option's name in version 0.1.
    parser.add_argument(
        "--writers", dest="max_running_requests", type=_positive_integer, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--engine-url",
        dest="url",
        help="generate on an OpenAI-compatible server instead, for example http://localhost:30000/v1; "
        "JET_ENGINE_KEY holds its API key",
    )
    parser.add_argument(
        "--gpus",
        metavar="all|LIST",
        help="an engine process for each GPU, and a router if sglang-router is installed: all, or a list "
        "like 0,1 (docs/scaling.md)",
    )
    parser.add_argument("--host", default=None, help="address to listen on; 0.0.0.0 for other machines too")
    parser.add_argument("--port", default=None, type=_port, help="port to listen on (default: a free one)")
    states = parser.add_argument_group("states of stories", "described in docs/hosting.md")
    states.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="store the states of stories there, so that they go on at once after a restart (default: the "
        "user's cache; with --public nowhere)",
    )
    states.add_argument(
        "--state-gb",
        type=_gigabytes,
        metavar="GB",
        help="most that they may take (default: 4; 0: nowhere)",
    )
    programs = parser.add_argument_group("programs", "described in docs/api.md")
    programs.add_argument(
        "--api-only", action="store_true", default=False, help="serve OpenAI's API without a page"
    )
    programs.add_argument(
        "--api-key", type=Path, default=None, metavar="FILE", help="keys of the API, one a line"
    )
    programs.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin call the API, for example https://lite.koboldai.net; * is all; "
        "may be given several times",
    )
    hosting = parser.add_argument_group("hosting", "described in docs/hosting.md")
    hosting.add_argument(
        "--public", action="store_true", default=False, help="serve the public: limits per user and in all"
    )
    hosting.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="change a limit, for example stories_per_user=4 or deadline_s=none; may be repeated",
    )
    hosting.add_argument("--auth", type=Path, default=None, metavar="FILE", help="accounts that may log in")
    hosting.add_argument(
        "--behind-router",
        action="store_true",
        default=False,
        help="all connections are a router's: share cached text by key and user alone",
    )
    hosting.add_argument(
        "--proxies", type=_count, default=None, metavar="N", help="number of reverse proxies in front"
    )
    hosting.add_argument(
        "--models",
        choices=["on", "off"],
        default=None,
        help="whether visitors may download and change the model (default: on a private page only)",
    )
    options = parser.parse_args(arguments)
    local = {name: f"--{name}" for name in ("revision", "device", "dtype", "quantize", "attention")}
    more = ("max_running_requests", "state_dir", "state_gb")
    local |= {name: f"--{name.replace('_', '-')}" for name in more}
    given = [option for name, option in local.items() if name in options]
    if "url" in options and given:
        parser.error(f"{given[0]} says how a model runs here; with --engine-url it runs elsewhere")
    if "gpus" in options and (other := [name for name in ("url", "device") if name in options]):
        name = {"url": "--engine-url", "device": "--device"}[other[0]]
        parser.error(f"--gpus starts an engine on each GPU, and {name} says where one runs: give one of them")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    options = vars(read_options(arguments))
    if options.pop("offline"):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    _reopen_closed_streams()
    try:
        tempfile.gettempdir()
    except OSError:
        return _fail("No temporary file can be written: make room, or set TMPDIR to a folder that has some.")
    os.environ.setdefault("JET_LAZY_IMPORTS", "1")  # read by `jet.lazy_imports`
    gc.disable()  # imports create no garbage, and collecting meanwhile takes a second in all
    try:
        _zerogpu_package()  # before jet, which imports torch
        from jet.server.terminal import tolerant_output

        with tolerant_output():
            try:
                return serve(options)
            except Exception as error:  # a bug: the tolerant output redacts secrets in its traceback
                if __name__ == "__main__":
                    _restart_without_damaged_bytecode(error)
                traceback.print_exc()
                return 1
    finally:
        gc.unfreeze()
        gc.enable()


def serve(options: dict[str, Any]) -> int:
    """Open the page, load the model in the background, and serve until stopped. Returns the exit code."""
    if "gpus" in options:
        return serve_many(options)
    host, port, api_only = options.pop("host"), options.pop("port"), options.pop("api_only")
    if (problem := _check_environment()) is not None:
        return _fail(problem)
    # Imported here because it takes seconds, and a wrong option should fail at once.
    zerogpu = _zerogpu_package()
    from jet.proxies import prepare_environment

    prepare_environment()  # before Gradio, which reads the environment on import
    from jet.engine.holder import MODEL_HOLDER
    from jet.engine.progress import LOADING
    from jet.engine.remote.responses import RemoteError
    from jet.hardware import HardwareError
    from jet.modeling import CheckpointError
    from jet.server.accounts import AccountsError
    from jet.server.binding import AddressError, check_address
    from jet.server.lifecycle import GracefulShutdown
    from jet.server.openai import KeysError

    _silence_libraries()
    try:
        hosting = _hosting(options, api_only)
    except (AccountsError, KeysError, ValueError) as error:
        return _fail(str(error))
    if hosting.states is not None:
        options["states"] = hosting.states
    source = MODEL_HOLDER.handle(_choice(options, zerogpu))
    loading: Future[Engine] | None = None
    try:
        with GracefulShutdown(hosting.limiter) as shutdown, ExitStack() as opened:
            check_address(host or os.environ.get("GRADIO_SERVER_NAME"), port)
            if zerogpu is None:  # there the platform loads in the thread that asks
                loading = source.preload()
            with shutdown.held():
                url, close = _open(source, hosting, host, port, api_only)
                opened.callback(close)
            gc.freeze()  # never scan libraries and page: it takes tenths of a second
            gc.enable()
            what = "The API of Jet Stories" if api_only else "Jet Stories"
            print(f"{what} is at {url} and gets its model ready. Ctrl+C ends it.", flush=True)
            LOADING.listen(_progress())
            _describe((source.engine() if loading is None else loading.result()).info(), hosting)
            if active := shutdown.wait():
                print(f"Waiting for stories to end: {active}. Ctrl+C again does not wait.", flush=True)
            shutdown.drain()
    except AddressError as error:
        return _fail(f"{error} Choose another with --host and --port.")
    except (CheckpointError, HardwareError, RemoteError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        pass
    finally:
        MODEL_HOLDER.close()
        if loading is not None:
            wait([loading])  # Python must not end, nor load another model, meanwhile
    return 0


def _describe(info: EngineInfo, hosting: Hosting) -> None:
    """Print which model runs where, and where states are stored."""
    kind = f", {info.dtype}" if info.dtype else ""
    kind += f" with {info.quantization} weights" if info.quantization else ""
    line_start = "\r\033[K" if sys.stdout.isatty() else ""  # overwrites the progress line
    print(f"{line_start}{info.model}{kind}, on {info.device_name}. License: {info.license}.", flush=True)
    if hosting.states is not None and info.stored_limit is not None:
        print(
            f"The states of stories are stored in {hosting.states.path}, at most "
            f"{info.stored_limit / 1e9:g} GB, to go on at once after a restart. --state-gb 0: none.",
            flush=True,
        )


def _open(
    source: ModelHandle, hosting: Hosting, host: str | None, port: int | None, api_only: bool
) -> tuple[str, Callable[[], object]]:
    """Open the page, or the API alone.

    Returns its address and the function that closes it. Raises AddressError.
    """
    # Imported while the model loads: Gradio takes seconds.
    if api_only:
        from jet.server.standalone import launch_api

        server = launch_api(source, hosting, host, port)
        return server.url, server.close
    from jet.lazy_imports import skip_gradio_stubs

    skip_gradio_stubs()
    from jet.ui.page import build, launch

    demo = build(source, hosting)
    return launch(demo, host, port, hosting), partial(demo.close, verbose=False)


def serve_many(options: dict[str, Any]) -> int:
    """Run an engine process for each GPU, with a router and the page in front. Returns the exit code."""
    import torch

    from jet.server.binding import AddressError
    from jet.server.replicas import ReplicasError, serve_replicas

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        return serve_replicas(options, Path(__file__).resolve(), torch.cuda.device_count, say)
    except (ReplicasError, AddressError) as error:
        return _fail(str(error))


def _zerogpu_package() -> ModuleType | None:
    """Import and return the package `spaces` on a ZeroGPU Space, before torch is imported; None elsewhere."""
    if "SPACES_ZERO_GPU" not in os.environ:
        return None
    import spaces
    from spaces.config import Config

    return spaces if Config.zero_gpu else None


def _choice(options: dict[str, Any], zerogpu: ModuleType | None) -> EngineConfig:
    """Return the configuration of the engine that `options` ask for: remote, on a ZeroGPU Space, or local."""
    if "url" in options:
        from jet.engine.remote.client import RemoteConfig

        return RemoteConfig(**options)
    from jet.engine.loading import LocalConfig

    if zerogpu is not None:
        from jet.engine.zerogpu import ZeroGpuConfig, generate, loan_seconds

        return ZeroGpuConfig(LocalConfig(**options), zerogpu.GPU(duration=loan_seconds)(generate))
    return LocalConfig(**options)


def _hosting(options: dict[str, Any], api_only: bool) -> Hosting:
    """Remove the hosting options from `options`, and return the hosting that they describe.

    A Space always has the limits of a public page. Raises AccountsError, KeysError or ValueError.
    """
    from jet.credentials import read_secret
    from jet.server.accounts import Accounts
    from jet.server.hosting import TOKEN_VARIABLE, Hosting
    from jet.server.limits import PUBLIC, Limits, read_limits
    from jet.server.openai import ApiOptions, Keys

    states = _states(options, api_only)
    space = "SPACE_ID" in os.environ
    base = PUBLIC if options.pop("public") or space else Limits()
    limits = read_limits(base, options.pop("limit"))
    accounts, proxies = options.pop("auth"), options.pop("proxies")
    behind_router = options.pop("behind_router")
    keys, origins = options.pop("api_key"), options.pop("cors")
    models = options.pop("models")
    return Hosting(
        limits,
        accounts=None if accounts is None else Accounts.read(accounts),
        proxies=int(space) if proxies is None else proxies,
        behind_router=behind_router,
        metrics_token=read_secret(TOKEN_VARIABLE),
        api=ApiOptions(None if keys is None else Keys.read(keys), tuple(origins)),
        states=states,
        models=None if models is None else models == "on",
    )


def _states(options: dict[str, Any], api_only: bool) -> StateFolder | None:
    """Remove the options of stored states from `options`, and return the folder of the states.

    Returns None if no states are to be stored; this is the default of a public page.
    """
    from jet.engine.stored_states import StateFolder

    path, size = options.pop("state_dir", None), options.pop("state_gb", None)
    public = options["public"] or "SPACE_ID" in os.environ
    if "url" in options or api_only or size == 0 or (public and path is None and size is None):
        return None
    return StateFolder.make(path, size)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 9:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 9, not {text!r}")
    return int(text)


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of gigabytes, 0 or more, not {text!r}")
    return number


def _context(text: str) -> int:
    if not text.isdecimal() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"must be a whole number from 16 on, not {text!r}")
    return int(text)


def _silence_libraries() -> None:
    """Silence libraries' progress bars and warnings; the app reports errors once, in its own words."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for library in ("huggingface_hub", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _progress(interval_s: float = 5.0) -> Callable[[str], None]:
    """Return a function that prints loading progress: on one line of a terminal, else on new lines."""
    last_shown, terminal = -interval_s, sys.stdout.isatty()

    def show(words: str) -> None:
        nonlocal last_shown
        now = time.monotonic()
        if now - last_shown >= (0.2 if terminal else interval_s):
            last_shown = now
            print(f"\r{words}\033[K" if terminal else words, end="" if terminal else "\n", flush=True)

    return show


def _reopen_closed_streams() -> None:
    """Open closed standard streams on the null device, so that no socket or file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203 - three of them
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _restart_without_damaged_bytecode(error: Exception) -> None:
    """Restart without the damaged .pyc file that made an import fail.

    Returns if the error has another cause.
    """
    damaged, one = None, error.__cause__ or error
    if isinstance(one, (EOFError, TypeError, ValueError)):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_name == "get_code":  # in Python's import system, where it failed
                damaged = frame.f_locals.get("bytecode_path")
    fresh = os.path.join(tempfile.gettempdir(), "jet-pycache")
    if damaged is None or sys.pycache_prefix == fresh:
        return
    print(f"{damaged} is damaged: it is compiled again.", file=sys.stderr, flush=True)
    try:
        os.remove(damaged)
    except OSError:  # not removable: write compiled files elsewhere
        os.environ["PYTHONPYCACHEPREFIX"] = fresh
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _check_environment() -> str | None:
    """Return a message if a variable that Gradio reads on import has a bad value, else None."""
    port = os.environ.get("GRADIO_SERVER_PORT")
    if port is None or (port.isdecimal() and 1 <= int(port) <= 65535):
        return None
    return "GRADIO_SERVER_PORT must be a number from 1 to 65535, or not set."


def _fail(message: str) -> int:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        code = main()
        gc.freeze()  # nothing is collected at the end: it takes seconds
        sys.exit(code)
    except Exception as error:
        _restart_without_damaged_bytecode(error)
        raise
