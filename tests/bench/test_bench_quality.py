"""Quality beside speed: divergence against its definition, and bases that are damaged or of other weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from miaotui.bench.quality import (
    QualityBase,
    base_of,
    log_softmax,
    quality_of,
    read_base,
    store_base,
    stored_base,
    weights_digest,
)
from miaotui.bench.speed import decode_rate, macs_of
from miaotui.config import Settings
from miaotui.errors import RequestError
from tiny_models import tiny_config, tiny_weights

LOGITS = np.random.default_rng(0).normal(size=(30, 100)).astype(np.float32) * 3


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """The mean divergence of whole distributions."""
    a, b = log_softmax(p).astype(np.float64), log_softmax(q).astype(np.float64)
    return float((np.exp(a) * (a - b)).sum(1).mean())


def test_with_all_tokens_kept_it_is_the_divergence() -> None:
    other = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32) * 0.2
    found = quality_of(other, base_of(LOGITS, range(30), kept=100))
    assert found.kl_nats == pytest.approx(divergence(LOGITS, other), rel=1e-4)
    assert found.same_top == np.mean(LOGITS.argmax(1) == other.argmax(1))


def test_with_few_tokens_kept_it_is_a_lower_bound() -> None:
    other = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32) * 0.5
    found = [quality_of(other, base_of(LOGITS, range(30), kept=kept)).kl_nats for kept in (1, 4, 16, 64, 100)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(divergence(LOGITS, other), rel=1e-4)


def test_equal_logits_have_no_divergence() -> None:
    found = quality_of(LOGITS + 5, base_of(LOGITS, range(30)))
    assert found.kl_nats < 1e-6
    assert found.same_top == 1.0


def test_a_base_is_used_for_its_own_tokens_only(tmp_path: Path) -> None:
    settings = dataclasses.replace(Settings.from_env(), cache_dir=tmp_path)
    base = base_of(LOGITS, range(30))
    path = store_base("abc", base, settings)
    found = stored_base("abc", range(30), settings)
    assert found is not None
    assert np.array_equal(found.ids, base.ids)
    assert np.array_equal(found.logprobs, base.logprobs)
    assert stored_base("abc", range(1, 31), settings) is None
    assert stored_base("other", range(30), settings) is None
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [path.name]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", b"x" * 1000])
def test_a_damaged_base_is_none(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "base.npz"
    path.write_bytes(damage)
    assert read_base(path) is None


def test_a_torn_base_is_none(tmp_path: Path) -> None:
    settings = dataclasses.replace(Settings.from_env(), cache_dir=tmp_path)
    path = store_base("abc", base_of(LOGITS, range(30)), settings)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        assert read_base(path) is None
    with pytest.raises(RequestError, match="damaged"):
        QualityBase((1, 2), np.zeros((3, 4), np.int64), np.zeros((3, 4), np.float32))


def test_weights_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a" * (3 << 20))
    first = weights_digest(file)
    file.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert weights_digest(file) != first


def test_a_rate_counts_while_all_streams_decode() -> None:
    assert decode_rate([[1.0, 2.0, 3.0, 4.0]]) == pytest.approx(1.0)
    assert decode_rate([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 3.5]]) == pytest.approx((1.5 + 2) / 1.5)
    assert decode_rate([[1.0, 2.0], [3.0, 4.0]]) == 0.0


@pytest.mark.parametrize("piece", [1, 8, 31])
def test_a_rate_does_not_depend_on_when_pieces_are_read(piece: int) -> None:
    """Eight streams make a token a second each, and are read one after the other when a piece of all is there."""
    times = []
    for stream in range(8):
        made = [1 + -(-token // piece) * piece for token in range(32)]
        times.append([min(moment, 32) + 1e-3 * stream for moment in made])
    assert decode_rate(times) == pytest.approx(8, rel=1e-3)


def test_multiply_adds_are_those_of_the_matrices() -> None:
    config = tiny_config("llama")
    weights = tiny_weights(config)
    layers = sum(array.size for name, array in weights.items() if array.ndim == 2 and name not in ("embed", "head"))
    assert macs_of(config) == (layers, config.vocab_size * config.hidden_size)
