"""Training of a small decoder from texts: tokenizer, network, checkpoints, and the folder that is run.

Owns the order of the work. Knows no command line. Invariants: a run that was killed and goes on gives the weights of
one that was not, with the same threads and processes; held-out texts are by stretches of the corpus, the same in every
run, and none of them is learned.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.bench.evaluation import peak_bytes
from miaotui.errors import ModelFormatError, RequestError
from miaotui.libraries import need
from miaotui.model.config import ModelConfig
from miaotui.model.reading.families import architecture_of
from miaotui.model.reading.from_hf import config_from_hf, hf_sources
from miaotui.model.reading.names import tensor_shapes
from miaotui.optimize.learning.memory import learning_bytes, require_memory
from miaotui.optimize.learning.recipe import PretrainRecipe, recipe_json, require_same
from miaotui.optimize.origin import Origin, described, write_origin
from miaotui.training.checkpoint import Arrays, read_state, write_state
from miaotui.training.decoder import DecoderOptions, TorchDecoder
from miaotui.training.examples import Example
from miaotui.training.export import TrainedVocabulary, write_trained
from miaotui.training.loop import LoopOptions, TrainingLoop, mean_losses
from miaotui.training.schedule import examples_of
from miaotui.training.texts import text_lines, train_tokenizer
from miaotui.training.torch_loading import dtype_named, load_torch
from miaotui.training.workers import Worker, workers
from miaotui.types import Progress

MOST_BYTES = 256 << 20
EVERY = 20  # one text in so many is held out
LEAST_TEXTS = 40
END = "<|endoftext|>"
DECAY = 0.1
STATE = "training.safetensors"
REMEDY = "make the model smaller, accumulate more parts, recompute layers, or take shorter texts"
FREE = ("steps", "processes")  # of a run that goes on, may change


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Texts of one length, ``[n, length]``, and the tokenizer that made them, as JSON."""

    tokens: NDArray[np.int32]
    tokenizer: str
    vocab_size: int

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the tokens."""
        return hashlib.sha256(self.tokens.tobytes()).hexdigest()

    def held_out(self) -> list[Example]:
        """Return the texts that are not learned."""
        return [self.example(number) for number in range(0, len(self.tokens), EVERY)]

    def learned(self) -> NDArray[np.int64]:
        """Return the numbers of the texts that are learned."""
        numbers = np.arange(len(self.tokens), dtype=np.int64)
        found: NDArray[np.int64] = numbers[numbers % EVERY != 0]
        return found

    def example(self, number: int) -> Example:
        """Return one text; all its tokens but the first are predicted."""
        row = self.tokens[number]
        return Example(row, np.ones(len(row), np.bool_), str(number))


@dataclass(eq=False)
class Pretraining:
    """One training run into the folder ``out``, or the next part of the one that is there."""

    texts: Sequence[Path]
    out: Path
    recipe: PretrainRecipe
    save_every: int = 100
    threads: int | None = None
    progress: Progress | None = None

    def run(self) -> Origin:
        """Train to the end of the recipe, write the model and return its origin. Raises a `MiaotuiError`."""
        load_torch()
        kept = read_state(self.out / STATE)
        if kept is None and self.out.is_dir() and any(self.out.iterdir()):
            raise RequestError(f"{self.out} is not empty, and holds no run that could go on: name another folder")
        require_memory(predicted_bytes(self.recipe), REMEDY)
        tokenizer = None
        if kept is not None:
            require_same(self.recipe, kept[1].get("recipe", ""), FREE)
            tokenizer = kept[1].get("tokenizer")
        rows = read_rows(self.texts, self.recipe, tokenizer)
        if kept is not None and kept[1].get("texts") != rows.digest:
            raise RequestError(f"the run in {self.out} learned other texts: give those, or name another folder")
        began_s = time.perf_counter()
        job = _Job(self.recipe, rows, kept)
        with workers(self.recipe.processes, _follow, job, self.threads) as worker:
            loop, decoder = _loop(job, worker)
            first = loop.step
            try:
                self._steps(loop, rows)
            finally:
                if loop.is_between_steps:  # an interrupt may come while weights move: the checkpoint before stays
                    write_state(self.out / STATE, loop.arrays(), self._header(loop, rows))
            learning_s = time.perf_counter() - began_s
        return self._write(decoder, rows, {"steps": loop.step, "steps_of_this_process": loop.step - first}, learning_s)

    def _steps(self, loop: TrainingLoop, rows: TrainingRows) -> None:
        while loop.step < self.recipe.steps:
            loss = loop.one()
            if self.progress is not None:
                self.progress(f"training (loss {loss:.3f})", loop.step, self.recipe.steps)
            if loop.step % self.save_every == 0:
                write_state(self.out / STATE, loop.arrays(), self._header(loop, rows))

    def _header(self, loop: TrainingLoop, rows: TrainingRows) -> Mapping[str, str]:
        return {
            "recipe": recipe_json(self.recipe),
            "step": str(loop.step),
            "texts": rows.digest,
            "tokenizer": rows.tokenizer,
        }

    def _write(self, decoder: TorchDecoder, rows: TrainingRows, about: Mapping[str, Any], learning_s: float) -> Origin:
        values = self.recipe.config(rows.vocab_size, 0)
        config = config_from_hf(values)
        sources = hf_sources(config, architecture_of(config.architecture))
        weights: Arrays = {sources[name].name: array.copy() for name, array in decoder.arrays().items()}
        vocabulary = TrainedVocabulary(rows.tokenizer, {"eos_token": END, "bos_token": END}, 0)
        write_trained(self.out, values, vocabulary, weights)
        table, count = mean_losses(decoder, rows.held_out(), self.recipe.batch)
        loss = float(table[:, 0].sum() / count)
        steps = int(about["steps_of_this_process"])
        measured = {
            **about,
            "parameters": sum(math.prod(shape) for shape in tensor_shapes(config).values()),
            "held_out": {"nats": loss, "perplexity": math.exp(loss), "tokens": count, "texts": len(table)},
            "tokens_per_s": round(steps * self.recipe.batch * self.recipe.length / learning_s, 1),
            "seconds": round(learning_s, 1),
            "peak_bytes": peak_bytes(),
        }
        recipe = json.loads(recipe_json(self.recipe)) | {"texts": rows.digest}
        origin = Origin("train", described(self.out.name, self.out), (), recipe, measured)
        write_origin(self.out, origin)
        return origin


def predicted_bytes(recipe: PretrainRecipe) -> int:
    """Return the memory that a run will take in all its processes, about."""
    config = config_from_hf(recipe.config(recipe.vocabulary, 0))
    weights = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    texts = -(-recipe.batch // (recipe.processes * recipe.accumulate))
    return recipe.processes * learning_bytes(config, weights, weights, texts * recipe.length, recipe.recompute)


def read_rows(paths: Sequence[Path], recipe: PretrainRecipe, tokenizer: str | None = None) -> TrainingRows:
    """Read text files and cut them into rows. A tokenizer is trained on them unless its JSON is given.

    Raises `RequestError` for files that are no text, and for too little or too much text.
    """
    lines = [line for path in paths for line in text_lines(path, MOST_BYTES)]
    if sum(map(len, lines)) > MOST_BYTES:
        raise RequestError(f"the texts have more than {MOST_BYTES >> 20} MB: train on a part of them")
    if not lines:
        raise RequestError(f"{paths[0]} has no line of text: give more")
    if tokenizer is None:
        library = train_tokenizer(lines, recipe.vocabulary, [END])
    else:
        library = need("tokenizers").Tokenizer.from_str(tokenizer)
    encoded = [np.array([*each.ids, 0], np.int32) for each in library.encode_batch(lines)]
    joined = np.concatenate(encoded)
    count = len(joined) // recipe.length
    if count < LEAST_TEXTS:
        raise RequestError(
            f"the texts have {len(joined):,} tokens, and training needs at least {LEAST_TEXTS} texts of "
            f"{recipe.length}: give more text, or a smaller length"
        )
    rows = joined[: count * recipe.length].reshape(count, recipe.length)
    return TrainingRows(rows, library.to_str(), int(library.get_vocab_size()))


def initial_weights(config: ModelConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return first weights: normal with deviation 0.02, smaller where they add to the stream (Radford et al. 2019)."""
    rng = np.random.default_rng(seed)
    small = 0.02 / math.sqrt(2 * config.n_layers)
    found: dict[str, NDArray[np.float32]] = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape, np.float32)
        spread = small if name.rpartition(".")[2] in ("o", "down") else 0.02
        found[name] = np.ones(shape, np.float32) if len(shape) == 1 else values * np.float32(spread)
    return found


