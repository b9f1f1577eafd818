"""Heads and pooling of encoders, as plain values: what follows the states of one text.

Owns the valid ranges and the names of the heads' weights; `apply` computes with them. Knows no files and no tokenizer.
Invariant: an existing `HeadConfig` or `PoolingConfig` has been checked. Pooling follows sentence-transformers, heads
follow transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miaotui.model.config import MAX_WIDTH
from miaotui.model.encoder.config import Activation, EncoderConfig
from miaotui.model.reading.checks import require, require_count

MAX_LABELS = 1 << 16
MAX_DENSE = 8  # modules after pooling

HeadKind = Literal["none", "mlm", "sequence", "token", "cross-encoder", "colbert", "splade"]
Problem = Literal["single_label", "multi_label", "regression"]
PoolingMode = Literal["cls", "mean", "max", "last", "weighted_mean", "mean_sqrt_len"]


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Linear module after pooling, ``activation(x @ W.T + b)``; weights ``head.dense.{index}(_bias)``."""

    inputs: int
    outputs: int
    bias: bool
    activation: Activation | None = None  # None: identity

    def __post_init__(self) -> None:
        require_count("dense module's inputs", self.inputs, MAX_WIDTH)
        require_count("dense module's outputs", self.outputs, MAX_WIDTH)


@dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """Way from a text's states ``[n, hidden]`` to its embedding ``[dimensions]``.

    With several modes their results are concatenated in the order of ``modes``. Then come the dense modules, then the
    division by the Euclidean norm if ``normalize``. Without ``include_prompt`` the rows of a text's prompt, and what
    stands before it, are left out of all means and maxima.
    """

    modes: tuple[PoolingMode, ...] = ("mean",)
    dense: tuple[DenseConfig, ...] = ()
    normalize: bool = False
    include_prompt: bool = True
    truncate_dimensions: int = 0  # 0: all; else only the first so many, before the normalization

    def __post_init__(self) -> None:
        require(1 <= len(self.modes) <= 6, "pooling", "1 to 6 modes", self.modes)
        require(len(self.dense) <= MAX_DENSE, "dense modules", f"at most {MAX_DENSE}", len(self.dense))

    def dimensions(self, hidden_size: int) -> int:
        """Return the length of an embedding."""
        width = self.dense[-1].outputs if self.dense else hidden_size * len(self.modes)
        return min(self.truncate_dimensions or width, width)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Task head: ``norm(activation(dense(x)))`` as far as it has these, then the output matrix.

    "sequence" and "cross-encoder" apply it to the pooled states (first row, or their mean), the others to every row.
    Weights: ``head.transform(_bias)`` for dense, ``head.norm(_bias)``, ``head.output(_bias)``; with ``tied`` the output
    matrix is ``embed``. "colbert" has the output matrix only and normalizes each row; "splade" is an MLM head followed
    by ``log(1 + relu(.))`` and the maximum over rows.
    """

    kind: HeadKind = "none"
    outputs: int = 0  # labels, vocabulary or dimensions
    labels: tuple[str, ...] = ()  # of "sequence" and "token", in the order of the outputs
    problem: Problem = "single_label"
    scores: Literal["sigmoid", "identity"] = "sigmoid"  # of a cross-encoder, as its file asks for them
    pooling: Literal["cls", "mean"] = "cls"  # before "sequence" and "cross-encoder"
    transform: Activation | None = None  # None: no dense layer before the output
    transform_size: int = 0  # outputs of the dense layer
    transform_bias: bool = True
    norm: bool = False
    norm_bias: bool = True
    output_bias: bool = True
    tied: bool = False

    def __post_init__(self) -> None:
        if self.kind == "none":
            return
        most = MAX_LABELS if self.kind in ("sequence", "token", "cross-encoder") else 1 << 21
        require_count("number of the head's outputs", self.outputs, most)
        if self.labels:
            expected = f"{self.outputs} names, one per output of the head"
            require(len(self.labels) == self.outputs, "labels", expected, len(self.labels))
        if self.transform is not None:
            require_count("size of the head's dense layer", self.transform_size, MAX_WIDTH)


def head_shapes(
    config: EncoderConfig, head: HeadConfig, pooling: PoolingConfig | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors ``head.*`` by canonical name."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = config.hidden_size
    if head.transform is not None:
        shapes["head.transform"] = (head.transform_size, width)
        width = head.transform_size
        if head.transform_bias:
            shapes["head.transform_bias"] = (width,)
    if head.norm:
        shapes["head.norm"] = (width,)
        if head.norm_bias:
            shapes["head.norm_bias"] = (width,)
    if head.kind != "none":
        if not head.tied:
            shapes["head.output"] = (head.outputs, width)
        if head.output_bias:
            shapes["head.output_bias"] = (head.outputs,)
    for index, dense in enumerate(pooling.dense if pooling else ()):
        shapes[f"head.dense.{index}"] = (dense.outputs, dense.inputs)
        if dense.bias:
            shapes[f"head.dense.{index}_bias"] = (dense.outputs,)
    return shapes
