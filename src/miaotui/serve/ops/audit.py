"""Audit log: which tenant used which route, when, with what end and how many tokens; never any text.

Owns one file of JSON lines and the earlier ones, NAME.1 (the newest) to NAME.N. A thread of its own writes, so that a
slow disk never holds up an answer; each batch opens the file anew, so that others may rotate it too. Knows no request's
text. Invariants: `close` returns when every line has been written, or its failure logged; no line is cut in two.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from starlette.types import Scope

from miaotui.errors import RequestError
from miaotui.serve import LOG
from miaotui.serve.middleware.access import Account


class AuditLog:
    """Appends one line per HTTP request to ``path``; raises `RequestError` if it cannot."""

    def __init__(self, path: Path, max_bytes: int = 64 << 20, kept_files: int = 9) -> None:
        self._path, self._max_bytes, self._kept_files = path, max_bytes, kept_files
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_failing = False
        try:
            self._append(b"")
        except OSError as error:
            raise RequestError(f"cannot write the audit log {path}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name="miaotui-audit", daemon=True)
        self._thread.start()

    def note(self, account: Account, _scope: Scope) -> None:
        """Write down a request that is over."""
        self._lines.put(audit_line(account))

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._lines.put(None)
        self._thread.join()

    def _run(self) -> None:
        ends = False
        while not ends:
            batch = [self._lines.get()]
            while not self._lines.empty():
                batch.append(self._lines.get())
            ends = None in batch
            lines = b"".join(line for line in batch if line)
            if lines:
                self._write(lines)

    def _write(self, lines: bytes) -> None:
        try:
            self._rotate(len(lines))
            self._append(lines)
            self._is_failing = False
        except OSError as error:
            count = lines.count(b"\n")
            if not self._is_failing:  # once, not for each request while the disk is full
                LOG.error("audit log %s: %s; %d lines lost", self._path, error.strerror, count)
            self._is_failing = True

    def _rotate(self, more_bytes: int) -> None:
        """Put the file aside if ``more_bytes`` do not fit any more; the oldest one goes."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        if not size or size + more_bytes <= self._max_bytes:
            return
        for number in range(self._kept_files, 0, -1):
            source = self._path if number == 1 else self._aside(number - 1)
            with suppress(FileNotFoundError):
                os.replace(source, self._aside(number))
        if not self._kept_files:
            self._path.unlink(missing_ok=True)

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "ab") as file:
            file.write(lines)


def audit_line(account: Account) -> bytes:
    """Return one line of JSON for one HTTP request."""
    values = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "request_id": account.request_id,
        "tenant": account.caller.name or None,
        "key": account.caller.key or account.caller.name or None,
        "method": account.method,
        "route": account.route,
        "status": account.status,
        "whole": account.whole,
        "outcome": account.outcome,
        "model": account.model,
        "prompt_tokens": account.prompt_tokens,
        "cached_tokens": account.cached_tokens,
        "answer_tokens": account.answer_tokens,
        "duration_ms": round(account.duration_s * 1000, 3),
        **({"change": account.change} if account.change else {}),
    }
    return json.dumps(values).encode() + b"\n"
