"""Rounding: what is stored is what was reckoned with, feedback and sweeps lower the error, rows are independent."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.optimize.quantization.block_grids import GRIDS, HOLDING, kinds_for, stored_kind
from miaotui.optimize.quantization.rounding import Feedback, round_matrix, round_plainly
from random_blocks import random_tensor

ROWS, COLS = 24, 256
THEIRS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # that gguf's own quantiser has


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((700, 40), dtype=np.float32) @ rng.standard_normal((40, COLS), dtype=np.float32)
    return mixed + rng.standard_normal((700, COLS), dtype=np.float32) * np.exp(rng.normal(0, 1, COLS)).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(4).standard_t(5, (ROWS, COLS)).astype(np.float32) * np.float32(0.05)


def decoded(data: np.ndarray, kind: BlockType) -> np.ndarray:
    theirs: np.ndarray = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    return theirs


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_feedback_and_sweeps_lower_the_error(kind: BlockType, inputs: np.ndarray, weights: np.ndarray) -> None:
    hessian = inputs.T @ inputs / len(inputs)
    feedback = Feedback.of(hessian)

    def error(data: np.ndarray) -> float:
        rest = weights - decoded(data, kind)
        return float(np.vdot(rest, rest @ feedback.hessian) / np.vdot(weights, weights @ feedback.hessian))

    plain, values = round_plainly(weights, kind, np.diag(hessian).copy())
    np.testing.assert_array_equal(decoded(plain, kind), values)
    found = [round_matrix(weights, kind, feedback, sweeps) for sweeps in (0, 1, 2)]
    for one in found:
        assert error(one.data) == pytest.approx(one.error, rel=1e-3)
    assert found[0].error < 0.8 * error(plain)
    assert found[2].error <= found[1].error <= found[0].error


@pytest.mark.parametrize("name", THEIRS)
def test_searched_scales_beat_the_reference_quantiser(name: str, weights: np.ndarray) -> None:
    kind = BlockType[name]
    theirs = decoded(gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name]), kind)
    _, ours = round_plainly(weights, kind, np.ones(COLS, np.float32))
    assert ((weights - ours) ** 2).sum() <= ((weights - theirs) ** 2).sum()


@pytest.mark.parametrize("kind", [BlockType.Q4_0, BlockType.Q3_K], ids=lambda kind: kind.name)
def test_weights_on_the_grid_stay(kind: BlockType) -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(GRIDS[kind].low, GRIDS[kind].high + 1, (4, COLS))
    codes[:, ::16] = GRIDS[kind].low
    on_grid = codes.astype(np.float32) * np.float32(0.25)
    found = round_matrix(on_grid, kind, Feedback.of(np.eye(COLS, dtype=np.float32)))
    np.testing.assert_allclose(decoded(found.data, kind), on_grid, rtol=1e-3)  # a factor of blocks is a float16


@pytest.mark.parametrize("kind", HOLDING, ids=lambda kind: kind.name)
def test_types_that_hold_another_s_values_change_nothing(kind: BlockType) -> None:
    source = random_tensor(kind, 4, COLS // kind.block_size, 6, size=0.1).float32()
    for other in HOLDING[kind]:
        _, values = round_plainly(source, other, np.ones(COLS, np.float32))
        lost = ((values - source) ** 2).sum() / (source**2).sum()
        assert lost < 1e-3, other  # four bits lose five times as much of random weights


def test_rows_do_not_depend_on_each_other(inputs: np.ndarray, weights: np.ndarray) -> None:
    feedback = Feedback.of(inputs.T @ inputs)
    whole = round_matrix(weights, BlockType.IQ4_NL, feedback).data
    half = round_matrix(weights[: ROWS // 2], BlockType.IQ4_NL, feedback).data
    np.testing.assert_array_equal(whole[: ROWS // 2], half)


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_zeros_and_dead_inputs_are_no_trouble(kind: BlockType) -> None:
    feedback = Feedback.of(np.zeros((COLS, COLS), np.float32))
    data = round_matrix(np.zeros((2, COLS), np.float32), kind, feedback).data
    assert not StoredTensor("t", (2, COLS), kind, data).float32().any()


def test_rows_that_are_no_whole_blocks_get_the_type_that_llama_cpp_takes() -> None:
    assert {kind.name: stored_kind(kind, 576).name for kind in GRIDS if kind.block_size == 256} == {
        "Q2_K": "Q4_0",
        "Q3_K": "Q4_0",
        "IQ4_XS": "IQ4_NL",
        "Q4_K": "Q5_0",
        "Q5_K": "Q5_1",
        "Q6_K": "Q8_0",
    }
    assert stored_kind(BlockType.Q4_K, 512) is BlockType.Q4_K
    assert stored_kind(BlockType.Q4_0, 48) is BlockType.F16
    assert kinds_for(48) == ()
    assert set(kinds_for(512)) == set(GRIDS)


def test_few_tokens_do_not_mislead(weights: np.ndarray) -> None:
    """Correlations of a short text are not those of others: feedback by them alone would make others worse."""
    rng = np.random.default_rng(8)
    shared = rng.standard_normal((3000, 60)) @ rng.standard_normal((60, COLS)) * 0.1
    inputs = (shared + rng.standard_normal((3000, COLS))).astype(np.float32)
    known, others = inputs[:300], inputs[300:]
    moment, held_out = known.T @ known / len(known), others.T @ others / len(others)

    def error(data: np.ndarray) -> float:
        rest = weights - decoded(data, BlockType.Q4_0)
        return float(np.vdot(rest, rest @ held_out))

    plain = error(round_plainly(weights, BlockType.Q4_0, np.diag(moment).copy())[0])
    believed = error(round_matrix(weights, BlockType.Q4_0, Feedback.of(moment)).data)
    drawn = error(round_matrix(weights, BlockType.Q4_0, Feedback.of(moment, len(known))).data)
    assert drawn < 0.98 * plain
    assert drawn < 0.8 * believed
