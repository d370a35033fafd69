"""Test accounts and logging in."""

from __future__ import annotations

from pathlib import Path

import pytest

from jet.server import accounts
from jet.server.accounts import Accounts, AccountsError, hash_password, main


def test_the_right_password_of_the_right_name(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.write_text(f"# ours\n\nann:{hash_password('pass:word')}\nbob:{hash_password('другой')}\n")
    known = Accounts.read(file)
    assert known("ann", "pass:word") and known("bob", "другой")
    for name, password in [("ann", "другой"), ("ann", ""), ("cat", "pass:word"), ("", ""), ("ann", "\ud800")]:
        assert not known(name, password)


HASHED = hash_password("a password")
WRITTEN = {
    "byte order mark": f"\ufeffann:{HASHED}\n".encode(),
    "byte order mark and comment": f"\ufeff# ours\nann:{HASHED}\n".encode(),
    "CR LF": f"# ours\r\n\r\nann:{HASHED}\r\n".encode(),
    "CR": f"# ours\r\rann:{HASHED}\r".encode(),
    "both": f"\ufeff\r\nann:{HASHED}\r\n".encode(),
    "blank lines": f"\n  \n\t\nann:{HASHED}\n\n".encode(),
    "indented comment": f"  # ours\n  ann:{HASHED}\n".encode(),
    "blanks around": f"ann : {HASHED}  \n".encode(),
    "no line end": f"ann:{HASHED}".encode(),
    "UTF-16": f"ann:{HASHED}\r\n".encode("utf-16"),
    "UTF-16, the other way": b"\xfe\xff" + f"ann:{HASHED}\r\n".encode("utf-16-be"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_the_first_account_gets_in_however_the_file_was_written(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "accounts"
    file.write_bytes(WRITTEN[how])
    assert Accounts.read(file)("ann", "a password")
    monkeypatch.setattr(accounts.getpass, "getpass", lambda prompt: "another password")
    assert main([str(file), "ann"]) == 0
    known = Accounts.read(file)
    assert known("ann", "another password") and not known("ann", "a password")


def test_a_file_that_is_no_text_is_told_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    for data in (b"ann:pass\xffword", b"\xff\xfea"):
        file.write_bytes(data)
        with pytest.raises(AccountsError, match="it is no text in UTF-8"):
            Accounts.read(file)
    with pytest.raises(AccountsError, match="cannot be read: Is a directory"):
        Accounts.read(tmp_path)


def test_a_password_is_not_in_the_file_and_not_hashed_alike() -> None:
    first, second = hash_password("password"), hash_password("password")
    assert first != second and "password" not in first


def test_an_account_is_added_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "accounts"
    for name, password in [("ann", "first password"), ("bob", "bob's password"), ("ann", "second one")]:
        monkeypatch.setattr(accounts.getpass, "getpass", lambda prompt, password=password: password)
        assert main([str(file), name]) == 0
    known = Accounts.read(file)
    assert (
        known("ann", "second one") and known("bob", "bob's password") and not known("ann", "first password")
    )
    assert file.stat().st_mode & 0o077 == 0, "only the owner may read it"


@pytest.mark.parametrize("name", ["a:b", " a", "#a"])
def test_a_name_that_cannot_stand_in_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "accounts"), name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no account"),
        ("ann:password\n", "line 1, is no account: make one with"),
        ("ann\n", "line 1"),
        (f"ann:{hash_password('x')}\nann:{hash_password('y')}\n", "line 2"),
        ("ann:scrypt$AAAA$AAAA\n", "line 1"),
        (f":{hash_password('x')}\n", "line 1"),
    ],
    ids=["empty", "plain", "no password", "twice", "no hash", "no name"],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "accounts"
    file.write_text(text)
    with pytest.raises(AccountsError, match=message) as error:
        Accounts.read(file)
    assert "password" not in str(error.value), "what stands there may be one"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AccountsError, match="cannot be read"):
        Accounts.read(tmp_path / "nothing")
