"""The table of operations: what every matrix product in it has in common."""

from __future__ import annotations

from pathlib import Path

from miaotui.kernels.linear import fields as lin
from miaotui.kernels.runtime import compiled, ops
from tiny_engine import open_engine
from tiny_models import make_tiny_folder


def test_each_product_s_weights_are_asked_for_before_it(tmp_path: Path) -> None:
    make_tiny_folder(tmp_path, "mistral")
    engine = open_engine(tmp_path / "mistral-0", tmp_path)
    program = engine.backend.runner.program
    products = {compiled.address(name): name for name in program.kernels if name.startswith("linear.matmul:")}
    table = program.table
    asked = {int(row[ops.AHEAD]) for row in table if row[ops.AHEAD]}
    weights = {int(row[lin.WEIGHTS]) for row in table if int(row[ops.FUNCTION]) in products}
    assert weights
    assert weights == asked
