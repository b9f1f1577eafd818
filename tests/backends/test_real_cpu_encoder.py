"""Real encoders, compiled: their embeddings are the oracle's, which is held to transformers elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.backends.cpu.encoder.build import build_encoder
from miaotui.backends.encoder_backend import TextRows
from miaotui.config import Settings
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.model.encoder.opened import OpenedEncoder, open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.text.encoders.load import load_encoder_tokenizer
from reference_models import english

pytestmark = [pytest.mark.slow, pytest.mark.model]

CHINESE = "我在网上买的电动自行车想退货，请问需要多长时间？运费由谁承担？" * 40
SIZES = (5, 8, 12, 30, 64, 100, 180, 250)
TABLES = ("position_embed", "type_embed", "relative_bias", "relative_embed")


def texts_of(opened: OpenedEncoder) -> list[TextRows]:
    """English, Chinese and both, from 5 tokens up to the limit."""
    tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder)
    prose, most = english(), opened.config.max_tokens
    texts = []
    for index, size in enumerate(SIZES):
        start = 5000 * index
        text = prose[start : start + 6000] if index % 3 else CHINESE[: 3 * size]
        text = text[: 2 * size] + CHINESE[:size] + text if index % 3 == 2 else text
        rows = tokenizer.encode_text(text, max_tokens=min(size, most), truncate=True)
        texts.append(TextRows(rows.tokens, rows.types))
    return texts


def packed_weights(opened: OpenedEncoder, form: Format) -> dict[str, NDArray[np.float32]]:
    """The encoder's weights as they are packed."""
    return {
        name: values(quantize(form, tensor.float32()))
        if len(tensor.shape) == 2 and form is Format.Q8 and name not in TABLES and not name.startswith("head.")
        else tensor.float32()
        for name, tensor in opened.weights.items()
    }


@pytest.mark.parametrize(("form", "least"), [(Format.F32, 0.99999), (Format.Q8, 0.999)], ids=["f32", "q8"])
@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "bge-small-en", "reranker"])
def test_real_states_are_the_oracles(name: str, form: Format, least: float) -> None:
    path = resolve(name)
    with open_encoder(path) as opened:
        oracle = EncoderOracle(opened.config, packed_weights(opened, form))
        encoder = build_encoder(path, opened, Settings.from_env(), form=form)
        texts = texts_of(opened)
    found = [states.copy() for states in encoder.encode(texts).states]
    for text, states in zip(texts, found, strict=True):
        expected = oracle.states(text.tokens, text.types)
        for one, other in ((states.mean(axis=0), expected.mean(axis=0)), (states[0], expected[0])):
            assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) >= least, len(text.tokens)
        np.testing.assert_array_equal(encoder.encode([text]).states[0], states)
    encoder.close()
