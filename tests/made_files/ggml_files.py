"""whisper.cpp's files, written byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.whisper.ggml import SIZES

Array = NDArray[np.float32]


def ggml_file(sizes: Mapping[str, int], tokens: Sequence[bytes], tensors: Mapping[str, Array]) -> bytes:
    """The bytes of a file; matrices are float16."""
    content = b"lmgg" + struct.pack(f"<{len(SIZES)}i", *(sizes[name] for name in SIZES))
    content += struct.pack("<2i", 2, 3) + np.zeros(6, np.float32).tobytes() + struct.pack("<i", len(tokens))
    content += b"".join(struct.pack("<i", len(token)) + token for token in tokens)
    for name, values in tensors.items():
        half = values.ndim > 1 and not name.endswith("bias")
        content += struct.pack("<3i", values.ndim, len(name), int(half))
        content += struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + name.encode()
        content += values.astype(np.float16 if half else np.float32).tobytes()
    return content
