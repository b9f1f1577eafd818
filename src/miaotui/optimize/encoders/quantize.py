"""Optimisation of an encoder: from its GGUF file and a size to a smaller file and its report card.

Owns the order: texts, moments, survey, choice, rounding, measurement, output. Knows no command line. Tables of types
and positions stay as they are. A folder ``OUT.work`` keeps the survey and every finished matrix, so that an interrupted
run goes on. Invariant: nothing is at the output's place before it was read back and measured.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import miaotui
from miaotui.config import format_size, make_folder
from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.files import require_room, write_whole
from miaotui.hub.formats.gguf import DEFAULT_ALIGNMENT, read_gguf
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import BlockType, StoredTensor, stored_bytes
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.writers.gguf import with_file_type, write_gguf
from miaotui.kernels.platform.cpu import probe
from miaotui.model.reading.sources import CanonicalTensors
from miaotui.optimize.card import ReportCard, write_card
from miaotui.optimize.encoders.measured import (
    Array,
    MeasuredEncoder,
    TypeOption,
    cosine_loss,
    feedback_of,
    type_options,
)
from miaotui.optimize.quantization.allocation import Option, allocate
from miaotui.optimize.quantization.quantize import METHOD, MIXED, TYPE_BYTES, read_blocks, remove_work
from miaotui.optimize.quantization.rounding import round_matrix
from miaotui.optimize.source import file_digest
from miaotui.optimize.texts.calibration import MIN_TOKENS, Moments, TextSet, moment_bytes, read_texts, require_disjoint
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.types import Progress

LENGTH = 128  # tokens of a text, at most
TEXTS = 512  # to calibrate on, and to measure on, at most
PROBES = 48  # texts by which a matrix's cost is measured
HELD_OUT = 5  # without texts to measure on, one in so many is set aside
STAY = ("position_embed", "type_embed")
OVERHEAD = 4  # copies of the weights in float32 at the same time, at most


@dataclass(frozen=True, eq=False)
class EncoderOptimization:
    """One optimisation of the encoder in the GGUF file ``path`` to at most ``size_bytes``, written to ``out``."""

    path: Path
    out: Path
    size_bytes: int
    calibration: Path
    test: Path | None = None
    progress: Progress | None = None

    def run(self) -> ReportCard:
        """Make the file and its card. Raises a `MiaotuiError`; then nothing is at the output's place."""
        if self.out.exists() or self.out.suffix != ".gguf":
            raise RequestError(f"{self.out} is there already, or is no .gguf file: name another place (--out)")
        if self.size_bytes >= self.path.stat().st_size:
            raise RequestError(
                f"{self.path.name} has {self.path.stat().st_size:,} bytes already, no more than the "
                f"{self.size_bytes:,} asked for: there is nothing to do"
            )
        require_room(make_folder(self.out.parent), 2 * self.size_bytes)
        with MeasuredEncoder(self.path) as encoder:
            _require_memory(encoder, self.path)
            encoder.matrices = [name for name in encoder.matrices if name not in STAY]
            return _EncoderRun(self, encoder).card()


