"""Pruning from a model and a shape to a file with its card, set against quantisation to equal bytes.

Owns the order: texts, what is left out, healing, quantisation of the rest, the quantised rival, the choice. Knows no
command line. Invariant: the file that is returned loses no more than its rival of as many bytes; the card says which of
both it is, and what each lost.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from miaotui.config import make_folder
from miaotui.errors import RequestError
from miaotui.hub.files import require_room, write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.libraries import need
from miaotui.optimize.card import ReportCard, read_card, write_card
from miaotui.optimize.cost import shaped_matrices
from miaotui.optimize.distillation.distil import Distillation
from miaotui.optimize.distillation.recipe import DistilRecipe
from miaotui.optimize.front import shape_points
from miaotui.optimize.loss_meter import LossMeter
from miaotui.optimize.optimizer import ROW_TOKENS, Optimization, about_file, about_texts, text_sets
from miaotui.optimize.plan import OptimizeTarget
from miaotui.optimize.pruning.layers import layer_order
from miaotui.optimize.pruning.masks import masked_loss
from miaotui.optimize.pruning.pruned_file import write_pruned
from miaotui.optimize.pruning.shape import PrunedShape, require_shape
from miaotui.optimize.pruning.widths import kept_widths
from miaotui.optimize.quantization.block_grids import stored_kind
from miaotui.optimize.quantization.quantize import METHOD, fixed_bytes, matrix_bytes
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.calibration import require_disjoint, token_rows
from miaotui.text.load import load_tokenizer
from miaotui.training.decoder import require_plain

PROBE_ROWS, PROBE_ROW = 8, 64  # of the calibration texts: layers are tried on them


@dataclass(frozen=True)
class PruneOptions:
    """Sizes to prune to (None: as they are), the recipe of healing (None: none), and a share of weights to mask."""

    layers: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    heal: DistilRecipe | None = None
    mask: float | None = None


@dataclass(eq=False)
class Pruning:
    """One pruning of the model of ``job``, within its target."""

    job: Optimization
    options: PruneOptions

    def run(self) -> ReportCard:
        """Make the file and its card. Raises a `MiaotuiError`; then nothing is at the output's place."""
        job, options = self.job, self.options
        job.require_inputs()
        with open_source(job.path) as source:
            require_shape(source.config, options.layers, options.kv_heads, options.ffn)
            if options.mask is None and not self._shrinks(source):
                raise RequestError("nothing is left out: ask for fewer layers, heads or channels than the model has")
            if options.heal is not None:
                need("torch")
                require_plain(source.config)
            weights = sum(math.prod(tensor.shape) for tensor in source.file.tensors.values())
            healed = 2 * weights if options.heal is not None else 0
            require_room(make_folder(job.out.parent), 4 * job.path.stat().st_size + healed)
            run = PruneRun(self.job, source, repr(options))
            card = run.masked(options.mask) if options.mask is not None else run.pruned(options)
        shutil.rmtree(job.out.with_name(f"{job.out.name}.work"), ignore_errors=True)
        return card

    def _shrinks(self, source: GgufSource) -> bool:
        options, config = self.options, source.config
        pairs = [
            (options.layers, config.n_layers),
            (options.kv_heads, config.n_kv_heads),
            (options.ffn, config.ffn_size),
        ]
        return any(wanted is not None and wanted < there for wanted, there in pairs)


