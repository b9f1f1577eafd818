"""A process that computes some layers for another one: ``python -m`` this module, with the number of a socket.

Owns the answering end of `wire`: it says what it is, learns which layers it is to compute, and answers steps until the
connection ends. `listen` does the same for one caller after another on a port. Invariants: a stage that listens
computes the model that its operator named, and nothing for a caller without the secret; a child ends with its parent.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miaotui.backends.stages.compute import LayerStage, StageSizes
from miaotui.backends.stages.wire import PROTOCOL, Frame, FrameKind, prove, read_chunks, receive, send
from miaotui.config import Settings
from miaotui.errors import EngineError, MiaotuiError, RequestError
from miaotui.hub.digest import model_digest
from miaotui.kernels.platform.cpu import probe

LOG = logging.getLogger("miaotui.stages")
PROVED_S = 10.0  # that a caller's proof may take
AHEAD = 4096  # messages that are read while a step is computed: more pieces than a step has


@dataclass(frozen=True)
class StageModel:
    """The one model that a listening stage computes, and its threads."""

    path: Path
    digest: str
    threads: int | None = None

    @staticmethod
    def of(path: Path, threads: int | None = None) -> StageModel:
        """Return the model at ``path``, with its digest. Raises `ModelNotFoundError`."""
        return StageModel(path, model_digest(path), threads)


def serve(connection: socket.socket, settings: Settings, model: StageModel | None = None) -> None:
    """Compute for one caller until its connection ends. ``model`` None: the caller, a parent, names the path."""
    hello: dict[str, Any] = {
        "protocol": PROTOCOL,
        "miaotui": version("miaotui"),
        "memory_bytes": probe().memory_bytes,
        "digest": None if model is None else model.digest,
    }
    send(connection, FrameKind.HELLO, values=hello)
    begin = receive(connection, 0)
    try:
        stage = _open(begin, settings, model)
    except MiaotuiError as error:
        send(connection, FrameKind.FAULT, values={"error": str(error), "kind": type(error).__name__})
        return
    except Exception as error:  # the caller has to know, whatever it is
        send(connection, FrameKind.FAULT, values={"error": f"{type(error).__name__}: {error}", "kind": "EngineError"})
        raise
    try:
        ready = {
            "weight_bytes": stage.weights.size_bytes,
            "formats": sorted(form.value for form in stage.weights.formats),
            "kv_token_bytes": stage.kv_token_bytes,
        }
        send(connection, FrameKind.READY, values=ready)
        _answer(connection, stage)
    finally:
        stage.close()


def _open(begin: Frame, settings: Settings, model: StageModel | None) -> LayerStage:
    asked = begin.plain()
    if (
        begin.kind is not FrameKind.BEGIN
        or asked.get("protocol") != PROTOCOL
        or asked.get("miaotui") != version("miaotui")
    ):
        raise EngineError(
            f"the first process runs miaotui {asked.get('miaotui')} and this stage {version('miaotui')}: "
            "use one version"
        )
    layers, threads = asked.get("layers"), asked.get("threads")
    if not (isinstance(layers, list) and len(layers) == 2 and all(type(each) is int for each in layers)):
        raise EngineError(f"a stage was asked for layers {layers!r}: expected two numbers")
    if model is None:
        model = StageModel(Path(str(asked.get("path"))), "", threads if type(threads) is int else None)
    elif asked.get("digest") != model.digest:
        raise EngineError(
            f"the stage has another model file (SHA-256 {model.digest:.12}… instead of {asked.get('digest')!s:.12}…): "
            "copy the file again"
        )
    return LayerStage(model.path, range(*layers), StageSizes.read(asked.get("sizes")), settings, model.threads)


def _answer(connection: socket.socket, stage: LayerStage) -> None:
    """Answer steps until the connection ends. They are read ahead, so that a caller never waits to send one."""
    sizes, coming = stage.sizes, queue.Queue[Frame | None](AHEAD)

    def read() -> None:
        try:
            while True:
                coming.put(receive(connection, 4 * stage.hidden * sizes.rows))
        except (OSError, EOFError, EngineError) as error:
            LOG.info("the first process of this model: %s", error)
            coming.put(None)

    threading.Thread(target=read, name="miaotui-stage", daemon=True).start()
    while (frame := coming.get()) is not None:
        try:
            number, only_logits = frame.number >> 1, bool(frame.number & 1)
            chunks = read_chunks(frame.fields, sizes.rows, sizes.pages, sizes.context)
            states, seconds = stage.run(chunks, frame.states(stage.hidden), only_logits=only_logits)
        except Exception as error:  # this step fails, and the caller says so; the next one may not
            LOG.exception("a step failed")
            fault = {"error": str(error), "kind": type(error).__name__}
            send(connection, FrameKind.FAULT, frame.number >> 1, fault)
            continue
        send(connection, FrameKind.ROWS, number, {"seconds": seconds}, rows=states)


def listen(listening: socket.socket, secret: bytes | None, model: StageModel, settings: Settings) -> None:
    """Compute for one caller after another. ``secret`` None: whoever connects. Returns when ``listening`` is closed."""
    while True:
        try:
            connection, address = listening.accept()
        except OSError:
            return
        with connection:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(PROVED_S)
                if secret is not None and not prove(connection, secret, listens=True):
                    LOG.warning("%s does not know the secret", address[0])
                    continue
                connection.settimeout(None)
                serve(connection, settings, model)
            except (OSError, EOFError, EngineError) as error:
                LOG.info("%s: %s", address[0], error)


def bind_stage(host: str, port: int, secret: bytes | None) -> socket.socket:
    """Return the socket on which a stage listens. Raises `RequestError`, also for an open address without a secret."""
    if secret is None and host not in ("127.0.0.1", "::1", "localhost"):
        raise RequestError(f"a stage at {host} computes for whoever connects: give --key-file, or listen on 127.0.0.1")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RequestError(f"cannot listen at {host}:{port}: {error.strerror or error}. Choose another port") from error


def main() -> None:
    """Run a child: its one argument is the number of its end of a pair of sockets."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it by ending the connection
    gone = contextlib.suppress(OSError, EOFError)  # the parent has
    with gone, socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection, Settings.from_env())


if __name__ == "__main__":
    main()
