"""Emitters compiled on their own, without Numba: C functions of int64 and float arguments.

`module_of` writes the LLVM module, for any processor; `compiled_here` makes its functions callable
on this one. A signature has one letter per argument, as in `miaotui.kernels.runtime.simd.intrinsic`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from miaotui.kernels.linear.dots import LOWERINGS, Dot
from miaotui.kernels.platform.cpu import Isa, llvm_cpu_name, probe
from miaotui.kernels.runtime.simd import F32, I64, Emitter

Emit = Callable[..., Any]
_LLVM = {"i": I64, "f": F32}
_C: Mapping[str, Any] = {"i": ctypes.c_int64, "f": ctypes.c_float}
_alive: list[Any] = []  # engines own the code


@dataclass(frozen=True)
class Target:
    """What to compile for. An empty triple is this system, an empty ``cpu`` all this one has."""

    isa: Isa
    triple: str = ""
    cpu: str = ""

    @property
    def dot(self) -> type[Dot]:
        """The lowering of the 8-bit dot product."""
        return LOWERINGS[self.isa]

    @property
    def has_half(self) -> bool:
        """Whether the processor converts float16 itself."""
        return self.isa is not Isa.PLAIN

    def machine(self, jit: bool = False) -> Any:
        """LLVM's code generator."""
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        triple = self.triple or llvm.get_process_triple()
        cpu, features = self.cpu, ""
        if not cpu:
            cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        return llvm.Target.from_triple(triple).create_target_machine(
            cpu=cpu, features=features, opt=2, reloc="pic", jit=jit
        )


def lowerings_here() -> dict[str, Target]:
    """A target for every lowering that this processor can execute, with that one's instructions."""
    isas = probe().isas
    targets = {isa.value: Target(isa, cpu=llvm_cpu_name(isa) or "") for isa in isas}
    if Isa.AVX512_VNNI in isas:  # the same instruction on 256 bits, in another encoding
        targets[Isa.AVX_VNNI.value] = Target(Isa.AVX_VNNI)
    return targets


def module_of(functions: Mapping[str, tuple[Emit, str]], target: Target) -> str:
    """LLVM assembly of a module with one function for each ``name: (emit, signature)``."""
    module = ir.Module()
    module.triple = target.triple or llvm.get_process_triple()
    for name, (emit, letters) in functions.items():
        kind = ir.FunctionType(ir.VoidType(), [_LLVM[letter] for letter in letters])
        function = ir.Function(module, kind, name)
        builder = ir.IRBuilder(function.append_basic_block())
        emitter = Emitter(builder, target.dot, target.has_half)
        emit(emitter, *[emitter.wrap(value) for value in function.args])
        builder.ret_void()
    return str(module)


def optimized(functions: Mapping[str, tuple[Emit, str]], target: Target, machine: Any) -> Any:
    """The parsed module after LLVM's pipeline, as the package's own compiler runs it."""
    module = llvm.parse_assembly(module_of(functions, target))
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    return module


def object_code(functions: Mapping[str, tuple[Emit, str]], target: Target) -> bytes:
    """An object file of the functions."""
    machine = target.machine()
    return bytes(machine.emit_object(optimized(functions, target, machine)))


def assembly(functions: Mapping[str, tuple[Emit, str]], target: Target) -> str:
    """The functions in the processor's assembly language."""
    machine = target.machine()
    return str(machine.emit_assembly(optimized(functions, target, machine)))


def compiled_here(functions: Mapping[str, tuple[Emit, str]], target: Target) -> dict[str, Callable[..., None]]:
    """The functions as callables, by name; float32 arrays go in by address."""
    machine = target.machine(jit=True)
    engine = llvm.create_mcjit_compiler(optimized(functions, target, machine), machine)
    engine.finalize_object()
    _alive.append(engine)
    return {
        name: ctypes.CFUNCTYPE(None, *(_C[letter] for letter in letters))(engine.get_function_address(name))
        for name, (_, letters) in functions.items()
    }


def linked(code: bytes, symbol: str) -> int:
    """The address of a function in an object file; the code stays loaded."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), Target(probe().isa).machine(True))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _alive.append(engine)
    return int(engine.get_function_address(symbol))
