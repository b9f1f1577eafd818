"""A run of training in slices: its corpus in parts, and what training has learned so far, in a folder.

Owns these files. Knows no recipe. Invariant: a run that was cut into slices ends bit for bit like one that was not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.engine.loaded_model import LoadedModel
from miaotui.errors import RequestError
from miaotui.speculation.train.cell import Cell
from miaotui.speculation.train.corpus import Corpus, Memory, collect
from miaotui.speculation.train.dataset import HeadDataset
from miaotui.training.checkpoint import read_state, write_state

PART = 10  # batches of one part of a corpus
ARRAYS = ("hidden", "middle", "tokens", "starts", "found", "begins")


def collect_parts(
    loaded: LoadedModel,
    batches: int,
    seed: int,
    folder: Path,
    end_s: float,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus | None:
    """Return a corpus of ``batches``, kept in parts; None when the slice ended (`time.monotonic`) before it was whole.

    Each part has questions of its own. Raises what `collect` raises.
    """
    parts = []
    for number, first in enumerate(range(0, batches, PART)):
        path = folder / f"corpus-{seed}-{number}.safetensors"
        count = min(PART, batches - first)
        if not path.is_file():
            if time.monotonic() >= end_s:
                return None
            write_state(path, corpus_arrays(collect(loaded, count, seed * 1000 + number)), {"batches": str(count)})
        found = read_state(path)
        assert found is not None, "it was written"
        arrays, header = found
        if int(header["batches"]) != count:
            raise RequestError(f"{path} holds {header['batches']} batches, not {count}: keep the number, or delete it")
        parts.append(corpus_of(arrays))
        if progress is not None:
            progress(first + count, batches)
    return joined(parts)


def corpus_arrays(corpus: Corpus) -> dict[str, NDArray[Any]]:
    """Return a corpus with keys and values as arrays by name."""
    assert corpus.memory is not None, "as it is collected"
    found, begins = corpus.memory.found, corpus.memory.begins
    values = (corpus.hidden, corpus.middle, corpus.tokens, corpus.starts, found, begins)
    return {**dict(zip(ARRAYS, values, strict=True)), "layer": np.array([corpus.layer])}


def corpus_of(arrays: Mapping[str, NDArray[Any]]) -> Corpus:
    """Return the corpus of `corpus_arrays`."""
    hidden, middle, tokens, starts, found, begins = (arrays[name] for name in ARRAYS)
    return Corpus(hidden, middle, tokens, starts, int(arrays["layer"][0]), Memory(found, begins))


def joined(parts: Sequence[Corpus]) -> Corpus:
    """Return the texts of all parts in order."""
    memories = [each.memory for each in parts if each.memory is not None]
    assert len(memories) == len(parts), "as they are collected"
    hidden, middle = (np.concatenate([getattr(each, name) for each in parts]) for name in ("hidden", "middle"))
    tokens = np.concatenate([each.tokens for each in parts])
    memory = Memory(np.concatenate([each.found for each in memories]), _moved([each.begins for each in memories]))
    return Corpus(hidden, middle, tokens, _moved([each.starts for each in parts]), parts[0].layer, memory)


def _moved(starts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    lengths = np.concatenate([np.diff(each) for each in starts])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


class KeptTraining:
    """The state of one training in a file; ``end_s`` is when its slice ends (`time.monotonic`)."""

    def __init__(self, path: Path, end_s: float, recipe: str) -> None:
        self.path, self.end_s, self._recipe = path, end_s, recipe

    @property
    def is_over(self) -> bool:
        """Return whether the slice has ended."""
        return time.monotonic() >= self.end_s

    def resume(self, cell: Cell, optimizers: Sequence[Any], dataset: HeadDataset, torch: Any) -> int:
        """Go back to the state that was kept; return the steps done. Raises `RequestError` for another recipe's."""
        kept = read_state(self.path)
        if kept is None:
            return 0
        arrays, header = kept
        if header["recipe"] != self._recipe:
            raise RequestError(
                f"{self.path} was trained as {header['recipe']}, not {self._recipe}: take another folder"
            )
        dataset.random.bit_generator.state = json.loads(header["random"])
        with torch.no_grad():
            for name, weight in cell.weights.items():
                weight.copy_(torch.from_numpy(arrays[name]))
        for optimizer in optimizers:
            for name, weight in _owned(cell, optimizer):
                found = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
                optimizer.state[weight] = {key: torch.from_numpy(value.copy()) for key, value in found.items()}
        return int(header["step"])

    def keep(self, step: int, cell: Cell, optimizers: Sequence[Any], dataset: HeadDataset) -> None:
        """Write the state after ``step`` steps."""
        arrays = {name: weight.detach().numpy() for name, weight in cell.weights.items()}
        for optimizer in optimizers:
            for name, weight in _owned(cell, optimizer):
                arrays |= {f"{name}/{key}": value.numpy() for key, value in optimizer.state[weight].items()}
        state = json.dumps(dataset.random.bit_generator.state)
        write_state(self.path, arrays, {"step": str(step), "recipe": self._recipe, "random": state})


def _owned(cell: Cell, optimizer: Any) -> list[tuple[str, Any]]:
    mine = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    return [(name, weight) for name, weight in cell.weights.items() if id(weight) in mine]
