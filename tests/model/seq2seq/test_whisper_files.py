"""Whisper from every container is one model: transformers' folder, CTranslate2's, and whisper.cpp's file."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctranslate2_files import _as, _scalars, model_bin
from ggml_files import ggml_file
from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.whisper.ggml import parse_whisper_ggml
from miaotui.model.seq2seq.names import CONVOLUTIONS, seq2seq_shapes
from miaotui.model.seq2seq.opened import OpenedSeq2Seq, is_seq2seq, is_speech, open_seq2seq
from miaotui.model.seq2seq.reading.from_ctranslate2 import HEAD, _sources
from miaotui.model.seq2seq.reading.from_ggml import _names
from miaotui.text.speech.ranked import LANGUAGES, ranked_tokenizer, special_ids
from miaotui.text.speech.tokenizer import load_speech_tokenizer
from miaotui.text.tokenizers.from_folder import from_folder
from tiny_seq2seq import tiny_folder
from tiny_tokenizer import MERGES, byte_alphabet
from tiny_whisper import EOT, SOT, SOURCE_ROWS, SPECIALS, TIMESTAMPS, VOCAB, whisper_folder

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> OpenedSeq2Seq:
    return open_seq2seq(whisper_folder(tmp_path_factory.mktemp("whisper") / "hf"))


def folded(values: Array) -> Array:
    """A convolution as files store it: ``[outputs, inputs, 3]``."""
    return np.ascontiguousarray(values.reshape(len(values), 3, -1).transpose(0, 2, 1))


def ctranslate2_whisper(folder: Path, model: OpenedSeq2Seq, kind: str, **changed: Any) -> Path:
    """Write the model as CTranslate2 does."""
    parts: dict[str, dict[int, Array]] = defaultdict(dict)
    for name, (stored, start, _) in _sources(model.config).items():
        if name in model.weights:
            parts[stored][start] = model.weights[name].float32()
    arrays: dict[str, NDArray[Any]] = {}
    for stored, rows in parts.items():
        whole = np.concatenate([rows[start] for start in sorted(rows)])
        if "/conv" in stored and stored.endswith("/weight"):
            arrays[stored] = folded(whole).astype(np.float16 if kind == "float16" else np.float32)
        else:
            arrays |= _as(stored, whole, kind)
    embedding = "decoder/embeddings/weight"
    aliases = {HEAD: embedding} | ({f"{HEAD}_scale": f"{embedding}_scale"} if kind == "int8" else {})
    scalars = {name: value for name, value in _scalars(model.config).items() if not name.endswith("queries_scale")}
    folder.mkdir()
    (folder / "model.bin").write_bytes(model_bin(arrays | scalars, aliases, spec="WhisperSpec"))
    words = [f"w{place}" for place in range(EOT)] + [SPECIALS[place] for place in sorted(SPECIALS)]
    (folder / "vocabulary.json").write_text(json.dumps(words + [f"<|{place}|>" for place in range(VOCAB - TIMESTAMPS)]))
    (folder / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0], [2, 1]]} | changed))
    return folder


@pytest.mark.parametrize(("kind", "error"), [("float32", 0.0), ("float16", 1e-3), ("int8", 0.02)])
def test_ctranslate2_has_the_tensors_of_transformers(
    theirs: OpenedSeq2Seq, tmp_path: Path, kind: str, error: float
) -> None:
    ours = open_seq2seq(ctranslate2_whisper(tmp_path / "ct2", theirs, kind))
    assert is_seq2seq(ours.folder)
    assert is_speech(ours.folder)
    assert is_speech(theirs.folder)
    assert ours.config.mel_bins == theirs.config.mel_bins
    assert ours.config.tied_head
    assert (ours.generation.start_token, ours.generation.eos_ids) == (SOT, (EOT,))
    assert ours.alignment_heads == ((1, 0), (2, 1))
    assert theirs.alignment_heads == tuple((layer, head) for layer in (1, 2) for head in (0, 1))  # the later half
    for name in seq2seq_shapes(theirs.config):
        np.testing.assert_allclose(ours.weights[name].float32(), theirs.weights[name].float32(), atol=error)


@pytest.mark.parametrize("heads", [[[3, 0]], [[0, 2]], [], "all", [[1]], [[True, 0]]])
def test_alignment_heads_that_there_are_not_are_refused(theirs: OpenedSeq2Seq, tmp_path: Path, heads: Any) -> None:
    folder = ctranslate2_whisper(tmp_path / "ct2", theirs, "float32", alignment_heads=heads)
    with pytest.raises(ModelFormatError, match="alignment_heads"):
        open_seq2seq(folder)


# whisper.cpp's file: its vocabulary is always Whisper's, so the model has few numbers beside it

SIZE = {"n_audio_ctx": 1500, "n_text_ctx": 40, "n_mels": 16, "ftype": 1}
SIZE |= {f"n_{stack}_{key}": value for stack in ("audio", "text") for key, value in (("head", 1), ("layer", 1))}
SIZE |= {"n_audio_state": 32, "n_text_state": 32, "n_vocab": 51_865}
END = 50_257


def text_tokens() -> list[bytes]:
    """All bytes in the order of GPT-2's alphabet, two merges, and fillers."""
    letters = {letter: bytes([byte]) for byte, letter in enumerate(byte_alphabet())}
    ordered = [letters[letter] for letter in byte_alphabet()]
    merged = [merge.replace(" ", "").replace("Ġ", " ").encode() for merge in MERGES]
    return [*ordered, *merged, *(f"<filler {place}>".encode() for place in range(END - 256 - len(MERGES)))]


