"""Texts to train on, from a small grammar: a model can learn what a word says about its neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SUBJECTS = {"cat": "purrs", "dog": "barks", "bird": "sings", "frog": "croaks", "horse": "neighs"}
PLACES = ["in the old garden", "near New York City", "under a wooden bridge", "behind the red house"]


def sentences(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    names = list(SUBJECTS)
    made = []
    for _ in range(count):
        name, place = names[random.integers(5)], PLACES[random.integers(4)]
        other = names[random.integers(5)]
        made.append(f"The {name} {SUBJECTS[name]} {place} while the {other} {SUBJECTS[other]} too.")
    return made


def write_texts(folder: Path, lines: int = 400, seed: int = 0) -> Path:
    path = folder / f"texts-{seed}.txt"
    path.write_text("\n".join(sentences(lines, seed)), encoding="utf-8")
    return path
