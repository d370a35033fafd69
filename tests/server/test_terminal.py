"""Test that the page opens without a usable terminal: closed, full, or with a limited encoding."""

from __future__ import annotations

import io
import logging
import os
import py_compile
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio import http_server

import app
from jet.engine import holder
from jet.engine.holder import ModelHolder
from jet.server.lifecycle import GracefulShutdown
from jet.ui import page
from scripts.processes import free_port
from tests.conftest import ROOT
from tests.engine.faulty_server import FaultyServer, faulty_server
from tests.ui.served import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        server.models = {"data": [{"id": "modèle-😀", "max_model_len": 500}]}
        yield server


class Full(io.RawIOBase):
    """A stream that fails as on a full disk."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


class Gone(Full):
    """A stream that fails as a pipe without a reader does."""

    def write(self, data: Any) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


NOWHERE = "/proc/none"  # not writable

OUTPUTS = {
    "none": lambda: None,
    "closed": closed,
    "full": lambda: io.TextIOWrapper(io.BufferedWriter(Full()), encoding="utf-8"),
    "gone": lambda: io.TextIOWrapper(io.BufferedWriter(Gone()), encoding="utf-8"),
    "Latin-1": lambda: io.TextIOWrapper(io.BytesIO(), encoding="latin-1", line_buffering=True),
    "ASCII": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii", line_buffering=True),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_page_opens_whatever_its_output_is(
    server: FaultyServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "MODEL_HOLDER", ModelHolder())
    urls: list[str] = []
    launch = page.launch

    def launched(*given: Any, **named: Any) -> str:
        urls.append(launch(*given, **named))
        return urls[-1]

    def wait(ending: GracefulShutdown) -> int:
        assert httpx.get(f"{urls[0]}healthz", trust_env=False).status_code == 200
        logging.getLogger("some.library").warning("a warning – with an emoji 😀")
        return 3

    monkeypatch.setattr(page, "launch", launched)
    monkeypatch.setattr(GracefulShutdown, "wait", wait)
    monkeypatch.setattr(GracefulShutdown, "drain", lambda ending: 0)
    before = sys.stdout, sys.stderr
    output, errors = OUTPUTS[kind](), OUTPUTS[kind]()
    sys.stdout, sys.stderr = output, errors  # type: ignore[assignment]
    try:
        code = app.main(["--engine-url", server.url])
    finally:
        sys.stdout, sys.stderr = before
        for stream in (output, errors):
            if kind in ("full", "gone") and stream is not None:
                with pytest.raises(OSError):
                    stream.write("x")
                    stream.close()
    assert code == 0
    if kind in ("Latin-1", "ASCII"):
        assert output is not None
        said = output.buffer.getvalue().decode(kind)
        assert re.search(r"Jet Stories is at http://\S+", said)
        assert {"Latin-1": "modèle-?", "ASCII": "mod?le-?"}[kind] in said
        assert "Waiting for stories to end: 3." in said


@pytest.mark.parametrize("kind", ["none", "full", "ASCII"])
def test_what_is_wrong_is_told_by_the_code_at_least(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "MODEL_HOLDER", ModelHolder())
    errors = OUTPUTS[kind]()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", errors)
        patch.setattr(sys, "stdout", OUTPUTS[kind]())
        assert app.main(["--host", "no.such.host.invalid"]) == 2
    if kind == "ASCII":
        assert errors is not None
        assert errors.buffer.getvalue().startswith(b"Error: The page cannot be opened: ")


def test_a_port_that_is_taken_is_called_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holder, "MODEL_HOLDER", ModelHolder())
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert app.main(["--port", str(port)]) == 2
        assert capsys.readouterr().err == (
            f"Error: The page cannot be opened: Address already in use (port {port} of 127.0.0.1). "
            "Choose another with --host and --port.\n"
        )
        monkeypatch.setattr(http_server, "INITIAL_PORT_VALUE", port)
        monkeypatch.setattr(http_server, "TRY_NUM_PORTS", 1)
        assert app.main([]) == 2
        assert f"all ports from {port} to {port} are in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(99, "Cannot assign requested address"), "Cannot assign requested address"),
        (OSError(24, "Too many open files"), "Too many open files"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("it would not"), "it would not"),
    ],
)
@pytest.mark.parametrize("where", ["at once", "later"])
def test_a_page_that_cannot_be_opened_says_why(
    error: OSError,
    words: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(holder, "MODEL_HOLDER", ModelHolder())
    monkeypatch.setattr(
        *((socket, "create_server", fail) if where == "at once" else (gr.Blocks, "launch", fail))
    )
    assert app.main(["--port", "7999" if where == "at once" else "17999"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: The page cannot be opened: {words}") and "free" not in said


@pytest.mark.parametrize("port", ["abc", "0", "70000", "", "-1"])
def test_a_port_variable_that_is_none_is_one_line_and_code_2(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    assert app.main([]) == 2
    assert capsys.readouterr().err.startswith("Error: GRADIO_SERVER_PORT must be a number")


def test_a_password_on_the_command_line_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--engine", "http://ann:pw-of-ann@h/v1"], ["--port", "//ann:pw-of-ann@h"]):
        with pytest.raises(SystemExit):
            app.read_options(options)
        assert "pw-of-ann" not in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("redirect", "encoding", "unusable"),
    [
        (">&- 2>&-", "utf-8", {}),
        (">/dev/full 2>/dev/full", "utf-8", {"GRADIO_TEMP_DIR": NOWHERE, "TORCHINDUCTOR_CACHE_DIR": NOWHERE}),
        ("| head -c 5", "latin-1", {"ALL_PROXY": "socks5://ann:pw-of-ann@h:1", "NO_PROXY": "::1,fd00::/8"}),
    ],
)
def test_a_page_of_its_own_process_lives_without_a_terminal_and_what_it_does_not_need(
    server: FaultyServer, redirect: str, encoding: str, unusable: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    start = f"{sys.executable} app.py --engine-url {server.url} --port {port}"
    left = f"echo $? >{tmp_path}/code"
    script = f"{start} {redirect} & echo $! >{tmp_path}/pid; wait $!; {left}"
    if redirect.startswith("|"):
        script = f"({start}; {left}) {redirect}"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUNBUFFERED": "1", **unusable}
    with subprocess.Popen(
        ["bash", "-c", script], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as shell:

        def there() -> bool:
            try:
                metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
                return "jet_engine_ready 1.0" in metrics and shell.poll() is None
            except httpx.HTTPError:
                assert shell.poll() is None, "it has ended"
                return False

        try:
            wait_until(there, 90)
            if not redirect.startswith("|"):
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
                wait_until((tmp_path / "code").exists, 60)
                wait_until(lambda: (tmp_path / "code").read_text() != "")
                assert (tmp_path / "code").read_text() == "0\n"
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def test_no_room_for_any_temporary_file_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [NOWHERE])
    assert app.main([]) == 2
    assert capsys.readouterr().err.startswith("Error: No temporary file can be written: ")


@pytest.mark.parametrize("damage", ["cut off", "of a full disk", "of a bad disk"])
@pytest.mark.parametrize("removable", [True, False])
def test_a_damaged_file_of_pythons_cache_is_compiled_again(
    damage: str, removable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged_module.py").write_text("words = ['once', 'upon'] * 3\n")
    compiled = Path(py_compile.compile(str(tmp_path / "damaged_module.py"), doraise=True) or "")
    whole = compiled.read_bytes()
    half = whole[: len(whole) // 2]
    rest = {"cut off": b"", "of a full disk": bytes(len(half)), "of a bad disk": b"\xff" * len(half)}
    compiled.write_bytes(half + rest[damage])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    if not removable:
        monkeypatch.setattr(os, "remove", lambda path: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises((EOFError, ValueError)) as error:
        import damaged_module  # type: ignore[import-not-found] # noqa: F401
    app._restart_without_damaged_bytecode(error.value)
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    assert compiled.exists() != removable
    assert bool(os.environ["PYTHONPYCACHEPREFIX"]) != removable
    with pytest.raises(ValueError) as other:
        int("x")
    app._restart_without_damaged_bytecode(other.value)
    assert len(started) == 1, "an error of another kind is told as it is"
