"""GGUF copy of a model that lies in a folder of safetensors: its configuration as metadata, its tensors renamed.

Owns the way from a `ModelConfig` to GGUF's keys, for plain decoders. Knows no quantisation: weights keep their type,
vectors become float32. Invariants: the copy, when it is read, has the folder's configuration, tokenizer and weights,
which is checked before it appears; a model of which that is not so is refused with another way.
Source: the GGUF specification and the conventions of llama.cpp's converter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import make_folder
from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.files import require_room, write_whole
from miaotui.hub.formats.tensors import BlockType, StoredTensor, stored_bytes
from miaotui.hub.writers.blocks import encode_floats
from miaotui.hub.writers.gguf import write_gguf
from miaotui.hub.writers.gguf_metadata import MetadataValue, metadata_head
from miaotui.model.config import ModelConfig
from miaotui.model.reading.architectures import Architecture
from miaotui.model.reading.families import architecture_of, by_gguf_name
from miaotui.model.reading.files import ModelFiles, open_model
from miaotui.model.reading.from_gguf import ALIBI, ALIBI_BIAS, EPS_KEYS, config_from_gguf, gguf_sources
from miaotui.model.reading.positions.rope_from_gguf import FREQ_FACTORS
from miaotui.model.reading.sources import CanonicalTensors, TensorSource, stored_rows
from miaotui.model.rope import RopeConfig
from miaotui.model.writing.files import FILE_TYPES
from miaotui.text.tokenizers.to_gguf import CONVERTER, tokenizer_metadata

Bytes = NDArray[np.uint8]
STANDS_FOR = {"mistral": "llama", "internlm3": "llama"}  # architectures that GGUF files know under another name
CLOSE = 1e-6  # of numbers, which GGUF files hold in 32 bits
CHECKED_ROWS = 2  # of a matrix, at each end


def write_gguf_copy(folder: Path, out: Path) -> None:
    """Write the decoder in ``folder`` to the GGUF file ``out``, which appears whole or not at all.

    Raises a `ModelError` for what cannot be read, `UnsupportedModelError` for what is not written in this form here,
    and `CacheError` where there is no room.
    """
    with open_model(folder) as model:
        architecture = _written_as(model.config, folder)
        tensors = dict(_tensors(model, architecture, folder))
        metadata = _metadata(model.config, architecture, tensors) | tokenizer_metadata(folder, model.config.vocab_size)
        _require_same_config(model.config, metadata, tensors, folder)
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
        require_room(
            make_folder(out.parent), sum(stored_bytes(name, shape, kind) for name, (kind, shape) in sizes.items())
        )
        part = out.with_name(f"{out.name}.unchecked")
        data = (tensor.data.reshape(-1) for tensor in tensors.values())
        try:
            write_whole(part, "the copy", lambda file: write_gguf(file, metadata_head(metadata), sizes, data))
            _require_same_weights(model.tensors, part, folder)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)


def _written_as(config: ModelConfig, folder: Path) -> Architecture:
    """Return the entry under which a GGUF file knows the model. Raises `UnsupportedModelError`."""
    own = architecture_of(config.architecture)
    name = own.gguf or STANDS_FOR.get(own.name)
    rare = config.experts or config.latent or config.masked or own.multipliers or own.layer_parts
    if name is None or rare or not config.has_one_stream or config.vocab_size == own.unit_head_vocab:
        raise _refused(folder, f"{own.title} is not written to GGUF files here")
    return by_gguf_name(name)


def _refused(folder: Path, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{folder} cannot be copied to a GGUF file: {why}; {CONVERTER}")


def _metadata(
    config: ModelConfig, architecture: Architecture, tensors: Mapping[str, StoredTensor]
) -> dict[str, MetadataValue]:
    rope = config.rope
    kinds = [tensor.kind for tensor in tensors.values() if len(tensor.shape) > 1]
    values: dict[str, MetadataValue] = {
        "block_count": config.n_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        EPS_KEYS[architecture.norm]: config.norm_eps,
        "rope.dimension_count": rope.dim,
        "rope.freq_base": float(rope.theta),
        "vocab_size": config.vocab_size,
    }
    if rope.scaling in ("linear", "yarn"):
        values |= {"rope.scaling.type": rope.scaling, "rope.scaling.factor": float(rope.factor)}
    if rope.scaling == "yarn":
        values["rope.scaling.original_context_length"] = rope.original_context
        values["rope.scaling.yarn_beta_fast"] = float(rope.beta_fast)
        values["rope.scaling.yarn_beta_slow"] = float(rope.beta_slow)
    if any(config.windows):
        values["attention.sliding_window"] = max(config.windows)
    if len(set(config.windows)) > 1:
        values["attention.sliding_window_pattern"] = [bool(window) for window in config.windows]
    if not math.isclose(config.attention_scale, config.head_dim**-0.5, rel_tol=CLOSE):
        values["attention.scale"] = config.attention_scale
    if config.alibi:
        values[ALIBI] = ALIBI_BIAS
    if architecture.parallel_key is not None:
        values[architecture.parallel_key] = config.parallel
    if config.attention_softcap:
        values["attn_logit_softcapping"] = config.attention_softcap
    if config.logit_softcap:
        values["final_logit_softcapping"] = config.logit_softcap
    if config.local_rope is not None:
        values["rope.freq_base_swa"] = float(config.local_rope.theta)
    named = {f"{architecture.gguf}.{key}": value for key, value in values.items()}
    return {
        "general.architecture": str(architecture.gguf),
        "general.file_type": FILE_TYPES[max(set(kinds), key=kinds.count)],
        **named,
    }


def _tensors(model: ModelFiles, architecture: Architecture, folder: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of the file by name, in the order of the forward pass."""
    config, canonical = model.config, model.tensors
    sources = gguf_sources(config, architecture)
    groups: dict[str, list[tuple[str, TensorSource]]] = {}
    for name in canonical:
        groups.setdefault(sources[name].name, []).append((name, sources[name]))
    for stored, parts in groups.items():
        yield stored, _joined(stored, parts, canonical, folder)
    if config.rope.scaling == "llama3" or (config.rope.freq_factors and config.rope.scaling == "none"):
        plain = replace(config.rope, scaling="none", freq_factors=None).inverse_frequencies()
        factors = (plain / config.rope.inverse_frequencies()).astype(np.float32)
        yield FREQ_FACTORS, StoredTensor(FREQ_FACTORS, factors.shape, BlockType.F32, factors.view(np.uint8)[None])


