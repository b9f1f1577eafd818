"""Locks between processes, held on an open file and released by the operating system when the
holder ends.

Owns the one difference between POSIX (`flock`) and Windows (`msvcrt.locking`). It knows nothing of
what the lock guards. Invariant: a lock never outlives its process, so no process has to clean up after
a crash; lock files themselves stay on the disk, since deleting one while another process waits on
it would let two processes in.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from miaotui.config import cache_error

_POLL_S = 0.1

if sys.platform == "win32":
    import msvcrt

    _FAR = 2**40  # the locked byte: Windows locks are mandatory, so it lies beyond any data

    def try_lock(fd: int) -> bool:
        """Take the lock of an open file without waiting; False while another process holds it."""
        here = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(fd, here, os.SEEK_SET)
        return True
else:
    import fcntl

    def try_lock(fd: int) -> bool:
        """Take the lock of an open file without waiting; False while another process holds it.

        Raises `OSError` where the file system has no locks.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Run the block while no other process is in a block of the same ``path``, waiting for as long
    as one is.

    ``on_wait`` is called once when it has to wait. Raises `CacheError` when ``path`` cannot be
    made. On a file system without locks the block runs unguarded: callers must check what they
    produce.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cache_error(error, path.parent) from error
    try:
        told = False
        while not _locked_or_unsupported(fd):
            if on_wait is not None and not told:
                on_wait()
            told = True
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def _locked_or_unsupported(fd: int) -> bool:
    try:
        return try_lock(fd)
    except OSError:
        return True
