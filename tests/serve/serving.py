"""A real server on a real port, over a tiny model, in a thread: what tests of the wire talk to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from starlette.middleware import Middleware

from miaotui.backends.options import EncoderOptions, EngineOptions
from miaotui.config import Settings
from miaotui.encoders.runtime import describe_encoder, run_encoder
from miaotui.kernels.linear.formats import Format
from miaotui.runtime import ModelOptions, open_model
from miaotui.serve.app import create_app
from miaotui.serve.encoders.registry import EncoderEntry, EncoderRegistry
from miaotui.serve.http.server import EmbeddedServer, run, server_for
from miaotui.serve.models import ObservedModel, ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.services import Services
from miaotui.serve.settings import ServeSettings

OPTIONS = EngineOptions(format=Format.Q8, threads=1, chunk_size=64)
Result = TypeVar("Result")
Parts = Callable[[ServedModels], Mapping[str, Any]]


def no_parts(models: ServedModels) -> Mapping[str, Any]:
    return {}


def services(models: ServedModels | None = None, settings: ServeSettings | None = None, **parts: Any) -> Services:
    """The parts of a server; those that are not given are the default ones."""
    models = ServedModels() if models is None else models
    parts.setdefault("operations", Operations(models))
    return Services(models, settings or ServeSettings(), **parts)


def encoder_entry(name: str, path: Path, settings: Settings) -> EncoderEntry:
    """An encoder over the reference backend; embedders pool by the mean."""
    options = EncoderOptions(backend="reference", pooling="mean" if "embed" in path.name else None)
    found = describe_encoder(path, options)
    assert found is not None
    size = found.size_bytes
    return EncoderEntry(
        name, found.abilities, found.max_tokens, size, lambda: run_encoder(path, options, settings=settings)
    )


@dataclass
class Serving:
    """A running server: its address, its models, and a way into its event loop."""

    url: str
    hosts: ServedModels
    loop: asyncio.AbstractEventLoop = field(repr=False)
    services: Services = field(repr=False)

    def call(self, function: Callable[[], Result]) -> Result:
        """`function()`, run in the server's event loop."""

        async def calling() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(calling(), self.loop).result(30)

    def in_flight(self) -> int:
        """Requests that the engines have not ended."""
        return sum(hosted.loop.engine.in_flight for hosted in self.hosts.values())


@contextmanager
def serving(
    models: Mapping[str, Path],
    settings: Settings,
    *,
    encoders: Mapping[str, Path] = MappingProxyType({}),
    encoder_bytes: int | None = None,
    serve: ServeSettings | None = None,
    options: EngineOptions = OPTIONS,
    layers: Sequence[Middleware] = (),
    parts: Parts = no_parts,
    port: int = 0,
) -> Iterator[Serving]:
    """A server of `models` (folders by name) until the block ends; then nothing of it is left."""
    ready: threading.Event = threading.Event()
    state: dict[str, Any] = {}

    async def main() -> None:
        chosen = ModelOptions(options)
        loops = {name: open_model(path, chosen, settings=settings) for name, path in models.items()}
        served = ServedModels((ObservedModel(name, loop) for name, loop in loops.items()), lambda: encoders)
        entries = [encoder_entry(name, path, settings) for name, path in encoders.items()]
        registry = EncoderRegistry(entries, encoder_bytes, served.keys)
        given = dict(parts(served))
        made = services(given.pop("models", served), serve, encoders=registry, **given)
        served = made.models
        app = create_app(made, layers)
        server = server_for(app, host="127.0.0.1", port=port)
        try:
            task = asyncio.ensure_future(server.serve())
            while not server.started and not task.done():
                await asyncio.sleep(0.005)
            bound = server.servers[0].sockets[0].getsockname()[1]
            url, loop = f"http://127.0.0.1:{bound}", asyncio.get_running_loop()
            state.update(server=server, serving=Serving(url, served, loop, made))
            ready.set()
            await task
        finally:
            made.close()

    def target() -> None:
        try:
            run(main())
        except BaseException as error:
            state["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=target, name="server")
    thread.start()
    ready.wait()
    try:
        if "serving" not in state:
            raise state["error"]
        yield state["serving"]
    finally:
        if "server" in state:
            stop(state["server"], thread)
        thread.join(30)
    if "error" in state:
        raise state["error"]


def stop(server: EmbeddedServer, thread: threading.Thread) -> None:
    """Ask it to end; answers that are still under way after a second are broken off."""
    server.should_exit = True
    thread.join(1.0)
    server.force_exit = True
