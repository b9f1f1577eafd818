"""The options of ``miaotui merge``, ``miaotui finetune`` and ``miaotui train``.

Owns their names, meanings and forms. Knows no model. Invariant: an option that was not given is absent from the parsed
values, so that a recipe, or the run that goes on, can set it.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.optimize import positive
from miaotui.cli.options.serve import whole

METHODS = ("linear", "slerp", "task-arithmetic", "ties", "dare-linear", "dare-ties")


def merge_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui merge``."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = (
        "MODEL is a folder of safetensors, a GGUF file or a name. What is written has the form of the base, or of the "
        "first model. A value such as 0.2,0.8 is one for each model; 0.2:0.8 goes from the first layer to the last."
    )
    add = parser.add_argument_group("the merge").add_argument
    add("--out", metavar="PLACE", help="where the merged model shall lie; nothing may be there")
    add("--method", choices=METHODS, metavar="METHOD", help=f"{', '.join(METHODS)} (default: linear)")
    add("--base", metavar="MODEL", help="the model that the others were trained from, where the method has one")
    add("--weights", type=curves, metavar="X,...", help="the models' weights (default: equal)")
    add("--densities", type=curve, metavar="X,...", help="shares of what the models learned that stay (default: 0.5)")
    add("--t", type=curve, metavar="X", help="slerp: 0 is the first model, 1 the second (default: 0.5)")
    add("--scale", type=float, metavar="X", help="factor of what the models learned (default: 1)")
    add("--no-normalize", action="store_true", help="do not divide by the sum of weights")
    add("--seed", type=whole(0), metavar="N", help="of what dare drops (default: 0)")
    add("--dtype", choices=("f32", "f16", "bf16"), metavar="f32|f16|bf16", help="of weights (default: the base's)")
    add("--tokenizer", choices=("same", "union"), metavar="same|union", help="union joins added tokens (default: same)")
    add("--recipe", metavar="FILE", help="YAML file with models and these options by name")
    add("--json", action="store_true", help="print the record of the merge as JSON")


def curve(text: str) -> tuple[float, ...]:
    """Parse ``0.2,0.8`` or ``0.2:0.8``."""
    try:
        return tuple(float(part) for part in text.replace(":", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 0.2,0.8, not {text!r}") from None


def curves(text: str) -> tuple[tuple[float, ...], ...]:
    """Parse ``0.2,0.8``, or ``0.2:0.4,0.8:0.6`` for values that change over the layers."""
    return tuple(curve(part) for part in text.split(","))


def _loop_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the run").add_argument
    add("--steps", type=whole(1), metavar="N", help="of all runs to this place together")
    add("--batch", type=whole(1, 4096), metavar="N", help="texts of a step")
    add("--accumulate", type=whole(1, 4096), metavar="N", help="parts of a step that are computed one by one (memory)")
    add("--length", type=whole(8, 1 << 17), metavar="N", help="tokens of a text at most")
    add("--rate", type=positive, metavar="X", help="the highest learning rate")
    add("--seed", type=whole(0), metavar="N", help="equal seeds and texts give equal models (default: 0)")
    add("--recompute", action="store_true", help="keep fewer activations: less memory, a third more time")
    add("--precision", choices=("auto", "bf16", "f32"), metavar="auto|bf16|f32", help="of products (default: auto)")
    add("--save-every", type=whole(1), metavar="N", help="steps between checkpoints (default: 100)")
    add("--threads", type=whole(1), metavar="N", help="default: one per usable physical core")
    add("--json", action="store_true", help="print the record of the run as JSON")


def finetune_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui finetune``."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = (
        'DATA is JSONL, each line {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}; or a '
        "file of plain text. Only answers are learned from. A run that is at OUT goes on."
    )
    add = parser.add_argument_group("what is learned").add_argument
    add("--out", metavar="FOLDER", help="where the adapter, or with --full the model, and the checkpoints lie")
    add("--full", action="store_true", help="train all weights; else a low-rank adapter")
    add("--rank", type=whole(1, 256), metavar="N", help="of the adapter (default: 16)")
    add("--alpha", type=positive, metavar="X", help="scale of the adapter, times its rank (default: twice the rank)")
    add("--targets", metavar="A,B,...", help="products with an adapter, of q,k,v,o,gate,up,down (default: all)")
    add("--from", dest="start", metavar="FOLDER", help="begin with what an earlier run to another folder has learned")
    add("--replay", metavar="FILE", help="old lines, mixed in so that they are not forgotten")
    add("--replay-share", type=positive, metavar="X", help="share of old lines in a step (default: 0.25)")
    checks = parser.add_argument_group("what is measured").add_argument
    checks("--held-out", metavar="FILE", help="lines to measure on (default: every tenth line of DATA)")
    checks("--general", metavar="FILE", help="texts on which forgetting is measured (default: the model's own)")
    _loop_options(parser)


def train_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui train``."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = "TEXT are files in UTF-8. What is written is a folder that `miaotui run` takes."
    add = parser.add_argument_group("the model").add_argument
    add("--out", metavar="FOLDER", help="where the model and its checkpoints lie; a run that is there goes on")
    add("--layers", type=whole(1, 64), metavar="N", help="default: 4")
    add("--width", type=whole(32, 4096), metavar="N", help="default: 256")
    add("--heads", type=whole(1, 256), metavar="N", help="default: 4")
    add("--kv-heads", type=whole(1, 256), metavar="N", help="heads of keys and values (default: as many as heads)")
    add("--ffn", type=whole(32, 16_384), metavar="N", help="inner width of feed-forward layers (default: 768)")
    add("--vocabulary", type=whole(260, 65_536), metavar="N", help="tokens, learned from the texts (default: 4096)")
    add("--processes", type=whole(1, 64), metavar="N", help="that share each step, on this machine (default: 1)")
    _loop_options(parser)
