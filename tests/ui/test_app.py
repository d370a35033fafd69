"""Test `python app.py`: options, and messages if a model or an address is not available."""

from __future__ import annotations

import gc
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import app
from jet.engine import holder
from jet.engine.holder import ModelHolder
from jet.engine.loading import LocalConfig
from jet.engine.stored_states import StateFolder
from jet.hardware import HardwareError
from jet.modeling import CheckpointError
from jet.server.lifecycle import GracefulShutdown
from jet.ui import page
from tests.engine.faulty_server import faulty_server
from tests.ui.stand_in import StandInEngine


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LocalConfig]]:
    """Replace the loading of models; yield a list of the requested configurations.

    Models and devices called "bad" fail.
    """
    choices: list[LocalConfig] = []

    class Engine(StandInEngine):
        alive = True

    def build(choice: LocalConfig) -> StandInEngine:
        choices.append(choice)
        if choice.model == "bad":
            raise CheckpointError("bad is no checkpoint.\nGive another.")
        if choice.device == "bad":
            raise HardwareError("There is no device bad.")
        return Engine()

    stand_in_holder = ModelHolder(build)  # type: ignore[arg-type]
    monkeypatch.setattr(holder, "MODEL_HOLDER", stand_in_holder)
    yield choices
    stand_in_holder.close()


def test_options_arrive_and_the_page_is_served(
    loaded: list[LocalConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[httpx.Response] = []

    def session(ending: GracefulShutdown) -> int:
        said = capsys.readouterr().out
        url = re.findall(r"at (http://\S+)", said)[-1]
        answers.append(httpx.get(url))
        print(said)
        return 0

    monkeypatch.setattr(GracefulShutdown, "wait", session)
    options = ["--model=M", "--device=D", "--dtype=T", "--attention=A", "--context=99", "--host=127.0.0.1"]
    options += ["--revision=R", "--quantize=int4"]
    assert app.main(options) == 0
    (choice,) = loaded
    states = StateFolder.make()
    assert choice == LocalConfig("M", "D", "T", "A", 99, revision="R", quantize="int4", states=states)
    assert answers[0].status_code == 200 and "Jet Stories" in answers[0].text
    said = capsys.readouterr()
    assert re.search(r"Jet Stories is at http://127\.0\.0\.1:\d+/", said.out)
    assert "stand-in <model>, float32, on a processor, 2 threads. License: Apache-2.0." in said.out
    assert said.err == ""


def test_an_engine_elsewhere_is_written_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holder, "MODEL_HOLDER", ModelHolder())
    monkeypatch.setattr(GracefulShutdown, "wait", lambda ending: 0)
    with faulty_server() as server:
        assert app.main(["--engine-url", server.url, "--model", "stand-in"]) == 0
    assert "stand-in, on another server (sglang). License: " in capsys.readouterr().out


def test_an_engine_that_is_not_there_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holder, "MODEL_HOLDER", ModelHolder())
    assert app.main(["--engine-url", "http://127.0.0.1:9/v1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: The engine’s server cannot be reached: ")
    assert error.count("\n") == 1


def test_without_options_the_defaults_are_those_of_the_choice(
    loaded: list[LocalConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GracefulShutdown, "wait", lambda ending: 0)
    assert app.main([]) == 0
    assert loaded == [LocalConfig(states=StateFolder.make())]


def test_an_interrupt_is_a_good_end(loaded: list[LocalConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(ending: GracefulShutdown) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(GracefulShutdown, "wait", interrupt)
    assert app.main([]) == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--model", "bad"], "Error: bad is no checkpoint. Give another.\n"),
        (["--device", "bad"], "Error: There is no device bad.\n"),
    ],
)
def test_a_model_that_cannot_run_is_one_line_and_code_2(
    loaded: list[LocalConfig], capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    assert app.main(options) == 2
    assert capsys.readouterr().err == line


def test_garbage_is_looked_for_as_soon_as_the_page_is_there(
    loaded: list[LocalConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[bool] = []
    building = page.build

    def build(*given: Any) -> Any:
        enabled.append(gc.isenabled())
        return building(*given)

    def wait(ending: GracefulShutdown) -> int:
        enabled.append(gc.isenabled())
        assert gc.get_freeze_count() > 0
        return 0

    monkeypatch.setattr(page, "build", build)
    monkeypatch.setattr(GracefulShutdown, "wait", wait)
    assert app.main([]) == 0
    assert enabled == [False, True] and gc.isenabled() and gc.get_freeze_count() == 0
    assert app.main(["--host", "no.such.host.invalid"]) == 2
    assert enabled == [False, True] and gc.isenabled() and gc.get_freeze_count() == 0


def test_a_busy_port_is_one_line_and_code_2(
    loaded: list[LocalConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert app.main(["--port", str(busy.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: The page cannot be opened: Address already in use")
    assert error.count("\n") == 1
    assert loaded == []


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_elsewhere_is_one_line_and_code_2(
    loaded: list[LocalConfig], capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert app.main(["--host", host]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: The page cannot be opened: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--modle", "x"], "unrecognized arguments: --modle x"),
        (["--mod", "x"], "unrecognized arguments: --mod x"),
        (["stray"], "unrecognized arguments: stray"),
        (["--port", "abc"], "argument --port: must be a number from 1 to 65535, not 'abc'"),
        (["--engine-url=http://x/v1", "--revision=v1"], "--revision says how a model runs here"),
        (["--engine-url=http://x/v1", "--dtype=float16"], "--dtype says how a model runs here"),
        (["--engine-url=http://x/v1", "--quantize=int8"], "--quantize says how a model runs here"),
        (["--engine-url=http://x/v1", "--writers=2"], "--max-running-requests says how a model runs here"),
        (["--quantize=int3"], "invalid choice: 'int3' (choose from"),
        (["--port", "70000"], "argument --port: must be a number from 1 to 65535, not '70000'"),
    ],
)
def test_unknown_options_are_errors(
    capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        app.main(options)
    assert exit.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_missing_model_ends_the_program(tmp_path: Path) -> None:
    root = Path(app.__file__).parent
    command = [sys.executable, "app.py", "--model", str(tmp_path / "nowhere")]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"Error: {tmp_path}/nowhere does not exist.")
    assert ended.stderr.count("\n") == 1


def test_offline_asks_no_hub(tmp_path: Path) -> None:
    root = Path(app.__file__).parent
    command = [sys.executable, "app.py", "--offline", "--model", "ann/tiny"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: ann/tiny is not whole in the local cache")
    assert ended.stderr.count("\n") == 1


def test_progress_is_printed_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    show = app._progress()
    for _ in range(10):
        show("Fetching a/b: 1.0 MB")
    assert capsys.readouterr().out == "Fetching a/b: 1.0 MB\n"


def test_an_option_keeps_its_old_name_for_a_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.read_options(["--writers", "3"]) == app.read_options(["--max-running-requests", "3"])
    with pytest.raises(SystemExit):
        app.read_options(["--help"])
    said = capsys.readouterr().out
    assert "--max-running-requests" in said and "--writers" not in said
