"""Fine-tuning: a model learns answers, and what it learned and forgot is measured.

Owns the order of the work and what is kept between two runs. Knows no command line. Invariants: a run that was killed
and goes on gives the weights of one that was not; no held-out line is learned; what is written appears whole or not at
all.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.bench.evaluation import peak_bytes
from miaotui.config import Settings, make_folder
from miaotui.errors import RequestError
from miaotui.hub.files import replace
from miaotui.hub.formats.tensors import BlockType
from miaotui.hub.resolve import resolve
from miaotui.model.adapters.adapter import LowRankAdapter
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.reading.files import ModelFiles, open_model
from miaotui.model.writing.files import require_new, require_whole, write_like
from miaotui.model.writing.layout import StoredLayout, array_bytes
from miaotui.model.writing.peft import write_peft
from miaotui.optimize.learning.forgetting import forgetting
from miaotui.optimize.learning.memory import learning_bytes, require_memory
from miaotui.optimize.learning.recipe import FinetuneRecipe, recipe_json, require_same
from miaotui.optimize.origin import Origin, described, model_digest, write_origin
from miaotui.optimize.texts.calibration import read_texts, token_rows
from miaotui.optimize.texts.own_texts import own_texts
from miaotui.text.chat import ChatEncoder
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.training.checkpoint import read_state, write_state
from miaotui.training.decoder import DecoderOptions, TorchDecoder
from miaotui.training.examples import Example, ExampleSet, read_examples
from miaotui.training.loop import LoopOptions, TrainingLoop, mean_losses
from miaotui.training.schedule import examples_of
from miaotui.training.torch_loading import dtype_named, load_torch
from miaotui.training.workers import Worker
from miaotui.types import Progress

EVERY = 10  # one line in so many is held out
LEAST_LINES = 8
GENERAL_TOKENS, GENERAL_LENGTH = 4096, 256
STATE = "training.safetensors"
REMEDY = "train an adapter instead of all weights, accumulate more parts, recompute layers, or take shorter texts"


@dataclass(frozen=True)
class FinetuneFiles:
    """Files beside the examples: held-out lines, general texts, old lines, and an adapter to begin with."""

    held_out: Path | None = None
    general: Path | None = None
    replay: Path | None = None
    start: Path | None = None


@dataclass(eq=False)
class Finetuning:
    """One fine-tuning of ``model`` by the examples in ``data``, written to ``out``.

    A folder ``OUT.work`` keeps the checkpoint, every ``save_every`` steps, until the result is written.
    """

    model: str
    data: Sequence[Path]
    out: Path
    recipe: FinetuneRecipe
    files: FinetuneFiles = FinetuneFiles()
    save_every: int = 100
    settings: Settings | None = None
    progress: Progress | None = None

    def run(self) -> Origin:
        """Learn, measure, and write the adapter or the model. Returns its origin. Raises a `MiaotuiError`."""
        require_new(self.out)
        settings = self.settings or Settings.from_env()
        path = resolve(self.model, progress=self.progress, settings=settings)
        require_whole(path)
        with open_model(path) as opened:
            if not self.recipe.rank and (self.out.suffix == ".gguf") is not path.is_file():
                kind = "a GGUF file, and so is" if path.is_file() else "a folder, and so is"
                raise RequestError(f"the model is {kind} what is written: name the place accordingly, not {self.out}")
            lines = _Lines(self, opened)
            return _Run(self, path, opened, lines, settings).whole()


class _Lines:
    """The lines of a run: new and old ones to learn, and those held out."""

    def __init__(self, job: Finetuning, opened: ModelFiles) -> None:
        config = opened.config
        self.tokenizer = load_tokenizer(opened.metadata, opened.folder)
        chat = ChatEncoder(load_chat_template(opened.metadata, opened.folder), self.tokenizer)
        length = min(job.recipe.length, config.context_length)

        def read(paths: Sequence[Path]) -> ExampleSet:
            return read_examples(paths, chat, length, config.vocab_size)

        self.new, self.held = _split(read(job.data), job.files.held_out, read)
        self.old, self.old_held = ExampleSet("", ()), ExampleSet("", ())
        if job.files.replay is not None:
            self.old, self.old_held = read([job.files.replay]).without(self.new.keys() | self.held.keys()).split(EVERY)
            if not self.old.examples:
                raise RequestError(f"{job.files.replay} has no line that is not learned anyway: leave --replay out")

    def digest(self) -> str:
        """Return a digest of all of them."""
        return " ".join(each.digest for each in (self.new, self.held, self.old, self.old_held))

    def batch(self, step: int, recipe: FinetuneRecipe) -> list[Example]:
        """Return the examples of a step: old lines have their share of places."""
        old = min(recipe.batch - 1, max(1, round(recipe.replay * recipe.batch))) if self.old.examples else 0
        chosen = [
            self.new.examples[i] for i in examples_of(step, len(self.new.examples), recipe.batch - old, recipe.seed)
        ]
        if old:
            numbers = examples_of(step, len(self.old.examples), old, recipe.seed + 1)
            chosen += [self.old.examples[i] for i in numbers]
        return chosen


def _split(found: ExampleSet, held_out: Path | None, read: Any) -> tuple[ExampleSet, ExampleSet]:
    if held_out is None:
        new, held = found.split(EVERY)
    else:
        new, held = found, read([held_out])
        shared = new.keys() & held.keys()
        if shared:
            raise RequestError(
                f"{len(shared)} lines are both learned and held out ({held_out}): what was learned measures nothing"
            )
    if len(new.keys()) < LEAST_LINES or not held.examples:
        raise RequestError(
            f"{found.name} has {len(new.keys())} lines to learn from and {len(held.keys())} held out, where at least "
            f"{LEAST_LINES} and 1 are needed: give more lines (each counts once)"
        )
    return new, held


class _Run:
    def __init__(self, job: Finetuning, path: Path, opened: ModelFiles, lines: _Lines, settings: Settings) -> None:
        self._job, self._path, self._opened, self._lines, self._settings = job, path, opened, lines, settings
        self._recipe, self._digest = job.recipe, model_digest(path)
        self._work = job.out.with_name(f"{job.out.name}.work")
        self._began_s = time.perf_counter()
        self._torch = load_torch()
        require_memory(predicted_bytes(opened, job.recipe), REMEDY)
        start = None if job.files.start is None else self._pairs(job.files.start)
        general = self._general()
        self._decoder = self._new_decoder(self._recipe.rank)
        if start is not None:
            self._begin_with(start)
        options = LoopOptions(self._recipe.steps, self._recipe.rate, self._recipe.accumulate)
        self._loop = TrainingLoop(self._decoder, options, lambda step: lines.batch(step, self._recipe), Worker())
        self._rows, self._general_name, self._seconds = general[0], general[1], 0.0

    def whole(self) -> Origin:
        """Take all steps, measure before and after, and write."""
        before = self._resume()
        if before is None:
            before = self._measured()
            self._save(before)
        first, began_s = self._loop.step, time.perf_counter()
        tokens = 0
        try:
            while self._loop.step < self._recipe.steps:
                tokens += sum(len(each.tokens) for each in self._lines.batch(self._loop.step, self._recipe))
                loss = self._loop.one()
                if self._job.progress is not None:
                    self._job.progress(f"learning (loss {loss:.3f})", self._loop.step, self._recipe.steps)
                if self._loop.step % self._job.save_every == 0:
                    self._save(before)
        except KeyboardInterrupt:
            if self._loop.is_between_steps:  # else weights are moving: the checkpoint before stays
                self._save(before)
            raise
        learning_s = time.perf_counter() - began_s
        self._save(before)
        after = self._measured()
        moved = asdict(forgetting(self._base, self._decoder, self._rows))
        measured = {
            "held_out": _change(before["held_out"], after["held_out"]),
            **({"old": _change(before["old"], after["old"])} if self._lines.old.examples else {}),
            "general": {**moved, "texts": self._general_name},
            "lines": {"learned": len(self._lines.new.keys()), "old": len(self._lines.old.keys())},
            "cut": self._lines.new.cut,
            "skipped": self._lines.new.skipped,
            "steps": self._loop.step,
            "steps_of_this_process": self._loop.step - first,
            "tokens_per_s": round(tokens / learning_s, 1) if tokens else None,
            "seconds": round(time.perf_counter() - self._began_s, 1),
            "peak_bytes": peak_bytes(),
        }
        return self._write(measured)

    def _write(self, measured: Mapping[str, Any]) -> Origin:
        job, made = self._job, self._work / ("made.gguf" if self._job.out.suffix == ".gguf" else "made")
        if made.is_dir():
            shutil.rmtree(made)
        made.unlink(missing_ok=True)
        if self._recipe.rank:
            write_peft(made, self._opened.config, self._decoder.low_rank(), job.model)
        else:
            _write_full(self._path, self._opened, self._decoder.arrays(), made)
        sources = [described(job.model, self._path)]
        if job.files.start is not None:
            sources.append(described(str(job.files.start), job.files.start))
        about = {**described(job.out.name, made), "name": job.out.name}
        recipe = json.loads(recipe_json(self._recipe)) | {"lines": self._lines.digest()}
        origin = Origin("finetune", about, tuple(sources), recipe, measured)
        make_folder(job.out.parent)
        replace(made, job.out)
        write_origin(job.out, origin)
        shutil.rmtree(self._work, ignore_errors=True)
        return origin

    def _measured(self) -> dict[str, Any]:
        found = {"held_out": _loss(self._decoder, self._lines.held.examples, self._recipe)}
        if self._lines.old_held.examples:
            found["old"] = _loss(self._decoder, self._lines.old_held.examples, self._recipe)
        return found

    def _general(self) -> tuple[list[list[int]], str]:
        if self._job.files.general is not None:
            texts = read_texts(self._job.files.general)
        else:
            length = self._opened.config.context_length
            texts = own_texts(self._path, self._digest, self._settings, self._job.progress, length)[1]
        length = min(GENERAL_LENGTH, self._opened.config.context_length)
        return token_rows(self._lines.tokenizer, texts, length, GENERAL_TOKENS), texts.name

    def _new_decoder(self, rank: int) -> TorchDecoder:
        tensors, recipe = self._opened.tensors, self._recipe
        weights = {name: tensors[name].float32().reshape(tensors[name].shape) for name in tensors}
        options = DecoderOptions(recipe.alpha, recipe.targets, recipe.recompute)
        dtype = dtype_named(self._torch, recipe.precision)
        return TorchDecoder(self._torch, self._opened.config, weights, dtype, rank, recipe.seed, options)

    def _pairs(self, start: Path) -> LowRankAdapter:
        """Read what an earlier run has learned."""
        if not self._recipe.rank:
            raise RequestError("a run that trains all weights begins with a model: name it instead of --from")
        return read_adapter(start, self._opened.config)

    def _begin_with(self, pairs: LowRankAdapter) -> None:
        if pairs.keys() != self._decoder.pairs.keys():
            raise RequestError(f"{self._job.files.start} changes other products than this run: give the same --targets")
        self._decoder.begin_with(pairs)

    @contextlib.contextmanager
    def _base(self) -> Iterator[TorchDecoder]:
        """Give the model before: without its pairs, or read once more where all weights have changed."""
        if self._recipe.rank and self._job.files.start is None:
            with self._decoder.without_pairs():
                yield self._decoder
            return
        if not hasattr(self, "_before"):
            self._before = self._new_decoder(self._recipe.rank)
            if self._job.files.start is not None:
                self._before.begin_with(read_adapter(self._job.files.start, self._opened.config))
        yield self._before

    def _save(self, before: Mapping[str, Any]) -> None:
        header = {
            "recipe": recipe_json(self._recipe),
            "step": str(self._loop.step),
            "lines": self._lines.digest(),
            "model": self._digest,
            "before": json.dumps(before),
        }
        write_state(make_folder(self._work) / STATE, self._loop.arrays(), header)

    def _resume(self) -> dict[str, Any] | None:
        found = read_state(self._work / STATE)
        if found is None:
            return None
        arrays, header = found
        if header.get("model") != self._digest or header.get("lines") != self._lines.digest():
            raise RequestError(
                f"{self._work} holds a run of another model or of other lines: give those, or remove the folder"
            )
        require_same(self._recipe, header["recipe"], ())
        self._loop.resume(arrays, int(header["step"]))
        kept: dict[str, Any] = json.loads(header["before"])
        return kept


def _write_full(path: Path, opened: ModelFiles, arrays: Mapping[str, NDArray[np.float32]], out: Path) -> None:
    """Write the model with other weights; quantised matrices become 16-bit floats."""
    layout = StoredLayout(opened.tensors)
    sizes = {
        name: (each.kind if each.kind.is_float or not layout.holds(name) else BlockType.F16, each.shape)
        for name, each in layout.written()
    }

    write_like(path, out, sizes, array_bytes(layout, arrays))


def _loss(decoder: TorchDecoder, examples: Sequence[Example], recipe: FinetuneRecipe) -> dict[str, float]:
    """Return the mean loss (nats a counted token) and its standard error over lines."""
    table, count = mean_losses(decoder, examples, max(1, recipe.batch // recipe.accumulate))
    mean = table[:, 0].sum() / count
    spread = (table[:, 0] - mean * table[:, 1]).std(ddof=1) if len(table) > 1 else math.nan
    error = float(spread * math.sqrt(len(table)) / count) if len(table) > 1 else 0.0
    return {"nats": float(mean), "error": error, "tokens": count, "lines": len(table)}


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {
        "before": before["nats"],
        "before_error": before["error"],
        "after": after["nats"],
        "after_error": after["error"],
        "tokens": after["tokens"],
        "lines": after["lines"],
    }


def predicted_bytes(opened: ModelFiles, recipe: FinetuneRecipe) -> int:
    """Return the memory that a run will take, about."""
    config, tensors = opened.config, opened.tensors
    sizes = {name: math.prod(tensors[name].shape) for name in tensors}
    adapter = sum(recipe.rank * sum(tensors[name].shape) for name in sizes if name.rpartition(".")[2] in recipe.targets)
    weights = sum(sizes.values())
    rows = -(-recipe.batch // recipe.accumulate) * min(recipe.length, config.context_length)
    return learning_bytes(config, weights, adapter if recipe.rank else weights, rows, recipe.recompute)
