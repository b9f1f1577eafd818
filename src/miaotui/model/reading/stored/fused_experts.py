"""Experts that safetensors hold in one tensor for a layer, cut into one matrix for gate, up and down each.

gpt-oss stores them as ``x @ w`` reads them: inputs before outputs, gate and up in turns; or in MXFP4, as blocks and
scales, outputs before inputs. Granite and Gemma 4 store gate above up. Owns the cutting. Knows no configuration.
Invariant: nothing is copied before it is asked for, then one layer's matrix at a time, which is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import BlockType, StoredTensor, stored_bytes

Bytes = NDArray[np.uint8]
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
INPUT, OUTPUT = "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"
ABOVE, BELOW = ".experts.gate_up_proj", ".experts.down_proj"  # gate above up, outputs before inputs
JOINED = "ffn_gate_up_exps.weight"  # of GGUF
BLOCKS, SCALES = "_blocks", "_scales"
CUT = {  # what stands before the number of an expert, and the parts
    INPUT: ("block_sparse_moe.", "gate", "up"),
    OUTPUT: ("block_sparse_moe.", "down"),
    ABOVE: (".", "gate", "up"),
    BELOW: (".", "down"),
}
PARTS = {GATE_UP: ("gate", "up"), DOWN: ("down",)}


class LazyTensor(StoredTensor):
    """A tensor whose encoded rows are made by ``read`` whenever they are asked for."""

    _read: Callable[[], Bytes]

    def __init__(self, name: str, shape: tuple[int, ...], kind: BlockType, read: Callable[[], Bytes]) -> None:
        stored_bytes(f"tensor {name!r}", shape, kind)
        for key, value in {"name": name, "shape": shape, "kind": kind, "_read": read}.items():
            object.__setattr__(self, key, value)

    @property
    def data(self) -> Bytes:  # made anew each time, so that nothing is kept
        """Return its bytes: uint8 (rows, row_bytes)."""
        return self._read().reshape(self.rows, -1)

    @property
    def rows(self) -> int:
        """Return the number of rows of `data`."""
        return prod(self.shape[:-1])

    @property
    def size_bytes(self) -> int:
        """Encoded size in bytes."""
        return stored_bytes(self.name, self.shape, self.kind)

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name, still not made."""
        return LazyTensor(name, self.shape, self.kind, self._read)


