"""Writes safetensors files, tensor after tensor.

Owns the header. Knows no model. Invariant: data follows the header in its order, without holes, so that `safetensors`
reads the file back. Source: the format as its authors describe it (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import IO

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, stored_bytes

Sizes = Mapping[str, tuple[BlockType, tuple[int, ...]]]


def write_safetensors(file: IO[bytes], sizes: Sizes, data: Iterable[NDArray[np.uint8]]) -> None:
    """Write tensors of these kinds (F32, F16, BF16) and shapes, whose bytes come in the same order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (kind, shape) in sizes.items():
        end = start + stored_bytes(name, shape, kind)
        header[name] = {"dtype": kind.name, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for part in data:
        file.write(part.tobytes())
