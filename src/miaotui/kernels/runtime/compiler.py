"""From a Python function to an object file: Numba reads it, LLVM optimizes it.

Numba is only the front end. Its module is wrapped in a plain C function ``int64 name(int64, …)``, all else becomes
private, and LLVM's O3 pipeline inlines it. The object file needs nothing of Python when it runs.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from miaotui.kernels.platform.cpu import llvm_cpu_name, probe

_forced = llvm_cpu_name(probe().isa)
if _forced is not None:
    os.environ["NUMBA_CPU_NAME"] = _forced  # read when Numba is imported
    # Numba's own passes take most of the time where vectors are many instructions; O3 below follows in any case.
    os.environ.setdefault("NUMBA_OPT", "0")

import numba  # noqa: E402
from numba.core import registry  # noqa: E402

numba_compiler: Any = importlib.import_module("numba.core.compiler")
numba_config: Any = importlib.import_module("numba.core.config")

if _forced is not None:
    numba_config.CPU_NAME, numba_config.CPU_FEATURES = _forced, ""

I64 = ir.IntType(64)


class Kernel:
    """A Python function of int64 arguments that returns int64, for `compile_kernel`."""

    def __init__(self, source: Callable[..., int], arguments: int) -> None:
        self.source = source
        self.arguments = arguments


def kernel(arguments: int = 3) -> Callable[[Callable[..., int]], Kernel]:
    """Mark an entry point. By default its arguments are ``(op, run, member)``."""
    return lambda function: Kernel(function, arguments)


def inline(function: Any) -> Any:
    """Mark a function that is compiled into the kernels that call it."""
    return numba.njit(function, nogil=True, error_model="numpy", boundscheck=False)


def compile_kernel(definition: Kernel, name: str) -> bytes:
    """Compile ``definition`` to an object file that exports it as the C function ``name``."""
    flags = numba_compiler.Flags()
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    target = registry.cpu_target
    integers = (numba.int64,) * definition.arguments
    result = numba_compiler.compile_extra(
        target.typing_context, target.target_context, definition.source, integers, numba.int64, flags, {}
    )
    module = llvm.parse_assembly(result.library.get_llvm_str())
    _wrap(module, result.fndesc.mangled_name, name, definition.arguments)
    machine = target_machine()
    _optimize(module, machine)
    return bytes(machine.emit_object(module))


def target_machine() -> Any:
    """Return the code generator for this processor, or for the lesser one that was asked for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = "" if _forced else llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=_forced or llvm.get_host_cpu_name(), features=features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )


def _wrap(module: Any, inner: str, name: str, arguments: int) -> None:
    """Add ``int64 name(int64 …)``, which calls Numba's ``int32 inner(int64* result, i8** error, int64 …)``."""
    wrapper = ir.Module()
    pointer = ir.PointerType(ir.IntType(8))
    callee_type = ir.FunctionType(ir.IntType(32), [pointer, pointer, *[I64] * arguments])
    callee = ir.Function(wrapper, callee_type, inner)
    function = ir.Function(wrapper, ir.FunctionType(I64, [I64] * arguments), name)
    builder = ir.IRBuilder(function.append_basic_block())
    result, error = builder.alloca(I64), builder.alloca(I64)
    as_pointer = [builder.bitcast(slot, pointer) for slot in (result, error)]
    builder.call(callee, [*as_pointer, *function.args])
    builder.ret(builder.load(result))
    module.link_in(llvm.parse_assembly(str(wrapper)))
    for item in [*module.functions, *module.global_variables]:
        if not item.is_declaration and item.name != name:
            item.linkage = "internal"


def _optimize(module: Any, machine: Any) -> None:
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_unrolling = False  # the emitters unroll what pays
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
