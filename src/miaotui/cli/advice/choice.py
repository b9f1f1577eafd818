"""Advice on models: which of the catalog answer within a second on this machine, and which one for a language.

Owns the estimate of an answer's time and the choice. Knows speeds only as numbers (`machine_speeds`). Invariant: a
model is advised only if its architecture is known here. The estimate is the limit of memory and arithmetic, divided by
the shares of it that the engine reaches (`PREFILL_SHARE`, `DECODE_SHARE`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miaotui.cli.advice.machine_speeds import Speeds
from miaotui.cli.advice.model_estimates import OVERHEAD_BYTES
from miaotui.hub.catalog import CATALOG, CatalogModel
from miaotui.hub.catalog.shapes import ModelShape
from miaotui.hub.resolve import list_models
from miaotui.kernels.linear.formats import Format

PROMPT_TOKENS, ANSWER_TOKENS, LIMIT_S = 500, 50, 1.0
PREFILL_SHARE, DECODE_SHARE = 0.75, 0.85  # of the machine's limits, below those that the benchmarks show
CHINESE, ENGLISH = "zh", "en"


@dataclass(frozen=True)
class Estimate:
    """The estimated time of an answer of `ANSWER_TOKENS` after a prompt of `PROMPT_TOKENS`, in one format."""

    format: Format
    seconds: float
    fits: bool

    @property
    def in_time(self) -> bool:
        """Return whether the whole answer comes within a second."""
        return self.fits and self.seconds <= LIMIT_S


def estimate(shape: ModelShape, form: Format, speeds: Speeds, memory_bytes: int | None) -> Estimate:
    """Return the time of an answer of a model of ``shape`` in ``form`` at these speeds."""
    per_weight = form.bits_per_weight / 8
    step_bytes = (shape.layer_weights + shape.head_weights) * per_weight
    kv_bytes = shape.kv_bytes_per_token * (PROMPT_TOKENS + ANSWER_TOKENS / 2)
    pairs = PROMPT_TOKENS * (PROMPT_TOKENS + 1) / 2
    attention = 2 * pairs * shape.layers * shape.heads * shape.head_dim  # scores and values
    macs = PROMPT_TOKENS * shape.layer_weights + shape.head_weights + attention
    read, multiply = speeds.read_gb_per_s * 1e9, speeds.int8_gmac_per_s * 1e9
    prefill_s = max(step_bytes / read, macs / multiply) / PREFILL_SHARE
    decode_s = (ANSWER_TOKENS - 1) * (step_bytes + kv_bytes) / read / DECODE_SHARE
    needed = shape.stored_weights * per_weight + OVERHEAD_BYTES
    return Estimate(form, prefill_s + decode_s, memory_bytes is None or needed <= memory_bytes)


def best_estimate(model: CatalogModel, speeds: Speeds, memory_bytes: int | None) -> Estimate | None:
    """Return the estimate of the format that is used unasked, or of 4 bits where only that is in time.

    None for models that do not answer, and for those whose architecture is unknown here.
    """
    if model.shape is None or not is_known(model):
        return None
    usual = Format.Q4 if model.files else Format.Q8
    found = estimate(model.shape, usual, speeds, memory_bytes)
    smaller = estimate(model.shape, Format.Q4, speeds, memory_bytes)
    return smaller if smaller.in_time and not found.in_time else found


def is_known(model: CatalogModel) -> bool:
    """Return whether the architecture of a catalog model is one that runs here."""
    from miaotui.errors import UnsupportedModelError
    from miaotui.model.reading.families import by_model_type

    try:
        by_model_type(model.family)
    except UnsupportedModelError:
        return False
    return bool(model.family)


def advised(language: str, speeds: Speeds | None, memory_bytes: int | None) -> CatalogModel:
    """Return the model to use for ``language``: the largest that answers within a second, else the quickest.

    Without speeds the smallest one that is on this computer, else the smallest. Models with terms to accept are
    advised only if they are here already.
    """
    here = {listed.name for listed in list_models() if listed.path}
    able = [model for model in CATALOG.values() if language in model.languages and is_known(model)]
    free = [model for model in able if model.name in here or not model.licence.explicit]
    if speeds is None:
        return min(free, key=lambda model: (model.name not in here, model.parameters))
    return _by_speed(free, speeds, memory_bytes)


def _by_speed(models: Sequence[CatalogModel], speeds: Speeds, memory_bytes: int | None) -> CatalogModel:
    timed = [(model, found) for model in models if (found := best_estimate(model, speeds, memory_bytes)) is not None]
    in_time = [model for model, found in timed if found.in_time]
    if in_time:
        return max(in_time, key=lambda model: model.parameters)
    return min(timed, key=lambda pair: pair[1].seconds)[0]


def lacks_chinese(name: str, prompt: str) -> bool:
    """Return whether ``prompt`` has Chinese characters and the catalog says that the model knows no Chinese."""
    model = CATALOG.get(name.lower())
    if model is None or not model.languages or CHINESE in model.languages:
        return False
    return any("\u3400" <= character <= "\u9fff" for character in prompt)
