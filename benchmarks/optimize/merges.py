"""Merges beside mergekit's: the same models and recipes, and how far apart the weights are.

    python -m benchmarks.optimize.merges --peer PYTHON TEXT...    # a table and one JSON line

PYTHON is the interpreter of an environment that has mergekit. Two small models are trained from TEXT for a few steps,
and two more are drawn near the first. Every method is run by both programs over float32 folders; the table has the
largest difference of a weight, and how many differ by more than 0.00001. DARE drops at random: without drops (density
1) values are compared, with drops the share that stays and the size of what is added. Owns the order of a run.
Invariant: files that both programs wrote are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.machine import describe
from miaotui.config import Settings
from miaotui.optimize.learning.pretrain import STATE, Pretraining
from miaotui.optimize.learning.recipe import PretrainRecipe
from miaotui.optimize.merging.merge import merge
from miaotui.optimize.merging.recipe import MergeRecipe

Weights = dict[str, NDArray[np.float32]]
WEIGHTS = "model.safetensors"
PEER = """
import json, sys
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for config, out in json.load(open(sys.argv[1])):
    run_merge(MergeConfiguration.model_validate(config), out, options=MergeOptions(copy_tokenizer=False))
"""
NEAR = 1e-5  # a larger difference of a weight is counted


@dataclass(frozen=True)
class Case:
    """One merge as both programs take it: our recipe, and mergekit's parameters."""

    name: str
    ours: MergeRecipe
    method: str
    weights: tuple[float, ...] = ()
    density: float | None = None
    parameters: dict[str, Any] | None = None

    def peer_config(self) -> dict[str, Any]:
        """Return mergekit's configuration."""
        models: list[dict[str, Any]] = []
        for number, model in enumerate(self.ours.models):
            parameters: dict[str, Any] = {"weight": self.weights[number]} if self.weights else {}
            if self.density is not None:
                parameters["density"] = self.density
            models.append({"model": model, "parameters": parameters} if parameters else {"model": model})
        base = self.ours.base or (self.ours.models[0] if self.method == "slerp" else None)
        config = {"merge_method": self.method, "models": models, "dtype": "float32"}
        return {**config, **({"base_model": base} if base else {}), "parameters": self.parameters or {}}


def main() -> None:
    """Merge, compare, print a table and a JSON line."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, far = _models(folder, [Path(text) for text in args.texts])
        near = [_near(base, folder / f"near{seed}", seed) for seed in (1, 2)]
        cases = _cases(str(base), str(far), [str(each) for each in near])
        _run_peer(args.peer, cases, folder)
        rows = []
        for case in cases:
            rows.append(_compared(case, base, folder))
            shown = (f"{key} {x:.4g}" if not isinstance(x, str) else x for key, x in rows[-1].items())
            print("  ".join(shown), flush=True)
    command = [args.peer, "-c", "import importlib.metadata as m; print(m.version('mergekit'))"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print(json.dumps({"benchmark": "merges", "mergekit": version, "machine": describe().as_dict(), "rows": rows}))


def _models(folder: Path, texts: list[Path]) -> tuple[Path, Path]:
    made = []
    for seed in (0, 1):
        recipe = PretrainRecipe(layers=2, width=128, ffn=256, vocabulary=1024, length=64, steps=5, batch=4, seed=seed)
        Pretraining(texts, folder / f"trained{seed}", recipe, threads=1).run()
        made.append(folder / f"trained{seed}")
        (made[-1] / STATE).unlink()
    return made[0], made[1]


def _near(base: Path, place: Path, seed: int) -> Path:
    place.mkdir()
    for file in base.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    rng = np.random.default_rng(seed)
    changed = {key: x + 0.01 * rng.standard_normal(x.shape, np.float32) for key, x in load_file(base / WEIGHTS).items()}
    save_file(changed, place / WEIGHTS, {"format": "pt"})
    return place


def _cases(base: str, far: str, near: list[str]) -> list[Case]:
    pair = tuple(near)
    both: tuple[tuple[float, ...], ...] = ((1.0,), (2.0,))
    summed = {"normalize": False, "lambda": 0.8}
    divided = {"normalize": True}
    return [
        Case("linear", MergeRecipe("linear", pair, weights=both), "linear", (1, 2)),
        Case("slerp", MergeRecipe("slerp", (base, far), t=(0.3,)), "slerp", parameters={"t": 0.3}),
        Case("slerp, near", MergeRecipe("slerp", pair, t=(0.3,)), "slerp", parameters={"t": 0.3}),
        Case(
            "task arithmetic",
            MergeRecipe("task-arithmetic", pair, base, both, scale=0.8, normalize=False),
            "task_arithmetic",
            (1, 2),
            parameters=summed,
        ),
        Case("ties 0.3", MergeRecipe("ties", pair, base, both, (0.3,)), "ties", (1, 2), 0.3),
        Case("ties 0.5", MergeRecipe("ties", pair, base, (), (0.5,)), "ties", (1, 1), 0.5),
        Case("dare 1", MergeRecipe("dare-linear", pair, base, both, (1.0,), normalize=False), "dare_linear", (1, 2), 1),
        Case("dare-ties 1", MergeRecipe("dare-ties", pair, base, both, (1.0,)), "dare_ties", (1, 2), 1, divided),
        Case("dare 0.4", MergeRecipe("dare-linear", pair[:1], base, (), (0.4,)), "dare_linear", (1,), 0.4),
    ]  # fmt: skip


def _run_peer(peer: str, cases: list[Case], folder: Path) -> None:
    """Let mergekit make all merges, in one process."""
    configs = [(case.peer_config(), str(folder / f"{case.name}-peer")) for case in cases]
    place = folder / "configs.json"
    place.write_text(json.dumps(configs))
    done = subprocess.run([peer, "-c", PEER, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mergekit failed:\n{done.stderr[-2000:]}")


def _compared(case: Case, base: Path, folder: Path) -> dict[str, Any]:
    mine, other = folder / f"{case.name}-ours", folder / f"{case.name}-peer"
    merge(case.ours, mine, Settings.from_env())
    ours, theirs, first = (_weights(place) for place in (mine, other, base))
    if case.name == "dare 0.4":
        return {"method": case.name, **_dropped("ours", ours, first), **_dropped("mergekit", theirs, first)}
    names = [name for name in first if name in theirs]
    apart = np.concatenate([np.abs(ours[name] - theirs[name]).ravel() for name in names])
    about = {"method": case.name, "tensors": len(names), "of": len(first), "weights": int(apart.size)}
    return {**about, "largest difference": float(apart.max()), "differ": int((apart > NEAR).sum())}


def _weights(place: Path) -> Weights:
    return {name: x for file in sorted(place.glob("*.safetensors")) for name, x in _loaded(file).items()}


def _loaded(file: Path) -> Weights:
    return {name: x.astype(np.float32) for name, x in load_file(file).items() if x.ndim}


def _dropped(who: str, merged: Weights, base: Weights) -> dict[str, float]:
    """Return the share of changes that stay, and the mean size of what is added to a weight."""
    added = np.concatenate([(merged[name] - base[name]).ravel() for name in base if base[name].ndim > 1])
    stays = np.abs(added) > 0
    return {f"{who}: stay": float(stays.mean()), f"{who}: mean added": float(np.abs(added).mean())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--peer", required=True, metavar="PYTHON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
