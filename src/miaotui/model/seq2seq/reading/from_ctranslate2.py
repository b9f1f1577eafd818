"""An encoder-decoder from CTranslate2's folder: configuration, canonical tensors and settings of its search.

Knows the names of ``TransformerSpec`` and the small files beside ``model.bin``. Invariant: a feature that the forward
pass does not compute with is refused by name; shapes are checked before any array is decoded. Source: CTranslate2's
``specs/transformer_spec.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.ctranslate2.model_bin import Ctranslate2File
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import Activation
from miaotui.model.reading.checks import require
from miaotui.model.seq2seq.config import MOST_TOKENS, Seq2SeqConfig, StackConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.model.seq2seq.names import CONVOLUTIONS, STACKS, seq2seq_shapes
from miaotui.model.seq2seq.reading.whisper import unfolded_convolution

SPECS = ("TransformerSpec", WHISPER := "WhisperSpec")
ACTIVATIONS: Mapping[int, Activation] = {0: "relu", 1: "gelu_tanh", 2: "silu", 3: "gelu", 5: "tanh"}
REFUSED = ("rotary_dim", "relative_position_keys", "num_heads_kv", "relative_asymmetric_position_keys", "q_norm/gamma")
NUM_BEAMS, MAX_LENGTH = 2, 256  # CTranslate2's own
HEAD = "decoder/projection/weight"
EMBEDDINGS = {"encoder": "encoder/embeddings_0/weight", "decoder": "decoder/embeddings/weight"}
WHISPER_TOKENS = {"eos_token": "<|endoftext|>", "decoder_start_token": "<|startoftranscript|>"}
Sources = dict[str, tuple[str, int, int | None]]  # array and rows of each canonical tensor


def config_from_ctranslate2(file: Ctranslate2File, values: Mapping[str, Any]) -> Seq2SeqConfig:
    """Read the configuration; ``values`` is ``config.json``. Raises `ModelFormatError` or `UnsupportedModelError`."""
    _require_known(file)
    hidden = _shape(file, EMBEDDINGS["decoder"])[1]
    heads = _heads(file, "decoder")
    first = "decoder/layer_0/self_attention/"
    rows = _shape(file, first + "linear_0/weight")[0]
    require(rows % (3 * heads) == 0, "rows of queries, keys and values", f"a multiple of 3 * {heads}", rows)
    relative = file.arrays.get(first + "relative_attention_bias")
    rms = first + "layer_norm/beta" not in file.arrays
    eps = values.get("layer_norm_epsilon")
    activation = int(file.number("decoder/activation", 0))
    if activation not in ACTIVATIONS:
        raise UnsupportedModelError(f"{file.label} has the activation {activation}, which is not known here")
    return Seq2SeqConfig(
        architecture="ctranslate2",
        source_vocab_size=_shape(file, EMBEDDINGS["decoder" if file.spec == WHISPER else "encoder"])[0],
        vocab_size=_shape(file, EMBEDDINGS["decoder"])[0],
        mel_bins=_mel_bins(file) if file.spec == WHISPER else 0,
        hidden_size=hidden,
        head_dim=rows // 3 // heads,
        encoder=_stack(file, "encoder"),
        decoder=_stack(file, "decoder"),
        norm="rms" if rms else "layer",
        norm_eps=float(eps) if isinstance(eps, (int, float)) else 1e-6 if rms else 1e-5,
        norm_first=bool(file.number("decoder/pre_norm", 1)),
        embed_norm="decoder/layernorm_embedding/gamma" in file.arrays,
        activation=ACTIVATIONS[activation],
        gated="decoder/layer_0/ffn/linear_0_noact/weight" in file.arrays,
        biases=first + "linear_0/bias" in file.arrays,
        position="learned" if relative is None else "relative",
        zero_start=bool(file.number("decoder/start_from_zero_embedding", 0)),
        relative_buckets=0 if relative is None else relative.data.shape[0],
        relative_distance=int(file.number(first + "relative_attention_max_distance", 0)),
        embedding_scale=_embedding_scale(file, hidden),
        attention_scale=file.number(first + "queries_scale", (rows // 3 // heads) ** -0.5),
        logit_scale=file.number("decoder/scale_outputs", 1.0),
        shared_embedding=file.spec == WHISPER,
        tied_head=file.spec == WHISPER and file.arrays.get(HEAD) is file.arrays[EMBEDDINGS["decoder"]],
        head_bias="decoder/projection/bias" in file.arrays,
    )


def tensors_from_ctranslate2(file: Ctranslate2File, config: Seq2SeqConfig) -> Mapping[str, StoredTensor]:
    """Return the tensors under canonical names. Raises `ModelFormatError` for missing ones and wrong shapes."""
    tensors = {}
    sources = _sources(config)
    for name, shape in seq2seq_shapes(config).items():
        stored, start, stop = sources[name]
        tensor = file.tensor(stored, start, stop)
        if name in CONVOLUTIONS and tensor is not None:
            tensor = unfolded_convolution(tensor, shape)
        if tensor is None or tensor.shape != shape:
            got = "is missing" if tensor is None else f"has shape {tensor.shape}"
            raise ModelFormatError(f"{file.label}: {stored} {got}, expected {shape}: get the model again")
        tensors[name] = tensor.renamed(name)
    return tensors


def generation_from_ctranslate2(
    values: Mapping[str, Any], vocabulary: Mapping[str, int], config: Seq2SeqConfig
) -> GenerationSettings:
    """Return the settings of a search; ``values`` is ``config.json``, ``vocabulary`` the target's tokens.

    Raises `ModelFormatError` where a special token is not in the vocabulary.
    """
    named = WHISPER_TOKENS if config.mel_bins else values
    end = vocabulary.get(str(named.get("eos_token") or "</s>"))
    start = named.get("decoder_start_token")
    begin = end if start is None else vocabulary.get(str(start))
    if end is None or begin is None or max(end, begin) >= config.vocab_size:
        raise ModelFormatError("the model's vocabulary lacks its start or end token: get the model's files again")
    most = min(MAX_LENGTH, config.decoder.max_tokens)
    return GenerationSettings(start_token=begin, eos_ids=(end,), max_length=most, num_beams=NUM_BEAMS)


def _require_known(file: Ctranslate2File) -> None:
    if file.spec not in SPECS:
        raise UnsupportedModelError(
            f"{file.label} holds a {file.spec[:40]}; encoder-decoders are {' and '.join(SPECS)}: choose another model"
        )
    for name in file.arrays:
        part = next((part for part in REFUSED if name.endswith("/" + part)), None)
        if part is not None:
            raise UnsupportedModelError(
                f"{file.label} has {part}, which encoder-decoders here do not: choose another model"
            )


def _stack(file: Ctranslate2File, name: str) -> StackConfig:
    layers = 0
    while f"{name}/layer_{layers}/ffn/linear_0/weight" in file.arrays:
        layers += 1
    positions = file.arrays.get(f"{name}/position_encodings/encodings")
    relative = f"{name}/layer_0/self_attention/relative_attention_bias" in file.arrays
    if positions is None and not relative:
        raise UnsupportedModelError(f"{file.label} has no position encodings of its own: convert it from transformers")
    return StackConfig(
        n_layers=layers,
        n_heads=_heads(file, name),
        ffn_size=_shape(file, f"{name}/layer_0/ffn/linear_0/weight")[0],
        max_tokens=MOST_TOKENS if positions is None else _shape(file, f"{name}/position_encodings/encodings")[0],
        norm_at_end=f"{name}/layer_norm/gamma" in file.arrays,
    )


def _mel_bins(file: Ctranslate2File) -> int:
    found = file.arrays.get(f"{CONVOLUTIONS[0].replace('.', '/')}/weight")
    if found is None or found.data.ndim != 3:
        raise ModelFormatError(f"{file.label} has no first convolution of three dimensions: get the model again")
    return int(found.data.shape[1])


def _heads(file: Ctranslate2File, name: str) -> int:
    heads = int(file.number(f"{name}/num_heads", 8))
    require(1 <= heads <= 1 << 10, "attention heads", "from 1 to 1,024", heads)
    return heads


def _embedding_scale(file: Ctranslate2File, hidden: int) -> float:
    """Return the scale; an 8-bit truth value asks for the square root of the width."""
    found = file.arrays.get("decoder/scale_embeddings")
    scale = file.number("decoder/scale_embeddings", 1)
    is_flag = found is None or found.dtype == 1
    return (math.sqrt(hidden) if scale else 1.0) if is_flag else scale


def _shape(file: Ctranslate2File, name: str) -> tuple[int, int]:
    found = file.arrays.get(name)
    if found is None or found.data.ndim != 2 or not found.data.size:
        raise ModelFormatError(f"{file.label}: {name} is missing or no matrix: get the model again")
    return int(found.data.shape[0]), int(found.data.shape[1])


def _sources(config: Seq2SeqConfig) -> Sources:
    sources: Sources = {
        "embed": (EMBEDDINGS["decoder"], 0, None),
        "source_embed": (EMBEDDINGS["encoder"], 0, None),
        "head": (HEAD, 0, None),
        "head_bias": ("decoder/projection/bias", 0, None),
    }
    for name in CONVOLUTIONS:
        stored = name.replace(".", "/")
        sources |= {name: (f"{stored}/weight", 0, None), f"{name}_bias": (f"{stored}/bias", 0, None)}
    for stack in STACKS:
        sources |= {f"{stack}.{name}": source for name, source in _stack_sources(config, stack)}
    return sources


def _stack_sources(config: Seq2SeqConfig, stack: str) -> Iterator[tuple[str, tuple[str, int, int | None]]]:
    yield "position_embed", (f"{stack}/position_encodings/encodings", 0, None)
    yield "relative_bias", (f"{stack}/layer_0/self_attention/relative_attention_bias", 0, None)
    for name, module in (("embed_norm", "layernorm_embedding"), ("final_norm", "layer_norm")):
        yield from _norm(name, f"{stack}/{module}")
    width = config.stack(stack).n_heads * config.head_dim
    for layer in range(config.stack(stack).n_layers):
        prefix, at = f"layers.{layer}.", f"{stack}/layer_{layer}/"
        own = {"q": (0, 0), "k": (0, 1), "v": (0, 2), "o": (1, None)}
        cross = {"cross_q": (0, None), "cross_k": (1, 0), "cross_v": (1, 1), "cross_o": (2, None)}
        parts = [(name, f"{at}self_attention/linear_{linear}", part) for name, (linear, part) in own.items()]
        parts += [(name, f"{at}attention/linear_{linear}", part) for name, (linear, part) in cross.items()]
        first, second = f"{at}ffn/linear_0", f"{at}ffn/linear_0_noact"
        parts += [("gate", first, None), ("up", second if config.gated else first, None)]
        parts += [("down", f"{at}ffn/linear_1", None)]
        for name, module, part in parts:
            rows = (0, None) if part is None else (part * width, (part + 1) * width)
            yield f"{prefix}{name}", (f"{module}/weight", *rows)
            yield f"{prefix}{name}_bias", (f"{module}/bias", *rows)
        for name, module in (("attn_norm", "self_attention"), ("cross_norm", "attention"), ("ffn_norm", "ffn")):
            yield from _norm(prefix + name, f"{at}{module}/layer_norm")


def _norm(name: str, module: str) -> Iterator[tuple[str, tuple[str, int, int | None]]]:
    yield name, (f"{module}/gamma", 0, None)
    yield f"{name}_bias", (f"{module}/beta", 0, None)
