"""Configuration of the forward pass, as plain values.

Owns the valid ranges of these values and does not know the files they come from. Invariant: an existing `ModelConfig`
has been checked, so no later stage takes memory by an unchecked number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from miaotui.errors import UnsupportedModelError
from miaotui.model.experts import ExpertsConfig
from miaotui.model.latent import LatentConfig, require_whole_block
from miaotui.model.masked import MaskedConfig
from miaotui.model.reading.checks import require, require_count, require_positive
from miaotui.model.rope import MAX_CONTEXT, MAX_HEAD_DIM, RopeConfig

__all__ = ["ExpertsConfig", "LatentConfig", "MaskedConfig", "ModelConfig", "RopeConfig"]

MAX_VOCAB = 1 << 21
MAX_WIDTH = 1 << 18  # hidden, feed-forward, and heads * head_dim
MAX_LAYERS = 1024
HEAD_STEP = 8  # values of a head are a multiple of it
LANES = 32  # inputs of one quantization block: widths must be whole blocks


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
    sinks: bool = False  # each query head has a score without a value, which takes part in the softmax
    qkv_bias: bool = False
    o_bias: bool = False
    norm_bias: bool = False  # layer norms only
    tied_head: bool = False  # the output matrix is the embedding
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