def split_experts(stored: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return the tensors with such experts cut; others as they are. Raises `ModelFormatError` for half a matrix."""
    if not any(name.removesuffix(BLOCKS).endswith((ABOVE, INPUT)) for name in stored):
        return stored
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        found |= _split(name, tensor, stored)
    return found


def split_gguf_experts(stored: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return the tensors with experts whose gate lies above up, ``[experts, 2 x outputs, inputs]``, as one of each."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if not name.endswith(JOINED) or len(tensor.shape) != 3 or tensor.shape[1] % 2:
            found[name] = tensor
            continue
        for half, part in enumerate(("gate", "up")):
            made = name.replace("_gate_up_", f"_{part}_")
            experts, outputs, inputs = tensor.shape
            shape = experts, outputs // 2, inputs
            found[made] = LazyTensor(made, shape, tensor.kind, partial(_half, tensor, half))
    return found


def _half(tensor: StoredTensor, half: int) -> Bytes:
    """Return the upper (0) or lower rows of each expert."""
    experts, outputs, _ = tensor.shape
    whole = tensor.data.reshape(experts, 2, outputs // 2, -1)
    return np.ascontiguousarray(whole[:, half])


def _split(name: str, tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return what becomes of one stored tensor."""
    for stem, parts in PARTS.items():
        prefix, base = name.partition("mlp.experts.")[0], name.removesuffix(BLOCKS).removesuffix(SCALES)
        each = {f"{prefix}mlp.experts.{part}_proj": number for number, part in enumerate(parts)}
        if name.endswith(stem + BLOCKS):
            scales = _scales_of(name, tensor, stored.get(base + SCALES))
            return {made: _mxfp4(made, tensor, scales, number, len(parts)) for made, number in each.items()}
        if name.endswith(stem + SCALES) and base + BLOCKS in stored:
            return {}
        if name.endswith(stem) and len(tensor.shape) == 3:
            return {made: _turned(made, tensor, number, len(parts)) for made, number in each.items()}
        if name.endswith(f"{stem}_bias") and len(tensor.shape) == 2:
            return {f"{made}_bias": _taken(tensor, number, len(parts)) for made, number in each.items()}
    for stem, (folder, *cut) in CUT.items():
        if name.endswith(stem) and len(tensor.shape) == 3:
            return _cut(tensor, name.removesuffix(stem) + folder, cut)
    return {name: tensor}


def _scales_of(name: str, blocks: StoredTensor, scales: StoredTensor | None) -> StoredTensor:
    """Return the scales of ``blocks [experts, outputs, groups, 16]``. Raises `ModelFormatError` if they do not fit."""
    if scales is None or scales.shape != blocks.shape[:3] or blocks.shape[3:] != (16,):
        shape = None if scales is None else scales.shape
        raise ModelFormatError(
            f"tensor {name!r} has shape {blocks.shape} and its scales {shape}; expected [experts, outputs, groups, 16] "
            "and a scale for each group: the file is incomplete; download it again"
        )
    return scales


def _mxfp4(name: str, blocks: StoredTensor, scales: StoredTensor, first: int, step: int) -> StoredTensor:
    """Return every ``step``-th output from ``first`` on as GGML has them: a scale, then values 0 and 16, 1 and 17, …"""
    experts, outputs, groups, _ = blocks.shape

    def read() -> Bytes:
        pairs = blocks.data.reshape(blocks.shape)[:, first::step]  # values 0 and 1, 2 and 3, ...
        values = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:3], 2, 16)
        joined = values[..., 0, :] | values[..., 1, :] << np.uint8(4)
        return np.concatenate([scales.data.reshape(scales.shape)[:, first::step, :, None], joined], axis=-1)

    return LazyTensor(name, (experts, len(range(first, outputs, step)), 32 * groups), BlockType.MXFP4, read)


def _turned(name: str, tensor: StoredTensor, first: int, step: int) -> StoredTensor:
    """Return every ``step``-th output from ``first`` on of ``[experts, inputs, outputs]``, outputs before inputs."""
    experts, inputs, outputs = tensor.shape
    size = tensor.kind.block_bytes

    def read() -> Bytes:
        whole = tensor.data.reshape(experts, inputs, outputs, size)[:, :, first::step]
        return np.ascontiguousarray(whole.transpose(0, 2, 1, 3))

    return LazyTensor(name, (experts, len(range(first, outputs, step)), inputs), tensor.kind, read)


def _taken(tensor: StoredTensor, first: int, step: int) -> StoredTensor:
    """Return every ``step``-th bias from ``first`` on of ``[experts, outputs]``."""
    values = np.ascontiguousarray(tensor.float32()[:, first::step])
    return StoredTensor.from_bytes(tensor.name, values.shape, BlockType.F32, values.reshape(-1).view(np.uint8))


def _cut(tensor: StoredTensor, prefix: str, parts: Sequence[str]) -> dict[str, StoredTensor]:
    """Return the rows of each expert of ``[experts, outputs, inputs]``, shared out to ``parts`` one below another."""
    experts, outputs, inputs = tensor.shape
    rows, found = outputs // len(parts), {}
    for expert in range(experts):
        for number, part in enumerate(parts):
            first = expert * outputs + number * rows
            name = f"{prefix}experts.{expert}.{part}_proj.weight"
            found[name] = StoredTensor(name, (rows, inputs), tensor.kind, tensor.data[first : first + rows])
    return found
