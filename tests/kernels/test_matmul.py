"""Matrix products: bit for bit what the reference says, whatever rows and threads there are."""

from __future__ import annotations

import functools
from dataclasses import dataclass

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
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import Format, padded_rows, tile_stride
from miaotui.kernels.linear.packed_blocks import Blocks, values
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.reference import Bytes
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 37)
MOST = max(ROWS)
SHAPES = ((32, 32), (33, 96), (80, 160), (288, 224))  # outputs, inputs
WIDE_FORMATS = (Format.Q4, Format.Q4M, Format.Q8)
FORMATS = (*WIDE_FORMATS, Format.F32)
OTHERS = tuple(form for form in Format if form not in FORMATS)


@dataclass(frozen=True)
class Case:
    """A matrix, inputs for the most rows, and their product."""

    blocks: Blocks
    weights: NDArray[np.uint8]
    inputs: NDArray[np.float32]
    source: Floating | Quantized
    product: NDArray[np.float32]  # [MOST, padded outputs]
    wide: bool = False  # inputs are int16

    def fields(self) -> dict[int, int]:
        """What every mode needs."""
        width = self.inputs.shape[1]
        form = self.blocks.format
        x = self.source if isinstance(self.source, Floating) else self.source.integers
        fields = {
            lin.WEIGHTS: address_of(self.weights),
            lin.TILE_STRIDE: tile_stride(form, width),
            lin.GROUPS: width // 32,
            lin.UNITS: padded_rows(len(self.blocks.integers)) // 32,
            lin.X: x.address,
            lin.X_STRIDE: x.stride,
        }
        if isinstance(self.source, Quantized):
            headers = self.source.headers
            fields |= {lin.HEADERS: headers.address, lin.HEADER_STRIDE: headers.stride}
        return fields

    @property
    def kernel(self) -> str:
        return f"linear.matmul:linear_{self.blocks.format.value}{'_wide' if self.wide else ''}"

    def run(self, rows: int, threads: int, fields: dict[int, int]) -> None:
        operation = {**self.fields(), ops.ROWS: ops.RUN_ROWS, **fields}
        run_pass([(self.kernel, operation)], {ops.RUN_ROWS: rows}, threads)


def case_of(blocks: Blocks, inputs: NDArray[np.float32], wide: bool = False) -> Case:
    rows, width = inputs.shape
    missing = padded_rows(len(blocks.integers)) - len(blocks.integers)
    if blocks.format is Format.F32:
        product = reference.linear_f32(values(blocks), inputs)
        source: Floating | Quantized = Floating(rows, width, inputs)
    else:
        activations = reference.quantize_wide(inputs) if wide else reference.quantize(inputs)
        product = reference.linear(blocks, activations)
        source = Quantized(rows, width, activations, wide)
    return Case(blocks, packed(blocks), inputs, source, np.pad(product, [(0, 0), (0, missing)]), wide)


