"""Coverage-guided fuzzing of the model-file readers, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_gguf.py -max_total_time=60``; other options are libFuzzer's. An input
that leads to anything but values or a `ModelError` is written to ``crash-*`` and ends the run.
"""

from __future__ import annotations

import atheris
import numpy as np

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import ModelError
    from miaotui.hub.formats.gguf import parse_gguf
    from miaotui.hub.formats.safetensors import parse_safetensors
    from miaotui.hub.formats.tensors import BY_GGML_ID

from fuzzing import fuzz
from gguf_bytes import Gguf, Tensor, sample


def use_gguf(content: bytes) -> None:
    """Read everything that a GGUF file holds."""
    file = parse_gguf(content, "fuzz.gguf")
    for key in file.metadata:
        assert file.metadata[key] is not None
    for tensor in file.tensors.values():
        assert tensor.float32().size == np.prod(tensor.shape)


def use_safetensors(content: bytes) -> None:
    """Read everything that a safetensors file holds."""
    for tensor in parse_safetensors(content, "fuzz.safetensors").values():
        assert tensor.float32().size == np.prod(tensor.shape)


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only a `ModelError` may come out of a reader."""
    reader = use_safetensors if content[8:9] == b"{" else use_gguf
    message = "fuzz."
    try:
        reader(content)
    except ModelError as error:
        message = str(error)
    assert "fuzz." in message  # every message names the file


def seeds() -> list[bytes]:
    """Valid files for the fuzzer to start from: one of each block type, and of each format."""
    files = [sample().build(), (2).to_bytes(8, "little") + b"{}"]
    for kind in BY_GGML_ID.values():
        tensor = Tensor("t", (kind.block_size, 2), kind.ggml_id)
        files.append(Gguf(tensors=[tensor], data=bytes(2 * kind.block_bytes)).build())
    header = b'{"t":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    files.append(len(header).to_bytes(8, "little") + header + bytes(8))
    return files


if __name__ == "__main__":
    fuzz(test_one_input, seeds())
