"""A training run as plain values: sizes of the model, masks, schedule, length.

Knows no torch. Invariant: an existing `TrainRecipe` has been checked; two runs of one recipe over one text are the same
run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from miaotui.dmlm.masks.masking import MASKS
from miaotui.dmlm.masks.schedule import schedule_named
from miaotui.errors import ModelFormatError, RequestError

PRECISIONS = ("f32", "bf16")
HEAD_STEP, WIDTH_STEP = 8, 32  # what the engine's kernels need, see `ModelConfig`
MOST = {"layers": 64, "width": 4096, "ffn": 16_384, "length": 4096, "vocabulary": 65_536, "batch": 4096}


@dataclass(frozen=True)
class TrainRecipe:
    """TrainRecipe of a run. Raises `RequestError` for values out of range.

    ``block`` 0: all positions see each other (an encoder with a masked head); else blocks of so many positions, causal
    between blocks (BD3-LM). With ``decoder_layers`` a decoder writes what is masked (T5). ``length`` is tokens of a
    text, ``batch`` texts of a step. In ``bf16`` a step takes less time where the processor multiplies bfloat16.
    """

    layers: int = 4
    width: int = 192
    heads: int = 6
    ffn: int = 512
    decoder_layers: int = 0
    vocabulary: int = 4096
    length: int = 128
    block: int = 0
    masks: str = "random"
    schedule: str = "log-linear"
    batch: int = 16
    steps: int = 2000
    rate: float = 2e-3  # the learning rate's highest value
    seed: int = 0
    precision: str = "f32"  # of products in training; bounds are always measured in float32

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise RequestError(f"{name} must be from 1 to {most:,}, not {value!r}")
        if self.steps < 1 or self.heads < 1 or not 0 < self.rate < 1:
            raise RequestError("steps and heads must be at least 1, and the learning rate between 0 and 1")
        if self.width % self.heads or self.head_dim % HEAD_STEP or self.width % WIDTH_STEP or self.ffn % WIDTH_STEP:
            raise RequestError(
                f"width and ffn must be multiples of {WIDTH_STEP}, and a head (width / heads) of {HEAD_STEP}: width "
                f"{self.width}, {self.heads} heads and ffn {self.ffn} do not fit"
            )
        if self.block and (not 1 <= self.block <= self.length or self.length % self.block):
            raise RequestError(f"the length of a text ({self.length}) must be a multiple of block ({self.block})")
        if not 0 <= self.decoder_layers <= MOST["layers"]:
            raise RequestError(f"decoder_layers must be from 0 to {MOST['layers']}, not {self.decoder_layers!r}")
        if self.decoder_layers and (self.block or self.masks == "adaptive"):
            raise RequestError("a decoder writes spans from left to right: leave block out, and choose other masks")
        if self.decoder_layers and self.head_dim % WIDTH_STEP:
            raise RequestError(
                f"with a decoder a head (width / heads) is a multiple of {WIDTH_STEP}, not {self.head_dim}"
            )
        if self.masks not in MASKS:
            raise RequestError(f"no masks are called {self.masks!r}: choose one of {', '.join(MASKS)}")
        if self.precision not in PRECISIONS:
            raise RequestError(f"no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        schedule_named(self.schedule)

    @property
    def head_dim(self) -> int:
        """Return values of a head."""
        return self.width // self.heads

    def json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrainRecipe:
        """Return the recipe that a checkpoint holds. Raises `ModelFormatError`."""
        try:
            return cls(**values)
        except (TypeError, RequestError) as error:
            raise ModelFormatError(f"the checkpoint's recipe cannot be read ({error}): train anew") from error
