"""The canonical names and shapes of an encoder-decoder's tensors, whatever file they came from.

Knows neither files nor encodings. Invariant: the keys of `seq2seq_shapes` are exactly the tensors that a forward pass
with this configuration reads; matrices are ``[outputs, inputs]``.
"""

from __future__ import annotations

from miaotui.model.reading.names import Shapes
from miaotui.model.seq2seq.config import Seq2SeqConfig

STACKS = ("encoder", "decoder")
CONVOLUTIONS = ("encoder.conv1", "encoder.conv2")  # over three frames each: [outputs, 3 x inputs], frame by frame
ATTENTION = ("q", "k", "v", "o")
RECURRENT = ("forget", "candidate")  # of the recurrent unit: its gate, and what comes new into its state
CROSS_ATTENTION = ("cross_q", "cross_k", "cross_v", "cross_o")  # queries of the target, keys and values of the source


def seq2seq_shapes(config: Seq2SeqConfig) -> Shapes:
    """Return every tensor of the model by canonical name, in the order in which the forward pass reads them."""
    hidden = config.hidden_size
    shapes: Shapes = {"embed": (config.vocab_size, hidden)}
    if not config.shared_embedding:
        shapes["source_embed"] = (config.source_vocab_size, hidden)
    if config.mel_bins:
        for name, inputs in zip(CONVOLUTIONS, (config.mel_bins, hidden), strict=True):
            shapes |= {name: (hidden, 3 * inputs), f"{name}_bias": (hidden,)}
    for name in STACKS:
        shapes |= _stack_shapes(config, name)
    if not config.tied_head:
        shapes["head"] = (config.vocab_size, hidden)
    return shapes | {"head_bias": (config.vocab_size,)} if config.head_bias else shapes


def _stack_shapes(config: Seq2SeqConfig, name: str) -> Shapes:
    stack = config.stack(name)
    shapes: Shapes = {}
    if config.position == "learned":
        shapes["position_embed"] = (stack.max_tokens + config.position_offset, config.hidden_size)
    if config.position == "relative" and not (config.recurrent and name == "decoder"):
        shapes["relative_bias"] = (config.relative_buckets, stack.n_heads)
    if config.embed_norm:
        shapes |= _norm(config, "embed_norm")
    for layer in range(stack.n_layers):
        shapes |= {f"layers.{layer}.{part}": shape for part, shape in _layer_shapes(config, name).items()}
    if stack.norm_at_end:
        shapes |= _norm(config, "final_norm")
    return {f"{name}.{part}": shape for part, shape in shapes.items()}


def _layer_shapes(config: Seq2SeqConfig, name: str) -> Shapes:
    stack = config.stack(name)
    shapes = _norm(config, "attn_norm")
    if name == "decoder" and config.recurrent:
        for part in RECURRENT:
            shapes |= _linear(config, part, config.hidden_size, config.hidden_size)
    else:
        shapes |= _attention(config, ATTENTION, stack.n_heads)
    if name == "decoder":
        shapes |= _norm(config, "cross_norm") | _attention(config, CROSS_ATTENTION, stack.n_heads)
    shapes |= _norm(config, "ffn_norm")
    for part in ("gate", "up") if config.gated else ("up",):
        shapes |= _linear(config, part, stack.ffn_size, config.hidden_size)
    return shapes | _linear(config, "down", config.hidden_size, stack.ffn_size)


def _attention(config: Seq2SeqConfig, names: tuple[str, ...], n_heads: int) -> Shapes:
    width = n_heads * config.head_dim
    shapes: Shapes = {}
    for name in names[:3]:
        shapes |= _linear(config, name, width, config.hidden_size)
    return shapes | _linear(config, names[3], config.hidden_size, width)


def _linear(config: Seq2SeqConfig, name: str, outputs: int, inputs: int) -> Shapes:
    shapes: Shapes = {name: (outputs, inputs)}
    return shapes | {f"{name}_bias": (outputs,)} if config.biases else shapes


def _norm(config: Seq2SeqConfig, name: str) -> Shapes:
    width = (config.hidden_size,)
    return {name: width, f"{name}_bias": width} if config.norm == "layer" else {name: width}
