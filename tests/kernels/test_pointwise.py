"""Operations that touch each value once: bit for bit what the reference says."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_pass import (
    Floating,
    Quantized,
    assert_same,
    assert_same_bytes,
    group_counts,
    packed,
    random_blocks,
    run_pass,
)
from numpy.typing import NDArray

from miaotui.kernels import reference
from miaotui.kernels.linear.formats import Format, tile_stride
from miaotui.kernels.linear.packed_blocks import Blocks
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.pointwise.fields import LAYER, LAYER_WIDE, PLAIN, PLAIN_WIDE, RMS
from miaotui.kernels.reference import Bytes
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes, aligned_int64

EPS = 1e-5
FEW, MANY = (3, 96), (37, 288)  # rows, width: for every thread alone; shared by the threads
KINDS = {"rms": RMS, "layer": LAYER, "none": PLAIN, "layer_wide": LAYER_WIDE, "none_wide": PLAIN_WIDE}


def line(values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = aligned_bytes(values.nbytes).view(np.float32)
    out[:] = values
    return out


def random_rows(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32) * np.float32(3)


WEIGHT, BIAS = line(random_rows(1, 288, 1)[0]), line(random_rows(1, 288, 2)[0])


def source_fields(x: Floating, width: int) -> dict[int, int]:
    return {
        pw.X: x.address,
        pw.X_STRIDE: x.stride,
        pw.WIDTH: width,
        pw.WEIGHT: address_of(WEIGHT),
        pw.EPS: float_field(EPS),
    }


def target_fields(out: Quantized) -> dict[int, int]:
    return {
        pw.OUT: out.integers.address,
        pw.OUT_STRIDE: out.integers.stride,
        pw.OUT_HEADERS: out.headers.address,
        pw.OUT_HEADER_STRIDE: out.headers.stride,
    }


def normed(kind: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
    if kind in (PLAIN, PLAIN_WIDE):
        return x
    width = x.shape[1]
    return reference.norm(x, WEIGHT[:width], EPS, BIAS[:width] if kind != RMS else None)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("shape", [FEW, MANY, (1, 32)], ids=["few", "many", "least"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_norm_quantizes_for_a_product(kind: int, shape: tuple[int, int], threads: int) -> None:
    values = random_rows(*shape)
    x, out = Floating(*shape, values), Quantized(*shape, wide=kind in (LAYER_WIDE, PLAIN_WIDE))
    fields = source_fields(x, shape[1]) | target_fields(out)
    fields |= {ops.ROWS: ops.RUN_ROWS, pw.KIND: kind, pw.NORM_BIAS: address_of(BIAS)}
    run_pass([("pointwise.rows:norm", fields)], {ops.RUN_ROWS: shape[0]}, threads)
    quantize = reference.quantize_wide if out.wide else reference.quantize
    assert_same_bytes(out.read(shape[0]), quantize(normed(kind, values)))


@pytest.mark.parametrize("kind", [RMS, LAYER], ids=["rms", "layer"])
def test_norm_can_leave_its_floats_as_well(kind: int) -> None:
    rows, width = MANY
    values = random_rows(rows, width)
    x, out, floats = Floating(rows, width, values), Quantized(rows, width), Floating(rows, width)
    fields = source_fields(x, width) | target_fields(out)
    fields |= {ops.ROWS: ops.RUN_ROWS, pw.KIND: kind, pw.NORM_BIAS: address_of(BIAS)}
    fields |= {pw.OUT_FLOAT: floats.address, pw.OUT_FLOAT_STRIDE: floats.stride}
    run_pass([("pointwise.rows:norm", fields)], {ops.RUN_ROWS: rows}, 2)
    assert_same(floats.read(), normed(kind, values))
    assert_same_bytes(out.read(rows), reference.quantize(normed(kind, values)))


@pytest.mark.parametrize("shape", [FEW, MANY], ids=["few", "many"])
def test_norm_can_leave_its_floats_alone(shape: tuple[int, int]) -> None:
    values = random_rows(*shape)
    x, floats = Floating(*shape, values), Floating(*shape)
    fields = source_fields(x, shape[1])
    fields |= {ops.ROWS: ops.RUN_ROWS, pw.KIND: LAYER, pw.NORM_BIAS: address_of(BIAS)}
    fields |= {pw.OUT_FLOAT: floats.address, pw.OUT_FLOAT_STRIDE: floats.stride}
    run_pass([("pointwise.rows:norm", fields)], {ops.RUN_ROWS: shape[0]}, 2)
    assert_same(floats.read(), normed(LAYER, values))


@pytest.mark.parametrize("shape", [FEW, MANY], ids=["few", "many"])
def test_the_embeddings_of_positions_and_types_are_added(shape: tuple[int, int]) -> None:
    rows, width = shape
    words, places, kinds = random_rows(rows, width), random_rows(rows + 2, width, 3), random_rows(3, width, 4)
    x, position, kind, out = (Floating(len(t), width, t) for t in (words, places, kinds, words))
    table = aligned_int64(rows * ops.ROW_FIELDS).reshape(rows, -1)
    table[:, ops.ROW_POSITION], table[:, ops.ROW_TYPE] = np.arange(rows)[::-1], np.arange(rows) % 3
    fields = {
        ops.ROWS: ops.RUN_ROWS,
        pw.X: x.address,
        pw.X_STRIDE: x.stride,
        pw.WIDTH: width,
        pw.OUT: out.address,
        pw.OUT_STRIDE: out.stride,
        pw.POSITION_TABLE: position.address,
        pw.POSITION_STRIDE: position.stride,
        pw.FIRST_POSITION: 2,
        pw.TYPE_TABLE: kind.address,
        pw.TYPE_STRIDE: kind.stride,
    }
    run = {ops.RUN_ROWS: rows, ops.RUN_ROW_TABLE: address_of(table)}
    run_pass([("pointwise.rows:sum_embeddings", fields)], run, 2)
    assert_same(out.read(), words + places[2:][::-1] + kinds[np.arange(rows) % 3])


def test_norm_gathers_the_rows_whose_logits_are_wanted() -> None:
    rows, width = MANY
    values = random_rows(rows, width)
    x, out = Floating(rows, width, values), Quantized(rows, width)
    wanted = aligned_int64(4)
    wanted[:] = [36, 0, 17, 17]
    fields = source_fields(x, width) | target_fields(out)
    fields |= {ops.ROWS: ops.RUN_LOGIT_ROWS, pw.KIND: RMS, pw.GATHER: 1}
    run = {ops.RUN_ROWS: rows, ops.RUN_LOGIT_ROWS: 4, ops.RUN_LOGIT_TABLE: address_of(wanted)}
    run_pass([("pointwise.rows:norm", fields)], run, 2)
    assert_same_bytes(out.read(4), reference.quantize(normed(RMS, values)[wanted]))


def quantized(values: NDArray[np.float32]) -> Bytes:
    """Rows as the kernel quantizes them."""
    rows, width = values.shape
    x, out = Floating(rows, width, values), Quantized(rows, width)
    fields = source_fields(x, width) | target_fields(out)
    fields |= {ops.ROWS: ops.RUN_ROWS, pw.KIND: PLAIN}
    run_pass([("pointwise.rows:norm", fields)], {ops.RUN_ROWS: rows})
    return out.read(rows)


def test_quantization_of_awkward_groups() -> None:
    """Zeros, one value, values of every size: magnitude 127 is reached and never passed."""
    values = np.zeros((250, 32), np.float32)
    values[1, 31] = -1e-30
    sizes = np.ldexp(np.float32(1), np.arange(-126, 116), dtype=np.float32)
    values[4:246] = sizes[:, None] * random_rows(242, 32, 7)
    values[248:, 5] = np.float32(-3e36)
    found = quantized(values)
    assert_same_bytes(found, reference.quantize(values))
    visible = np.abs(values).max(axis=1) > reference.TINY
    assert (np.abs(found.integers[visible].astype(int)).max(axis=-1) == 127).all()
    assert (found.integers[~visible] == 0).all()


def test_quantization_rounds_half_to_even() -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, :7] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5]
    assert quantized(values).integers[0, 0, :7].tolist() == [127, 0, 2, 2, 0, -2, 126]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [FEW, MANY], ids=["few", "many"])
def test_norm_before_a_residual_is_added(shape: tuple[int, int], threads: int) -> None:
    rows, width = shape
    values, stream = random_rows(*shape), random_rows(*shape, 5)
    x, residual, out = Floating(*shape, values), Floating(*shape, stream), Floating(*shape)
    fields = source_fields(x, width) | {ops.ROWS: ops.RUN_ROWS}
    fields |= {pw.OUT: out.address, pw.OUT_STRIDE: out.stride}
    fields |= {pw.RESIDUAL: residual.address, pw.RESIDUAL_STRIDE: residual.stride}
    run_pass([("pointwise.rows:norm_add", fields)], {ops.RUN_ROWS: rows}, threads)
    assert_same(out.read(), stream + normed(RMS, values))
    assert_same(residual.read(), stream)


@pytest.mark.parametrize("shape", [FEW, MANY], ids=["few", "many"])
def test_tap_copies_rows(shape: tuple[int, int]) -> None:
    values = random_rows(*shape)
    x, out = Floating(*shape, values), Floating(*shape)
    fields = source_fields(x, shape[1]) | {ops.ROWS: ops.RUN_ROWS}
    fields |= {pw.OUT: out.address, pw.OUT_STRIDE: out.stride}
    run_pass([("pointwise.rows:tap", fields)], {ops.RUN_ROWS: shape[0]}, 2)
    assert_same(out.read(), values)


@pytest.mark.parametrize("rows", [1, 300])
def test_a_shared_part_is_copied_to_each_place(rows: int) -> None:
    """Four copies of 32 values, 96 values apart; what lies between stays."""
    values, before = random_rows(rows, 64), random_rows(rows, 384, seed=1)
    x, out = Floating(rows, 64, values), Floating(rows, 384, before)
    fields = source_fields(x, 4 * 32) | {ops.ROWS: ops.RUN_ROWS, pw.X: x.address + 4 * 32}
    fields |= {pw.OUT: out.address, pw.OUT_STRIDE: out.stride, pw.COPIES: 4, pw.COPY_STRIDE: 4 * 96}
    run_pass([("pointwise.rows:spread", fields)], {ops.RUN_ROWS: rows}, 2)
    expected = before.reshape(rows, 4, 96).copy()
    expected[:, :, :32] = values[:, None, 32:]
    assert_same(out.read(), expected.reshape(rows, 384))


@pytest.mark.parametrize("rows", [1, 50, 400])
@pytest.mark.parametrize("width", [32, 96])
@pytest.mark.parametrize("form", list(Format), ids=lambda form: form.value)
def test_embedding_reads_rows_of_a_packed_table(form: Format, width: int, rows: int) -> None:
    rng = np.random.default_rng([width, rows])
    width = 32 * group_counts(form, width // 32)
    table = random_blocks(form, 100, width, rng, spread=2.0)
    tokens = rng.integers(0, 100, rows)
    tokens[0] = 99
    for threads, factor in ((1, 1.0), (2, 11.3125)):
        out = embedded(table, tokens, factor, threads)
        assert_same(out, reference.embed(table, tokens, factor))


def embedded(table: Blocks, tokens: NDArray[np.int64], factor: float, threads: int) -> NDArray[np.float32]:
    width = 32 * table.integers.shape[1]
    weights, out = packed(table), Floating(len(tokens), width)
    rows = aligned_int64(len(tokens) * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
    rows[:, ops.ROW_TOKEN] = tokens
    fields = {
        ops.ROWS: ops.RUN_ROWS,
        pw.TABLE: address_of(weights),
        pw.WIDTH: width,
        pw.TABLE_STRIDE: tile_stride(table.format, width),
        pw.TABLE_GROUPS: width // 32,
        pw.TABLE_OUT: out.address,
        pw.TABLE_OUT_STRIDE: out.stride,
        pw.TABLE_SCALE: float_field(factor),
    }
    run = {ops.RUN_ROWS: len(tokens), ops.RUN_ROW_TABLE: address_of(rows)}
    run_pass([(f"pointwise.rows:embed_{table.format.value}", fields)], run, threads)
    return out.read()


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("width", [32, 512, 544, 1600, 49_152])
def test_logits_are_capped_once(width: int, threads: int) -> None:
    values = random_rows(3, width) * np.float32(20)
    x = Floating(3, width, values)
    fields = {pw.X: x.address, pw.X_STRIDE: x.stride, pw.WIDTH: width, pw.EPS: float_field(30.0)}
    run_pass([("pointwise.rows:cap_logits", fields)], {ops.RUN_LOGIT_ROWS: 2}, threads)
    found = x.read()
    assert_same(found[:2], reference.softcap(values[:2], 30.0))
    assert_same(found[2], values[2])
