"""Operations of a pass in which rows have low-rank adapters, around the model's own products.

Owns their order: before a product the first thin matrices, which need no meeting of threads; after it the second ones,
added to what the product has stored. Gate and up are stored as floats first, as the change comes before the activation.
Invariant: rows without an adapter get the same bits as in a pass without these operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from miaotui.backends.cpu.adapters import EXPERT_PARTS, AdapterSpace
from miaotui.backends.cpu.operations import OperationTable, source_fields, target_fields
from miaotui.backends.cpu.workspace import Quantized, Rows
from miaotui.kernels.adapters import fields as ad
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import Format, tile_stride
from miaotui.kernels.runtime import ops

KERNELS = "adapters.low_rank:"
PROJECT = KERNELS + "project"
PROJECT_ROUTES = "adapters.routes:project_routes"


class AdapterParts(NamedTuple):
    """The operations around one product; ``number`` is its operation's (see `adapters.operation_of`)."""

    operations: OperationTable
    space: AdapterSpace
    number: int
    units: tuple[int, ...]  # of 32 outputs, of each part
    rows: int = ops.RUN_ROWS  # `ops.RUN_LOGIT_ROWS`: those whose logits are wanted

    def project(self, source: Quantized, inputs: int) -> None:
        """Append the first thin matrices, which read what the product reads."""
        fields = {
            **source_fields(source),
            **self._common(),
            lin.GROUPS: inputs // 32,
            ad.DOWN_STRIDE: tile_stride(Format.Q8, inputs),
            ops.KEEP_GOING: 1,
        }
        self.operations.add(PROJECT, fields, self.rows)

    def add(self, out: Rows) -> None:
        """Append the second ones, added to the product's float32 outputs."""
        ends = [sum(self.units[: part + 1]) for part in range(len(self.units))]
        second, third = (ends[part] if part < len(ends) else ends[-1] for part in range(2))
        fields = {
            lin.OUT: out.address,
            lin.OUT_STRIDE: out.stride,
            ad.UNITS: ends[-1],
            ad.SECOND: second,
            ad.THIRD: third,
        }
        self.operations.add(KERNELS + "add", {**self._common(), **fields}, self.rows)

    def activate(self, mode: int, out: Quantized | None, wide: Rows) -> None:
        """Append the second ones, added to gate and up in ``wide``, and the activation if there is an ``out``."""
        fields = {lin.MODE: mode, ad.UNITS: self.units[0], ad.WIDE: wide.address, ad.WIDE_STRIDE: wide.stride}
        if out is not None:
            fields |= target_fields(out, lin.OUT, lin.OUT_STRIDE, lin.OUT_HEADERS, lin.OUT_HEADER_STRIDE)
        self.operations.add(KERNELS + "activate", {**self._common(), **fields}, self.rows)

    def _common(self) -> dict[int, int]:
        return {
            ad.PAIRS: 8 * ad.PART_FIELDS * ad.MOST_PARTS * self.number,
            ad.PARTS: len(self.units),
            ad.HIDDEN: self.space.hidden.address,
            ad.HIDDEN_STRIDE: self.space.hidden.stride,
            ad.IS_GATHERED: int(self.rows == ops.RUN_LOGIT_ROWS),
        }


class ExpertPairs(NamedTuple):
    """The operations around the products of experts; ``number`` is that of the first one (see `expert_operation`)."""

    operations: OperationTable
    space: AdapterSpace
    number: int

    def project(self, fields: Mapping[int, int], inputs: int, *parts: str) -> dict[int, int]:
        """Append the first thin matrices of the routes of a product; return the fields by which it adds the second.

        ``fields`` say where the product finds its inputs and routes.
        """
        first = ad.MOST_PARTS * self.number + EXPERT_PARTS.index(parts[0])
        own = {
            ad.EXPERT_PAIRS: 8 * ad.PART_FIELDS * first,
            ad.EXPERT_HIDDEN: self.space.routes.address,
            ad.EXPERT_HIDDEN_STRIDE: self.space.routes.stride,
        }
        before = {lin.GROUPS: inputs // 32, ad.DOWN_STRIDE: tile_stride(Format.Q8, inputs)}
        self.operations.add(PROJECT_ROUTES, {**fields, **own, **before, ad.EXPERT_PARTS: len(parts)})
        return own
