"""``miaotui distill``: a model learns another one's distributions, with a report card.

Owns the words of the command line. Knows no training (`optimize.distillation`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from miaotui.cli.optimize.card import show_card

RECIPE = ("tokens", "passes", "objective", "on_policy", "rank", "batch", "length", "rate")


def distill(parsed: argparse.Namespace) -> int:
    """Learn, and write the student with its card; return the exit status."""
    from miaotui.cli.output.progress import ProgressBars
    from miaotui.config import Settings
    from miaotui.hub.resolve import resolve
    from miaotui.optimize.distillation.learned import LearnedStudent
    from miaotui.optimize.distillation.recipe import DistilRecipe
    from miaotui.optimize.folder_copy import as_gguf

    recipe = DistilRecipe(**{name: getattr(parsed, name) for name in RECIPE if hasattr(parsed, name)})
    texts, test = (
        Path(getattr(parsed, name)).expanduser() if hasattr(parsed, name) else None for name in ("texts", "test")
    )
    with ProgressBars() as progress:
        settings = Settings.from_env()
        teacher, student = (
            as_gguf(resolve(name, progress=progress), settings, progress) for name in (parsed.teacher, parsed.words[0])
        )
        out = Path(parsed.out).expanduser()
        job = LearnedStudent(teacher, student, out, recipe, texts, test, settings, progress)
        card = job.run()
    if getattr(parsed, "json", False):
        print(json.dumps(asdict(card), indent=1, ensure_ascii=False))
    else:
        show_card(card)
        print(out)
    return 0
