"""Test that a store returns states as written, only to their user, within a bound, whatever happens."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jet.cache import disk_store
from jet.cache.disk_store import DiskStore, StateFolder, durable_salt, is_durable
from jet.token_ids import Tokens

ANN, BEN = durable_salt("ann"), durable_salt("ben")
LOGITS = torch.arange(7.0)[None]


def tokens(count: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, 1000, count).astype(np.int32)


def states(seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 5, generator=draw), torch.randn(4, 8, generator=draw).bfloat16()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setattr(disk_store, "SPARE", 0)
    return StateFolder(tmp_path / "states", 10**9)


@pytest.fixture
def store(folder: StateFolder) -> Iterator[DiskStore]:
    store = DiskStore(folder, "a model")
    yield store
    store.close()


def save(store: DiskStore, salt: str, text: Tokens, seed: int = 0, logits: Tensor | None = None) -> None:
    store.save(salt, text, states(seed), logits)
    settle(store)


def settle(store: DiskStore) -> None:
    store._worker.submit(lambda: None).result(30)


def load(store: DiskStore, salt: str, text: Tokens, longer_than: int = 0) -> list[Tensor] | None:
    found = store.find(salt, text, longer_than)
    return None if found is None else store.read(found, states(), LOGITS)


def only_file(folder: StateFolder) -> Path:
    ((_, _, path),) = folder.files()
    return path


def test_what_is_read_is_what_was_written_bit_for_bit(store: DiskStore) -> None:
    text = tokens(40)
    save(store, ANN, text[:30], logits=LOGITS)
    read = load(store, ANN, text)
    assert read is not None
    assert all(torch.equal(here, there) for here, there in zip(read, [*states(), LOGITS], strict=True))


def test_the_longest_state_that_begins_a_prompt_is_found(store: DiskStore) -> None:
    text = tokens(40)
    save(store, ANN, text[:30], 1)
    save(store, ANN, text[:20], 2, LOGITS)
    save(store, ANN, tokens(35, seed=9), 3)
    lengths = []
    for prompt in (text, text[:30], text[:21], text[:20], text[:19], tokens(40, seed=8)):
        found = store.find(ANN, prompt)
        lengths.append(None if found is None else found.length)
    assert lengths == [30, 20, 20, 20, None, None], "30 has no logits, so a prompt as long needs another"
    assert store.find(ANN, text, longer_than=30) is None


def test_no_user_and_no_checkpoint_gets_a_state_of_another(store: DiskStore, folder: StateFolder) -> None:
    text = tokens(40)
    save(store, ANN, text[:30])
    assert load(store, BEN, text) is None
    other = DiskStore(folder, "another model")
    assert load(other, ANN, text) is None
    other.close()
    # Not even under the name that it would have.
    path = only_file(folder)
    moved = store._path(BEN, text[:30], False)
    moved.parent.mkdir()
    shutil.copy(path, moved)
    assert store.find(BEN, text) is not None and load(store, BEN, text) is None


def test_names_and_modes_tell_others_nothing(store: DiskStore, folder: StateFolder) -> None:
    text = np.frombuffer(b"once upon a time" * 4, np.int32)
    save(store, ANN, text)
    path = only_file(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(one.stat().st_mode) for one in (folder.path, *path.parents[:2])} == {0o700}
    assert stat.S_IMODE((folder.path / "secret").stat().st_mode) == 0o600
    assert ANN not in str(path) and b"once upon" not in path.read_bytes()
    # Another folder has another secret, and so other names.
    other = DiskStore(StateFolder(folder.path.with_name("other"), 10**9), "a model")
    save(other, ANN, text)
    assert only_file(other._folder).name != path.name
    other.close()


@pytest.mark.parametrize("harm", ["cut", "longer", "flipped", "header", "empty", "link", "folder"])
def test_a_damaged_or_foreign_file_is_skipped_with_a_word(
    store: DiskStore, folder: StateFolder, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = tokens(40)
    save(store, ANN, text[:30])
    path = only_file(folder)
    data = bytearray(path.read_bytes())
    if harm == "cut":
        del data[-5:]
    elif harm == "longer":
        data += b"x"
    elif harm == "flipped":
        data[len(data) // 2] ^= 1
    elif harm == "header":
        data[20] ^= 1
    elif harm == "empty":
        data.clear()
    path.write_bytes(data)
    if harm in ("link", "folder"):
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere")) if harm == "link" else path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert load(store, ANN, text) is None
    assert "prefilled again" in caplog.text
    if harm != "folder":
        assert store.find(ANN, text) is None, "it is not tried again"
        save(store, ANN, text[:30])
        assert load(store, ANN, text) is not None


def test_the_least_recently_used_states_make_room(store: DiskStore, folder: StateFolder) -> None:
    save(store, ANN, tokens(10, 0))
    size = folder.nbytes
    store._folder = StateFolder(folder.path, 3 * size + disk_store._MAX_HEADER)
    for seed in (1, 2):
        save(store, ANN, tokens(10, seed))
    for age, (_, _, path) in enumerate(sorted(folder.files())):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert load(store, ANN, np.append(tokens(10, 0), 1)) is not None  # which uses it
    save(store, BEN, tokens(10, 3))
    there = [
        store.find(salt, np.append(tokens(10, seed), 1)) is not None
        for salt, seed in ((ANN, 0), (ANN, 1), (ANN, 2), (BEN, 3))
    ]
    assert there == [True, False, True, True]
    assert folder.nbytes <= store._folder.limit
    store._folder = StateFolder(folder.path, 10)  # too small for any
    save(store, BEN, tokens(10, 4))
    assert store.find(BEN, np.append(tokens(10, 4), 1)) is None
    smaller = DiskStore(StateFolder(folder.path, size), "a model")  # a smaller limit at the next start
    smaller.close()
    assert len(folder.files()) == 1


def test_a_story_that_goes_on_keeps_its_last_states(store: DiskStore, folder: StateFolder) -> None:
    text = tokens(100)
    for length in range(10, 100, 10):
        save(store, ANN, text[:length])
    save(store, ANN, tokens(15, seed=5))  # another story
    lengths = sorted(found.length for found in store._of_user(ANN))
    assert lengths == [15, 60, 70, 80, 90]


def test_a_full_disk_harms_nothing(
    store: DiskStore, folder: StateFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = tokens(40)
    save(store, ANN, text[:30])
    full = OSError(errno.ENOSPC, "No space left on device")

    def replace(*_: object) -> None:
        raise full

    monkeypatch.setattr(os, "replace", replace)
    for count in (31, 32, 33):
        save(store, ANN, text[:count])
    assert caplog.text.count("No space left") == 1, "said once, then a pause"
    assert [path.suffix for path in only_file(folder).parent.iterdir()] == [".state"]
    assert load(store, ANN, text) is not None
    monkeypatch.undo()
    monkeypatch.setattr(disk_store, "SPARE", 2**60)
    store._pause_until = 0.0
    save(store, ANN, text[:34])
    found = store.find(ANN, text)
    assert found is not None and found.length == 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_crash_in_the_midst_leaves_nothing_that_is_used(folder: StateFolder) -> None:
    """Kill another process before it gives a written file its name; check that the file is not used."""
    folder.open()
    child = os.fork()
    if not child:
        try:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            store = DiskStore(folder, "a model")
            store._write(ANN, np.arange(30, dtype=np.int32), [torch.ones(1000)], None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = folder.path.glob("*/*/.*.tmp")
    store = DiskStore(folder, "a model")
    assert store.find(ANN, np.arange(40, dtype=np.int32)) is None and folder.nbytes == 0
    os.utime(left, (0, 0))
    store.close()
    DiskStore(folder, "a model").close()
    assert not left.exists(), "the next start has removed it"


def test_two_stores_share_a_folder(store: DiskStore, folder: StateFolder) -> None:
    other, text = DiskStore(folder, "a model"), tokens(40)
    save(store, ANN, text[:30], 1)
    save(other, ANN, text[:35], 2)
    read = load(store, ANN, text)
    assert read is not None and torch.equal(read[0], states(2)[0])
    other.forget(ANN)
    settle(other)
    assert load(store, ANN, text) is None
    other.close()


def test_forgetting_removes_a_user_from_every_checkpoint(store: DiskStore, folder: StateFolder) -> None:
    other, text = DiskStore(folder, "another model"), tokens(40)
    for one in (store, other):
        save(one, ANN, text[:30])
        save(one, BEN, text[:30])
    store.save(ANN, text[:35], states(), None)  # still to be written
    store.forget(ANN)
    settle(store)
    assert [load(one, ANN, text) for one in (store, other)] == [None, None]
    assert all(load(one, BEN, text) is not None for one in (store, other))
    StateFolder(folder.path.with_name("nowhere"), 1).forget(ANN)  # does nothing
    other.close()


def test_the_folder_may_be_removed_at_any_time(store: DiskStore, folder: StateFolder) -> None:
    text = tokens(40)
    save(store, ANN, text[:30])
    found = store.find(ANN, text)
    assert found is not None
    shutil.rmtree(folder.path)
    assert store.read(found, states(), LOGITS) is None
    assert store.find(ANN, text) is None
    save(store, ANN, text[:30])
    assert load(store, ANN, text) is not None


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "states"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        DiskStore(StateFolder(open_to_all, 10**9), "a model")
    with pytest.raises(OSError):
        DiskStore(StateFolder(Path(__file__), 10**9), "a model")


def test_a_secret_that_was_cut_off_is_made_again(folder: StateFolder) -> None:
    folder.open()
    secret = folder.path / "secret"
    secret.write_bytes(b"short")
    os.utime(secret, (time.time() - 60, time.time() - 60))
    assert len(folder.open()) == 32
    assert folder.open() == folder.open()


def test_salts_are_durable_by_their_form() -> None:
    assert is_durable(ANN) and ANN != BEN and durable_salt("ann") == ANN
    assert durable_salt("a", "b") != durable_salt("ab", "")
    assert not is_durable("") and not is_durable("a tab's own")
