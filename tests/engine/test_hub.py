"""Test checkpoints from a hub: pinned, resumed, offline, and the messages if none is available."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from huggingface_hub import constants

from jet import proxies
from jet.engine import hub, loading
from jet.engine.hub import Canceled, Watch, fetch, split
from jet.engine.partial_download import PARTIAL
from jet.engine.progress import LOADING, Transfer
from jet.modeling import CheckpointError, JetNemotronForCausalLM
from tests.conftest import ROOT
from tests.engine.hub_server import COMMIT, REPOSITORY, TAGGED, HubServer, hub_server

GOLDEN = ROOT / "tests/golden/tiny-2b"
TOKEN = "hf_" + "averysecretone"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Yield a hub, with an empty cache and with a token set that no message may contain."""
    folder = tmp_path / "repository"
    shutil.copytree(GOLDEN, folder)
    (folder / "pytorch_model.bin").write_bytes(b"not needed")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(tmp_path / "xet"))
    with hub_server(folder) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def refusal(revision: str | None = None, repository: str = REPOSITORY) -> str:
    with pytest.raises(CheckpointError) as error:
        fetch(repository, revision)
    said = str(error.value)
    assert TOKEN not in said and "hf_a" not in said
    assert error.value.__cause__ is None, "what lies behind it may hold the token"
    return said


def test_a_checkpoint_is_fetched_once(server: HubServer) -> None:
    folder = fetch(REPOSITORY)
    assert folder.name == COMMIT
    assert (folder / "config.json").read_bytes() == (GOLDEN / "config.json").read_bytes()
    assert not (folder / "pytorch_model.bin").exists(), "only what is needed"
    server.asked.clear()
    assert fetch(REPOSITORY) == folder
    assert not [call for call in server.asked if call.startswith("GET") and "/resolve/" in call]
    assert server.keys == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", [TOKEN, "hf_schlüssel-mit-umlaut", "hf_bell\x07-and-more", f" {TOKEN}\r\n"])
