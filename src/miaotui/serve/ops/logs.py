"""Logs on standard error: lines for people, or JSON for machines; never any text of requests.

Owns the format, and how often a record may repeat; lines about HTTP requests all pass, since their number is the
clients' doing and is worth knowing. Knows no request's text. Invariant: a record is one line, and text from outside
cannot forge another; lines about requests hold none.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from miaotui.serve.middleware.access import REQUESTS

LogFormat = Literal["text", "json"]
A_MINUTE = 20  # records from one place of the code
_TEXT = ("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")  # of a line for people: its form, and that of its time


def set_up_logs(form: LogFormat, level: str) -> None:
    """Send this process's logs to standard error."""
    handler, of_requests = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter(*_TEXT))
    of_requests.setFormatter(_JsonFormatter() if form == "json" else logging.Formatter(*_TEXT))
    handler.addFilter(Calm())
    for name in ("miaotui", "uvicorn", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    REQUESTS.handlers, REQUESTS.propagate = [of_requests], False
    set_level(level)


def set_level(level: str) -> None:
    """Set the least level of records that are written."""
    for name in ("miaotui", "uvicorn", "opentelemetry"):
        logging.getLogger(name).setLevel(level.upper())
    least = logging.getLogger("miaotui").level  # the libraries say little below these
    logging.getLogger("opentelemetry").setLevel(max(logging.ERROR, least))
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, least))


class Calm(logging.Filter):
    """Lets through so many records of one kind a minute, then says how many it kept back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether this record is to be written."""
        now = self._clock()
        minute = self._minutes.setdefault((record.pathname, record.lineno), _Minute(now))
        if now - minute.since_s >= 60:
            if minute.count > A_MINUTE:
                record.msg = f"{record.msg} ({minute.count - A_MINUTE} more like this before)"
            minute.since_s, minute.count = now, 0
        minute.count += 1
        return minute.count <= A_MINUTE


@dataclass
class _Minute:
    since_s: float
    count: int = 0


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.exc_info:  # a traceback has lines of its own; indented they cannot be taken for records
            return line.replace("\n", "\n    ")
        return line.replace("\r", " ").replace("\n", " ")


class _JsonFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        return moment.isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        values.update(getattr(record, "fields", {}))
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)
