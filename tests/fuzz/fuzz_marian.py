"""Coverage-guided fuzzing of Marian's binary models, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_marian.py -max_total_time=60``; other options are libFuzzer's. An input that leads to
anything but an encoder-decoder or a `ModelError` is written to ``crash-*`` and ends the run.
"""

from __future__ import annotations

import atheris
from fuzzing import fuzz

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import ModelError
    from miaotui.hub.formats.marian.binary import parse_marian
    from miaotui.model.seq2seq.reading.from_marian import config_from_marian, tensors_from_marian

from marian_files import marian_arrays, marian_binary

NAME = "fuzz.bin"


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only a `ModelError` may come out of the reader."""
    message = NAME
    try:
        file = parse_marian(content, NAME)
        for tensor in tensors_from_marian(file, config_from_marian(file)).values():
            assert 4 * tensor.float32().size <= 16 * len(content)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


if __name__ == "__main__":
    fuzz(test_one_input, [marian_binary(marian_arrays(), integers=each) for each in (False, True)])
