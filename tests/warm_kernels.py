"""Compiles all kernels before test processes start, each once and on all processors.

Processes that first need the same kernel at the same moment would each compile it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from miaotui.kernels.runtime import compiled

MODULES = (
    "attention.paged_attention",
    "attention.bidirectional",
    "linear.matmul",
    "sampling.draw",
    "pointwise.rows",
    "draft.suffix",
    "runtime.passes",
    "platform.reading",
)


def warm_kernels(processes: int) -> None:
    """Fill the cache of machine code, unless that was done. What fails here is left to the tests."""
    stamp = compiled.cache_folder() / "warm"
    if stamp.exists():
        return
    with tempfile.TemporaryDirectory() as claims:
        command = [sys.executable, __file__, claims]
        working = [subprocess.Popen(command) for _ in range(processes)]
        statuses = [process.wait() for process in working]
        if not any(statuses):
            stamp.touch()


def kernels() -> Iterator[str]:
    """The name of every kernel, the slow ones to compile first."""
    from miaotui.kernels.runtime.compiler import Kernel  # noqa: PLC0415  (imports Numba)

    for module in MODULES:
        for name, value in vars(importlib.import_module(f"miaotui.kernels.{module}")).items():
            if isinstance(value, Kernel):
                yield f"{module}:{name}"


def compile_unclaimed(claims: Path) -> None:
    """Compile what no other process has laid claim to by a file in ``claims``."""
    for kernel in kernels():
        try:
            (claims / kernel.replace(":", ".")).touch(exist_ok=False)
        except FileExistsError:
            continue
        compiled.address(kernel)


if __name__ == "__main__":
    compile_unclaimed(Path(sys.argv[1]))
