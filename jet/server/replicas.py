"""Run several engines on one machine: a process for each GPU, a router in front, and the page before it.

              ┌─ engine 0, GPU 0
page ─ router ┼─ engine 1, GPU 1
              └─ …

Only the page accepts connections from other machines. With --api-only there is no page, and the router
accepts them. Without a router, each engine has a page (or API) of its own, on consecutive ports.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jet.server.binding import AddressError, check_address
from jet.server.router import PACKAGE, is_installed, router_command
from jet.server.supervisor import Policy, ProcessSpec, Signals, Supervised, first_of, stop_all

FIRST_PORT, PORTS = 7860, 100  # as the page's
_LOCAL = "127.0.0.1"
_DEVICE = re.compile(r"cpu|\d{1,2}|(GPU|MIG)-[A-Za-z0-9/-]{1,80}")
_ENGINE_KEY = "JET_ENGINE_KEY"  # the page's key for its engine's server
_ENGINE_VALUES = ("model", "revision", "dtype", "quantize", "attention", "context", "max_running_requests")
_STATES_VALUES = ("state_dir", "state_gb")
_HOSTING_VALUES = ("auth", "proxies")

Say = Callable[[str], None]


class ReplicasError(ValueError):
    """Options that cannot be combined with several engines. The message is for the user."""


@dataclass(frozen=True)
class Plan:
    """The processes to run.

    Attributes:
        engines: one engine for each device.
        router: the router in front of the engines; None to run no router.
        page: the page in front of the router; None with --api-only, or if each engine has its own page.
        urls: the addresses to show to the user.
    """

    engines: tuple[ProcessSpec, ...]
    router: ProcessSpec | None
    page: ProcessSpec | None
    urls: tuple[str, ...]


def parse_devices(text: str, count_gpus: Callable[[], int]) -> tuple[str, ...]:
    """Return the devices that `--gpus` names: "all", or a list such as 0,1 or cpu,cpu.

    Raises ReplicasError for other texts, for a GPU named twice, and for "all" on a machine without GPU.
    """
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if text == "all":
        number = count_gpus()
        if not number:
            raise ReplicasError("No GPU can be seen here: --gpus all has nothing to run on.")
        return tuple(visible[:number]) if len(visible) >= number else tuple(map(str, range(number)))
    devices = tuple(one.strip() for one in text.split(","))
    if strange := [one for one in devices if not _DEVICE.fullmatch(one)]:
        raise ReplicasError(f"--gpus takes all, or numbers like 0,1, and not {strange[0][:40]!r}.")
    gpus = [one for one in devices if one != "cpu"]
    if twice := [one for one in gpus if gpus.count(one) > 1]:
        raise ReplicasError(f"--gpus names {twice[0]} twice: one engine uses a whole GPU.")
    return devices


def make_plan(
    options: Mapping[str, Any],
    app: Path,
    devices: Sequence[str],
    folder: Path,
    routed: bool | None = None,
) -> Plan:
    """Return the processes that the options of the command line ask for.

    Args:
        options: the parsed options of `app.py`. An option that was not given is missing or has its default.
        app: the path of `app.py`.
        devices: the device of each engine.
        folder: a folder that only this user can read, for the key that the page and the engines share.
        routed: whether to use a router; None uses one if it is installed.

    Raises ReplicasError and AddressError.
    """
    routed = is_installed() if routed is None else routed
    api_only = bool(options.get("api_only"))
    host = (options.get("host") or os.environ.get("GRADIO_SERVER_NAME") or _LOCAL).strip("[]")
    port = options.get("port") or int(os.environ.get("GRADIO_SERVER_PORT", 0)) or None
    run = (sys.executable, str(app))
    stored = _arguments(options, _STATES_VALUES)
    if routed and stored:
        raise ReplicasError(f"{stored[0]} stores states of a page with an engine of its own, not of --gpus.")
    model = _arguments(options, _ENGINE_VALUES)
    if not routed:
        ports = _free_ports(host, port, len(devices))
        rest = _hosting(options) + stored + (("--api-only",) if api_only else ())
        engines = _engines((*run, *model), devices, rest, host, ports)
        return Plan(engines, None, None, tuple(_url(host, own) for own in ports))
    if api_only and options.get("public") and not options.get("api_key"):
        raise ReplicasError(
            "Behind a router limits count by key, for it does not tell addresses: --gpus with --public and "
            "--api-only needs --api-key."
        )
    ports = _free_ports(_LOCAL, None, len(devices), first=0)
    key = secrets.token_urlsafe(32)
    hosting = _hosting({**options, "cors": []}) if api_only else ("--api-key", str(_write_key(folder, key)))
    engines = _engines((*run, "--api-only", "--behind-router", *model), devices, hosting, _LOCAL, ports)
    urls = [_url(_LOCAL, own) for own in ports]
    if api_only:
        (own,) = _free_ports(host, port, 1)
        router = _router(urls, host, own, options.get("cors") or ())
        return Plan(engines, router, None, (_url(host, own),))
    (inner,) = _free_ports(_LOCAL, None, 1, first=0)
    router = _router(urls, _LOCAL, inner)
    (own,) = _free_ports(host, port, 1)
    page = ProcessSpec(
        "page",
        (
            *(*run, "--engine-url", f"{_url(_LOCAL, inner)}/v1", *_hosting(options)),
            *("--host", host, "--port", str(own)),
        ),
        f"{_url(host, own)}/healthz",
        environment={**os.environ, _ENGINE_KEY: key},
    )
    return Plan(engines, router, page, (_url(host, own),))


def _engines(
    command: Sequence[str], devices: Sequence[str], hosting: Sequence[str], host: str, ports: Sequence[int]
) -> tuple[ProcessSpec, ...]:
    """Return the process of an engine for each device, each on a port of its own."""
    return tuple(
        ProcessSpec(
            f"engine {number}",
            (*command, *_device(device), *hosting, "--host", host, "--port", str(own)),
            f"{_url(host, own)}/health",
            environment=_environment(device, devices),
        )
        for number, (device, own) in enumerate(zip(devices, ports, strict=True))
    )


def _router(urls: Sequence[str], host: str, port: int, origins: Sequence[str] = ()) -> ProcessSpec:
    """Return the router process in front of engines with these URLs."""
    command = router_command(urls, host, port, origins)
    return ProcessSpec("router", command, f"{_url(host, port)}/readiness", restart_hung=False, quiet_end=True)


async def run_plan(plan: Plan, say: Say, policy: Policy | None = None) -> int:
    """Run the processes until a signal or a failure, then end them in order; return the exit code.

    The signals are SIGTERM and SIGINT. It is a failure if the router, the page or all engines are given up.
    """
    with Signals() as signals:
        engines = [Supervised(spec, say, policy) for spec in plan.engines]
        front: list[Supervised] = []
        running = asyncio.create_task(_run_front(plan, engines, front, say, policy))
        await first_of(signals.end.wait(), _all_ended(engines), _wait_for(running))
        code = running.result() if running.done() and not signals.end.is_set() else 0
        if not signals.end.is_set() and not code:
            code = next((engine.code for engine in engines if engine.code), 0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        say("Ending: no more stories begin, and those that are written end. Ctrl+C again does not wait.")
        everything = [*front, *engines]
        ending = asyncio.create_task(_end_in_order(front, engines))
        await first_of(signals.force.wait(), _wait_for(ending))
        if not ending.done():
            await asyncio.gather(*(process.kill() for process in everything))
        await asyncio.gather(ending, return_exceptions=True)
    return code


async def _run_front(
    plan: Plan, engines: Sequence[Supervised], front: list[Supervised], say: Say, policy: Policy | None
) -> int:
    """Start the router, and then the page, once an engine is healthy.

    Returns the exit code of the router or page as soon as one of them is given up. Without a router, waits
    until it is canceled.
    """
    await first_of(*(engine.usable() for engine in engines))
    while not any(engine.healthy.is_set() for engine in engines):
        await asyncio.sleep(0.1)
    if plan.router is None:
        say(f"{len(engines)} engines, each with an address of its own: {', '.join(plan.urls)}")
        say(
            f"{PACKAGE} is not installed, so nothing spreads requests over them: `pip install {PACKAGE}`, or "
            "put a proxy with session affinity in front (deploy/nginx.conf)."
        )
        await asyncio.Event().wait()
        return 0
    front.append(Supervised(plan.router, say, policy))
    if await front[0].usable() and plan.page is not None:
        front.insert(0, Supervised(plan.page, say, policy))
        await front[0].usable()
    if all(process.code is None for process in front):
        what = "Jet Stories" if plan.page is not None else "The API of Jet Stories"
        say(f"{what} is at {plan.urls[0]} over {len(engines)} engines. Ctrl+C ends it.")
    await first_of(*(process.ended() for process in front))
    return next((process.code or 1 for process in front if process.code is not None), 1)


async def _end_in_order(front: Sequence[Supervised], engines: Sequence[Supervised]) -> None:
    """End the page, then the engines, and last the router, because it carries the engines' streams."""
    for process in front[:-1]:
        await process.stop()
    await stop_all(engines)
    await stop_all(front[-1:])


