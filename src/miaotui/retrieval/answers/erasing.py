"""Emptying of a database's write-ahead log, which otherwise keeps what was deleted from the database itself.

Owns one statement of SQLite's and how long it is tried. Knows no tables. Invariant: the log is empty when the call
returns True. Source: SQLite's documentation, "PRAGMA wal_checkpoint".
"""

from __future__ import annotations

import sqlite3
import time

TRIES, PAUSE_S = 50, 0.02  # other processes read for some milliseconds at a time


def empty_log(db: sqlite3.Connection) -> bool:
    """Move all of the log into the database and cut it to nothing; False while another process reads old pages.

    Raises `sqlite3.Error`.
    """
    for _ in range(TRIES):
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return True
        time.sleep(PAUSE_S)
    return False
