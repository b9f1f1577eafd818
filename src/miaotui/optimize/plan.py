"""OptimizeTarget of an optimisation, and the plan that follows from it before any work: candidates, predicted, in JSON.

Owns which candidate meets a target. Knows no rounding. Invariant: the same model, target and rates give the same plan;
a target that no candidate can meet is refused before work begins, with the nearest point.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.formats.tensors import BlockType
from miaotui.model.config import LANES, ModelConfig
from miaotui.optimize.cost import AnswerCost, MachineRates, answer_cost, shaped_matrices
from miaotui.optimize.pruning.shape import PrunedShape, require_shape, shape_ladders, whole_shape
from miaotui.optimize.quantization.block_grids import GRIDS
from miaotui.optimize.quantization.quantize import MixedTypes, Quantization, fixed_bytes, matrix_bytes, predicted_curve
from miaotui.optimize.quantization.survey import Survey
from miaotui.optimize.source import StoredMatrix

CANDIDATES = 12
MAX_TOKENS = 1 << 17


@dataclass(frozen=True)
class OptimizeTarget:
    """Wishes for a file; at least one of the first four. ``prompt`` and ``answer`` are the tokens of a deadline.

    Raises `RequestError` for values that contradict themselves or lie out of range.
    """

    size_bytes: int | None = None
    max_kl: float | None = None  # mean, in nats
    tokens_per_s: float | None = None
    deadline_s: float | None = None
    prompt: int = 300
    answer: int = 64
    kv: str = "f16"  # how keys and values are stored when the file is run: f16 or int8

    def __post_init__(self) -> None:
        wishes = (self.size_bytes, self.max_kl, self.tokens_per_s, self.deadline_s)
        if all(wish is None for wish in wishes):
            raise RequestError("there is no target: give --size, --max-kl, --tokens-per-s or --deadline")
        if any(wish is not None and not 0 < wish < float("inf") for wish in wishes):
            raise RequestError("size, loss, speed and deadline must be greater than 0")
        if not (1 <= self.prompt <= MAX_TOKENS and 1 <= self.answer <= MAX_TOKENS):
            raise RequestError(f"prompt and answer must have 1 to {MAX_TOKENS:,} tokens")
        if self.kv not in ("f16", "int8"):
            raise RequestError(f"keys and values are stored as f16 or int8, not as {self.kv!r}")


@dataclass(frozen=True)
class FileCandidate:
    """Choice of types with its predicted cost; ``predicted_kl`` is None before the survey."""

    types: MixedTypes
    cost: AnswerCost
    predicted_kl: float | None
    shape: PrunedShape | None = None  # None: the model's own
    with_int8_kv: AnswerCost | None = None  # the cost with keys and values of 8 bits, if it was asked for

    def meets(self, target: OptimizeTarget) -> bool:
        """Return whether the prediction meets the target."""
        return not self.misses(target)

    def misses(self, target: OptimizeTarget) -> list[str]:
        """Return what the prediction misses, in words."""
        cost, found = self.cost, []
        if target.size_bytes is not None and self.types.file_bytes > target.size_bytes:
            found.append(f"{self.types.file_bytes:,} bytes of {target.size_bytes:,}")
        if target.tokens_per_s is not None and cost.tokens_per_s < target.tokens_per_s:
            found.append(f"{cost.tokens_per_s:.1f} tokens/s of {target.tokens_per_s:g}")
        if target.deadline_s is not None and cost.seconds > target.deadline_s:
            found.append(f"{cost.seconds:.2f} s of {target.deadline_s:g} s")
        if target.max_kl is not None and self.predicted_kl is not None and self.predicted_kl > target.max_kl:
            found.append(f"a loss of {self.predicted_kl:.4f} nats of {target.max_kl:g}")
        return found

    def as_dict(self, target: OptimizeTarget) -> dict[str, Any]:
        """Return it as JSON values."""
        counts = Counter(kind.name for kind in self.types.kinds.values())
        return {
            "file_bytes": self.types.file_bytes,
            "predicted": {**asdict(self.cost), "mean_kl": self.predicted_kl},
            "types": dict(sorted(counts.items())),
            **({} if self.shape is None else {"keeps": self.shape.as_dict()}),
            **({} if self.with_int8_kv is None else {"with_int8_kv": asdict(self.with_int8_kv)}),
            "misses": self.misses(target),
        }


def planned(quantization: Quantization, target: OptimizeTarget, rates: MachineRates) -> list[FileCandidate]:
    """Return up to `CANDIDATES` candidates before any work, each with keys and values of 8 bits as well.

    The first are types alone, smallest file first; behind them shapes with the smallest types, which have fewer layers,
    heads or channels: those that meet the target if types alone do not (`meeting_shapes`), else some (`shapes`).
    """
    source, lengths = quantization.source, (target.prompt, target.answer)
    left_out = [shaped(quantization, shape, target, rates) for shape in shapes(source.config)]
    try:
        found = candidates(quantization, None, target, rates, CANDIDATES - len(left_out))
    except RequestError as error:  # no file of the whole model is so small
        raise RequestError(f"{error}{_remedy(meeting_shapes(quantization, target, rates), target)}") from None
    if not any(one.meets(target) for one in found):
        left_out = meeting_shapes(quantization, target, rates) or left_out
    return [
        replace(one, with_int8_kv=answer_cost(source, one.types.kinds, rates, *lengths, one.shape, "int8"))
        for one in [*found, *left_out]
    ]


def shaped(
    quantization: Quantization, shape: PrunedShape, target: OptimizeTarget, rates: MachineRates
) -> FileCandidate:
    """Return the smallest file of a shape, whose loss is not known before it is made."""
    source = quantization.source
    matrices = shaped_matrices(source, shape)
    kinds = {one.name: smallest(quantization, one) for one in matrices}
    size = fixed_bytes(source) + sum(matrix_bytes(one, kinds[one.name]) for one in matrices)
    cost = answer_cost(source, kinds, rates, target.prompt, target.answer, shape, target.kv)
    return FileCandidate(MixedTypes(kinds, size, 0.0, 0.0), cost, None, shape)


def meeting_shapes(quantization: Quantization, target: OptimizeTarget, rates: MachineRates) -> list[FileCandidate]:
    """Return the largest shape on each way of leaving parts out that is predicted to meet the target."""
    found = []
    for ladder in shape_ladders(quantization.source.config):
        steps = (shaped(quantization, shape, target, rates) for shape in ladder)
        found += [one for one in steps if one.meets(target)][:1]
    return found


def shapes(config: ModelConfig) -> Iterator[PrunedShape]:
    """Yield shapes that a plan shows: nine tenths, three quarters and half of the layers; three quarters of the
    channels; half of the heads. Which layers go is not known before they are tried; the last ones stand for them.
    """
    whole = whole_shape(config)
    for part in (0.9, 0.75, 0.5):
        count = math.ceil(part * config.n_layers)
        if count < config.n_layers:
            yield replace(whole, layers=whole.layers[:count])
    for counts in ((None, None, config.ffn_size * 3 // 4 // LANES * LANES), (None, config.n_kv_heads // 2, None)):
        try:
            require_shape(config, *counts)
        except MiaotuiError:
            continue
        if any(counts):
            yield replace(whole, kv_heads=counts[1] or whole.kv_heads, ffn=counts[2] or whole.ffn)


def smallest(quantization: Quantization, matrix: StoredMatrix) -> BlockType:
    """Return the smallest type that a matrix may have."""
    return quantization.kinds_of(matrix)[0]


def candidates(
    quantization: Quantization,
    found: Survey | None,
    target: OptimizeTarget,
    rates: MachineRates,
    count: int = CANDIDATES,
) -> list[FileCandidate]:
    """Return predicted candidates, smallest file first; the largest file within the size is one of them."""
    known = found if found is not None else prior_losses(quantization)
    choices = {choice.file_bytes: choice for choice in predicted_curve(quantization, known, target.size_bytes, count)}
    return [
        FileCandidate(
            choice,
            answer_cost(quantization.source, choice.kinds, rates, target.prompt, target.answer, kv=target.kv),
            None if found is None else choice.predicted_kl,
        )
        for _, choice in sorted(choices.items())
    ]


def prior_losses(quantization: Quantization) -> Survey:
    """Return losses that depend on bits alone, for a plan before the survey: a bit less is four times the error."""
    return Survey(
        {
            one.name: {kind: one.rows * one.cols * 4.0**-grid.bits for kind, grid in GRIDS.items()}
            for one in quantization.source.matrices
        }
    )


def best(found: Sequence[FileCandidate], target: OptimizeTarget) -> FileCandidate:
    """Return the candidate to make: with a limit of loss the smallest that keeps it, else the one that loses least.

    Raises `RequestError` with the nearest point if none meets the target.
    """
    whole = [one for one in found if one.shape is None]
    meeting = [one for one in whole if one.meets(target)]
    if not meeting:
        nearest = min(whole, key=lambda one: (len(one.misses(target)), _excess(one, target)))
        raise RequestError(
            f"the target cannot be met; the nearest point has {' and '.join(nearest.misses(target))}"
            f"{_remedy(found, target)}"
        )
    return meeting[0] if target.max_kl is not None else meeting[-1]


def _remedy(found: Sequence[FileCandidate], target: OptimizeTarget) -> str:
    """Return what would meet the target by prediction beyond types: a shape, or keys and values of 8 bits."""
    for one in found:
        if one.shape is None and one.with_int8_kv is not None and replace(one, cost=one.with_int8_kv).meets(target):
            return "; with --kv int8, here and when the file is run, it is predicted to be met"
    for one in found:
        if one.shape is not None and one.meets(target):
            keeps = " ".join(f"--{name.replace('_', '-')} {count}" for name, count in one.shape.counts.items())
            return f"; with {keeps} it is predicted to be met, at a loss that is not known before"
    return ""


def needs_shape(found: Sequence[FileCandidate], target: OptimizeTarget) -> bool:
    """Return whether, of what is planned, only files that lack parts of the model meet the target."""
    types = [one for one in found if one.shape is None]
    with_int8 = [replace(one, cost=one.with_int8_kv) for one in types if one.with_int8_kv is not None]
    if any(one.meets(target) for one in [*types, *with_int8]):
        return False
    return any(one.meets(target) for one in found)


def _excess(one: FileCandidate, target: OptimizeTarget) -> float:
    """Return by how much a candidate misses the target, as a sum of ratios."""
    pairs = [
        (float(one.types.file_bytes), target.size_bytes),
        (one.cost.seconds, target.deadline_s),
        (one.predicted_kl or 0.0, target.max_kl),
        (target.tokens_per_s or 0.0, one.cost.tokens_per_s),
    ]
    return sum(max(0.0, found / limit - 1) for found, limit in pairs if limit)


def corrected(found: Sequence[FileCandidate], kl_ratio: float, time_ratio: float) -> list[FileCandidate]:
    """Return candidates whose predictions are multiplied by what the last measurement was of its prediction."""
    return [
        replace(
            one,
            predicted_kl=None if one.predicted_kl is None else one.predicted_kl * kl_ratio,
            cost=replace(
                one.cost, tokens_per_s=one.cost.tokens_per_s / time_ratio, seconds=one.cost.seconds * time_ratio
            ),
        )
        for one in found
    ]


def plan_dict(
    found: Sequence[FileCandidate],
    target: OptimizeTarget,
    source: Mapping[str, Any],
    rates: MachineRates,
    drafts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a plan as JSON values. Speeds are without ``drafts``, whose gain on own openings stands beside them."""
    try:
        chosen: int | None = list(found).index(best(found, target))
        problem = None
    except RequestError as error:
        chosen, problem = None, str(error)
    return {
        "plan": 1,
        "source": dict(source),
        "rates": asdict(rates),
        "context": target.prompt + target.answer,
        "drafts": drafts,
        "target": {name: value for name, value in asdict(target).items() if value is not None},
        "candidates": [one.as_dict(target) for one in found],
        "chosen": chosen,
        "problem": problem,
        "leaves_parts_out": needs_shape(found, target),
    }


def kinds_named(names: Sequence[str]) -> frozenset[BlockType]:
    """Return block types by name. Raises `RequestError` for one that is not written here."""
    known = {kind.name: kind for kind in GRIDS}
    unknown = [name for name in names if name.upper() not in known]
    if unknown:
        raise RequestError(f"{unknown[0]!r} is no type that is written here: choose among {', '.join(known)}")
    return frozenset(known[name.upper()] for name in names)
