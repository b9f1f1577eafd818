"""Compiled Python: the decorators for kernels and their helpers, and the cache that makes a second start instant.

`jit` marks a helper that other compiled code calls; `kernel` marks an entry point with an address. Compiled code is kept in
a folder named by a digest of every kernel source, the compiler's version and the instruction set, since Numba's own cache
does not see a change in another module. A kernel compiles when its address is first asked for, so importing is cheap.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding

from miaotui.config import Settings
from miaotui.kernels.cpu import llvm_cpu_name, probe

_forced = llvm_cpu_name(probe().isa)
if _forced is not None:
    os.environ["NUMBA_CPU_NAME"] = _forced

import numba  # noqa: E402  (reads the processor's name from the environment when imported)
from numba.core import config as numba_config  # noqa: E402

if _forced is not None:
    numba_config.CPU_NAME, numba_config.CPU_FEATURES = _forced, ""

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}


@functools.cache
def cache_folder() -> Path:
    """The folder of this build's compiled code; another source, compiler or processor means another folder."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    target = (numba.__version__, llvmlite.__version__, numba_config.CPU_NAME, probe().isa.value)
    digest.update(repr((*target, llvmlite.binding.get_host_cpu_name())).encode())
    return Settings.from_env().folder("kernels") / digest.hexdigest()[:20]


@contextmanager
def _keyed_cache() -> Iterator[None]:
    """Numba reads its cache folder while decorating; other code's functions keep theirs."""
    saved = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = str(cache_folder())
    try:
        yield
    finally:
        numba_config.CACHE_DIR = saved


def jit(function: F) -> F:
    """Compile on first call; runs without the interpreter lock; cached on disk."""
    with _keyed_cache():
        return cast(F, numba.njit(function, nogil=True, cache=True, **_OPTIONS))


def inline(function: F) -> F:
    """A helper that is compiled into its callers, never alone."""
    return cast(F, numba.njit(function, nogil=True, **_OPTIONS))


class Kernel:
    """An entry point ``(int64, …) -> int64`` for other compiled code: it has an address, compiled on demand."""

    def __init__(self, function: Callable[..., int], arguments: int) -> None:
        self.name = function.__name__
        self.arguments = arguments
        self._function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def address(self) -> int:
        """Where the machine code is; compiles it, or loads it from the cache."""
        signature = numba.int64(*[numba.int64] * self.arguments)
        with _keyed_cache():
            compiled = numba.cfunc(signature, nopython=True, cache=True, **_OPTIONS)(self._function)
        return cast(int, compiled.address)

    @functools.cached_property
    def call(self) -> Callable[..., int]:
        """Call it from Python; the interpreter lock is released meanwhile."""
        import ctypes  # noqa: PLC0415

        kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * self.arguments)
        return cast(Callable[..., int], kind(self.address))


def kernel(arguments: int = 3) -> Callable[[Callable[..., int]], Kernel]:
    """Mark a function of int64 arguments as an entry point; by default ``(op, run, member)``."""
    return lambda function: Kernel(function, arguments)
