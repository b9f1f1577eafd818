"""Tensors of random blocks, of any type: any bits, but for scales, which are numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, StoredTensor

HALVES = {  # where a block's float16 numbers begin
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
    "IQ1_S": [0],
    "IQ1_M": [],
    "IQ2_XXS": [0],
    "IQ2_XS": [0],
    "IQ2_S": [0],
    "IQ3_XXS": [0],
    "IQ3_S": [0],
    "TQ1_0": [52],
    "TQ2_0": [64],
}


def random_tensor(
    kind: BlockType, rows: int, blocks: int, seed: int, size: float | None = None, name: str = "t"
) -> StoredTensor:
    """Scales are large, small, subnormal, zero and negative; or such that values have about the standard deviation
    ``size``."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows * blocks, kind.block_bytes), dtype=np.uint8)
    scales = rng.normal(0, 0.02, len(raw)) * 10.0 ** rng.integers(-5, 4, len(raw))
    scales[rng.random(len(raw)) < 0.05] = 0
    if size is not None:
        scales[:] = 1
    _write_scales(raw, kind, scales, rng)
    tensor = StoredTensor.from_bytes(name, (rows, blocks * kind.block_size), kind, raw.reshape(-1))
    if size is None:
        return tensor
    _write_scales(raw, kind, scales * (size / tensor.float32().std()), rng)
    return StoredTensor.from_bytes(name, tensor.shape, kind, raw.reshape(-1))


def _write_scales(
    raw: NDArray[np.uint8], kind: BlockType, scales: NDArray[np.float64], rng: np.random.Generator
) -> None:
    for at in HALVES[kind.name]:
        raw[:, at : at + 2] = scales.astype(np.float16)[:, None].view(np.uint8)
    if kind is BlockType.MXFP4:
        few = bool((scales == scales[0]).all())
        raw[:, 0] = rng.integers(118, 122, len(raw)) if few else rng.integers(0, 245, len(raw))
    if kind is BlockType.IQ1_M:
        raw[:, 55] = raw[:, 55] & 15 | 0x20  # upper bits of the scale's exponent