def _joined(
    stored: str, parts: list[tuple[str, TensorSource]], canonical: CanonicalTensors, folder: Path
) -> StoredTensor:
    """Return a stored tensor made of canonical ones, whose rows lie where a reader of the file expects them."""
    found = [(canonical[name], stored_rows(source, canonical[name].shape[0])) for name, source in parts]
    shape = found[0][0].shape
    total = sum(len(rows) for _, rows in found)
    if len(shape) == 1:
        values = np.empty(total, np.float32)
        for tensor, rows in found:
            values[rows] = tensor.float32()
        return StoredTensor(stored, values.shape, BlockType.F32, encode_floats(values, BlockType.F32)[None])
    kinds = {tensor.kind for tensor, _ in found}
    if len(kinds) > 1 or not next(iter(kinds)).is_float:
        raise _refused(folder, f"{stored} is stored as {', '.join(sorted(kind.name for kind in kinds))}")
    data = np.empty((total, found[0][0].data.shape[1]), np.uint8)
    for tensor, rows in found:
        data[rows] = tensor.data
    return StoredTensor(stored, (total, shape[1]), kinds.pop(), data)


def _require_same_config(
    config: ModelConfig, metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor], folder: Path
) -> None:
    """Raise `UnsupportedModelError` where a reader of the metadata would see another model."""
    try:
        read = config_from_gguf(metadata, tensors)
    except ModelError as error:
        raise _refused(folder, str(error)) from error
    ours, theirs = asdict(config), asdict(read)
    for name in ours.keys() - {"architecture", "rope", "local_rope"}:
        if not _close(ours[name], theirs[name]):
            raise _refused(folder, f"{name.replace('_', ' ')} {str(ours[name])[:80]} cannot be said in it")
    for name in ("rope", "local_rope"):
        if not _same_rope(getattr(config, name), getattr(read, name)):
            raise _refused(folder, "its position encoding cannot be said in it")


def _close(one: object, two: object) -> bool:
    return math.isclose(one, two, rel_tol=CLOSE) if isinstance(one, float) and isinstance(two, float) else one == two


def _same_rope(one: RopeConfig | None, two: RopeConfig | None) -> bool:
    if one is None or two is None:
        return one is two
    return (
        one.dim == two.dim
        and np.allclose(one.inverse_frequencies(), two.inverse_frequencies(), rtol=10 * CLOSE, atol=0)
        and math.isclose(one.magnitude(), two.magnitude(), rel_tol=CLOSE)
    )


def _require_same_weights(expected: CanonicalTensors, copy: Path, folder: Path) -> None:
    """Raise `ModelFormatError` if a vector, or rows at the ends of a matrix, are others in the copy."""
    with open_model(copy) as made:
        for name in expected:
            one, two = expected[name], made.tensors[name]
            ends = [(0, CHECKED_ROWS), (max(0, one.rows - CHECKED_ROWS), one.rows)]
            if any(not np.array_equal(one.float32(*at), two.float32(*at)) for at in ends):
                raise ModelFormatError(f"the GGUF copy of {folder} has other weights in {name}: {CONVERTER}")
