"""Coverage-guided fuzzing of the reader of whisper.cpp's files, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_whisper.py -max_total_time=60``. An input that leads to anything but values or a
`ModelError` is written to ``crash-*`` and ends the run.
"""

from __future__ import annotations

import atheris
import numpy as np

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import ModelError
    from miaotui.hub.formats.whisper.ggml import SIZES, parse_whisper_ggml
    from miaotui.model.seq2seq.reading.from_ggml import config_from_ggml, tensors_from_ggml

from fuzzing import fuzz

from ggml_files import ggml_file


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only a `ModelError` may come out of the reader."""
    message = "read"
    try:
        file = parse_whisper_ggml(content, "fuzz.bin")
        for tensor in file.tensors.values():
            assert tensor.float32().size == np.prod(tensor.shape)
        tensors_from_ggml(file, config_from_ggml(file))
    except ModelError as error:
        message = str(error)
    assert message


def seeds() -> list[bytes]:
    """Valid files for the fuzzer to start from."""
    sizes = dict.fromkeys(SIZES, 1) | {"n_audio_state": 32, "n_text_state": 32}
    tensors = {"decoder.ln.weight": np.ones(32, np.float32), "encoder.conv1.weight": np.ones((32, 1, 3), np.float32)}
    return [ggml_file(sizes, [b"a", b"bc"], {}), ggml_file(sizes, [], tensors)]


if __name__ == "__main__":
    fuzz(test_one_input, seeds())
