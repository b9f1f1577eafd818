"""Compiles several kernels at once, in processes of their own: a first start takes half as long on two cores.

LLVM holds a lock while it compiles, so threads would wait for each other. A worker is this Python with the same import
path. It reads names of kernels, a line each, compiles each into the cache and answers with the name. Workers are a
help, never a need: what they leave undone, for whatever reason, the caller compiles itself.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from miaotui.kernels.runtime import compiled

MOST_WORKERS = 3  # each takes about 250 MB, and the slowest kernel bounds the time
PATIENCE_S = 120.0  # for the last kernel of a worker; the slowest takes about 15 s
START = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import work; work()"
_SLOW_FIRST = ("attention.", "linear.", "sampling.")  # the last kernel to be compiled should be a quick one


def compile_all(names: Sequence[str], cores: int, started: Callable[[str, int], None]) -> None:
    """Compile kernels ``names`` on up to ``cores`` processors; some may be left to `compiled.address`.

    ``started`` receives the name of each kernel that this process compiles and how many are done or under way.
    """
    waiting = deque(sorted(names, key=_slowness))
    workers = _start_workers(min(cores, MOST_WORKERS + 1, len(names)) - 1)
    threads = [threading.Thread(target=_feed, args=(worker, waiting), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        while (name := _next(waiting)) is not None:
            started(name, len(names) - len(waiting) - 1)
            compiled.address(name)
        for thread in threads:
            thread.join(PATIENCE_S)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def work() -> None:
    """Compile what standard input names, until it ends. The first line of the answer is the cache's folder."""
    print(compiled.cache_folder(), flush=True)
    for line in sys.stdin:
        compiled.address(line.strip())
        print(line.strip(), flush=True)


def _next(waiting: deque[str]) -> str | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _slowness(name: str) -> int:
    return next((rank for rank, part in enumerate(_SLOW_FIRST) if name.startswith(part)), len(_SLOW_FIRST))


def _start_workers(count: int) -> list[subprocess.Popen[str]]:
    """Return started processes; none where Python cannot start itself, as inside another program."""
    if not Path(sys.executable or "").stem.lower().startswith("python"):
        return []
    workers: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-c", START, *sys.path]
            pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
            workers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, text=True))  # noqa: S603
    except OSError:
        pass  # no memory or no processes left: fewer workers do
    return workers


def _feed(worker: subprocess.Popen[str], waiting: deque[str]) -> None:
    """Hand names to a worker until none waits or it fails. Its end of input ends the worker."""
    if worker.stdin is None or worker.stdout is None:
        return
    try:
        with worker.stdin as names, worker.stdout as answers:
            if answers.readline().rstrip("\n") != str(compiled.cache_folder()):
                return  # its settings differ: what it compiles would not be found
            while (name := _next(waiting)) is not None:
                names.write(name + "\n")
                names.flush()
                if answers.readline().strip() != name:
                    return
    except (OSError, ValueError):
        return  # it is gone
