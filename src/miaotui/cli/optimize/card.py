"""``miaotui card``: what an optimised file cost, as its report card says.

Owns the rows that people see. Knows no method.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.cli.output import card_messages
from miaotui.config import format_size

if TYPE_CHECKING:
    from miaotui.optimize.card import ReportCard


def card(parsed: argparse.Namespace) -> int:
    """Print the card of a file; return the exit status."""
    from miaotui.optimize.card import card_path, read_card

    path = Path(parsed.words[0]).expanduser()
    if not card_path(path).is_file() and _show_origin(path, parsed.json):
        return 0
    found = read_card(path)
    if parsed.json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        show_card(found)
    return 0


def _show_origin(path: Path, as_json: bool) -> bool:
    """Print from which files a model was made, and return whether that is known."""
    from miaotui.optimize.origin import origin_path, read_origin

    if not origin_path(path).is_file():
        return False
    from miaotui.cli.optimize.finetune import show_measured
    from miaotui.cli.optimize.merge import show_origin

    origin = asdict(read_origin(path))
    if as_json:
        print(json.dumps(origin, indent=1, ensure_ascii=False))
    else:
        show_origin(origin)
        show_measured(origin["measured"])
    return True


def show_card(found: ReportCard) -> None:
    """Print a card as lines."""
    quality, texts = found.quality, found.texts
    print(
        f"{card_messages.CARD_FILE()}: {found.file['name']}, {format_size(found.file['bytes'])} "
        f"({card_messages.CARD_OF()} {found.source['name']}, {format_size(found.source['bytes'])})"
    )
    if "mean_loss" in quality:
        print(
            f"{card_messages.CARD_LOSS()}: {quality['mean_loss']:.5f} ({quality['loss']}; "
            f"{quality['mean_loss_low']:.5f} - {quality['mean_loss_high']:.5f}), "
            f"p99 {quality['p99_loss']:.4f}, max {quality['worst_loss']:.4f}"
        )
    else:
        _show_divergence(quality)
    if found.speed is not None:
        peak = found.speed["peak_bytes"]
        memory = "" if peak is None else f"; {card_messages.CARD_MEMORY()}: {format_size(peak)}"
        print(
            f"{card_messages.CARD_SPEED()}: {found.speed['tokens_per_s']:.1f} tokens/s, "
            f"{found.speed['prompt']}+{found.speed['answer']} tokens: {found.speed['seconds']:.2f} s{memory}"
        )
    counts = Counter(found.choices.values())
    print(f"{card_messages.CARD_TYPES()}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(
        f"{card_messages.CARD_TEXTS()}: {texts['calibration']['tokens']:,} + {texts['test']['tokens']:,} tokens, "
        f"{card_messages.CARD_SHARED()}: {texts['shared_lines']}"
    )
    for note in found.notes:
        print(f"- {note}")


def _show_divergence(quality: Mapping[str, Any]) -> None:
    """Print how far a decoder's distributions are from the original's."""
    print(
        f"{card_messages.CARD_LOSS()}: {quality['mean_kl']:.4f} nats ({quality['mean_kl_low']:.4f} - "
        f"{quality['mean_kl_high']:.4f}), p99 {quality['p99_kl']:.3f}, p99.9 {quality['p99_9_kl']:.3f}"
    )
    print(
        f"{card_messages.CARD_TOP()}: {100 * quality['same_top']:.1f}%; {card_messages.CARD_PERPLEXITY()}: "
        f"{quality['perplexity_of_source']:.3f} -> {quality['perplexity']:.3f}"
    )
    if quality.get("questions"):
        print(
            f"{card_messages.CARD_FLIPS()}: {quality['flips']} / {quality['questions']} "
            f"({card_messages.CARD_RIGHT()} {quality['right_of_source']} -> {quality['right']})"
        )
