"""The application that answers a batch: models by name, opened as a server opens them, and its routes.

Owns the order. Knows no lines. Invariant: it listens nowhere; closing it gives the memory of all models back.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from starlette.applications import Starlette

from miaotui.backends.options import EncoderOptions, EngineOptions
from miaotui.encoders.runtime import describe_encoder, run_encoder
from miaotui.engine.model_loop import ModelLoop
from miaotui.errors import RequestError
from miaotui.hub.ensemble import is_ensemble
from miaotui.hub.resolve import resolve
from miaotui.model.seq2seq.opened import is_speech
from miaotui.runtime import ModelOptions, open_served_model
from miaotui.serve.app import create_app
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.services import Services
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for, open_services
from miaotui.types import Progress


class BatchServer:
    """Models and the routes over them. Make and use it in one event loop."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.app: Starlette = create_app(services, layers_for(services.settings, services.operations))

    def close(self) -> None:
        """Give the memory of all models back."""
        self._services.close()


def open_batch(models: Mapping[str, str], threads: int | None = None, progress: Progress | None = None) -> BatchServer:
    """Open models by the names that requests call them by. Call it in the event loop. Raises a `MiaotuiError`."""
    settings = ServeSettings(
        models=tuple(f"{name}={model}" for name, model in models.items()), threads=threads, console=False, docs=False
    ).checked()
    loops: dict[str, ModelLoop] = {}
    encoders: list[EncoderEntry] = []
    with ExitStack() as opened:
        for name, model in models.items():
            path = Path(resolve(model, progress=progress))
            if is_speech(path):
                raise RequestError(f"{model} is a speech model: write recordings down with miaotui transcribe")
            options = EncoderOptions(threads=threads)
            found = None if is_ensemble(path) else describe_encoder(path, options)
            if found is None:
                loops[name] = open_served_model(path, ModelOptions(EngineOptions(threads=threads)), progress=progress)
                opened.callback(loops[name].close)
            else:
                run = partial(run_encoder, path, options)
                encoders.append(EncoderEntry(name, found.abilities, found.max_tokens, found.size_bytes, run))
        services = open_services(loops, settings, encoders)
        opened.pop_all()
    return BatchServer(services)
