"""Machine code by kernel name: loaded from the cache in milliseconds, or compiled once.

A kernel is named ``folder.module:function``. Its machine code lies in a folder named by a digest of all kernel
sources, the compiler's version and the processor. So a changed source means another folder, and stale code cannot
load. On a hit neither Numba nor the kernel's module is imported. Each file carries its own digest: a torn file is
compiled again, never run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from miaotui.config import Settings
from miaotui.kernels.platform.cpu import llvm_cpu_name, probe
from miaotui.types import Progress

_DIGEST_BYTES = 32
_lock = threading.RLock()
_addresses: dict[str, int] = {}
_engines: list[Any] = []  # keep the code alive


@functools.cache
def cache_folder() -> Path:
    """Return the folder of this build's machine code.

    Another source, compiler or processor means another folder.
    """
    digest = hashlib.sha256()
    kernels = Path(__file__).parents[1]
    for source in sorted(kernels.rglob("*.py")):
        digest.update(source.relative_to(kernels).as_posix().encode() + b"\0" + source.read_bytes())
    host = (llvm.get_host_cpu_name(), llvm_cpu_name(probe().isa), probe().isa.value)
    versions = (llvmlite.__version__, llvm.llvm_version_info, llvm.get_process_triple())
    digest.update(repr((host, versions, sorted(probe().features))).encode())
    return Settings.from_env().folder("kernels") / digest.hexdigest()[:20]


def address(name: str) -> int:
    """Return the address of kernel ``folder.module:function``. Compiles it if no cache holds it.

    Raises `UnsupportedCpuError` or `CacheError`, as the probe and the cache folder do.
    """
    with _lock:
        if name not in _addresses:
            _addresses[name] = _load(name)
        return _addresses[name]


def function(name: str, arguments: int, brief: bool = False) -> Callable[..., int]:
    """Return kernel ``name`` as a callable of int64 arguments. It releases the interpreter lock while it runs.

    A ``brief`` kernel keeps the lock: to get it back may take longer than the kernel itself.
    """
    make = ctypes.PYFUNCTYPE if brief else ctypes.CFUNCTYPE
    return make(ctypes.c_int64, *[ctypes.c_int64] * arguments)(address(name))


def prepare(names: Iterable[str], progress: Progress | None = None) -> None:
    """Load kernels, or compile them on several processors at once. ``progress`` is called while it compiles."""
    missing = [name for name in dict.fromkeys(names) if name not in _addresses]
    absent = [name for name in missing if not _file(name).exists()]
    if absent:
        _compile_absent(absent, progress)
    for name in missing:
        address(name)


def _compile_absent(names: list[str], progress: Progress | None) -> None:
    from miaotui.kernels.runtime.compile_workers import compile_all  # noqa: PLC0415  (only what is compiled anew)

    def started(name: str, done: int) -> None:
        if progress:
            progress(name, done, len(names))

    compile_all(names, probe().cores, started)
    started("", len(names))


def _load(name: str) -> int:
    path = _file(name)
    code = _read(path)
    if code is None:
        code = _compile(name)
        _write(path, code)
    return _link(name, code)


def _compile(name: str) -> bytes:
    from miaotui.kernels.runtime.compiler import compile_kernel  # noqa: PLC0415  (imports Numba)

    module, attribute = name.split(":")
    definition = getattr(importlib.import_module(f"miaotui.kernels.{module}"), attribute)
    return compile_kernel(definition, symbol(name))


def _link(name: str, code: bytes) -> int:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(symbol(name)))


def symbol(name: str) -> str:
    """Return the linker's name for a kernel."""
    return "miaotui_" + name.replace(":", "_").replace(".", "_")


def _file(name: str) -> Path:
    return cache_folder() / (name.replace(":", ".") + ".o")


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Store machine code if possible. Without a cache the next start compiles again."""
    import tempfile  # noqa: PLC0415  (only what is compiled anew is written)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
    except OSError:
        return
