"""Sealed cells of a database: each value under the database's own data key, and keys that can be looked up blindly.

Owns the form of a cell: a nonce (12 bytes) and the value under AES-256-GCM; and the row that holds the wrapped data
key. Knows SQLite and no tables but its own. Invariants: a cell opens only in its own place (its ``context``); equal
lookup keys give equal blind ones, from which nothing can be guessed without the data key.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3

from miaotui.errors import EncryptionKeyError
from miaotui.libraries import need
from miaotui.sealing.master_keys import KEY_BYTES, NONCE_BYTES, MasterKeys, aead

_TABLE = "CREATE TABLE IF NOT EXISTS sealing (id INTEGER PRIMARY KEY CHECK (id = 1), wrapped BLOB NOT NULL)"


class CellCipher:
    """Cipher of one database. Safe to use from several threads."""

    def __init__(self, data_key: bytes) -> None:
        derive = need("cryptography.hazmat.primitives.kdf.hkdf").HKDF
        sha256 = need("cryptography.hazmat.primitives.hashes").SHA256

        def key_for(purpose: bytes) -> bytes:
            found: bytes = derive(algorithm=sha256(), length=KEY_BYTES, salt=None, info=purpose).derive(data_key)
            return found

        self._aead, self._blinding = aead(key_for(b"miaotui cells")), key_for(b"miaotui lookups")

    def seal(self, value: bytes, context: bytes) -> bytes:
        """Return a value as it is stored."""
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = self._aead.encrypt(nonce, value, context)
        return nonce + sealed

    def open(self, cell: bytes, context: bytes) -> bytes:
        """Return the value of a cell. Raises `EncryptionKeyError` for one that is damaged or of another place."""
        try:
            found: bytes = self._aead.decrypt(cell[:NONCE_BYTES], cell[NONCE_BYTES:], context)
        except (need("cryptography.exceptions").InvalidTag, ValueError):
            raise EncryptionKeyError(
                "a sealed value of the database is damaged, or stands in another's place"
            ) from None
        return found

    def blind(self, key: bytes) -> bytes:
        """Return a lookup key as it is stored, 20 bytes."""
        return hashlib.blake2b(key, digest_size=20, key=self._blinding).digest()

    def blind_number(self, number: int) -> int:
        """Return a lookup number as it is stored, 63 bits."""
        return int.from_bytes(self.blind(number.to_bytes(16, "little", signed=True))[:8], "little") >> 1


def is_sealed(db: sqlite3.Connection) -> bool:
    """Return whether a database has sealed cells."""
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'sealing'"
    return bool(db.execute(query).fetchone()[0]) and bool(db.execute("SELECT count(*) FROM sealing").fetchone()[0])


def open_cells(db: sqlite3.Connection, keys: MasterKeys, context: str, what: str) -> CellCipher:
    """Return the cipher of a sealed database. Raises `EncryptionKeyError`."""
    wrapped = db.execute("SELECT wrapped FROM sealing").fetchone()[0]
    return CellCipher(keys.unwrap(bytes(wrapped), context, what))


def begin_cells(db: sqlite3.Connection, keys: MasterKeys, context: str) -> CellCipher:
    """Give a database a data key. Call it in a transaction."""
    data_key, wrapped = keys.new_data_key(context)
    db.execute(_TABLE)
    db.execute("INSERT INTO sealing VALUES (1, ?)", (wrapped,))
    return CellCipher(data_key)


def rewrap_cells(db: sqlite3.Connection, keys: MasterKeys, context: str, what: str) -> bool:
    """Wrap the data key of a database under the current master key. Returns whether that was needed."""
    if not is_sealed(db):
        return False
    wrapped = bytes(db.execute("SELECT wrapped FROM sealing").fetchone()[0])
    if keys.is_current(wrapped):
        return False
    with db:
        db.execute("UPDATE sealing SET wrapped = ?", (keys.wrap(keys.unwrap(wrapped, context, what), context),))
    return True
