"""Configuration of an encoder's forward pass, as plain values.

Owns the valid ranges of these values and does not know the files they come from. Invariant: an existing
`EncoderConfig` has been checked, so no later stage takes memory by an unchecked number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miaotui.errors import UnsupportedModelError
from miaotui.model.config import LANES, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from miaotui.model.reading.checks import require, require_count, require_positive
from miaotui.model.rope import MAX_HEAD_DIM, RopeConfig

MAX_TOKENS = 1 << 20  # of one text
MAX_TYPES = 1 << 10
MAX_BUCKETS = 1 << 14

Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "tanh"]
Position = Literal["learned", "rope", "alibi", "relative", "disentangled"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape and features of one encoder. The forward pass reads nothing else.

    Every row sees every other row of its text, within its layer's window. Raises `ModelFormatError` for values that no
    model can have and `UnsupportedModelError` for widths that are not whole blocks of 32.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    embedding_size: int  # differs from hidden_size in ALBERT only
    n_layers: int
    n_heads: int
    head_dim: int
    ffn_size: int
    max_tokens: int  # of a text, special tokens included
    type_vocab_size: int = 0  # 0: no token types
    position: Position = "learned"
    position_rows: int = 0  # rows of the learned table; "relative" and "disentangled" may have one, too
    position_offset: int = 0  # row of the first token (RoBERTa, MPNet: 2)
    relative_buckets: int = 0  # MPNet: buckets of the bias; DeBERTa: half the rows of relative_embed
    relative_distance: int = 0  # tokens from which on distances share the last bucket; DeBERTa: 0 = one bucket each
    rope: RopeConfig | None = None
    local_rope: RopeConfig | None = None  # of layers that have a window; None: the same as `rope`
    windows: tuple[int, ...] = ()  # per layer: 0 = full, w = position p sees q with |p - q| < w; (): all full
    norm_first: bool = False  # norms before the sublayers and one at the end (ModernBERT)
    skip_first_norm: bool = False  # layer 0 has no attn_norm (ModernBERT)
    norm_bias: bool = True
    norm_eps: float = 1e-12
    activation: Activation = "gelu"  # exact (erf) unless "gelu_tanh"
    gated: bool = False
    qkv_bias: bool = True
    o_bias: bool = True
    up_bias: bool = True  # of gate, too
    down_bias: bool = True
    shared_layers: bool = False  # every layer has the weights of layer 0 (ALBERT)
    attention_scale: float

    def __post_init__(self) -> None:
        require_count("vocabulary size", self.vocab_size, MAX_VOCAB)
        require_count("layer count", self.n_layers, MAX_LAYERS)
        require_count("token limit", self.max_tokens, MAX_TOKENS)
        require_count("head dimension", self.head_dim, MAX_HEAD_DIM)
        require_count("hidden size", self.hidden_size, MAX_WIDTH)
        require_count("embedding size", self.embedding_size, MAX_WIDTH)
        require_count("feed-forward size", self.ffn_size, MAX_WIDTH)
        require_count("head count", self.n_heads, MAX_WIDTH // self.head_dim)
        types = self.type_vocab_size
        require(0 <= types <= MAX_TYPES, "token type count", f"in [0, {MAX_TYPES}]", types)
        require_positive("norm epsilon", self.norm_eps, most=1.0)
        require_positive("attention scale", self.attention_scale)
        self._check_blocks()
        self._check_positions()
        self._check_windows()

    def _check_blocks(self) -> None:
        widths = {
            "head dimension": self.head_dim,
            "hidden size": self.hidden_size,
            "embedding size": self.embedding_size,
            "feed-forward size": self.ffn_size,
        }
        for name, width in widths.items():
            if width % LANES:
                raise UnsupportedModelError(
                    f"the model's {name} is {width}, and only multiples of {LANES} are supported: choose another model"
                )

    def _check_positions(self) -> None:
        rows, offset = self.position_rows, self.position_offset
        require(0 <= rows <= MAX_TOKENS, "position rows", f"in [0, {MAX_TOKENS}]", rows)
        require(0 <= offset <= rows, "position offset", f"in [0, {rows}]", offset)
        needs_rows = self.position == "learned"
        require(rows > 0 or not needs_rows, "learned position rows", "at least 1", rows)
        if rows:
            most = rows - offset
            require(self.max_tokens <= most, "token limit", f"at most the {most} learned positions", self.max_tokens)
        require((self.rope is not None) == (self.position == "rope"), "rope", "set for rope positions only", self.rope)
        for rope in (self.rope, self.local_rope):
            if rope is not None:
                require(rope.dim <= self.head_dim, "rotated dimensions", f"<= head dimension {self.head_dim}", rope.dim)
        self._check_buckets()

    def _check_buckets(self) -> None:
        """Check that buckets have room for one per distance and, after those, for a logarithm above 0."""
        buckets, farthest = self.relative_buckets, self.relative_distance
        if self.position in ("relative", "disentangled"):
            require_count("relative position buckets", buckets, MAX_BUCKETS)
            require(buckets >= 4, "relative position buckets", "at least 4", buckets)
            least = buckets // 4 + 1 if self.position == "relative" else buckets // 2 + 2
            plain = self.position == "disentangled" and farthest == 0
            in_range = plain or least <= farthest <= MAX_TOKENS
            require(in_range, "relative position distance", f"in [{least}, {MAX_TOKENS}]", farthest)

    def _check_windows(self) -> None:
        if self.windows:
            each = f"{self.n_layers} values, one per layer"
            require(len(self.windows) == self.n_layers, "attention windows", each, len(self.windows))
        for window in self.windows:
            require(0 <= window <= MAX_TOKENS, "attention window", f"in [0, {MAX_TOKENS}]", window)

    def window(self, layer: int) -> int:
        """Return the window of one layer: 0 = full, w = position p sees q with ``|p - q| < w``."""
        return self.windows[layer] if self.windows else 0

    def layer_rope(self, layer: int) -> RopeConfig | None:
        """Return the rotary encoding of one layer, or None where it has none."""
        if self.window(layer) and self.local_rope is not None:
            return self.local_rope
        return self.rope

    def weight_layer(self, layer: int) -> int:
        """Return the number in the names of the weights that ``layer`` uses."""
        return 0 if self.shared_layers else layer
