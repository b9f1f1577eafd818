"""Configuration of an encoder-decoder's forward pass, as plain values.

Owns the valid ranges of these values and does not know the files they come from. Invariant: an existing
`Seq2SeqConfig` has been checked, so no later stage takes memory by an unchecked number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miaotui.errors import UnsupportedModelError
from miaotui.model.config import LANES, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH
from miaotui.model.encoder.config import MAX_BUCKETS, Activation
from miaotui.model.reading.checks import require, require_count, require_positive
from miaotui.model.rope import MAX_HEAD_DIM

MAX_POSITIONS = 1 << 16  # tokens of a source or of a target
MAX_MEL_BINS = 1 << 10
MOST_TOKENS = 1 << 12  # of a source or target where positions set no limit (T5)

PositionTable = Literal["learned", "sinusoidal", "sinusoidal_fairseq", "relative"]


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Sizes of the encoder or of the decoder."""

    n_layers: int
    n_heads: int
    ffn_size: int
    max_tokens: int
    norm_at_end: bool = False

    def __post_init__(self) -> None:
        require_count("layer count", self.n_layers, MAX_LAYERS)
        require_count("head count", self.n_heads, MAX_WIDTH)
        require_count("feed-forward size", self.ffn_size, MAX_WIDTH)
        require_count("token limit", self.max_tokens, MAX_POSITIONS)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Shape and features of one encoder-decoder. The forward pass reads nothing else.

    Raises `ModelFormatError` for values that no model can have and `UnsupportedModelError` for widths that are not
    whole blocks of 32.
    """

    architecture: str
    source_vocab_size: int
    vocab_size: int  # of the target
    mel_bins: int = 0  # values of a frame of sound; a source has two frames for each row; 0: sources are tokens
    hidden_size: int
    head_dim: int
    encoder: StackConfig
    decoder: StackConfig
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    norm_first: bool = False  # norms before the sublayers instead of behind them
    embed_norm: bool = False
    activation: Activation = "relu"
    gated: bool = False
    biases: bool = True  # of every matrix but the head
    position: PositionTable = "learned"
    position_offset: int = 0  # row of a text's first token
    unplaced_token: int = -1  # its row has no position (M2M100's padding); -1: none
    zero_start: bool = False  # the first target token's embedding is 0 (Marian's own form)
    recurrent: bool = False  # the decoder has a recurrent unit (SSRU) in place of the attention to its own target
    relative_buckets: int = 0
    relative_distance: int = 0  # tokens from which on distances share the last bucket
    embedding_scale: float = 1.0
    attention_scale: float
    logit_scale: float = 1.0
    shared_embedding: bool = True  # source and target have one table
    tied_head: bool = True  # the output matrix is the target's embedding
    head_bias: bool = False

    def __post_init__(self) -> None:
        require_count("vocabulary size", self.vocab_size, MAX_VOCAB)
        require_count("source vocabulary size", self.source_vocab_size, MAX_VOCAB)
        require_count("hidden size", self.hidden_size, MAX_WIDTH)
        require_count("head dimension", self.head_dim, MAX_HEAD_DIM)
        require(0 <= self.mel_bins <= MAX_MEL_BINS, "mel bins", f"in [0, {MAX_MEL_BINS}]", self.mel_bins)
        require_positive("norm epsilon", self.norm_eps, most=1.0)
        for name in ("embedding_scale", "attention_scale", "logit_scale"):
            require_positive(name.replace("_", " "), getattr(self, name))
        if self.shared_embedding:
            sizes = f"{self.vocab_size}, as the target's: both have one table"
            require(self.source_vocab_size == self.vocab_size, "source vocabulary size", sizes, self.source_vocab_size)
        self._check_blocks()
        self._check_positions()

    def _check_blocks(self) -> None:
        widths = {
            "head dimension": self.head_dim,
            "hidden size": self.hidden_size,
            "encoder's feed-forward size": self.encoder.ffn_size,
            "decoder's feed-forward size": self.decoder.ffn_size,
        }
        for name, width in widths.items():
            if width % LANES:
                raise UnsupportedModelError(
                    f"the model's {name} is {width}, and only multiples of {LANES} are supported: choose another model"
                )
        for stack in (self.encoder, self.decoder):
            width = stack.n_heads * self.head_dim
            require(width <= MAX_WIDTH, "width of all heads", f"at most {MAX_WIDTH}", width)

        if self.recurrent:
            width = self.decoder.n_heads * self.head_dim
            require(width == self.hidden_size, "width of all heads", f"the hidden size {self.hidden_size}", width)

    def _check_positions(self) -> None:
        require(0 <= self.position_offset <= 1 << 10, "position offset", "in [0, 1024]", self.position_offset)
        require(-1 <= self.unplaced_token < self.vocab_size, "padding token", "in the vocabulary", self.unplaced_token)
        if self.position == "relative":
            require_count("relative position buckets", self.relative_buckets, MAX_BUCKETS)
            require(self.relative_buckets >= 4, "relative position buckets", "at least 4", self.relative_buckets)
            least = self.relative_buckets // 2 + 1
            in_range = least <= self.relative_distance <= MAX_POSITIONS
            require(in_range, "relative position distance", f"in [{least}, {MAX_POSITIONS}]", self.relative_distance)

    def stack(self, name: str) -> StackConfig:
        """Return the sizes of "encoder" or "decoder"."""
        return self.encoder if name == "encoder" else self.decoder
