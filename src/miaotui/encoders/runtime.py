"""The one place where an encoder's parts are wired together: from a name to a running `EncoderLoop`.

Owns the order: find the files, read what belongs to the text, the head and the pooling, make the backend, start the
loop. Encoders, and decoders that are used as encoders, come out as one `LoadedEncoder`. Knows no texts. Invariant:
either everything is open, or nothing is. (Chat models are wired in `miaotui.runtime`, which imports nothing of this.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from miaotui.backends.build_encoder import build_decoder_states, build_encoder_backend
from miaotui.backends.encoder_backend import EncoderBackend
from miaotui.backends.options import EncoderOptions
from miaotui.config import Settings
from miaotui.encoders.prompts import prompts_for
from miaotui.encoders.remote_states import RemoteStates
from miaotui.engine.encoding.loaded import Ability, LoadedEncoder, abilities_of
from miaotui.engine.encoding.loop import EncoderLoop, EncodingLoop
from miaotui.engine.jobs.admission import QueueLimits
from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.ctranslate2.model_bin import FILE_NAME, is_ctranslate2
from miaotui.hub.formats.marian.binary import find_marian
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.resolve import resolve
from miaotui.model.encoder.container import OpenedEncoder
from miaotui.model.encoder.decoder import DecoderEncoder, LogitScore
from miaotui.model.encoder.heads import HeadConfig, PoolingConfig
from miaotui.model.encoder.opened import is_encoder, open_encoder
from miaotui.model.encoder.pooling import Pooler
from miaotui.model.encoder.reading.from_decoder import is_decoder_encoder, open_decoder_encoder
from miaotui.model.encoder.task_head import TaskHead
from miaotui.model.seq2seq.opened import is_speech
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer
from miaotui.types import Progress

MOST_TOKENS = 4096  # of a text of a decoder, unless ``max_tokens`` asks for more: keys and values take memory


class RunningEncoder(NamedTuple):
    """An encoder in memory, and the loop that runs it."""

    model: LoadedEncoder
    loop: EncodingLoop


@dataclass(frozen=True)
class EncoderDescription:
    """Facts of an encoder's files, known before its weights are loaded; ``size_bytes`` is of its tensors."""

    path: Path
    abilities: tuple[Ability, ...]
    max_tokens: int
    size_bytes: int


def run_encoder(
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
    if is_decoder_encoder(path):
        with open_decoder_encoder(path) as opened:
            return _decoder(path, opened, options, settings, progress)
    if is_speech(path) or is_ctranslate2(path / FILE_NAME) or find_marian(path) is not None:
        loader = "load_speech" if is_speech(path) else "load_seq2seq"
        raise UnsupportedModelError(f"{path} holds an encoder-decoder, no encoder: load it with miaotui.{loader}")
    with open_encoder(path) as opened_encoder:
        return _encoder(path, opened_encoder, options, settings, progress)


def open_remote_encoder(path: Path, digest: str, options: EncoderOptions) -> LoadedEncoder:
    """Read all of the encoder at ``path`` but its weights: its states are computed in other processes.

    ``digest`` is that of its files. Raises a `MiaotuiError`.
    """
    settings = Settings.from_env()
    if is_decoder_encoder(path):
        with open_decoder_encoder(path) as opened:
            return _decoder(path, opened, options, settings, elsewhere=digest)
    with open_encoder(path) as opened_encoder:
        return _encoder(path, opened_encoder, options, settings, elsewhere=digest)


def describe_encoder(path: Path, options: EncoderOptions | None = None) -> EncoderDescription | None:
    """Read what the model at ``path`` (see `resolve`) is; None: it is no encoder. Raises `ModelError`."""
    options = options or EncoderOptions()
    if is_decoder_encoder(path):
        with open_decoder_encoder(path) as decoder:
            abilities = abilities_of(_head_of(decoder), decoder.pooling)
            return _described(path, abilities, _decoder_tokens(decoder, options), decoder.files.tensors)
    if not is_encoder(path):
        return None
    with open_encoder(path) as opened:
        abilities = abilities_of(opened.head, _pooling(opened.pooling, options))
        tokens = min(options.max_tokens or opened.config.max_tokens, opened.config.max_tokens)
        return _described(path, abilities, tokens, opened.weights)


def _encoder(
    path: Path,
    opened: OpenedEncoder,
    options: EncoderOptions,
    settings: Settings,
    progress: Progress | None = None,
    elsewhere: str | None = None,
) -> LoadedEncoder:
    """Load an encoder; ``elsewhere``: without weights, as other processes compute it from files of that digest."""
    config, head = opened.config, opened.head
    pooling = _pooling(opened.pooling, options)
    prompts, default_prompt = prompts_for(path, opened.prompts, opened.default_prompt)
    tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case)
    _require_vocabulary(tokenizer, config.vocab_size, path)
    tokens = min(options.max_tokens or config.max_tokens, config.max_tokens)
    backend: EncoderBackend
    if elsewhere is None:
        backend = build_encoder_backend(path, opened, options, settings, progress)
    else:
        backend = RemoteStates(tokens, elsewhere)
    try:
        return LoadedEncoder(
            path=path,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            tokenizer=tokenizer,
            head=head,
            task_head=None if elsewhere is not None else _task_head(opened, backend),
            pooler=_pooler(pooling, opened.weights, config.hidden_size),
            normalize=pooling is not None and pooling.normalize,
            prompts=prompts,
            default_prompt=default_prompt,
            similarity=opened.similarity,
            dimensions=options.dimensions or opened.dimensions,
            backend=backend,
        )
    except BaseException:
        backend.close()
        raise


