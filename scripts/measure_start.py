"""Measure a start of the page and its memory: python -m scripts.measure_start CHECKPOINT [OPTIONS].

Each form is started as `python app.py`. A quantized form is started twice: first without a stored quantized
copy, then with it. A start ends with the first token that a program gets from the page. Then four stories are
opened at once, each prefilled and continued.

Memory is the proportional set size (PSS) of the process; the peak is the largest of 20 readings a second. A
reading walks all pages and delays the process, so `--no-memory` measures seconds alone. Seconds need a quiet
machine; processor seconds hardly do.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from scripts.processes import end, free_port

ROOT = Path(__file__).resolve().parents[1]
STORIES, PROMPT_WORDS, TOKENS = 4, 300, 48
REST_S = 2.0  # until an idle page has given back what it needs no more
FORMS = {"int4": ["--quantize", "int4"], "int8": ["--quantize", "int8"], "bf16": ["--dtype", "bfloat16"]}
_LIMIT_S = 1800.0
_ADDRESS = re.compile(r"is at (http://\S+) and")


@dataclass
class Memory:
    """Reads the PSS of a process until told to stop.

    Attributes:
        peak: the largest reading, in bytes.
    """

    pid: int
    peak: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def now(self) -> int:
        """Return the PSS now, in bytes; 0 once the process has ended."""
        try:
            text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        except OSError:
            return 0
        return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))

    def watch(self) -> None:
        """Sample the memory until `stop` is called."""
        while not self._stopped.wait(0.05):
            self.peak = max(self.peak, self.now())

    def stop(self) -> None:
        """Make `watch` return."""
        self._stopped.set()


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def page(arguments: Sequence[str], cache: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the page; yield its process and its URL."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JET_CACHE_DIR": str(cache),
        "PYTHONUNBUFFERED": "1",
    }
    port = free_port()
    command = [sys.executable, "app.py", "--device", "cpu", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next((match for line in process.stdout if (match := _ADDRESS.search(line))), None)
        if found is None:
            raise SystemExit(f"The page did not start: {' '.join(command)}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield process, found[1].rstrip("/")
    finally:
        end(process, signal.SIGINT)


def write(url: str, prompt: str, tokens: int, user: str) -> float:
    """Write a story through the API; return the `time.monotonic()` of its first token."""
    asked = {"prompt": prompt, "max_tokens": tokens, "min_tokens": tokens, "stream": True, "user": user}
    first = 0.0
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=_LIMIT_S) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            first = first or (time.monotonic() if line.startswith("data: {") else 0.0)
    return first


def measure(arguments: Sequence[str], cache: Path, memory_too: bool = True) -> dict[str, float]:
    """Start the page once and measure it; the keys of the result name the units.

    With `memory_too`, open four stories on the page and measure its memory as well.
    """
    started = time.monotonic()
    with page(arguments, cache) as (process, url):
        memory = Memory(process.pid)
        watching = threading.Thread(target=memory.watch)
        if memory_too:
            watching.start()
        while httpx.get(f"{url}/v1/models", timeout=_LIMIT_S).status_code == 503:
            time.sleep(0.05)
        first = write(url, "Once upon a time, in a small town, a", 1, "first")
        found = {"first token, s": first - started, "processor until then, s": processor_seconds(process.pid)}
        if not memory_too:
            return found
        words = (ROOT / "README.md").read_text(encoding="utf-8").split()
        prompts = [" ".join(words[place : place + PROMPT_WORDS]) for place in range(STORIES)]
        users = [f"writer {number}" for number in range(STORIES)]
        with ThreadPoolExecutor(STORIES) as writers:
            list(writers.map(write, [url] * STORIES, prompts, [TOKENS] * STORIES, users))
        httpx.get(url)
        time.sleep(REST_S)
        found["PSS, GB"] = memory.now() / 1e9
        memory.stop()
        watching.join()
        found["peak PSS, GB"] = memory.peak / 1e9
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each form and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="folder of a bfloat16 checkpoint")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--cache", type=Path, help="folder of copies (default: one for this run)")
    parser.add_argument("--only-warm", action="store_true", help="leave out the start that makes the copy")
    parser.add_argument("--no-memory", action="store_true", help="measure seconds alone")
    options = parser.parse_args(arguments)
    cache = options.cache or Path(tempfile.mkdtemp(prefix="jet-start-"))
    try:
        for form in options.forms:
            kinds = ["first start", "again"] if form != "bf16" and not options.only_warm else ["again"]
            for kind in kinds:
                found = measure(["--model", options.checkpoint, *FORMS[form]], cache, not options.no_memory)
                print(
                    f"{form}, {kind}:", *(f"{name} {value:.2f};" for name, value in found.items()), flush=True
                )
    finally:
        if options.cache is None:
            shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
