"""Test that measurements of a checkpoint are found by its contents, and never for another checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jet.engine import heeds
from jet.engine.heeds import Heed, Heeds, Rate
from jet.modeling.checkpoint import weight_files

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-2b"
HEED = Heed(Rate(0.7, 0.1), 0.4, 0.8, 60, {"names": Rate(0.9, 0.0), "things": Rate(0.5, 0.2)})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


def weights_of(folder: Path) -> Path:
    return weight_files(folder)[0]


def changed(path: Path, at: int) -> None:
    """Change the byte at index `at` of a file."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_the_identity_is_that_of_the_contents(folder: Path, tmp_path: Path) -> None:
    first = heeds.identify(folder)
    assert first is not None and heeds.identify(Path(shutil.copytree(folder, tmp_path / "other"))) == first
    assert heeds.identify(folder, "int8") == f"{first}+int8"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}), encoding="utf-8")
    assert heeds.identify(folder) == first
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}), encoding="utf-8")
    assert heeds.identify(folder) != first
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    changed(weights_of(folder), -1)
    assert heeds.identify(folder) != first


def test_large_files_are_told_apart_by_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heeds, "_SAMPLE", 16)
    weights = weights_of(folder)
    first = heeds.identify(folder)
    raw = weights.read_bytes()
    for at in (0, -1):  # beginning and end are always sampled
        changed(weights, at)
        assert heeds.identify(folder) != first
        weights.write_bytes(raw)
    weights.write_bytes(bytes(byte ^ 1 for byte in raw))
    assert heeds.identify(folder) != first
    weights.write_bytes(raw + b"x")
    assert heeds.identify(folder) != first


def test_what_is_no_checkpoint_has_no_identity(folder: Path, tmp_path: Path) -> None:
    assert heeds.identify(tmp_path / "nowhere") is None
    for text in ("[]", "{", '"x"'):
        (folder / "config.json").write_text(text, encoding="utf-8")
        assert heeds.identify(folder) is None


def test_a_record_is_found_in_either_place_for_its_checkpoint_only(folder: Path, cache: Path) -> None:
    record = Heeds("abc", {"memory": HEED})
    assert heeds.find("abc", folder) is None and heeds.find(None, folder) is None
    heeds.write(record, folder / heeds.BESIDE, model="a name", seeds=5)
    assert heeds.find("abc", folder) == record
    assert heeds.find("abd", folder) is None and heeds.find("abc") is None
    own = Heeds("abc", {"note": HEED})
    heeds.write(own, heeds.cached_path("abc"))
    assert heeds.find("abc", folder) == own  # the user's own measurement comes first
    assert cache in heeds.cached_path("abc").parents
    assert [path.name for path in heeds.cached_path("abc").parent.iterdir()] == ["abc.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2}',
        '{"version": 1}',
        '{"version": 1, "checkpoint": "abc", "fields": {"memory": 3}}',
    ],
)
def test_a_damaged_record_is_none(text: str, folder: Path) -> None:
    (folder / heeds.BESIDE).write_text(text, encoding="utf-8")
    assert heeds.find("abc", folder) is None
