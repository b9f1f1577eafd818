"""Optimisation that leaves parts of a model out where no choice of types meets the target.

Owns the choice between shapes. The plan says on which ways parts can go and how much has to (`plan.meeting_shapes`);
here those shapes are made, what each loses is measured, and the one that loses least is quantised within the target.
Invariants: nothing is left out while types alone are predicted to meet the target; at most `CANDIDATES` files are made;
the same model, texts and target give the same shape.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from miaotui.config import make_folder
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.files import require_room
from miaotui.model.config import ModelConfig
from miaotui.optimize.card import ReportCard
from miaotui.optimize.optimizer import Optimization
from miaotui.optimize.plan import CANDIDATES, FileCandidate, best, meeting_shapes, needs_shape, planned
from miaotui.optimize.pruning.prune import PruneOptions, PruneRun
from miaotui.optimize.pruning.shape import shape_ladders, whole_shape
from miaotui.optimize.source import GgufSource, open_source

Counts = Mapping[str, int]  # of layers, heads and channels, see `PrunedShape.counts`
SMALLER = 2  # times that a shape whose file missed the target by measurement is made smaller


@dataclass(eq=False)
class ShapeSearch:
    """One optimisation within the target of ``job``, by types alone or, where those do not do, by shape and types."""

    job: Optimization

    def run(self) -> ReportCard:
        """Make the file and its card. Raises a `MiaotuiError`; then nothing is at the output's place."""
        job = self.job
        job.require_inputs()
        with open_source(job.path) as source:
            why = self._refused(source)
            shapes = meeting_shapes(job.unread(source), job.target, job.scaled_rates(source)) if why else []
            if shapes:
                require_room(make_folder(job.out.parent), 6 * job.path.stat().st_size)
                card = self._searched(source, shapes, why)
                shutil.rmtree(job.out.with_name(f"{job.out.name}.work"), ignore_errors=True)
                return card
        return job.run()

    def _refused(self, source: GgufSource) -> str:
        """Return in words why types alone do not meet the target; "" if they do, or would with keys of 8 bits."""
        job = self.job
        try:
            plan = planned(job.unread(source), job.target, job.scaled_rates(source))
            if needs_shape(plan, job.target):
                best([one for one in plan if one.shape is None], job.target)
        except RequestError as error:
            return str(error)
        return ""

    def _searched(self, source: GgufSource, shapes: list[FileCandidate], why: str) -> ReportCard:
        run, config, tried = PruneRun(self.job, source, "search"), source.config, []
        for candidate in shapes:
            assert candidate.shape is not None, "types alone are no shape"
            counts = candidate.shape.counts
            try:
                facts = run.tried(_options(config, counts))
            except UnsupportedModelError:
                continue  # such parts of this architecture cannot go
            tried.append({"keeps": counts, **facts, "predicted": asdict(candidate.cost)})
        if not tried:
            raise RequestError(f"{why}; and no part of this model can be left out")
        chosen = min(tried, key=lambda one: (one["pruned"]["mean_kl"], str(one["keeps"])))
        most = max(1, (CANDIDATES - len(tried)) // (SMALLER + 1))
        self.job.options = replace(self.job.options, most_made=most)
        return self._within(run, config, chosen["keeps"], {"search": tried, "because": why})

    def _within(self, run: PruneRun, config: ModelConfig, counts: Counts, facts: Mapping[str, Any]) -> ReportCard:
        """Return the card of the shape within the target; a shape that misses it by measurement gets smaller."""
        steps = [counts, *_below(config, counts)[:SMALLER]]
        for number, step in enumerate(steps, 1):
            try:
                return run.pruned(_options(config, step), facts)
            except RequestError:
                if number == len(steps):
                    raise
        raise AssertionError("the last step returns or raises")


def _options(config: ModelConfig, counts: Counts) -> PruneOptions:
    """Return a shape as options, which name only what becomes less."""
    whole = whole_shape(config).counts
    less: dict[str, Any] = {name: count for name, count in counts.items() if count < whole[name]}
    return PruneOptions(**less)


def _below(config: ModelConfig, counts: Counts) -> list[Counts]:
    """Return the smaller shapes on the way of ``counts``, the largest first."""
    for ladder in shape_ladders(config):
        steps: list[Counts] = [shape.counts for shape in ladder]
        if counts in steps:
            return steps[steps.index(counts) + 1 :]
    return []