def test_a_public_repository_is_fetched_whatever_becomes_of_the_token(
    server: HubServer, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.expired = TOKEN
    assert fetch(REPOSITORY).name == COMMIT
    assert hub.is_available(REPOSITORY)
    (warning,) = {record.getMessage() for record in caplog.records if record.name == "jet.engine.hub"}
    assert "HF_TOKEN" in warning and "left out" in warning
    assert token.strip() not in caplog.text


def test_another_model_is_not_taken_because_a_token_has_expired(server: HubServer) -> None:
    server.expired = TOKEN
    assert hub.is_available(REPOSITORY), "nothing of it is in the cache, so the hub has been asked"
    assert not hub.is_available("ann/other")


@pytest.mark.parametrize("token", [TOKEN, "hf_schlüssel-mit-umlaut"])
def test_where_the_token_is_needed_it_is_named(
    server: HubServer, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.expired, server.private = TOKEN, True
    said = refusal()
    assert said.startswith(
        "The hub does not accept HF_TOKEN" if token == TOKEN else "HF_TOKEN has a character"
    )
    assert "Without it: ann/tiny is not on the hub, or not for everybody" in said
    assert token not in said


def test_a_token_that_is_accepted_is_sent_everywhere(server: HubServer) -> None:
    server.private = True
    assert fetch(REPOSITORY).name == COMMIT
    assert server.keys == {f"Bearer {TOKEN}"}


def test_a_proxy_in_front_of_the_hub_is_named(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda s: None)
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(httpx.ProxyError("407"))
    )
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:pw-of-the-proxy@proxy.invalid:3128")
    monkeypatch.delenv("https_proxy")
    said = refusal()
    assert (
        "cannot be reached for ann/tiny through the proxy http://proxy.invalid:3128 of HTTPS_PROXY: 407."
        in said
    )
    assert "pw-of-the-proxy" not in said


def test_a_proxy_that_is_none_is_named_and_not_gone_around(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(REPOSITORY)
    monkeypatch.setattr(proxies, "_set_aside", {})
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("all_proxy", "ftp://ann:pw-of-ann@h:1")
    proxies.prepare_environment()
    server.asked.clear()
    assert fetch(REPOSITORY).name == COMMIT, "the cache will do"
    said = refusal("v1")
    assert "the proxy ftp://h:1 of all_proxy cannot be used" in said and "NO_PROXY=hub.invalid" in said
    assert not hub.is_available(REPOSITORY, "v1")
    assert server.asked == []


def test_a_revision_can_be_pinned(server: HubServer) -> None:
    assert fetch(REPOSITORY, "v1").name == TAGGED
    assert loading.resolve_model(f"{REPOSITORY}@v1")[0] == f"{REPOSITORY}@v1"
    name, folder = loading.resolve_model(REPOSITORY, "v1")
    assert (name, Path(folder).name) == (f"{REPOSITORY}@v1", TAGGED)
    said = refusal("v9")
    assert said.startswith(f"{REPOSITORY} has no revision v9: look it up at http://127.0.0.1:")


def test_what_broke_off_goes_on_where_it_was(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda s: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    server.break_after = 100_000
    folder = fetch(REPOSITORY)
    assert len(server.ranges) == 1
    assert 50_000 < int(server.ranges[0].removeprefix("bytes=").rstrip("-")) <= 100_000
    for name, data in server.files.items():
        if name != "pytorch_model.bin":
            assert (folder / name).read_bytes() == data


def test_the_next_start_fetches_only_what_is_missing(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda s: None)
    server.without = "model-00002-of-00002.safetensors"
    said = refusal()
    assert "cannot send ann/tiny now (503)" in said and "start again to go on from there" in said
    blobs = {path.name for path in (tmp_path / "cache").glob("*/blobs/*")}
    there = {name for name, data in server.files.items() if hashlib.sha256(data).hexdigest() in blobs}
    assert "model-00001-of-00002.safetensors" in there and server.without not in there
    server.without = ""
    server.asked.clear()
    fetch(REPOSITORY)
    sent = {
        call.rpartition("/")[2] for call in server.asked if call.startswith("GET") and "/resolve/" in call
    }
    assert sent and not sent & there


def partials(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").glob(f"*/blobs/*{PARTIAL}"))


def cancel_after(size: int) -> Watch:
    def watch(done: int, total: int) -> None:
        if done > size:
            raise Canceled

    return watch


def break_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Cancel a download after about 500,000 bytes; return its partial file."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    with pytest.raises(Canceled):
        fetch(REPOSITORY, watch=cancel_after(500_000))
    (partial,) = partials(tmp_path)
    return partial


def test_a_canceled_download_goes_on_where_it_was(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    partial = break_off(monkeypatch, tmp_path)
    size = partial.stat().st_size
    assert 450_000 < size <= 504_096 and hub.partial_bytes(REPOSITORY) == size
    heard: list[tuple[int, int]] = []
    folder = fetch(REPOSITORY, watch=lambda done, total: heard.append((done, total)))
    assert server.ranges == [f"bytes={size}-"], "no byte comes twice"
    for name, data in server.files.items():
        if name != "pytorch_model.bin":
            assert (folder / name).read_bytes() == data
    assert partials(tmp_path) == []
    total = sum(len(data) for name, data in server.files.items() if name != "pytorch_model.bin")
    assert {one for _, one in heard} == {total}
    done = [one for one, _ in heard]
    assert done == sorted(done) and done[0] == 0 and size <= done[1] < size + 10_000 and done[-1] == total


def test_what_broke_off_for_good_goes_on_at_the_next_attempt(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.file_download.time.sleep", lambda s: server.__setattr__("refuse", (503, ""))
    )
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    server.break_after = 600_000
    said = refusal()
    assert "cannot send ann/tiny now (503)" in said
    assert 550_000 < hub.partial_bytes(REPOSITORY) <= 600_000
    server.refuse = None
    assert fetch(REPOSITORY).name == COMMIT
    assert server.ranges[-1].startswith("bytes=5") and hub.partial_bytes(REPOSITORY) == 0


def test_a_file_that_has_come_damaged_is_fetched_anew(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    partial = break_off(monkeypatch, tmp_path)
    partial.write_bytes(bytes(partial.stat().st_size))
    assert "has come damaged and is removed" in refusal()
    assert not partials(tmp_path)
    assert fetch(REPOSITORY).name == COMMIT


def test_two_programs_do_not_write_into_one_file(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jet.engine.partial_download._LOCK_S", 0.01)
    blob = hashlib.sha256(server.files["model-00001-of-00002.safetensors"]).hexdigest()
    locked = tmp_path / "cache" / "models--ann--tiny" / "blobs" / f"{blob}.jet-lock"
    locked.parent.mkdir(parents=True)
    with FileLock(locked):
        assert "Another program is fetching ann/tiny" in refusal()


def test_room_for_what_is_made_of_it_is_asked_for_too(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10, 10**8))
    with pytest.raises(CheckpointError, match=r"takes 0\.01 GB and 0\.20 GB for its quantized form"):
        fetch(REPOSITORY, spare=2 * 10**8)
    fetch(REPOSITORY, spare=9 * 10**7)


def test_progress_is_told_while_it_comes(server: HubServer) -> None:
    heard: list[str] = []
    LOADING.listen(heard.append)
    try:
        fetch(REPOSITORY)
    finally:
        LOADING._listeners.remove(heard.append)
    assert heard and all(words.startswith(f"Fetching {REPOSITORY}: ") for words in heard)
    assert LOADING.said is None, "and no longer"


def test_words_of_progress() -> None:
    times = iter([0.0, 10.0, 10.0, 20.0])
    transfer = Transfer("a/b", 4_000_000_000, clock=lambda: next(times))
    assert transfer.words(1_000_000_000) == "Fetching a/b: 1.00 GB of 4.00 GB (25 %)"
    assert transfer.words(2_000_000_000) == "Fetching a/b: 2.00 GB of 4.00 GB (50 %), 100.0 MB/s"


def test_offline_the_cache_suffices(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(REPOSITORY)
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(REPOSITORY) == folder
    assert hub.is_available(REPOSITORY), "or the page would take another model"
    assert server.asked == []


def test_offline_without_the_cache(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refusal()
    assert said.startswith(f"{REPOSITORY} is not whole in the local cache")
    assert "fetch it once with a connection" in said
    assert server.asked == []


def test_an_unreachable_hub_and_the_cache_will_do(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(REPOSITORY)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(REPOSITORY) == folder


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        ((403, "GatedRepo"), ["is gated: accept its license at http://127.0.0.1", "HF_TOKEN"]),
        ((404, "RepoNotFound"), ["is not on the hub, or not for everybody", "HF_TOKEN"]),
        ((401, ""), ["is not on the hub, or not for everybody", "HF_TOKEN"]),
        (
            (500, ""),
            ["cannot send ann/tiny now (500): try again later", "start again to go on from there"],
        ),
    ],
)
def test_what_the_hub_refuses(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, refuse: tuple[int, str], words: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda s: None)
    server.refuse = refuse
    said = refusal()
    for expected in words:
        assert expected in said


def test_no_connection(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda s: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = refusal()
    assert said.startswith(f"The hub cannot be reached for {REPOSITORY}: ")
    assert "give the folder of a checkpoint" in said


def test_a_disk_that_is_too_small_is_seen_before_anything_is_fetched(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    said = refusal()
    assert said.startswith(f"{REPOSITORY} takes 0.01 GB, and only 0.00 GB are free in ")
    assert "HF_HOME" in said
    assert not [call for call in server.asked if call.startswith("GET") and "safetensors" in call]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full: make room in "),
        (PermissionError(errno.EACCES, "Permission denied", "/somewhere"), "/somewhere cannot be written"),
        (httpx.ReadTimeout("timed out"), "The hub cannot be reached for ann/tiny: timed out. What has come"),
        (
            RuntimeError(f"Authorization: Bearer {TOKEN}"),
            "cannot be loaded from the model hub: Authorization",
        ),
        (RuntimeError("said hf_anothersecret"), "said hf_…"),
    ],
)
def test_what_goes_wrong_here(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    assert words in refusal()


def test_half_a_checkpoint_is_none(server: HubServer) -> None:
    (server.folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal()


@pytest.mark.parametrize(
    ("name", "revision", "found"),
    [
        ("a/b", None, ("a/b", None)),
        ("a/b", "v1", ("a/b", "v1")),
        ("a/b@v1", None, ("a/b", "v1")),
        ("a/b@v1", "v1", ("a/b", "v1")),
    ],
)
def test_names_with_revisions(name: str, revision: str | None, found: tuple[str, str | None]) -> None:
    assert split(name, revision) == found


@pytest.mark.parametrize(("name", "revision"), [("a/b@v1", "v2"), ("a/b@", None), ("@v1", None)])
def test_names_that_are_none(name: str, revision: str | None) -> None:
    with pytest.raises(CheckpointError, match="owner/name@revision"):
        split(name, revision)


def test_a_folder_has_no_revisions() -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        loading.resolve_model(str(GOLDEN), "v1")
    with pytest.raises(CheckpointError, match="is a folder"):
        loading.resolve_model("assets/story-model", "v1")


def test_a_network_straight_from_the_hub_is_checked_as_a_folder_is(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = JetNemotronForCausalLM.from_pretrained(REPOSITORY)
    assert model.config.num_hidden_layers == 6
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    JetNemotronForCausalLM.from_pretrained(REPOSITORY)
    assert server.asked == [], "offline the cache will do"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (server.folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for options in ({"revision": "v1"}, {"force_download": True}):
        with pytest.raises(CheckpointError, match="LORA adapter"):
            JetNemotronForCausalLM.from_pretrained(REPOSITORY, **options)
