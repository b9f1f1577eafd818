"""Masks compared: how good a small model gets, and how many tokens it needs, by the masks that it is trained with.

    python -m benchmarks.dmlm.masks texts.txt --state runs --tokens 2000000 --slice-minutes 10

Needs torch. Each run trains one model of 1 to 2 million parameters from nothing on the same texts, in the same order,
for the same number of tokens, so that the result does not depend on the load of the machine; masks are all that
differs. The held-out bound is that of uniform masks for all. Last comes one JSON line: for each kind of masks the final
bound in nats a token with a 95% interval over the seeds, and the tokens after which a run reached the last point of
random masks with its seed. All points of a curve, the goal among them, are measured on the same draws of the same
texts; the final bound takes more draws of more texts. The bound of a bigram model stands beside it.

``--state`` is a folder with a checkpoint and the curve of each run. A slice ends after ``--slice-minutes`` (status 3
where runs are left), and the same command goes on, bit for bit as if it had not ended. Several processes may share the
folder: each takes runs that no other one computes. ``--slice-minutes 0`` prints the table of the runs that are whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miaotui.dmlm.train.bigram import bigram_nats
from miaotui.dmlm.train.checkpoint import read_checkpoint, write_checkpoint
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import TextCorpus, read_corpus
from miaotui.dmlm.train.trainer import Trainer
from miaotui.training.torch_loading import use_threads

MASKS = ("random", "adaptive", "pmi", "words", "spans", "fixed")
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t by degrees of freedom
LEFT = 3  # status of a slice that leaves runs
MEASURED = 20  # points of each run at which the bound is measured
SHAPE = ("layers", "width", "heads", "ffn", "vocabulary", "length", "batch")
TOKENS = 14_000_000  # about what 15 minutes of two quiet cores of a Zen 5 take
Curve = list[tuple[int, float]]  # (tokens seen, bound) at the points of a run, all measured alike
SIZES = TrainRecipe(layers=4, width=160, heads=5, ffn=448, vocabulary=2048, length=128, batch=16)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("texts", nargs="+", type=Path, help="files in UTF-8")
    parser.add_argument("--state", type=Path, required=True, help="folder of the runs; what is there goes on")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of each run (default: {TOKENS:,})")
    parser.add_argument("--slice-minutes", type=float, default=math.inf, help="end so long after the start")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--masks", default=",".join(MASKS))
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--schedule", default="log-linear")
    parser.add_argument("--threads", type=int, default=2)
    for name in SHAPE:
        parser.add_argument(f"--{name}", type=int, default=getattr(SIZES, name))
    parser.add_argument("--precision", default=SIZES.precision, help="of products in training: f32 or bf16")
    parser.add_argument("--rate", type=float, default=SIZES.rate, help="highest learning rate")
    chosen = parser.parse_args()
    end_s = time.monotonic() + 60 * chosen.slice_minutes
    use_threads(chosen.threads)
    sizes = {name: getattr(chosen, name) for name in SHAPE}
    steps = max(chosen.tokens // (chosen.batch * chosen.length), MEASURED)
    sizes |= {name: getattr(chosen, name) for name in ("block", "schedule", "rate", "precision")}
    recipe = TrainRecipe(**sizes, steps=steps)
    corpus = read_corpus(chosen.texts, recipe.vocabulary, recipe.length)
    chosen.state.mkdir(parents=True, exist_ok=True)
    runs: dict[str, dict[int, Run]] = {}
    left = 0
    for masks in chosen.masks.split(","):  # in the order of the question: all seeds of one kind, then the next kind
        for seed in range(chosen.seeds):
            folder = chosen.state / f"{masks}-{seed}"
            whole = run(dataclasses.replace(recipe, masks=masks, seed=seed), corpus, folder, end_s)
            if whole is None:
                left += 1
                continue
            runs.setdefault(masks, {})[seed] = whole
            print(f"{masks:10} seed {seed}: bound {whole.bound:.4f} nats", file=sys.stderr, flush=True)
    report = {name: summary(seeds, runs.get("random", {})) for name, seeds in runs.items()}
    bigram = bigram_nats(corpus)
    print(f"\n{'masks':10} {'seeds':>5} {'bound':>8} {'±':>7} {'perplexity':>11} {'share of tokens':>16} {'±':>6}")
    for name, each in report.items():
        bound, share = each["bound"], "never" if each["share"] is None else f"{each['share']:.2f}"
        intervals = ["" if each[key] is None else f"{each[key]:.4f}" for key in ("interval", "share_interval")]
        print(
            f"{name:10} {len(each['seeds']):5} {bound:8.4f} {intervals[0]:>7} {math.exp(bound):11.2f} {share:>16} "
            f"{intervals[1]:>6}"
        )
    print(f"{'bigram':10} {'':5} {bigram:8.4f} {'':7} {math.exp(bigram):11.2f}")
    size = {"parameters": Trainer(recipe, corpus).network.parameters, "texts": len(corpus.tokens)}
    size |= {"tokens": steps * recipe.batch * recipe.length}
    print(json.dumps({"benchmark": "dmlm_masks", **size, "left": left, "bigram": bigram, "masks": report}))
    return LEFT if left else 0


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is whole: its curve, and the bound after its last step in nats a token."""

    curve: Curve
    bound: float


