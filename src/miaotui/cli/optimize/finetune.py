"""``miaotui finetune``: teach a model from examples.

Owns what is printed. Knows no training (`optimize.learning`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from miaotui.errors import RequestError


def finetune(parsed: argparse.Namespace) -> int:
    """Run the fine-tuning, print what was learned and forgotten, and return the exit status."""
    from miaotui.cli.optimize.merge import show_origin
    from miaotui.cli.output.progress import ProgressBars
    from miaotui.optimize.learning.finetune import FinetuneFiles, Finetuning
    from miaotui.optimize.learning.recipe import FinetuneRecipe
    from miaotui.training.torch_loading import use_threads

    model, *data = parsed.words
    if not hasattr(parsed, "out"):
        raise RequestError("say where the result shall lie: miaotui finetune MODEL DATA --out FOLDER")
    given = {each.name: getattr(parsed, each.name) for each in fields(FinetuneRecipe) if hasattr(parsed, each.name)}
    if "targets" in given:
        given["targets"] = tuple(name for name in given["targets"].split(",") if name)
    if hasattr(parsed, "replay_share"):
        if not hasattr(parsed, "replay"):
            raise RequestError("--replay-share is a share of old lines: name their file with --replay")
        given["replay"] = parsed.replay_share
    elif "replay" in given:
        del given["replay"]
    if getattr(parsed, "full", False):
        for name in ("rank", "alpha", "targets"):
            if name in given:
                raise RequestError(f"--full trains all weights, and --{name} is of an adapter: give one of them")
        given["rank"] = 0
    use_threads(getattr(parsed, "threads", None))
    files = FinetuneFiles(*(_file(parsed, name) for name in ("held_out", "general", "replay", "start")))
    with ProgressBars() as progress:
        out, paths = Path(parsed.out).expanduser(), [Path(name).expanduser() for name in data]
        job = Finetuning(model, paths, out, FinetuneRecipe(**given), files, getattr(parsed, "save_every", 100))
        job.progress = progress
        origin = asdict(job.run())
    if getattr(parsed, "json", False):
        print(json.dumps(origin, indent=1, ensure_ascii=False))
        return 0
    show_origin(origin)
    show_measured(origin["measured"])
    print(out)
    return 0


def show_measured(measured: Mapping[str, Any]) -> None:
    """Print what a run has learned and forgotten."""
    from miaotui.cli.output import card_messages

    for name, title in (("held_out", card_messages.LEARNED_HELD_OUT()), ("old", card_messages.LEARNED_OLD())):
        if "before" in measured.get(name, {}):
            each = measured[name]
            print(
                f"{title}: {each['before']:.4f} ± {each['before_error']:.4f} -> {each['after']:.4f} ± "
                f"{each['after_error']:.4f} nats ({each['lines']})"
            )
    general = measured.get("general")
    if general is not None:
        print(
            f"{card_messages.LEARNED_GENERAL()}: KL {general['kl']:.4f} ± {general['kl_error']:.4f} nats, "
            f"{general['before']:.4f} -> {general['after']:.4f} nats, {100 * general['same_top']:.1f}%"
        )


def _file(parsed: argparse.Namespace, name: str) -> Path | None:
    found = getattr(parsed, name, None)
    return None if found is None else Path(found).expanduser()