def _task_head(opened: OpenedEncoder, backend: EncoderBackend) -> TaskHead | None:
    """Return the head; a tied output matrix is multiplied by the backend, which has it packed."""
    if opened.head.kind == "none":
        return None
    product = backend.output_product() if opened.head.tied else None
    return TaskHead(opened.config, opened.head, opened.weights, product)


def _decoder(
    path: Path,
    opened: DecoderEncoder,
    options: EncoderOptions,
    settings: Settings,
    progress: Progress | None = None,
    elsewhere: str | None = None,
) -> LoadedEncoder:
    """Load a decoder whose states, after its final norm, are used as an encoder's are. ``elsewhere``: see above."""
    config, pooling = opened.files.config, opened.pooling
    tokenizer = load_encoder_tokenizer(opened.files.metadata, opened.files.folder)
    _require_vocabulary(tokenizer, config.vocab_size, path)
    tokens = _decoder_tokens(opened, options)
    return LoadedEncoder(
        path=path,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        tokenizer=tokenizer,
        head=_head_of(opened),
        task_head=None if opened.score is None or elsewhere is not None else LogitScore(opened),
        pooler=_pooler(pooling, opened.dense, config.hidden_size),
        normalize=pooling is not None and pooling.normalize,
        rerank_prompt=opened.rerank_prompt,
        prompts=opened.prompts,
        default_prompt=opened.default_prompt,
        similarity=opened.similarity,
        dimensions=options.dimensions,
        backend=build_decoder_states(path, opened.files, tokens, options, settings, progress)
        if elsewhere is None
        else RemoteStates(tokens, elsewhere),
    )


def _head_of(opened: DecoderEncoder) -> HeadConfig:
    """Return the head of a decoder: a reranker's one output, or none."""
    return HeadConfig() if opened.score is None else HeadConfig(kind="cross-encoder", outputs=1)


def _decoder_tokens(opened: DecoderEncoder, options: EncoderOptions) -> int:
    return min(options.max_tokens or MOST_TOKENS, opened.max_tokens)


def _pooling(found: PoolingConfig | None, options: EncoderOptions) -> PoolingConfig | None:
    return found if options.pooling is None else PoolingConfig(modes=(options.pooling,))


def _pooler(pooling: PoolingConfig | None, weights: Mapping[str, StoredTensor], hidden_size: int) -> Pooler | None:
    """Return the pooling without its division by the length, which a call may leave out."""
    return None if pooling is None else Pooler(replace(pooling, normalize=False), weights, hidden_size)


def _described(
    path: Path, abilities: tuple[Ability, ...], tokens: int, tensors: Mapping[str, StoredTensor]
) -> EncoderDescription:
    return EncoderDescription(path, abilities, tokens, sum(tensor.size_bytes for tensor in tensors.values()))


def _require_vocabulary(tokenizer: EncoderTokenizer, rows: int, path: Path) -> None:
    """Raise `ModelFormatError` if the tokenizer has ids that the model has no row for; unused rows are usual."""
    if tokenizer.vocab_size > rows:
        raise ModelFormatError(
            f"the tokenizer of {path.name} has {tokenizer.vocab_size:,} tokens and the model {rows:,}: they are of "
            "different models; download both again"
        )
