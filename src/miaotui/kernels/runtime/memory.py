"""Memory as compiled Python sees it: byte addresses, fields of 8 bytes, atomics, and calls through an address.

Tables that Python fills (operations, rows, pages) are int64 arrays. `peek(table, index)` reads a field. A float32
lies in the low half of its field.
"""

from __future__ import annotations

import sys
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from miaotui.kernels.runtime.simd import F32, I8, I32, I64, Emitter, Value, intrinsic

# Weights that pass through the caches without staying leave more of them to everything else. Measured on
# AMD's processors, where it costs nothing; others may keep such lines in one cache alone, and are asked
# for them as usual.
READ_ONCE = llvm.get_host_cpu_name().startswith("znver")


def _field(address: Value, index: Value) -> Value:
    return address + (index << 3)


def _peek(e: Emitter, address: Value, index: Value) -> Value:
    return e.load(_field(address, index), I64, 8)


def _peek_float(e: Emitter, address: Value, index: Value) -> Value:
    return e.load(_field(address, index), F32, 8)


def _poke(e: Emitter, address: Value, index: Value, value: Value) -> None:
    e.store(value, _field(address, index), 8)


def _load_float(e: Emitter, address: Value) -> Value:
    return e.load(address, F32, 4)


def _store_float(e: Emitter, address: Value, value: Value) -> None:
    e.store(value, address, 4)


def _load_byte(e: Emitter, address: Value) -> Value:
    return e.widen_unsigned(e.load(address, I8), I64)


def _store_int32(e: Emitter, address: Value, value: Value) -> None:
    e.store(e.narrow(value, I32), address, 4)


def _atomic_add(e: Emitter, address: Value, value: Value) -> Value:
    return e.wrap(e.builder.atomic_rmw("add", e.pointer(address, I64), value.ir, "seq_cst"))


def _atomic_load(e: Emitter, address: Value) -> Value:
    return e.wrap(e.builder.load_atomic(e.pointer(address, I64), "seq_cst", 8))


def _atomic_store(e: Emitter, address: Value, value: Value) -> None:
    e.builder.store_atomic(value.ir, e.pointer(address, I64), "seq_cst", 8)


def _pause(e: Emitter) -> None:
    """Execute the processor's hint for a spin loop."""
    triple = e.builder.module.triple
    if triple.startswith(("x86_64", "i686", "i386")):
        e.builder.call(e.declare("llvm.x86.sse2.pause", ir.VoidType(), []), [])
    elif triple.startswith(("aarch64", "arm64")):
        e.builder.call(e.declare("llvm.aarch64.hint", ir.VoidType(), [I32]), [I32(1)])


def _ask_for(e: Emitter, address: Value) -> None:
    e.prefetch(address)


def _ask_for_weights(e: Emitter, address: Value) -> None:
    e.prefetch(address, once=READ_ONCE)


def _ask_to_write(e: Emitter, address: Value) -> None:
    e.prefetch(address, write=True)


def _yield_core(e: Emitter) -> None:
    """Yield this core to another thread."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    e.builder.call(e.declare(name, I32, []), [])


def _doze(e: Emitter) -> None:
    """Sleep for a tenth of a millisecond, or the least that the system supports."""
    if sys.platform == "win32":
        e.builder.call(e.declare("Sleep", ir.VoidType(), [I32]), [I32(1)])
    else:
        e.builder.call(e.declare("usleep", I32, [I32]), [I32(100)])


def _call(e: Emitter, function: Value, op: Value, run: Value, member: Value) -> Value:
    kind = ir.FunctionType(I64, [I64] * 3)
    target = e.builder.inttoptr(function.ir, kind.as_pointer())
    return e.wrap(e.builder.call(target, [op.ir, run.ir, member.ir]))


peek: Any = intrinsic(_peek, "ii", "i")
peek_float: Any = intrinsic(_peek_float, "ii", "f")
poke: Any = intrinsic(_poke, "iii")
load_float: Any = intrinsic(_load_float, "i", "f")
store_float: Any = intrinsic(_store_float, "if")
load_byte: Any = intrinsic(_load_byte, "i", "i")
store_int32: Any = intrinsic(_store_int32, "ii")
atomic_add: Any = intrinsic(_atomic_add, "ii", "i")
atomic_load: Any = intrinsic(_atomic_load, "i", "i")
atomic_store: Any = intrinsic(_atomic_store, "ii")
ask_for: Any = intrinsic(_ask_for, "i")
ask_to_write: Any = intrinsic(_ask_to_write, "i")
ask_for_weights: Any = intrinsic(_ask_for_weights, "i")
pause: Any = intrinsic(_pause, "")
yield_core: Any = intrinsic(_yield_core, "")
doze: Any = intrinsic(_doze, "")
call: Any = intrinsic(_call, "iiii", "i")
