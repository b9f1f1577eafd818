"""Made texts of random words, and a tiny model to optimise with them."""

from __future__ import annotations

import random
from pathlib import Path

from miaotui.optimize.cost import MachineRates
from miaotui.optimize.draft_gain import MeasuredDrafts
from miaotui.optimize.optimizer import Optimization, OptimizeOptions
from miaotui.optimize.plan import OptimizeTarget

RATES = MachineRates(20, 200)
GAIN = MeasuredDrafts(1.25, 1.0, 1.5, 8, 500)


def made_text(seed: int, words: int = 500) -> str:
    source = random.Random(seed)
    made = ["".join(source.choice("abcdefgh") for _ in range(source.randint(2, 8))) for _ in range(words)]
    return "\n\n".join(" ".join(made[start : start + 50]) for start in range(0, words, 50))


def write_texts(folder: Path) -> tuple[Path, Path]:
    for seed, name in enumerate(("calibration.txt", "test.txt")):
        (folder / name).write_text(made_text(seed), encoding="utf-8")
    return folder / "calibration.txt", folder / "test.txt"


def made_job(model: Path, folder: Path, **wishes: float) -> Optimization:
    """An optimisation that measures no speed: compiled kernels would take longer than all the rest."""
    calibration, test = write_texts(folder)
    options = OptimizeOptions(calibration, test, calibration_tokens=1024, test_tokens=1024, measure_speed=False)
    return Optimization(model, folder / "out.gguf", OptimizeTarget(**wishes), RATES, options)  # type: ignore[arg-type]