async def _all_ended(processes: Sequence[Supervised]) -> None:
    for process in processes:
        await process.ended()


async def _wait_for(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


def serve_replicas(options: Mapping[str, Any], app: Path, count_gpus: Callable[[], int], say: Say) -> int:
    """Run the processes for `app.py --gpus`; return the exit code. Raises ReplicasError and AddressError."""
    if sys.platform == "win32":
        raise ReplicasError("--gpus needs Linux or macOS: start one process a GPU by hand (docs/scaling.md).")
    devices = parse_devices(options["gpus"], count_gpus)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jet-replicas-")))
        plan = make_plan(options, app, devices, folder)
        say(f"Starting {len(devices)} engines: {', '.join(devices)}.")
        return asyncio.run(run_plan(plan, say))


def _hosting(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the hosting options that were given, as arguments of a command."""
    found = _arguments(options, _HOSTING_VALUES)
    if options.get("api_key"):
        found += ("--api-key", str(options["api_key"]))
    for name in ("limit", "cors"):
        for value in options.get(name) or ():
            found += (f"--{name}", value)
    return (*found, *(("--public",) if options.get("public") else ()))


def _arguments(options: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for name in names:
        if options.get(name) is not None:
            found += (f"--{name.replace('_', '-')}", str(options[name]))
    return found


def _device(device: str) -> tuple[str, str]:
    return "--device", "cpu" if device == "cpu" else "cuda"


def _environment(device: str, devices: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of an engine.

    On a GPU only this GPU is visible. CPU engines share the threads of the machine equally.
    """
    found = {name: value for name, value in os.environ.items() if name != _ENGINE_KEY}
    if device != "cpu":
        return found | {"CUDA_VISIBLE_DEVICES": device}
    threads = max(1, (os.cpu_count() or 1) // devices.count("cpu"))
    return {"OMP_NUM_THREADS": str(threads), **found}


def _write_key(folder: Path, key: str) -> Path:
    path = folder / "key"
    path.touch(mode=0o600)
    path.write_text(f"page: {key}\n")
    return path


def _url(host: str, port: int) -> str:
    """Return the address by which this machine reaches a server that listens on `host`."""
    name = {"0.0.0.0": _LOCAL, "::": "::1"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _free_ports(host: str, port: int | None, number: int, first: int = FIRST_PORT) -> list[int]:
    """Return `number` ports of `host`: consecutive ones from `port` on, or free ones if `port` is None.

    Free ports are searched from `first` on; if `first` is 0, the system chooses them.

    Raises AddressError if too few ports are free, or if one from `port` on is in use.
    """
    check_address(host, port)
    if port is not None:
        for own in range(port, port + number):
            check_address(host, own)
        return list(range(port, port + number))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found: list[int] = []
    with ExitStack() as stack:
        for wanted in [0] * number if not first else range(first, first + PORTS):
            try:
                listening = stack.enter_context(socket.create_server((host, wanted), family=family))
            except OSError:
                continue
            found.append(listening.getsockname()[1])
            if len(found) == number:
                return found
    raise AddressError(f"The engines cannot be opened: too few ports of {host} are free.")
