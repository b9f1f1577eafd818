"""Reads ONNX files over a memory map: graph, initializers and attributes, as data; nothing in the file is executed.

Owns the messages of ``onnx.proto`` that a graph needs, and their bounds. Knows no architecture. Invariant: every tensor
lies whole within the file and has the size that its shape and type give; external data, sparse tensors, functions and
operators of other domains are refused by name. Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.lookalikes import looks_like
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.protobuf import FIXED32, FIXED64, LENGTH, WireField, WireReader, signed

MAX_NODES = 1 << 15
MAX_TENSORS = 1 << 16
MAX_EDGES = 1 << 10  # inputs or outputs of a node
MAX_DIMS = 8
MAX_SIZE = 1 << 40  # of a dimension
MAX_NAME_BYTES = 1 << 10
MAX_TEXT_BYTES = 1 << 20
MAX_LISTED = 1 << 20  # numbers of a tensor or attribute that are written one by one
OWN_DOMAINS = ("", "ai.onnx")
DTYPES: Mapping[int, np.dtype[Any]] = {
    kind: np.dtype(name)
    for kind, name in {
        1: "<f4",
        2: "u1",
        3: "i1",
        4: "<u2",
        5: "<i2",
        6: "<i4",
        7: "<i8",
        9: "?",
        10: "<f2",
        11: "<f8",
        12: "<u4",
        13: "<u8",
    }.items()
}
OTHER_DTYPES = {8: "strings", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8", 21: "uint4", 22: "int4"}
_EXTERNAL = 1


@dataclass(frozen=True, eq=False)
class OnnxTensor:
    """A constant of the graph: ``data`` has its shape, and views the mapped file where that holds raw bytes."""

    name: str
    data: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its dimensions; () for a scalar."""
        return self.data.shape


Attribute = int | float | str | OnnxTensor | tuple[int, ...] | tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One operation: names of its operator, inputs and outputs ("" for one left out), and its attributes."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """A graph as data. ``nodes`` are in the file's order; ``inputs`` are those that are no initializers."""

    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, OnnxTensor]  # initializers, and the outputs of Constant nodes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    producer: str


def read_onnx(path: str | os.PathLike[str]) -> OnnxGraph:
    """Open the ONNX file at ``path``.

    Raises `ModelNotFoundError`; `ModelFormatError` for a file that is truncated or corrupt; `UnsupportedModelError` for
    external data, custom operators and types that are not known here.
    """
    return parse_onnx(map_file(path), os.fspath(path))


def parse_onnx(buffer: mmap.mmap | bytes, label: str) -> OnnxGraph:
    """Read a file held in ``buffer``, named ``label`` in errors. Raises as `read_onnx`."""
    reader = WireReader(buffer, label)
    if buffer[:1] != b"\x08":  # ir_version comes first in every known writer's files
        raise reader.corrupt(f"it does not begin as ONNX does: {looks_like(buffer)}")
    return _Parser(reader).model(len(buffer))


