"""Attention over whole texts: bit for bit what the reference says, whatever shares the pass."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_pass import Floating, Quantized, assert_same, assert_same_bytes
from whole_texts import Whole, expected, run_whole

from miaotui.kernels import reference

KINDS = (
    Whole(),
    Whole(dim=64, rotated=64),
    Whole(heads=3, dim=96, rotated=32, window=9),
    Whole(window=1),
    Whole(biased=True),
    Whole(biased=True, window=40, dim=128),
    Whole(relative=True),
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("count", [1, 5, 16, 17, 61, 100])
def test_a_text_equals_the_reference(kind: Whole, count: int) -> None:
    text = kind.tokens(count)
    out = run_whole(kind, [text])
    assert isinstance(out, Quantized)
    assert_same_bytes(out.read(count), reference.quantize(expected(kind, text)))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_text_is_the_same_beside_others_in_any_blocks_on_any_threads(kind: Whole) -> None:
    texts = [kind.tokens(count, seed) for seed, count in enumerate((20, 1, 50, 16, 33))]
    whole = np.concatenate([expected(kind, text) for text in texts])
    for most, threads in ((24, 1), (24, 3), (6, 2), (7, 2), (1, 4)):
        out = run_whole(kind, texts, most, threads, floating=True)
        assert isinstance(out, Floating)
        assert_same(out.read(), whole)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_few_rows_are_the_same_whoever_stores_their_keys(kind: Whole, threads: int) -> None:
    texts = [kind.tokens(count, seed) for seed, count in enumerate((20, 1, 33, 10))]
    out = run_whole(kind, texts, 6, threads, floating=True)
    assert isinstance(out, Floating)
    assert_same(out.read(), np.concatenate([expected(kind, text) for text in texts]))


def test_the_reference_is_a_softmax() -> None:
    kind = Whole()
    heads = kind.tokens(30).reshape(30, 3, 2, 32).astype(np.float64)
    scores = heads[:, 0, 0] @ heads[:, 1, 0].T * kind.scale
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    exact = chances / chances.sum(axis=1, keepdims=True) @ heads[:, 2, 0]
    np.testing.assert_allclose(expected(kind, kind.tokens(30))[:, :32], exact, atol=2e-5)
