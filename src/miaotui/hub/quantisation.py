"""The names of quantisations as GGUF files state them (``general.file_type``), and as their tensors show them.

Owns the table (llama.cpp's ``llama_ftype``). Knows no block's layout (`tensors`). Invariant: a file that states nothing
known is named after the block type that most of its bytes have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from miaotui.hub.formats.tensors import StoredTensor

FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}


def quantisation(metadata: Mapping[str, Any] | None, tensors: Mapping[str, StoredTensor]) -> str:
    """Return the name of the quantisation of a model: the one its file states, else that of most of its bytes."""
    stated = (metadata or {}).get("general.file_type")
    if isinstance(stated, int) and stated in FILE_TYPES:
        return FILE_TYPES[stated]
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.kind.name] += tensor.size_bytes
    return sizes.most_common(1)[0][0] if sizes else ""