class _EncoderRun:
    """State of one run: the encoder, its texts as tokens, and what took how long."""

    def __init__(self, job: EncoderOptimization, encoder: MeasuredEncoder) -> None:
        self.job, self.encoder, self.seconds = job, encoder, dict[str, float]()
        self.calibration, self.test = _text_sets(job)
        self.rest = _rest_bytes(job.path, encoder)
        self._require_size()
        tokenizer = load_encoder_tokenizer(encoder.opened.metadata, None, lower_case=encoder.opened.lower_case)
        limit = min(LENGTH, encoder.config.max_tokens)

        def tokens(texts: TextSet) -> list[list[int]]:
            cut = (tokenizer.encode_text(text, max_tokens=limit, truncate=True).tokens for text in _spread(texts.texts))
            return [list(each) for each in cut]

        self.known, self.tests = tokens(self.calibration), tokens(self.test)
        for texts, rows in ((self.calibration, self.known), (self.test, self.tests)):
            count = sum(map(len, rows))
            if count < MIN_TOKENS:
                raise RequestError(
                    f"the texts of {texts.name} have {count} tokens, and at least {MIN_TOKENS} are needed: give more "
                    "text"
                )

        about = json.dumps([METHOD, file_digest(job.path), self.calibration.digest, LENGTH, PROBES]).encode()
        self.work = make_folder(job.out.with_name(f"{job.out.name}.work") / hashlib.sha256(about).hexdigest()[:16])

    def _require_size(self) -> None:
        """Raise `RequestError` with the nearest point if the smallest types take more than was asked for."""
        from miaotui.optimize.quantization.block_grids import kinds_for  # noqa: PLC0415  (only here)

        least = self.rest
        for name in self.encoder.matrices:
            rows, cols = self.encoder.weights[name].shape
            least += min(_aligned(rows * kind.row_bytes(cols)) for kind in kinds_for(cols))
        if least > self.job.size_bytes:
            raise RequestError(
                f"a file of {self.job.size_bytes:,} bytes cannot be met: the nearest point is the smallest that these "
                f"types allow, {least:,} bytes. Ask for that, or choose a smaller model"
            )

    def card(self) -> ReportCard:
        job, encoder = self.job, self.encoder
        moments = Moments(encoder.matrices)
        self._timed("moments", lambda: encoder.embeddings(self.known, {}, moments))
        hessians = {name: moments.of(name) for name in encoder.matrices}
        rows = max(moments.tokens(name) or 0 for name in encoder.matrices)
        options = self._timed("survey", lambda: self._options(hessians, rows))
        chosen, predicted = self._chosen(options)
        part = job.out.with_name(f"{job.out.name}.unmeasured")
        try:
            self._timed("rounding", lambda: self._write(part, chosen, hessians, rows))
            losses = self._timed("test", lambda: self._losses(part))
            card = self._card(part, chosen, losses, predicted)
            part.replace(job.out)
        finally:
            part.unlink(missing_ok=True)
        write_card(job.out, card)
        remove_work(self.work.parent)
        return card

    def _options(self, hessians: Mapping[str, Array | None], rows: int) -> dict[str, list[TypeOption]]:
        """Return each matrix's types with their costs, from the work folder if they were measured before."""
        path = self.work / "survey.json"
        try:
            kept = {
                name: [TypeOption(BlockType[kind], int(size), float(loss)) for kind, size, loss in each]
                for name, each in read_object(path).items()
            }
            if kept.keys() == set(self.encoder.matrices):
                return kept
        except (MiaotuiError, KeyError, TypeError, ValueError):
            pass
        found = type_options(self.encoder, hessians, self.known[:PROBES], rows, self.job.progress)
        named = {name: [(one.kind.name, *one[1:]) for one in each] for name, each in found.items()}
        text = json.dumps(named).encode()
        write_whole(path, "the survey", lambda file: file.write(text))
        return found

    def _rounded(self, name: str, kind: BlockType, hessian: Array | None, rows: int) -> NDArray[np.uint8]:
        """Return a matrix in blocks, from the work folder if it was rounded before."""
        weights = self.encoder.weights[name]
        path = self.work / f"{name}-{kind.name}.npy"
        data = read_blocks(path, len(weights), kind.row_bytes(weights.shape[1]))
        if data is None:
            data = round_matrix(weights, kind, feedback_of(hessian, weights.shape[1], rows)).data
            blocks = data
            write_whole(path, "a finished matrix", lambda file: np.save(file, blocks))
        return data

    def _chosen(self, options: Mapping[str, Sequence[TypeOption]]) -> tuple[dict[str, TypeOption], float]:
        ways = [[Option(_aligned(one.size_bytes), one.loss) for one in options[n]] for n in self.encoder.matrices]
        found = allocate(ways, self.job.size_bytes - self.rest)
        picks = zip(self.encoder.matrices, found.chosen, strict=True)
        return {name: options[name][pick] for name, pick in picks}, found.loss

    def _write(
        self, out: Path, chosen: Mapping[str, TypeOption], hessians: Mapping[str, Array | None], rows: int
    ) -> None:
        with read_gguf(self.job.path) as file:
            tensors = dict(file.tensors)
            for number, (name, option) in enumerate(chosen.items()):
                data = self._rounded(name, option.kind, hessians[name], rows)
                stored = _stored_name(self.encoder, name)
                tensors[stored] = StoredTensor(stored, self.encoder.weights[name].shape, option.kind, data)
                if self.job.progress is not None:
                    self.job.progress("rounding matrices", number + 1, len(chosen))
            sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
            head = with_file_type(map_file(self.job.path), str(self.job.path), MIXED)
            parts = (tensor.data.reshape(-1) for tensor in tensors.values())
            write_whole(out, "the quantised encoder", lambda target: write_gguf(target, head, sizes, parts))

    def _losses(self, file: Path) -> Array:
        """Read the file back and return the loss of each text."""
        with MeasuredEncoder(file) as made:
            return cosine_loss(self.encoder.embeddings(self.tests, {}), made.embeddings(self.tests, {}))

    def _card(self, file: Path, chosen: Mapping[str, TypeOption], losses: Array, predicted: float) -> ReportCard:
        job = self.job
        size = file.stat().st_size
        mean, error = float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))
        point = {"file_bytes": size, "mean_loss": mean}
        return ReportCard(
            file={"name": job.out.name, "sha256": file_digest(file), "bytes": size},
            source={"name": job.path.name, "sha256": file_digest(job.path), "bytes": job.path.stat().st_size},
            wanted={"size_bytes": job.size_bytes},
            quality={
                "loss": "1 - cosine",
                "mean_loss": mean,
                "mean_loss_low": mean - 1.96 * error,
                "mean_loss_high": mean + 1.96 * error,
                "p99_loss": float(np.quantile(losses, 0.99)),
                "worst_loss": float(losses.max()),
                "texts": len(losses),
            },
            texts={
                "calibration": _about(self.calibration, self.known),
                "test": _about(self.test, self.tests),
                "shared_lines": len(self.calibration.lines() & self.test.lines()),
            },
            speed=None,
            predicted={"mean_loss": predicted},
            measured_candidates=1,
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
            choices={_stored_name(self.encoder, name): option.kind.name for name, option in chosen.items()},
            front={"predicted": [], "measured": [point]},
            notes=(f"made by miaotui {miaotui.__version__}; quality is of the weights, in float32 arithmetic",),
        )

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        found = work()
        self.seconds[name] = time.perf_counter() - began_s
        return found