class _Parser:
    """Parser of the messages of one file, which counts what it takes."""

    def __init__(self, reader: WireReader) -> None:
        self._reader = reader
        self._listed = 0
        self._tensors = 0

    def model(self, end: int) -> OnnxGraph:
        graph: WireField | None = None
        producer, metadata = "", {}
        for field in self._reader.fields(0, end):
            if field.number == 7:
                if graph is not None:
                    raise self._reader.corrupt("it has two graphs")
                graph = field
            elif field.number == 2:
                producer = self._reader.text(field, MAX_NAME_BYTES)
            elif field.number == 14:
                key, value = self._pair(field)
                metadata[key] = value
            elif field.number in (20, 25):
                kind = "training information" if field.number == 20 else "functions of its own"
                raise self._unsupported(f"has {kind}")
        if graph is None:
            raise self._reader.corrupt("it has no graph")
        return self._graph(graph, producer, metadata)

    def _graph(self, field: WireField, producer: str, metadata: Mapping[str, str]) -> OnnxGraph:
        nodes: list[OnnxNode] = []
        constants: dict[str, OnnxTensor] = {}
        inputs: list[str] = []
        outputs: list[str] = []
        for part in self._inside(field):
            if part.number == 1:
                if len(nodes) == MAX_NODES:
                    raise self._reader.corrupt(f"it has more than {MAX_NODES:,} nodes")
                nodes.append(self._node(part))
            elif part.number == 5:
                tensor = self._tensor(part)
                if tensor.name in constants:
                    raise self._reader.corrupt(f"the initializer {tensor.name!r} occurs twice")
                constants[tensor.name] = tensor
            elif part.number in (11, 12):
                (inputs if part.number == 11 else outputs).append(self._name_of(part))
            elif part.number == 15:
                raise self._unsupported("has sparse initializers")
        for node in nodes:
            value = node.attributes.get("value")
            if node.operator == "Constant" and isinstance(value, OnnxTensor) and node.outputs:
                constants[node.outputs[0]] = value
        given = tuple(name for name in inputs if name not in constants)
        return OnnxGraph(tuple(nodes), constants, given, tuple(outputs), metadata, producer)

    def _node(self, field: WireField) -> OnnxNode:
        inputs: list[str] = []
        outputs: list[str] = []
        texts = {3: "", 4: "", 7: ""}
        attributes: dict[str, Attribute] = {}
        for part in self._inside(field):
            if part.number in (1, 2):
                names = inputs if part.number == 1 else outputs
                names.append(self._reader.text(part, MAX_NAME_BYTES))
                if len(names) > MAX_EDGES:
                    raise self._reader.corrupt(f"a node has more than {MAX_EDGES:,} inputs or outputs")
            elif part.number in texts:
                texts[part.number] = self._reader.text(part, MAX_NAME_BYTES)
            elif part.number == 5:
                name, value = self._attribute(part)
                attributes[name] = value
        if texts[7] not in OWN_DOMAINS:
            raise self._unsupported(f"has the custom operator {texts[7][:60]}.{texts[4][:60]}")
        return OnnxNode(texts[4], texts[3], tuple(inputs), tuple(outputs), attributes)

    def _attribute(self, field: WireField) -> tuple[str, Attribute]:
        name = ""
        value: Attribute = None
        floats: list[float] = []
        integers: list[int] = []
        for part in self._inside(field):
            if part.number == 1:
                name = self._reader.text(part, MAX_NAME_BYTES)
            elif part.number == 2:
                value = self._reader.float(part)
            elif part.number == 3:
                value = signed(part.value)
            elif part.number == 4:
                self._reader.require(part, LENGTH)
                value = bytes(self._reader.buffer[part.start : min(part.end, part.start + MAX_NAME_BYTES)]).decode(
                    "utf-8", "replace"
                )
            elif part.number == 5:
                value = self._tensor(part)
            elif part.number in (6, 11):
                raise self._unsupported("has graphs inside its graph (If, Loop or Scan)")
            elif part.number == 7:
                floats += self._floats(part)
            elif part.number == 8:
                integers += self._take(self._reader.varints(part))
        return name, tuple(integers) if integers else tuple(floats) if floats else value

    def _tensor(self, field: WireField) -> OnnxTensor:
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise self._reader.corrupt(f"it has more than {MAX_TENSORS:,} tensors")
        dims: list[int] = []
        name, kind = "", 0
        raw: WireField | None = None
        listed: list[WireField] = []
        for part in self._inside(field):
            if part.number == 1:
                dims += self._take(self._reader.varints(part))
            elif part.number == 2:
                kind = part.value
            elif part.number == 8:
                name = self._reader.text(part, MAX_NAME_BYTES)
            elif part.number == 9:
                self._reader.require(part, LENGTH)
                raw = part
            elif part.number == 13 or (part.number == 14 and part.value == _EXTERNAL):
                raise self._unsupported("keeps its weights in other files (external data)")
            elif part.number == 3:
                raise self._unsupported("has tensors in segments")
            elif part.number in (4, 5, 6, 7, 10, 11):
                listed.append(part)
        return OnnxTensor(name, self._data(name, kind, dims, raw, listed))

    def _data(
        self, name: str, kind: int, dims: list[int], raw: WireField | None, listed: list[WireField]
    ) -> NDArray[Any]:
        dtype = DTYPES.get(kind)
        if dtype is None:
            raise self._unsupported(f"has the tensor {name[:80]!r} of {OTHER_DTYPES.get(kind, f'type {kind}')}")
        if len(dims) > MAX_DIMS or any(not 0 <= size <= MAX_SIZE for size in dims):
            raise self._reader.corrupt(f"the tensor {name[:80]!r} has the shape {dims[:MAX_DIMS]}")
        count = prod(dims)
        if raw is not None:
            found = (raw.end - raw.start) / dtype.itemsize
            if found == count:
                flat: NDArray[Any] = np.empty(0, dtype)
                if count:
                    flat = np.frombuffer(self._reader.buffer, dtype, count, raw.start)
                return flat.reshape(dims)
        else:
            values = [value for part in listed for value in self._values(part, kind)]
            found = len(values)
            if found == count:
                return _listed_array(values, kind, dtype).reshape(dims)
        raise self._reader.corrupt(f"the tensor {name[:80]!r} of shape {dims} holds {found:g} values, not {count:,}")

    def _values(self, field: WireField, kind: int) -> list[float]:
        """Return numbers that are written one by one: floats, doubles, or integers for all other types."""
        if field.number in (4, 10):
            return self._floats(field, 8 if field.number == 10 else 4)
        if field.number == 6:
            raise self._unsupported("has a tensor of strings")
        return list(self._take(self._reader.varints(field)))

    def _floats(self, field: WireField, width: int = 4) -> list[float]:
        if field.wire not in (LENGTH, FIXED32 if width == 4 else FIXED64) or (field.end - field.start) % width:
            raise self._reader.corrupt(f"the numbers at byte {field.start} are not of {width} bytes each")
        count = (field.end - field.start) // width
        self._count(count)
        if not count:
            return []
        numbers: list[float] = np.frombuffer(self._reader.buffer, f"<f{width}", count, field.start).tolist()
        return numbers

    def _take(self, values: Iterator[int]) -> Iterator[int]:
        for value in values:
            self._count(1)
            yield value

    def _count(self, more: int) -> None:
        self._listed += more
        if self._listed > MAX_LISTED:
            raise self._unsupported(f"writes more than {MAX_LISTED:,} numbers one by one, instead of raw bytes")

    def _pair(self, field: WireField) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for part in self._inside(field):
            if part.number in texts:
                texts[part.number] = self._reader.text(part, MAX_TEXT_BYTES)
        return texts[1], texts[2]

    def _name_of(self, field: WireField) -> str:
        names = [self._reader.text(part, MAX_NAME_BYTES) for part in self._inside(field) if part.number == 1]
        return names[0] if names else ""

    def _inside(self, field: WireField) -> Iterator[WireField]:
        self._reader.require(field, LENGTH)
        return self._reader.fields(field.start, field.end)

    def _unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self._reader.label} {what}, which is not supported: export the model again without it, or use its "
            "safetensors"
        )


_CASTS: Mapping[int, Callable[[NDArray[np.int64]], NDArray[Any]]] = {
    10: lambda values: values.astype(np.uint16).view(np.float16)  # float16 is written as the integers of its bits
}


def _listed_array(values: list[float], kind: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if kind in _CASTS:
        return _CASTS[kind](np.array(values, np.int64))
    with np.errstate(all="ignore"):
        return np.array(values).astype(dtype)
