"""Vocabulary of the kernels: vector operations with one meaning each, emitted as LLVM IR.

A kernel is a Python function that receives an `Emitter` and values, and *describes* arithmetic: a Python ``for``
unrolls, `Emitter.loop` loops at run time. Vectors have 16 lanes on every processor; LLVM splits them into its
registers. Only the 8-bit dot product needs help, which `linear.dots` gives. Knows nothing of Numba except for
`intrinsic`, the bridge that makes an emitted function callable from compiled Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from llvmlite import ir

LANES = 16

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
F32X = ir.VectorType(F32, LANES)
I32X = ir.VectorType(I32, LANES)
I8X = ir.VectorType(I8, LANES)


class Value:
    """LLVM value with arithmetic operators: integers and floats, scalars and vectors alike."""

    __slots__ = ("emitter", "ir")

    def __init__(self, emitter: Emitter, value: Any) -> None:
        self.emitter = emitter
        self.ir = value

    @property
    def type(self) -> Any:
        """Return the LLVM type."""
        return self.ir.type

    @property
    def is_float(self) -> bool:
        """Return whether the lanes are floating point."""
        return isinstance(element(self.ir.type), (ir.FloatType, ir.HalfType, ir.DoubleType))

    def _other(self, other: Value | int | float) -> Any:
        return other.ir if isinstance(other, Value) else constant(self.ir.type, other)

    def _binary(self, name: str, other: Value | int | float) -> Value:
        function = getattr(self.emitter.builder, ("f" if self.is_float else "") + name)
        return Value(self.emitter, function(self.ir, self._other(other)))

    def __add__(self, other: Value | int | float) -> Value:
        return self._binary("add", other)

    def __sub__(self, other: Value | int | float) -> Value:
        return self._binary("sub", other)

    def __mul__(self, other: Value | int | float) -> Value:
        return self._binary("mul", other)

    def __truediv__(self, other: Value | int | float) -> Value:
        return self._binary("div", other)

    def __and__(self, other: Value | int) -> Value:
        return Value(self.emitter, self.emitter.builder.and_(self.ir, self._other(other)))

    def __or__(self, other: Value | int) -> Value:
        return Value(self.emitter, self.emitter.builder.or_(self.ir, self._other(other)))

    def __xor__(self, other: Value | int) -> Value:
        return Value(self.emitter, self.emitter.builder.xor(self.ir, self._other(other)))

    def __rshift__(self, count: int) -> Value:
        """Shift right logically (zeros come in)."""
        return Value(self.emitter, self.emitter.builder.lshr(self.ir, self._other(count)))

    def __lshift__(self, count: int) -> Value:
        return Value(self.emitter, self.emitter.builder.shl(self.ir, self._other(count)))


def element(type_: Any) -> Any:
    """Return the lane type of a vector type, or a scalar type itself."""
    return type_.element if isinstance(type_, ir.VectorType) else type_


def constant(type_: Any, value: int | float) -> Any:
    """Make a constant of any type; vectors repeat it."""
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [value] * type_.count)
    return ir.Constant(type_, value)


class Emitter:
    """Emitter of vector operations into one LLVM function. ``dot`` is the lowering of the 8-bit dot product."""

    def __init__(self, builder: Any, dot: Any, has_half: bool) -> None:
        self.builder = builder
        self.dot = dot(self)
        self.has_half = has_half  # whether the processor converts float16 itself

    def wrap(self, value: Any) -> Value:
        """Wrap a plain LLVM value as a `Value`."""
        return Value(self, value)

    def const(self, type_: Any, value: int | float) -> Value:
        """Make a constant; vectors repeat it."""
        return Value(self, constant(type_, value))

    # memory -------------------------------------------------------------------------------------------------------

    def pointer(self, address: Value, type_: Any) -> Any:
        """Convert a byte address to a typed LLVM pointer."""
        return self.builder.inttoptr(address.ir, type_.as_pointer())

    def load(self, address: Value, type_: Any, align: int = 1) -> Value:
        """Load a scalar or vector from a byte address."""
        loaded = self.builder.load(self.pointer(address, type_), typ=type_)
        loaded.align = align
        return Value(self, loaded)

    def store(self, value: Value, address: Value, align: int = 1) -> None:
        """Store a scalar or vector at a byte address."""
        self.builder.store(value.ir, self.pointer(address, value.type)).align = align

    def load_half(self, address: Value, count: int = LANES) -> Value:
        """Load ``count`` float16 values, widened to float32."""
        half = self.load(address, ir.VectorType(F16, count), 2)
        if not self.has_half:
            return widen_half(self, half)
        return Value(self, self.builder.fpext(half.ir, ir.VectorType(F32, count)))

    def load_splat(self, address: Value, type_: Any) -> Value:
        """Load one scalar into all 16 lanes."""
        return self.splat(self.load(address, type_, 1))

    def prefetch(self, address: Value, once: bool = False, write: bool = False) -> None:
        """Prefetch a cache line for reading (or writing). ``once``: it need not stay in the caches."""
        function = self.declare("llvm.prefetch.p0", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        arguments = [self.pointer(address, I8), I32(int(write)), I32(0 if once else 3), I32(1)]
        self.builder.call(function, arguments)

    # lanes --------------------------------------------------------------------------------------------------------

    def splat(self, scalar: Value, lanes: int = LANES) -> Value:
        """Repeat a scalar in every lane."""
        type_ = ir.VectorType(scalar.type, lanes)
        undefined = ir.Constant(type_, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar.ir, I32(0))
        order = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return Value(self, self.builder.shuffle_vector(one, undefined, order))

    def lane(self, vector: Value, index: int) -> Value:
        """Extract one lane as a scalar."""
        return Value(self, self.builder.extract_element(vector.ir, I32(index)))

    def shuffle(self, vector: Value, order: Sequence[int]) -> Value:
        """Pick lanes by number."""
        picks = ir.Constant(ir.VectorType(I32, len(order)), list(order))
        undefined = ir.Constant(vector.type, ir.Undefined)
        return Value(self, self.builder.shuffle_vector(vector.ir, undefined, picks))

    def join(self, low: Value, high: Value) -> Value:
        """Join two vectors end to end."""
        lanes = 2 * low.type.count
        order = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        return Value(self, self.builder.shuffle_vector(low.ir, high.ir, order))

    def split(self, vector: Value, parts: int) -> list[Value]:
        """Cut a vector into equal parts."""
        size = vector.type.count // parts
        return [self.shuffle(vector, range(i * size, (i + 1) * size)) for i in range(parts)]

    def concat(self, parts: Sequence[Value]) -> Value:
        """Join vectors end to end; their number is a power of two."""
        row = list(parts)
        while len(row) > 1:
            row = [self.join(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        return row[0]

    def reduce(self, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """Combine all lanes by halving: in the same order on every processor."""
        lanes = vector.type.count
        while lanes > 1:
            lanes //= 2
            vector = combine(self.shuffle(vector, range(lanes)), self.shuffle(vector, range(lanes, 2 * lanes)))
        return self.lane(vector, 0)

    def lane_numbers(self) -> Value:
        """Make the vector 0, 1, ... 15."""
        return Value(self, ir.Constant(I32X, list(range(LANES))))

    # arithmetic ---------------------------------------------------------------------------------------------------

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Compute ``a * b + c``, rounded once."""
        name = "llvm.fma." + suffix(a.type)
        return Value(self, self.builder.call(self.declare(name, a.type, [a.type] * 3), [a.ir, b.ir, c.ir]))

    def unary(self, name: str, a: Value) -> Value:
        """Call an LLVM intrinsic of one operand: fabs, rint, sqrt."""
        function = self.declare(f"llvm.{name}.{suffix(a.type)}", a.type, [a.type])
        return Value(self, self.builder.call(function, [a.ir]))

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        """Select lane by lane: ``yes`` where the condition holds."""
        return Value(self, self.builder.select(condition.ir, yes.ir, no.ir))

    def compare(self, relation: str, a: Value, b: Value) -> Value:
        """Compare by ``< <= == != >= >``: ordered for floats, signed for integers."""
        function = self.builder.fcmp_ordered if a.is_float else self.builder.icmp_signed
        return Value(self, function(relation, a.ir, b.ir))

    def maximum(self, a: Value, b: Value) -> Value:
        """Take the larger value, lane by lane."""
        return self.select(self.compare(">", a, b), a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """Take the smaller value, lane by lane."""
        return self.select(self.compare("<", a, b), a, b)

    def to_float(self, a: Value) -> Value:
        """Convert signed integers to float32."""
        return Value(self, self.builder.sitofp(a.ir, like(a.type, F32)))

    def to_int(self, a: Value) -> Value:
        """Convert float32 to int32, towards zero."""
        return Value(self, self.builder.fptosi(a.ir, like(a.type, I32)))

    def widen(self, a: Value, type_: Any) -> Value:
        """Sign-extend the lanes."""
        return Value(self, self.builder.sext(a.ir, like(a.type, type_)))

    def widen_unsigned(self, a: Value, type_: Any) -> Value:
        """Zero-extend the lanes."""
        return Value(self, self.builder.zext(a.ir, like(a.type, type_)))

    def narrow(self, a: Value, type_: Any) -> Value:
        """Keep the low bits of integers, or round float32 to float16."""
        function = self.builder.fptrunc if a.is_float else self.builder.trunc
        return Value(self, function(a.ir, like(a.type, type_)))

    def bits(self, a: Value, type_: Any) -> Value:
        """Reinterpret the bits as another type."""
        return Value(self, self.builder.bitcast(a.ir, type_))

    # control ------------------------------------------------------------------------------------------------------

    def loop(
        self, count: Value, carried: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """Emit ``for i in range(count): carried = body(i, carried)``; ``count`` may be 0.

        Returns the last ``carried``.
        """
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(n) for n in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(I64(0), before)
        phis = [builder.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value.ir, before)
        builder.cbranch(builder.icmp_signed("<", index, count.ir), inside, after)
        builder.position_at_end(inside)
        results = body(Value(self, index), [Value(self, phi) for phi in phis])
        index.add_incoming(builder.add(index, I64(1)), builder.block)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value.ir, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return [Value(self, phi) for phi in phis]

    def when(self, condition: Value, then: Callable[[], None]) -> None:
        """Run ``then`` only if the scalar condition holds; it may store, but yields no value."""
        with self.builder.if_then(condition.ir):
            then()

    def declare(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        """Declare an external function or LLVM intrinsic once per module."""
        module = self.builder.module
        known = module.globals.get(name)
        return known or ir.Function(module, ir.FunctionType(result, list(arguments)), name)


def widen_half(e: Emitter, half: Value) -> Value:
    """Convert float16 to float32 where no instruction does it. Exact, but infinities become large numbers."""
    bits = e.widen_unsigned(e.bits(half, like(half.type, I16)), I32)
    magnitude = e.bits((bits & 0x7FFF) << 13, like(half.type, F32)) * 2.0**112
    sign = (bits & 0x8000) << 16
    return e.bits(e.bits(magnitude, bits.type) | sign, magnitude.type)


def stack_floats(e: Emitter, floats: int) -> Value:
    """Reserve stack memory of the enclosing function, once at its entry. Returns its address."""
    with e.builder.goto_entry_block():
        slot = e.builder.alloca(ir.ArrayType(F32, floats))
        slot.align = 64
    return e.wrap(e.builder.ptrtoint(slot, I64))


def suffix(type_: Any) -> str:
    """Return LLVM's suffix for an overloaded intrinsic: ``f32``, ``v16f32``, ``v16i32``."""
    lane = element(type_)
    name = {"float": "f32", "double": "f64", "half": "f16"}.get(str(lane), str(lane))
    return f"v{type_.count}{name}" if isinstance(type_, ir.VectorType) else name


def like(type_: Any, lane: Any) -> Any:
    """Return the same shape with another lane type."""
    return ir.VectorType(lane, type_.count) if isinstance(type_, ir.VectorType) else lane


Emit = Callable[..., "Value | None"]
E = TypeVar("E", bound=Emit)


def intrinsic(emit: Emit, arguments: str, result: str = "void") -> Any:
    """Make an emitted function callable from compiled Python.

    ``emit(emitter, *values)`` describes it. ``arguments`` and ``result`` spell its signature with
    one letter each: ``i`` an int64 (or byte address), ``f`` a float32; ``result`` is ``i``, ``f``
    or ``void``.
    """
    from numba import types  # noqa: PLC0415  (heavy: only where kernels are compiled)
    from numba.extending import intrinsic as numba_intrinsic  # noqa: PLC0415  (imports the compiler)

    from miaotui.kernels.linear.dots import host_lowering  # noqa: PLC0415  (it imports this module)

    kinds = {"i": types.int64, "f": types.float32, "void": types.void}
    signature = kinds[result](*[kinds[letter] for letter in arguments])

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        emitter = Emitter(builder, *host_lowering())
        returned = emit(emitter, *[emitter.wrap(value) for value in values])
        return context.get_dummy_value() if returned is None else returned.ir

    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    namespace: dict[str, Any] = {"signature": signature, "generate": generate}
    source = f"def {emit.__name__}(typingctx, {names}):\n    return signature, generate\n"
    exec(source, namespace)  # noqa: S102  (Numba wants a function with exactly these parameters)
    return numba_intrinsic(namespace[emit.__name__])
