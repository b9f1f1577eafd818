"""API keys: the file, what is shown against what is known, changes while running."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.serve.middleware.keys import KeyLimits, Keyring, add_key, hash_key, read_keys


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def line(name: str, key: str, rest: str = "") -> str:
    return f"{name}: sha256-{hash_key(key.encode()).hex()} {rest}\n"


def test_a_new_key_opens_the_door_and_is_kept_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first = add_key(path, "alice")
    second = add_key(path, "bob", KeyLimits(requests_per_minute=5, concurrent=2))
    assert first not in path.read_text()
    assert second not in path.read_text()
    assert len(first) >= 40
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = Keyring(path)
    alice, bob = ring.find(first.encode()), ring.find(second.encode())
    assert alice is not None
    assert bob is not None
    assert (alice.name, bob.name) == ("alice", "bob")
    assert alice.namespace != bob.namespace
    assert 0 not in (alice.namespace, bob.namespace)
    assert bob.limits == KeyLimits(requests_per_minute=5, concurrent=2)


def test_namespaces_are_one_when_prefixes_are_shared(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = [add_key(path, name) for name in ("alice", "bob")]
    ring = Keyring(path, share_prefix=True)
    found = [ring.find(key.encode()) for key in keys]
    assert [caller.namespace for caller in found if caller is not None] == [0, 0]


@given(st.binary(max_size=600))
def test_what_is_not_a_key_finds_nobody(shown: bytes) -> None:
    ring = Keyring.__new__(Keyring)
    ring.__dict__ |= {"_keys": [(hash_key(b"mt-real"), None)], "_checked_s": 0.0}
    ring.__dict__["_clock"] = lambda: 0.0
    assert shown == b"mt-real" or ring.find(shown) is None


def test_the_hash_itself_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "alice")
    ring = Keyring(path)
    for shown in (hash_key(key.encode()), hash_key(key.encode()).hex().encode(), b"alice", b""):
        assert ring.find(shown) is None
    assert ring.find(key.encode() + b"x" * 600) is None


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path, clock, said = tmp_path / "keys", Clock(), list[str]()
    path.write_text(line("alice", "one"))
    ring = Keyring(path, clock=clock, on_error=said.append)
    path.write_text(line("bob", "second") + line("alice", "three"))
    before = ring.find(b"one")
    assert before is not None, "not looked at again yet"
    clock.now += 2
    assert ring.find(b"one") is None
    alice, bob = ring.find(b"three"), ring.find(b"second")
    assert alice is not None
    assert bob is not None
    assert alice.namespace == before.namespace, "prefixes stay with the name"
    assert bob.namespace not in (0, alice.namespace)
    path.write_text("nonsense")
    clock.now += 2
    assert ring.find(b"second") == bob
    assert len(said) == 1
    path.unlink()
    clock.now += 2
    assert ring.find(b"second") == bob
    assert len(said) == 2
    path.write_text("# everyone is out\n")
    clock.now += 2
    assert ring.find(b"second") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alice", "line 1"),
        ("alice: 0123", "line 1"),
        ("\n# fine\nal ice: sha256-" + "0" * 64, "line 3"),
        ("alice: sha256-" + "g" * 64, "line 1"),
        ("alice: sha256-" + "0" * 63, "line 1"),
        ("alice: sha256-" + "0" * 64 + " rpm=0", "rpm=0"),
        ("alice: sha256-" + "0" * 64 + " speed=1", "speed=1"),
        ("alice: sha256-" + "0" * 64 + " rpm=-1", "rpm=-1"),
        ("../etc: sha256-" + "0" * 64, "line 1"),
        (line("alice", "one") + line("alice", "two"), "same name"),
        (line("alice", "one") + line("bob", "one"), "same key"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        read_keys(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"# " + b"x" * (1 << 20)])
def test_files_that_are_no_key_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(RequestError):
        read_keys(path)
    with pytest.raises(RequestError, match="miaotui key"):
        read_keys(tmp_path / "missing")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../x", "x\ny", "é", "a" * 65, "#a"])
def test_names_are_plain_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="name"):
        add_key(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


def test_a_name_is_given_once_and_lines_do_not_run_together(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line("alice", "one").strip())  # no newline at its end
    add_key(path, "bob")
    assert [key.name for key in read_keys(path)] == ["alice", "bob"]
    with pytest.raises(RequestError, match="bob"):
        add_key(path, "bob")
