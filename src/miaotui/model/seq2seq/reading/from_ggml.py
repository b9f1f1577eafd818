"""Whisper from whisper.cpp's file: configuration and canonical tensors.

Knows openai/whisper's names. Invariant: shapes are checked before any tensor is decoded. Source: openai/whisper,
``model.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.formats.whisper.ggml import WhisperGgmlFile
from miaotui.model.reading.checks import require
from miaotui.model.seq2seq.config import Seq2SeqConfig, StackConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.model.seq2seq.names import CONVOLUTIONS, STACKS, seq2seq_shapes
from miaotui.model.seq2seq.reading.whisper import unfolded_convolution, zero_bias
from miaotui.text.speech.tokens import ENGLISH_END, ENGLISH_TOKENS

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}


def config_from_ggml(file: WhisperGgmlFile) -> Seq2SeqConfig:
    """Read the configuration. Raises `ModelFormatError` or `UnsupportedModelError`."""
    sizes = file.sizes
    hidden, heads = sizes["n_text_state"], sizes["n_text_head"]
    require(sizes["n_audio_state"] == hidden, "width of the encoder", f"the decoder's {hidden}", sizes["n_audio_state"])
    require(sizes["n_audio_head"] == heads, "heads of the encoder", f"the decoder's {heads}", sizes["n_audio_head"])
    require(heads > 0 and hidden % heads == 0, "hidden size", f"a multiple of {heads} heads", hidden)
    return Seq2SeqConfig(
        architecture="whisper",
        source_vocab_size=sizes["n_vocab"],
        vocab_size=sizes["n_vocab"],
        mel_bins=sizes["n_mels"],
        hidden_size=hidden,
        head_dim=hidden // heads,
        encoder=_stack(sizes, "audio"),
        decoder=_stack(sizes, "text"),
        norm_first=True,
        activation="gelu",
        attention_scale=(hidden // heads) ** -0.5,
    )


def tensors_from_ggml(file: WhisperGgmlFile, config: Seq2SeqConfig) -> Mapping[str, StoredTensor]:
    """Return the tensors under canonical names. Raises `ModelFormatError` for missing ones and wrong shapes."""
    names, tensors = dict(_names(config)), {}
    for name, shape in seq2seq_shapes(config).items():
        stored = file.tensors.get(names[name])
        if stored is None and name.endswith(("k_bias", "cross_k_bias")):
            stored = zero_bias(name, shape[0])
        if stored is not None and name in CONVOLUTIONS:
            stored = unfolded_convolution(stored, shape)
        if stored is not None and stored.shape == (*shape, 1) and len(shape) == 1:  # a bias of a convolution
            stored = StoredTensor.from_bytes(name, shape, stored.kind, stored.data.reshape(-1))
        if stored is None or stored.shape != shape:
            got = "is missing" if stored is None else f"has shape {stored.shape}"
            raise ModelFormatError(f"{file.label}: {names[name]} {got}, expected {shape}: get the model again")
        tensors[name] = stored.renamed(name)
    return tensors


def generation_from_ggml(config: Seq2SeqConfig) -> GenerationSettings:
    """Return the settings of a search, from the ids that Whisper's vocabularies have."""
    end = ENGLISH_END + (config.vocab_size > ENGLISH_TOKENS)
    require(config.vocab_size > end + 1, "vocabulary size", f"above {end + 1}", config.vocab_size)
    return GenerationSettings(start_token=end + 1, eos_ids=(end,), max_length=config.decoder.max_tokens)


def _stack(sizes: Mapping[str, int], name: str) -> StackConfig:
    width = sizes[f"n_{name}_state"]
    return StackConfig(
        n_layers=sizes[f"n_{name}_layer"],
        n_heads=sizes[f"n_{name}_head"],
        ffn_size=4 * width,
        max_tokens=sizes[f"n_{name}_ctx"],
        norm_at_end=True,
    )


def _names(config: Seq2SeqConfig) -> Iterator[tuple[str, str]]:
    """Yield canonical and stored names."""
    yield "embed", "decoder.token_embedding.weight"
    modules = {name: name for name in CONVOLUTIONS}
    modules |= {"encoder.final_norm": "encoder.ln_post", "decoder.final_norm": "decoder.ln"}
    for stack in STACKS:
        yield f"{stack}.position_embed", f"{stack}.positional_embedding"
        for layer in range(config.stack(stack).n_layers):
            modules |= dict(_layer_modules(stack, layer))
    for name, module in modules.items():
        yield name, f"{module}.weight"
        yield f"{name}_bias", f"{module}.bias"


def _layer_modules(stack: str, layer: int) -> Iterator[tuple[str, str]]:
    ours, theirs = f"{stack}.layers.{layer}.", f"{stack}.blocks.{layer}."
    norms = {
        "attn_norm": "attn_ln",
        "cross_norm": "cross_attn_ln",
        "ffn_norm": "mlp_ln",
        "up": "mlp.0",
        "down": "mlp.2",
    }
    for name, module in norms.items():
        yield ours + name, theirs + module
    for name, module in _ATTENTION.items():
        yield ours + name, f"{theirs}attn.{module}"
        yield f"{ours}cross_{name}", f"{theirs}cross_attn.{module}"
