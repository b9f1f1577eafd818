"""Compiles all kernels before test processes start, each once and on all processors.

Processes that first need the same kernel at the same moment would each compile it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.compile_workers import compile_all

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
    """Fill the cache of machine code, unless that was done."""
    stamp = compiled.cache_folder() / "warm"
    if not stamp.exists():
        compile_all(list(kernels()), processes, lambda _name, _done: None)
        stamp.touch()


def kernels() -> Iterator[str]:
    """The name of every kernel in `MODULES`."""
    from miaotui.kernels.runtime.compiler import Kernel  # noqa: PLC0415  (imports Numba)

    for module in MODULES:
        for name, value in vars(importlib.import_module(f"miaotui.kernels.{module}")).items():
            if isinstance(value, Kernel):
                yield f"{module}:{name}"
