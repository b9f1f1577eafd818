"""Distillation with its report card: the distance to the teacher before and after, over texts that were not learned.

Owns the measurement. Knows no training (`distil`). Invariant: no line is learned and measured; the card is about the
file beside it.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import miaotui
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.files import replace as move
from miaotui.optimize.card import ReportCard, write_card
from miaotui.optimize.distillation.distil import Distillation
from miaotui.optimize.distillation.recipe import DistilRecipe
from miaotui.optimize.distillation.teacher import common_vocabulary
from miaotui.optimize.loss_meter import LossMeter
from miaotui.optimize.optimizer import OptimizeOptions, about_file, about_texts
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.calibration import TextSet, read_texts, require_disjoint, token_rows
from miaotui.optimize.texts.own_texts import own_texts
from miaotui.text.load import load_tokenizer
from miaotui.types import Progress


@dataclass(eq=False)
class LearnedStudent:
    """One distillation into ``out``; ``texts`` and ``test`` are files (None: the teacher's own texts)."""

    teacher: Path
    student: Path
    out: Path
    recipe: DistilRecipe
    texts: Path | None = None
    test: Path | None = None
    settings: Settings | None = None
    progress: Progress | None = None
    test_tokens: int = OptimizeOptions.test_tokens

    def run(self) -> ReportCard:
        """Learn, measure, and write the student with its card. Raises a `MiaotuiError`."""
        if self.out.exists():
            raise RequestError(f"{self.out} is there already: name another place (--out), or remove it")
        if self.out.suffix != ".gguf":
            raise RequestError(f"{self.out} must end in .gguf: that is what is written")
        work = self.out.with_name(f"{self.out.name}.work")
        with open_source(self.teacher) as teacher, open_source(self.student) as student:
            sizes = teacher.config.vocab_size, student.config.vocab_size
            vocabulary = common_vocabulary(teacher.file.metadata, student.file.metadata, sizes)
            learned, test = self._sets(teacher)
            require_disjoint(learned, test)
            tokenizer = load_tokenizer(teacher.file.metadata, teacher.path.parent)
            length = self.recipe.length
            given = token_rows(tokenizer, learned, length, self.recipe.tokens) if self.texts is not None else []
            given = [row for row in given if len(row) == length]
            rows = token_rows(tokenizer, test, min(length, teacher.config.context_length), self.test_tokens)
            out = work / "learned.gguf"
            job = Distillation(self.teacher, self.student, out, work, self.recipe, given, self.progress)
            report = job.run()
            meter = LossMeter(teacher, rows, tokenizer, vocabulary)
            before = meter.of_source(student)
            with open_source(out) as made:
                after = meter.of_source(made)
                choices = {one.name: made.file.tensors[one.name].kind.name for one in made.matrices}
        card = ReportCard(
            file={**about_file(out), "name": self.out.name},
            source=about_file(self.teacher),
            wanted={"distil": asdict(self.recipe)},
            quality=asdict(after),
            texts={
                "calibration": about_texts(learned, given),
                "test": about_texts(test, rows),
                "shared_lines": len(learned.lines() & test.lines()),
            },
            speed=None,
            predicted={},
            measured_candidates=1,
            seconds={"learning": report.seconds},
            choices=choices,
            front={"predicted": [], "measured": []},
            notes=(
                f"made by miaotui {miaotui.__version__}; the loss is against the teacher: {before.mean_kl:.4f} nats "
                f"before, {after.mean_kl:.4f} after",
            ),
            changes={"distillation": report.as_dict(), "student": about_file(self.student), "before": asdict(before)},
        )
        move(out, self.out)
        write_card(self.out, card)
        shutil.rmtree(work, ignore_errors=True)
        return card

    def _sets(self, teacher: GgufSource) -> tuple[TextSet, TextSet]:
        given = [None if path is None else read_texts(path) for path in (self.texts, self.test)]
        if given[0] is not None and given[1] is not None:
            return given[0], given[1]
        settings, length = self.settings or Settings.from_env(), teacher.config.context_length
        own = own_texts(teacher.path, teacher.digest(), settings, self.progress, length)
        return given[0] or replace(own[0], name="the teacher's own texts"), given[1] or own[1]
