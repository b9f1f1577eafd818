"""A student learns a teacher's distributions: exact arithmetic, bounded caches, runs that go on where they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_texts import made_text, write_texts

from miaotui.cli import main
from miaotui.errors import CacheError, ModelFormatError, RequestError, UnsupportedModelError
from miaotui.model.oracle import Oracle
from miaotui.optimize.card import read_card
from miaotui.optimize.distillation import distil
from miaotui.optimize.distillation.distil import Distillation, DistilReport, decoded, write_student
from miaotui.optimize.distillation.objectives import distance
from miaotui.optimize.distillation.recipe import DistilRecipe
from miaotui.optimize.distillation.teacher import ChunkPlan, TeacherCache, common_vocabulary
from miaotui.optimize.layerwise import LayerwiseModel, divergence
from miaotui.optimize.pruning.pruned_file import write_pruned
from miaotui.optimize.pruning.shape import PrunedShape
from miaotui.optimize.source import open_source
from miaotui.training.decoder import TorchDecoder
from tiny_models import make_tiny_gguf, tiny_config, tiny_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.compare

ROWS = [[int(x) for x in np.random.default_rng(seed).integers(0, 300, 64)] for seed in range(70)]
RECIPE = DistilRecipe(tokens=4096, passes=2, length=64, rate=1e-3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A teacher, and the student that has one of its layers less."""
    folder = tmp_path_factory.mktemp("pair")
    teacher = make_tiny_gguf(folder, "llama")
    with open_source(teacher) as source:
        write_pruned(source, PrunedShape((0, 2), 2, 96), folder / "student.gguf")
    return teacher, folder / "student.gguf"


def learn(pair: tuple[Path, Path], folder: Path, recipe: DistilRecipe = RECIPE, stop: int = 0) -> DistilReport:
    torch.set_num_threads(1)
    job = Distillation(pair[0], pair[1], folder / "out.gguf", folder / "work", recipe, ROWS)
    job.stop = (lambda step: step == stop) if stop else None
    return job.run()


def loss(teacher: Path, file: Path) -> float:
    with open_source(teacher) as source, open_source(file) as made:
        base, other = (LayerwiseModel(each.config, each.canonical()) for each in (source, made))
        return float(divergence(base, other, ROWS[64:]).kl.mean())


@pytest.mark.parametrize(
    "variant", ["llama-llama3", "qwen2-yarn", "gemma2", "gemma3", "olmo2", "starcoder2", "cohere2"]
)
def test_the_decoder_computes_the_oracles_logits(variant: str) -> None:
    config = tiny_config(variant)
    weights = tiny_weights(config)
    decoder = TorchDecoder(torch, config, weights, torch.float32)
    with torch.no_grad():
        found = decoder.logits(decoder.states(torch.tensor([ROWS[0]]))[0]).numpy()
    np.testing.assert_allclose(found, Oracle(config, weights).logits(ROWS[0]), atol=2e-4)


def test_low_rank_pairs_begin_as_nothing_and_are_added_to_the_weights() -> None:
    config = tiny_config("llama")
    weights = tiny_weights(config)
    decoder = TorchDecoder(torch, config, weights, torch.float32, rank=4)
    assert all(np.array_equal(array, weights[name]) for name, array in decoder.arrays().items())
    assert {name.split(".")[-2] for name in decoder.trained()} == {"q", "k", "v", "o", "gate", "up", "down"}
    with torch.no_grad():
        for _, second in decoder.pairs.values():
            second.normal_(0, 0.05)
        found = decoder.logits(decoder.states(torch.tensor([ROWS[0]]))[0]).numpy()
    np.testing.assert_allclose(found, Oracle(config, decoder.arrays()).logits(ROWS[0]), atol=5e-4)


def test_models_that_cannot_learn_here_are_refused() -> None:
    config = tiny_config("mixtral")
    with pytest.raises(UnsupportedModelError, match="experts, which is not trained here"):
        TorchDecoder(torch, config, {}, torch.float32)


@pytest.mark.parametrize("objective", ["forward", "reverse", "jsd"])
def test_objectives_are_those_of_the_papers(objective: str) -> None:
    rng = np.random.default_rng(3)
    teacher, student = (rng.standard_normal((5, 9)) for _ in range(2))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (teacher, student))
    ids = np.argsort(-p, axis=1)[:, :8]  # all but one: the rest is that one

    def divergence_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * np.log(a / b)).sum(1)

    expected = {
        "forward": divergence_of(p, q),
        "reverse": divergence_of(q, p),
        "jsd": (divergence_of(p, (p + q) / 2) + divergence_of(q, (p + q) / 2)) / 2,
    }[objective]
    logs, places = torch.tensor(np.log(np.take_along_axis(p, ids, 1))), torch.tensor(ids)
    found = distance(torch, objective, logs, places, torch.tensor(student))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    few = distance(torch, objective, logs[:, :3], places[:, :3], torch.tensor(student)).numpy()
    assert (few <= expected + 1e-9).all()
    assert (few >= 0).all()
    same = distance(torch, objective, logs, places, torch.tensor(np.log(p)))
    np.testing.assert_allclose(same.numpy(), 0, atol=1e-7)


