"""One forward pass as a program of kernels: a table of operations, built once from a configuration
and packed weights.

Per layer: norm, queries/keys/values, attention, output, norm, gated feed-forward, down; the residual
is added where products finish. Models that norm before adding (Gemma) write to a second residual
buffer, so that every step stays repeatable. Knows the order of things; the arithmetic is in
``kernels``, the rows come from the runner. Invariant: a configuration that passes `shape_limits.require_runnable`
makes no kernel reach beyond its buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from miaotui.backends.cpu.adapter_parts import AdapterParts, ExpertPairs
from miaotui.backends.cpu.adapters import AdapterSpace, expert_operation, operation_of
from miaotui.backends.cpu.draw import KERNELS as DRAW_KERNELS
from miaotui.backends.cpu.layers.attention import AttentionParts
from miaotui.backends.cpu.layers.ends import EndParts
from miaotui.backends.cpu.layers.latent import LatentParts
from miaotui.backends.cpu.layers.mixture import MixtureParts
from miaotui.backends.cpu.layers.norms import NormParts
from miaotui.backends.cpu.layers.streams import StateParts
from miaotui.backends.cpu.operations import OperationTable
from miaotui.backends.cpu.workspace import KvPages, MixtureSpace, Quantized, RotationTable, Rows, Workspace
from miaotui.kernels.attention import fields as att
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import UNIT_ROWS, padded_rows
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import KERNELS as POOL_KERNELS
from miaotui.model.config import ExpertsConfig, ModelConfig
from miaotui.model.packed import Matrix, PackedModel
from miaotui.types import Progress

_GATED = {"silu": lin.GATED_SILU, "gelu_tanh": lin.GATED_GELU}
_ACTIVATED = {"silu": lin.SILU, "gelu_tanh": lin.GELU}


NO_TAPS: Mapping[int, Rows] = MappingProxyType({})


class PassPart(NamedTuple):
    """Operations of a pass that one program has: of some layers, with the ends of a pass or without."""

    layers: range
    has_embedding: bool = False  # else the states of rows lie in the first buffer of the residual stream
    has_head: bool = False
    taps: Mapping[int, Rows] = NO_TAPS  # by layer: where the states before it are copied to


class Program:
    """The operations of one model's pass, or of a ``part`` of it. ``table`` is int64 ``[operations, 32]``; weights and
    buffers must outlive it. ``left`` is the buffer with the states after its last layer.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedModel,
        workspace: Workspace,
        pages: KvPages,
        rotations: Mapping[int, RotationTable],
        *,
        progress: Progress | None = None,
        adapters: AdapterSpace | None = None,
        part: PassPart | None = None,
    ) -> None:
        self.part = part or PassPart(range(config.n_layers), has_embedding=True, has_head=True)
        self.config, self.weights, self.workspace, self.pages = config, weights, workspace, pages
        self.rotations, self.adapters = rotations, adapters
        self._operations = OperationTable()
        self._attention_parts = AttentionParts(config, weights, workspace, pages, rotations)
        self._norms = NormParts(self._operations, config, weights)
        self._ends = EndParts(self._operations, config, weights, workspace)
        self._state = StateParts(self._operations, config, weights, workspace, self._norms.vector, self._norms.kept)
        self.left = self._build()
        # all at once: kernels that are not there are compiled side by side
        compiled.prepare([*POOL_KERNELS, *DRAW_KERNELS, *self.kernels], progress)
        self.table = self._operations.link()
        self.address, self.count = int(self.table.ctypes.data), len(self._operations)  # read before each pass

    def changed(
        self, taps: Mapping[int, Rows], adapters: AdapterSpace | None, progress: Progress | None = None
    ) -> Program:
        """Return this program with operations that leave the states before some layers in ``taps``, and with those of
        rows that have adapters.
        """
        parts = self.config, self.weights, self.workspace, self.pages, self.rotations
        return Program(*parts, progress=progress, adapters=adapters, part=self.part._replace(taps=taps))

    @property
    def kernels(self) -> list[str]:
        """Return the kernels it calls."""
        return self._operations.kernels

    # the order of a pass -------------------------------------------------------------------------------------------

    def _build(self) -> Rows:
        stream, streams = self.workspace.residual[0], self.workspace.streams
        if self.part.has_embedding:
            self._ends.embed(stream)
            if self.config.state_size > self.config.hidden_size:
                self._state.begin(stream)
        for layer in self.part.layers:
            self._tap(layer, stream)
            stream = self._layer(layer, stream)
        self._tap(self.part.layers.stop, stream)
        if not self.part.has_head:
            return stream
        if streams is None:
            self._head(stream)
        else:
            self._head(self._state.merge(streams), gather=0)
        return stream

    def _layer(self, layer: int, stream: Rows) -> Rows:
        """Add one layer; return the buffer that holds the residual stream behind it."""
        prefix, space, streams = f"layers.{layer}.", self.workspace, self.workspace.streams
        if streams is not None:
            stream = self._state.predict(layer, streams)
        self._read(prefix + "attn_norm", stream, None if streams is None else streams.read)
        self._qkv(layer)
        self._attention(layer)
        stream = self._mix(layer, "o", prefix + "attn_post_norm", space.attended, stream)
        if streams is not None:
            computed, stream = stream, space.residual[1]
            self._state.add_learned_residual(layer, streams, computed, stream)
        experts = self.config.layer_experts(layer)
        if experts is not None and not experts.beside:
            self._norms.add(prefix + "ffn_norm", stream, space.normed, also=self._mixture_space.inputs)
            self._mixture(layer, stream, experts)
            return stream
        if not self.config.parallel:  # else the feed-forward network reads what attention has read
            self._read(prefix + "ffn_norm", stream)
        self._up(layer)
        inputs, scale = self.config.layer_inputs, self._scale(layer)
        at_end = scale if inputs is None else 1.0
        if experts is not None:
            stream = self._both(layer, stream, experts, at_end)
        else:
            stream = self._mix(layer, "down", prefix + "ffn_post_norm", space.fed, stream, at_end)
        if streams is not None:
            self._state.correct(layer, streams, stream)
            self._state.gate_inputs(layer, streams.read)
            self._state.add_inputs_to_streams(layer, streams)
        elif inputs is not None:
            self._state.gate_inputs(layer, stream)
            out = self._other(stream)
            self._state.add_normed(prefix + "input_norm", space.mixed, stream, out, scale)
            return out
        return stream

    def _scale(self, layer: int) -> float:
        """Return the number by which a layer multiplies what it leaves."""
        return float(self.weights.vector(f"layers.{layer}.scale")[0]) if self.config.layer_scales else 1.0

    def _other(self, stream: Rows) -> Rows:
        """Return a buffer for the residual stream after ``stream``, which stays as it is."""
        first, second, *_ = self.workspace.residual
        return second if stream.address == first.address else first

    @property
    def _mixture_space(self) -> MixtureSpace:
        assert self.workspace.mixture is not None, "made for models with experts"
        return self.workspace.mixture

    def _mixture(self, layer: int, out: Rows, experts: ExpertsConfig) -> None:
        """Add the results of each row's experts to ``out``; their inputs are there."""
        prefix = f"layers.{layer}."
        units = padded_rows(experts.count) // UNIT_ROWS, *[1] * experts.shared_gate
        pairs, expert_pairs = self._pairs(operation_of(self.config, layer, "router"), *units), None
        if self.adapters is not None:
            expert_pairs = ExpertPairs(self._operations, self.adapters, expert_operation(self.config, layer, 0))
        parts = MixtureParts(self._operations, self.weights, self._mixture_space, self.workspace.normed, out)
        mode = lin.GATED_CLAMPED if experts.clamped else _GATED[self.config.activation]
        parts.add(prefix, experts, mode, lambda name: self._norms.vector(name, 0), pairs, expert_pairs)

    def _both(self, layer: int, stream: Rows, experts: ExpertsConfig, factor: float) -> Rows:
        """Add the end of the usual feed-forward part, the experts beside it, and the norm of both's sum."""
        prefix, space, mixture = f"layers.{layer}.", self.workspace, self._mixture_space
        number = operation_of(self.config, layer, "down")
        self._linear(self.weights.matrix(prefix + "down"), space.fed, space.mixed, number=number)
        self._norms.add(prefix + "dense_norm", space.mixed, None, also=mixture.dense)
        hidden = self.config.hidden_size
        scale = self._norms.keep(self.weights.vector(prefix + "router_scale") * np.float32(hidden**-0.5))
        self._norms.add(prefix + "experts_norm", stream, None, also=mixture.inputs, weights=scale)
        self._ends.copy(self._norms.keep(np.zeros(hidden, np.float32)), hidden, mixture.sum)  # sums begin with zeros
        self._norms.add(prefix + "experts_norm", stream, space.normed)
        self._mixture(layer, mixture.sum, experts)
        self._state.add_normed(prefix + "experts_post_norm", mixture.sum, mixture.dense, mixture.both, 1.0)
        out = self._other(stream)
        self._state.add_normed(prefix + "ffn_post_norm", mixture.both, stream, out, factor)
        return out

    def _read(self, norm: str, source: Rows, also: Rows | None = None) -> None:
        """Add the norm and rounding of the residual stream for the products that come, or the rounding alone."""
        out = self.workspace.normed
        if self.config.pre_norms:
            self._norms.add(norm, source, out, also=also)
        else:
            self._norms.round(source, self.config.hidden_size, out)

    def _mix(self, layer: int, part: str, norm: str, source: Quantized, stream: Rows, factor: float = 1.0) -> Rows:
        """Add a product back to the hidden width, added to the residual stream; return the stream's buffer.

        ``factor`` is that of the sum, of models that norm what they add.
        """
        name = f"layers.{layer}.{part}"
        matrix, bias = self.weights.matrix(name), self._norms.vector(name + "_bias", 0)
        mixed = self.workspace.mixed
        mode, sums = (lin.STORE, mixed) if self.config.post_norms else (lin.ADD, stream)
        self._linear(matrix, source, sums, mode=mode, bias=bias, number=operation_of(self.config, layer, part))
        if not self.config.post_norms:
            return stream
        out = self._other(stream)
        if factor != 1.0:
            self._state.add_normed(norm, mixed, stream, out, factor)
            return out
        self._operations.add(
            "pointwise.rows:norm_add",
            {
                **self._norms.fields(norm, mixed),
                pw.OUT: out.address,
                pw.OUT_STRIDE: out.stride,
                pw.RESIDUAL: stream.address,
                pw.RESIDUAL_STRIDE: stream.stride,
            },
        )
        return out

    def _head(self, stream: Rows, gather: int = 1) -> None:
        space, config = self.workspace, self.config
        self._norms.add("final_norm", stream, space.last, gather=gather, rows=ops.RUN_LOGIT_ROWS)
        self._operations.add("runtime.multistep:ask", {})
        matrix = self.weights.matrix("embed" if config.tied_head else "head")
        bias = self._norms.vector("head_bias", 0)
        number = None if config.tied_head else operation_of(config, None)
        self._linear(matrix, space.last, space.logits, bias=bias, rows=ops.RUN_LOGIT_ROWS, number=number)
        if config.logit_softcap:
            fields = {pw.X: space.logits.address, pw.X_STRIDE: space.logits.stride, pw.WIDTH: matrix.units * 32}
            fields[pw.EPS] = float_field(config.logit_softcap)
            self._operations.add("pointwise.rows:cap_logits", fields, rows=ops.RUN_LOGIT_ROWS)
        self._ends.choose()

    # operations ----------------------------------------------------------------------------------------------------

    def _qkv(self, layer: int) -> None:
        """Add the product to queries, keys and values."""
        config, space = self.config, self.workspace
        if space.latent is not None:
            parts = self._operations, config, self.weights, space.latent, space.normed, space.qkv
            LatentParts(*parts).add(
                f"layers.{layer}.",
                self._norms.vector,
                lambda name, *units: self._pairs(operation_of(config, layer, name), *units),
            )
            return
        widths = self._attention_parts.layouts[layer].part_widths
        pairs = self._pairs(operation_of(config, layer, "qkv"), *(width // UNIT_ROWS for width in widths))
        if pairs:
            pairs.project(space.normed, config.hidden_size)
        self._qkv_products(f"layers.{layer}.", widths)
        if pairs:
            pairs.add(space.qkv)
        if config.joint_qk_norm:
            self._attention_parts.add_joint_norms(self._operations, layer)

    def _qkv_products(self, prefix: str, widths: Sequence[int]) -> None:
        """Add one product, or three when the parts have different formats; only the last is followed by a barrier."""
        space, bias = self.workspace, self._norms.vector(prefix + "qkv_bias", 0)
        if prefix + "qkv" in self.weights:
            self._linear(self.weights.matrix(prefix + "qkv"), space.normed, space.qkv, bias=bias)
            return
        column, letters = 0, [letter for letter in "qkv" if prefix + letter in self.weights]
        for letter, width in zip("qkv", widths, strict=True):
            if letter not in letters:  # keys and values are another layer's
                continue
            offset = 4 * column
            self._linear(
                self.weights.matrix(prefix + letter),
                space.normed,
                space.qkv._replace(data=space.qkv.data[offset:]),
                bias=bias + offset if bias else 0,
                keep_going=int(letter != letters[-1]),
            )
            column += width

    def _up(self, layer: int) -> None:
        """Add the feed-forward network up to its activation, with or without a gate."""
        out, gated, prefix = self.workspace.fed, self.config.gated, f"layers.{layer}."
        matrix = self.weights.matrix(prefix + ("gate_up" if gated else "up"))
        mode = (_GATED if gated else _ACTIVATED)[self.config.activation]
        bias = 0 if gated else self._norms.vector(prefix + "up_bias", 0)
        pairs = self._pairs(operation_of(self.config, layer, "up"), *[matrix.units] * (1 + gated))
        cutoff = self.config.cutoffs[layer] if self.config.cutoffs else None
        if pairs:  # the activation comes after the change
            pairs.project(self.workspace.normed, matrix.inputs)
        if pairs or cutoff is not None:
            wide = pairs.space.wide if pairs else self.workspace.wide
            plain = matrix._replace(data=matrix.data.reshape(-1, 2, matrix.tile_stride))
            self._linear(plain, self.workspace.normed, wide, bias=bias)
            if pairs:
                pairs.activate(mode, out if cutoff is None else None, wide)
            if cutoff is not None:
                self._state.sparse_gate(cutoff, wide, self.config.at(layer).ffn_size, out)
            return
        self._operations.add_linear(
            matrix,
            self.workspace.normed,
            {
                lin.MODE: mode,
                lin.BIAS: bias,
                lin.OUT: out.integers.address,
                lin.OUT_STRIDE: out.integers.stride,
                lin.OUT_HEADERS: out.headers.address,
                lin.OUT_HEADER_STRIDE: out.headers.stride,
            },
        )

    def _linear(
        self,
        matrix: Matrix,
        source: Quantized,
        out: Rows,
        *,
        mode: int = lin.STORE,
        bias: int = 0,
        keep_going: int = 0,
        rows: int = ops.RUN_ROWS,
        number: int | None = None,
    ) -> None:
        """Add a product; ``number`` is its operation's, if adapters may change all of it."""
        pairs = None if number is None else self._pairs(number, matrix.units, rows=rows)
        if pairs:
            pairs.project(source, matrix.inputs)
        self._operations.add_linear(
            matrix,
            source,
            {
                lin.MODE: mode,
                lin.OUT: out.address,
                lin.OUT_STRIDE: out.stride,
                lin.BIAS: bias,
                ops.KEEP_GOING: keep_going,
            },
            rows,
        )
        if pairs:
            pairs.add(out)

    def _pairs(self, number: int, *units: int, rows: int = ops.RUN_ROWS) -> AdapterParts | None:
        """Return the operations of adapters around a product whose parts have so many units; None: there are none."""
        space = self.adapters
        return None if space is None else AdapterParts(self._operations, space, number, units, rows)

    def _attention(self, layer: int) -> None:
        fields = self._attention_parts.fields(layer)
        if self.config.has_keys(layer):
            self._operations.add("attention.paged_attention:kv_copy", fields)
            self._operations.add(f"attention.paged_attention:kv_store_{self.pages.kind}", fields)
        self._operations.add(self._attention_parts.kernel, fields)
        heads = self._attention_parts.layouts[layer]
        if not heads.is_plain:
            width = self.config.n_heads * heads.config.value_dim  # groups of 32 values reach over heads
            self._norms.round(self.workspace.joined_heads, width, self.workspace.attended)

    def attention(self, layer: int) -> tuple[str, dict[int, int]]:
        """Return the kernel and the fields of one layer's attention, for readers of its keys and values.

        Their queries are not normed: a trained reader learns that too.
        """
        return self._attention_parts.kernel, {**self._attention_parts.fields(layer), att.QUERY_NORM: 0}

    def _tap(self, layer: int, stream: Rows) -> None:
        if layer in self.part.taps:
            self._ends.tap(stream, self.part.taps[layer])
