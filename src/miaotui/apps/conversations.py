"""Conversations on disk: turns, state, ratings.

Owns the SQLite file, its bounds and its clean-up. Knows no rules and no answers. Invariants: a turn is whole or
absent, also after ``kill -9``; a caller sees only conversations of its own namespace.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaotui.config import cache_error, make_folder
from miaotui.errors import CacheError, ConversationMissingError, RequestError
from miaotui.retrieval.answers.erasing import empty_log
from miaotui.sealing.cells import CellCipher, begin_cells, is_sealed, open_cells
from miaotui.sealing.master_keys import MasterKeys

MAX_MESSAGE_CHARS = 4_000
MAX_TURNS = 1_000
MAX_COMMENT_CHARS = 2_000
KEEP_S = 90 * 86_400.0
_TABLES = """
CREATE TABLE IF NOT EXISTS conversations (
  id TEXT PRIMARY KEY, namespace TEXT NOT NULL, language TEXT NOT NULL, state TEXT NOT NULL,
  begun_s REAL NOT NULL, changed_s REAL NOT NULL);
CREATE INDEX IF NOT EXISTS conversations_changed ON conversations (changed_s);
CREATE TABLE IF NOT EXISTS turns (
  conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  number INTEGER NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL, detail TEXT NOT NULL,
  at_s REAL NOT NULL, PRIMARY KEY (conversation, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ratings (
  conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  turn INTEGER, score INTEGER NOT NULL, comment TEXT NOT NULL, at_s REAL NOT NULL);
"""
CONTEXT = "conversations"  # of the wrapped data key
# For each column with text: the place, the text and the key of each row; and how one is replaced.
_TEXT_CELLS = (
    (
        "SELECT id || ' state', state, json_array(id) FROM conversations",
        "UPDATE conversations SET state = ? WHERE id = ?",
    ),
    (
        "SELECT conversation || ' ' || number || ' text', text, json_array(conversation, number) FROM turns",
        "UPDATE turns SET text = ? WHERE conversation = ? AND number = ?",
    ),
    (
        "SELECT conversation || ' ' || number || ' detail', detail, json_array(conversation, number) FROM turns",
        "UPDATE turns SET detail = ? WHERE conversation = ? AND number = ?",
    ),
    (
        "SELECT conversation || ' comment', comment, json_array(rowid) FROM ratings",
        "UPDATE ratings SET comment = ? WHERE rowid = ?",
    ),
)


@dataclass(frozen=True)
class State:
    """Known facts of a conversation between two messages."""

    slots: Mapping[str, str] = field(default_factory=dict)
    waiting_for: str = ""  # the slot that was asked for
    rule: str = ""  # the rule that asked
    failures: int = 0
    handed_over: bool = False
    focus: str = ""  # the domain that was spoken of last


@dataclass(frozen=True)
class Turn:
    """One message. ``role`` is user, assistant or person."""

    number: int
    role: str
    text: str
    detail: Mapping[str, Any]
    at_s: float


@dataclass(frozen=True)
class Conversation:
    """Conversation in its current state."""

    id: str
    namespace: str
    language: str
    state: State
    begun_s: float
    turns: int


class ConversationStore:
    """Conversations of all callers. Safe to use from several threads. ``path`` None keeps them in memory.

    Raises `CacheError` if the file cannot be used.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = path, clock
        self._cells: CellCipher | None = None  # None: what was said is plain
        self._lock = threading.Lock()
        if path is not None:
            make_folder(path.parent)
        try:
            self._db = _connect(path)
            self._open_cells()
            self._prune()
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error, path) from error

    def begin(self, language: str, namespace: str = "") -> Conversation:
        """Begin a conversation, with an id that cannot be guessed."""
        name, now = secrets.token_urlsafe(16), self._clock()
        with self._changing() as db:
            state = self._hidden(json.dumps(_plain(State())), f"{name} state")
            db.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)", (name, namespace, language, state, now, now)
            )
        return self.get(name, namespace)

    def get(self, name: str, namespace: str = "") -> Conversation:
        """Return the conversation. Raises `ConversationMissingError` if this caller has none of that id."""
        query = (
            "SELECT namespace, language, state, begun_s, (SELECT count(*) FROM turns t WHERE "
            "t.conversation = c.id) FROM conversations c WHERE id = ? AND namespace = ?"
        )
        with self._lock:
            row = self._db.execute(query, (str(name), namespace)).fetchone()
        if row is None:
            raise ConversationMissingError("there is no such conversation: begin one, or correct its id")
        owner, language, state, begun_s, turns = row
        known = State(**json.loads(self._shown(state, f"{name} state")))
        return Conversation(str(name), owner, language, known, begun_s, turns)

    def add(
        self, conversation: Conversation, said: list[tuple[str, str, Mapping[str, Any]]], state: State, language: str
    ) -> list[Turn]:
        """Append (role, text, detail), all or none, with the state that follows.

        Raises `RequestError` when the conversation is too long.
        """
        now = self._clock()
        with self._changing() as db:
            count = "SELECT count(*) FROM turns WHERE conversation = ?"
            first = db.execute(count, (conversation.id,)).fetchone()[0] + 1
            if first + len(said) > MAX_TURNS + 1:
                raise RequestError(f"a conversation has at most {MAX_TURNS:,} turns: begin another")
            turns = [Turn(first + i, *each, now) for i, each in enumerate(said)]
            db.executemany(
                "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (conversation.id, turn.number, turn.role, *self._cells_of(conversation.id, turn), now)
                    for turn in turns
                ],
            )
            db.execute(
                "UPDATE conversations SET state = ?, language = ?, changed_s = ? WHERE id = ?",
                (self._hidden(json.dumps(_plain(state)), f"{conversation.id} state"), language, now, conversation.id),
            )
        return turns

    def transcript(self, conversation: Conversation) -> list[Turn]:
        """Return all turns, in order."""
        query = "SELECT number, role, text, detail, at_s FROM turns WHERE conversation = ? ORDER BY 1"
        with self._lock:
            rows = self._db.execute(query, (conversation.id,)).fetchall()
        name = conversation.id
        return [
            Turn(
                n,
                role,
                self._shown(text, f"{name} {n} text"),
                json.loads(self._shown(detail, f"{name} {n} detail")),
                at_s,
            )
            for n, role, text, detail, at_s in rows
        ]

    def rate(self, conversation: Conversation, score: int, turn: int | None = None, comment: str = "") -> None:
        """Note a rating of 1 to 5, of one turn or of the whole. Raises `RequestError`."""
        whole = isinstance(score, int) and not isinstance(score, bool) and 1 <= score <= 5
        if not whole:
            raise RequestError(f"a rating is a whole number from 1 to 5, not {score!r}")
        if turn is not None and not (isinstance(turn, int) and 1 <= turn <= conversation.turns):
            raise RequestError(f"the conversation has no turn {turn!r}")
        if not isinstance(comment, str) or len(comment) > MAX_COMMENT_CHARS:
            raise RequestError(f"a comment is a text of at most {MAX_COMMENT_CHARS:,} characters")
        with self._changing() as db:
            values = (conversation.id, turn, score, self._hidden(comment, f"{conversation.id} comment"), self._clock())
            db.execute("INSERT INTO ratings VALUES (?, ?, ?, ?, ?)", values)

    def ratings(self, conversation: Conversation) -> list[tuple[int | None, int, str]]:
        """Return (turn or None, score, comment), oldest first."""
        query = "SELECT turn, score, comment FROM ratings WHERE conversation = ? ORDER BY rowid"
        with self._lock:
            rows = list(self._db.execute(query, (conversation.id,)))
        return [(turn, score, self._shown(comment, f"{conversation.id} comment")) for turn, score, comment in rows]

    def delete(self, conversation: Conversation) -> None:
        """Delete a conversation with its turns and ratings, from all files."""
        with self._changing() as db:
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation.id,))
        self._empty_log()

    def delete_all(self, namespace: str) -> int:
        """Delete all conversations of a namespace, from all files. Returns how many there were."""
        with self._changing() as db:
            count = db.execute("DELETE FROM conversations WHERE namespace = ?", (namespace,)).rowcount
        self._empty_log()
        return count

    def _empty_log(self) -> None:
        with self._lock:
            if self.path is not None:
                empty_log(self._db)

    # sealed cells ---------------------------------------------------------------------------------

    def _hidden(self, text: str, place: str) -> str | bytes:
        """Return a text as it is stored."""
        return text if self._cells is None else self._cells.seal(text.encode(), place.encode())

    def _shown(self, cell: str | bytes, place: str) -> str:
        """Return the text of a cell. Raises `EncryptionKeyError`."""
        if self._cells is None:
            return str(cell)
        return self._cells.open(bytes(cell) if isinstance(cell, bytes) else b"", place.encode()).decode()

    def _cells_of(self, name: str, turn: Turn) -> tuple[str | bytes, str | bytes]:
        detail = json.dumps(dict(turn.detail))
        return (
            self._hidden(turn.text, f"{name} {turn.number} text"),
            self._hidden(detail, f"{name} {turn.number} detail"),
        )

    def _open_cells(self) -> None:
        """Find the cipher of the file; a plain one is sealed where the environment names a master key.

        Raises `EncryptionKeyError`.
        """
        keys = None if self.path is None else MasterKeys.from_env()
        if self.path is not None and is_sealed(self._db):
            keys = keys or MasterKeys.required(f"the file of conversations {self.path}")
            self._cells = open_cells(self._db, keys, CONTEXT, str(self.path))
        elif keys is not None:
            with self._changing() as db:
                made = begin_cells(db, keys, CONTEXT)
                for query, change in _TEXT_CELLS:
                    for place, text, row in db.execute(query).fetchall():
                        db.execute(change, (made.seal(text.encode(), place.encode()), *json.loads(row)))
            self._cells = made
            self._db.execute("VACUUM")
            self._empty_log()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _prune(self) -> None:
        with self._changing() as db:
            limit = self._clock() - KEEP_S
            db.execute("DELETE FROM conversations WHERE changed_s < ?", (limit,))

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction. Raises `CacheError` if the file fails."""
        with self._lock:
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    yield self._db
            except sqlite3.Error as error:
                raise _unusable(error, self.path) from error


def checked_message(text: object) -> str:
    """Return a message if it is valid. Raises `RequestError`."""
    if not isinstance(text, str) or not text.strip():
        raise RequestError("the message is empty: write something")
    if len(text) > MAX_MESSAGE_CHARS:
        raise RequestError(f"a message has at most {MAX_MESSAGE_CHARS:,} characters: shorten it")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError("the message is not valid Unicode: it has half of a surrogate pair")
    return text.strip()


def _plain(state: State) -> dict[str, Any]:
    return {**vars(state), "slots": dict(state.slots)}


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    name = ":memory:" if path is None else path
    db = sqlite3.connect(name, 5.0, check_same_thread=False, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    db.executescript(_TABLES)
    return db


def _unusable(error: Exception, path: Path | None) -> CacheError:
    return cache_error(OSError(0, str(error)), path or Path(":memory:"))