def run(recipe: TrainRecipe, corpus: TextCorpus, folder: Path, end_s: float) -> Run | None:
    """Go on with a run until it or the slice ends; return it, None if it is not whole."""
    path = folder / "curve.json"
    with alone_in(folder) as is_alone:
        kept = json.loads(path.read_text()) if path.exists() else {"curve": [], "bound": None}
        curve: Curve = [tuple(point) for point in kept["curve"]]
        if kept["bound"] is not None and curve[-1][0] == recipe.steps * recipe.batch * recipe.length:
            return Run(curve, kept["bound"])
        if not is_alone or time.monotonic() >= end_s:
            return None
        return train(Trainer(recipe, corpus, read_checkpoint(folder)), curve, path, end_s)


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Hold a folder as long as this process computes its run; False where another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def train(trainer: Trainer, curve: Curve, path: Path, end_s: float) -> Run | None:
    """Train to the end and return the run; None where the slice ends first, with a checkpoint beside ``path``."""
    steps = trainer.recipe.steps
    bound = math.nan
    for progress in trainer.steps():
        is_last = progress.step == steps
        if is_last or progress.step % max(steps // MEASURED, 1) == 0:
            curve = [point for point in curve if point[0] < progress.tokens]  # measured before the last checkpoint
            curve.append((progress.tokens, trainer.bound(2, 128)))
            bound = trainer.bound(8) if is_last else math.nan
            write_checkpoint(path.parent, trainer.checkpoint())
            path.write_text(json.dumps({"curve": curve, "bound": bound if is_last else None}))
        if not is_last and time.monotonic() >= end_s:
            write_checkpoint(path.parent, trainer.checkpoint())
            return None
    return Run(curve, bound)


def summary(runs: dict[int, Run], random: dict[int, Run]) -> dict[str, Any]:
    """Return the final bound with its interval, and the share of tokens needed for the last point of random masks."""
    finals = [each.bound for each in runs.values()]
    found: dict[str, Any] = {"bound": statistics.mean(finals), "interval": interval_of(finals), "seeds": finals}
    shares = [share_needed(each.curve, random[seed].curve) for seed, each in runs.items() if seed in random]
    reached = [share for share in shares if share is not None]
    is_reached = reached and len(reached) == len(shares)
    found["share"] = statistics.mean(reached) if is_reached else None
    found["share_interval"] = interval_of(reached) if is_reached else None
    found["shares"] = shares
    return found


def share_needed(curve: Curve, random: Curve) -> float | None:
    """Return the share of its tokens after which a run has the other one's last point; None: it never has.

    Between two measurements the bound is taken to fall in proportion to tokens.
    """
    tokens, goal = random[-1]
    before = (0, math.inf)
    for point in curve:
        if point[1] <= goal:
            if not math.isfinite(before[1]):
                return point[0] / tokens
            part = (before[1] - goal) / (before[1] - point[1])
            return (before[0] + part * (point[0] - before[0])) / tokens
        before = point
    return None


def interval_of(values: list[float]) -> float | None:
    """Return half the 95% interval of a mean by Student's t; None for one value."""
    if len(values) < 2:
        return None
    return T_95.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    sys.exit(main())
