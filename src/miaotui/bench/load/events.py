"""Server-sent events from bytes, with bounds: what a server that never ends a line may take.

Owns the splitting of a byte stream into the data of events. Knows neither HTTP nor JSON. Invariant: the events are the
same however the stream is cut into pieces. Follows the HTML standard, section 9.2.6 (without ``id`` and ``retry``).
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 4 << 20


class EventTooLongError(ValueError):
    """A line or an event exceeds `MAX_EVENT_BYTES`."""


class EventDecoder:
    """Collects bytes and gives out the data of each event that is complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def push(self, piece: bytes) -> Iterator[bytes]:
        """Take bytes; yield the data of events that end within them. Raises `EventTooLongError`."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        for ended in lines:
            line = ended.removesuffix(b"\r")
            if not line:
                if self._data:
                    yield b"\n".join(self._data)
                self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                value = line[5:].removeprefix(b" ")
                self._data.append(value)
                self._size += len(value)
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event is longer than {MAX_EVENT_BYTES >> 20} MiB")
