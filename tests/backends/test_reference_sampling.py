"""Sampling in NumPy against the compiled kernels: the same logits, the same token, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.backends.cpu import draw as compiled
from miaotui.backends.reference import sampling as reference
from miaotui.backends.sampling import Distribution

F = np.float32
INF = float("inf")

rows = st.one_of(
    st.lists(st.sampled_from([-INF, -50.0, -3.0, -0.5, -0.0, 0.0, 0.25, 1.0, 4.0, 20.0]), min_size=1, max_size=40),
    st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=300),
).filter(lambda values: max(values) > -INF)
shapes = st.builds(
    Distribution.of,
    temperature=st.sampled_from([1e-40, 0.1, 0.7, 1.0, 1.5, 100.0, 1e300]),
    top_k=st.sampled_from([0, 1, 2, 5, 100, 129]),
    top_p=st.sampled_from([1.0, 1e-300, 0.1, 0.5, 0.9, 0.999999999]),
    min_p=st.sampled_from([0.0, 1e-12, 0.05, 1.0]),
)
keys = st.integers(0, 2**64 - 1)


@settings(max_examples=400)
@given(rows, shapes, keys)
def test_draws_are_equal(values: list[float], shape: Distribution, key: int) -> None:
    row = np.array(values, F)
    peak = float(row.max())
    assert reference.draw(row.copy(), peak, shape, key) == compiled.draw(row.copy(), peak, shape, key)


def test_draws_from_large_rows_are_equal() -> None:
    rng = np.random.default_rng(3)
    for seed, (top_k, top_p, min_p) in enumerate(itertools.product([0, 40, 128, 400], [1.0, 0.9, 0.3], [0.0, 0.02])):
        shape = Distribution.of(0.9, top_k, top_p, min_p)
        row = (rng.normal(0, 3, 5000) * 4).round().astype(F) / F(4)  # with ties
        peak, key = float(row.max()), int(rng.integers(0, 2**63)) * 2 + seed % 2
        assert reference.draw(row.copy(), peak, shape, key) == compiled.draw(row.copy(), peak, shape, key)


@given(rows, st.integers(0, 45))
def test_the_best_are_equal(values: list[float], n: int) -> None:
    row = np.array(values, F)
    assert reference.best(row, n) == compiled.best(row, n)


@given(rows)
def test_totals_are_equal(values: list[float]) -> None:
    row = np.array(values, F)
    assert reference.log_total(row, float(row.max())) == compiled.log_total(row, float(row.max()))


@given(rows, st.integers(0, 2**32))
def test_restricted_rows_are_equal(values: list[float], seed: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2**32, -(-len(values) // 32), np.uint32)
    one, other = np.array(values, F), np.array(values, F)
    reference.restrict(one, words)
    compiled.restrict(other, words)
    assert one.tobytes() == other.tobytes()