def _text_sets(job: EncoderOptimization) -> tuple[TextSet, TextSet]:
    known = read_texts(job.calibration)
    if job.test is not None:
        test = read_texts(job.test)
    else:
        aside = frozenset(range(0, len(known.texts), HELD_OUT))
        test = TextSet(f"{known.name}, one text in {HELD_OUT}", tuple(known.texts[i] for i in sorted(aside)))
        known = TextSet(known.name, tuple(text for i, text in enumerate(known.texts) if i not in aside))
    require_disjoint(known, test)
    return known, test


def _spread(texts: Sequence[str]) -> list[str]:
    """Return at most `TEXTS` of the texts, evenly taken."""
    places = np.linspace(0, len(texts) - 1, min(TEXTS, len(texts))).astype(int)
    return [texts[i] for i in places]


def _about(texts: TextSet, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    return {"name": texts.name, "sha256": texts.digest, "texts": len(rows), "tokens": sum(map(len, rows))}


def _stored_name(encoder: MeasuredEncoder, name: str) -> str:
    weights = encoder.opened.weights
    assert isinstance(weights, CanonicalTensors), "tensors of a GGUF file"
    return weights.sources[name].name


def _aligned(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _rest_bytes(path: Path, encoder: MeasuredEncoder) -> int:
    """Return the bytes of a file without the matrices that change, at most."""
    with read_gguf(path) as file:
        changed = sum(
            _aligned(stored_bytes(name, file.tensors[name].shape, file.tensors[name].kind))
            for name in (_stored_name(encoder, each) for each in encoder.matrices)
        )
    return path.stat().st_size - changed + TYPE_BYTES


def _require_memory(encoder: MeasuredEncoder, path: Path) -> None:
    """Raise `RequestError` if the work itself would take more memory than there is."""
    weights = sum(each.nbytes for each in encoder.weights.values())
    inputs = [encoder.weights[name].shape[1] for name in encoder.matrices]
    needed, there = OVERHEAD * weights + moment_bytes(inputs), probe().memory_bytes
    if there is not None and needed > there:
        raise RequestError(
            f"the optimisation of {path.name} takes about {format_size(needed)} of memory, and this machine lets it "
            f"have {format_size(there)}: use a larger machine"
        )
