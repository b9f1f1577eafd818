"""The options of ``miaotui optimize``, ``miaotui distill`` and ``miaotui card``.

Owns their names, meanings and forms. Knows no model. Invariant: an option that was not given is absent from the parsed
values, so that a recipe can set it.
"""

from __future__ import annotations

import argparse
import re

from miaotui.cli.options.serve import duration, whole

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def optimize_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui optimize``."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = (
        "MODEL is a GGUF file, a folder of safetensors or a name. With a limit of loss the smallest file that keeps it "
        "is made, else the one that loses least. Of an encoder, give --size and --calibration. A run that was "
        "interrupted goes on."
    )
    target = parser.add_argument_group("the target").add_argument
    target("--size", type=size, metavar="SIZE", help="bytes of the file at most, such as 80MB")
    target("--max-kl", type=positive, metavar="NATS", help="mean divergence from the model at most, such as 0.02")
    target("--tokens-per-s", type=positive, metavar="N", help="speed of one answer at least")
    target("--deadline", type=duration, metavar="TIME", help="an answer comes within this time, such as 1s")
    target("--prompt", type=whole(1, 1 << 17), metavar="N", help="tokens of the prompt (default: 300)")
    target("--answer", type=whole(1, 1 << 17), metavar="N", help="tokens of the answer (default: 64)")
    target("--kv", choices=("f16", "int8"), help="how keys and values are stored when the file is run (default: f16)")
    way = parser.add_argument_group("the way").add_argument
    way("--types", metavar="A,B,...", help="block types to choose from (default: all that are written here)")
    way("--round-all", action="store_true", help="round every matrix; else some may stay as they are")
    way("--whole", action="store_true", help="leave nothing out; else parts go if no types are fast or small enough")
    way("--calibration", metavar="FILE", help="texts to calibrate on, apart by empty lines (default: the model's own)")
    way("--test", metavar="FILE", help="texts to measure the loss on; none of them to calibrate on")
    left_out = parser.add_argument_group("leaving out (pruning)").add_argument
    left_out("--layers", type=whole(1, 1024), metavar="N", help="layers to keep; those go that cost least")
    left_out("--kv-heads", type=whole(1, 1024), metavar="N", help="key/value heads of a layer to keep")
    left_out("--ffn", type=whole(32, 1 << 18), metavar="N", help="feed-forward channels of a layer to keep")
    left_out("--heal", type=whole(0, 1 << 32), metavar="TOKENS", help="tokens to learn from afterwards (needs torch)")
    left_out("--mask", type=share, metavar="SHARE", help="measure a mask over this share of the weights (Wanda)")
    way("--recipe", metavar="FILE", help="YAML file with these options by name")
    way("--out", metavar="FILE", help="file to write (default: beside the model, with -optimized in its name)")
    way("--plan", action="store_true", help="print the plan as JSON and do nothing")
    way("--html", metavar="FILE", help="write a report with the front of sizes and losses, in one file")
    way("--json", action="store_true", help="print the report card as JSON")


def distil_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui distill``."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = (
        "STUDENT and TEACHER are GGUF files, folders or names, of one vocabulary. Needs torch; a run can be resumed."
    )
    add = parser.add_argument
    add("--teacher", required=True, metavar="MODEL", help="model whose distributions are learned")
    add("--out", required=True, metavar="FILE", help="GGUF file to write, in float16")
    add("--tokens", type=whole(1024, 1 << 32), metavar="N", help="tokens to learn from (default: 160000)")
    add("--passes", type=whole(1, 100), metavar="N", help="passes over them (default: 2)")
    add("--objective", metavar="NAME", help="forward, reverse or jsd (default: forward)")
    add("--on-policy", type=share, metavar="SHARE", help="share of texts that the student writes (default: 0)")
    add("--rank", type=whole(0, 1024), metavar="N", help="rank of low-rank pairs; 0 (default): all weights learn")
    add("--batch", type=whole(1, 1024), metavar="N", help="texts of a step (default: 4)")
    add("--length", type=whole(16, 8192), metavar="N", help="tokens of a text (default: 256)")
    add("--rate", type=positive, metavar="X", help="highest learning rate (default: 0.0003)")
    add("--texts", metavar="FILE", help="texts to learn from first, apart by empty lines (default: the teacher's own)")
    add("--test", metavar="FILE", help="texts to measure on (default: the teacher's own)")
    add("--json", action="store_true", help="print the report card as JSON")


def share(text: str) -> float:
    """Parse a share between 0 and 1, or a percentage."""
    value = positive(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be a share between 0 and 1 or a percentage, not {text!r}")
    return value


def card_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui card``."""
    parser.add_argument("--json", action="store_true", help="print the report card as JSON")


def size(text: str) -> int:
    """Parse ``80MB``, ``75MiB`` or a number of bytes."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMGkmg]?[iI]?[bB]?)", text.strip())
    unit = (
        _UNITS.get(match[2].upper() if match[2][-1:] in ("", "b", "B") else f"{match[2].upper()}B") if match else None
    )
    found = int(float(match[1]) * unit) if match and unit else 0
    if not 0 < found < 1 << 50:
        raise argparse.ArgumentTypeError(f"must be a size such as 80MB, 75MiB or a number of bytes, not {text!r}")
    return found


def positive(text: str) -> float:
    """Parse a number greater than 0."""
    try:
        value = float(text) if len(text) < 32 else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, not {text!r}")
    return value
