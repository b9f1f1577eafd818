"""Shape of a pruned model: which layers stay, how many key/value heads and feed-forward channels each of them keeps.

Owns the checks of a shape against a model, and the configuration that follows. Knows no weights and no cost. Invariant:
a shape that exists fits its model; all layers keep equal widths, as files and kernels want it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from miaotui.errors import MiaotuiError, RequestError, UnsupportedModelError
from miaotui.model.config import LANES, ModelConfig

Value = TypeVar("Value")
LEAST_SHARE = 0.5  # of layers, heads or channels that a search keeps: with less, little of the model is left


@dataclass(frozen=True)
class PrunedShape:
    """Numbers of the layers that stay, ascending; key/value heads of each (with their query heads); FFN channels."""

    layers: tuple[int, ...]
    kv_heads: int
    ffn: int

    @property
    def counts(self) -> dict[str, int]:
        """Return how many layers, heads and channels there are, under the names of `PruneOptions`."""
        return {"layers": len(self.layers), "kv_heads": self.kv_heads, "ffn": self.ffn}

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {"layers": list(self.layers), "kv_heads": self.kv_heads, "ffn": self.ffn}

    def changes_widths(self, config: ModelConfig) -> bool:
        """Return whether matrices become smaller."""
        return self.kv_heads != config.n_kv_heads or self.ffn != config.ffn_size


def whole_shape(config: ModelConfig) -> PrunedShape:
    """Return the shape in which nothing is left out."""
    return PrunedShape(tuple(range(config.n_layers)), config.n_kv_heads, config.ffn_size)


def require_shape(config: ModelConfig, layers: int | None, kv_heads: int | None, ffn: int | None) -> None:
    """Raise `RequestError` for counts that a model cannot be pruned to, `UnsupportedModelError` for such models."""
    wanted = {
        "layers": (layers, config.n_layers, 1),
        "key/value heads": (kv_heads, config.n_kv_heads, 1),
        "feed-forward channels": (ffn, config.ffn_size, LANES),
    }
    for name, (count, most, step) in wanted.items():
        if count is not None and not (step <= count <= most and count % step == 0):
            steps = f" in steps of {step}" if step > 1 else ""
            raise RequestError(f"the model has {most} {name}, and can keep {step} to {most}{steps}, not {count}")
    if kv_heads is not None and kv_heads * config.n_heads // config.n_kv_heads * config.head_dim % LANES:
        raise RequestError(f"{kv_heads} key/value heads are no whole blocks of {LANES} values: keep one more or fewer")
    if (kv_heads or ffn) and not _has_plain_widths(config):
        raise UnsupportedModelError(
            "heads and channels can be left out of models with plain attention and feed-forward parts: choose layers"
        )
    if config.alibi and layers is not None:
        raise UnsupportedModelError(
            "readers recognise Baichuan 13B by its number of layers, so no layer can be left out: choose another model"
        )
    if config.masked is not None:
        raise UnsupportedModelError("models that restore masked tokens cannot be pruned: choose another model")


def shape_ladders(config: ModelConfig) -> Iterator[list[PrunedShape]]:
    """Yield the ways on which a search leaves parts out, each from the largest shape to the smallest.

    They are: layers; channels; heads; layers of a model that has three quarters of its channels. Which layers go is not
    known before they are tried; the last ones stand for them.
    """
    whole = whole_shape(config)
    fewest = {name: math.ceil(LEAST_SHARE * count) for name, count in whole.counts.items()}
    layers, channels = config.n_layers, config.ffn_size
    fewer_layers = range(layers - 1, fewest["layers"] - 1, -1) if _has_equal_layers(config) else ()
    fewer_channels = range(channels - LANES, fewest["ffn"] - 1, -LANES)
    narrow = channels * 3 // 4 // LANES * LANES
    ways = [
        [replace(whole, layers=whole.layers[:count]) for count in fewer_layers],
        [replace(whole, ffn=count) for count in fewer_channels],
        [replace(whole, kv_heads=count) for count in range(config.n_kv_heads - 1, fewest["kv_heads"] - 1, -1)],
        [replace(whole, layers=whole.layers[:count], ffn=narrow) for count in fewer_layers],
    ]
    for way in ways:
        fitting = [shape for shape in way if _fits(config, shape)]
        if fitting:
            yield fitting


def _fits(config: ModelConfig, shape: PrunedShape) -> bool:
    asked = [
        count if count != own else None
        for count, own in zip(shape.counts.values(), whole_shape(config).counts.values(), strict=True)
    ]
    try:
        require_shape(config, *asked)
    except MiaotuiError:
        return False
    return True


def _has_equal_layers(config: ModelConfig) -> bool:
    """Return whether no layer's kind follows from its number."""
    return len(set(config.windows)) == 1 and len(set(config.rope_layers)) == 1


def _has_plain_widths(config: ModelConfig) -> bool:
    rare = config.joint_qk_norm or config.sinks or config.alibi  # slopes follow the number of a head
    return config.experts is None and config.latent is None and not rare


def pruned_config(config: ModelConfig, shape: PrunedShape) -> ModelConfig:
    """Return the configuration of a model that was pruned to ``shape``."""
    experts = config.experts
    if experts is not None:
        experts = replace(experts, layers=_of(experts.layers, shape.layers))
    return replace(
        config,
        n_layers=len(shape.layers),
        n_heads=shape.kv_heads * config.n_heads // config.n_kv_heads,
        n_kv_heads=shape.kv_heads,
        ffn_size=shape.ffn,
        windows=_of(config.windows, shape.layers),
        rope_layers=_of(config.rope_layers, shape.layers),
        experts=experts,
    )


def _of(values: Sequence[Value], layers: Sequence[int]) -> tuple[Value, ...]:
    return tuple(values[layer] for layer in layers)
