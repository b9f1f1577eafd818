"""Model files of one block type each: random weights in the shapes of known models, the tokenizer of a real one.

Owns the shapes and the random blocks. Rows that are no multiple of 256 cannot hold super-blocks: such matrices get the
type that llama.cpp's quantizer gives them. Knows no engine. Invariant: the same shape, layers and type give the same
bytes, whose values have a standard deviation near that of real weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from benchmarks.peers.models import (
    LLAMA_1B,
    RANDOM_WEIGHT_STD,
    LlamaShape,
    copy_vocabulary,
    matrices,
    norms,
    write_shape,
    writing,
)

Kind = gguf.GGMLQuantizationType
SHAPES = {
    "llama-1b": LLAMA_1B,
    "smollm2-135m": LlamaShape(30, 576, 1536, 9, 3, 64, 2048),
    "qwen2.5-0.5b": LlamaShape(24, 896, 4864, 14, 2, 64, 2048),
}
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"),
    *("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "TQ2_0"),
)
NARROW = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "TQ2_0": "Q4_0"}
HALVES = {  # where a block's float16 scale and minimum begin
    "Q4_0": (0, None),
    "Q4_1": (0, 2),
    "Q5_0": (0, None),
    "Q5_1": (0, 2),
    "Q8_0": (0, None),
    "Q2_K": (80, 82),
    "Q3_K": (108, None),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208, None),
    "TQ2_0": (64, None),
}
MINIMUM_RATIO = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}  # minimum over scale: mean zero


def random_model(vocabulary: Path, folder: Path, shape_name: str, layers: int, name: str) -> Path:
    """Write, once, a random model with all matrices of type ``name``; return the file."""
    target = folder / f"random-{shape_name}-{layers}.{name}.gguf"
    if target.exists():
        return target
    shape = replace(SHAPES[shape_name], layers=layers)
    reader = gguf.GGUFReader(vocabulary)
    rng = np.random.default_rng(20_261)
    with writing(target) as writer:
        n_vocab = copy_vocabulary(reader, writer)
        write_shape(writer, shape, n_vocab)
        for matrix, rows, columns in matrices(shape, n_vocab):
            kind = kind_of(type_for(name, columns))
            writer.add_tensor(matrix, random_blocks(rng, kind, rows, columns), raw_dtype=kind)
        for norm in norms(shape):
            writer.add_tensor(norm, np.ones(shape.hidden, np.float32))
    return target


def kind_of(name: str) -> Kind:
    """Return the type of this name, as files number it."""
    return Kind.__members__[name]


def type_for(name: str, columns: int) -> str:
    """Return the type of rows of ``columns`` weights in a file of type ``name``."""
    if columns % gguf.GGML_QUANT_SIZES[kind_of(name)][0] == 0:
        return name
    return NARROW.get(name, "IQ4_NL")


def random_blocks(rng: np.random.Generator, kind: Kind, rows: int, columns: int) -> NDArray[np.uint8]:
    """Make random codes ``[rows, bytes]`` and scales that give the weights a usual size."""
    size, size_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // size, size_bytes), dtype=np.uint8)
    if kind is Kind.MXFP4:
        blocks[:, 0] = rng.integers(119, 121, len(blocks))
    else:
        sample = blocks[:512].copy()
        set_scales(sample, kind, np.ones(len(sample)))
        spread = float(dequantize(sample, kind).std())
        set_scales(blocks, kind, RANDOM_WEIGHT_STD / spread * rng.uniform(0.8, 1.2, len(blocks)))
    return blocks.reshape(rows, -1)


def set_scales(blocks: NDArray[np.uint8], kind: Kind, scales: NDArray[np.float64]) -> None:
    """Write the float16 scale of each block, and its minimum so that weights have mean zero."""
    scale_at, minimum_at = HALVES.get(kind.name, (0, None))
    blocks[:, scale_at : scale_at + 2] = scales.astype(np.float16)[:, None].view(np.uint8)
    if minimum_at is not None:
        minimums = scales * MINIMUM_RATIO[kind.name]
        blocks[:, minimum_at : minimum_at + 2] = minimums.astype(np.float16)[:, None].view(np.uint8)
