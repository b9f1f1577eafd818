"""``miaotui train``: a small model from texts.

Owns what is printed. Knows no training (`optimize.learning`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path

from miaotui.errors import RequestError


def train(parsed: argparse.Namespace) -> int:
    """Train, or go on, print what came out and return the exit status."""
    from miaotui.cli.optimize.merge import show_origin
    from miaotui.cli.output import card_messages
    from miaotui.cli.output.progress import ProgressBars
    from miaotui.optimize.learning.pretrain import STATE, Pretraining
    from miaotui.optimize.learning.recipe import PretrainRecipe, kept_recipe
    from miaotui.training.checkpoint import read_state
    from miaotui.training.torch_loading import use_threads

    if not hasattr(parsed, "out"):
        raise RequestError("say where the model shall lie: miaotui train TEXT... --out FOLDER")
    out = Path(parsed.out).expanduser()
    given = {each.name: getattr(parsed, each.name) for each in fields(PretrainRecipe) if hasattr(parsed, each.name)}
    kept = read_state(out / STATE)
    recipe = PretrainRecipe(**given) if kept is None else kept_recipe(PretrainRecipe, kept[1]["recipe"], given)
    threads = getattr(parsed, "threads", None)
    use_threads(threads)
    with ProgressBars() as progress:
        paths = [Path(name).expanduser() for name in parsed.words]
        job = Pretraining(paths, out, recipe, getattr(parsed, "save_every", 100), threads, progress)
        origin = asdict(job.run())
    if getattr(parsed, "json", False):
        print(json.dumps(origin, indent=1, ensure_ascii=False))
        return 0
    show_origin(origin)
    measured = origin["measured"]
    held = measured["held_out"]
    print(
        f"{card_messages.TRAINED_PARAMETERS()}: {measured['parameters']:,}; {card_messages.LEARNED_HELD_OUT()}: "
        f"{held['nats']:.4f} nats, {card_messages.CARD_PERPLEXITY()} {held['perplexity']:.2f}"
    )
    print(out)
    return 0