def test_a_student_comes_nearer_and_an_interrupted_run_ends_alike(pair: tuple[Path, Path], tmp_path: Path) -> None:
    before = loss(*pair)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = learn(pair, whole)
    assert report.steps == 32
    assert report.last_loss < 0.8 * report.first_loss
    assert loss(pair[0], whole / "out.gguf") < 0.9 * before
    for stop in (5, 21):
        with pytest.raises(KeyboardInterrupt):
            learn(pair, parts, stop=stop)
        assert not (parts / "out.gguf").exists()
    assert learn(pair, parts).steps == 32
    assert (parts / "out.gguf").read_bytes() == (whole / "out.gguf").read_bytes()
    state = next(parts.glob("work/*/training.safetensors"))
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ModelFormatError, match="delete it"):
        learn(pair, parts)


def test_low_rank_pairs_and_own_texts_bring_a_student_nearer(pair: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = DistilRecipe(tokens=8192, passes=1, length=64, rate=5e-3, rank=8, objective="jsd", on_policy=0.5)
    report = learn(pair, tmp_path, recipe)
    assert report.chunks_by_student == 1
    assert report.last_loss < report.first_loss
    with open_source(pair[1]) as student, open_source(tmp_path / "out.gguf") as made:
        same = [name for name in student.canonical() if "norm" in name or name == "embed"]
        for name in same:
            np.testing.assert_allclose(made.canonical()[name].float32(), student.canonical()[name].float32(), atol=2e-3)
    assert not list(tmp_path.glob("work/*/student.gguf"))


def test_a_student_is_written_in_the_order_of_its_file(tmp_path: Path) -> None:
    for variant in ("llama", "phi3", "granite"):  # pairs side by side; fused matrices; a factor in the final norm
        with open_source(make_tiny_gguf(tmp_path, variant)) as source:
            write_student(source, decoded(source), tmp_path / f"{variant}.gguf")
            with open_source(tmp_path / f"{variant}.gguf") as made:
                for name, array in decoded(made).items():
                    np.testing.assert_allclose(array, decoded(source)[name], rtol=1e-3, atol=1e-5)


def test_chunks_are_kept_whole_or_not_at_all(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ChunkPlan(("a",), ROWS, 4, 64, 0)
    cache = TeacherCache(tmp_path, tmp_path, pair[0], plan, 300)
    chunk = cache.chunk(1)
    cache.close()
    assert chunk.tokens.tolist() == ROWS[4:8]
    assert chunk.ids.max() < 300
    with open_source(pair[0]) as source:
        logits = Oracle(source.config, source.canonical()).logits(ROWS[4])[:, :300]
    expected = np.take_along_axis(logits, chunk.ids[0], 1) - np.log(np.exp(logits).sum(1, keepdims=True))
    assert np.abs(chunk.logs[0] - expected).mean() < 0.25  # the teacher's products are of 8 bits
    assert np.array_equal(cache.chunk(1).ids, chunk.ids)
    path = tmp_path / "chunk-00001.npz"
    assert path.stat().st_size <= plan.chunk_bytes
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelFormatError, match="remove it"):
        cache.chunk(1)
    with pytest.raises(CacheError):
        cache.require_room(1 << 40)
    monkeypatch.setattr(distil, "training_bytes", lambda *_: 1 << 60)
    with pytest.raises(RequestError, match="train low-rank pairs"):
        learn(pair, tmp_path)


def test_another_vocabulary_is_refused_and_a_padded_one_is_not() -> None:
    def tokens(count: int, other: int = -1) -> dict[str, object]:
        return {"tokenizer.ggml.tokens": [f"t{i}" if i != other else "x" for i in range(count)]}

    assert common_vocabulary(tokens(3000), tokens(3000), (3072, 3000)) == 3000
    assert common_vocabulary(tokens(3000), tokens(3100), (3000, 3100)) == 3000
    with pytest.raises(RequestError, match="token 7 differs"):
        common_vocabulary(tokens(3000), tokens(3000, 7), (3000, 3000))
    with pytest.raises(RequestError, match="3,000 tokens, not 9,000"):
        common_vocabulary(tokens(3000), tokens(9000), (3000, 9000))
    with pytest.raises(RequestError, match="without a tokenizer"):
        common_vocabulary({}, tokens(10), (10, 10))
    for wrong in ({"objective": "kl"}, {"tokens": 3}, {"on_policy": 2.0}, {"rate": 0.0}):
        with pytest.raises(RequestError):
            DistilRecipe(**wrong)  # type: ignore[arg-type]


def test_the_command_line_distils(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, test = write_texts(tmp_path)
    texts.write_text(made_text(0, 2000), encoding="utf-8")
    out = tmp_path / "out.gguf"
    words = ["distill", str(pair[1]), "--teacher", str(pair[0]), "--out", str(out), "--texts", str(texts)]
    words += ["--test", str(test), "--tokens", "4096", "--length", "64", "--passes", "1", "--rate", "0.001"]
    assert main([*words, "--objective", "best"]) == 1
    assert "must be one of forward, reverse, jsd" in capsys.readouterr().err
    assert main([*words, "--json"]) == 0
    card = read_card(out)
    assert json.loads(capsys.readouterr().out)["quality"] == card.quality
    assert card.changes is not None
    assert card.quality["mean_kl"] < card.changes["before"]["mean_kl"]
    assert card.texts["shared_lines"] == 0
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err
