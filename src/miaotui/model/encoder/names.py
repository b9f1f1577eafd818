"""The canonical names and shapes of an encoder's tensors, whatever file they came from.

Knows neither files nor encodings; heads have theirs in `heads.head_shapes`. Invariant: the keys of `encoder_shapes`
are exactly the tensors that a forward pass with this configuration reads; matrices are ``[outputs, inputs]``.
"""

from __future__ import annotations

from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.reading.names import Shapes


def encoder_shapes(config: EncoderConfig) -> Shapes:
    """Return every tensor the encoder has, by canonical name, in the order the forward pass reads them."""
    shapes = _embedding_shapes(config) | _position_shapes(config)
    for layer in range(1 if config.shared_layers else config.n_layers):
        of_layer = encoder_layer_shapes(config, layer)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    if config.norm_first:
        shapes |= _norm(config, "final_norm", config.hidden_size)
    return shapes


def encoder_layer_shapes(config: EncoderConfig, layer: int) -> Shapes:
    """Return the tensors of one layer, without the ``layers.{i}.`` prefix."""
    hidden, width, ffn = config.hidden_size, config.n_heads * config.head_dim, config.ffn_size
    shapes: Shapes = {}
    if not (config.skip_first_norm and layer == 0):
        shapes |= _norm(config, "attn_norm", hidden)
    for name in ("q", "k", "v"):
        shapes |= _linear(name, width, hidden, config.qkv_bias)
    shapes |= _linear("o", hidden, width, config.o_bias)
    shapes |= _norm(config, "ffn_norm", hidden)
    if config.gated:
        shapes |= _linear("gate", ffn, hidden, config.up_bias)
    shapes |= _linear("up", ffn, hidden, config.up_bias)
    return shapes | _linear("down", hidden, ffn, config.down_bias)


def _embedding_shapes(config: EncoderConfig) -> Shapes:
    width = config.embedding_size
    shapes: Shapes = {"embed": (config.vocab_size, width)}
    if config.position_rows:
        shapes["position_embed"] = (config.position_rows, width)
    if config.type_vocab_size:
        shapes["type_embed"] = (config.type_vocab_size, width)
    shapes |= _norm(config, "embed_norm", width)
    if width != config.hidden_size:
        shapes |= _linear("embed_projection", config.hidden_size, width, bias=True)
    return shapes


def _position_shapes(config: EncoderConfig) -> Shapes:
    if config.position == "relative":
        return {"relative_bias": (config.relative_buckets, config.n_heads)}
    if config.position == "disentangled":
        shapes: Shapes = {"relative_embed": (2 * config.relative_buckets, config.hidden_size)}
        return shapes | _norm(config, "relative_embed_norm", config.hidden_size)
    return {}


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Shapes:
    shapes: Shapes = {name: (outputs, inputs)}
    return shapes | {f"{name}_bias": (outputs,)} if bias else shapes


def _norm(config: EncoderConfig, name: str, width: int) -> Shapes:
    shapes: Shapes = {name: (width,)}
    return shapes | {f"{name}_bias": (width,)} if config.norm_bias else shapes
