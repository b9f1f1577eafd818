"""Tries a stranger's grammar in another process first: there it may crash, hang or eat memory.

Owns that process and its bounds. The library's own limits do not cover everything: a chain of 1,500
references overflows its stack, and some intersections take minutes to build. Knows no model: the
trial's vocabulary is the 256 bytes. Invariant: a grammar that passed took little time, memory and
stack, so doing the same again in this process is harmless; one that did not is a `RequestError`.

The file is also the other process's program, and therefore imports little.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CPU_S = 0.3  # of processor time, for compiling and some first steps; twice that ends the process
WAIT_S = 20.0  # until it is given up where processor time cannot be bounded; it may have to start
MEMORY_BYTES = 1 << 30  # of address space
STACK_BYTES = 1 << 20  # an eighth of what the threads here have
STEPS = 48
KEPT = 256  # refused grammars that are remembered
WARM = 'start: "a"'  # the grammar with which the process is warmed up

Verdict = str | None  # why not; None: it is harmless


class Trial:
    """The other process; started on first use, and again when a grammar broke it.

    Safe to use from several threads: they take turns.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._refused: OrderedDict[bytes, str] = OrderedDict()

    def verdict(self, digest: bytes, text: str, explain: Callable[[str], str]) -> Verdict:
        """Return why the grammar ``text`` may not be used; None if it may.

        ``explain`` makes one line of the library's reason.
        """
        with self._lock:
            known = self._refused.get(digest)
            if known is not None:
                return known
            said = self._ask(text)
            if said is not None:
                said = self._refused[digest] = explain(said)
                while len(self._refused) > KEPT:
                    self._refused.popitem(last=False)
            return said

    def start(self) -> None:
        """Start the process unless it runs; returns at once. Nothing happens where no process can be started."""
        with self._lock, contextlib.suppress(OSError):
            self._running()

    def warm(self) -> None:
        """Call `start`, and wait until the process has read the library: the first grammar need not wait for that."""
        with self._lock, contextlib.suppress(OSError):
            self._ask(WARM)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, text: str) -> Verdict:
        process = self._running()
        watch = threading.Timer(WAIT_S, process.kill)
        watch.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([text, self._limits]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            self._end()
            return "it takes too much time or memory"
        said: Verdict = json.loads(line)
        return said

    def _running(self) -> subprocess.Popen[str]:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = _start()
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _start() -> subprocess.Popen[str]:
    """Return the process; it ends by itself when this one does, since its input ends then."""
    command = [sys.executable, "-I", str(Path(__file__))]
    return subprocess.Popen(  # noqa: S603 - this very file
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )


# the other process --------------------------------------------------------------------------------


class _ByteTokens:
    """A vocabulary of the 256 bytes and one end token; the names are the library's."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))


def _judge(library: Any, view: Any, text: str, limits: Mapping[str, int]) -> Verdict:
    """Compile the grammar and walk through a text of it."""
    bounds = library.LLParserLimits(**limits, verbose_errors=False)
    start_s = time.process_time()
    matcher = library.LLMatcher(view, text, log_level=0, limits=bounds)
    for step in range(STEPS):
        if matcher.is_error():
            return str(matcher.get_error())
        if time.process_time() - start_s > CPU_S:
            return "it takes too much time"
        if matcher.is_stopped():
            return None
        matcher.consume_token(_next(matcher.compute_bitmask(), step))
    return None


def _next(mask: bytes, step: int) -> int:
    """Return one of the allowed tokens, not always the same, and the end only if there is nothing else."""
    allowed = [i for i in range(256) if mask[i // 8] >> (i % 8) & 1]
    return allowed[(step * 7) % len(allowed)] if allowed else 256


def _confine() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere
        import os  # noqa: PLC0415  (with resource)
        import resource  # noqa: PLC0415  (not on Windows)

        os.nice(5)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _on_small_stack(work: Callable[[], None]) -> None:
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _serve() -> None:
    import llguidance  # noqa: PLC0415 - this process may lack what the other one has

    library: Any = llguidance
    view = library.LLTokenizer(_ByteTokens(), n_vocab=257, eos_token=256)
    for line in sys.stdin:
        text, limits = json.loads(line)
        _alarm(2 * CPU_S)
        said = _judge(library, view, text, limits)
        _alarm(0)
        print(json.dumps(said), flush=True)


def _alarm(cpu_s: float) -> None:
    """End this process after so much more processor time; 0: do not."""
    with contextlib.suppress(ImportError, AttributeError):  # not everywhere
        import signal  # noqa: PLC0415  (ITIMER_PROF not on Windows)

        signal.setitimer(signal.ITIMER_PROF, cpu_s)


if __name__ == "__main__":
    _confine()
    _on_small_stack(_serve)
