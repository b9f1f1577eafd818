"""Compiles the kernels of fast tests before test processes start, each once and on all processors.

Processes that first need the same kernel at the same moment would each compile it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.compile_workers import compile_all

MODULES = (
    "adapters.low_rank",
    "adapters.routes",
    "attention.paged_attention",
    "attention.bidirectional",
    "attention.slots",
    "linear.matmul",
    "sampling.draw",
    "sampling.tops",
    "pointwise.rows",
    "pointwise.streams",
    "draft.suffix",
    "runtime.passes",
    "platform.reading",
)
FORMATS = {"q4", "q4m", "q8", "f32"}


def warm_kernels(processes: int) -> None:
    """Fill the cache of machine code, unless that was done."""
    stamp = compiled.cache_folder() / "warm"
    if not stamp.exists():
        compile_all(list(kernels()), processes, lambda _name, _done: None)
        stamp.touch()


def kernels() -> Iterator[str]:
    """The name of every kernel in `MODULES` that fast tests need: of the formats, those of `FORMATS`."""
    from miaotui.kernels.linear.formats import Format  # noqa: PLC0415  (imports NumPy)
    from miaotui.kernels.runtime.compiler import Kernel  # noqa: PLC0415  (imports Numba)

    others = {form.value for form in Format} - FORMATS

    for module in MODULES:
        for name, value in vars(importlib.import_module(f"miaotui.kernels.{module}")).items():
            if isinstance(value, Kernel) and name.partition("_")[2] not in others:
                yield f"{module}:{name}"
