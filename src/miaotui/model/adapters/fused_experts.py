"""Adapters of experts that a file has in one piece for all experts of a layer.

PEFT writes them for models whose experts are one parameter (``target_parameters``): A is ``[experts * rank, inputs]``,
B ``[outputs, rank * experts]`` with the experts of a rank side by side, and of gate and up together. GGUF stacks them,
``[experts, rank, inputs]`` and ``[experts, outputs, rank]``. Both become pairs with one expert's rows after another's
(`StoredPair.experts`). Invariant: shapes are those of the model before anything is decoded. Source: PEFT's
``ParamWrapper.get_delta_weight``; llama.cpp's ``build_lora_mm_id``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.adapters.adapter import MAX_RANK
from miaotui.model.adapters.fitting import StoredPair, foreign
from miaotui.model.config import ExpertsConfig, ModelConfig
from miaotui.model.reading.sources import TensorSource
from miaotui.model.reading.stored.fused_experts import JOINED

Array = NDArray[np.float32]
NESTED = ".base_layer"  # the wrapper of a module's first parameter lies within that of its second one
MODULES = (".experts", ".input_linear", ".output_linear")  # of such parameters; the last two are Granite's


class FusedLayer(NamedTuple):
    """A layer whose experts may be changed in one piece: stored names of their matrices, and sizes."""

    names: Mapping[str, str]  # by part: gate, up, down
    hidden: int
    experts: ExpertsConfig

    @property
    def in_turns(self) -> bool:
        """Return whether rows of gate and up take turns, as gpt-oss has them."""
        return self.experts.expert_bias


def fused_layers(config: ModelConfig, sources: Mapping[str, TensorSource]) -> dict[str, FusedLayer]:
    """Return the layers with experts by the modules whose parameters may hold them."""
    found: dict[str, FusedLayer] = {}
    for layer in range(config.n_layers):
        experts = config.layer_experts(layer)
        if experts is not None:
            names = {part: sources[f"layers.{layer}.expert_{part}"].name for part in ("gate", "up", "down")}
            place = names["gate"].partition(MODULES[0])[0]
            found |= {place + module: FusedLayer(names, config.hidden_size, experts) for module in MODULES}
    return found


def split_peft(label: str, module: str, layer: FusedLayer, pair: StoredPair) -> Iterator[tuple[str, StoredPair]]:
    """Yield the pairs of one of a layer's parameters by stored name. Raises `ModelFormatError` if it is of no model
    like this one.
    """
    count, size, hidden = layer.experts.count, layer.experts.size, layer.hidden
    (rows, inputs), (outputs, columns) = pair.down.shape, pair.up.shape
    parts = {(hidden, 2 * size): ("gate", "up"), (size, hidden): ("down",)}.get((inputs, outputs))
    if parts is None or rows != columns or rows % count or rows > MAX_RANK * count:
        raise foreign(
            label,
            f"its matrices at {module[:200]} have shapes {pair.up.shape, pair.down.shape}, and the model has {count} "
            f"experts of {hidden} inputs and {size} values",
        )
    stacked = pair.up.float32().reshape(outputs, rows // count, count).transpose(2, 0, 1)
    for number, part in enumerate(parts):
        step = len(parts) if layer.in_turns else 1
        first = number if layer.in_turns else number * size
        own = stacked[:, first::step] if layer.in_turns else stacked[:, first : first + outputs // len(parts)]
        yield layer.names[part], StoredPair(pair.down, _stored(f"{module}.{part}", own), pair.scale, count)


def stacked_gguf(base: str, down: StoredTensor, up: StoredTensor, alpha: float) -> Iterator[tuple[str, StoredPair]]:
    """Yield the pairs of a GGUF file's ``lora_a`` and ``lora_b`` by stored name.

    Raises `ModelFormatError` for vectors.
    """
    if min(len(down.shape), len(up.shape)) < 2:
        raise ModelFormatError(f"{base[:200]!r} of the adapter has vectors instead of matrices; convert it again")
    experts = down.shape[0] if len(down.shape) == len(up.shape) == 3 and down.shape[0] == up.shape[0] else 0
    pair = StoredPair(_flat(down), _flat(up), alpha / max(down.shape[-2], 1), experts)
    prefix = base.removesuffix(JOINED)
    if prefix == base or not experts or up.shape[1] % 2:
        yield base, pair
        return
    for half, name in enumerate(("ffn_gate_exps.weight", "ffn_up_exps.weight")):
        rows = np.arange(pair.up.rows).reshape(experts, 2, -1)[:, half].reshape(-1)
        yield prefix + name, pair._replace(up=pair.up.take_rows(rows))


def _flat(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor(tensor.name, (tensor.rows, tensor.cols), tensor.kind, tensor.data)


def _stored(name: str, stacked: Array) -> StoredTensor:
    rows = np.ascontiguousarray(stacked).reshape(-1, stacked.shape[-1])
    return StoredTensor.from_bytes(name, rows.shape, BlockType.F32, rows.reshape(-1).view(np.uint8))
