"""Learning a head: from a made-up language whose next state is a function of the last, and from a real model."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
from test_head import LAYER, WIDTH, arrays_that_look, look_back, matrix, normed, ready

from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.resolve import resolve
from miaotui.model.draft_head.attention_spec import AttentionSpec, attention_spec_of
from miaotui.model.draft_head.weights import MASKS, load_head, write_head
from miaotui.runtime import load_model
from miaotui.speculation.train.cell import Cell, product_dtype
from miaotui.speculation.train.corpus import Corpus, Memory, collect
from miaotui.speculation.train.kept import KeptTraining, corpus_arrays, corpus_of, joined
from miaotui.speculation.train.prompt_seeds import LONGEST, MOST_TEXTS, SHORTEST, quoting
from miaotui.speculation.train.trainer import Recipe, train
from tiny_engine import open_parts, settings_in
from tiny_models import make_tiny_gguf

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
    assert arrays["spread"].shape == (HIDDEN, HIDDEN)
    assert np.trace(arrays["spread"]) == pytest.approx(HIDDEN, rel=0.01)  # of normed states
    assert losses[-1] < 0.5 * losses[0]


def secretive() -> tuple[Corpus, np.ndarray]:
    """The same, but only one value of the text's first token, far back, tells which of the two follows."""
    corpus, embedding = made_up()
    rng = np.random.default_rng(1)
    secrets = rng.integers(0, 2, TEXTS)
    tokens = corpus.tokens.reshape(TEXTS, LENGTH).copy()
    for place in range(1, LENGTH):
        tokens[:, place] = (3 * tokens[:, place - 1] + 1 + secrets) % VOCABULARY
    found = rng.normal(0, 0.1, (TEXTS, LENGTH + 9, 2, 1, 16)).astype(np.float16)
    found[:, 0, 0, 0, 0], found[:, 0, 1, 0, 0] = 8, 8 * secrets - 4
    hidden = embedding[(3 * tokens + 1 + secrets[:, None]) % VOCABULARY].reshape(-1, HIDDEN)
    hidden /= np.sqrt((hidden**2).mean(axis=1, keepdims=True))
    blind = np.zeros_like(corpus.middle)
    memory = Memory(found.reshape(-1, 2, 1, 16), np.arange(TEXTS + 1) * (LENGTH + 9))
    flat = tokens.reshape(-1)
    return Corpus(hidden.astype(np.float16), blind, flat, corpus.starts, 3, memory), embedding


@pytest.mark.compare
def test_what_a_text_began_with_is_found_by_a_head_that_looks_back() -> None:
    corpus, embedding = secretive()
    none = np.zeros(0, np.float32)
    looking = AttentionSpec(2, 16, 0.25, none, 1.0, np.zeros((32, HIDDEN), np.float32))
    recipe, last = Recipe(tokens=VOCABULARY, width=64, steps=300), dict[bool, float]()
    for looks in (False, True):
        losses: list[float] = []
        arrays = train(
            corpus,
            embedding,
            embedding,
            recipe,
            lambda _, loss: losses.append(loss),  # noqa: B023
            looking if looks else None,
        )
        assert ("query" in arrays, "mix" in arrays) == (looks, looks)
        last[looks] = losses[-1]
    assert arrays["query"].shape == (32, 3 * HIDDEN)
    assert arrays["mix"].shape == (HIDDEN, 32)
    assert last[True] < 0.7 * last[False]


