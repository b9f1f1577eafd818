"""Learning a head: from a made-up language whose next state is a function of the last, and from a real model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from miaotui.config import Settings
from miaotui.drafthead.corpus import Corpus, collect
from miaotui.drafthead.train import Recipe, train
from miaotui.drafthead.weights import load_head, write_head
from miaotui.engine.build import EngineOptions
from miaotui.engine.loaded import load_model
from miaotui.hub.resolve import resolve

HIDDEN, VOCABULARY, TEXTS, LENGTH = 64, 50, 40, 60


def made_up() -> tuple[Corpus, np.ndarray]:
    """Token ``t`` is followed by ``3 t + 1`` or ``3 t + 2``; a state points at the middle of the two."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(0, 1, (VOCABULARY, HIDDEN)).astype(np.float32)
    tokens = [int(t) for t in rng.integers(0, VOCABULARY, TEXTS)]
    texts = []
    for start in tokens:
        text = [start]
        while len(text) < LENGTH:
            text.append((3 * text[-1] + 1 + int(rng.integers(2))) % VOCABULARY)
        texts.append(text)
    flat = np.array(texts, np.int32).reshape(-1)
    hidden = embedding[(3 * flat + 1) % VOCABULARY] + embedding[(3 * flat + 2) % VOCABULARY]
    hidden /= np.sqrt((hidden**2).mean(axis=1, keepdims=True))
    starts = np.arange(0, TEXTS * LENGTH + 1, LENGTH)
    states = hidden.astype(np.float16)
    return Corpus(states, states, flat, starts, layer=3), embedding


@pytest.mark.compare
def test_a_made_up_language_is_learned() -> None:
    corpus, embedding = made_up()
    losses: list[float] = []
    recipe = Recipe(tokens=40, width=64, steps=150)
    arrays = train(corpus, embedding, embedding, recipe, lambda _, loss: losses.append(loss))
    assert arrays["tokens"].shape == (40,)
    assert (np.diff(arrays["tokens"]) > 0).all()
    assert arrays["down"].shape == (HIDDEN, 64)
    assert arrays["layer"].tolist() == [3]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.compare
def test_the_same_seed_gives_the_same_head() -> None:
    corpus, embedding = made_up()
    one, other = (train(corpus, embedding, embedding, Recipe(40, 32, steps=5)) for _ in range(2))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_writes_its_own_corpus(tmp_path: Path) -> None:
    settings = Settings.from_env()
    path = resolve("smollm2-135m", settings=settings)
    loaded = load_model(path, EngineOptions(context=256), settings)
    told: list[tuple[int, int]] = []
    corpus = collect(loaded, 1, seed=1, told=lambda *progress: told.append(progress))
    assert told == [(1, 1)]
    assert len(corpus.tokens) == len(corpus.hidden) == corpus.starts[-1] > 200
    for states in (corpus.hidden, corpus.middle):
        assert states.shape == (len(corpus.tokens), loaded.config.hidden_size)
        assert np.abs((states.astype(np.float32) ** 2).mean(axis=1) - 1).max() < 0.02
    width = loaded.config.hidden_size
    zero = np.zeros((32, 3 * width), np.float32)
    arrays = {
        "tokens": np.unique(corpus.tokens).astype(np.float32), "gate": zero, "up": zero,
        "down": np.zeros((width, 32), np.float32), "carry": np.ones(width, np.float32),
        "layer": np.array([corpus.layer], np.float32),
    }  # fmt: skip
    write_head(tmp_path / "head.safetensors", arrays)
    head = load_head(tmp_path / "head.safetensors", loaded.parts.weights, loaded.config.tied_head)
    assert dataclasses.asdict(head)["tokens"].tolist() == np.unique(corpus.tokens).tolist()
    loaded.parts.weights.close()
