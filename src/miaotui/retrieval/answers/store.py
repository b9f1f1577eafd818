"""Storage of kept answers: one SQLite file, bounded in size and age.

Owns the tables, eviction, and recovery when the file is damaged, locked or on a full disk. Knows neither questions
nor models: keys are digests, payloads are bytes. Invariants: a row that does not match its checksum is never
returned; a damaged file is put aside and a new one begun, so no caller ever fails for it; what was dropped by name is
in no file any more when the call returns (`PRAGMA secure_delete`, and the write-ahead log is emptied). Write-ahead
logging: a killed process leaves the file whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from miaotui.config import cache_error, make_folder
from miaotui.errors import CacheError, EncryptionKeyError
from miaotui.retrieval.answers.erasing import empty_log
from miaotui.sealing.cells import CellCipher, begin_cells, is_sealed, open_cells
from miaotui.sealing.master_keys import MasterKeys

_LOG = logging.getLogger(__name__)
_FORMAT = 2  # 2: with the indexes that an answer is from
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, scope BLOB NOT NULL, namespace BLOB NOT NULL,
  question TEXT, payload BLOB NOT NULL, checksum BLOB NOT NULL,
  made_s REAL NOT NULL, used_s REAL NOT NULL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS answers_used ON answers (used_s);
CREATE INDEX IF NOT EXISTS answers_made ON answers (made_s);
CREATE TABLE IF NOT EXISTS bands (
  band INTEGER NOT NULL, answer INTEGER NOT NULL REFERENCES answers (id) ON DELETE CASCADE,
  PRIMARY KEY (band, answer)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bands_answer ON bands (answer);
CREATE TABLE IF NOT EXISTS grounds (
  ground BLOB NOT NULL, answer INTEGER NOT NULL REFERENCES answers (id) ON DELETE CASCADE,
  PRIMARY KEY (ground, answer)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS grounds_answer ON grounds (answer);
CREATE INDEX IF NOT EXISTS answers_namespace ON answers (namespace);
"""
_ROW_BYTES, _BAND_BYTES = 300, 60  # about what a row and its indexes take besides its texts
_USED_EVERY_S = 60.0  # how stale the time of last use may be: reads should not all write
_RECOUNT = 256  # puts between two counts of all bytes; other processes may share the file
_MOST_NEAR = 256
CONTEXT = "answers"  # of the wrapped data key
_QUESTION, _PAYLOAD = b"question", b"payload"
DAMAGED = ".damaged"  # after the name of a file that was put aside
T = TypeVar("T")


@dataclass(frozen=True)
class KeptAnswer:
    """Kept answer. ``made_s`` is in seconds of `time.time`."""

    key: bytes
    question: str | None
    payload: bytes
    made_s: float


@dataclass(frozen=True)
class AnswerEntry:
    """Answer to be kept, with its keys."""

    key: bytes
    scope: bytes
    namespace: bytes
    payload: bytes
    question: str | None = None  # only if it may serve similar ones
    bands: Sequence[int] = ()
    grounds: Sequence[bytes] = ()  # indexes that it was made from

    @property
    def size(self) -> int:
        """Return about how many bytes it takes on disk."""
        text = len(self.payload) + len((self.question or "").encode("utf-8", "surrogatepass"))
        return text + _ROW_BYTES + _BAND_BYTES * len(self.bands)