@pytest.fixture(scope="module")
def ggml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ggml") / "ggml-tiny.bin"
    path.write_bytes(ggml_file(SIZE, [], {}))
    from miaotui.model.seq2seq.reading.from_ggml import config_from_ggml  # noqa: PLC0415  (a file of sizes alone)

    config = config_from_ggml(parse_whisper_ggml(path.read_bytes(), "sizes"))
    shapes, rng = seq2seq_shapes(config), np.random.default_rng(0)
    tensors = {}
    for name, stored in _names(config):
        if name not in shapes or name.endswith(("k_bias", "cross_k_bias")):
            continue
        values = rng.standard_normal(shapes[name]).astype(np.float16).astype(np.float32)
        values = folded(values) if name in CONVOLUTIONS else values
        tensors[stored] = values[:, None] if name in (f"{each}_bias" for each in CONVOLUTIONS) else values
    path.write_bytes(ggml_file(SIZE, text_tokens(), tensors))
    return path


def test_ggml_has_every_tensor(ggml: Path, tmp_path: Path) -> None:
    opened = open_seq2seq(ggml)
    assert is_seq2seq(ggml)
    assert is_speech(ggml)
    assert not is_speech(tiny_folder(tmp_path, "bart"))
    assert (opened.generation.start_token, opened.generation.eos_ids) == (END + 1, (END,))
    shapes = seq2seq_shapes(opened.config)
    assert {name: opened.weights[name].shape for name in shapes} == shapes
    stored = parse_whisper_ggml(ggml.read_bytes(), "file").tensors["encoder.conv1.weight"].float32().reshape(32, 16, 3)
    conv = opened.weights["encoder.conv1"].float32()
    np.testing.assert_array_equal(conv[:, 16:32], stored[:, :, 1])
    assert not opened.weights["decoder.layers.0.cross_k_bias"].float32().any()


def test_ggml_has_the_tokens_of_the_library(ggml: Path, tmp_path: Path) -> None:
    ours = load_speech_tokenizer(ggml, 51_865, 1500)
    assert len(ours.tokens.languages) == 99
    assert (ours.tokens.end, ours.tokens.start, ours.tokens.no_timestamps) == (END, 50_258, 50_363)
    library = from_folder(whisper_folder(tmp_path))
    for text in ("the end and the rest", " another <|en|> 秒推 \n\n  in", "e\u0301 \x00 'tis", ""):
        ids = ours.encode(text)
        assert ids == library.encode(text, special=False, whole=False)
        assert ours.decode(ids) == text
    assert ours.decode([50_258, 4, 50_364]) == ours.decode([4])


def test_numbers_of_languages_are_whispers() -> None:
    assert special_ids(50_256, 51_864, 1500)["<|notimestamps|>"] == 50_362
    assert special_ids(END, 51_866, 1500)["<|yue|>"] == END + 2 + LANGUAGES.index("yue")
    with pytest.raises(ModelFormatError, match="languages"):
        special_ids(END, 51_900, 1500)
    with pytest.raises(ModelFormatError, match="not all bytes"):
        ranked_tokenizer([b"a"], {"<|endoftext|>": 1}, 2)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_ggml_files_are_refused_clearly(data: st.DataObject) -> None:
    whole = ggml_file(SIZE, [b"a", b"bc"], {"x": np.ones((2, 3), np.float32), "y": np.ones(4, np.float32)})
    cut = data.draw(st.integers(0, len(whole)))
    place, value = data.draw(st.integers(4, len(whole) - 1)), data.draw(st.integers(0, 255))
    for content in (whole[:cut], whole[:place] + bytes([value]) + whole[place + 1 :]):
        try:
            parse_whisper_ggml(content, "file")
        except (ModelFormatError, UnsupportedModelError) as error:
            assert str(error).startswith("file: ")  # noqa: PT017  (most changes are read without a fault)


def test_a_ggml_file_that_lacks_a_tensor_is_refused(ggml: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes(ggml_file(SIZE, text_tokens(), {}))
    with pytest.raises(ModelError, match="missing"):
        open_seq2seq(path)


def test_source_rows_are_those_of_timestamps() -> None:
    assert TIMESTAMPS + SOURCE_ROWS + 1 == VOCAB
