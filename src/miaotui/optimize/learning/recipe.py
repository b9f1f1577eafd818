"""Recipes of fine-tuning and of training from texts, as checked values.

Owns ranges and contradictions. Knows no torch and no files. Invariant: two runs of one recipe over one set of texts are
the same run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from miaotui.errors import ModelFormatError, RequestError
from miaotui.model.adapters.adapter import MAX_RANK
from miaotui.training.decoder import PRODUCTS
from miaotui.training.torch_loading import PRECISIONS

HEAD_STEP, WIDTH_STEP = 8, 32  # what the engine's kernels need, see `ModelConfig`
_Recipe = TypeVar("_Recipe", "FinetuneRecipe", "PretrainRecipe")


@dataclass(frozen=True)
class FinetuneRecipe:
    """Recipe of a fine-tuning. Raises `RequestError` for values out of range.

    ``rank`` 0: all weights; else a low-rank adapter beside the products in ``targets``, scaled by ``alpha / rank``.
    ``length`` is tokens of a text at most. ``replay`` is the share of old lines in a step, where there are some.
    ``precision`` is that of products: ``auto`` is ``bf16`` where the processor multiplies it, else ``f32``.
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = PRODUCTS
    steps: int = 200
    batch: int = 8
    accumulate: int = 1
    length: int = 512
    rate: float = 2e-4
    replay: float = 0.25
    seed: int = 0
    recompute: bool = False
    precision: str = "auto"

    def __post_init__(self) -> None:
        _check_run(self.steps, self.batch, self.accumulate, self.rate, self.precision)
        if not 0 <= self.rank <= MAX_RANK:
            raise RequestError(f"rank must be 0 (all weights) to {MAX_RANK}, not {self.rank}")
        if not self.rank and (self.alpha is not None or self.targets != PRODUCTS):
            raise RequestError("with all weights trained there is no adapter: leave rank, alpha and targets out")
        unknown = [name for name in self.targets if name not in PRODUCTS]
        if unknown or not self.targets:
            raise RequestError(f"targets must be some of {', '.join(PRODUCTS)}, not {', '.join(unknown) or 'none'}")
        if self.alpha is not None and not 0 < self.alpha <= 64 * MAX_RANK:
            raise RequestError(f"alpha must be above 0 and at most {64 * MAX_RANK}, not {self.alpha}")
        if not 8 <= self.length <= 1 << 17:
            raise RequestError(f"length must be 8 to {1 << 17:,} tokens, not {self.length}")
        if not 0 < self.replay < 1:
            raise RequestError(f"the share of old lines must be above 0 and below 1, not {self.replay}")


@dataclass(frozen=True)
class PretrainRecipe:
    """Recipe of a small decoder and its training. Raises `RequestError` for values out of range.

    ``kv_heads`` 0: as many as heads. ``length`` is tokens of a text, ``batch`` texts of a step, over all processes.
    """

    layers: int = 4
    width: int = 256
    heads: int = 4
    kv_heads: int = 0
    ffn: int = 768
    vocabulary: int = 4096
    length: int = 256
    steps: int = 2000
    batch: int = 16
    accumulate: int = 1
    rate: float = 1e-3
    seed: int = 0
    recompute: bool = False
    precision: str = "auto"
    processes: int = 1

    def __post_init__(self) -> None:
        _check_run(self.steps, self.batch, self.accumulate, self.rate, self.precision)
        if self.heads < 1 or self.width % self.heads or self.head_dim % HEAD_STEP or self.width % WIDTH_STEP:
            raise RequestError(
                f"width must be a multiple of {WIDTH_STEP}, and a head (width / heads) of {HEAD_STEP}: width "
                f"{self.width} and {self.heads} heads do not fit"
            )
        if self.ffn % WIDTH_STEP or self.ffn < WIDTH_STEP:
            raise RequestError(f"ffn must be a multiple of {WIDTH_STEP}, not {self.ffn}")
        if not 0 <= self.kv_heads <= self.heads or self.heads % (self.kv_heads or 1):
            raise RequestError(f"heads ({self.heads}) must be a multiple of kv-heads ({self.kv_heads})")
        if not 1 <= self.layers <= 64 or not 8 <= self.length <= 4096 or not 260 <= self.vocabulary <= 1 << 16:
            raise RequestError("layers must be 1 to 64, length 8 to 4,096 and vocabulary 260 to 65,536")
        if not 1 <= self.processes <= self.batch:
            raise RequestError(f"processes must be 1 to the texts of a step ({self.batch}), not {self.processes}")

    @property
    def head_dim(self) -> int:
        """Return values of a head."""
        return self.width // self.heads

    def config(self, vocab_size: int, eos_id: int) -> dict[str, Any]:
        """Return the ``config.json`` of the model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads or self.heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": max(2048, self.length),
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "eos_token_id": eos_id,
            "torch_dtype": "float32",
        }


def recipe_json(recipe: FinetuneRecipe | PretrainRecipe) -> str:
    """Return a recipe as JSON."""
    return json.dumps(asdict(recipe), sort_keys=True)


def require_same(recipe: FinetuneRecipe | PretrainRecipe, kept: str, free: tuple[str, ...]) -> None:
    """Raise `RequestError` where the recipe of a checkpoint differs in what may not change; ``free`` may.

    Raises `ModelFormatError` for what is no recipe.
    """
    before = _object(kept)
    for name, value in json.loads(recipe_json(recipe)).items():
        if name not in free and before.get(name) != value:
            raise RequestError(
                f"the run that is there has {name} {before.get(name)!r}, not {value!r}: keep it, or name another place"
            )


def kept_recipe(kind: type[_Recipe], kept: str, given: Mapping[str, Any]) -> _Recipe:
    """Return a checkpoint's recipe with what is ``given`` now in its place. Raises `ModelFormatError`."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in _object(kept).items()}
    known = {each.name for each in fields(kind)}
    if not values.keys() <= known:
        raise ModelFormatError("the checkpoint is of another version: delete it, and the run begins again")
    return kind(**{**values, **given})


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ModelFormatError(f"the checkpoint's recipe cannot be read ({error}): delete it") from error
    if not isinstance(values, dict):
        raise ModelFormatError("the checkpoint's recipe cannot be read: delete it, and the run begins again")
    return values


def _check_run(steps: int, batch: int, accumulate: int, rate: float, precision: str) -> None:
    if precision not in PRECISIONS:
        raise RequestError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if steps < 1 or not 1 <= batch <= 4096 or not 1 <= accumulate <= batch or not 0 < rate < 1:
        raise RequestError(
            f"steps must be at least 1, batch 1 to 4,096, accumulate 1 to batch, and the rate between 0 and 1, not "
            f"{steps}, {batch}, {accumulate} and {rate}"
        )
