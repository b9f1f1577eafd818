"""Experts that safetensors hold as ``x @ w`` reads them: inputs before outputs, gate and up in turns (gpt-oss).

Owns their cutting into one matrix for gate, up and down each, outputs before inputs. Knows no configuration. Invariant:
a matrix is read when it is asked for, one at a time, so that memory holds one layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, ComputedTensor, StoredTensor

Array = NDArray[np.float32]
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


def split_experts(stored: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return the tensors with such experts cut; others as they are."""
    if not any(name.endswith(GATE_UP) for name in stored):
        return stored
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        prefix = name.removesuffix("_bias").removesuffix(GATE_UP)
        if name.endswith(GATE_UP):
            for first, part in enumerate(("gate", "up")):
                found[f"{prefix}mlp.experts.{part}_proj"] = _turned(tensor, first, 2)
        elif name.endswith(f"{GATE_UP}_bias"):
            for first, part in enumerate(("gate", "up")):
                found[f"{prefix}mlp.experts.{part}_proj_bias"] = _taken(tensor, first)
        elif name.endswith(DOWN):
            found[name] = _turned(tensor, 0, 1)
        else:
            found[name] = tensor
    return found


def _turned(tensor: StoredTensor, first: int, step: int) -> StoredTensor:
    """Return every ``step``-th output from ``first`` on of ``[experts, inputs, outputs]``, outputs before inputs."""
    if len(tensor.shape) != 3:
        return tensor  # its shape is refused later, by name
    experts, inputs, outputs = tensor.shape

    def read() -> Array:
        whole = tensor.float32().reshape(experts, inputs, outputs)
        return np.ascontiguousarray(whole[:, :, first::step].transpose(0, 2, 1))

    return _computed(tensor, (experts, len(range(first, outputs, step)), inputs), read)


def _taken(tensor: StoredTensor, first: int) -> StoredTensor:
    """Return every second bias from ``first`` on of ``[experts, outputs]``."""
    if len(tensor.shape) != 2:
        return tensor
    values = np.ascontiguousarray(tensor.float32()[:, first::2])
    return StoredTensor.from_bytes(tensor.name, values.shape, BlockType.F32, values.reshape(-1).view(np.uint8))


def _computed(tensor: StoredTensor, shape: tuple[int, int, int], read: Callable[[], Array]) -> StoredTensor:
    return ComputedTensor(tensor.name, shape, read)
