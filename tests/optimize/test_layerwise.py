"""The pass layer by layer gives what the oracle gives, and divergences are those of whole distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.model.oracle import Oracle
from miaotui.optimize.layerwise import LayerwiseModel, divergence
from miaotui.optimize.quantization.survey import layer_moments
from miaotui.optimize.source import open_source
from tiny_models import make_tiny_gguf

TEXTS = [[5, 17, 3, 90, 41, 7], [1, 2, 3], list(range(200))]


@pytest.mark.parametrize("variant", ["llama", "gemma2", "qwen2"])
def test_logits_are_the_oracle_s(variant: str, tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, variant)) as source:
        model = LayerwiseModel(source.config, source.canonical())
        oracle = Oracle(source.config, source.canonical())
        head = model.head()
        for tokens, states in zip(TEXTS, model.states(TEXTS), strict=True):
            np.testing.assert_array_equal(head.head(states), oracle.logits(tokens))


def test_divergence_is_that_of_whole_distributions(tmp_path: Path) -> None:
    paths = [make_tiny_gguf(tmp_path, "llama", seed=seed) for seed in (0, 1)]
    with open_source(paths[0]) as first, open_source(paths[1]) as second:
        ours, theirs = (LayerwiseModel(each.config, each.canonical()) for each in (first, second))
        found = divergence(ours, theirs, TEXTS)
        same = divergence(ours, ours, TEXTS)
        logits = [
            np.concatenate([Oracle(each.config, each.canonical()).logits(tokens) for tokens in TEXTS]).astype(float)
            for each in (first, second)
        ]
    p, q = (np.exp(each - each.max(1, keepdims=True)) for each in logits)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    np.testing.assert_allclose(found.kl, (p * np.log(p / q)).sum(1), rtol=1e-4, atol=1e-6)
    assert same.kl.max() < 1e-6
    assert same.same_top.all()
    np.testing.assert_array_equal(found.starts, [0, 6, 9])
    assert np.flatnonzero(np.isnan(found.surprise)).tolist() == [5, 8, 208]
    assert found.surprise[0] == pytest.approx(-np.log(p[0, 17]), rel=1e-4)


def test_moments_are_those_of_what_products_read(tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, "llama")) as source:
        read: dict[str, list[np.ndarray]] = {}
        oracle = Oracle(source.config, source.canonical(), lambda name, x: read.setdefault(name, []).append(x))
        for tokens in TEXTS:
            oracle.logits(tokens)
        model = LayerwiseModel(source.config, source.canonical())
        for layer, moments in layer_moments(source, model, TEXTS):
            for matrix in (one for one in source.matrices if one.layer == layer and one.product in read):
                inputs = np.concatenate(read[matrix.product])
                found = moments.of(matrix.product)
                assert found is not None
                np.testing.assert_allclose(found, inputs.T @ inputs / len(inputs), rtol=2e-3, atol=1e-4)
