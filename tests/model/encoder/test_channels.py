"""Channels in order of size: the same model, with large channels beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.model.encoder.channels import channel_order, in_order
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from tiny_encoders import make_tiny_encoder, make_tiny_encoder_gguf


@pytest.mark.parametrize("variant", ["bert", "roberta", "modernbert", "nomic-bert", "mpnet", "jina-bert-v2"])
def test_an_ordered_model_has_the_permuted_states(tmp_path: Path, variant: str) -> None:
    with open_encoder(make_tiny_encoder(tmp_path, variant)) as opened:
        order = channel_order(opened.config, opened.weights)
        assert order is not None
        assert sorted(order.tolist()) == list(range(opened.config.hidden_size))
        ordered = in_order(opened.config, opened.weights, order)
        one, other = (
            EncoderOracle(opened.config, {name: tensor.float32() for name, tensor in tensors.items()})
            for tensors in (opened.weights, ordered)
        )
        tokens = list(range(5, 30))
        np.testing.assert_allclose(other.states(tokens), one.states(tokens)[:, order], atol=2e-5)


def test_channels_are_ordered_by_what_norms_leave(tmp_path: Path) -> None:
    with open_encoder(make_tiny_encoder(tmp_path, "bert")) as opened:
        order = channel_order(opened.config, opened.weights)
        assert order is not None
        norms = [t.float32() for name, t in opened.weights.items() if name.endswith(("_norm", "_norm_bias"))]
        power = sum(np.square(norm.astype(np.float64)) for norm in norms)
        assert (np.diff(np.asarray(power)[order]) >= 0).all()


def test_blocks_and_relative_positions_keep_their_order(tmp_path: Path) -> None:
    for path in (make_tiny_encoder_gguf(tmp_path, "bert", kind="Q8_0"), make_tiny_encoder(tmp_path, "deberta-v3")):
        with open_encoder(path) as opened:
            assert channel_order(opened.config, opened.weights) is None
