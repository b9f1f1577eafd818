"""Parts that only some layers have, or that differ from layer to layer: shared keys, inputs of layers, streams, shapes.

Owns both files' keys for them. Knows Gemma 3n and Gemma 4. Invariant: the configuration is complete before; these parts
are added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_WIDTH, LayerInputsConfig, LayerShape, ModelConfig, StreamsConfig
from miaotui.model.layer_inputs import MAX_VOCAB
from miaotui.model.layer_inputs import MAX_WIDTH as MAX_INPUT_WIDTH
from miaotui.model.reading.checks import require, require_count
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import TensorSource
from miaotui.model.rope import MAX_HEAD_DIM
from miaotui.model.streams import MAX_RANK

Sources = dict[str, TensorSource]
Tensors = Mapping[str, StoredTensor]

_BARE = ("altup_scale", "scale")  # tensors whose names in safetensors have no ending
_STACKED = ("stream_up", "stream_down")


# config.json


def with_largest(fields: Fields) -> Fields:
    """Return the fields with the largest sizes of all layers, as those of a model whose layers are alike."""
    shapes = _shapes_from_hf(fields, fields.count("num_hidden_layers", MAX_LAYERS))
    largest = _named(shapes, ("head_dim", "num_key_value_heads", "intermediate_size"))
    return Fields({**fields.values, **largest}, fields.where)


def local_dim_from_hf(fields: Fields) -> int:
    """Return the dimension of a head in layers with a window."""
    return fields.count("head_dim", MAX_HEAD_DIM)


def with_parts_from_hf(config: ModelConfig, fields: Fields) -> ModelConfig:
    """Return the configuration with the parts that ``config.json`` declares."""
    width = fields.size("hidden_size_per_layer_input", MAX_INPUT_WIDTH)
    inputs = LayerInputsConfig(width, fields.count("vocab_size_per_layer_input", MAX_VOCAB)) if width else None
    streams = None
    if fields.has("altup_num_inputs"):
        count = fields.count("altup_num_inputs", MAX_WIDTH)
        streams = StreamsConfig(fields.count("laurel_rank", MAX_RANK), count)
    shared = fields.size("num_kv_shared_layers", MAX_LAYERS)
    cutoffs = _cutoffs(fields, "activation_sparsity_pattern", config.n_layers, _deviations)
    return _with(config, shared, cutoffs, streams, inputs, _shapes_from_hf(fields, config.n_layers))


def _shapes_from_hf(fields: Fields, n_layers: int) -> tuple[LayerShape, ...]:
    head_dim, heads = fields.count("head_dim", MAX_HEAD_DIM), fields.count("num_key_value_heads", MAX_WIDTH)
    types = fields.sequence("layer_types") or [None] * n_layers
    dims, counts = [head_dim] * len(types), [heads] * len(types)
    for layer, kind in enumerate(types):
        if kind == "full_attention":
            dims[layer] = fields.count("global_head_dim", MAX_HEAD_DIM, head_dim)
            if fields.flag("attention_k_eq_v", False):
                counts[layer] = fields.count("num_global_key_value_heads", MAX_WIDTH, heads)
    by_layer = fields.nested("per_layer_config")
    for layer in range(len(types)):
        own = by_layer.nested(str(layer))
        dims[layer] = own.count("head_dim", MAX_HEAD_DIM, dims[layer])
        counts[layer] = own.count("num_key_value_heads", MAX_WIDTH, counts[layer])
    widths = fields.sequence("intermediate_size")
    if widths is None:
        first = n_layers - fields.size("num_kv_shared_layers", MAX_LAYERS)
        wide = 2 if fields.flag("use_double_wide_mlp", False) else 1
        width = fields.count("intermediate_size", MAX_WIDTH)
        widths = [width * (wide if layer >= first else 1) for layer in range(n_layers)]
    return _shapes(n_layers, dims, counts, widths)


# GGUF


def with_largest_in_gguf(fields: Fields) -> Fields:
    """Return the fields with the largest sizes of all layers, as those of a model whose layers are alike."""
    shapes = _shapes_from_gguf(fields, fields.count("block_count", MAX_LAYERS))
    keys = ("attention.key_length", "attention.head_count_kv", "feed_forward_length")
    largest = _named(shapes, [fields.prefix + key for key in keys])
    largest[fields.prefix + "attention.value_length"] = largest[fields.prefix + keys[0]]
    return Fields({**fields.values, **largest}, fields.where, fields.prefix)


def local_dim_from_gguf(fields: Fields) -> int:
    """Return the dimension of a head in layers with a window."""
    usual = fields.count("attention.key_length", MAX_HEAD_DIM)
    return fields.count("attention.key_length_swa", MAX_HEAD_DIM, usual)


def with_parts_from_gguf(config: ModelConfig, fields: Fields, tensors: Tensors) -> ModelConfig:
    """Return the configuration with the parts that metadata and tensors declare."""
    width = fields.size("embedding_length_per_layer_input", MAX_INPUT_WIDTH)
    inputs = LayerInputsConfig(width, _rows(tensors, "per_layer_token_embd.weight")) if width else None
    streams = None
    if fields.has("altup.num_inputs"):
        if fields.get("altup.active_idx"):
            raise UnsupportedModelError(
                f"the model computes stream {fields.get('altup.active_idx')} of several, and only the first is "
                "supported: choose another model"
            )
        count = fields.count("altup.num_inputs", MAX_WIDTH)
        streams = StreamsConfig(_rows(tensors, "blk.0.laurel_l.weight"), count)
    shared = fields.size("attention.shared_kv_layers", MAX_LAYERS)
    cutoffs = _cutoffs(fields, "activation_sparsity_scale", config.n_layers, lambda value: value)
    return _with(config, shared, cutoffs, streams, inputs, _shapes_from_gguf(fields, config.n_layers))


def _shapes_from_gguf(fields: Fields, n_layers: int) -> tuple[LayerShape, ...]:
    local = fields.sequence("attention.sliding_window_pattern") or [False] * n_layers
    dims = fields.count("attention.key_length", MAX_HEAD_DIM), local_dim_from_gguf(fields)
    heads, widths = (_by_layer(fields, key, n_layers) for key in ("attention.head_count_kv", "feed_forward_length"))
    return _shapes(n_layers, [dims[bool(is_local)] for is_local in local], heads, widths)


def _by_layer(fields: Fields, key: str, n_layers: int) -> Sequence[object]:
    """Return a count that GGUF may give once or as a list, one per layer."""
    return fields.sequence(key) or [fields.count(key, MAX_WIDTH)] * n_layers


def _rows(tensors: Tensors, name: str) -> int:
    tensor = tensors.get(name)
    require(tensor is not None, f"tensor {name!r}", "there", None)
    return tensor.shape[0] if tensor is not None else 0


# both


def _shapes(n_layers: int, *sizes: Sequence[object]) -> tuple[LayerShape, ...]:
    """Return each layer's shape from lists of sizes in the order of `LayerShape`'s fields."""
    for name, values, most in zip(LayerShape._fields, sizes, (MAX_HEAD_DIM, MAX_WIDTH, MAX_WIDTH), strict=True):
        require(len(values) == n_layers, name, f"{n_layers} values, one per layer", len(values))
        for value in values:
            require_count(name, value, most)
    return tuple(LayerShape(*shape) for shape in zip(*sizes, strict=True))


def _named(shapes: Sequence[LayerShape], keys: Sequence[str]) -> dict[str, object]:
    return {key: max(shape[at] for shape in shapes) for at, key in enumerate(keys)}


def _cutoffs(fields: Fields, key: str, n_layers: int, convert: Callable[[float], float]) -> tuple[float | None, ...]:
    """Return each layer's cutoff; (): no layer has one."""
    values = fields.sequence(key)
    if values is None:
        return ()
    require(len(values) == n_layers, key, f"{n_layers} values, one per layer", len(values))
    found = list[float | None]()
    for value in values:
        require(isinstance(value, (int, float)) and not isinstance(value, bool), key, "a list of numbers", value)
        bound = convert(float(value))  # type: ignore[arg-type]
        found.append(None if bound == -np.inf else bound)
    return tuple(found) if any(each is not None for each in found) else ()