class PruneRun:
    """State of one run: the model, its texts, and the distributions that everything is measured against.

    ``purpose`` names, together with texts and target, what the work folder is for.
    """

    def __init__(self, job: Optimization, source: GgufSource, purpose: str) -> None:
        self._job, self._purpose, self._source = job, purpose, source
        self._calibration, self._test = text_sets(self._job, source)
        require_disjoint(self._calibration, self._test)
        tokenizer = load_tokenizer(source.file.metadata, source.path.parent)
        length, options = min(ROW_TOKENS, source.config.context_length), self._job.options
        self._rows = token_rows(tokenizer, self._calibration, length, options.calibration_tokens)
        self._test_rows = token_rows(tokenizer, self._test, length, options.test_tokens)
        self._work = make_folder(self._job.out.with_name(f"{self._job.out.name}.work") / self._key())
        self._meter = LossMeter(source, self._test_rows, tokenizer)

    def _key(self) -> str:
        """Return a digest of everything that decides the file, so that another command begins anew."""
        job, texts = self._job, (self._calibration.digest, self._test.digest)
        about = [METHOD, self._source.digest(), *texts, self._purpose, repr(job.target), repr(job.options)]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    def tried(self, options: PruneOptions) -> dict[str, Any]:
        """Prune, and return what stays and what it loses as it is."""
        shape, about = self._shape(options)
        return {"shape": shape.as_dict(), **about, "pruned": self._quality(self._written(shape))}

    def pruned(self, options: PruneOptions, more: Mapping[str, Any] | None = None) -> ReportCard:
        """Prune, heal, quantise; return the card of what lost less, which is then at the output's place.

        ``more`` are facts for the card.
        """
        shape, about = self._shape(options)
        speed = self._job.own_speed(self._source)
        file = self._written(shape)
        facts: dict[str, Any] = {"shape": shape.as_dict(), **about, "pruned": self._quality(file), **(more or {})}
        if speed is not None:
            facts["original"] = {"tokens_per_s": speed.tokens_per_s, "seconds": speed.seconds}
        own_bytes = stored_types_bytes(self._source, shape)
        if options.heal is not None:
            file = self._healed(file, options.heal, facts)
            facts["healed"] = self._quality(file)
        ours = self._optimized(file, own_bytes)
        rival = self._rival(ours.file["bytes"])
        return self._chosen(ours, rival, facts, "pruned")

    def masked(self, share: float) -> ReportCard:
        """Measure a mask, and return the card of a quantised file of as many bytes as a bitmap would take at best."""
        found = masked_loss(self._source, self._rows, self._meter, share, self._job.progress)
        rival = self._rival(min(found.least_bytes, self._job.target.size_bytes or found.least_bytes))
        if isinstance(rival, str):
            raise RequestError(
                f"a mask of {share:.0%} saves nothing in blocks, and a file of the {found.least_bytes:,} bytes that "
                f"bitmaps would take at best cannot be made instead: {rival}"
            )
        note = (
            f"a mask of {share:.0%} of the weights saves no bytes and no time here, since zeros are stored and "
            f"multiplied in blocks like other weights; with bitmaps it would take {found.least_bytes:,} bytes at best, "
            f"and lose {found.quality.mean_kl:.4f} nats. This file is quantised to no more bytes instead and loses "
            f"{rival.quality['mean_kl']:.4f}"
        )
        facts = {"mask": share, "masked": asdict(found.quality), "least_bytes": found.least_bytes}
        return self._finish(rival, {**facts, "returned": "quantised"}, note)

    def _shape(self, options: PruneOptions) -> tuple[PrunedShape, dict[str, Any]]:
        config = self._source.config
        kept, about = tuple(range(config.n_layers)), {}
        count = options.layers or config.n_layers
        if count < config.n_layers:
            step = max(1, len(self._rows) // PROBE_ROWS)
            probe = [row[:PROBE_ROW] for row in self._rows[::step][:PROBE_ROWS]]
            path = self._work / f"layers-{count}.json"
            found = _kept_json(path)
            if found is None:
                order = layer_order(self._meter.base, probe, config.n_layers - count, self._job.progress)
                found = {"left_out": list(order.layers), "nats_after_each": [round(x, 5) for x in order.nats]}
                text = json.dumps(found).encode()
                write_whole(path, "the order of layers", lambda file: file.write(text))
            gone = set(found["left_out"])
            kept, about = tuple(layer for layer in kept if layer not in gone), dict(found)
        return PrunedShape(kept, options.kv_heads or config.n_kv_heads, options.ffn or config.ffn_size), about

    def _written(self, shape: PrunedShape) -> Path:
        file = self._work / f"pruned-{len(shape.layers)}-{shape.kv_heads}-{shape.ffn}.gguf"
        if not file.is_file():
            kept, replaced = None, None
            if shape.changes_widths(self._source.config):
                kept, replaced = kept_widths(self._source, shape, self._rows, self._job.progress)
            write_pruned(self._source, shape, file, kept, replaced)
        return file

    def _healed(self, file: Path, recipe: DistilRecipe, facts: dict[str, Any]) -> Path:
        out, report = file.with_name(f"healed-{file.name}"), file.with_name(f"healed-{file.name}.json")
        found = _kept_json(report) if out.is_file() else None
        if found is None:
            given = self._rows if self._job.options.calibration is not None else []
            fitting = [row[: recipe.length] for row in given if len(row) >= recipe.length]
            job = Distillation(self._job.path, file, out, self._work, recipe, fitting, self._job.progress)
            found = job.run().as_dict()
            text = json.dumps(found).encode()
            write_whole(report, "the report of healing", lambda stream: stream.write(text))
        facts["distillation"] = found
        return out

    def _optimized(self, file: Path, own_bytes: int) -> ReportCard:
        """Return the card of the pruned model within the target, and within the bytes of its stored types."""
        job, out = self._job, self._work / "pruned-out.gguf"
        size = min(job.target.size_bytes or own_bytes, own_bytes)
        if file.stat().st_size <= size:
            card = self._as_is(file, out)
            if not _missed(card, job.target):
                write_card(out, card)
                return card
            out.unlink()
            size = file.stat().st_size - 1  # fewer bits may be as fast as it takes
        target = replace(job.target, size_bytes=size)
        return self._run(Optimization(file, out, target, job.rates, reference=job.path), out)

    def _as_is(self, file: Path, out: Path) -> ReportCard:
        """Copy the file to ``out``; return its card."""
        job = self._job
        shutil.copyfile(file, out)
        speed = job.speed_of(out) if job.options.measure_speed else None
        texts = {
            "calibration": about_texts(self._calibration, self._rows),
            "test": about_texts(self._test, self._test_rows),
            "shared_lines": len(self._calibration.lines() & self._test.lines()),
        }
        with open_source(out) as made:
            choices = {one.name: made.file.tensors[one.name].kind.name for one in made.matrices}
        return ReportCard(
            file=about_file(out),
            source=about_file(job.path),
            wanted={name: value for name, value in asdict(job.target).items() if value is not None},
            quality=self._quality(out),
            texts=texts,
            speed=None if speed is None else asdict(speed),
            predicted={},
            measured_candidates=1,
            seconds={},
            choices=choices,
            front={"predicted": [], "measured": []},
        )

    def _rival(self, size: int) -> ReportCard | str:
        """Return the card of the quantised original of at most ``size`` bytes, or why there is none."""
        job, out = self._job, self._work / "quantised-out.gguf"
        if size >= job.path.stat().st_size:
            size = job.path.stat().st_size - 1
        try:
            return self._run(Optimization(job.path, out, replace(job.target, size_bytes=size), job.rates), out)
        except RequestError as error:
            return str(error)

    def _run(self, made: Optimization, out: Path) -> ReportCard:
        if out.is_file():  # of a run that was interrupted
            return read_card(out)
        job = self._job
        made.options, made.settings, made.progress = job.options, job.settings, job.progress
        made.measure, made.drafts = job.measure, job.drafts
        return made.run()

    def _chosen(self, ours: ReportCard, rival: ReportCard | str, facts: dict[str, Any], name: str) -> ReportCard:
        """Return the card of the better one, with what both lost."""
        mine = ours.quality["mean_kl"]
        facts["set_against"] = _summary(rival)
        facts[f"{name}_file"] = _summary(ours)
        if isinstance(rival, str):
            note = f"pruned: it loses {mine:.4f} nats, and no quantised file takes its place: {rival}"
            return self._finish(ours, {**facts, "returned": "pruned"}, note, rival)
        theirs, size = rival.quality["mean_kl"], rival.file["bytes"]
        if theirs <= mine:
            note = (
                f"quantised, not pruned: in {size:,} bytes it loses {theirs:.4f} nats, and the pruned model in "
                f"{ours.file['bytes']:,} bytes {mine:.4f}{_speeds(facts, ours, rival)}"
            )
            return self._finish(rival, {**facts, "returned": "quantised"}, note, ours)
        note = (
            f"pruned: it loses {mine:.4f} nats, and quantised to {size:,} bytes the model loses "
            f"{theirs:.4f}{_speeds(facts, ours, rival)}"
        )
        return self._finish(ours, {**facts, "returned": "pruned"}, note, rival)

    def _finish(
        self, card: ReportCard, facts: Mapping[str, Any], note: str, other: ReportCard | str = ""
    ) -> ReportCard:
        job = self._job
        file = self._work / str(card.file["name"])
        about, front = {**card.file, "name": job.out.name}, _front(card, other)
        if "search" in facts:
            front["shapes"] = shape_points(facts["search"])
        found = replace(card, file=about, notes=(note, *card.notes), changes=dict(facts), front=front)
        os.replace(file, job.out)
        write_card(job.out, found)
        return found

    def _quality(self, file: Path) -> dict[str, Any]:
        return asdict(self._meter.of_file(file))


def stored_types_bytes(source: GgufSource, shape: PrunedShape) -> int:
    """Return the bytes of a pruned file whose matrices have the types that they are stored in, at most."""
    kinds = {one.name: source.file.tensors[one.name].kind for one in source.matrices}
    matrices = shaped_matrices(source, shape)
    return fixed_bytes(source) + sum(matrix_bytes(one, stored_kind(kinds[one.name], one.cols)) for one in matrices)


def _summary(card: ReportCard | str) -> dict[str, Any]:
    if isinstance(card, str):
        return {"refused": card}
    speed = card.speed or {}
    return {
        "bytes": card.file["bytes"],
        "mean_kl": card.quality["mean_kl"],
        "tokens_per_s": speed.get("tokens_per_s"),
        "seconds": speed.get("seconds"),
    }


def _front(card: ReportCard, other: ReportCard | str) -> dict[str, Any]:
    """Return the front of a card with the point of what it was set against."""
    points = [*card.front["measured"]] or [_point(card)]
    return {
        "predicted": card.front["predicted"],
        "measured": points if isinstance(other, str) else [*points, _point(other)],
    }


def _point(card: ReportCard) -> dict[str, Any]:
    speed = None if card.speed is None else card.speed["tokens_per_s"]
    return {"file_bytes": card.file["bytes"], "mean_kl": card.quality["mean_kl"], "tokens_per_s": speed}


def _speeds(facts: Mapping[str, Any], ours: ReportCard, rival: ReportCard) -> str:
    if ours.speed is None or rival.speed is None:
        return ""
    first, mine, theirs = (float(each["tokens_per_s"]) for each in (facts["original"], ours.speed, rival.speed))
    return f" (tokens/s: original {first:.1f}, pruned {mine:.1f}, quantised {theirs:.1f})"


def _missed(card: ReportCard, target: OptimizeTarget) -> list[str]:
    found = []
    loss, speed = card.quality["mean_kl"], card.speed
    if target.max_kl is not None and loss > target.max_kl:
        found.append(f"a loss of {loss:.4f} nats of {target.max_kl:g}")
    if speed is not None and target.tokens_per_s is not None and speed["tokens_per_s"] < target.tokens_per_s:
        found.append(f"{speed['tokens_per_s']:.1f} tokens/s of {target.tokens_per_s:g}")
    if speed is not None and target.deadline_s is not None and speed["seconds"] > target.deadline_s:
        found.append(f"{speed['seconds']:.2f} s of {target.deadline_s:g} s")
    return found


def _kept_json(path: Path) -> dict[str, Any] | None:
    return dict(read_object(path)) if path.is_file() else None