@dataclass(frozen=True, eq=False)
class _Job:
    """All that a process needs for its part of a run; it is pickled."""

    recipe: PretrainRecipe
    rows: TrainingRows
    kept: tuple[Arrays, dict[str, str]] | None


def _loop(job: _Job, worker: Worker) -> tuple[TrainingLoop, TorchDecoder]:
    torch, recipe, rows = load_torch(), job.recipe, job.rows
    config = config_from_hf(recipe.config(rows.vocab_size, 0))
    options, weights = DecoderOptions(recompute=recipe.recompute), initial_weights(config, recipe.seed)
    decoder = TorchDecoder(torch, config, weights, dtype_named(torch, recipe.precision), options=options)
    learned = rows.learned()

    def batch(step: int) -> list[Example]:
        numbers = examples_of(step, len(learned), recipe.batch, recipe.seed)
        return [rows.example(int(learned[number])) for number in numbers]

    loop = TrainingLoop(decoder, LoopOptions(recipe.steps, recipe.rate, recipe.accumulate, DECAY), batch, worker)
    if job.kept is not None:
        arrays, header = job.kept
        try:
            loop.resume(arrays, int(header["step"]))
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelFormatError(f"the checkpoint cannot be read ({error}): delete it, and train anew") from error
    return loop, decoder


def _follow(worker: Worker, job: _Job) -> None:
    """Take all steps in a further process."""
    loop, _ = _loop(job, worker)
    while loop.step < job.recipe.steps:
        loop.one()
