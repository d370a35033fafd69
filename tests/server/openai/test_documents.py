"""Run the examples of docs/api.md and of the README against a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.server.openai.served_api import Api

ADDRESS = "http://localhost:7860/"
DOCUMENTS = ("docs/api.md", "README.md")


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language that contain the API's address."""
    texts = [(ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS]
    found = [one for text in texts for one in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)]
    return [block for block in found if f"{ADDRESS}v1" in block]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(api: Api, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code.replace(ADDRESS, api.url), "docs", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("code", [block for block in blocks("bash") if block.startswith("curl")])
def test_curl_examples_run(api: Api, code: str) -> None:
    ran = subprocess.run(["bash", "-c", code.replace(ADDRESS, api.url)], capture_output=True, check=True)
    data = [line.removeprefix("data: ") for line in ran.stdout.decode().splitlines() if line.strip("[DONE]")]
    assert all("choices" in json.loads(line) for line in data if line != "[DONE]") and data


def test_every_route_and_spelling_is_described(api: Api) -> None:
    from jet.server.openai.spellings import SPELLINGS

    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    described = api.client.get("/openapi.json").json()["paths"]
    openai = [path for path in described if not path.startswith("/api/")]
    assert [path for path in openai if path not in text] == []
    spelled = [name for names in SPELLINGS.values() for name in names]
    assert [name for name in spelled if name not in text and name != "dry_seq_breakers"] == []
