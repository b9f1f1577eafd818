"""Pooling and heads: textbook results on small states, and bytes that no library's threads change."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import MiaotuiError, ModelFormatError, RequestError, UnsupportedModelError
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.heads import DenseConfig, HeadConfig, PoolingConfig, head_shapes
from miaotui.model.encoder.pooling import Pooler, pooled, rows_product
from miaotui.model.encoder.task_head import TaskHead
from tiny_encoders import BASE, Array, random_weights, tiny_encoder_config

STATES = np.random.default_rng(2).standard_normal((7, 64), dtype=np.float32)
CONFIG = tiny_encoder_config("bert")
CLASSIFIER = HeadConfig(kind="sequence", outputs=3, transform="tanh", transform_size=64)


def head_of(head: HeadConfig, **weights: Array) -> TaskHead:
    return TaskHead(CONFIG, head, random_weights(head_shapes(CONFIG, head)) | weights)


def test_pooling_modes() -> None:
    states = np.array([[1.0, -4.0], [2.0, 0.0], [6.0, 1.0]], np.float32)
    expected = {
        "cls": [1, -4],
        "last": [6, 1],
        "mean": [3, -1],
        "max": [6, 1],
        "weighted_mean": [23 / 6, -1 / 6],
        "mean_sqrt_len": [9 / 3**0.5, -3 / 3**0.5],
    }
    for mode, values in expected.items():
        np.testing.assert_allclose(pooled(states, mode), values, rtol=1e-6)  # type: ignore[arg-type]


def test_pooling_without_the_rows_of_a_prompt() -> None:
    states = np.array([[9.0, 9.0], [2.0, 0.0], [6.0, 1.0]], np.float32)
    expected = {
        "cls": [9, 9],
        "last": [6, 1],
        "mean": [4, 0.5],
        "max": [6, 1],
        "weighted_mean": [22 / 5, 3 / 5],  # a row keeps the weight of its place
        "mean_sqrt_len": [8 / 2**0.5, 1 / 2**0.5],
    }
    for mode, values in expected.items():
        np.testing.assert_allclose(pooled(states, mode, 1), values, rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pooled(states, "mean", 7), states[2])  # the last row stays


def test_modes_are_joined_in_their_order() -> None:
    pooler = Pooler(PoolingConfig(modes=("max", "cls")), {}, 64)
    assert pooler.dimensions == 128
    expected = np.concatenate([STATES.max(axis=0), STATES[0]])
    np.testing.assert_array_equal(pooler.embedding(STATES), expected)


def test_dense_modules_follow_pooling_and_precede_the_norm() -> None:
    dense = (
        DenseConfig(inputs=64, outputs=32, bias=True, activation="tanh"),
        DenseConfig(inputs=32, outputs=8, bias=False),
    )
    pooling = PoolingConfig(dense=dense, normalize=True)
    weights = random_weights(head_shapes(CONFIG, HeadConfig(), pooling))
    found = Pooler(pooling, weights, 64).embedding(STATES)
    x = (
        np.tanh(STATES.mean(axis=0) @ weights["head.dense.0"].T + weights["head.dense.0_bias"])
        @ weights["head.dense.1"].T
    )
    np.testing.assert_allclose(found, x / np.linalg.norm(x), atol=1e-6)


def test_fewer_dimensions_are_normalized_again() -> None:
    pooler = Pooler(PoolingConfig(modes=("cls",), normalize=True), {}, 64)
    short = pooler.embedding(STATES, 10)
    np.testing.assert_allclose(short, STATES[0, :10] / np.linalg.norm(STATES[0, :10]), atol=1e-6)
    for dimensions in (0, 65, -1):
        with pytest.raises(RequestError, match="1 to 64"):
            pooler.embedding(STATES, dimensions)
    assert Pooler(PoolingConfig(truncate_dimensions=16), {}, 64).embedding(STATES).shape == (16,)


def test_a_text_of_zeros_has_an_embedding_of_zeros() -> None:
    pooler = Pooler(PoolingConfig(normalize=True), {}, 64)
    assert not pooler.embedding(np.zeros((3, 64), np.float32)).any()


def test_a_classifier_reads_the_first_row_or_the_mean() -> None:
    first = head_of(CLASSIFIER)
    np.testing.assert_array_equal(first.logits(STATES), first.logits(STATES[:1]))
    mean = head_of(replace(CLASSIFIER, pooling="mean"))
    np.testing.assert_array_equal(mean.logits(STATES), first.logits(STATES.mean(axis=0)[None]))


def test_probabilities_follow_the_problem() -> None:
    logits = np.array([0.0, 2.0, -1.0], np.float32)
    one = head_of(CLASSIFIER).probabilities(logits)
    assert abs(one.sum() - 1) < 1e-6
    several = head_of(replace(CLASSIFIER, problem="multi_label")).probabilities(logits)
    np.testing.assert_allclose(several, [0.5, 0.880797, 0.268941], atol=1e-6)
    value = head_of(replace(CLASSIFIER, problem="regression")).probabilities(logits)
    np.testing.assert_array_equal(value, logits)
    pair = head_of(replace(CLASSIFIER, kind="cross-encoder", outputs=1)).probabilities(logits[1:2])
    np.testing.assert_allclose(pair, [0.880797], atol=1e-6)


def test_token_vectors_of_colbert_have_length_one() -> None:
    vectors = head_of(HeadConfig(kind="colbert", outputs=16, output_bias=False)).logits(STATES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(7), atol=1e-6)


def test_splade_is_the_largest_logit_of_each_token() -> None:
    embed = random_weights({"embed": (320, 64)})
    mlm = HeadConfig(kind="mlm", outputs=320, transform="gelu", transform_size=64, norm=True, tied=True)
    logits = head_of(mlm, **embed).logits(STATES)
    found = head_of(replace(mlm, kind="splade"), **embed).logits(STATES)
    np.testing.assert_allclose(found, np.log1p(np.maximum(logits.max(axis=0), 0)), atol=1e-6)
    assert (found == 0).any()


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33])
@pytest.mark.parametrize("outputs", [1, 7, 8, 9, 1000])
def test_products_of_any_shape(n: int, outputs: int) -> None:
    rng = np.random.default_rng(n)
    x, weight = (rng.standard_normal((rows, 300), dtype=np.float32) for rows in (n, outputs))
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    np.testing.assert_allclose(rows_product(x, weight), exact, atol=1e-4)


def test_a_model_without_a_head_says_so() -> None:
    with pytest.raises(UnsupportedModelError, match="no head"):
        head_of(HeadConfig())


PROGRAM = """
import hashlib
import numpy as np
from miaotui.model.encoder.pooling import rows_product
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for n, k, outputs in ((1, 1024, 1024), (70, 384, 128), (33, 256, 3000), (2, 1024, 9000)):
    x = rng.standard_normal((n, k), dtype=np.float32)
    digest.update(rows_product(x, rng.standard_normal((outputs, k), dtype=np.float32)).tobytes())
