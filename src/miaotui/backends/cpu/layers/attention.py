"""The parts of a pass that attend: each layer's kernel and its fields.

Owns where queries, keys, values and results lie, and which weights and tables a layer's heads use. Knows no order of
operations (`program`). Invariant: the arrays whose addresses are in the fields live as long as this object.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.workspace import KvPages, RotationTable, Workspace
from miaotui.kernels.attention import fields as att
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.model.alibi import alibi_slopes
from miaotui.model.config import ModelConfig
from miaotui.model.head_layout import HeadLayout
from miaotui.model.packed import PackedModel


class AttentionParts:
    """Attention of one model's layers, over its pages of keys and values."""

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedModel,
        workspace: Workspace,
        pages: KvPages,
        rotations: Mapping[int, RotationTable],
    ) -> None:
        self._config, self._weights, self._workspace, self._pages = config, weights, workspace, pages
        self._rotations = rotations
        self.layouts = [HeadLayout(config.at(layer)) for layer in range(config.n_layers)]
        self._keep: list[NDArray[np.float32]] = []
        kind = "_biased" if config.alibi else "_capped" if config.attention_softcap else ""
        self.kernel = f"attention.paged_attention:attention_{pages.kind}{kind}"

    def fields(self, layer: int) -> dict[int, int]:
        """Return the fields of a layer's attention, and of the kernels that store its keys and values."""
        space, pages, heads = self._workspace, self._pages, self.layouts[layer]
        config, in_page = heads.config, self._pages.heads(layer)
        queries, keys, _ = heads.part_widths
        fields = {
            att.QKV: space.qkv.address,
            att.QKV_STRIDE: space.qkv.stride,
            att.KEY_OFFSET: 4 * queries,
            att.VALUE_OFFSET: 4 * (queries + keys),
            att.KV_HEADS: config.n_kv_heads,
            att.GROUP_HEADS: config.n_heads // config.n_kv_heads,
            att.DIM: heads.dim,
            att.PAGES: pages.layer_address(layer),
            att.PAGE_STRIDE: pages.page_bytes,
            att.HEAD_STRIDE: in_page.head_bytes,
            att.VALUES_IN_HEAD: in_page.half_bytes,
            att.SHARED: int(not self._config.has_keys(layer)),
            att.VALUE_NORM: self._value_norm(layer),
            att.SCALE: float_field(config.attention_scale),
            att.WINDOW: self._config.windows[layer],
            att.CAP: float_field(config.attention_softcap),
            **self._head_norms(layer),
            att.SINKS: self._sinks(layer),
            att.SLOPES: self._slopes(),
            **self._out(heads),
        }
        table = self._rotations.get(layer)
        return fields if table is None else fields | table.fields()

    def _head_norms(self, layer: int) -> dict[int, int]:
        """Return the fields of the norms of queries and keys, if the model has them."""
        if self._config.rotated_qk_norm:
            return self._rotated_head_norms(layer)
        if not self._config.qk_norm:
            return {att.QUERY_NORM: 0, att.KEY_NORM: 0, att.NORM_EPS: float_field(self._config.norm_eps)}
        found, eps = {}, self._config.norm_eps
        names = ((att.QUERY_NORM, "q_norm"), (att.KEY_NORM, "k_norm"))
        for field, name in names if self._config.has_keys(layer) else names[:1]:
            weights, eps = self.layouts[layer].normed(self._weights.vector(f"layers.{layer}.{name}"), layer)
            self._keep.append(weights)
            found[field] = int(weights.ctypes.data)
        return {**found, att.NORM_EPS: float_field(eps)}

    def _rotated_head_norms(self, layer: int) -> dict[int, int]:
        """Return the fields of norms after rotation.

        A rotation changes no norm: both are normed before it without weights, and the rotated query gets the weights
        of both.
        """
        places = self.layouts[layer].keys(layer)
        ones, eps = self.layouts[layer].normed(np.ones(self._config.head_dim, np.float32), layer)
        both = [self._weights.vector(f"layers.{layer}.{name}") for name in ("q_norm", "k_norm")]
        weights = np.append(both[0] * both[1], np.float32(0))[places]
        self._keep += [ones, weights]
        address = int(ones.ctypes.data)
        found = {att.QUERY_NORM: address, att.KEY_NORM: address, att.NORM_EPS: float_field(eps)}
        return {**found, att.QUERY_WEIGHTS: int(weights.ctypes.data)}

    def add_joint_norms(self, operations: OperationTable, layer: int) -> None:
        """Append the norms over all query heads together, and over all key heads."""
        qkv, keys = self._workspace.qkv, 4 * self.layouts[layer].part_widths[0]
        for letter, offset in (("q", 0), ("k", keys)):
            weights = self._weights.vector(f"layers.{layer}.{letter}_norm")
            self._keep.append(weights)
            fields = {
                pw.X: qkv.address + offset,
                pw.X_STRIDE: qkv.stride,
                pw.WIDTH: len(weights),
                pw.WEIGHT: int(weights.ctypes.data),
                pw.EPS: float_field(self._config.norm_eps),
                ops.KEEP_GOING: int(letter == "q"),
            }
            operations.add("pointwise.rows:norm_within", fields)

    def _sinks(self, layer: int) -> int:
        """Return the address of the scores that have no value; 0: there are none."""
        if not self._config.sinks:
            return 0
        self._keep.append(self._weights.vector(f"layers.{layer}.sinks"))
        return int(self._keep[-1].ctypes.data)

    def _slopes(self) -> int:
        """Return the address of the slopes by which scores fall with distance; 0: they do not."""
        if not self._config.alibi:
            return 0
        self._keep.append(alibi_slopes(self._config.n_heads))
        return int(self._keep[-1].ctypes.data)

    def _value_norm(self, layer: int) -> int:
        """Return the address of the weights by which values are normed; 0: they are not."""
        if not self._config.value_norm:
            return 0
        layout = self.layouts[layer]
        share = np.float32((layout.config.value_dim / layout.dim) ** 0.5)  # as `HeadLayout.normed` makes up for zeros
        self._keep.append(np.full(layout.dim, share, np.float32))
        return int(self._keep[-1].ctypes.data)

    def _out(self, heads: HeadLayout) -> dict[int, int]:
        """Return where results go: rounded for the next product, or as floats where heads do not fill vectors."""
        attended, joined = self._workspace.attended, self._workspace.joined_heads
        if heads.is_plain:
            return {
                att.OUT: attended.integers.address,
                att.OUT_STRIDE: attended.integers.stride,
                att.OUT_HEADERS: attended.headers.address,
                att.OUT_HEADER_STRIDE: attended.headers.stride,
            }
        return {att.OUT: joined.address, att.OUT_STRIDE: joined.stride, att.HEAD_VALUES: heads.config.value_dim}
