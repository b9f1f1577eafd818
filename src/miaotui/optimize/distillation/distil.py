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
from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.files import require_room, write_whole
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import BlockType
from miaotui.hub.writers.gguf import with_file_type, write_gguf
from miaotui.hub.writers.safetensors import write_safetensors
from miaotui.kernels.platform.cpu import probe
from miaotui.libraries import need
from miaotui.model.config import ModelConfig
from miaotui.optimize.distillation.decoder import TorchDecoder
from miaotui.optimize.distillation.objectives import distance
from miaotui.optimize.distillation.recipe import DistilRecipe
from miaotui.optimize.distillation.teacher import ChunkPlan, TeacherCache, TeacherChunk, common_vocabulary
from miaotui.optimize.pruning.pruned_file import float16_tensor
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.openings import CALIBRATION
from miaotui.types import Progress

CHUNK_TEXTS = 64
CHECKPOINT_S = 120.0  # between two checkpoints
BETAS, DECAY, LONGEST_GRADIENT = (0.9, 0.95), 0.01, 1.0
WARM_STEPS, LAST_RATE = 20, 0.05  # of the learning rate: its end is that share of its top
HEAD_ROWS = 1024  # positions whose logits are in memory at a time
F16_FILE = 1  # general.file_type of a file in float16
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
        torch = need("torch")
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
            torch, student.config, decoded(student), _product_dtype(torch), job.recipe.rank, job.recipe.seed
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
        if self._state.is_file():
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
            group["lr"] = recipe.rate * learning_rate(self._step, recipe.steps)
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
        arrays: dict[str, Array] = {"losses": np.array(self._losses, np.float32)}
        for name, values in self.decoder.trained().items():
            arrays[name] = values.detach().numpy()
            state = self._optimizer.state[values]
            arrays |= {f"{moment}/{name}": state[moment].numpy() for moment in ("exp_avg", "exp_avg_sq")}
        sizes = {name: (BlockType.F32, array.shape) for name, array in arrays.items()}
        require_room(self._folder, sum(array.nbytes for array in arrays.values()))
        parts = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values())
        write_whole(self._state, "a checkpoint", lambda file: write_safetensors(file, sizes, parts))

    def _resume(self) -> None:
        torch = self._torch
        try:
            found = read_safetensors(self._state)
            self._losses = [float(each) for each in found["losses"].float32()]
            self._step = len(self._losses)
            with torch.no_grad():
                for name, values in self.decoder.trained().items():
                    values.copy_(torch.from_numpy(found[name].float32()))
                    state: dict[str, Any] = {"step": torch.tensor(float(self._step))}
                    for moment in ("exp_avg", "exp_avg_sq"):
                        state[moment] = torch.from_numpy(found[f"{moment}/{name}"].float32())
                    self._optimizer.state[values] = state
        except (MiaotuiError, KeyError) as error:
            raise RequestError(f"{self._state} is damaged ({error}): remove it, and the run begins again") from error


def learning_rate(step: int, steps: int) -> float:
    """Return the share of the highest rate: a linear rise, then half a cosine."""
    warm = min(1.0, (step + 1) / min(WARM_STEPS, max(steps // 10, 1)))
    return warm * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def decoded(source: GgufSource) -> Mapping[str, Array]:
    """Return a model's weights in float32, by canonical name."""
    tensors = source.canonical()
    return {name: tensors[name].float32().reshape(tensors[name].shape) for name in tensors}


def write_student(source: GgufSource, arrays: Mapping[str, Array], out: Path) -> None:
    """Write ``source`` with other weights, by canonical name: matrices in float16, vectors in float32."""
    with read_gguf(source.path) as file:
        written = source.canonical().stored_arrays(arrays)
        tensors = {
            name: float16_tensor(name, written[name]) if name in written else tensor
            for name, tensor in file.tensors.items()
        }
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
        head = with_file_type(map_file(source.path), source.path.name, F16_FILE)
        parts = (tensor.data.reshape(-1) for tensor in tensors.values())
        write_whole(out, "the student", lambda stream: write_gguf(stream, head, sizes, parts))


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


def _product_dtype(torch: Any) -> Any:
    from miaotui.speculation.train.cell import product_dtype  # noqa: PLC0415  (needs torch)

    return product_dtype(torch)
