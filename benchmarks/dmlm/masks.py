"""Masks compared: how good a small model gets, and how many tokens it needs, by the masks that it is trained with.

    python -m benchmarks.dmlm.masks texts.txt --state runs --steps 2000 --slice-minutes 10

Needs torch. Each run trains one model of 1 to 2 million parameters from nothing on the same texts, in the same order,
with the same number of steps; masks are all that differs. The held-out bound is that of uniform masks for all. Last
comes one JSON line: for each kind of masks the final bound in nats a token with a 95% interval over the seeds, and the
tokens after which it reached the last bound of random masks. The bound of a bigram model stands beside it.

``--state`` is a folder with a checkpoint and the curve of each run. A slice ends after ``--slice-minutes`` (status 3
where runs are left), and the same command goes on, bit for bit as if it had not ended. With ``--steps`` all runs have
so many; without, as many as take ``--minutes``, measured once and kept in the folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.dmlm.train.checkpoint import read_checkpoint, write_checkpoint
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import TextCorpus, read_corpus
from miaotui.dmlm.train.trainer import Trainer
from miaotui.training.torch_loading import use_threads

MASKS = ("random", "fixed", "spans", "words", "pmi", "adaptive")
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t by degrees of freedom
LEFT = 3  # status of a slice that leaves runs
MEASURED = 20  # points of each run at which the bound is measured
Curve = list[tuple[int, float]]
SIZES = TrainRecipe(layers=4, width=160, heads=5, ffn=448, vocabulary=2048, length=128, batch=16)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("texts", nargs="+", type=Path, help="files in UTF-8")
    parser.add_argument("--state", type=Path, required=True, help="folder of the runs; what is there goes on")
    parser.add_argument("--minutes", type=float, default=15, help="of training in each run (default: 15)")
    parser.add_argument("--steps", type=int, help="of each run, in the place of --minutes")
    parser.add_argument("--slice-minutes", type=float, default=math.inf, help="end so long after the start")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--masks", default=",".join(MASKS))
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--schedule", default="log-linear")
    parser.add_argument("--threads", type=int, default=2)
    for name in ("layers", "width", "heads", "ffn", "vocabulary", "length", "batch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(SIZES, name))
    chosen = parser.parse_args()
    end_s = time.monotonic() + 60 * chosen.slice_minutes
    use_threads(chosen.threads)
    sizes = {
        name: getattr(chosen, name) for name in ("layers", "width", "heads", "ffn", "vocabulary", "length", "batch")
    }
    recipe = TrainRecipe(**sizes, block=chosen.block, schedule=chosen.schedule)
    corpus = read_corpus(chosen.texts, recipe.vocabulary, recipe.length)
    chosen.state.mkdir(parents=True, exist_ok=True)
    steps = chosen.steps or kept_steps(chosen.state / "steps.json", recipe, corpus, 60 * chosen.minutes)
    runs: dict[str, list[Curve]] = {}
    left = 0
    for seed in range(chosen.seeds):  # so that the first slices compare all masks with one seed
        for masks in chosen.masks.split(","):
            folder = chosen.state / f"{masks}-{seed}"
            curve = run(dataclasses.replace(recipe, masks=masks, seed=seed, steps=steps), corpus, folder, end_s)
            if curve is None:
                left += 1
                continue
            runs.setdefault(masks, []).append(curve)
            print(f"{masks:10} seed {seed}: bound {curve[-1][1]:.4f} nats", file=sys.stderr, flush=True)
    report = {name: summary(curves, runs.get("random")) for name, curves in runs.items()}
    bigram = bigram_nats(corpus)
    print(f"\n{'masks':10} {'seeds':>5} {'bound':>8} {'±':>7} {'perplexity':>11} {'tokens to random':>18}")
    for name, each in report.items():
        needed = each["tokens_to_random"]
        shown = "never" if needed is None else f"{needed:,.0f} ({each['share']:.2f})"
        bound, interval = each["bound"], each["interval"]
        print(f"{name:10} {len(each['seeds']):5} {bound:8.4f} {interval:7.4f} {math.exp(bound):11.2f} {shown:>18}")
    print(f"{'bigram':10} {'':5} {bigram:8.4f} {'':7} {math.exp(bigram):11.2f}")
    size = {"parameters": Trainer(recipe, corpus).network.parameters, "texts": len(corpus.tokens), "steps": steps}
    print(json.dumps({"benchmark": "dmlm_masks", **size, "left": left, "bigram": bigram, "masks": report}))
    return LEFT if left else 0


def kept_steps(path: Path, recipe: TrainRecipe, corpus: TextCorpus, seconds: float) -> int:
    """Return the steps that an earlier slice found to take so long, or measure them now."""
    if not path.exists():
        path.write_text(json.dumps({"steps": steps_within(recipe, corpus, seconds), "seconds": seconds}))
    return int(json.loads(path.read_text())["steps"])


def steps_within(recipe: TrainRecipe, corpus: TextCorpus, seconds: float) -> int:
    """Return how many steps take so long, from the time of a few."""
    trainer = Trainer(dataclasses.replace(recipe, steps=30), corpus)
    began_s = 0.0
    for progress in trainer.steps():
        if progress.step == 10:  # the first ones are slower
            began_s = time.perf_counter()
    return max(int(seconds * 20 / (time.perf_counter() - began_s)), MEASURED)


def run(recipe: TrainRecipe, corpus: TextCorpus, folder: Path, end_s: float) -> Curve | None:
    """Go on with a run until it or the slice ends; return (tokens seen, held-out bound) along it, None if not whole."""
    path = folder / "curve.json"
    curve: Curve = [tuple(point) for point in json.loads(path.read_text())] if path.exists() else []
    every = max(recipe.steps // MEASURED, 1)
    last = recipe.steps * recipe.batch * recipe.length
    if curve and curve[-1][0] == last:
        return curve
    if time.monotonic() >= end_s:
        return None
    trainer = Trainer(recipe, corpus, read_checkpoint(folder))
    for progress in trainer.steps():
        is_last = progress.step == recipe.steps
        if is_last or progress.step % every == 0:
            curve = [point for point in curve if point[0] < progress.tokens]  # measured before the last checkpoint
            curve.append((progress.tokens, trainer.bound(8) if is_last else trainer.bound(2, 128)))
            write_checkpoint(folder, trainer.checkpoint())
            path.write_text(json.dumps(curve))
        if not is_last and time.monotonic() >= end_s:
            write_checkpoint(folder, trainer.checkpoint())
            return None
    return curve


def summary(curves: list[Curve], random: list[Curve] | None) -> dict[str, Any]:
    """Return the final bound with its interval, and the tokens needed for the last bound of random masks."""
    finals = [curve[-1][1] for curve in curves]
    spread = statistics.stdev(finals) / math.sqrt(len(finals)) if len(finals) > 1 else math.nan
    interval = spread * T_95.get(len(finals) - 1, 1.96)
    found: dict[str, Any] = {"bound": statistics.mean(finals), "interval": interval, "seeds": finals}
    found |= {"tokens_to_random": None, "share": None}
    if random:
        goal = statistics.mean(curve[-1][1] for curve in random)
        needed = [next((tokens for tokens, bound in curve if bound <= goal), None) for curve in curves]
        if all(tokens is not None for tokens in needed):
            found["tokens_to_random"] = statistics.mean(tokens for tokens in needed if tokens is not None)
            found["share"] = found["tokens_to_random"] / random[0][-1][0]
    return found


def bigram_nats(corpus: TextCorpus, discount: float = 0.75) -> float:
    """Return the negative log-likelihood of an interpolated Kneser-Ney bigram model, nats a held-out token.

    Chen and Goodman, "An Empirical Study of Smoothing Techniques" (1999), section 3.2. It counts the same tokens as the
    bound: those that may be masked.
    """
    size = corpus.vocab_size
    train = corpus.tokens[corpus.trained]
    keys, counts = np.unique(train[:, :-1].ravel() * size + train[:, 1:].ravel(), return_counts=True)
    first, second = keys // size, keys % size
    follows = np.bincount(first, counts, size)  # occurrences of a token before another
    kinds = np.bincount(first, minlength=size)  # different tokens after it
    continuation = (np.bincount(second, minlength=size) + 0.5) / (len(keys) + 0.5 * size)
    held = corpus.tokens[corpus.held_out]
    before, after = held[:, :-1].ravel(), held[:, 1:].ravel()
    wanted = before * size + after
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    seen = np.where(keys[at] == wanted, counts[at], 0)
    known = np.maximum(follows[before], 1)
    chances = np.maximum(seen - discount, 0) / known + discount * kinds[before] / known * continuation[after]
    chances = np.where(follows[before] > 0, chances, continuation[after])
    return float(-np.log(chances[after >= 3]).mean())


if __name__ == "__main__":
    sys.exit(main())
