"""Properties of an encoder's forward pass by construction, without any other engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from miaotui.errors import RequestError
from miaotui.model.alibi import alibi_slopes
from miaotui.model.encoder.activations import erf, gelu
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.names import encoder_shapes
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.positions import bias_table, by_distance, log_buckets, t5_buckets
from tiny_encoders import VARIANTS, Array, tiny_encoder_config, tiny_encoder_weights

TOKENS = np.random.default_rng(5).integers(0, 320, 40).tolist()
TYPES = [0] * 15 + [1] * 25

# The first two values of the states of three rows, held to transformers when they were recorded.
RECORDED = {
    "bert": (0.0798, -0.0722, 0.1368, -0.1163, 0.0941, -0.0079),
    "roberta": (-1.5475, -0.2569, -1.5636, -0.2320, -1.5311, -0.2389),
    "xlm-roberta": (0.7313, -0.6255, 0.6188, -0.7853, 0.7317, -0.8591),
    "distilbert": (-1.1300, 2.8358, -1.1670, 2.7431, -1.1025, 2.9551),
    "albert": (0.3853, -0.5105, 0.3974, -0.6333, 0.4418, -0.6128),
    "modernbert": (1.8954, 0.1608, 1.3362, 0.6772, -0.4500, -0.1672),
    "modernbert-bias": (1.0340, -0.3586, 1.6062, -0.5697, 0.9292, 0.3751),
    "nomic-bert": (1.1260, -3.1076, 1.7000, -2.2293, 1.1932, -2.7916),
    "gte": (-0.3522, -0.2119, -0.5648, -0.5064, -0.3010, -0.5499),
    "gte-untyped": (0.7449, 1.0251, 0.8068, 0.5758, 0.6509, 0.4320),
    "mpnet": (-0.8447, -0.2213, -0.8375, -0.1278, -0.8923, -0.1726),
    "deberta-v3": (1.1194, -0.8730, 1.0849, -0.7332, 1.0455, -0.9263),
    "deberta-v3-plain": (1.3519, -0.8433, 1.3260, -0.9757, 1.2873, -0.7040),
    "jina-bert-v2": (1.1441, 1.3860, 1.2950, 1.1088, 1.4640, 1.1113),
}


def oracle_of(config: EncoderConfig, seed: int = 0) -> EncoderOracle:
    return EncoderOracle(config, tiny_encoder_weights(config, seed))


def types_of(config: EncoderConfig) -> list[int]:
    return TYPES if config.type_vocab_size > 1 else []


def moved(config: EncoderConfig, position: int) -> list[int]:
    """Positions whose states change when the token at ``position`` does."""
    oracle = oracle_of(config)
    changed = [*TOKENS[:position], (TOKENS[position] + 1) % 320, *TOKENS[position + 1 :]]
    difference = np.abs(oracle.states(changed) - oracle.states(TOKENS)).max(axis=1)
    return np.flatnonzero(difference > 1e-4).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_are_as_recorded(variant: str) -> None:
    config = tiny_encoder_config(variant)
    states = oracle_of(config).states(TOKENS, types_of(config))
    assert states.shape == (40, 64)
    assert states.dtype == np.float32
    np.testing.assert_allclose(states[[0, 17, 39], :2].ravel(), RECORDED[variant], atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_canonical_tensor_matters(variant: str) -> None:
    config = tiny_encoder_config(variant)
    weights = tiny_encoder_weights(config)
    base = EncoderOracle(config, weights).states(TOKENS, types_of(config))
    for name in encoder_shapes(config):
        noise = np.random.default_rng(1).normal(0, 0.5, weights[name].shape).astype(np.float32)
        other = EncoderOracle(config, weights | {name: weights[name] + noise}).states(TOKENS, types_of(config))
        # a bias of all keys shifts each query's scores alike, unless the keys are rotated or meet positions
        if not name.endswith("k_bias") or config.position in ("rope", "disentangled"):
            assert np.abs(other - base).max() > 1e-3, name


def test_a_window_reaches_as_far_to_both_sides() -> None:
    config = replace(tiny_encoder_config("modernbert"), n_layers=1, windows=(4,))
    assert moved(config, 20) == list(range(17, 24))
    assert moved(replace(config, windows=(0,)), 20) == list(range(40))


def test_layers_have_the_windows_of_their_kind() -> None:
    config = tiny_encoder_config("modernbert")
    assert config.windows == (0, 9, 9, 0, 9)
    assert [config.layer_rope(layer).theta for layer in range(2)] == [160_000.0, 10_000.0]  # type: ignore[union-attr]


def test_without_positions_order_does_not_matter() -> None:
    config = tiny_encoder_config("bert")
    weights = tiny_encoder_weights(config)
    oracle = EncoderOracle(config, weights | {"position_embed": np.zeros_like(weights["position_embed"])})
    np.testing.assert_allclose(oracle.states(TOKENS[::-1])[::-1], oracle.states(TOKENS), atol=1e-4)
    assert np.abs(oracle_of(config).states(TOKENS[::-1])[::-1] - oracle_of(config).states(TOKENS)).max() > 0.1


def test_positions_begin_at_their_offset() -> None:
    config = tiny_encoder_config("roberta")
    weights = tiny_encoder_weights(config)
    cut = replace(config, position_rows=config.position_rows - 2, position_offset=0)
    other = EncoderOracle(cut, weights | {"position_embed": weights["position_embed"][2:]})
    assert config.max_tokens == 80
    np.testing.assert_array_equal(other.states(TOKENS), EncoderOracle(config, weights).states(TOKENS))


def test_shared_layers_are_one_layer_many_times() -> None:
    config = tiny_encoder_config("albert")
    weights = tiny_encoder_weights(config)
    separate = {
        name.replace("layers.0.", f"layers.{layer}."): array for name, array in weights.items() for layer in range(3)
    }
    other = EncoderOracle(replace(config, shared_layers=False), separate)
    np.testing.assert_array_equal(other.states(TOKENS), EncoderOracle(config, weights).states(TOKENS))


def test_alibi_is_a_bias_by_distance_as_mpnets_is() -> None:
    jina, mpnet = tiny_encoder_config("jina-bert-v2"), tiny_encoder_config("mpnet")
    weights: dict[str, Array] = {"relative_bias": np.arange(64, dtype=np.float32).reshape(32, 2)}
    slopes = bias_table(jina, {}, 3)
    buckets = bias_table(mpnet, weights, 3)
    assert slopes is not None
    assert buckets is not None
    assert slopes.tolist() == [[-x / 16 for x in (2, 1, 0, 1, 2)], [-x / 256 for x in (2, 1, 0, 1, 2)]]
    assert buckets.tolist() == [[36, 34, 0, 2, 4], [37, 35, 1, 3, 5]]  # keys after the query, itself, keys before
    assert bias_table(tiny_encoder_config("bert"), {}, 3) is None
    assert by_distance(3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_alibi_slopes_of_other_counts_than_powers_of_two() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-k for k in range(1, 9)]
    assert alibi_slopes(12).tolist() == [2.0**-k for k in range(1, 9)] + [
        np.float32(2 ** -(k / 2)) for k in (1, 3, 5, 7)
    ]


def test_buckets_are_as_in_the_reference() -> None:
    distances = np.array([-200, -128, -64, -9, -8, -7, -1, 0, 1, 7, 8, 9, 16, 64, 127, 200])
    assert t5_buckets(distances, 32, 128).tolist() == [31, 31, 30, 24, 24, 23, 17, 0, 1, 7, 8, 8, 10, 14, 15, 15]
    far = np.array([-511, -300, -129, -128, -1, 0, 127, 128, 129, 200, 511, 600])
    found = log_buckets(far, 256, 512)
    assert found.tolist() == [-255, -207, -129, -128, -1, 0, 127, 128, 129, 169, 255, 270]
    assert log_buckets(far, 12, 0).tolist() == far.tolist()


def test_gelu_is_exact() -> None:
    x = np.linspace(-9, 9, 10_001, dtype=np.float32)
    expected = [0.5 * value * math.erfc(-value / math.sqrt(2)) for value in x.tolist()]
    np.testing.assert_allclose(gelu(x), expected, atol=1e-6)
    exact = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - exact).max() <= 2**-24


def test_text_that_does_not_fit_is_refused() -> None:
    oracle = oracle_of(tiny_encoder_config("bert"))
    assert oracle.states([1] * 80).shape == (80, 64)
    for tokens, types in (([], []), ([1] * 81, []), ([320], []), ([-1], []), ([1], [2]), ([1, 2], [0])):
        with pytest.raises(RequestError):
            oracle.states(tokens, types)
