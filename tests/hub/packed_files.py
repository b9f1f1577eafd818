"""Packed files that tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from miaotui.hub.store import PackedStore

META = {"format": "q4", "layout": 3, "names": ["甲", "b"]}


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "layers.0.q": rng.integers(0, 255, (48, 4096), dtype=np.uint8),
        "norm": rng.standard_normal(576).astype(np.float32),
        "scalar": np.array(3.5, np.float32),
        "empty": np.empty((0, 4), np.int8),
        "scales": rng.standard_normal((9, 333)).astype(np.float16),
    }


def fill(store: PackedStore, key: str = "k") -> Path:
    with store.create(key, META) as writer:
        for name, array in tensors().items():
            writer.add(name, array)
    return store.path(key)


def leftovers(store: PackedStore) -> list[str]:
    return sorted(p.name for p in store.folder.iterdir() if p.name.endswith(".part"))
