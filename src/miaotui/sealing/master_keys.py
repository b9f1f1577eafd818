"""Master keys, and the data keys that they wrap.

Owns where master keys come from, and the form of a wrapped key: the master key's id (8 bytes), a nonce (12) and the
data key under AES-256-GCM (48). Knows no files but its own. Invariants: a data key is random, serves one file, and is
stored under a master key alone; a wrong master key ends in one `EncryptionKeyError` that names the id of the right one.
Source: NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaotui.errors import EncryptionKeyError, RequestError
from miaotui.libraries import need

FILE_VARIABLE, KEY_VARIABLE = "MIAOTUI_ENCRYPTION_KEY_FILE", "MIAOTUI_ENCRYPTION_KEY"
KEY_BYTES, NONCE_BYTES, ID_BYTES = 32, 12, 8
WRAPPED_BYTES = ID_BYTES + NONCE_BYTES + KEY_BYTES + 16
MOST_FILE_BYTES, MOST_KEYS = 1 << 16, 64
_PURPOSE = b"miaotui data key\0"


@dataclass(frozen=True, repr=False)
class MasterKey:
    """One master key, 32 bytes. Its id reveals nothing of it."""

    secret: bytes

    @property
    def id(self) -> bytes:
        """Return the name of the key, 8 bytes of SHA-256."""
        return hashlib.sha256(b"miaotui master key\0" + self.secret).digest()[:ID_BYTES]

    def __repr__(self) -> str:
        return f"MasterKey({self.id.hex()})"


@dataclass(frozen=True)
class MasterKeys:
    """The key that wraps new data keys, and earlier ones that open what they have wrapped."""

    current: MasterKey
    earlier: Sequence[MasterKey] = ()

    @staticmethod
    def from_env(env: Mapping[str, str] | None = None) -> MasterKeys | None:
        """Return the keys that the environment names; None: nothing is to be encrypted. Raises `RequestError`."""
        env = os.environ if env is None else env
        path, text = env.get(FILE_VARIABLE), env.get(KEY_VARIABLE)
        if path and text:
            raise RequestError(f"{FILE_VARIABLE} and {KEY_VARIABLE} are both set: unset one of them")
        if path:
            return read_key_file(Path(path))
        return MasterKeys(_parse(text, KEY_VARIABLE)) if text else None

    @staticmethod
    def required(what: str, env: Mapping[str, str] | None = None) -> MasterKeys:
        """Return the keys of the environment. Raises `EncryptionKeyError` where there are none."""
        found = MasterKeys.from_env(env)
        if found is None:
            raise EncryptionKeyError(f"{what} is encrypted: set {FILE_VARIABLE} to the file with its master key")
        return found

    def new_data_key(self, context: str) -> tuple[bytes, bytes]:
        """Return a random data key and its wrapped form."""
        made = os.urandom(KEY_BYTES)
        return made, self.wrap(made, context)

    def wrap(self, data_key: bytes, context: str) -> bytes:
        """Return a data key under the current master key; it opens in the same ``context`` only."""
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = aead(self.current.secret).encrypt(nonce, data_key, _PURPOSE + context.encode())
        return self.current.id + nonce + sealed

    def unwrap(self, wrapped: bytes, context: str, what: str) -> bytes:
        """Return the data key of ``what``. Raises `EncryptionKeyError`."""
        wanted = wrapped[:ID_BYTES]
        key = next((each for each in (self.current, *self.earlier) if each.id == wanted), None)
        if key is None or len(wrapped) != WRAPPED_BYTES:
            raise EncryptionKeyError(
                f"{what} is encrypted under the master key {wanted.hex()}, and the key given is "
                f"{self.current.id.hex()}: put that key into the key file, as another line"
            )
        nonce, sealed = wrapped[ID_BYTES : ID_BYTES + NONCE_BYTES], wrapped[ID_BYTES + NONCE_BYTES :]
        try:
            found: bytes = aead(key.secret).decrypt(nonce, sealed, _PURPOSE + context.encode())
        except need("cryptography.exceptions").InvalidTag:
            raise EncryptionKeyError(f"the data key of {what} is damaged, or it is another file's") from None
        return found

    def is_current(self, wrapped: bytes) -> bool:
        """Return whether a data key is wrapped under the current master key."""
        return wrapped[:ID_BYTES] == self.current.id


def read_key_file(path: Path) -> MasterKeys:
    """Read a key file: a key in each line, the current one first, then earlier ones. Raises `RequestError`."""
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise RequestError(f"{path} is larger than {MOST_FILE_BYTES:,} bytes: not a key file")
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the key file {path}: {error}. `miaotui encryption key` makes one") from error
    texts = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not 1 <= len(texts) <= MOST_KEYS:
        raise RequestError(f"{path} must hold 1 to {MOST_KEYS} keys, not {len(texts)}")
    keys = [_parse(text, f"{path}, key {number}") for number, text in enumerate(texts, 1)]
    return MasterKeys(keys[0], tuple(keys[1:]))


def add_master_key(path: Path) -> MasterKey:
    """Put a new key before those of a file, which is made if it is missing; return it. Raises `RequestError`."""
    before = path.read_text(encoding="ascii") if path.exists() else ""
    if before:
        read_key_file(path)
    secret = os.urandom(KEY_BYTES)
    part = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(base64.b64encode(secret).decode() + "\n" + before)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise RequestError(f"cannot write the key file {path}: {error}. Remove {part} if it is left over") from error
    return MasterKey(secret)


def aead(key: bytes) -> Any:
    """Return AES-256-GCM under a key. Raises `MissingLibraryError`."""
    return need("cryptography.hazmat.primitives.ciphers.aead").AESGCM(key)


def _parse(text: str, where: str) -> MasterKey:
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise RequestError(f"{where}: expected {KEY_BYTES} bytes in base64: `miaotui encryption key FILE` makes a key")
    return MasterKey(secret)
