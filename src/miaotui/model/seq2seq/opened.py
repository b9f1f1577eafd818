"""Opening an encoder-decoder on disk as a configuration, canonical tensors and settings of its search.

Knows which container is read by which module; leaves their contents to these. Invariant: the result of `open_seq2seq`
has been checked against itself, tensor by tensor, and nothing has been decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaotui.errors import ModelNotFoundError
from miaotui.hub.formats.ctranslate2.model_bin import FILE_NAME, is_ctranslate2, read_ctranslate2, read_vocabulary_list
from miaotui.hub.formats.marian.binary import find_marian, read_marian
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.formats.whisper.ggml import is_whisper_ggml, read_whisper_ggml
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.model.seq2seq.reading.families import is_seq2seq_type
from miaotui.model.seq2seq.reading.from_ctranslate2 import (
    config_from_ctranslate2,
    generation_from_ctranslate2,
    tensors_from_ctranslate2,
)
from miaotui.model.seq2seq.reading.from_ggml import config_from_ggml, generation_from_ggml, tensors_from_ggml
from miaotui.model.seq2seq.reading.from_hf import seq2seq_config_from_hf, seq2seq_tensors
from miaotui.model.seq2seq.reading.from_marian import config_from_marian, generation_from_marian, tensors_from_marian
from miaotui.model.seq2seq.reading.generation_from_hf import generation_from_hf
from miaotui.model.seq2seq.reading.whisper import alignment_heads
from miaotui.text.seq2seq.marian_files import marian_vocabulary
from miaotui.text.seq2seq.sentencepiece_file import read_sentencepiece

CONFIG, GENERATION = "config.json", "generation_config.json"
MAX_PREFIX = 1 << 10  # characters of a task's prefix


@dataclass(frozen=True, eq=False)
class OpenedSeq2Seq:
    """An encoder-decoder's files. ``values`` is ``config.json``; its tensors are views of mapped files."""

    folder: Path
    config: Seq2SeqConfig
    weights: Mapping[str, StoredTensor]
    generation: GenerationSettings
    values: Mapping[str, Any] = field(default_factory=dict)
    alignment_heads: tuple[tuple[int, int], ...] = ()  # layer and head, of a model of sound


def is_seq2seq(path: str | Path) -> bool:
    """Return whether the model at ``path`` is an encoder-decoder; its weights are not looked at.

    Raises `ModelFormatError` for a ``config.json`` that cannot be read.
    """
    config = Path(path) / CONFIG
    if is_ctranslate2(Path(path) / FILE_NAME) or is_whisper_ggml(Path(path)) or find_marian(Path(path)) is not None:
        return True
    return config.is_file() and is_seq2seq_type(read_object(config).get("model_type"))


def is_speech(path: str | Path) -> bool:
    """Return whether the model at ``path`` recognises speech; its weights are not looked at.

    Raises `ModelFormatError` for a ``config.json`` that cannot be read.
    """
    folder = Path(path)
    if is_whisper_ggml(folder) or is_ctranslate2(folder / FILE_NAME, "WhisperSpec"):
        return True
    config = folder / CONFIG
    return config.is_file() and read_object(config).get("model_type") == "whisper"


def open_seq2seq(path: str | Path) -> OpenedSeq2Seq:
    """Open a folder of ``config.json`` and safetensors, CTranslate2's, Marian's, or a file of whisper.cpp's.

    Raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`.
    """
    folder = Path(path)
    if is_whisper_ggml(folder):
        return _whisper_ggml(folder)
    if is_ctranslate2(folder / FILE_NAME):
        return _ctranslate2(folder)
    marian = find_marian(folder)
    if marian is not None:
        return _marian(folder, marian)
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(
            f"{str(folder)!r} has no config.json: name a folder with config.json, a tokenizer and *.safetensors"
        )
    values = read_object(folder / CONFIG)
    stored = read_safetensors(folder)
    config = seq2seq_config_from_hf(values, stored)
    generated = read_object(folder / GENERATION) if (folder / GENERATION).is_file() else None
    settings = generation_from_hf(values, generated, config)
    heads = alignment_heads(generated or {}, config)
    return OpenedSeq2Seq(folder, config, seq2seq_tensors(config, values, stored), settings, values, heads)


def _ctranslate2(folder: Path) -> OpenedSeq2Seq:
    values = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    file = read_ctranslate2(folder / FILE_NAME)
    config = config_from_ctranslate2(file, values)
    target = read_vocabulary_list(folder, "target")
    settings = generation_from_ctranslate2(values, target, config)
    tensors, heads = tensors_from_ctranslate2(file, config), alignment_heads(values, config)
    return OpenedSeq2Seq(folder, config, tensors, settings, values, heads)


def _marian(folder: Path, path: Path) -> OpenedSeq2Seq:
    file = read_marian(path)
    config = config_from_marian(file)
    settings = generation_from_marian(read_sentencepiece(marian_vocabulary(folder, "trg")).tokens, config)
    return OpenedSeq2Seq(folder, config, tensors_from_marian(file, config), settings)


def _whisper_ggml(path: Path) -> OpenedSeq2Seq:
    file = read_whisper_ggml(path)
    config = config_from_ggml(file)
    tensors, settings = tensors_from_ggml(file, config), generation_from_ggml(config)
    return OpenedSeq2Seq(path, config, tensors, settings, {}, alignment_heads({}, config))


def task_prefixes(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that tasks put before a source, by task, as ``task_specific_params`` names them (T5)."""
    tasks = values.get("task_specific_params")
    named = tasks.items() if isinstance(tasks, dict) else ()
    prefixes = {name: task.get("prefix") for name, task in named if isinstance(task, dict)}
    return {name: text for name, text in prefixes.items() if isinstance(text, str) and len(text) <= MAX_PREFIX}