def _deviations(share: float) -> float:
    """Return how many deviations above the mean a normal distribution has ``share`` of its values below."""
    require(0 <= share < 1, "activation_sparsity_pattern", "in [0, 1)", share)
    return float(np.float32(NormalDist().inv_cdf(share))) if share else -np.inf


def _with(
    config: ModelConfig,
    shared: int,
    cutoffs: tuple[float | None, ...],
    streams: StreamsConfig | None,
    inputs: LayerInputsConfig | None,
    shapes: tuple[LayerShape, ...],
) -> ModelConfig:
    require(shared < config.n_layers, "layers with shared keys", f"< {config.n_layers}", shared)
    return replace(
        config,
        kv_layers=_kv_layers(config.windows, config.n_layers - shared) if shared else (),
        cutoffs=cutoffs,
        streams=streams,
        layer_inputs=inputs,
        layer_scales=streams is None,
        shapes=shapes if len(set(shapes)) > 1 else (),
    )


def _kv_layers(windows: Sequence[int], n_own: int) -> tuple[int, ...]:
    """Return whose keys each layer sees: behind the first ``n_own`` those of the last one with the same window."""
    last = {window: layer for layer, window in enumerate(windows[:n_own])}
    lost = next((window for window in windows[n_own:] if window not in last), None)
    require(lost is None, "layers with shared keys", "behind one of the same window", lost)
    return (*range(n_own), *(last[window] for window in windows[n_own:]))


def part_sources(config: ModelConfig, sources: Sources, stored: Tensors, is_gguf: bool) -> Sources:
    """Return the sources as these models have them: stacked matrices, bare names, keys that are values too."""
    changed = dict(sources)
    if config.streams is not None:
        changed |= {name: sources[name]._replace(experts=config.streams.number - 1) for name in _STACKED}
    for layer in range(config.n_layers):
        prefix = f"layers.{layer}."
        for name in _BARE:
            if not is_gguf and prefix + name in sources:
                changed[prefix + name] = TensorSource(sources[prefix + name].name.removesuffix(".weight"))
        if sources[prefix + "v"].name not in stored and not config.windows[layer]:
            changed[prefix + "v"] = sources[prefix + "k"]
    return changed


def unused_keys(config: ModelConfig, sources: Sources) -> list[str]:
    """Return the stored names of keys and values that layers with shared ones have in some files."""
    shared = [layer for layer in range(config.n_layers) if not config.has_keys(layer)]
    return [sources[f"layers.{layer}.{name}"].name for layer in shared for name in ("k", "v", "k_norm")]
