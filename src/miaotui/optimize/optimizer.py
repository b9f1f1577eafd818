"""Optimisation from a model and a target to a file and its report card.

Owns the order: texts, plan, survey, candidates, measurement, output. Knows no command line. At most `CANDIDATES` files
are really made and measured; each measurement corrects the predictions for the next. Invariant: nothing is at the
output's place before a file meets the target; a run that was interrupted goes on from its work folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from miaotui.config import Settings, format_size, make_folder
from miaotui.errors import RequestError
from miaotui.hub.files import replace, require_room
from miaotui.hub.formats.tensors import BlockType
from miaotui.kernels.platform.cpu import probe
from miaotui.optimize.card import QualityLoss, ReportCard, write_card
from miaotui.optimize.cost import MachineRates, work_bytes
from miaotui.optimize.draft_gain import MeasuredDrafts, measured_drafts, own_drafts
from miaotui.optimize.folder_copy import copied_folder
from miaotui.optimize.front import front_points
from miaotui.optimize.layerwise import Tokens
from miaotui.optimize.loss_meter import LossMeter
from miaotui.optimize.plan import (
    CANDIDATES,
    FileCandidate,
    OptimizeTarget,
    best,
    candidates,
    corrected,
    plan_dict,
    planned,
)
from miaotui.optimize.quantization.quantize import Quantization, remove_work, surveyed, write_quantized
from miaotui.optimize.source import GgufSource, file_digest, open_source
from miaotui.optimize.speed import MeasuredSpeed, kept_speed, measured_speed, scaled_rates
from miaotui.optimize.texts.calibration import MIN_TOKENS, TextSet, read_texts, require_disjoint, token_rows, tokens_in
from miaotui.optimize.texts.own_texts import own_texts
from miaotui.text.load import load_tokenizer
from miaotui.types import Progress

ROW_TOKENS = 256
CURVE = 48  # predicted candidates once the survey is there


@dataclass(frozen=True)
class OptimizeOptions:
    """Options beside the target: files of texts (None: the model's own), tokens of them, types, whether to keep
    matrices as they are, and whether to measure speed.
    """

    calibration: Path | None = None
    test: Path | None = None
    calibration_tokens: int = 8192
    test_tokens: int = 4096
    probe_tokens: int = 256
    kinds: frozenset[BlockType] = frozenset()
    keep: bool = True
    measure_speed: bool = True
    most_made: int = CANDIDATES  # files that are really made and measured


@dataclass(eq=False)
class Optimization:
    """One optimisation of the model at ``path`` to ``target``, written to ``out``.

    ``reference`` is the model that the loss is measured against, and whose texts are used (None: the one at ``path``).
    """

    path: Path
    out: Path
    target: OptimizeTarget
    rates: MachineRates
    options: OptimizeOptions = field(default_factory=OptimizeOptions)
    settings: Settings = field(default_factory=Settings.from_env)
    progress: Progress | None = None
    measure: Callable[[Path, int, int], MeasuredSpeed] = measured_speed
    drafts: Callable[[Path], MeasuredDrafts] = measured_drafts
    reference: Path | None = None

    def plan(self) -> dict[str, Any]:
        """Return the plan as JSON values. It measures the model's speed and makes nothing. Raises a `MiaotuiError`."""
        with open_source(self.path) as source:
            about = {"path": str(self.path), "bytes": self.path.stat().st_size}
            rates = self.scaled_rates(source)
            found = planned(self.unread(source), self.target, rates)
            speed = self.own_speed(source)
            warnings = [speed.warning] if speed is not None and speed.warning else []
            return {**plan_dict(found, self.target, about, rates, self.own_drafts(source)), "warnings": warnings}

    def scaled_rates(self, source: GgufSource) -> MachineRates:
        """Return the machine's rates with the scale that the model's own speed shows, if speed is measured at all."""
        speed = self.own_speed(source)
        return self.rates if speed is None else scaled_rates(source, self.rates, speed, self.target.kv)

    def own_speed(self, source: GgufSource) -> MeasuredSpeed | None:
        """Return the model's own speed, if speed is measured at all. Raises `RequestError` for too long an answer."""
        if not self.options.measure_speed:
            return None
        _require_context(source, self.target)
        return self.speed_of(source.path, source.digest())

    def speed_of(self, file: Path, digest: str | None = None) -> MeasuredSpeed:
        """Return the speed of ``file``, measured once, with the target's prompt and answer; see `kept_speed`."""
        lengths, kept = (self.target.prompt, self.target.answer), self.settings.folder("optimize")
        about = digest or file_digest(file)
        return kept_speed(about, self.rates, lambda: self.measure(file, *lengths), lengths, kept, self.target.kv)

    def own_drafts(self, source: GgufSource) -> dict[str, Any] | None:
        """Return what drafts give on the model's own texts, as JSON values, if speed is measured at all."""
        if not self.options.measure_speed:
            return None
        return asdict(own_drafts(source, self.drafts, self.settings.folder("optimize")))

    def run(self) -> ReportCard:
        """Make the file and its card. Raises a `MiaotuiError`; then nothing is at the output's place."""
        self.require_inputs()
        with open_source(self.path) as source, open_source(self.reference or self.path) as reference:
            return _Run(self, source, reference).card()

    def unread(self, source: GgufSource) -> Quantization:
        """Return the quantisation of a model before any text is read, for a plan."""
        return Quantization(source, TextSet("", ()), (), keep=self.options.keep, kinds=self.options.kinds)

    def require_inputs(self) -> None:
        """Raise a `MiaotuiError` for what cannot become a file; see `require_inputs`."""
        require_inputs(self.path, self.out, self.target, self.options)


class _Run:
    """State of one run: the source, what it is compared with, the texts, and what took how long."""

    def __init__(self, job: Optimization, source: GgufSource, reference: GgufSource) -> None:
        self.job, self.source, self.reference = job, source, reference
        self.seconds: dict[str, float] = {}
        options = job.options
        # refuses what cannot be met before any work
        self.rates = self._timed("speed", lambda: job.scaled_rates(source))
        first = best(planned(job.unread(source), job.target, self.rates), job.target)
        require_room(make_folder(job.out.parent), 2 * first.types.file_bytes)  # a candidate, and finished matrices
        self.drafts = self._timed("speed", lambda: job.own_drafts(reference))
        self.calibration, self.test = self._timed("texts", lambda: text_sets(job, reference))
        require_disjoint(self.calibration, self.test)
        self.tokenizer = tokenizer = load_tokenizer(source.file.metadata, job.path.parent)
        length = min(ROW_TOKENS, source.config.context_length)
        rows = token_rows(tokenizer, self.calibration, length, options.calibration_tokens)
        self.test_rows = token_rows(tokenizer, self.test, length, options.test_tokens)
        self.quantization = Quantization(
            source, self.calibration, rows, options.probe_tokens, keep=options.keep, kinds=options.kinds
        )
        self.work = make_folder(job.out.with_name(f"{job.out.name}.work") / self.quantization.key)

    def card(self) -> ReportCard:
        job, target = self.job, self.job.target
        surveyed_model = self._timed("survey", lambda: surveyed(self.work, self.quantization, job.progress))
        found = candidates(self.quantization, surveyed_model, target, self.rates, CURVE)
        meter = self._timed("test", lambda: LossMeter(self.reference, self.test_rows, self.tokenizer))
        made: list[_Made] = []
        while True:
            chosen = _next(found, target, made)
            if any(one.candidate.types == chosen.types for one in made):
                break  # predictions that were corrected lead back to it
            made.append(self._make(chosen, meter))
            last = made[-1]
            if not last.misses(target) or len(made) == job.options.most_made:
                break
            found = corrected(found, last.kl_ratio, last.time_ratio)
        return self._finish(made, found)

    def _make(self, chosen: FileCandidate, meter: LossMeter) -> _Made:
        job, file = self.job, self.work / "candidate.gguf"
        self._timed("rounding", lambda: write_quantized(self.quantization, chosen.types, file, self.work, job.progress))
        quality = self._timed("test", lambda: meter.of_file(file))
        speed = None
        if job.options.measure_speed:
            speed = self._timed("speed", lambda: job.speed_of(file))
        return _Made(chosen, file, file.stat().st_size, quality, speed)

    def _finish(self, made: list[_Made], front: Sequence[FileCandidate]) -> ReportCard:
        job, last = self.job, made[-1]
        missed = last.misses(job.target)
        if missed:
            slow = any(_is_speed(miss) for miss in missed)
            again = "; speeds are kept, and measured anew after `miaotui doctor`" if slow else ""
            raise RequestError(
                f"the target cannot be met; the nearest point that was measured has {' and '.join(missed)}{again}"
            )
        card = self._card(last, made, front)
        replace(last.file, job.out)
        write_card(job.out, card)
        remove_work(job.out.with_name(f"{job.out.name}.work"))
        return card

    def _card(self, last: _Made, made: Sequence[_Made], front: Sequence[FileCandidate]) -> ReportCard:
        job, types = self.job, last.candidate.types
        shared = len(self.calibration.lines() & self.test.lines())
        return ReportCard(
            file={**about_file(last.file), "name": job.out.name},
            source=about_file(self.reference.path),
            wanted={name: value for name, value in asdict(job.target).items() if value is not None},
            quality=asdict(last.quality),
            texts={
                "calibration": about_texts(self.calibration, self.quantization.rows),
                "test": about_texts(self.test, self.test_rows),
                "shared_lines": shared,
            },
            speed=None if last.speed is None else asdict(last.speed),
            predicted={**last.predicted(), "scale": asdict(self.rates.scale), "drafts": self.drafts},
            measured_candidates=len(made),
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
            choices={name: kind.name for name, kind in types.kinds.items()},
            front={"predicted": front_points(front), "measured": [one.point() for one in made]},
            notes=(*self._notes(types.kinds), *(self._busy(last.speed))),
        )

    def _busy(self, last: MeasuredSpeed | None) -> tuple[str, ...]:
        """Return a note if the model's or the file's speed was measured beside other programs."""
        found = [one.warning for one in (self.job.own_speed(self.source), last) if one is not None and one.warning]
        return tuple(found[:1])

    def _notes(self, kinds: Mapping[str, BlockType]) -> tuple[str, ...]:
        notes = [f"made by miaotui {miaotui.__version__}; quality is of the weights, in float32 arithmetic"]
        narrow = sum(one.cols % 256 != 0 for one in self.source.matrices)
        if narrow:
            notes.append(f"{narrow} matrices have rows that are no multiple of 256: they have no type of 2 or 3 bits")
        stored = self.source.file.tensors
        quantised = sum(not stored[one.name].kind.is_float for one in self.source.matrices)
        if quantised:
            notes.append(f"{quantised} matrices were quantised before: the loss is against that file, not its original")
        if len(kinds) > 1 and len(set(kinds.values())) == 1:
            kind = next(iter(kinds.values())).name
            notes.append(f"all matrices are {kind}: the target leaves no choice, so nothing was gained by choosing")
        kept = sum(kinds[name] is stored[name].kind for name in kinds)
        if kept and self.quantization.keep:
            notes.append(f"{kept} matrices are copied as they are")
        return tuple(notes)

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        found = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began_s
        return found


@dataclass(frozen=True)
class _Made:
    """FileCandidate that was really made, and what was measured of it."""

    candidate: FileCandidate
    file: Path
    size_bytes: int
    quality: QualityLoss
    speed: MeasuredSpeed | None

    def point(self) -> dict[str, Any]:
        """Return it as a point of the front, with what was predicted of it."""
        speed = None if self.speed is None else self.speed.tokens_per_s
        point = {"file_bytes": self.size_bytes, "mean_kl": self.quality.mean_kl, "tokens_per_s": speed}
        return {**point, "predicted": self.predicted()}

    def predicted(self) -> dict[str, Any]:
        """Return what was predicted before it was made."""
        return {**asdict(self.candidate.cost), "mean_kl": self.candidate.predicted_kl}

    @property
    def kl_ratio(self) -> float:
        predicted = self.candidate.predicted_kl or 0.0
        return float(np.clip(self.quality.mean_kl / predicted, 0.1, 10)) if predicted > 0 else 1.0

    @property
    def time_ratio(self) -> float:
        return 1.0 if self.speed is None else self.candidate.cost.tokens_per_s / self.speed.tokens_per_s

    def misses(self, target: OptimizeTarget) -> list[str]:
        found = []
        if target.max_kl is not None and self.quality.mean_kl > target.max_kl:
            found.append(f"a loss of {self.quality.mean_kl:.4f} nats of {target.max_kl:g}")
        if self.speed is not None and target.tokens_per_s is not None and self.speed.tokens_per_s < target.tokens_per_s:
            found.append(f"{self.speed.tokens_per_s:.1f} tokens/s of {target.tokens_per_s:g}")
        if self.speed is not None and target.deadline_s is not None and self.speed.seconds > target.deadline_s:
            found.append(f"{self.speed.seconds:.2f} s of {target.deadline_s:g} s")
        return found


def _next(found: Sequence[FileCandidate], target: OptimizeTarget, made: Sequence[_Made]) -> FileCandidate:
    """Return the candidate to make next: the best by prediction, else the one that may still keep what was missed."""
    try:
        return best(found, target)
    except RequestError:
        if not made:
            raise
        too_slow = any(_is_speed(miss) for miss in made[-1].misses(target))
        return found[0] if too_slow else found[-1]


def _is_speed(miss: str) -> bool:
    return "tokens/s" in miss or " s of" in miss


def require_inputs(path: Path, out: Path, target: OptimizeTarget, options: OptimizeOptions) -> None:
    """Check the place of the output, the model, its memory and the texts that were given, before anything is measured.

    Raises a `MiaotuiError` for what cannot become a file.
    """
    if out.exists():
        raise RequestError(f"{out} is there already: name another place (--out), or remove it")
    if out.suffix != ".gguf":
        raise RequestError(f"{out} must end in .gguf: that is what is written")
    if target.size_bytes is not None and target.size_bytes >= path.stat().st_size:
        raise RequestError(
            f"{path.name} has {path.stat().st_size:,} bytes already, no more than the "
            f"{target.size_bytes:,} asked for: there is nothing to do"
        )
    with open_source(path) as source:
        if options.measure_speed:
            _require_context(source, target)
        _require_memory(source, options)
        tokenizer = load_tokenizer(source.file.metadata, path.parent)
        length = min(ROW_TOKENS, source.config.context_length)
    given = [read_texts(file) for file in (options.calibration, options.test) if file is not None]
    for texts in given:
        token_rows(tokenizer, texts, length, MIN_TOKENS)
    if len(given) > 1:
        require_disjoint(*given)


def _require_context(source: GgufSource, target: OptimizeTarget) -> None:
    """Raise `RequestError` for a prompt and an answer that are longer than the model's context."""
    context = source.config.context_length
    if target.prompt + target.answer > context:
        raise RequestError(
            f"a prompt of {target.prompt} tokens and an answer of {target.answer} do not fit into the model's context "
            f"of {context}: lower --prompt or --answer"
        )


def _require_memory(source: GgufSource, options: OptimizeOptions) -> None:
    """Raise `RequestError` if the work itself would take more memory than there is."""
    needed, there = work_bytes(source, options.calibration_tokens, options.probe_tokens), probe().memory_bytes
    if there is not None and needed > there:
        raise RequestError(
            f"the optimisation of {source.path.name} takes about {format_size(needed)} of memory, and this machine "
            f"lets it have {format_size(there)}: use a larger machine, or fewer calibration tokens"
        )


def text_sets(job: Optimization, reference: GgufSource) -> tuple[TextSet, TextSet]:
    """Return the calibration and the test texts: those that were given, else the model's own."""
    options = job.options
    given = [None if path is None else read_texts(path) for path in (options.calibration, options.test)]
    if given[0] is not None and given[1] is not None:
        return given[0], given[1]
    length = reference.config.context_length
    own = own_texts(reference.path, reference.digest(), job.settings, job.progress, length)
    return given[0] or own[0], given[1] or own[1]


def about_texts(texts: TextSet, rows: Tokens) -> dict[str, Any]:
    """Return what a card says of texts."""
    return {"name": texts.name, "sha256": texts.digest, "texts": len(texts.texts), "tokens": tokens_in(rows)}


def about_file(path: Path) -> dict[str, Any]:
    """Return what a card says of a file, and of the folder that it is a copy of."""
    folder = copied_folder(path)
    more = {} if folder is None else {"copy_of": folder}
    return {"name": path.name, "sha256": file_digest(path), "bytes": path.stat().st_size, **more}
