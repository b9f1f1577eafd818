"""The loop: gradients of a step in parts, their sum over processes, a bounded step, and a state that can be kept.

Owns the optimizer. Knows examples as tokens and what is counted, no files. Invariant: a loop that goes on from a state
takes the steps of one that was not interrupted, bit for bit, on one machine with the same threads and processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from miaotui.errors import RequestError
from miaotui.training.checkpoint import Arrays, optimizer_arrays, restore_optimizer, take_weights
from miaotui.training.decoder import TorchDecoder
from miaotui.training.examples import Example
from miaotui.training.schedule import learning_rate
from miaotui.training.workers import Worker

BETAS, DECAY, LONGEST_GRADIENT = (0.9, 0.95), 0.01, 1.0
WARM_STEPS, LAST_RATE = 100, 0.05

Batches = Callable[[int], Sequence[Example]]  # from a step to its examples


@dataclass(frozen=True)
class LoopOptions:
    """Length and rate of a run; a step's examples are computed in ``accumulate`` parts, one by one."""

    steps: int
    rate: float
    accumulate: int = 1
    decay: float = DECAY


class TrainingLoop:
    """One run over ``batches``. `one` takes a step."""

    def __init__(self, decoder: TorchDecoder, options: LoopOptions, batches: Batches, worker: Worker) -> None:
        self.step, self.is_between_steps = 0, True  # False: some weights have moved, and others have not yet
        self._decoder, self._options, self._batches, self._worker = decoder, options, batches, worker
        self._torch, self._weights = decoder.torch, decoder.trained()
        every = list(self._weights.values())
        groups = [
            {"params": [each for each in every if each.ndim > 1], "weight_decay": options.decay},
            {"params": [each for each in every if each.ndim == 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch_adamw(self._torch, [group for group in groups if group["params"]], options.rate)

    def one(self) -> float:
        """Take one step and return the mean loss before it, in nats a token. Raises `RequestError` where it is no
        number.
        """
        examples = self._batches(self.step)
        count = max(1, sum(int(each.counted[1:].sum()) for each in examples))
        own = self._worker.share(range(len(examples)))
        parts = np.array_split(np.array(own, np.int64), min(self._options.accumulate, max(len(own), 1)))
        total = 0.0
        for part in parts:
            if len(part):
                loss = self._decoder.losses(*padded(self._torch, [examples[i] for i in part])).sum() / count
                loss.backward()
                total += float(loss.detach())
        self._worker.sum_gradients(list(self._weights.values()))
        mean = self._worker.sum_value(total)
        if not math.isfinite(mean):
            raise RequestError(f"the loss is not a number in step {self.step + 1}: lower the learning rate")
        self._torch.nn.utils.clip_grad_norm_(list(self._weights.values()), LONGEST_GRADIENT)
        rate = self._options.rate * learning_rate(self.step, self._options.steps, WARM_STEPS, LAST_RATE)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.is_between_steps = False
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step, self.is_between_steps = self.step + 1, True
        return mean

    def arrays(self) -> Arrays:
        """Return what is trained and both moments, for a checkpoint."""
        found: Arrays = {name: values.detach().numpy().copy() for name, values in self._weights.items()}
        return {**found, **optimizer_arrays(self._optimizer, self._weights)}

    def resume(self, arrays: Arrays, step: int) -> None:
        """Go on from the arrays of an earlier loop after ``step`` steps."""
        take_weights(self._torch, self._weights, arrays)
        restore_optimizer(self._torch, self._optimizer, self._weights, arrays, step)
        self.step = step


def torch_adamw(torch: Any, groups: Sequence[dict[str, Any]], rate: float) -> Any:
    """Return AdamW (Loshchilov and Hutter 2019) over groups of weights."""
    return torch.optim.AdamW(list(groups), lr=rate, betas=BETAS)


def padded(torch: Any, examples: Sequence[Example]) -> tuple[Any, Any]:
    """Return tokens ``[texts, n]`` and which are counted; shorter texts end in tokens that are not."""
    longest = max(len(each.tokens) for each in examples)
    tokens = np.zeros((len(examples), longest), np.int64)
    counted = np.zeros((len(examples), longest), np.bool_)
    for row, each in enumerate(examples):
        tokens[row, : len(each.tokens)] = each.tokens
        counted[row, : len(each.tokens)] = each.counted
    return torch.from_numpy(tokens), torch.from_numpy(counted)


def mean_losses(decoder: TorchDecoder, examples: Sequence[Example], batch: int) -> tuple[np.ndarray[Any, Any], int]:
    """Return the summed loss and the counted tokens of each example, ``[n, 2]``, and how many tokens count in all."""
    found = []
    with decoder.torch.no_grad():
        for start in range(0, len(examples), batch):
            some = examples[start : start + batch]
            losses = decoder.losses(*padded(decoder.torch, some)).double().numpy()
            counts = [int(each.counted[1:].sum()) for each in some]
            sums = [float(part.sum()) for part in np.split(losses, np.cumsum(counts)[:-1])]
            found += list(zip(sums, counts, strict=True))
    table = np.array(found, np.float64).reshape(-1, 2)
    return table, int(table[:, 1].sum())
