"""The one place where a model's parts are wired together: from a name to a running `EngineLoop`.

Owns the order: find the files, read what belongs to the text, pack the weights and compile the kernels, add the
speculation, start the loop. Everything that runs a model begins here: `LLM`, `AsyncLLM`, the server, the
applications. Knows no prompts. Invariant: either everything is open, or nothing is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from miaotui.backends.build import build_backend, build_encoder_backend
from miaotui.backends.options import EncoderOptions, EngineOptions
from miaotui.config import Settings
from miaotui.encoders.prompts import prompts_for
from miaotui.engine.encoding.admission import QueueLimits
from miaotui.engine.encoding.loaded import Ability, LoadedEncoder, abilities_of
from miaotui.engine.encoding.loop import EncoderLoop
from miaotui.engine.engine import Engine
from miaotui.engine.loaded_model import LoadedModel
from miaotui.engine.loop import EngineLoop
from miaotui.engine.speculator import Speculator
from miaotui.errors import ModelFormatError
from miaotui.hub.resolve import resolve
from miaotui.model.encoder import opened as encoder_files
from miaotui.model.encoder.heads import PoolingConfig
from miaotui.model.encoder.pooling import Pooler
from miaotui.model.encoder.task_head import TaskHead
from miaotui.model.reading import files
from miaotui.text.chat import ChatEncoder
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.types import Progress


@dataclass(frozen=True)
class ModelOptions:
    """How to open a model: the sizes and formats of its engine, and whether likely tokens are tried together."""

    engine: EngineOptions = field(default_factory=EngineOptions)
    speculate: bool = True


def open_model(
    model: str | os.PathLike[str],
    options: ModelOptions | None = None,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> EngineLoop:
    """Open a model by catalog name, GGUF file, folder of safetensors, or Hugging Face repository id, and start it.

    Close the loop to give the memory back. Raises a `MiaotuiError`.
    """
    options, settings = options or ModelOptions(), settings or Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    return start(load_model(path, options.engine, settings, progress), options, settings, progress)


def load_model(path: Path, options: EngineOptions, settings: Settings, progress: Progress | None = None) -> LoadedModel:
    """Load the model at ``path`` (see `resolve`) without running it. Raises a `MiaotuiError`."""
    with files.open_model(path) as opened:
        config = opened.config
        tokenizer = load_tokenizer(opened.metadata, opened.folder)
        template = load_chat_template(opened.metadata, opened.folder)
    chat = ChatEncoder(template, tokenizer)
    return LoadedModel(path, config, tokenizer, chat, build_backend(path, config, options, settings, progress))


def start(
    model: LoadedModel, options: ModelOptions, settings: Settings, progress: Progress | None = None
) -> EngineLoop:
    """Start a loaded model. Raises `ModelFormatError` for a draft head that cannot be read."""
    try:
        drafts = options.speculate and model.parts.backend.capabilities.drafts
        speculation = _speculation(model, settings, progress) if drafts else None
        return EngineLoop(Engine(model.parts, model.tokenizer, speculation), model)
    except BaseException:
        model.close()
        raise


def _speculation(model: LoadedModel, settings: Settings, progress: Progress | None) -> Speculator:
    from miaotui.speculation.drafters.head import head_for  # noqa: PLC0415  (compiled code, that not all backends need)
    from miaotui.speculation.drafters.suffix import suffix_speculation  # noqa: PLC0415

    return suffix_speculation(progress, head_for(model.parts.backend, settings))


class RunningEncoder(NamedTuple):
    """An encoder in memory, and the loop that runs it."""

    model: LoadedEncoder
    loop: EncoderLoop


def open_encoder(
    model: str | os.PathLike[str],
    options: EncoderOptions | None = None,
    *,
    queue: QueueLimits | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> RunningEncoder:
    """Open an encoder by catalog name, file, folder or repository id, and start it. Raises a `MiaotuiError`.

    ``queue`` bounds what may wait for it. Close the loop to give the memory back.
    """
    options, settings = options or EncoderOptions(), settings or Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    loaded = load_encoder_model(path, options, settings, progress)
    try:
        return RunningEncoder(loaded, EncoderLoop(loaded.backend, queue))
    except BaseException:
        loaded.close()
        raise


def load_encoder_model(
    path: Path, options: EncoderOptions, settings: Settings, progress: Progress | None = None
) -> LoadedEncoder:
    """Load the encoder at ``path`` (see `resolve`) without running it. Raises a `MiaotuiError`."""
    with encoder_files.open_encoder(path) as opened:
        config, head = opened.config, opened.head
        pooling = opened.pooling if options.pooling is None else PoolingConfig(modes=(options.pooling,))
        plain = None if pooling is None else replace(pooling, normalize=False)
        prompts, default_prompt = prompts_for(path, opened.prompts, opened.default_prompt)
        tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case)
        _require_vocabulary(tokenizer.vocab_size, config.vocab_size, path)
        return LoadedEncoder(
            path=path,
            config=config,
            tokenizer=tokenizer,
            head=head,
            task_head=None if head.kind == "none" else TaskHead(config, head, opened.weights),
            pooler=None if plain is None else Pooler(plain, opened.weights, config.hidden_size),
            normalize=pooling is not None and pooling.normalize,
            prompts=prompts,
            default_prompt=default_prompt,
            similarity=opened.similarity,
            dimensions=options.dimensions or opened.dimensions,
            backend=build_encoder_backend(path, opened, options, settings, progress),
        )


def _require_vocabulary(tokens: int, rows: int, path: Path) -> None:
    """Raise `ModelFormatError` if the tokenizer has ids that the model has no row for; unused rows are usual."""
    if tokens > rows:
        raise ModelFormatError(
            f"the tokenizer of {path.name} has {tokens:,} tokens and the model {rows:,}: they are of different models; "
            "download both again"
        )


@dataclass(frozen=True)
class EncoderDescription:
    """Facts of an encoder's files, known before its weights are loaded; ``size_bytes`` is of its tensors."""

    path: Path
    abilities: tuple[Ability, ...]
    max_tokens: int
    size_bytes: int


def describe_encoder(path: Path, options: EncoderOptions | None = None) -> EncoderDescription | None:
    """Read what the model at ``path`` (see `resolve`) is; None: it is no encoder. Raises `ModelError`."""
    options = options or EncoderOptions()
    if not encoder_files.is_encoder(path):
        return None
    with encoder_files.open_encoder(path) as opened:
        pooling = opened.pooling if options.pooling is None else PoolingConfig(modes=(options.pooling,))
        tokens = min(options.max_tokens or opened.config.max_tokens, opened.config.max_tokens)
        size_bytes = sum(tensor.size_bytes for tensor in opened.weights.values())
        return EncoderDescription(path, abilities_of(opened.head, pooling), tokens, size_bytes)
