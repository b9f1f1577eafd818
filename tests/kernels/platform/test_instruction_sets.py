"""Every instruction set this processor has: the same tests pass, and the same bits come out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from miaotui.kernels.platform.cpu import ISA_VARIABLE, probe

HERE = Path(__file__).parents[1]
NUMERIC = ("attention", "bidirectional", "matmul", "pointwise")  # the others try every lowering where they are
ISAS = [isa.value for isa in probe().isas]
TIMEOUT_S = 1200  # a first run compiles every kernel


def run_with(isa: str, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, ISA_VARIABLE: isa},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("isa", [name for name in ISAS if name != probe().isa.value])
def test_the_kernels_pass_their_tests_with(isa: str) -> None:
    files = [str(HERE / f"test_{name}.py") for name in NUMERIC]
    out = run_with(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "not q4m", *files)
    assert " passed" in out
    assert "skipped" not in out


@pytest.mark.slow
def test_all_give_the_same_bits() -> None:
    outputs = {isa: run_with(isa, str(HERE / "fixed_operations.py")).splitlines() for isa in ISAS}
    first, *others = ISAS
    for isa, lines in outputs.items():
        assert lines[0] == isa
    assert len(outputs[first]) > 15
    for other in others:
        assert outputs[other][1:] == outputs[first][1:]
