"""The inner loops of products: every tiling that runs here gives the reference's bits."""

from __future__ import annotations

import numpy as np
import pytest
from emitted import compiled_here, lowerings_here
from kernel_pass import Floating, Quantized, assert_same, group_counts, packed, random_blocks

from miaotui.kernels import reference
from miaotui.kernels.linear.formats import Format, tile_stride
from miaotui.kernels.linear.packed_blocks import values
from miaotui.kernels.linear.tiles import TILINGS, emit_unit
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime.thread_pool import address_of

GROUPS = 5
WIDE_FORMATS = (Format.Q4, Format.Q4M, Format.Q8)
TARGETS = lowerings_here()
BETWEEN = (Format.Q4, Format.Q6_K)  # with other numbers of rows than one and the most, where lowerings differ
LESSER = {isa.value for isa in probe().isas[1:]}  # their kernels are tested as a whole, too
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in LESSER else []) for n in TARGETS]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_32_outputs(name: str) -> None:
    tiling = TILINGS[TARGETS[name].isa]
    shapes = {
        f"{f.value}_{n}_{wide}": (f, n, wide)
        for f in Format
        for n in {1, tiling.most} | ({3} if f in BETWEEN and tiling.most > 3 else set())
        for wide in ((False, True) if f in WIDE_FORMATS else (False,))
    }
    emitters = {
        label: (emit_unit(form, rows, tiling, wide=wide), "i" * 9) for label, (form, rows, wide) in shapes.items()
    }
    functions = compiled_here(emitters, TARGETS[name])
    for label, (form, rows, wide) in shapes.items():
        rng = np.random.default_rng(rows)
        groups = group_counts(form, GROUPS)
        width = 32 * groups
        blocks = random_blocks(form, 32, width, rng)
        x = rng.standard_normal((rows, width), np.float32)
        weights, out = packed(blocks), Floating(rows, 32)
        activations = reference.quantize_wide(x) if wide else reference.quantize(x)
        source = Quantized(rows, width, activations, wide)
        inputs = Floating(rows, width, x) if form is Format.F32 else source.integers
        functions[label](
            address_of(weights),
            tile_stride(form, width),
            groups,
            inputs.address,
            inputs.stride,
            source.headers.address,
            source.headers.stride,
            out.address,
            out.stride,
        )
        expected = (
            reference.linear_f32(values(blocks), x) if form is Format.F32 else reference.linear(blocks, activations)
        )
        assert_same(out.read(), expected)
