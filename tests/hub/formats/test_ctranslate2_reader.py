"""CTranslate2's files: what they hold, models beside their safetensors and the library itself, and damage."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctranslate2_files import PIECES, ctranslate2_folder, model_bin
from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq
from miaotui.engine.seq2seq.searches import SearchQueue
from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.ctranslate2.model_bin import is_ctranslate2, parse_ctranslate2
from miaotui.hub.resolve import resolve
from miaotui.model.seq2seq.opened import is_seq2seq, open_seq2seq
from miaotui.model.seq2seq.oracle import Seq2SeqOracle, TargetCache

ARRAYS: dict[str, Any] = {
    "a/weight": np.array([[1, -2], [127, 0]], np.int8),
    "a/weight_scale": np.array([2.0, 4.0], np.float32),
    "half": np.arange(3, dtype=np.float16),
    "n": np.array(5, np.int16),
}
SMALL = model_bin(ARRAYS, {"b/weight": "a/weight"})
SOURCE = [7, 50, 31, 9, 2]


def test_arrays_scales_numbers_and_aliases() -> None:
    file = parse_ctranslate2(SMALL, "made")
    for name in ("a/weight", "b/weight"):
        tensor = file.tensor(name)
        assert tensor is not None
        np.testing.assert_array_equal(tensor.float32(), [[0.5, -1], [31.75, 0]])
    second = file.tensor("a/weight", 1, 2)
    assert second is not None
    np.testing.assert_array_equal(second.float32(), [[31.75, 0]])
    assert file.number("n", 1.0) == 5
    assert file.number("absent", 1.5) == 1.5
    assert file.tensor("absent") is None


@pytest.mark.parametrize("variant", ["marian", "bart", "m2m100", "t5"])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_model_is_that_of_its_safetensors(variant: str, kind: str, tmp_path: Path) -> None:
    theirs, ours = ctranslate2_folder(tmp_path, variant, kind)
    assert is_ctranslate2(ours / "model.bin")
    assert is_seq2seq(ours)
    assert resolve(str(ours)) == ours
    logits = []
    for folder in (theirs, ours):
        opened = open_seq2seq(folder)
        oracle = Seq2SeqOracle(opened.config, opened.weights)
        memory = oracle.memory(oracle.encode(SOURCE))
        logits.append(oracle.decode(memory, TargetCache(), [2, 9, 4])[0])
    bound = {"float32": 1e-4, "float16": 0.03, "int8": 0.5}[kind]
    assert np.abs(logits[0] - logits[1]).max() < bound
    assert np.abs(logits[0]).max() > 0.3


@pytest.mark.compare
@pytest.mark.parametrize("variant", ["marian", "bart", "m2m100", "t5", "flan-t5"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_the_library_finds_the_same_targets(variant: str, kind: str, tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    _, folder = ctranslate2_folder(tmp_path, variant, kind, seed=4)
    library = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    tokens = json.loads((folder / "shared_vocabulary.json").read_text())
    opened = open_seq2seq(folder)
    queue = SearchQueue(ReferenceSeq2Seq(opened.config, opened.weights), opened.config.vocab_size)
    rng = np.random.default_rng(5)
    sources = [[*map(int, rng.integers(len(PIECES), len(tokens), 6)), 2] for _ in range(20)]
    greedy = [opened.generation.__class__(start_token=1, eos_ids=(2,), max_length=12)] * len(sources)
    requests = [queue.submit(source, each) for source, each in zip(sources, greedy, strict=True)]
    while not queue.is_idle:
        queue.step()
    texts = [[tokens[i] for i in source] for source in sources]
    found = library.translate_batch(texts, beam_size=1, max_decoding_length=11)
    for request, theirs in zip(requests, found, strict=True):
        assert request.result is not None
        mine = [tokens[i] for i in request.result.tokens[1:] if i != 2]
        assert mine == theirs.hypotheses[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model_bin(ARRAYS, version=3), "version 3"),
        (model_bin(ARRAYS, version=99), "version 99"),
        (SMALL + b"\0", "follow its end"),
        (model_bin(ARRAYS, {"x": "y"}), "not there"),
        (SMALL[:-1], "beyond its end"),
        (SMALL.replace(struct.pack("<II", 7, 4), struct.pack("<II", 7, 1 << 31)), "claims"),
        (SMALL.replace(struct.pack("<BII", 2, 2, 2), struct.pack("<BII", 2, 1 << 31, 1 << 31)), "is said to have"),
        (b"", "beyond its end"),
    ],
)
def test_damage_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        parse_ctranslate2(content, "made.bin")
    assert "made.bin" in str(caught.value)


def test_a_model_without_a_scale_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = parse_ctranslate2(model_bin({"w": np.ones((2, 2), np.int8)}), "made")
    tensor = file.tensor("w")
    assert tensor is not None
    with pytest.raises(ModelFormatError, match="scale"):
        tensor.float32()
    (tmp_path / "model.bin").write_bytes(model_bin(ARRAYS, spec="Wav2Vec2Spec"))
    with pytest.raises(UnsupportedModelError, match="Wav2Vec2Spec"):
        open_seq2seq(tmp_path)
    (tmp_path / "model.bin").write_bytes(SMALL)
    with pytest.raises(ModelFormatError, match="embeddings"):
        open_seq2seq(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL)), st.binary(max_size=6), st.booleans())
def test_any_bytes_end_in_arrays_or_in_an_error(place: int, bytes_: bytes, cut: bool) -> None:
    content = SMALL[:place] + bytes_ + (b"" if cut else SMALL[place + len(bytes_) :])
    message = "made.bin"
    try:
        file = parse_ctranslate2(content, "made.bin")
        for name in file.arrays:
            file.tensor(name)
    except ModelError as error:
        message = str(error)
    assert "made.bin" in message or "tensor" in message
