"""Operations of latent attention up to queries, keys and values: small vectors, their norms, the products from them.

Keys and values of every head are computed at once and kept like those of other models, so that attention itself is
theirs. Owns the order of these operations. Knows nothing of the rest of a pass. Invariant: the place of a key's rotated
part, for which the product's weights are zeros, is written after that product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from miaotui.backends.cpu.adapter_parts import AdapterParts
from miaotui.backends.cpu.operations import OperationTable, quantized_fields
from miaotui.backends.cpu.workspace import LatentSpace, Quantized, Rows
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import UNIT_ROWS, padded_rows
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.model.config import ModelConfig
from miaotui.model.head_layout import HeadLayout
from miaotui.model.latent import LATENT_EPS
from miaotui.model.packed import PackedModel

PairsOf = Callable[..., AdapterParts | None]  # (operation, units of each part) -> the operations around it


class LatentParts(NamedTuple):
    """Parts of a pass that latent attention needs; `add` appends its operations."""

    operations: OperationTable
    config: ModelConfig
    weights: PackedModel
    space: LatentSpace
    normed: Quantized  # the layer's inputs
    qkv: Rows

    def add(self, prefix: str, vector: Callable[[str], int], pairs: PairsOf) -> None:
        """Append the operations of one layer; ``vector`` returns a vector's address, ``pairs`` those of adapters around
        a product whose parts have so many units.
        """
        space, queries = self.space, self.normed
        small = {name: space.part(name) for name, width in space.widths.items() if width}
        around = pairs("latent", *(width // UNIT_ROWS for width in space.widths.values()))
        self._products(prefix, "latent", small, self.normed, around, space.small)
        if space.widths["q_a"]:
            queries = space.queries
            self._norm(small["q_a"], space.widths["q_a"], vector(prefix + "q_a_norm"), queries)
        places = HeadLayout(self.config).dim
        outputs = padded_rows(self.config.n_heads * places)  # all queries, all keys, all values
        width, units = 4 * outputs, outputs // UNIT_ROWS
        self._products(prefix, "q", {"q": self.qkv}, queries, pairs("qkv", units), self.qkv)
        self._norm(small["kv_a"], space.widths["kv_a"], vector(prefix + "kv_a_norm"), space.keys)
        keys, values = (self.qkv._replace(data=self.qkv.data[first:]) for first in (width, 2 * width))
        self._products(prefix, "kv", {"k": keys, "v": values}, space.keys, pairs("kv", units, units), keys)
        self._spread(small["k_rope"], keys, 4 * places)

    def _products(
        self,
        prefix: str,
        name: str,
        targets: Mapping[str, Rows],
        source: Quantized,
        pairs: AdapterParts | None,
        joined: Rows,
    ) -> None:
        """Append one product, or one for each target where formats differ; only the last is followed by a barrier.

        ``pairs`` change the outputs of all targets, which begin at ``joined``.
        """
        names = [name] if prefix + name in self.weights else list(targets)
        if pairs:
            pairs.project(source, self.weights.matrix(prefix + names[0]).inputs)
        for each in names:
            out = targets[each] if each in targets else next(iter(targets.values()))
            self.operations.add_linear(
                self.weights.matrix(prefix + each),
                source,
                {
                    lin.MODE: lin.STORE,
                    lin.OUT: out.address,
                    lin.OUT_STRIDE: out.stride,
                    ops.KEEP_GOING: int(each != names[-1]),
                },
            )
        if pairs:
            pairs.add(joined)

    def _norm(self, source: Rows, width: int, weights: int, out: Quantized) -> None:
        self.operations.add(
            "pointwise.rows:norm",
            {
                pw.X: source.address,
                pw.X_STRIDE: source.stride,
                pw.WIDTH: width,
                pw.WEIGHT: weights,
                pw.EPS: float_field(LATENT_EPS),
                pw.KIND: pw.RMS,
                **quantized_fields(out),
            },
        )

    def _spread(self, source: Rows, keys: Rows, head_bytes: int) -> None:
        """Append the copies of the part that all keys share."""
        heads = self.config.n_heads
        self.operations.add(
            "pointwise.rows:spread",
            {
                pw.X: source.address,
                pw.X_STRIDE: source.stride,
                pw.WIDTH: heads * self.config.rope.dim,
                pw.OUT: keys.address,
                pw.OUT_STRIDE: keys.stride,
                pw.COPIES: heads,
                pw.COPY_STRIDE: head_bytes,
            },
        )
