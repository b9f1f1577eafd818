"""Marian's own files: the recurrent decoder beside its equations in float64, 8-bit matrices, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import miaotui
from marian_files import (
    HEADS,
    LAYERS,
    LETTERS,
    OPTIONS,
    WIDTH,
    marian_arrays,
    marian_binary,
    marian_binary_folder,
    rounded,
)
from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.marian.binary import find_marian, parse_marian
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import values
from miaotui.model.packing import _blocks, encoder_format
from miaotui.model.seq2seq.opened import is_seq2seq, open_seq2seq
from miaotui.model.seq2seq.oracle import Seq2SeqOracle, TargetCache
from miaotui.model.seq2seq.reading.from_marian import config_from_marian, tensors_from_marian

Doubles = NDArray[np.float64]
SOURCE, TARGET = [5, 17, 90, 33, 8, 120, 44, 0], [0, 9, 31, 77, 14, 9, 55]


def equations(arrays: dict[str, Any], source: list[int], target: list[int]) -> Doubles:
    """The logits behind each target token, by the equations of Marian's transformer and of its SSRU."""
    known = {name: array.astype(np.float64) for name, array in arrays.items()}

    def positions(count: int) -> Doubles:
        rates = 10_000.0 ** -(np.arange(WIDTH // 2) / (WIDTH // 2 - 1))
        angles = np.outer(np.arange(count), rates)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    def normed(x: Doubles, name: str) -> Doubles:
        middle, spread = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        return (x - middle) / np.sqrt(spread + 1e-6) * known[f"{name}_ln_scale"] + known[f"{name}_ln_bias"]

    def linear(x: Doubles, name: str, letter: str) -> Doubles:
        return x @ known[f"{name}_W{letter}"] + known[f"{name}_b{letter}"]

    def attention(x: Doubles, seen: Doubles, name: str) -> Doubles:
        q, k, v = (linear(rows, name, each) for rows, each in ((x, "q"), (seen, "k"), (seen, "v")))
        mixed = np.empty_like(q)
        for head in range(HEADS):
            own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = np.exp(q[:, own] @ k[:, own].T / np.sqrt(WIDTH // HEADS))
            mixed[:, own] = scores / scores.sum(1, keepdims=True) @ v[:, own]
        return normed(x + linear(mixed, name, "o"), f"{name}_Wo")

    def feed_forward(x: Doubles, at: str) -> Doubles:
        inner = np.maximum(x @ known[f"{at}_ffn_W1"] + known[f"{at}_ffn_b1"], 0)
        return normed(x + inner @ known[f"{at}_ffn_W2"] + known[f"{at}_ffn_b2"], f"{at}_ffn_ffn")

    x = known["Wemb"][source] * np.sqrt(WIDTH) + positions(len(source))
    for layer in range(1, LAYERS[0] + 1):
        x = feed_forward(attention(x, x, f"encoder_l{layer}_self"), f"encoder_l{layer}")
    memory = x
    y = known["Wemb"][target] * np.sqrt(WIDTH)
    y[0] = 0
    y += positions(len(target))
    for layer in range(1, LAYERS[1] + 1):
        at = f"decoder_l{layer}"
        cell, cells = np.zeros(WIDTH), []
        for row in y:
            forget = 1 / (1 + np.exp(-(row @ known[f"{at}_rnn_Wf"] + known[f"{at}_rnn_bf"][0])))
            cell = forget * cell + (1 - forget) * (row @ known[f"{at}_rnn_W"])
            cells.append(np.maximum(cell, 0))
        y = normed(y + np.array(cells), f"{at}_rnn_ffn")
        y = feed_forward(attention(y, memory, f"{at}_context"), at)
    logits: Doubles = y @ known["Wemb"].T + known["decoder_ff_logit_out_b"]
    return logits


@pytest.mark.parametrize("integers", [False, True])
def test_logits_are_those_of_the_equations(integers: bool, tmp_path: Path) -> None:
    folder, arrays = marian_binary_folder(tmp_path, integers=integers), dict(marian_arrays())
    if integers:
        arrays = {n: a if len(a) == 1 else rounded(a)[0] / rounded(a)[1] for n, a in arrays.items()}
    assert is_seq2seq(folder)
    opened = open_seq2seq(folder)
    oracle = Seq2SeqOracle(opened.config, opened.weights)
    memory = oracle.memory(oracle.encode(SOURCE))
    expected = equations(arrays, SOURCE, TARGET)
    whole, _ = oracle.decode(memory, TargetCache(), TARGET)
    np.testing.assert_allclose(whole, expected, atol=2e-4)
    cache = TargetCache()
    for token, row in zip(TARGET, expected, strict=True):
        logits, cache = oracle.decode(memory, cache, [token])
        np.testing.assert_allclose(logits[0], row, atol=2e-4)


def test_integers_are_packed_as_they_are(tmp_path: Path) -> None:
    opened = open_seq2seq(marian_binary_folder(tmp_path, integers=True))
    tensor, codes = opened.weights["encoder.layers.0.up"], rounded(marian_arrays()["encoder_l1_ffn_W1"])
    assert encoder_format(tensor.kind, Format.Q8) is Format.Q8
    blocks = _blocks(tensor, Format.Q8, 0, tensor.rows)
    np.testing.assert_array_equal(blocks.whole_codes().reshape(tensor.shape), codes[0].T)
    np.testing.assert_allclose(values(blocks), codes[0].T / codes[1], rtol=1e-3)


def test_a_folder_translates(tmp_path: Path) -> None:
    with miaotui.load(str(marian_binary_folder(tmp_path)), backend="reference") as model:
        assert isinstance(model, miaotui.Seq2Seq)
        tokenizer = model.model.tokenizer
        assert tokenizer.pair == ("en", "pt")
        pieces = ["</s>", "<unk>", *LETTERS, *(f"▁{letter}" for letter in LETTERS)]
        source = tokenizer.source("a dog")
        assert [pieces[token] for token in source] == ["▁a", "▁d", "o", "g", "</s>"]
        assert tokenizer.join(source) == "a dog"
        opened = open_seq2seq(tmp_path)
        written = model.generate(["a dog"], max_length=8, min_length=8)[0]
        oracle = Seq2SeqOracle(opened.config, opened.weights)
        expected, cache, memory = [0], TargetCache(), oracle.memory(oracle.encode(source))
        for _ in range(7):
            logits, cache = oracle.decode(memory, cache, expected[-1:])
            logits[0, :2] = -np.inf  # neither the end, nor the unknown piece
            expected.append(int(logits[0].argmax()))
    assert written.text == tokenizer.join(expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transformer-decoder-autoreg": "average-attention"}, "transformer-decoder-autoreg"),
        ({"dec-cell": "gru"}, "dec-cell"),
        ({"transformer-preprocess": "n"}, "transformer-preprocess"),
        ({"transformer-ffn-activation": "sine"}, "relu or swish"),
        ({"tied-embeddings-all": "false"}, "tied-embeddings"),
    ],
)
def test_other_forms_of_the_decoder_are_refused_by_name(change: dict[str, str], words: str) -> None:
    file = parse_marian(marian_binary(marian_arrays(), OPTIONS | change), "made.bin")
    with pytest.raises(UnsupportedModelError, match=words):
        config_from_marian(file)


def test_wrong_sizes_are_refused() -> None:
    for change in ({"dim-emb": "66"}, {"transformer-heads": "0"}, {"enc-depth": "many"}, {"dec-depth": "4"}):
        file = parse_marian(marian_binary(marian_arrays(), OPTIONS | change), "made.bin")
        with pytest.raises((ModelFormatError, UnsupportedModelError)):
            tensors_from_marian(file, config_from_marian(file))


@pytest.mark.parametrize("place", [0, 8, 16, 24, 32, 40, 900, 3000])  # of the heads, names and shapes
def test_a_damaged_file_is_one_error(place: int) -> None:
    whole = marian_binary(marian_arrays(), integers=True)
    for raw in (whole[: max(place, 1)], whole[:-100], whole[:place] + b"\xff" * 8 + whole[place + 8 :]):
        with pytest.raises((ModelFormatError, UnsupportedModelError), match=r"made\.bin|damaged|truncated"):
            tensors_of(raw)


def tensors_of(raw: bytes) -> object:
    file = parse_marian(raw, "made.bin")
    return tensors_from_marian(file, config_from_marian(file))


def test_a_folder_of_other_files_has_no_model_of_marian(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x06\0\0\0" + bytes(100))
    (tmp_path / "model.safetensors.bin").write_bytes(b"short")
    assert find_marian(tmp_path) is None
