"""Distillation of a teacher into a student: the loop, its checkpoints, and the student as a file.

Owns the order of the work and what is kept between two runs, in a work folder. Knows no command line. Needs torch; what
it writes runs without. Invariant: a run that was interrupted and goes on gives the weights of one that was not, on one
machine and number of threads; the file appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import format_size
from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import BlockType
from miaotui.kernels.platform.cpu import probe
from miaotui.model.config import ModelConfig
from miaotui.model.writing.files import write_like
from miaotui.model.writing.layout import StoredLayout, array_bytes
from miaotui.optimize.distillation.objectives import distance
from miaotui.optimize.distillation.recipe import DistilRecipe
from miaotui.optimize.distillation.teacher import ChunkPlan, TeacherCache, TeacherChunk, common_vocabulary
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.openings import CALIBRATION
from miaotui.training.checkpoint import (
    Arrays,
    damaged,
    optimizer_arrays,
    read_state,
    restore_optimizer,
    take_weights,
    write_state,
)
from miaotui.training.decoder import TorchDecoder
from miaotui.training.schedule import learning_rate
from miaotui.training.torch_loading import load_torch, product_dtype
from miaotui.types import Progress

CHUNK_TEXTS = 64
CHECKPOINT_S = 120.0  # between two checkpoints
BETAS, DECAY, LONGEST_GRADIENT = (0.9, 0.95), 0.01, 1.0
WARM_STEPS, LAST_RATE = 20, 0.05  # of the learning rate: its end is that share of its top
HEAD_ROWS = 1024  # positions whose logits are in memory at a time
Array = NDArray[np.float32]


@dataclass(frozen=True)
class DistilReport:
    """Summary of a run: steps, seconds of this process, the distance (nats, top tokens and rest) first and last."""

    steps: int
    tokens: int
    seconds: float
    first_loss: float
    last_loss: float
    recipe: Mapping[str, Any]
    teacher: str  # digest
    chunks_by_student: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dict(vars(self))


@dataclass(eq=False)
class Distillation:
    """One distillation of the model at ``teacher`` into the one at ``student``, both GGUF, written to ``out``.

    ``given`` are rows of tokens to learn from before any are written.
    """

    teacher: Path
    student: Path
    out: Path
    work: Path
    recipe: DistilRecipe
    given: Sequence[Sequence[int]] = ()
    progress: Progress | None = None
    stop: Callable[[int], bool] | None = None  # for tests: whether to stop after so many steps

    def run(self) -> DistilReport:
        """Train and write the student. Raises a `MiaotuiError`; then nothing is at the output's place."""
        torch = load_torch()
        with open_source(self.student) as student, open_source(self.teacher) as teacher:
            sizes = teacher.config.vocab_size, student.config.vocab_size
            vocabulary = common_vocabulary(teacher.file.metadata, student.file.metadata, sizes)
            _require_memory(student, self.recipe)
            chunks = -(-self.recipe.tokens // (CHUNK_TEXTS * self.recipe.length))
            texts = [teacher.digest(), vocabulary, self.recipe.length, self.recipe.seed, hashed(self.given)]
            shared = _folder(self.work, texts)
            folder = _folder(self.work, [*texts, self.recipe.json(), student.digest()])
            plan = ChunkPlan(CALIBRATION, self.given, CHUNK_TEXTS, self.recipe.length, self.recipe.seed)
            cache = TeacherCache(shared, folder, self.teacher, plan, vocabulary)
            cache.require_room(chunks)
            try:
                run = _Loop(torch, self, student, cache, folder, chunks)
                report = run.train(teacher.digest())
            finally:
                cache.close()
            write_student(student, run.decoder.arrays(), self.out)
        return report


class _Loop:
    """State of a run: the student, its optimizer, and how far it is."""

    def __init__(
        self, torch: Any, job: Distillation, student: GgufSource, cache: TeacherCache, folder: Path, chunks: int
    ) -> None:
        self._torch, self._job, self._source, self._cache, self._folder = torch, job, student, cache, folder
        self._chunks, self._recipe, self._common = chunks, job.recipe, cache.vocabulary
        self.decoder = TorchDecoder(
            torch, student.config, decoded(student), product_dtype(torch), job.recipe.rank, job.recipe.seed
        )
        trained = list(self.decoder.trained().values())
        groups = [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": DECAY},
            {"params": [each for each in trained if each.ndim == 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=job.recipe.rate, betas=BETAS)
        self._step = 0
        self._losses: list[float] = []
        self._current: tuple[int, TeacherChunk | None] = -1, None
        self._state = folder / "training.safetensors"
        self._resume()

    def train(self, teacher_digest: str) -> DistilReport:
        """Train to the end of the recipe."""
        began_s = saved_s = time.perf_counter()
        recipe, job = self._recipe, self._job
        first = self._step
        while self._step < recipe.steps:
            self._losses.append(self._one())
            self._step += 1
            if not math.isfinite(self._losses[-1]):
                raise RequestError(f"the loss is not a number after step {self._step}: lower the learning rate")
            if job.progress is not None:
                job.progress(f"learning (distance {self._losses[-1]:.3f})", self._step, recipe.steps)
            asked = job.stop is not None and job.stop(self._step)
            if asked or time.perf_counter() - saved_s > CHECKPOINT_S:
                self._save()
                saved_s = time.perf_counter()
            if asked:
                raise KeyboardInterrupt
        spent = time.perf_counter() - began_s
        tenth = max(1, len(self._losses) // 10)
        learned = (self._step - first) * recipe.batch * recipe.length
        return DistilReport(
            steps=self._step,
            tokens=learned,
            seconds=round(spent, 1),
            first_loss=float(np.mean(self._losses[:tenth])),
            last_loss=float(np.mean(self._losses[-tenth:])),
            recipe=vars(recipe),
            teacher=teacher_digest,
            chunks_by_student=sum(map(self._is_own, range(self._chunks))),
        )

    def _one(self) -> float:
        """Take one step; return the mean distance before it."""
        torch, recipe = self._torch, self._recipe
        tokens, ids, logs = self._batch()
        states = self.decoder.states(torch.from_numpy(tokens.astype(np.int64))).flatten(0, 1)
        ids, logs = (torch.from_numpy(each.reshape(-1, each.shape[-1])) for each in (ids, logs))
        held = states.detach().requires_grad_()
        total, count = 0.0, len(states)
        for start in range(0, count, HEAD_ROWS):  # logits of some positions at a time
            part = slice(start, start + HEAD_ROWS)
            logits = self.decoder.logits(held[part])[:, : self._common]
            loss = distance(torch, recipe.objective, logs[part].float(), ids[part].long(), logits).sum() / count
            loss.backward()
            total += float(loss.detach())
        states.backward(held.grad)
        torch.nn.utils.clip_grad_norm_(list(self.decoder.trained().values()), LONGEST_GRADIENT)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate * learning_rate(self._step, recipe.steps, WARM_STEPS, LAST_RATE)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total

    def _batch(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        recipe = self._recipe
        total = self._chunks * CHUNK_TEXTS
        numbers = [(self._step * recipe.batch + i) % total for i in range(recipe.batch)]
        parts = [self._chunk(n // CHUNK_TEXTS) for n in numbers]
        rows = [n % CHUNK_TEXTS for n in numbers]
        found = [
            np.stack([getattr(chunk, name)[row] for chunk, row in zip(parts, rows, strict=True)])
            for name in ("tokens", "ids", "logs")
        ]
        return found[0], found[1], found[2]

    def _chunk(self, number: int) -> TeacherChunk:
        at, found = self._current
        if at == number and found is not None:
            return found
        writer = None
        own = self._is_own(number)
        if own and not self._cache.has(number, own):
            writer = self._folder / "student.gguf"
            write_student(self._source, self.decoder.arrays(), writer)
        found = self._cache.chunk(number, writer, own)
        self._current = number, found
        if writer is not None:
            writer.unlink(missing_ok=True)
        return found

    def _is_own(self, number: int) -> bool:
        """Return whether the student writes a chunk: evenly spaced, and not the first."""
        share = self._recipe.on_policy
        return int((number + 1) * share) > int(number * share) and number > 0

    def _save(self) -> None:
        trained = self.decoder.trained()
        arrays: Arrays = {"losses": np.array(self._losses, np.float32)}
        arrays |= {name: values.detach().numpy() for name, values in trained.items()}
        write_state(self._state, {**arrays, **optimizer_arrays(self._optimizer, trained)}, {"step": str(self._step)})

    def _resume(self) -> None:
        found, trained = read_state(self._state), self.decoder.trained()
        if found is None:
            return
        arrays, _ = found
        try:
            self._losses = [float(each) for each in arrays["losses"]]
            self._step = len(self._losses)
            take_weights(self._torch, trained, arrays)
            restore_optimizer(self._torch, self._optimizer, trained, arrays, self._step)
        except (KeyError, RuntimeError) as error:
            raise damaged(self._state, error) from error


def decoded(source: GgufSource) -> Mapping[str, Array]:
    """Return a model's weights in float32, by canonical name."""
    tensors = source.canonical()
    return {name: tensors[name].float32().reshape(tensors[name].shape) for name in tensors}


def write_student(source: GgufSource, arrays: Mapping[str, Array], out: Path) -> None:
    """Write ``source`` with other weights, by canonical name: matrices in float16, vectors in float32."""
    layout = StoredLayout(source.canonical())
    sizes = {
        name: (BlockType.F16 if layout.holds(name) and len(each.shape) > 1 else each.kind, each.shape)
        for name, each in layout.written()
    }
    write_like(source.path, out, sizes, array_bytes(layout, arrays))


def training_bytes(config: ModelConfig, weights: int, recipe: DistilRecipe) -> int:
    """Return the memory that training takes: weights, gradients, moments, copies; activations; logits; the teacher."""
    states = recipe.batch * recipe.length * config.n_layers * (14 * config.hidden_size + 4 * config.ffn_size) * 4
    logits = HEAD_ROWS * config.vocab_size * 4 * 4
    parameters = weights * (6 if recipe.rank else 20)
    return parameters + states + logits + weights * 2 + 600_000_000


def _require_memory(student: GgufSource, recipe: DistilRecipe) -> None:
    weights = sum(math.prod(tensor.shape) for tensor in student.file.tensors.values())
    needed, there = training_bytes(student.config, weights, recipe), probe().memory_bytes
    if there is not None and needed > there:
        raise RequestError(
            f"training {student.path.name} takes about {format_size(needed)} of memory, and this machine lets it have "
            f"{format_size(there)}: train low-rank pairs (--rank 16), smaller batches, or a smaller student"
        )


def _folder(work: Path, about: Sequence[Any]) -> Path:
    """Return a folder of ``work`` for everything that depends on nothing but ``about``."""
    found = work / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    found.mkdir(parents=True, exist_ok=True)
    return found


def hashed(rows: Sequence[Sequence[int]]) -> str:
    """Return a digest of rows of tokens."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.array([len(row), *row], np.int64).tobytes())
    return digest.hexdigest()
