"""A feed-forward block as a circuit: its C++ beside float, step by step, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.fpga.block import STEPS, block_of
from miaotui.backends.fpga.simulate import CircuitOptions, lines_of, simulate
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.model.oracle import Oracle
from tiny_models import tiny_config, tiny_weights

TOKENS = range(5, 21)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}


def test_a_block_is_what_the_oracle_computes() -> None:
    config = tiny_config("llama")
    weights = tiny_weights(config)
    block = block_of(config, weights, 1, TOKENS)
    wanted = Oracle(config, weights).feed_forward(block.inputs, "layers.1.")
    np.testing.assert_allclose(block.steps()["down"], wanted, rtol=1e-4, atol=1e-5)
    assert tuple(block.steps()) == STEPS


def test_blocks_and_numbers_that_cannot_be_are_refused() -> None:
    config = tiny_config("gemma2")
    with pytest.raises(UnsupportedModelError, match="SiLU"):
        block_of(config, tiny_weights(config), 0, TOKENS)
    config = tiny_config("llama")
    with pytest.raises(RequestError, match="no layer 3"):
        block_of(config, tiny_weights(config), 3, TOKENS)
    with pytest.raises(RequestError, match="before the point"):
        CircuitOptions(bits=8, whole=8)
    with pytest.raises(RequestError, match="reuse"):
        CircuitOptions(reuse=0)


@pytest.mark.compare
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_circuits_c_simulation_is_held_to_float(tmp_path: Path) -> None:
    pytest.importorskip("hls4ml", reason="hls4ml is not installed: pip install 'miaotui[fpga]'")
    config = tiny_config("llama", **SMALL)
    block = block_of(config, tiny_weights(config), 0, TOKENS)
    report = simulate(block, tmp_path / "wide", CircuitOptions(24, 8, 32))
    assert report.level == "simulated"
    assert [step.name for step in report.steps] == list(STEPS)
    assert all(step.error_share < 2e-3 for step in report.steps)
    assert report.steps[0].error_share < 1e-4  # a product alone; the table of the sigmoid is coarser
    sized = [step for step in report.steps if step.products]
    assert [step.products for step in sized] == [32 * 64] * 3
    assert all(step.multipliers == -(-step.products // step.reuse) for step in sized)
    assert sized[0].weight_bits == 24 * 32 * 64
    text = "\n".join(lines_of(report))
    assert "no device" in text
    assert "worst error" in text