@functools.cache
def case(form: Format, outputs: int, inputs: int, wide: bool = False) -> Case:
    rng = np.random.default_rng([outputs, inputs])
    x = rng.standard_normal((MOST, inputs), np.float32)
    x[:, 32:48] *= 100  # an outlier, and below a group of zeros
    x[MOST // 2, :32] = 0
    return case_of(random_blocks(form, outputs, inputs, rng), x, wide)


def check_store(tested: Case, rows: int, threads: int = 1) -> None:
    out = Floating(MOST, tested.product.shape[1])
    store = {lin.MODE: lin.STORE, lin.OUT: out.address, lin.OUT_STRIDE: out.stride}
    tested.run(rows, threads, store)
    assert_same(out.read(rows), tested.product[:rows])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
def test_a_row_is_the_same_among_any_number_of_rows(form: Format, shape: tuple[int, int], rows: int) -> None:
    check_store(case(form, *shape), rows)


@pytest.mark.slow
@pytest.mark.parametrize("form", OTHERS, ids=lambda form: form.value)
def test_rows_of_other_formats_are_the_same_for_any_number_of_rows_and_threads(form: Format) -> None:
    tested = case(form, 288, 32 * group_counts(form, 7))
    for rows in ROWS:
        for threads in (1, 3):
            check_store(tested, rows, threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("form", WIDE_FORMATS, ids=lambda form: form.value)
def test_products_of_wide_inputs(form: Format, threads: int) -> None:
    for rows in ROWS:
        check_store(case(form, 288, 224, wide=True), rows, threads)


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
def test_a_row_is_the_same_for_any_number_of_threads(form: Format, threads: int) -> None:
    for rows in (1, 4, MOST):
        check_store(case(form, 288, 224), rows, threads)


@pytest.mark.parametrize("form", list(Format), ids=lambda form: form.value)
@pytest.mark.parametrize("outputs", [1, 31, 300])
def test_the_reference_is_a_matrix_product(form: Format, outputs: int) -> None:
    rng, width = np.random.default_rng(outputs), 32 * group_counts(form, 3)
    tested = case_of(random_blocks(form, outputs, width, rng), rng.standard_normal((5, width), np.float32))
    x = tested.inputs.astype(np.float64)
    if form is not Format.F32:
        activations = reference.quantize(tested.inputs)
        x = (activations.integers * activations.scales[..., None].astype(np.float64)).reshape(5, -1)
    weights = values(tested.blocks).astype(np.float64)
    slack = 2e-6 * (np.abs(x) @ np.abs(weights).T) + 1e-30
    assert (np.abs(tested.product[:, :outputs] - x @ weights.T) <= slack).all()


@pytest.mark.parametrize("form", WIDE_FORMATS, ids=lambda form: form.value)
@pytest.mark.parametrize("pattern", ["least", "most", "alternating"])
def test_sums_of_the_largest_integers_are_exact(form: Format, pattern: str) -> None:
    """Where 16-bit partial sums would overflow if they could."""
    most = 255 if form is Format.Q8 else 15
    chosen = {"least": [0, 0], "most": [most, most], "alternating": [0, most]}[pattern]
    integers = np.tile(np.array(chosen, np.uint8), (64, 3, 16))
    ones = np.ones((64, 3), np.float16)
    blocks = Blocks(form, integers, ones, ones if form is Format.Q4M else None)
    x = np.ones((4, 96), np.float32)
    x[1] = -1
    x[2, ::2] = -1
    x[3, 1::2] = -1
    for rows in (1, 4):
        for wide in (False, True):
            check_store(case_of(blocks, x, wide), rows)


@pytest.mark.parametrize("rows", [1, 6, 13])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
def test_adding_to_a_residual_stream(form: Format, biased: bool, rows: int) -> None:
    tested = case(form, 80, 160)
    outputs = tested.product.shape[1]
    rng = np.random.default_rng(1)
    before = rng.standard_normal((rows, outputs), np.float32)
    bias = bias_of(outputs) if biased else None
    out = Floating(rows, outputs, before)
    fields = {lin.MODE: lin.ADD, lin.OUT: out.address, lin.OUT_STRIDE: out.stride}
    tested.run(rows, 2, fields | {lin.BIAS: 0 if bias is None else address_of(bias)})
    expected = before + tested.product[:rows]
    assert_same(out.read(), expected if bias is None else expected + bias)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
def test_storing_with_a_bias(form: Format) -> None:
    tested = case(form, 80, 160)
    outputs = tested.product.shape[1]
    bias, out = bias_of(outputs), Floating(MOST, outputs)
    fields = {lin.MODE: lin.STORE, lin.OUT: out.address, lin.OUT_STRIDE: out.stride}
    tested.run(MOST, 2, fields | {lin.BIAS: address_of(bias)})
    assert_same(out.read(), tested.product + bias)


def bias_of(outputs: int) -> NDArray[np.float32]:
    bias = aligned_bytes(4 * outputs).view(np.float32)
    bias[:] = np.random.default_rng(2).standard_normal(outputs, np.float32)
    return bias


GATED = {lin.GATED_SILU: reference.silu, lin.GATED_GELU: reference.gelu_tanh, lin.GATED_GELU_ERF: reference.gelu}
ACTIVATED = {
    lin.SILU: reference.silu,
    lin.GELU: reference.gelu_tanh,
    lin.GELU_ERF: reference.gelu,
    lin.RELU: reference.relu,
    lin.TANH: reference.tanh,
}


def check_quantized(tested: Case, rows: int, units: int, fields: dict[int, int], expected: Bytes) -> None:
    """A product's outputs, 32 of each unit, are quantized for the next product; or stay float32 where that wants it."""
    for threads in (1, 3):
        out, floats = Quantized(rows, 32 * units), Floating(rows, 32 * units)
        quantized = {
            lin.UNITS: units,
            lin.OUT: out.integers.address,
            lin.OUT_STRIDE: out.integers.stride,
            lin.OUT_HEADERS: out.headers.address,
            lin.OUT_HEADER_STRIDE: out.headers.stride,
        }
        tested.run(rows, threads, fields | quantized)
        assert_same_bytes(out.read(rows), expected)
        tested.run(rows, threads, fields | {lin.UNITS: units, lin.OUT: floats.address, lin.OUT_STRIDE: floats.stride})
        assert_same_bytes(reference.quantize(floats.read(rows)), expected)


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 37])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
@pytest.mark.parametrize("mode", GATED, ids=["silu", "gelu_tanh", "gelu"])
def test_gated_products_are_quantized_for_the_next(form: Format, mode: int, rows: int) -> None:
    """Per unit 32 gate rows, then 32 up rows."""
    tested = case(form, 256, 96)
    bias = bias_of(256)
    for biased in (False, True):
        product = tested.product[:rows] + bias if biased else tested.product[:rows]
        units = product.reshape(rows, -1, 2, 32)
        gate, up = (units[:, :, part].reshape(rows, -1) for part in range(2))
        fields = {lin.MODE: mode, lin.BIAS: address_of(bias) if biased else 0}
        check_quantized(tested, rows, gate.shape[1] // 32, fields, reference.gated(gate, up, GATED[mode]))


@pytest.mark.parametrize("rows", [1, 6, 37])
@pytest.mark.parametrize("form", [Format.Q8, Format.F32], ids=lambda form: form.value)
@pytest.mark.parametrize("mode", ACTIVATED, ids=["silu", "gelu_tanh", "gelu", "relu", "tanh"])
def test_activated_products_are_quantized_for_the_next(form: Format, mode: int, rows: int) -> None:
    tested = case(form, 256, 96)
    bias = bias_of(256)
    fields = {lin.MODE: mode, lin.BIAS: address_of(bias)}
    expected = reference.quantize(ACTIVATED[mode](tested.product[:rows] + bias))
    check_quantized(tested, rows, 8, fields, expected)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("form", [Format.Q8, Format.F32], ids=lambda form: form.value)
def test_many_rows_of_few_units_are_cut_for_the_threads(form: Format, threads: int) -> None:
    rows = 301
    tested = case_of(random_blocks(form, 64, 32, np.random.default_rng(4)), many_inputs(rows))
    out = Floating(rows, 64)
    tested.run(rows, threads, {lin.MODE: lin.STORE, lin.OUT: out.address, lin.OUT_STRIDE: out.stride})
    assert_same(out.read(), tested.product)


def many_inputs(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows).standard_normal((rows, 32), np.float32)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 5, 6, 13])
@pytest.mark.parametrize("form", WIDE_FORMATS, ids=lambda form: form.value)
def test_few_inputs_stay_with_the_thread_that_made_them(form: Format, rows: int, threads: int) -> None:
    """Up to five rows: then nothing of them reaches the memory that threads share."""
    tested, own_rows = case(form, 288, 224), 5
    width, outputs = tested.inputs.shape[1], tested.product.shape[1]
    x, shared, out = (Floating(MOST, width, tested.inputs), Quantized(MOST, width), Floating(MOST, outputs))
    own = {pw.OWN_ROWS: own_rows, pw.OWN_HEADERS_AT: own_rows * shared.integers.stride}
    quantize = {
        ops.ROWS: ops.RUN_ROWS,
        pw.KIND: pw.PLAIN,
        pw.X: x.address,
        pw.X_STRIDE: x.stride,
        pw.WIDTH: width,
        pw.OUT: shared.integers.address,
        pw.OUT_STRIDE: shared.integers.stride,
        pw.OUT_HEADERS: shared.headers.address,
        pw.OUT_HEADER_STRIDE: shared.headers.stride,
        **own,
    }
    product = {
        **tested.fields(),
        ops.ROWS: ops.RUN_ROWS,
        lin.MODE: lin.STORE,
        lin.X: shared.integers.address,
        lin.X_STRIDE: shared.integers.stride,
        lin.HEADERS: shared.headers.address,
        lin.HEADER_STRIDE: shared.headers.stride,
        lin.OUT: out.address,
        lin.OUT_STRIDE: out.stride,
        lin.OWN_ROWS: own_rows,
        lin.OWN_HEADERS_AT: own[pw.OWN_HEADERS_AT],
    }
    run_pass([("pointwise.rows:norm", quantize), (tested.kernel, product)], {ops.RUN_ROWS: rows}, threads)
    assert_same(out.read(rows), tested.product[:rows])
    for buffer in (shared.integers, shared.headers):
        buffer.check(0 if rows <= own_rows else rows)
