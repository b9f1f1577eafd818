"""Origin of each canonical tensor, and the mapping that fetches it on demand.

Knows canonical and stored names, rows and offsets; nothing of file formats. Invariant: every stored tensor is
checked, by name and shape, before any is read; encoded weights are selected, never decoded (only Gemma's small norm
vectors are, to add their offset).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.config import ModelConfig
from miaotui.model.reading.stored.stacked import StackedTensor
from miaotui.model.reading.stored.unit_rows import UnitRows

Shape = tuple[int, ...]


class TensorSource(NamedTuple):
    """Origin of one canonical tensor: rows ``[start, start + shape[0])`` of stored ``name``.

    ``head_dim`` > 0 says that within each head the first ``rotated`` stored rows are in the order of pairs
    ``(0, half), (1, half+1), …`` and must be reordered. ``rows`` are the stored rows instead, if they are no range.
    Every value is multiplied by ``factor`` and then gets ``offset``; with ``unit_rows`` each row is divided by its
    length. ``experts`` > 0 says that the rows of so many
    experts follow each other: they are stored as one tensor ``[experts, rows, inputs]``, or, where the name has a
    ``{}`` for an expert's number, each under its own name.
    """

    name: str
    start: int = 0
    head_dim: int = 0
    rotated: int = 0
    offset: float = 0.0
    factor: float = 1.0
    rows: NDArray[np.intp] | None = None
    experts: int = 0
    unit_rows: bool = False

    @property
    def stored_names(self) -> list[str]:
        """Return the names of the stored tensors."""
        return [self.name.format(n) for n in range(self.experts)] if "{}" in self.name else [self.name]

    def end(self, rows: int) -> int:
        """Return one past the last stored row that ``rows`` canonical ones need."""
        return self.start + rows if self.rows is None else int(self.rows.max()) + 1


def fused_qkv(config: ModelConfig, stored: str, ending: str = "") -> dict[str, TensorSource]:
    """Return the sources of q, k and v (and ``ending``) that lie one after the other in one ``stored`` tensor."""
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    starts = {"q": 0, "k": queries, "v": queries + keys}
    return {name + ending: TensorSource(stored, start=start) for name, start in starts.items()}


def grouped_qkv(config: ModelConfig, stored: str) -> dict[str, TensorSource]:
    """Return the sources of q, k and v in one ``stored`` matrix that goes by key heads (InternLM 2)."""
    group = config.n_heads // config.n_kv_heads
    rows = np.arange((config.n_heads + 2 * config.n_kv_heads) * config.head_dim)
    heads = rows.reshape(config.n_kv_heads, group + 2, config.head_dim)
    parts = {"q": heads[:, :group], "k": heads[:, group : group + 1], "v": heads[:, group + 1 :]}
    return {name: TensorSource(stored, rows=part.reshape(-1)) for name, part in parts.items()}


def fused_gate_up(config: ModelConfig, stored: str) -> dict[str, TensorSource]:
    """Return the sources of gate and up that lie one after the other in one ``stored`` matrix."""
    return {"gate": TensorSource(stored), "up": TensorSource(stored, start=config.ffn_size)}


def in_half_split_order(config: ModelConfig, sources: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """Return a layer's ``sources`` where the pairs of queries and keys are stored side by side."""
    ordered = {
        name: sources[name]._replace(head_dim=config.head_dim, rotated=config.rope.dim)
        for name in ("q", "k", "q_bias", "k_bias", "q_norm", "k_norm")
        if name in sources
    }
    return {**sources, **ordered}


