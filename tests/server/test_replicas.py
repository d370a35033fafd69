"""Test which processes `app.py --gpus` starts, with which options, and what it refuses."""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from app import main, read_options
from jet.server.binding import AddressError
from jet.server.lifecycle import GRACE_S
from jet.server.replicas import Plan, ReplicasError, make_plan, parse_devices
from jet.server.router import is_installed, router_command

APP = Path(__file__).parents[2] / "app.py"


def plan(tmp_path: Path, line: str, devices: Sequence[str] = ("0", "1"), routed: bool = True) -> Plan:
    options = vars(read_options(["--gpus", ",".join(devices), *line.split()]))
    return make_plan(options, APP, devices, tmp_path, routed)


def after(command: Sequence[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_devices_are_all_gpus_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert parse_devices("all", lambda: 3) == ("0", "1", "2")
    assert parse_devices("2, 0", lambda: 0) == ("2", "0")
    assert parse_devices("cpu,cpu", lambda: 0) == ("cpu", "cpu")
    assert parse_devices("GPU-8f1c-22", lambda: 0) == ("GPU-8f1c-22",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert parse_devices("all", lambda: 2) == ("5", "7")
    for text, why in (("0,0", "twice"), ("0,x", "'x'"), ("", "''"), ("0;rm", "'0;rm'")):
        with pytest.raises(ReplicasError, match=why):
            parse_devices(text, lambda: 2)
    with pytest.raises(ReplicasError, match="No GPU"):
        parse_devices("all", lambda: 0)


def test_the_page_stands_in_front_of_the_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JET_ENGINE_KEY", "of-another-server")
    line = "--model m --quantize int8 --public --limit stories=9 --api-key keys --auth users --host 0.0.0.0"
    found = plan(tmp_path, line)
    assert found.router is not None and found.page is not None and len(found.engines) == 2
    for number, engine in enumerate(found.engines):
        command = engine.command
        assert after(command, "--host") == "127.0.0.1" and "--api-only" in command
        assert (after(command, "--model"), after(command, "--quantize")) == ("m", "int8")
        assert not {"--public", "--limit", "--auth"} & set(command), "limits are the page's"
        assert engine.environment["CUDA_VISIBLE_DEVICES"] == str(number)
        assert "JET_ENGINE_KEY" not in engine.environment
    (keys,) = {after(engine.command, "--api-key") for engine in found.engines}
    assert stat.S_IMODE(Path(keys).stat().st_mode) == 0o600
    key = found.page.environment["JET_ENGINE_KEY"]
    assert Path(keys).read_text().strip() == f"page: {key}"
    assert key not in repr(found) and key not in str([one.command for one in found.engines])
    page, router = found.page.command, found.router.command
    assert after(page, "--engine-url") == f"http://127.0.0.1:{after(router, '--port')}/v1"
    assert {"--public", "--limit", "--auth", "--api-key"} <= set(page) and after(page, "--api-key") == "keys"
    assert "--model" not in page and after(page, "--host") == "0.0.0.0"
    assert found.urls[0].startswith("http://127.0.0.1:")


def test_without_a_page_the_router_is_reached(tmp_path: Path) -> None:
    found = plan(tmp_path, "--api-only --api-key keys --limit deadline_s=9 --cors https://a.example")
    assert found.page is None and found.router is not None
    for engine in found.engines:
        assert (
            after(engine.command, "--api-key") == "keys"
            and after(engine.command, "--limit") == "deadline_s=9"
        )
        assert "--cors" not in engine.command and "--behind-router" in engine.command
    assert after(found.router.command, "--cors-allowed-origins") == "https://a.example"
    with pytest.raises(ReplicasError, match="--api-key"):
        plan(tmp_path, "--api-only --public")


def test_without_a_router_each_engine_has_its_own_address(tmp_path: Path) -> None:
    found = plan(tmp_path, "--public --proxies 1", routed=False)
    ports = [int(after(engine.command, "--port")) for engine in found.engines]
    assert found.router is None and found.page is None and len(set(ports)) == 2
    for engine in found.engines:
        assert {"--public", "--proxies"} <= set(engine.command)
        assert not {"--api-only", "--behind-router"} & set(engine.command)
    assert all("--api-only" in one.command for one in plan(tmp_path, "--api-only", routed=False).engines)


def test_processors_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    engines = plan(tmp_path, "", ("cpu", "cpu", "0")).engines
    assert [engine.environment.get("OMP_NUM_THREADS") for engine in engines] == ["4", "4", None]
    assert [after(engine.command, "--device") for engine in engines] == ["cpu", "cpu", "cuda"]


def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port}"):
            plan(tmp_path, f"--port {port}")


def test_stored_states_are_each_pages_own(tmp_path: Path) -> None:
    with pytest.raises(ReplicasError, match="--state-dir"):
        plan(tmp_path, "--state-dir states")
    engines = plan(tmp_path, "--state-dir states --state-gb 2", routed=False).engines
    assert {(after(one.command, "--state-dir"), after(one.command, "--state-gb")) for one in engines} == {
        ("states", "2.0")
    }


@pytest.mark.parametrize("line", ["--gpus 0 --device cpu", "--gpus all --engine-url http://localhost:1/v1"])
def test_options_that_contradict_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(line.split())
    assert "--gpus" in capsys.readouterr().err


def test_bad_devices_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpus", "1,1"]) == 2
    assert capsys.readouterr().err == "Error: --gpus names 1 twice: one engine uses a whole GPU.\n"


@pytest.mark.skipif(not is_installed(), reason="sglang-router is not installed")
def test_the_router_knows_all_of_its_options() -> None:
    import argparse

    from sglang_router.router_args import RouterArgs

    command = router_command(
        ["http://127.0.0.1:1", "http://127.0.0.1:2"], "127.0.0.1", 3, ["https://a.example"]
    )
    parser = argparse.ArgumentParser()
    RouterArgs.add_cli_args(parser)
    found = parser.parse_args(command[3:])
    assert (found.policy, found.port, len(found.worker_urls)) == ("cache_aware", 3, 2)


def test_kubernetes_runs_the_page_with_options_and_routes_that_exist() -> None:
    deployment, service = yaml.safe_load_all((APP.parent / "deploy/kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert read_options(container["args"]).proxies == 1
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "startup", "liveness")}
    assert paths == {"/health", "/healthz"}
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > GRACE_S


def test_nginx_keeps_visitors_and_keys_at_one_page() -> None:
    path = APP.parent / "deploy/nginx.conf"
    text = path.read_text()
    assert text.count("{") == text.count("}") and "hash $affinity consistent;" in text
    if (nginx := shutil.which("nginx", path="/usr/sbin:/usr/bin")) is not None:
        checked = subprocess.run([nginx, "-t", "-c", str(path)], capture_output=True, text=True)
        assert "syntax is ok" in checked.stderr, checked.stderr
