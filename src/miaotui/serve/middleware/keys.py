"""API keys and their limits.

Owns the key file and the comparison of what a client shows with what a file holds. A line is ``name: sha256-<64 hex
digits> [admin] [rpm=N] [tpm=N] [concurrent=N]``; the keys themselves, 256 random bits each, are printed once when they
are made and kept nowhere, so a fast hash is enough. Each line stands for a caller of its own; files of tenants
(`serve.tenants`) give one caller several keys. Knows nothing of HTTP. Invariant: the time of a comparison does
not depend on what was shown.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from miaotui.errors import RequestError
from miaotui.serve.tenants.allowance import EVERYTHING, Allowance
from miaotui.types import namespace_number

KEY_PREFIX = "mt-"
ADMIN = "admin"  # the word of a line whose key may change how the server runs
MAX_KEY_BYTES = 512  # longer ones are no keys of ours and are not hashed
MAX_FILE_BYTES = 1 << 20
CHECK_EVERY_S = 2.0  # unless `Keyring.refresh` is called more often

KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256-([0-9a-f]{64})")
_LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrent": "concurrent"}


@dataclass(frozen=True)
class KeyLimits:
    """Limits of one key; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


UNLIMITED = KeyLimits()


@dataclass(frozen=True)
class Key:
    """One line of the key file."""

    name: str
    digest: bytes  # SHA-256, 32 bytes
    limits: KeyLimits = UNLIMITED
    is_admin: bool = False


@dataclass(frozen=True)
class Caller:
    """A client, known by its key; all keys of a tenant stand for one caller.

    Prefixes and past answers are shared within a ``namespace`` only. ``name`` is shown and counted; what a caller
    leaves behind belongs to its `owner`.
    """

    name: str = ""
    namespace: int = 0
    limits: KeyLimits = UNLIMITED
    is_admin: bool = False  # whether it may change how the server runs
    key: str = ""  # the name of the key that was shown
    life: str = ""  # tells a tenant from an earlier one of its name
    allowance: Allowance = EVERYTHING

    @property
    def owner(self) -> str:
        """Return whose the caller's answers, conversations and saved responses are; "" for anyone."""
        return f"{self.name}@{self.life}" if self.life else self.name


ANYONE = Caller()
Callers = list[tuple[bytes, Caller]]  # each with the digest of a key


def hash_key(key: bytes) -> bytes:
    """Return the digest of a key, 32 bytes."""
    return hashlib.sha256(key).digest()


def read_keys(path: Path) -> list[Key]:
    """Read the keys in a file. Raises `RequestError` that names the file and the line."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes: not a key file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"cannot read the key file {path}: {error.strerror}. `miaotui key NAME` makes one"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"the key file {path} is not UTF-8 text") from error
    keys = list(_parse(text, path))
    for what, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if len(set(values)) != len(values):
            raise RequestError(f"{path}: the same {what} stands there twice; each may occur once")
    return keys


def add_key(path: Path, name: str, limits: KeyLimits = UNLIMITED, *, is_admin: bool = False) -> str:
    """Make a key, append its hash to the file, and return it: it is shown only now.

    Raises `RequestError` for a name that is taken or not a name.
    """
    if not KEY_NAME.fullmatch(name):
        raise RequestError(f"a key's name has 1 to 64 letters, digits, dots, dashes and underscores, not {name!r}")
    known = read_keys(path) if path.exists() else []
    if any(key.name == name for key in known):
        raise RequestError(f"{path} has a key named {name}: choose another name, or remove it")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    words = [f"{name}: sha256-{hash_key(key.encode()).hex()}", *([ADMIN] if is_admin else [])]
    for short, field in _LIMITS.items():
        value = getattr(limits, field)
        if value is not None:
            words.append(f"{short}={value}")
    try:
        _append(path, " ".join(words) + "\n")
    except OSError as error:
        raise RequestError(f"cannot write the key file {path}: {error.strerror}") from error
    return key


def read_callers(path: Path) -> Callers:
    """Read the callers of a key file, one for each line. Raises `RequestError`."""
    return [
        (key.digest, Caller(key.name, namespace_number(key.name), key.limits, key.is_admin, key.name))
        for key in read_keys(path)
    ]


class Keyring:
    """The keys of a running server; a changed file is read again when a key is looked up, or by `refresh`.

    A file that has become unreadable or wrong changes nothing: the last good keys stay, and
    ``on_error`` gets the reason. ``on_gone`` gets each caller of which the file has no key any more.
    """

    def __init__(
        self,
        path: Path,
        *,
        read: Callable[[Path], Callers] = read_callers,
        share_prefix: bool = False,
        on_error: Callable[[str], None] = lambda reason: None,
        on_gone: Callable[[Caller], None] = lambda caller: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._share, self._on_error, self._clock = path, share_prefix, on_error, clock
        self._read, self._on_gone = read, on_gone
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._keys = self._callers()
        self._checked_s = clock()

    def find(self, shown: bytes) -> Caller | None:
        """Return the caller of a key; None for an unknown key. Every known key is compared, found or not."""
        self._refresh()
        digest = hash_key(shown[:MAX_KEY_BYTES])
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found if len(shown) <= MAX_KEY_BYTES else None

    def __len__(self) -> int:
        return len(self._keys)

    def _callers(self) -> Callers:
        found = self._read(self._path)
        return [(digest, replace(caller, namespace=0)) for digest, caller in found] if self._share else found

    def _refresh(self) -> None:
        if self._clock() - self._checked_s >= CHECK_EVERY_S:
            self.refresh()

    def refresh(self, *, always: bool = False) -> None:
        """Read the file again if it has changed, or ``always``."""
        with self._lock:
            self._checked_s = self._clock()
            stamp = _stamp(self._path)
            if stamp == self._stamp and not always:
                return
            self._stamp = stamp
            before = {caller.owner: caller for _, caller in self._keys}
            try:
                self._keys = self._callers()
            except RequestError as error:
                self._on_error(f"{error}. The keys read before stay in force")
                return
            kept = {caller.owner for _, caller in self._keys}
        for owner, caller in before.items():
            if owner not in kept:
                self._on_gone(caller)


def _parse(text: str, path: Path) -> Iterator[Key]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        name, colon, rest = stripped.partition(":")
        words = rest.split()
        digest = _DIGEST.fullmatch(words[0]) if words else None
        if not (colon and KEY_NAME.fullmatch(name.strip()) and digest):
            raise RequestError(
                f"{path}, line {number}: expected `name: sha256-<64 hex digits> [admin] [rpm=N] [tpm=N] "
                "[concurrent=N]`; `miaotui key NAME` appends such a line"
            )
        is_admin = words[1:2] == [ADMIN]
        limits = _limits(words[1 + is_admin :], path, number)
        yield Key(name.strip(), bytes.fromhex(digest[1]), limits, is_admin)


def _limits(words: list[str], path: Path, number: int) -> KeyLimits:
    found: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in _LIMITS or not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            raise RequestError(
                f"{path}, line {number}: {word!r} is no limit; there are rpm=N, tpm=N and "
                "concurrent=N with N from 1 to 999,999,999"
            )
        found[_LIMITS[name]] = int(value)
    return KeyLimits(**found)


def _append(path: Path, line: str) -> None:
    before = path.read_bytes() if path.exists() else b""
    start = "" if not before or before.endswith(b"\n") else "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (start + line).encode())
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