class CanonicalTensors(Mapping[str, StoredTensor]):
    """Tensors of a model under canonical names, cut and reordered when they are fetched.

    Raises `ModelFormatError` when a tensor is missing, unknown, or of another shape.
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        stored: Mapping[str, StoredTensor],
        sources: Mapping[str, TensorSource],
        ignored: Iterable[str] = (),
    ) -> None:
        self._shapes = dict(shapes)
        self._stored = stored
        self._sources = {name: sources[name] for name in self._shapes}
        self._check_shapes()
        self._check_unknown(ignored)

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """Return the tensors of the files, by their own names."""
        return self._stored

    @property
    def sources(self) -> Mapping[str, TensorSource]:
        """Return the origin of each canonical tensor."""
        return self._sources

    def __getitem__(self, name: str) -> StoredTensor:
        source, shape = self._sources[name], self._shapes[name]
        if source.experts:
            return self._all_experts(name, source, shape)
        stored = self._stored[source.name]
        if source.rows is None and stored.shape != shape and stored.shape == _other_form(shape):
            tensor = StoredTensor(name, shape, stored.kind, stored.data)  # a vector may be stored as a row
        else:
            tensor = canonical_rows(stored, source, shape[0])
        if source.offset or source.factor != 1.0:
            tensor = _changed(tensor, source.factor, source.offset)
        return (UnitRows(tensor) if source.unit_rows else tensor).renamed(name)

    def _all_experts(self, name: str, source: TensorSource, shape: Shape) -> StoredTensor:
        """Return the rows of all experts, one expert after another."""
        stored = [self._stored[each] for each in source.stored_names]
        if len(stored) > 1:
            return StackedTensor(name, stored)
        data = stored[0].data.reshape(1, -1) if len(shape) == 1 else stored[0].data
        return StoredTensor(name, shape, stored[0].kind, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _check_shapes(self) -> None:
        for stored_name, expected in self._expected_shapes().items():
            tensor = self._stored.get(stored_name)
            if tensor is None:
                raise ModelFormatError(
                    f"tensor {stored_name!r} of shape {expected} is missing: the file is incomplete; download it again"
                )
            if tensor.shape not in (expected, _other_form(expected)):
                raise ModelFormatError(
                    f"tensor {stored_name!r} has shape {tensor.shape}, but the model's dimensions "
                    f"ask for {expected}: the file is damaged; download it again"
                )

    def _expected_shapes(self) -> dict[str, Shape]:
        """Return the shape of each stored tensor. Where several are fused, their rows add up."""
        expected: dict[str, Shape] = {}
        for name, source in self._sources.items():
            rows, *rest = self._shapes[name]
            if source.experts:
                each, names = (rows // source.experts, *rest), source.stored_names
                expected |= dict.fromkeys(names, each if "{}" in source.name else (source.experts, *each))
                continue
            before = expected[source.name][0] if source.name in expected else 0
            expected[source.name] = (max(before, source.end(rows)), *rest)
        return expected

    def _check_unknown(self, ignored: Iterable[str]) -> None:
        used = {name for source in self._sources.values() for name in source.stored_names} | set(ignored)
        unknown = [name for name in self._stored if name not in used]
        if unknown:
            raise ModelFormatError(
                f"tensor {unknown[0]!r} of shape {self._stored[unknown[0]].shape} is unexpected "
                f"({len(unknown)} such): the model has parts that its architecture does not have "
                "here; choose another model"
            )


def canonical_rows(tensor: StoredTensor, source: TensorSource, rows: int) -> StoredTensor:
    """Return the rows of a stored tensor that are a canonical one's, in their order."""
    if source.rows is not None or source.head_dim:
        return tensor.take_rows(stored_rows(source, rows))
    if tensor.shape[0] == rows and not source.start:
        return tensor
    return tensor.take_rows(slice(source.start, source.start + rows))


def stored_rows(source: TensorSource, rows: int) -> NDArray[np.intp]:
    """Return the stored row of each of a canonical tensor's rows."""
    if source.rows is not None:
        return source.rows
    if source.head_dim:
        return source.start + _half_split_order(rows, source.head_dim, source.rotated)
    return np.arange(source.start, source.start + rows)


def _other_form(shape: Shape) -> Shape:
    """Return the shape that a vector or a matrix of one row may have instead."""
    if len(shape) == 2 and shape[0] == 1:
        return shape[1:]
    return (1, *shape) if len(shape) == 1 else shape


def _half_split_order(rows: int, head_dim: int, rotated: int) -> NDArray[np.intp]:
    """Return the stored row of each canonical row, where stored rows put the two of each pair side by side."""
    heads = np.arange(rows).reshape(-1, head_dim)
    pairs = heads[:, :rotated].reshape(len(heads), rotated // 2, 2).swapaxes(1, 2)
    order: NDArray[np.intp] = np.concatenate([pairs.reshape(len(heads), rotated), heads[:, rotated:]], 1).reshape(rows)
    return order


def _changed(tensor: StoredTensor, factor: float, offset: float) -> StoredTensor:
    values = tensor.float32() * np.float32(factor) + np.float32(offset)
    return StoredTensor.from_bytes(tensor.name, tensor.shape, BlockType.F32, values.reshape(-1).view(np.uint8))
