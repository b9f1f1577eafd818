"""The options of ``miaotui dmlm``.

Owns their names, meanings and forms. Knows no model; defaults of a training run are those of `TrainRecipe`.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import whole

ACTIONS = ("train", "write", "fill", "correct")
MASKS = ("random", "fixed", "spans", "words", "pmi", "adaptive")
SCHEDULES = ("log-linear", "linear", "cosine", "clipped", "bert")
PRECISIONS = ("f32", "bf16")
FILL_TOP = 5


def dmlm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui dmlm``."""
    parser.epilog = (
        "ACTION is train TEXT... (files in UTF-8, into --out), write FOLDER PROMPT (an answer of a model that restores "
        "masked tokens), fill MODEL TEXT (tokens for the masks of a text, by an encoder), or correct MODEL TEXT "
        "(spelling and grammar in English and Chinese, judged by a decoder)."
    )
    run = parser.add_argument_group("training")
    add = run.add_argument
    add("--out", metavar="FOLDER", help="where the model and its checkpoint lie; a run that is there goes on")
    add("--from", dest="pretrained", metavar="FOLDER", help="begin with the weights and vocabulary of another run")
    add("--steps", type=whole(1), metavar="N", help="of all runs into this folder together (default: 2000)")
    add("--batch", type=whole(1), metavar="N", help="texts of a step (default: 16)")
    add("--length", type=whole(1), metavar="N", help="tokens of a text (default: 128)")
    add("--rate", type=float, metavar="X", help="the highest learning rate (default: 0.002)")
    about = "of products: f32, or bf16, which takes less time where the processor has it (default: f32)"
    add("--precision", choices=PRECISIONS, metavar="|".join(PRECISIONS), help=about)
    add("--seed", type=whole(0), metavar="N", help="equal seeds and texts give equal models (default: 0)")
    add("--save-every", type=whole(1), metavar="N", default=200, help="steps between checkpoints (default: 200)")
    masks = parser.add_argument_group("masks")
    add = masks.add_argument
    add("--masks", choices=MASKS, metavar="|".join(MASKS), help="which tokens are masked (default: random)")
    about = "which share of them, by time (default: log-linear)"
    add("--schedule", choices=SCHEDULES, metavar="|".join(SCHEDULES), help=about)
    about = "tokens of a block, causal between blocks; 0: all tokens see each other (default: 0)"
    add("--block", type=whole(0), metavar="N", help=about)
    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--layers", type=whole(1), metavar="N", help="default: 4")
    about = "layers of a decoder that writes what is masked, as in T5; 0: none (default: 0)"
    add("--decoder-layers", type=whole(0), metavar="N", help=about)
    add("--width", type=whole(1), metavar="N", help="default: 192")
    add("--heads", type=whole(1), metavar="N", help="default: 6")
    add("--ffn", type=whole(1), metavar="N", help="inner width of feed-forward layers (default: 512)")
    add("--vocabulary", type=whole(1), metavar="N", help="tokens, learned from the texts (default: 4096)")
    add("--threads", type=whole(1), metavar="N", help="default: one per usable physical core")
    answer = parser.add_argument_group("the answer")
    add = answer.add_argument
    add("--max-tokens", type=whole(1), metavar="N", help="of write (default: 128, or what fits)")
    add("--threshold", type=float, metavar="X", help="of write: tokens at least that likely stay (default: 0.9)")
    add("--temperature", type=float, metavar="X", default=0.0, help="0 takes the likeliest token (default: 0)")
    add("--top", type=whole(1, 1000), metavar="N", default=FILL_TOP, help="of fill: tokens for a mask (default: 5)")
