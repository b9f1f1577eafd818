"""Whisper's own tensors in canonical form: convolutions as matrices over frames, and biases that files leave out.

Knows neither containers nor settings. Invariant: nothing is decoded before it is read. Source: Radford et al. 2022,
section 2.2; keys have no bias there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import BlockType, ComputedTensor, StoredTensor
from miaotui.model.reading.checks import require
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.names import CONVOLUTIONS, seq2seq_shapes

TAPS = 3  # frames that a convolution sees
_KEY_BIASES = (".k_bias", ".cross_k_bias")


def whisper_tensors(
    config: Seq2SeqConfig, names: Mapping[str, str], stored: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Return the stored tensors with convolutions ``[outputs, 3 x inputs]`` and biases of 0 for keys without one.

    ``names`` are the stored names of the canonical ones. Raises `ModelFormatError` for a convolution of another shape.
    """
    found, shapes = dict(stored), seq2seq_shapes(config)
    for name in CONVOLUTIONS:
        if names[name] in found:
            found[names[name]] = unfolded_convolution(found[names[name]], shapes[name])
    for name, own in names.items():
        if name.endswith(_KEY_BIASES) and own not in found:
            found[own] = zero_bias(own, shapes[name][0])
    return found


def alignment_heads(values: Mapping[str, Any], config: Seq2SeqConfig) -> tuple[tuple[int, int], ...]:
    """Return the heads (layer, head) of the cross-attention that follow the sound in time.

    ``values`` may list them; without a list all heads of the later half of the layers do. Raises `ModelFormatError`.
    """
    stack, listed = config.decoder, values.get("alignment_heads")
    if not config.mel_bins:
        return ()
    if listed is None:
        layers = range(stack.n_layers // 2, stack.n_layers)
        return tuple((layer, head) for layer in layers for head in range(stack.n_heads))
    sound = isinstance(listed, list) and 1 <= len(listed) <= stack.n_layers * stack.n_heads
    for pair in listed if sound else ():
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(each) is int for each in pair)
        sound = sound and whole and 0 <= pair[0] < stack.n_layers and 0 <= pair[1] < stack.n_heads
    require(sound, "alignment_heads", "pairs of a decoder layer and a head", str(listed)[:80])
    return tuple((layer, head) for layer, head in listed)


def unfolded_convolution(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    """Return a convolution ``[outputs, inputs, 3]`` as the matrix ``[outputs, 3 x inputs]`` of its frames in order.

    Raises `ModelFormatError` for another shape.
    """
    outputs, inputs = shape[0], shape[1] // TAPS
    if tensor.shape != (outputs, inputs, TAPS):
        raise ModelFormatError(
            f"tensor {tensor.name!r} has shape {tensor.shape}, but the model's dimensions ask for "
            f"{(outputs, inputs, TAPS)}: the file is damaged; download it again"
        )
    return ComputedTensor(
        tensor.name,
        (outputs, shape[1]),
        lambda: tensor.float32().reshape(tensor.shape).transpose(0, 2, 1).reshape(shape),
    )


def zero_bias(name: str, width: int) -> StoredTensor:
    """Return a bias of 0."""
    return StoredTensor.from_bytes(name, (width,), BlockType.F32, np.zeros(4 * width, np.uint8))
