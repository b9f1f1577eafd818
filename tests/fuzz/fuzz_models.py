"""Coverage-guided fuzzing of whole models: mixtures of experts, latent attention and parts, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_models.py -max_total_time=60``; other options are libFuzzer's. An input that leads to
anything but a model or a `ModelError` is written to ``crash-*`` and ends the run. The first byte of an input says which
file the rest of it is: a ``config.json``, a GGUF model, or the second part of one in two parts.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import atheris
import numpy as np
from fuzzing import fuzz

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import MiaotuiError, ModelError
    from miaotui.hub.formats.gguf import parse_gguf, read_gguf
    from miaotui.hub.formats.untrusted_json import parse_object
    from miaotui.model.reading.from_gguf import config_from_gguf, tensors_from_gguf
    from miaotui.model.reading.from_hf import config_from_hf

from test_gguf_parts import part

from tiny_models import make_tiny_gguf, tiny_values

FOLDER = Path(tempfile.mkdtemp())
FIRST, SECOND = (FOLDER / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
VARIANTS = ("deepseek-v3", "deepseek-v2", "gpt-oss", "qwen3-moe", "minicpm3", "hunyuan")
CONFIG, MODEL, PART = range(3)
MOST_VALUES = 1 << 16  # decoded of a model, so that an input stays quick


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only errors on purpose may come out of a reader."""
    kind, data = (content[0] % 3, content[1:]) if content else (CONFIG, b"")
    try:
        if kind == CONFIG:
            config_from_hf(parse_object(data, "config.json"))
        elif kind == MODEL:
            _open(data)
        else:
            SECOND.write_bytes(data)
            read_gguf(FIRST).close()
    except MiaotuiError as error:
        assert str(error)  # noqa: PT017 - libFuzzer wants no exception
        assert kind != MODEL or isinstance(error, ModelError)  # noqa: PT017 - as above


def _open(data: bytes) -> None:
    file = parse_gguf(data, "fuzz.gguf")
    tensors = tensors_from_gguf(config_from_gguf(file.metadata, file.tensors), file.metadata, file.tensors)
    for tensor in tensors.values():
        if np.prod(tensor.shape) <= MOST_VALUES:
            assert tensor.float32().size == np.prod(tensor.shape)


def seeds() -> list[bytes]:
    """Valid files for the fuzzer to start from."""
    FIRST.write_bytes(part(0, 2, 2, "a"))
    found = [bytes([PART]) + part(1, 2, 2, "b")]
    for variant in VARIANTS:
        found.append(bytes([CONFIG]) + json.dumps(tiny_values(variant)).encode())
        path = make_tiny_gguf(FOLDER, variant, num_hidden_layers=2)
        found.append(bytes([MODEL]) + path.read_bytes())
    return found


if __name__ == "__main__":
    fuzz(test_one_input, seeds())