print(digest.hexdigest())
"""


def test_threads_of_blas_change_no_byte() -> None:
    found = set()
    for threads in ("1", "2", "4"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        found.add(run.stdout.strip())
    assert len(found) == 1
    assert found != {hashlib.sha256().hexdigest()}


INTEGERS = st.one_of(st.integers(-3, 400), st.sampled_from([1 << 20, 1 << 31, 1 << 63]))
FIELDS = ("vocab_size", "hidden_size", "embedding_size", "n_layers", "n_heads", "head_dim", "ffn_size", "max_tokens")
SIZES = {
    "vocab_size": BASE["vocab_size"],
    "hidden_size": 64,
    "embedding_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "head_dim": 32,
    "ffn_size": 96,
    "max_tokens": 80,
    "position_rows": 80,
}


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*FIELDS, "position_rows", "position_offset", "type_vocab_size"]), INTEGERS))
def test_a_configuration_is_in_range_or_one_error(changes: dict[str, int]) -> None:
    try:
        config = EncoderConfig(architecture="bert", attention_scale=0.2, **(SIZES | changes))
    except MiaotuiError:
        return
    assert config.max_tokens + config.position_offset <= config.position_rows <= 1 << 20
    assert config.hidden_size * config.ffn_size <= 1 << 36


def test_a_heads_numbers_are_checked() -> None:
    for make in (
        lambda: HeadConfig(kind="sequence", outputs=0),
        lambda: HeadConfig(kind="token", outputs=1 << 20),
        lambda: HeadConfig(kind="sequence", outputs=3, labels=("a", "b")),
        lambda: HeadConfig(kind="mlm", outputs=3, transform="gelu"),
        lambda: PoolingConfig(modes=()),
        lambda: PoolingConfig(modes=("cls",) * 9),
        lambda: PoolingConfig(dense=(DenseConfig(inputs=1, outputs=1, bias=False),) * 9),
        lambda: DenseConfig(inputs=0, outputs=1, bias=False),
    ):
        with pytest.raises(ModelFormatError):
            make()