@pytest.mark.compare
def test_a_cell_looks_back_as_a_pass_does(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  (an extra)

    parts, _ = open_parts(make_tiny_gguf(tmp_path, "llama"), settings_in(tmp_path))
    program, position = parts.backend.runner.program, 50
    config, path = program.config, tmp_path / "head.safetensors"
    write_head(path, arrays_that_look(config))
    head = load_head(path, program.weights, config.tied_head)
    _, residual, middle = ready(parts, head)
    looking = attention_spec_of(config, program.weights, LAYER)
    cell = Cell(torch, config.hidden_size, WIDTH, looking)
    with torch.no_grad():
        for name, rows in (("query", head.mix.inputs), ("mix", config.hidden_size)):
            cell.weights[name].copy_(torch.from_numpy(matrix(getattr(head, name))[:rows]))
    embedded = matrix(program.weights.matrix("embed"))[7]
    rows = (torch.from_numpy(normed(each))[None, None] for each in (residual[3], embedded, middle[3]))
    found = torch.from_numpy(program.pages.read(LAYER, parts.backend.limits.spare_pages, position))[None]
    keys, values = found.to(product_dtype(torch)).permute(2, 0, 3, 1, 4)
    seen = torch.ones(1, 1, 1, position, dtype=torch.bool)
    got = cell.attend(*rows, torch.tensor([[position]]), (keys, values), seen)[0, 0]
    wanted = normed(look_back(parts, head, residual[3], 7, middle[3], position))
    assert np.abs(got.detach().numpy() - wanted).max() < 0.05
    assert np.abs(normed(middle[3]) - wanted).max() > 0.5


@pytest.mark.compare
def test_the_same_seed_gives_the_same_head() -> None:
    corpus, embedding = made_up()
    one, other = (train(corpus, embedding, embedding, Recipe(40, 32, steps=5)) for _ in range(2))
    assert all((one[name] == other[name]).all() for name in one)


def test_questions_quote_what_was_answered() -> None:
    texts = [f"{letter} {{braces}} " * 200 for letter in "abcdefgh"]
    chance, questions = random.Random(3), ["Who {was} it?"]
    quoted = [quoting(chance, texts, questions) for _ in range(200)]
    assert quoted == [quoting(again, texts, questions) for again in [random.Random(3)] for _ in range(200)]
    for each in quoted:
        letters = [letter for letter in "abcdefgh" if f"{letter} {{braces}}" in each]
        assert 1 <= len(letters) <= MOST_TEXTS
        assert len(letters) * (SHORTEST - 12) < len(each) < len(letters) * (LONGEST + 20) + 120
    assert 60 < sum("Who {was} it?" in each for each in quoted) < 140


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_writes_its_own_corpus(tmp_path: Path) -> None:
    settings = Settings.from_env()
    path = resolve("smollm2-135m", settings=settings)
    loaded = load_model(path, EngineOptions(context=256), settings)
    told: list[tuple[int, int]] = []
    corpus = collect(loaded, 1, seed=1, progress=lambda *progress: told.append(progress))
    assert told == [(1, 1)]
    assert len(corpus.tokens) == len(corpus.hidden) == corpus.starts[-1] > 200
    for states in (corpus.hidden, corpus.middle):
        assert states.shape == (len(corpus.tokens), loaded.config.hidden_size)
        assert np.abs((states.astype(np.float32) ** 2).mean(axis=1) - 1).max() < 0.02
    config, memory = loaded.config, corpus.memory
    assert memory is not None
    assert memory.found.shape[1:] == (2, config.n_kv_heads, config.head_dim)
    assert len(memory.begins) == len(corpus.starts)
    assert (np.diff(memory.begins) > np.diff(corpus.starts)).all()  # prompts too
    assert len(memory.found) == memory.begins[-1]
    width = loaded.config.hidden_size
    zero = np.zeros((32, 3 * width), np.float32)
    arrays = {
        "tokens": np.unique(corpus.tokens).astype(np.float32),
        "gate": zero,
        "up": zero,
        "down": np.zeros((width, 32), np.float32),
        "carry": np.ones(width, np.float32),
        "layer": np.array([corpus.layer], np.float32),
    }
    write_head(tmp_path / "head.safetensors", arrays)
    head = load_head(tmp_path / "head.safetensors", loaded.parts.backend.weights, loaded.config.tied_head)
    assert head._asdict()["tokens"].tolist() == np.unique(corpus.tokens).tolist()
    loaded.parts.backend.close()


@pytest.mark.compare
@pytest.mark.parametrize("masks", [False, True])
def test_a_run_in_slices_ends_like_a_whole_one(tmp_path: Path, masks: bool) -> None:
    corpus, embedding = secretive()
    looking = AttentionSpec(2, 16, 0.25, np.zeros(0, np.float32), 1.0, np.zeros((32, HIDDEN), np.float32))
    recipe = Recipe(tokens=VOCABULARY, width=32, steps=4, masks=masks)
    whole = train(corpus, embedding, embedding, recipe, attention=looking)
    assert whole is not None
    assert ("masks" in whole) == masks
    path, slices = tmp_path / "run.safetensors", 0
    while True:
        kept = KeptTraining(path, time.monotonic() + 0.01, repr(recipe))
        found = train(corpus, embedding, embedding, recipe, attention=looking, kept=kept)
        if found is not None:
            break
        slices += 1
    assert slices > 1
    assert all(np.array_equal(found[name], whole[name]) for name in whole)
    other = KeptTraining(path, 0.0, "another")
    with pytest.raises(RequestError, match="another folder"):
        train(corpus, embedding, embedding, recipe, attention=looking, kept=other)


@pytest.mark.compare
def test_training_starts_from_a_head(tmp_path: Path) -> None:
    corpus, embedding = made_up()
    recipe, path = Recipe(tokens=40, width=32, steps=10), tmp_path / "head.safetensors"
    learned = train(corpus, embedding, embedding, recipe)
    assert learned is not None
    write_head(path, learned)
    losses: dict[bool, list[float]] = {False: [], True: []}
    again = Recipe(tokens=40, width=32, steps=1, masks=True, windows=4)
    for starts, seen in losses.items():
        start = path if starts else None
        found = train(corpus, embedding, embedding, again, lambda _, loss: seen.append(loss), start=start)  # noqa: B023
    assert found is not None
    assert np.array_equal(found["tokens"], learned["tokens"])
    assert found["masks"].shape == (MASKS, HIDDEN)  # which the first head has not
    assert losses[True][0] < losses[False][0]
    with pytest.raises(RequestError, match="40 tokens and a width of 32"):
        train(corpus, embedding, embedding, Recipe(tokens=40, width=64, steps=1), start=path)


@pytest.mark.compare
def test_a_block_of_masks_is_learned() -> None:
    """Where the next token says all that follows, masks restore it; the seed of the language is what they see."""
    corpus, embedding = secretive()
    losses: list[float] = []
    recipe = Recipe(tokens=VOCABULARY, width=64, steps=60, masks=True)
    arrays = train(corpus, embedding, embedding, recipe, lambda _, loss: losses.append(loss))
    assert arrays is not None
    assert arrays["masks"].shape == (MASKS, HIDDEN)
    assert losses[-1] < 0.8 * losses[0]


def test_parts_of_a_corpus_are_kept_and_joined(tmp_path: Path) -> None:
    corpus, _ = secretive()
    arrays = corpus_arrays(corpus)
    again = corpus_of(arrays)
    both = joined([again, corpus])
    assert len(both.tokens) == 2 * len(corpus.tokens)
    assert both.memory is not None
    assert corpus.memory is not None
    for text in range(TEXTS):
        for first in (0, TEXTS):
            begin, end = both.starts[first + text], both.starts[first + text + 1]
            own = slice(corpus.starts[text], corpus.starts[text + 1])
            assert np.array_equal(both.tokens[begin:end], corpus.tokens[own])
            begin, end = both.memory.begins[first + text], both.memory.begins[first + text + 1]
            own = slice(corpus.memory.begins[text], corpus.memory.begins[text + 1])
            assert np.array_equal(both.memory.found[begin:end], corpus.memory.found[own])
