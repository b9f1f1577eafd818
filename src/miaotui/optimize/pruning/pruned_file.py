"""Pruned model as a file: tensors of the layers that stay, under new numbers, with fewer heads and channels.

Owns names, metadata and slices. Whole rows keep their stored blocks; a matrix that loses columns is stored in float16.
Knows no search. Invariant: the written file is read as the original's configuration with the shape's sizes and with
nothing else changed; where a rule of the architecture goes by the number of a layer, such a file cannot be written, and
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.gguf import parse_gguf
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.gguf import with_integers, write_gguf
from miaotui.model.config import ModelConfig
from miaotui.model.reading.from_gguf import config_from_gguf
from miaotui.optimize.pruning.shape import PrunedShape, pruned_config
from miaotui.optimize.source import GgufSource

Array = NDArray[np.float32]
Numbers = NDArray[np.intp]
F16_MOST = 65504.0
BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
UNCHANGED = {"attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"}


def write_pruned(
    source: GgufSource,
    shape: PrunedShape,
    out: Path,
    kept: Mapping[int, LayerWidths] | None = None,
    replaced: Mapping[str, Array] | None = None,
) -> None:
    """Write ``source`` pruned to ``shape``.

    ``kept`` says which heads and channels of each layer stay (None: the shape changes no widths), ``replaced`` gives
    stored matrices, before they are cut, other values. Raises `UnsupportedModelError` where the architecture ties
    something else to these numbers.
    """
    head = pruned_head(source, shape)
    tensors = dict(_tensors(source, shape, kept, replaced or {}))
    expected = pruned_config(source.config, shape)
    metadata = parse_gguf(head, source.path.name).metadata
    if config_from_gguf(metadata, tensors) != expected:
        raise UnsupportedModelError(
            f"{source.path.name} has layers whose kind follows from their number, so that none can be left out: prune "
            "heads or channels, or choose another model"
        )
    sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
    parts = (tensor.data.reshape(-1) for tensor in tensors.values())
    write_whole(out, "the pruned model", lambda file: write_gguf(file, head, sizes, parts))


def pruned_head(source: GgufSource, shape: PrunedShape) -> bytes:
    """Return the head of the file: the metadata with the shape's numbers."""
    config, architecture = source.config, str(source.file.metadata["general.architecture"])
    expected = pruned_config(config, shape)
    values = {"block_count": expected.n_layers}
    if expected.n_heads != config.n_heads:
        values |= {
            "attention.head_count": expected.n_heads,
            "attention.head_count_kv": expected.n_kv_heads,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.value_dim,
        }
    if expected.ffn_size != config.ffn_size:
        values["feed_forward_length"] = expected.ffn_size
    named = {f"{architecture}.{key}": value for key, value in values.items()}
    return with_integers(map_file(source.path), source.path.name, named)


class LayerWidths:
    """Heads and channels of one layer that stay: ``kv_heads`` and ``channels`` are their numbers, ascending."""

    def __init__(self, kv_heads: Sequence[int], channels: Sequence[int]) -> None:
        self.kv_heads, self.channels = np.asarray(kv_heads, np.intp), np.asarray(channels, np.intp)

    def values(self, config: ModelConfig, queries: bool) -> Numbers:
        """Return the numbers of the rows (of keys and values, or of ``queries``) of the heads that stay."""
        each = config.head_dim * (config.n_heads // config.n_kv_heads if queries else 1)
        found: Numbers = (self.kv_heads[:, None] * each + np.arange(each)).reshape(-1)
        return found


def _tensors(
    source: GgufSource, shape: PrunedShape, kept: Mapping[int, LayerWidths] | None, replaced: Mapping[str, Array]
) -> list[tuple[str, StoredTensor]]:
    numbers = {layer: number for number, layer in enumerate(shape.layers)}
    found = []
    for name, tensor in source.file.tensors.items():
        match = BLOCK.fullmatch(name)
        if match is None:
            found.append((name, tensor))
            continue
        layer = int(match[1])
        if layer not in numbers:
            continue
        new = f"blk.{numbers[layer]}.{match[2]}"
        cut = tensor if kept is None else _cut(source.config, match[2], tensor, kept[layer], replaced.get(name))
        found.append((new, cut.renamed(new)))
    return found


def _cut(
    config: ModelConfig, stem: str, tensor: StoredTensor, widths: LayerWidths, values: Array | None
) -> StoredTensor:
    """Return the rows or columns of a layer's tensor that stay."""
    part = stem.partition(".")[0]
    rows: dict[str, Callable[[], Numbers]] = {
        "attn_q": lambda: widths.values(config, queries=True),
        "attn_k": lambda: widths.values(config, queries=False),
        "attn_v": lambda: widths.values(config, queries=False),
        "ffn_gate": lambda: widths.channels,
        "ffn_up": lambda: widths.channels,
    }
    columns: dict[str, Callable[[], Numbers]] = {
        "attn_output": lambda: widths.values(config, queries=True),
        "ffn_down": lambda: widths.channels,
    }
    if part in rows and tensor.shape[0] == rows_of(config, part):
        return tensor.take_rows(rows[part]())
    if part in columns and stem.endswith(".weight"):
        chosen = columns[part]()
        if len(chosen) == tensor.cols:
            return tensor
        matrix = tensor.float32() if values is None else values
        return float16_tensor(tensor.name, matrix[:, chosen])
    if part not in UNCHANGED | set(columns):
        raise UnsupportedModelError(f"{tensor.name} cannot be cut: leave out whole layers, or choose another model")
    return tensor


def rows_of(config: ModelConfig, part: str) -> int:
    """Return the rows that a layer's matrix has where it is stored alone."""
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads, "attn_v": config.n_kv_heads}
    return heads[part] * config.head_dim if part in heads else config.ffn_size


def float16_tensor(name: str, values: Array) -> StoredTensor:
    """Return an array as a stored tensor: matrices in float16, vectors in float32."""
    if values.ndim == 1:
        return StoredTensor.from_bytes(name, values.shape, BlockType.F32, np.ascontiguousarray(values).view(np.uint8))
    halves = np.clip(values, -F16_MOST, F16_MOST).astype(np.float16)
    return StoredTensor.from_bytes(name, values.shape, BlockType.F16, halves.reshape(-1).view(np.uint8))
