"""Operations of a layer's experts: router, routes, products of the chosen experts, the shared expert.

Owns their order. The shared expert is a mixture of its own, with one expert that every row chooses. Knows nothing of
the rest of a pass. Invariant: no operation reads weights of an expert that no row has chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.adapter_parts import AdapterParts, ExpertPairs
from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.workspace import MixtureSpace, Quantized, Rows
from miaotui.kernels.experts import fields as ex
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import padded_rows
from miaotui.kernels.runtime.ops import float_field
from miaotui.model.config import ExpertsConfig
from miaotui.model.packed import Matrix, PackedModel


class RouteTables(NamedTuple):
    """The tables of used experts and of routes, and how many experts each row has."""

    used: NDArray[np.int64]
    routes: NDArray[np.int64]
    chosen: int


class MixtureParts(NamedTuple):
    """Parts of a pass that the experts of a layer need; `add` appends their operations."""

    operations: OperationTable
    weights: PackedModel
    space: MixtureSpace
    normed: Quantized  # the layer's inputs; as floats they are in ``space.inputs``
    residual: Rows

    def add(
        self,
        prefix: str,
        experts: ExpertsConfig,
        mode: int,
        vector: Callable[[str], int],
        pairs: AdapterParts | None = None,
        expert_pairs: ExpertPairs | None = None,
    ) -> None:
        """Append the operations of one layer; ``vector`` returns a vector's address, 0 if it is not there.

        ``pairs`` are those of adapters around the router's product, ``expert_pairs`` those around the experts'; of the
        shared expert they are behind those of all others.
        """
        space, bias = self.space, vector(prefix + "router_bias")
        router = self.weights.matrix(prefix + "router")
        store = {lin.MODE: lin.STORE, lin.OUT: space.logits.address, lin.OUT_STRIDE: space.logits.stride}
        store[lin.BIAS] = vector(prefix + "router_logit_bias")
        if pairs:
            pairs.project(self.normed, router.inputs)
        self.operations.add_linear(router, space.inputs, store)
        if pairs:
            pairs.add(space.logits)
        self._route(experts, bias, vector(prefix + "route_scale"))
        gathered = {**_inputs(self.normed), lin.GROUPS: self.weights.matrix(prefix + "expert_gate_up").inputs // 32}
        table = {ex.CHOSEN: experts.chosen, ex.TABLE_ROUTES: _address(space.routes), **_gathered(space.gathered)}
        self.operations.add("experts.routing:gather", {**gathered, **table})
        biases = vector(prefix + "expert_gate_up_bias"), vector(prefix + "expert_down_bias")
        routes = RouteTables(space.used, space.routes, experts.chosen)
        self._products(
            prefix + "expert_", experts.count, mode, space.gathered, space.fed, routes, expert_pairs, biases=biases
        )
        if experts.shared_size:
            if expert_pairs:
                expert_pairs = expert_pairs._replace(number=expert_pairs.number + experts.count)
            routes = RouteTables(space.shared, space.shared_routes, 1)
            self._products(prefix + "shared_", 1, mode, self.normed, space.shared_fed, routes, expert_pairs)

    def _route(self, experts: ExpertsConfig, bias: int, scales: int) -> None:
        space = self.space
        fields = {
            ex.LOGITS: space.logits.address,
            ex.LOGITS_STRIDE: space.logits.stride,
            ex.COUNT: experts.count,
            ex.CHOSEN: experts.chosen,
            ex.BIAS: bias,
            ex.ROUTE_SCALES: scales,
            ex.SCALE: float_field(experts.scale),
            ex.IS_SIGMOID: int(experts.scores == "sigmoid"),
            ex.IS_NORMALIZED: int(experts.normalized),
            ex.EXPERT_GROUPS: experts.groups.number,
            ex.KEPT_GROUPS: experts.groups.kept,
            ex.GROUP_BEST: experts.groups.best,
            ex.PICKS: _address(space.picks),
            ex.ROUTED: _address(space.used),
            ex.ROUTES: _address(space.routes),
        }
        if experts.shared_size:
            fields |= {ex.SHARED: _address(space.shared), ex.SHARED_ROUTES: _address(space.shared_routes)}
            fields[ex.SHARED_LOGIT] = padded_rows(experts.count) if experts.shared_gate else 0
        self.operations.add("experts.routing:route", fields)
        self.operations.add("experts.routing:group", fields)

    def _products(
        self,
        prefix: str,
        count: int,
        mode: int,
        source: Quantized,
        fed: Quantized,
        routes: RouteTables,
        pairs: ExpertPairs | None,
        *,
        biases: tuple[int, int] = (0, 0),
    ) -> None:
        gate_up, down = self.weights.matrix(prefix + "gate_up"), self.weights.matrix(prefix + "down")
        table = {ex.TABLE: _address(routes.used), ex.TABLE_ROUTES: _address(routes.routes)}
        chosen = {**table, ex.CHOSEN: routes.chosen}
        inputs = {**_inputs(self.normed), **_gathered(source)}
        added = pairs.project({**inputs, **chosen}, gate_up.inputs, "gate", "up") if pairs else {}
        self.operations.add(
            f"experts.products:gate_up_{gate_up.format.value}",
            {
                **_matrix(gate_up, count),
                **inputs,
                **table,
                **added,
                ex.EXPERT_BIAS: biases[0],
                lin.MODE: mode,
                lin.OUT: fed.integers.address,
                lin.OUT_STRIDE: fed.integers.stride,
                lin.OUT_HEADERS: fed.headers.address,
                lin.OUT_HEADER_STRIDE: fed.headers.stride,
            },
        )
        added = pairs.project({**_inputs(fed), **_gathered(fed), **chosen}, down.inputs, "down") if pairs else {}
        outputs = {lin.OUT: self.residual.address, lin.OUT_STRIDE: self.residual.stride, ex.EXPERT_BIAS: biases[1]}
        kernel = f"experts.products:down_{down.format.value}"
        self.operations.add(kernel, {**_matrix(down, count), **_inputs(fed), **table, **added, **outputs})


def _matrix(matrix: Matrix, count: int) -> dict[int, int]:
    """Return the fields of the weights of ``count`` experts, one expert after another."""
    return {
        lin.WEIGHTS: matrix.address,
        lin.TILE_STRIDE: matrix.tile_stride,
        lin.GROUPS: matrix.inputs // 32,
        lin.UNITS: matrix.units // count,
        ex.EXPERT_BYTES: matrix.data.nbytes // count,
    }


def _inputs(source: Quantized) -> dict[int, int]:
    return {
        lin.X: source.integers.address,
        lin.X_STRIDE: source.integers.stride,
        lin.HEADERS: source.headers.address,
        lin.HEADER_STRIDE: source.headers.stride,
        lin.OWN_ROWS: source.own_rows,
        lin.OWN_HEADERS_AT: source.own_headers,
    }


def _gathered(source: Quantized) -> dict[int, int]:
    return {
        ex.GATHERED: source.integers.address,
        ex.GATHERED_STRIDE: source.integers.stride,
        ex.GATHERED_HEADERS: source.headers.address,
        ex.GATHERED_HEADER_STRIDE: source.headers.stride,
    }


def _address(table: NDArray[np.int64]) -> int:
    return int(table.ctypes.data)
