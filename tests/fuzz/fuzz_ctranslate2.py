"""Coverage-guided fuzzing of CTranslate2's ``model.bin``, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_ctranslate2.py -max_total_time=60``; other options are libFuzzer's. An input that leads to
anything but an encoder-decoder or a `ModelError` is written to ``crash-*`` and ends the run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import atheris
from fuzzing import fuzz

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import ModelError
    from miaotui.hub.formats.ctranslate2.model_bin import parse_ctranslate2
    from miaotui.model.seq2seq.reading.from_ctranslate2 import config_from_ctranslate2, tensors_from_ctranslate2

from ctranslate2_files import ctranslate2_folder

NAME = "fuzz.bin"


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only a `ModelError` may come out of the reader."""
    message = NAME
    try:
        file = parse_ctranslate2(content, NAME)
        config = config_from_ctranslate2(file, {})
        for tensor in tensors_from_ctranslate2(file, config).values():
            assert 4 * tensor.float32().size <= 16 * len(content)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def seeds() -> list[bytes]:
    """A tiny model of each family, with matrices of each type."""
    folder = Path(tempfile.mkdtemp())
    found = []
    for variant, kind in (("marian", "float32"), ("t5", "int8"), ("bart", "float16")):
        made = ctranslate2_folder(folder / variant, variant, kind)
        found += [path.read_bytes() for each in made for path in Path(each).rglob("model.bin")]
    return found


if __name__ == "__main__":
    fuzz(test_one_input, seeds())
