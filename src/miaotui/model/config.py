"""Configuration of the forward pass, as plain values.

Owns the valid ranges of these values and does not know the files they come from. Invariant: an existing `ModelConfig`
has been checked, so no later stage takes memory by an unchecked number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from miaotui.errors import UnsupportedModelError
from miaotui.model.experts import ExpertsConfig
from miaotui.model.latent import LatentConfig, require_whole_block
from miaotui.model.layer_inputs import LayerInputsConfig
from miaotui.model.masked import MaskedConfig
from miaotui.model.reading.checks import require, require_count, require_positive
from miaotui.model.rope import MAX_CONTEXT, MAX_HEAD_DIM, LongContext, RopeConfig
from miaotui.model.streams import StreamsConfig

__all__ = [
    "ExpertsConfig",
    "LatentConfig",
    "LayerInputsConfig",
    "LayerShape",
    "MaskedConfig",
    "ModelConfig",
    "RopeConfig",
    "StreamsConfig",
]

MAX_VOCAB = 1 << 21
MAX_WIDTH = 1 << 18  # hidden, feed-forward, and heads * head_dim
MAX_LAYERS = 1024
HEAD_STEP = 8  # values of a head are a multiple of it
LANES = 32  # inputs of one quantization block: widths must be whole blocks


class LayerShape(NamedTuple):
    """Sizes in which the layers of a model may differ."""

    head_dim: int
    n_kv_heads: int
    ffn_size: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and features of one model. The forward pass reads nothing else.

    Raises `ModelFormatError` for values that no model can have and `UnsupportedModelError` for widths that are not
    whole blocks of 32, or heads that are not a multiple of 8.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_size: int
    context_length: int  # tokens
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    activation: Literal["silu", "gelu_tanh"] = "silu"
    rope: RopeConfig
    local_rope: RopeConfig | None = None  # of layers that have a window; None: the same as `rope`
    long_context: LongContext | None = None  # for a context that was asked for and is longer than `context_length`
    windows: tuple[int, ...]  # per layer: 0 = full attention, w = position p sees p-w+1 .. p
    rope_layers: tuple[bool, ...]  # per layer: False = no position encoding
    attention_scale: float
    attention_softcap: float = 0.0  # 0 = off
    logit_softcap: float = 0.0  # 0 = off
    embedding_scale: float = 1.0
    qk_norm: bool = False  # RMS norm of each query and key head, before rotation
    rotated_qk_norm: bool = False  # after rotation
    joint_qk_norm: bool = False  # RMS norm over all query heads together, and over all key heads
    pre_norms: bool = True  # norm of what attention and FFN read
    post_norms: bool = False  # norm of the attention's and the FFN's result before it is added
    parallel: bool = False  # attention and FFN read one norm, and what it read gets both results
    gated: bool = True  # the FFN multiplies `up` by the activation of `gate`; else it has `up` alone
    ffn_bias: bool = False  # of up and down, without a gate
    head_bias: bool = False
    alibi: bool = False  # scores fall with distance, by a slope for each head, and no layer has a position encoding
    sinks: bool = False  # each query head has a score without a value, which takes part in the softmax
    qkv_bias: bool = False
    o_bias: bool = False
    norm_bias: bool = False  # layer norms only
    tied_head: bool = False  # the output matrix is the embedding
    value_norm: bool = False  # RMS norm of each value head, without weights
    kv_layers: tuple[int, ...] = ()  # per layer: the one whose keys and values it sees, itself or before; (): itself
    cutoffs: tuple[float | None, ...] = ()  # per layer: deviations above the mean from which on a gate lets through
    layer_scales: bool = False  # what a layer leaves is multiplied by a number
    streams: StreamsConfig | None = None  # None: one residual stream
    layer_inputs: LayerInputsConfig | None = None  # None: layers get nothing but the stream
    shapes: tuple[LayerShape, ...] = ()  # per layer, where they differ; (): all are as above, which is else the largest
    experts: ExpertsConfig | None = None  # None: each layer has one feed-forward part
    latent: LatentConfig | None = None  # None: queries, keys and values come from the token itself
    masked: MaskedConfig | None = None  # None: each position sees those before it, and predicts the next token

    def __post_init__(self) -> None:
        require_count("vocabulary size", self.vocab_size, MAX_VOCAB)
        require_count("layer count", self.n_layers, MAX_LAYERS)
        require_count("context length", self.context_length, MAX_CONTEXT)
        require_count("head dimension", self.head_dim, MAX_HEAD_DIM)
        require_count("hidden size", self.hidden_size, MAX_WIDTH)
        require_count("feed-forward size", self.ffn_size, MAX_WIDTH)
        require_count("head count", self.n_heads, MAX_WIDTH // self.head_dim)
        require_count("key/value head count", self.n_kv_heads, self.n_heads)
        groups = f"a multiple of the {self.n_kv_heads} key/value heads"
        require(self.n_heads % self.n_kv_heads == 0, "head count", groups, self.n_heads)
        self._check_blocks()
        self._check_combinations()
        self._check_layers()
        self._check_latent()
        self._check_masked()
        self._check_parts()
        self._check_scalars()

    def _check_blocks(self) -> None:
        widths = {
            "head dimension": (self.head_dim, HEAD_STEP),
            "values of a head": (self.value_dim, HEAD_STEP),
            "width of all heads": (self.n_heads * self.value_dim, LANES),
            "hidden size": (self.hidden_size, LANES),
            "feed-forward size": (self.ffn_size, LANES),
        }
        for name, (width, step) in widths.items():
            if width % step:
                raise UnsupportedModelError(
                    f"the model's {name} is {width}, and only multiples of {step} are supported: choose another model"
                )

    def _check_combinations(self) -> None:
        """Refuse combinations that no family has, and no program here computes."""
        wrong = {
            "biases in a gated feed-forward network": self.gated and self.ffn_bias,
            "parallel layers with norms of their results": self.parallel and self.post_norms,
            "norms of each head and of all heads": self.qk_norm and self.joint_qk_norm,
            "norms of heads before and after rotation": self.rotated_qk_norm and (self.qk_norm or self.joint_qk_norm),
            "latent attention with biases, sinks, or norms of heads": self.latent is not None and self._has_extras,
            "latent attention in layers without positions": self.latent is not None and not all(self.rope_layers),
            "ALiBi beside rotated positions, a soft cap, sinks or latent attention": self.alibi
            and (any(self.rope_layers) or self.attention_softcap > 0 or self.sinks or self.latent is not None),
            "layers without any norm": not self.pre_norms and not self.post_norms,
        }
        for feature, present in wrong.items():
            if present:
                raise UnsupportedModelError(f"the model has {feature}, which is not supported: choose another model")

    def _check_layers(self) -> None:
        each = f"{self.n_layers} values, one per layer"
        require(len(self.windows) == self.n_layers, "attention windows", each, len(self.windows))
        require(len(self.rope_layers) == self.n_layers, "rope flags", each, len(self.rope_layers))
        if self.experts is not None:
            require(len(self.experts.layers) == self.n_layers, "expert flags", each, len(self.experts.layers))
            require_count("expert width", self.experts.size, MAX_WIDTH)
            require(self.experts.shared_size <= MAX_WIDTH, "shared expert", "in range", self.experts.shared_size)
        for window in self.windows:
            require(0 <= window <= MAX_CONTEXT, "attention window", "in range", window)
        for rope in (self.rope, self.local_rope):
            if rope is not None:
                fits = rope.dim <= self.head_dim
                require(fits, "rotated dimensions", f"<= head dimension {self.head_dim}", rope.dim)

    @property
    def _has_extras(self) -> bool:
        """Return whether attention has parts that no model with latent attention has."""
        norms = self.qk_norm or self.joint_qk_norm or self.rotated_qk_norm or self.norm != "rms"
        return self.qkv_bias or self.o_bias or self.sinks or norms or self.parallel or not self.pre_norms

    def _check_latent(self) -> None:
        if self.latent is None:
            return
        require(self.n_kv_heads == self.n_heads, "key/value head count", f"{self.n_heads}", self.n_kv_heads)
        require(self.rope.dim < self.head_dim, "rotated dimensions", f"< head dimension {self.head_dim}", self.rope.dim)
        require_count("values of a head", self.latent.value_dim, self.head_dim)
        require_whole_block("rotated part of a head", self.rope.dim)
        require_whole_block("width of all keys", self.n_heads * (self.head_dim - self.rope.dim))

    def _check_masked(self) -> None:
        if self.masked is None:
            return
        require(self.masked.mask_id < self.vocab_size, "mask token", f"< {self.vocab_size}", self.masked.mask_id)
        if any(self.windows):
            raise UnsupportedModelError(
                "the model restores masked tokens within attention windows, which is not supported: choose "
                "another model"
            )

    def _check_parts(self) -> None:
        """Check what only some layers, or few families, have."""
        each = f"{self.n_layers} values, one per layer"
        for name, values in (("key layers", self.kv_layers), ("cutoffs", self.cutoffs), ("shapes", self.shapes)):
            require(len(values) in (0, self.n_layers), name, each, len(values))
        for layer, source in enumerate(self.kv_layers):
            is_own = 0 <= source <= layer and self.kv_layers[source] == source
            require(is_own, "layer of shared keys", "one with keys of its own, and none behind it", source)
            equal = self.at(source).n_kv_heads == self.at(layer).n_kv_heads and self._rope_alike(layer, source)
            require(equal, "layer of shared keys", "one with the same heads and positions", source)
        for cutoff in self.cutoffs:
            require(cutoff is None or math.isfinite(cutoff), "cutoff of a gate", "finite", cutoff)
        for part in (self.streams, self.layer_inputs):
            if part is not None:
                part.check()
        rare = bool(self.cutoffs or self.kv_layers or self.streams or self.shapes or self.layer_inputs)
        usual = (
            self.norm == "rms"
            and self.pre_norms
            and self.post_norms
            and self.gated
            and (self.experts is None or self.experts.beside)
        )
        if rare and (not usual or self.latent is not None or self.masked is not None or self.sinks):
            raise UnsupportedModelError(
                "the model has streams, layer inputs, shared keys or layers of several shapes beside other parts than "
                "Gemma's, which is not supported: choose another model"
            )
        if self.experts is not None and self.experts.beside and not usual:
            raise UnsupportedModelError(
                "the model has experts beside its feed-forward parts without Gemma's norms, which is not supported: "
                "choose another model"
            )
        if self.streams is not None and self.layer_inputs is None:
            raise UnsupportedModelError("the model has several streams without layer inputs: choose another model")

    def _rope_alike(self, layer: int, source: int) -> bool:
        return self.layer_rope(layer) == self.layer_rope(source) and self.at(layer).head_dim == self.at(source).head_dim

    @cached_property
    def _by_layer(self) -> tuple[ModelConfig, ...]:
        found: dict[tuple[LayerShape, RopeConfig], ModelConfig] = {}
        for layer, shape in enumerate(self.shapes):
            rope = self.layer_rope(layer) or self.rope
            if (shape, rope) not in found:
                alike = replace(self, shapes=(), kv_layers=(), rope=rope, local_rope=None, **shape._asdict())
                found[shape, rope] = alike
        return tuple(found[s, self.layer_rope(layer) or self.rope] for layer, s in enumerate(self.shapes))

    def at(self, layer: int) -> ModelConfig:
        """Return the configuration of a model whose layers all have this one's shape."""
        return self._by_layer[layer] if self.shapes else self

    def kv_layer(self, layer: int) -> int:
        """Return the layer whose keys and values this one sees."""
        return self.kv_layers[layer] if self.kv_layers else layer

    def has_keys(self, layer: int) -> bool:
        """Return whether a layer has keys and values of its own."""
        return self.kv_layer(layer) == layer

    def for_context(self, tokens: int | None) -> ModelConfig:
        """Return the configuration for a context of so many tokens (None: the usual one).

        One encoding holds for all texts of a loaded model, since keys that are kept were rotated by it.
        """
        if self.long_context is None or tokens is None or tokens <= self.context_length:
            return self
        rope, context = self.long_context
        return replace(self, rope=rope, context_length=context, long_context=None)

    @property
    def has_one_stream(self) -> bool:
        """Return whether layers hand on a residual stream and nothing else, each with keys of its own."""
        return self.state_size == self.hidden_size and not self.kv_layers and not self.layer_scales

    @property
    def kv_values(self) -> int:
        """Return the values of one token's keys, in all layers that have some."""
        own = (self.at(layer) for layer in range(self.n_layers) if self.has_keys(layer))
        return sum(heads.n_kv_heads * heads.head_dim for heads in own)

    @property
    def stream_width(self) -> int:
        """Return the values of a row's residual streams."""
        return self.hidden_size * (1 if self.streams is None else self.streams.number)

    @property
    def state_size(self) -> int:
        """Return the values of a row between two layers: its streams, then the inputs of all layers."""
        return self.stream_width + (0 if self.layer_inputs is None else self.n_layers * self.layer_inputs.width)

    def _check_scalars(self) -> None:
        require_positive("norm epsilon", self.norm_eps, most=1.0)
        require_positive("attention scale", self.attention_scale)
        require_positive("embedding scale", self.embedding_scale)
        for cap in (self.attention_softcap, self.logit_softcap):
            require(math.isfinite(cap) and cap >= 0, "soft cap", "finite and >= 0", cap)

    @property
    def attention_block(self) -> int:
        """Return how many positions see each other: 1, each sees those before it alone; 0: the whole text."""
        return 1 if self.masked is None else self.masked.block

    @property
    def value_dim(self) -> int:
        """Return the values of a value head; query and key heads have ``head_dim``."""
        return self.head_dim if self.latent is None else self.latent.value_dim

    def layer_experts(self, layer: int) -> ExpertsConfig | None:
        """Return the experts of one layer, or None where it has one feed-forward part."""
        return self.experts if self.experts is not None and self.experts.layers[layer] else None

    def layer_rope(self, layer: int) -> RopeConfig | None:
        """Return the position encoding of one layer, or None where it has none."""
        if not self.rope_layers[layer]:
            return None
        if self.windows[layer] and self.local_rope is not None:
            return self.local_rope
        return self.rope
