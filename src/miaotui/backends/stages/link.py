"""The first process's end of one stage: a child of its own, or a process that listens elsewhere.

Owns the connection, and how it is made again after it was lost. Knows neither plans nor programs. Invariants: whatever
ends a connection is `StageLostError`, once and from then on; a reply to an older step is dropped; a child does not
outlive its parent.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from miaotui.backends.stages.wire import PROTOCOL, Floats, Frame, FrameKind, prove, receive, send
from miaotui.errors import EngineError, MiaotuiError, RequestError, StageLostError, UnsupportedModelError

CONNECT_S = 10.0
STOP_S = 10.0  # that a child gets to end by itself
KEEP_ALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))  # seconds, seconds, times
MOST_SECRET = 1 << 12  # bytes of a key file
_KINDS = {"UnsupportedModelError": UnsupportedModelError, "RequestError": RequestError}


class StagePlace(Protocol):
    """A place at which a stage runs."""

    @property
    def name(self) -> str:
        """Return its name in errors."""

    def connect(self) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
        """Return a connection, and the child at its other end if it is one. Raises `StageLostError`."""


@dataclass(frozen=True)
class ChildPlace:
    """A child of this process; ``number`` counts the stages from 2 on."""

    number: int

    @property
    def name(self) -> str:
        """Return its name in errors."""
        return f"stage {self.number} (a child of this process)"

    def connect(self) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
        """Start a child. Raises `StageLostError`."""
        ours, theirs = socket.socketpair()
        command = (sys.executable, "-m", "miaotui.backends.stages.worker", str(theirs.fileno()))
        try:
            with theirs:
                child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=2)  # noqa: S603
        except OSError as error:
            ours.close()
            raise StageLostError(f"{self.name} could not be started: {error.strerror or error}") from error
        return ours, child


@dataclass(frozen=True)
class PortPlace:
    """A process that listens (`miaotui stage`). ``secret`` None: it asks for none."""

    host: str
    port: int
    secret: bytes | None = None

    @staticmethod
    def read(text: str, key_file: str | None) -> PortPlace:
        """Return the place that ``text``, HOST:PORT, names. Raises `RequestError`."""
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise RequestError(f"a stage's place is HOST:PORT, not {text!r}")
        return PortPlace(host.strip("[]"), int(port), None if key_file is None else read_secret(Path(key_file)))

    @property
    def name(self) -> str:
        """Return its name in errors."""
        return f"the stage at {self.host}:{self.port}"

    def connect(self) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
        """Connect, and prove the secret. Raises `StageLostError`."""
        try:
            connection = socket.create_connection((self.host, self.port), CONNECT_S)
        except OSError as error:
            reason = error.strerror or str(error) or "no answer"
            raise StageLostError(f"{self.name} cannot be reached ({reason}): start it with `miaotui stage`") from error
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE:
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            is_known = self.secret is None or prove(connection, self.secret, listens=False)
        except (OSError, EOFError) as error:
            connection.close()
            raise StageLostError(f"{self.name} ended the connection: both ends need the same key file") from error
        if not is_known:
            connection.close()
            raise StageLostError(f"{self.name} does not know the secret: give both ends the same key file")
        return connection, None


def read_secret(path: Path) -> bytes:
    """Return the secret in a file. Raises `RequestError`."""
    try:
        with path.open("rb") as file:
            found = file.read(MOST_SECRET + 1).strip()
    except OSError as error:
        raise RequestError(f"cannot read the key file {path}: {error.strerror or error}") from error
    if not 16 <= len(found) <= MOST_SECRET:
        raise RequestError(f"the key file {path} must hold 16 to {MOST_SECRET} bytes")
    return found


class StageNumbers(NamedTuple):
    """Numbers that a stage says of itself when it is ready."""

    weight_bytes: int
    formats: tuple[str, ...]
    kv_token_bytes: int


class StageLink:
    """A connection to one stage, for one thread. `open` it, `begin`, then `send` and `receive` steps."""

    def __init__(self, place: StagePlace) -> None:
        self.place = place
        self.is_lost = True  # until it is open
        self.child: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._most_bytes = 0

    def open(self) -> dict[str, Any]:
        """Connect, and return what the stage says of itself. Raises `StageLostError`, or `EngineError` for another
        version.
        """
        self.close()
        connection, self.child = self.place.connect()
        self._connection, self.is_lost = connection, False
        connection.settimeout(CONNECT_S if self.child is None else None)
        hello = self._receive(FrameKind.HELLO).plain()
        connection.settimeout(None)
        for name, ours in (("protocol", PROTOCOL), ("miaotui", version("miaotui"))):
            if hello.get(name) != ours:
                self.close()
                raise EngineError(
                    f"{self.place.name} runs {name} {hello.get(name)} and this process {ours}: use one version"
                )
        return hello

    def begin(self, values: dict[str, Any], most_bytes: int) -> None:
        """Say which layers to compute; replies have at most ``most_bytes`` of states. Raises `StageLostError`."""
        self._most_bytes = most_bytes
        self._send(FrameKind.BEGIN, 0, {"protocol": PROTOCOL, "miaotui": version("miaotui"), **values})

    def ready(self) -> StageNumbers:
        """Wait until the stage can compute. Raises `MiaotuiError`: why it cannot."""
        values = self._receive(FrameKind.READY).plain()
        return StageNumbers(int(values["weight_bytes"]), tuple(values["formats"]), int(values["kv_token_bytes"]))

    def send(self, number: int, fields: bytes, states: Floats, *, only_logits: bool) -> None:
        """Send a step's chunks and states. Raises `StageLostError`."""
        self._send(FrameKind.RUN, number << 1 | only_logits, fields=fields, rows=states)

    def receive(self, number: int, width: int) -> Floats:
        """Wait for the states of step ``number``, ``[rows, width]``. Raises `StageLostError`, `EngineError`."""
        while True:
            frame = self._receive(FrameKind.ROWS, number)
            if frame.number == number:
                return frame.states(width)

    def close(self) -> None:
        """End the connection, and wait for a child to end."""
        self.lose()
        if self.child is not None:
            try:
                self.child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
            self.child = None

    def _send(self, *arguments: Any, **options: Any) -> None:
        if self._connection is None:
            raise self._error()
        try:
            send(self._connection, *arguments, **options)
        except OSError as error:
            self.lose()
            raise self._error() from error

    def _receive(self, kind: FrameKind, number: int | None = None) -> Frame:
        """Wait for a frame of a kind. A fault of step ``number``, or of no step, is raised."""
        while True:
            if self._connection is None:
                raise self._error()
            try:
                frame = receive(self._connection, self._most_bytes)
            except (OSError, EOFError, EngineError) as error:
                self.lose()
                raise self._error() from error
            if frame.kind is kind:
                return frame
            if frame.kind is FrameKind.FAULT and number in (None, frame.number):
                raise self._fault(frame)

    def _fault(self, frame: Frame) -> MiaotuiError:
        values = frame.plain()
        kind: type[MiaotuiError] = _KINDS.get(str(values.get("kind")), EngineError)
        return kind(f"{self.place.name}: {values.get('error')}")

    def lose(self) -> None:
        """End the connection, and wait for nothing."""
        self.is_lost = True
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
            self._connection = None

    def _error(self) -> StageLostError:
        return StageLostError(f"{self.place.name} has ended, or can no longer be reached")


def close_all(links: Sequence[StageLink]) -> None:
    """Close every link: all connections first, so that children end side by side."""
    for link in links:
        link.lose()
    for link in links:
        link.close()