class AnswerStore:
    """File of answers, for all threads of this process. Other processes may share it.

    ``path`` None keeps them in memory. Raises `CacheError` if the file cannot be made.
    """

    def __init__(
        self,
        path: Path | None,
        max_bytes: int,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
        keys: MasterKeys | None = None,
    ) -> None:
        self.path, self.max_bytes, self.max_age_s = path, max_bytes, max_age_s
        self.failures = self.rebuilt = self.evicted = 0
        self._clock, self._master = clock, keys
        self._cells: CellCipher | None = None  # None: questions and answers are plain
        self._lock = threading.Lock()
        self._puts = self._bytes = 0
        if path is not None:
            make_folder(path.parent)
        try:
            self._db = self._open()
        except sqlite3.OperationalError as error:
            raise _unusable(error, path) from error
        except sqlite3.DatabaseError:
            self._db = self._begin_anew()

    # reading --------------------------------------------------------------------------------------

    def get(self, key: bytes) -> KeptAnswer | None:
        """Return the answer under ``key``, if it is there, sound and not too old."""
        return self._guarded(lambda: self._get(self._hidden(key)), None)

    def near(self, scope: bytes, bands: Sequence[int]) -> list[tuple[bytes, str]]:
        """Return (key, question) of answers in the same scope that share a band."""
        marks = ",".join("?" * len(bands))
        bands, scope = self._hidden_numbers(bands), self._hidden(scope)
        query = (
            "SELECT DISTINCT a.key, a.question FROM bands b JOIN answers a ON a.id = b.answer "  # noqa: S608  (question marks and a number)
            f"WHERE b.band IN ({marks}) AND a.scope = ? AND a.made_s >= ? "
            f"AND a.question IS NOT NULL LIMIT {_MOST_NEAR}"
        )
        values = (*bands, scope, self._clock() - self.max_age_s)

        def work() -> list[tuple[bytes, str]]:
            rows = self._db.execute(query, values)
            return [(key, str(self._shown(question, key, _QUESTION))) for key, question in rows]

        return self._guarded(work, [])

    def get_near(self, key: bytes) -> KeptAnswer | None:
        """Return the answer under a key that `near` gave."""
        return self._guarded(lambda: self._get(key), None)

    def count(self) -> tuple[int, int]:
        """Return (answers, their bytes)."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM answers"
        row = self._guarded(lambda: self._db.execute(query).fetchone(), (0, 0))
        return int(row[0]), int(row[1])

    # writing --------------------------------------------------------------------------------------

    def put(self, entry: AnswerEntry) -> bool:
        """Keep an answer, in place of an older one under its key. Returns whether that succeeded."""
        if entry.size > self.max_bytes // 8:
            return False
        return self._guarded(lambda: self._put(entry), False)

    def drop(self, key: bytes) -> bool:
        """Drop one answer, from all files. Returns whether there was one."""
        return self._guarded(lambda: self._erase("DELETE FROM answers WHERE key = ?", self._hidden(key)), 0) > 0

    def drop_namespace(self, namespace: bytes) -> int:
        """Drop all answers of one namespace, from all files. Returns how many there were."""
        query = "DELETE FROM answers WHERE namespace = ?"
        return self._guarded(lambda: self._erase(query, self._hidden(namespace)), 0)

    def drop_ground(self, ground: bytes) -> int:
        """Drop all answers that were made from an index, from all files. Returns how many there were."""
        query = "DELETE FROM answers WHERE id IN (SELECT answer FROM grounds WHERE ground = ?)"
        return self._guarded(lambda: self._erase(query, self._hidden(ground)), 0)

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        with self._lock:
            self._db.close()

    # the work, under the lock ---------------------------------------------------------------------

    def _guarded(self, work: Callable[[], T], otherwise: T) -> T:
        """Run an operation on the file. Failures are logged, repaired if possible, and never raised."""
        with self._lock:
            try:
                return work()
            except EncryptionKeyError as error:  # of one value
                self.failures += 1
                _LOG.warning("answer cache: %s", error)
            except sqlite3.ProgrammingError:  # closed: the server is leaving
                self.failures += 1
            except sqlite3.OperationalError as error:  # locked, full, read-only
                self.failures += 1
                _LOG.warning("answer cache: %s", error)
                self._roll_back()
            except sqlite3.DatabaseError as error:
                _LOG.warning("answer cache is damaged (%s): begun anew", error)
                self._roll_back()
                self._db.close()
                try:
                    self._db = self._begin_anew()
                except (sqlite3.Error, OSError):
                    self._db = _connect(None)
        return otherwise

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.rollback()
        except sqlite3.Error:
            self.failures += 1

    def _get(self, key: bytes) -> KeptAnswer | None:
        query = "SELECT id, question, payload, checksum, made_s, used_s FROM answers WHERE key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        if row is None:
            return None
        number, question, payload, checksum, made_s, used_s = row
        now = self._clock()
        sound = isinstance(payload, bytes) and _checksum(key, payload) == checksum
        if not sound or made_s < now - self.max_age_s:
            with self._db:
                self._db.execute("DELETE FROM answers WHERE id = ?", (number,))
            return None
        if used_s < now - _USED_EVERY_S:
            with self._db:
                self._db.execute("UPDATE answers SET used_s = ? WHERE id = ?", (now, number))
        shown = self._shown(question, key, _QUESTION)
        return KeptAnswer(key, shown, bytes(self._shown(payload, key, _PAYLOAD)), made_s)

    def _put(self, entry: AnswerEntry) -> bool:
        now = self._clock()
        key = self._hidden(entry.key)
        payload = self._sealed(entry.payload, key, _PAYLOAD)
        question = self._sealed(entry.question, key, _QUESTION)
        texts = (question, payload, _checksum(key, payload))
        entry_values = (key, self._hidden(entry.scope), self._hidden(entry.namespace), *texts)
        with self._db:
            self._db.execute("DELETE FROM answers WHERE key = ?", (key,))
            number = self._db.execute(
                "INSERT INTO answers (key, scope, namespace, question, payload, checksum, made_s, "
                "used_s, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*entry_values, now, now, entry.size),
            ).lastrowid
            bands = [(band, number) for band in set(self._hidden_numbers(entry.bands))]
            self._db.executemany("INSERT INTO bands VALUES (?, ?)", bands)
            grounds = [(self._hidden(ground), number) for ground in set(entry.grounds)]
            self._db.executemany("INSERT INTO grounds VALUES (?, ?)", grounds)
        self._puts += 1
        self._bytes += entry.size
        if self._bytes > self.max_bytes or self._puts % _RECOUNT == 0:
            self._evict(now)
        return True

    def _evict(self, now: float) -> None:
        """Drop answers that are too old, and if too many are left the least recently used tenth."""
        too_old = self._delete("DELETE FROM answers WHERE made_s < ?", now - self.max_age_s)
        total = self._sum()
        if total > self.max_bytes:
            over, dropped = total - self.max_bytes * 9 // 10, []
            for number, size in self._db.execute("SELECT id, size FROM answers ORDER BY used_s"):
                if over <= 0:
                    break
                dropped.append((number,))
                over -= size
            with self._db:
                self._db.executemany("DELETE FROM answers WHERE id = ?", dropped)
            self.evicted += len(dropped)
        self.evicted += too_old
        self._bytes = self._sum()
        self._db.execute("PRAGMA incremental_vacuum(1000)").fetchall()

    def _sum(self) -> int:
        return int(self._db.execute("SELECT coalesce(sum(size), 0) FROM answers").fetchone()[0])

    def _delete(self, query: str, *values: object) -> int:
        with self._db:
            return self._db.execute(query, values).rowcount

    def _erase(self, query: str, *values: object) -> int:
        """Delete rows, and every trace of them: in the file, in its log, and in a damaged one that was put aside."""
        count = self._delete(query, *values)
        if self.path is not None:
            self.path.with_name(self.path.name + DAMAGED).unlink(missing_ok=True)
            empty_log(self._db)
        return count

    # sealed cells ---------------------------------------------------------------------------------

    def _hidden(self, key: bytes) -> bytes:
        return key if self._cells is None else self._cells.blind(key)

    def _hidden_numbers(self, numbers: Sequence[int]) -> Sequence[int]:
        return numbers if self._cells is None else [self._cells.blind_number(number) for number in numbers]

    def _sealed(self, value: Any, key: bytes, column: bytes) -> Any:
        """Return a text or bytes as they are stored."""
        if self._cells is None or value is None:
            return value
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return self._cells.seal(data, column + key)

    def _shown(self, cell: Any, key: bytes, column: bytes) -> Any:
        """Return what `_sealed` was given."""
        if self._cells is None or cell is None:
            return cell
        value = self._cells.open(cell, column + key)
        return value.decode("utf-8", "surrogatepass") if column == _QUESTION else value

    def _open_cells(self, db: sqlite3.Connection) -> None:
        """Find the cipher of the file; a plain one becomes sealed, and empty, where there is a master key.

        Raises `EncryptionKeyError`.
        """
        if self.path is None:
            return
        if is_sealed(db):
            keys = self._master or MasterKeys.required(f"the cache of answers {self.path}")
            self._cells = open_cells(db, keys, CONTEXT, str(self.path))
        elif self._master is not None:
            with db:
                db.execute("DELETE FROM answers")
                self._cells = begin_cells(db, self._master, CONTEXT)
            self.path.with_name(self.path.name + DAMAGED).unlink(missing_ok=True)
            db.execute("VACUUM")
            empty_log(db)

    # the file -------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        db = _connect(self.path)
        try:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found == 1:  # its answers do not say which indexes they are from, and could not be deleted with those
                db.executescript("DROP TABLE IF EXISTS bands; DROP TABLE IF EXISTS answers; VACUUM;")
            elif found not in (0, _FORMAT):
                raise sqlite3.DatabaseError(f"format {found} is not {_FORMAT}")
            db.executescript(_TABLES)
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            self._open_cells(db)
            row = db.execute("SELECT coalesce(sum(size), 0) FROM answers").fetchone()
            self._bytes = int(row[0])
        except BaseException:
            db.close()
            raise
        return db

    def _begin_anew(self) -> sqlite3.Connection:
        """Put the damaged file aside for inspection, and open an empty one."""
        self.rebuilt += 1
        if self.path is not None:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            if self.path.exists():
                os.replace(self.path, self.path.with_name(self.path.name + DAMAGED))
        return self._open()


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # questions are private
    db = sqlite3.connect(":memory:" if path is None else path, 2.0, check_same_thread=False)
    try:
        for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute("PRAGMA foreign_keys = ON")
        if path is None:
            db.executescript(_TABLES)
    except BaseException:
        db.close()
        raise
    return db


def _unusable(error: sqlite3.OperationalError, path: Path | None) -> CacheError:
    reason = OSError(0, str(error))
    return cache_error(reason, path or Path(":memory:"))


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=16).digest()
