"""What the oracle must be by construction: causal, windowed, capped; without any other engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from miaotui.model.config import ModelConfig
from miaotui.model.formulas import gelu_tanh, silu, softcapped, softmax, visible
from miaotui.model.oracle import Oracle
from miaotui.model.reading.names import tensor_shapes
from tiny_models import tiny_config, tiny_weights
from tiny_variants import VARIANTS

TOKENS = np.random.default_rng(5).integers(0, 320, 24).tolist()


def oracle_of(config: ModelConfig, seed: int = 0) -> Oracle:
    return Oracle(config, tiny_weights(config, seed))


def changed(tokens: list[int], position: int) -> list[int]:
    return [*tokens[:position], (tokens[position] + 1) % 320, *tokens[position + 1 :]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_later_tokens_do_not_change_earlier_logits(variant: str) -> None:
    oracle = oracle_of(tiny_config(variant))
    whole, part = oracle.logits(TOKENS), oracle.logits(TOKENS[:10])
    assert whole.shape == (len(TOKENS), 320)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole[:10], part, atol=1e-4)


def test_a_window_hides_what_lies_before_it() -> None:
    config = replace(tiny_config("mistral"), n_layers=1, windows=(4,), rope_layers=(True,))
    oracle = oracle_of(config)
    before = oracle.logits(TOKENS)
    after = oracle.logits(changed(TOKENS, 10))
    moved = np.abs(after - before).max(axis=1) > 1e-3
    assert moved.tolist() == [10 <= position <= 13 for position in range(len(TOKENS))]


def test_bidirectional_rows_see_later_tokens_within_the_window() -> None:
    config = replace(tiny_config("mistral"), n_layers=1, windows=(4,), rope_layers=(True,))
    oracle = oracle_of(config)
    before = oracle.logits(TOKENS, bidirectional=True)
    after = oracle.logits(changed(TOKENS, 10), bidirectional=True)
    moved = np.abs(after - before).max(axis=1) > 1e-3
    assert moved.tolist() == [7 <= position <= 13 for position in range(len(TOKENS))]


def test_without_position_encoding_order_does_not_matter() -> None:
    config = replace(tiny_config("llama"), n_layers=1, windows=(0,), rope_layers=(False,))
    oracle = oracle_of(config)
    swapped = [TOKENS[1], TOKENS[0], *TOKENS[2:]]
    np.testing.assert_allclose(oracle.logits(TOKENS)[2:], oracle.logits(swapped)[2:], atol=1e-4)
    roped = oracle_of(replace(config, rope_layers=(True,)))
    assert np.abs(roped.logits(TOKENS)[2:] - roped.logits(swapped)[2:]).max() > 1e-2


def test_hidden_states_are_the_embedding_and_one_per_layer() -> None:
    config = tiny_config("gemma2")
    weights = tiny_weights(config)
    states = Oracle(config, weights).hidden_states(TOKENS)
    assert [state.shape for state in states] == [(24, 64)] * 5
    np.testing.assert_array_equal(states[0], weights["embed"][TOKENS] * np.float32(8))


def test_layer_norm_has_zero_mean_unit_variance_then_scale_and_bias() -> None:
    config = replace(tiny_config("llama"), norm="layer", norm_bias=True)
    weights = tiny_weights(config)
    assert "layers.0.attn_norm_bias" in weights
    x = Oracle(config, weights).hidden_states(TOKENS)[-1]
    plain = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 2**-17)
    final = plain * weights["final_norm"] + weights["final_norm_bias"]
    expected = final @ weights["head"].T
    np.testing.assert_allclose(Oracle(config, weights).logits(TOKENS), expected, atol=1e-4)


def test_every_canonical_tensor_matters() -> None:
    config = replace(tiny_config("qwen3"), post_norms=True, qkv_bias=True, o_bias=True)
    weights = tiny_weights(config)
    base = Oracle(config, weights).logits(TOKENS)
    for name in tensor_shapes(config):
        noisy = weights[name] + np.random.default_rng(1).normal(0, 0.5, weights[name].shape)
        other = Oracle(config, weights | {name: noisy.astype(np.float32)}).logits(TOKENS)
        assert np.abs(other - base).max() > 1e-2, name


def test_soft_caps_bound_logits() -> None:
    capped = oracle_of(replace(tiny_config("llama"), logit_softcap=2.0)).logits(TOKENS)
    assert np.abs(capped).max() < 2.0
    assert softcapped(np.float32([[3.0]]), 0.0) == 3.0


def test_visible_counts_the_row_itself() -> None:
    assert visible(np.arange(4), 4, 0, bidirectional=False).sum(axis=1).tolist() == [1, 2, 3, 4]
    assert visible(np.arange(4), 4, 2, bidirectional=False).sum(axis=1).tolist() == [1, 2, 2, 2]
    assert visible(np.arange(4), 4, 2, bidirectional=True).sum(axis=1).tolist() == [2, 3, 3, 2]
    assert visible(np.arange(3), 3, 0, bidirectional=True).all()


def test_pointwise_functions_hold_at_extremes() -> None:
    x = np.float32([-1e4, -1.0, 0.0, 1.0, 1e4])
    np.testing.assert_allclose(silu(x), [0, -0.26894142, 0, 0.73105858, 1e4], atol=1e-6)
    np.testing.assert_allclose(gelu_tanh(x), [0, -0.158808, 0, 0.841192, 1e4], atol=1e-5)
    np.testing.assert_allclose(softmax(np.float32([[1e4, 1e4, -np.inf]])), [[0.5, 0.5, 0]])
