"""Folders in memory for files that must not lie on a disk in plain form, and their removal.

Owns where memory can be used as a file system, and what a killed process left there. Knows no contents. Invariants: a
folder can be read by its own user alone; it is gone when its owner is, and what a killed process left goes when the
next folder is made. The operating system may write memory to its swap area, which must be encrypted or off.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import weakref
from pathlib import Path

from miaotui.config import cache_error
from miaotui.errors import CacheError
from miaotui.hub.lock import try_lock

VARIABLE = "MIAOTUI_MEMORY_FOLDER"
_ROOT = Path("/dev/shm")  # noqa: S108  (a file system in memory, with folders that only this user reads)
_PREFIX, _LOCK = "miaotui-sealed-", "owner.lock"


class MemoryFolder:
    """A folder in memory, removed with this object or when the process ends. Raises `CacheError`."""

    def __init__(self) -> None:
        root = memory_root()
        _remove_left(root)
        name = secrets.token_hex(8)
        self.path = root / f"{_PREFIX}{name}"
        made = root / f".{_PREFIX}{name}"  # not looked at by others until it is locked
        try:
            made.mkdir(mode=0o700)
            held = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try_lock(held)
            os.rename(made, self.path)
        except OSError as error:
            raise cache_error(error, root) from error
        self.remove = weakref.finalize(self, _remove, self.path, held)


def memory_root() -> Path:
    """Return the folder in memory. Raises `CacheError` where there is none."""
    given = os.environ.get(VARIABLE)
    root = Path(given) if given else _ROOT
    if not root.is_dir() or not (given or sys.platform == "linux"):
        raise CacheError(
            f"an encrypted index is opened in memory, and there is no file system in memory at {root}: "
            f"mount one (tmpfs, or a RAM disk) and set {VARIABLE} to it"
        )
    return root


def _remove(path: Path, held: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.close(held)
    except OSError:
        return


def _remove_left(root: Path) -> None:
    """Remove the folders of processes that have ended: their locks are free."""
    for path in root.glob(f"{_PREFIX}*"):
        try:
            held = os.open(path / _LOCK, os.O_RDWR)
        except OSError:  # another user's, or just being made
            continue
        try:
            if try_lock(held):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(held)
