"""Engines over tiny random models, and everyday ways to run them to the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.build import build_backend
from miaotui.backends.cpu.build import assemble
from miaotui.backends.options import BackendName, Built, EngineOptions
from miaotui.backends.reference.build import assemble as assemble_reference
from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading.readers import Readers
from miaotui.engine.request import Request
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedModel, pack_model
from miaotui.model.reading.files import ModelFiles, open_model
from miaotui.runtime import load_model
from miaotui.schedule.promises.cost import CostModel
from miaotui.text.load import load_tokenizer
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams
from tiny_models import tiny_config, tiny_weights
from tiny_tokenizer import write_tokenizer

Array = NDArray[np.float32]
Change = Callable[[dict[str, Array]], None]
GREEDY = SamplingParams(max_tokens=8, ignore_eos=True)
SMALL: Mapping[str, Any] = {"format": Format.Q8, "chunk_size": 64, "threads": 1, "most_passes": 1}


PACKED_ONLY = {"format", "threads", "kv"}  # options that the reference backend lacks
_backend: BackendName = "cpu"


def use_backend(name: BackendName) -> None:
    """From now on engines are opened over this backend."""
    global _backend  # noqa: PLW0603
    _backend = name


def chosen_options(options: Mapping[str, Any]) -> EngineOptions:
    """Small sizes, changed by ``options`` as far as the backend in use has them."""
    chosen = {"backend": _backend, **SMALL, **options}
    if chosen["backend"] == "reference":
        chosen = {name: value for name, value in chosen.items() if name not in PACKED_ONLY}
    return EngineOptions(**chosen)


def settings_in(folder: Path) -> Settings:
    """Compiled kernels where this user keeps them, everything else in ``folder``."""
    return dataclasses.replace(Settings.from_env(), cache_dir=folder)


def open_parts(path: Path, settings: Settings, **options: Any) -> tuple[Built, Tokenizer]:
    """The parts of an engine for the model at ``path``, and its tokenizer."""
    with open_model(path) as files:
        tokenizer = load_tokenizer(files.metadata, files.folder)
        config = files.config
    return build_backend(path, config, chosen_options(options), settings), tokenizer


def pack_tiny(config: ModelConfig, folder: Path, form: Format = Format.Q8, change: Change | None = None) -> PackedModel:
    """A random model of any configuration, its weights changed in place by ``change``, packed."""
    return pack_model(ModelFiles(config, stored_weights(config, change)), PackedStore(folder / "packed"), "tiny", form)


def stored_weights(config: ModelConfig, change: Change | None = None) -> dict[str, StoredTensor]:
    """Random tensors of any configuration, as a file of float32 holds them."""
    arrays = tiny_weights(config)
    if change is not None:
        change(arrays)
    return {name: _stored(name, array) for name, array in arrays.items()}


def _stored(name: str, array: Array) -> StoredTensor:
    raw = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
    return StoredTensor.from_bytes(name, array.shape, BlockType.F32, raw)


def open_changed(folder: Path, variant: str, change: Change, **options: Any) -> Engine:
    """An engine for a tiny model whose weights were changed."""
    config, chosen = tiny_config(variant), chosen_options(options)
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    if chosen.backend == "reference":
        arrays = tiny_weights(config)
        change(arrays)
        parts = assemble_reference(config, arrays, chosen)
    else:
        parts = assemble(config, pack_tiny(config, folder, change=change), chosen)
    return Engine(parts, load_tokenizer(None, folder))


def open_engine(path: Path, folder: Path, **options: Any) -> Engine:
    """An engine for the model at ``path``, its packed weights in ``folder``."""
    return Engine(*open_parts(path, settings_in(folder), **options))


def open_loop(
    path: Path, folder: Path, readers: Readers | None = None, cost: CostModel | None = None, **options: Any
) -> EngineLoop:
    """A running loop for the model at ``path``, its packed weights in ``folder``; it knows what passes cost."""
    model = load_model(path, chosen_options(options), settings_in(folder))
    loop = EngineLoop(Engine(model.parts, model.tokenizer), model, readers)
    loop.calibrate(cost)
    return loop


def submit_all(engine: Engine, prompts: Sequence[Sequence[int]], *params: Any) -> list[Request]:
    """Submit prompts, each with its own parameters or all with the same."""
    each = params if len(params) == len(prompts) else params * len(prompts)
    return [engine.submit(list(p), q) for p, q in zip(prompts, each, strict=True)]


def run(engine: Engine) -> None:
    """Step until nothing is left, with the scheduler's integrity checked on the way."""
    while engine.step():
        engine.scheduler.check()


def answers(engine: Engine, prompts: Sequence[Sequence[int]], *params: Any) -> list[tuple[int, ...]]:
    """The token ids of every answer, all requests running together."""
    requests = submit_all(engine, prompts, *params)
    run(engine)
    return [request.completion().token_ids for request in requests]
