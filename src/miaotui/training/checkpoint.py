"""Checkpoints: arrays and a header in one file of safetensors, and the state of an optimizer among them.

Owns the file. Knows neither networks nor data. Invariants: nothing is unpickled; a file is written whole or not at all,
so that a process that is killed while it writes leaves the checkpoint before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import make_folder
from miaotui.errors import ModelFormatError
from miaotui.hub.files import require_room, write_whole
from miaotui.libraries import need

Arrays = dict[str, NDArray[Any]]
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


def write_state(path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> None:
    """Write arrays and a header in place of what was there. Raises `CacheError`."""
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    require_room(make_folder(path.parent), sum(values.nbytes for values in contiguous.values()))
    content = need("safetensors.numpy").save(contiguous, dict(header))

    def write(file: Any) -> None:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

    write_whole(path, "a checkpoint", write)


def read_state(path: Path) -> tuple[Arrays, dict[str, str]] | None:
    """Read arrays and header; None if there is no file. Raises `ModelFormatError` for a damaged one."""
    if not path.is_file():
        return None
    library = need("safetensors")
    try:
        with library.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, library.SafetensorError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ModelFormatError:
    """Return the error of a file that is no checkpoint."""
    return ModelFormatError(f"{path} is no checkpoint of a training run ({error}): delete it, or train elsewhere")


def optimizer_arrays(optimizer: Any, weights: Mapping[str, Any]) -> Arrays:
    """Return both moments of the weights that have some, by ``moment/name``."""
    return {
        f"{moment}/{name}": optimizer.state[values][moment].numpy().copy()
        for name, values in weights.items()
        for moment in MOMENTS
        if moment in optimizer.state.get(values, {})
    }


def restore_optimizer(torch: Any, optimizer: Any, weights: Mapping[str, Any], arrays: Arrays, step: int) -> None:
    """Give an optimizer the moments that `optimizer_arrays` has returned after ``step`` steps."""
    for name, values in weights.items():
        if f"{MOMENTS[0]}/{name}" in arrays:
            moments = {moment: torch.from_numpy(arrays[f"{moment}/{name}"].copy()) for moment in MOMENTS}
            optimizer.state[values] = {"step": torch.tensor(float(step)), **moments}


def take_weights(torch: Any, weights: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy arrays into the weights of these names."""
    with torch.no_grad():
        for name, values in weights.items():
            values.copy_(torch.from_numpy(arrays[name].copy()))


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write small files of a model's folder, each whole or not at all. Raises `CacheError`."""
    make_folder(folder)
    for name, text in texts.items():
        _write_text(folder / name, text.encode())


def _write_text(path: Path, content: bytes) -> None:
    write_whole(path, path.name, lambda file: file.write(content))
