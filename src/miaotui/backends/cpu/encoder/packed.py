"""Packed weights of an encoder: made once from its tensors, kept in the cache, and mapped from there afterwards.

Decides which matrices are fused (queries, keys and values; gate and up, in alternating units of 32 rows) and which
format each gets. Knows no passes. Invariant: weights asked for as float32 keep the values of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.store import PackedStore, content_key
from miaotui.kernels.linear.formats import Format
from miaotui.model.encoder.channels import channel_order, in_order
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.packed import LAYOUT, PackedModel, PackingJob, pack_jobs, packing_progress
from miaotui.model.packing import encoder_format, require_finite
from miaotui.types import Progress

ENCODER_LAYOUT = 1
CHANNEL_ORDER = "channel_order"  # vector of a model whose channels are in order of size
_TABLES = frozenset({"position_embed", "type_embed", "relative_bias", "relative_embed"})  # read as float32 rows

Tensors = Mapping[str, StoredTensor]


def load_packed_encoder(
    path: Path,
    config: EncoderConfig,
    tensors: Tensors,
    store: PackedStore,
    wanted: Format = Format.Q8,
    progress: Progress | None = None,
    *,
    ordered: bool = False,
) -> PackedModel:
    """Return the packed weights of the opened encoder at ``path``, from the cache or packed now.

    ``wanted`` is the format of matrices that the file stores as floats; with `Format.F32` of all. With ``ordered``
    channels are in order of size where they can be, and `CHANNEL_ORDER` is their order. Raises `CacheError`, and
    `ModelFormatError` for weights that are not numbers.
    """
    details = {"encoder": ENCODER_LAYOUT, "format": wanted.value} | ({"channels": 1} if ordered else {})
    key = content_key(path, {"layout": LAYOUT, **details})
    file = store.open(key)
    if file is not None:
        return PackedModel(file)
    told = packing_progress(progress, path, store, details)
    order = channel_order(config, tensors) if ordered else None
    vectors: list[tuple[str, NDArray[np.float32]]] = []
    if order is not None:
        tensors = in_order(config, tensors, order)
        vectors = [(CHANNEL_ORDER, order.astype(np.float32))]
    jobs = list(_jobs(config, tensors, wanted))
    return pack_jobs(jobs, chain(vectors, _vectors(config, tensors)), store, key, told)


def _jobs(config: EncoderConfig, tensors: Tensors, wanted: Format) -> Iterator[PackingJob]:
    outer = Format.Q8 if wanted is Format.Q4 else wanted  # the embedding keeps 8 bits
    yield _job("embed", [tensors["embed"]], outer)
    if config.embedding_size != config.hidden_size:
        yield _job("embed_projection", [tensors["embed_projection"]], wanted)
    for layer in range(1 if config.shared_layers else config.n_layers):
        prefix = f"layers.{layer}."
        yield _job(prefix + "qkv", [tensors[prefix + name] for name in "qkv"], wanted)
        yield _job(prefix + "o", [tensors[prefix + "o"]], wanted)
        if config.gated:
            parts = [tensors[prefix + name] for name in ("gate", "up")]
            yield _job(prefix + "gate_up", parts, wanted, alternating=True)
        else:
            yield _job(prefix + "up", [tensors[prefix + "up"]], wanted)
        yield _job(prefix + "down", [tensors[prefix + "down"]], wanted)


def _job(name: str, parts: list[StoredTensor], wanted: Format, alternating: bool = False) -> PackingJob:
    """Return how a matrix is packed: in the format that all parts share, or else with 8 bits."""
    formats = {wanted if wanted is Format.F32 else encoder_format(part.kind, wanted) for part in parts}
    form = formats.pop() if len(formats) == 1 else Format.Q8
    return PackingJob(name, tuple(parts), form, alternating)


def _vectors(config: EncoderConfig, tensors: Tensors) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield norms, biases and small tables; biases of fused matrices are fused as these are."""
    for name, shape in encoder_shapes(config).items():
        if len(shape) == 1 or name in _TABLES:
            values = tensors[name].float32().reshape(shape)
            require_finite(tensors[name], values)
            if not name.endswith((".q_bias", ".k_bias", ".v_bias", ".gate_bias")):
                yield name, values
    for layer in range(1 if config.shared_layers else config.n_layers):
        prefix = f"layers.{layer}."
        if config.qkv_bias:
            yield prefix + "qkv_bias", np.concatenate([tensors[f"{prefix}{name}_bias"].float32() for name in "qkv"])
        if config.gated and config.up_bias:
            parts = [tensors[f"{prefix}{name}_bias"].float32().reshape(-1, 32) for name in ("gate", "up")]
            yield prefix + "gate_up_bias", np.stack(parts, axis=1).reshape(-1)
