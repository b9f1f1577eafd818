"""Layers, heads, channels and weights left out: the cheapest go, the rest is corrected, quantisation is the rival."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from made_texts import GAIN, RATES, made_job, write_texts

from miaotui.cli import main
from miaotui.cli.optimize import optimize
from miaotui.config import Settings
from miaotui.errors import MissingLibraryError, RequestError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.model.oracle import Oracle
from miaotui.optimize.card import read_card
from miaotui.optimize.distillation.recipe import DistilRecipe
from miaotui.optimize.front import front_page
from miaotui.optimize.layerwise import LayerwiseModel, divergence
from miaotui.optimize.pruning import prune
from miaotui.optimize.pruning.layers import layer_order
from miaotui.optimize.pruning.masks import wanda_masked
from miaotui.optimize.pruning.prune import PruneOptions, Pruning, stored_types_bytes
from miaotui.optimize.pruning.pruned_file import LayerWidths, write_pruned
from miaotui.optimize.pruning.shape import PrunedShape, require_shape, whole_shape
from miaotui.optimize.pruning.widths import choose_columns, kept_widths
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.speed import MeasuredSpeed
from tiny_models import make_tiny_gguf, tiny_config

TEXTS = [[int(x) for x in np.random.default_rng(seed).integers(0, 300, 48)] for seed in range(4)]


def loss(source: GgufSource, file: Path) -> float:
    with open_source(file) as made:
        base = LayerwiseModel(source.config, source.canonical())
        return float(divergence(base, LayerwiseModel(made.config, made.canonical()), TEXTS).kl.mean())


def test_layers_go_in_the_order_of_what_their_absence_costs(tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, "llama", num_hidden_layers=5)) as source:
        model = LayerwiseModel(source.config, source.canonical())
        found = layer_order(model, TEXTS, 3)
        gone: list[int] = []
        for layer, nats in zip(found.layers, found.nats, strict=True):
            costs = {}
            for one in set(range(5)) - set(gone):
                kept = tuple(each for each in range(5) if each not in {*gone, one})
                write_pruned(source, PrunedShape(kept, 2, 96), tmp_path / "one.gguf")
                costs[one] = loss(source, tmp_path / "one.gguf")
            assert min(costs, key=lambda each: costs[each]) == layer
            assert costs[layer] == pytest.approx(nats, rel=1e-4)
            gone.append(layer)
        assert found.kept(3, 5) == tuple(sorted(set(range(5)) - set(found.layers[:2])))


@pytest.mark.parametrize("variant", ["llama", "qwen2", "gemma2", "starcoder2"])
def test_a_pruned_file_computes_what_the_rest_of_the_model_does(variant: str, tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, variant, num_hidden_layers=4)) as source:
        config, out = source.config, tmp_path / "out.gguf"
        heads, channels = list(range(config.n_kv_heads))[-1:], list(range(32, config.ffn_size))
        shape = PrunedShape((0, 1), 1, len(channels))
        write_pruned(source, shape, out, {layer: LayerWidths(heads, channels) for layer in shape.layers})
        weights = {name: source.canonical()[name].float32() for name in source.canonical()}
        unread = config.n_heads // config.n_kv_heads * config.value_dim * (config.n_kv_heads - 1)
        for layer in shape.layers:
            weights[f"layers.{layer}.o"][:, :unread] = 0
            weights[f"layers.{layer}.down"][:, :32] = 0
        oracle = Oracle(config, weights)
        expected = oracle.head(oracle.layer(oracle.layer(oracle.embedded(TEXTS[0]), 0), 1))
        with open_source(out) as made:
            assert (made.config.n_layers, made.config.n_kv_heads, made.config.ffn_size) == (2, 1, len(channels))
            found = Oracle(made.config, made.canonical()).logits(TEXTS[0])
        np.testing.assert_allclose(found, expected, atol=0.03)  # columns that stay are stored in float16
        assert out.stat().st_size < 0.6 * source.path.stat().st_size


def test_columns_that_stay_make_up_for_the_others() -> None:
    rng = np.random.default_rng(5)
    inputs = (
        rng.standard_normal((400, 6)) @ rng.standard_normal((6, 12)) + 0.1 * rng.standard_normal((400, 12))
    ).astype(np.float32)
    weights = rng.standard_normal((7, 12)).astype(np.float32)
    moment = inputs.T @ inputs / 400
    chosen, corrected = choose_columns(weights, moment, 2, 3)
    columns = [each for group in chosen for each in (2 * group, 2 * group + 1)]
    others = [each for each in range(12) if each not in columns]
    assert len(chosen) == 3
    assert not corrected[:, others].any()
    damping = np.sqrt(0.01 * np.trace(moment) / 12 * 400)
    rows = np.vstack([inputs, damping * np.eye(12)])  # ridge regression as least squares
    expected = np.linalg.lstsq(rows[:, columns], rows @ weights.T, rcond=None)[0].T
    np.testing.assert_allclose(corrected[:, columns], expected, rtol=2e-3, atol=2e-3)
    plain = np.linalg.norm(inputs[:, others] @ weights[:, others].T)
    assert np.linalg.norm(inputs @ (weights - corrected).T) < 0.7 * plain
    assert choose_columns(weights, moment, 2, 6)[1] is weights


def test_corrected_matrices_lose_less(tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, "llama")) as source:
        shape = PrunedShape(whole_shape(source.config).layers, 2, 64)
        kept, replaced = kept_widths(source, shape, TEXTS)
        for name, values in (("plain", {}), ("corrected", replaced)):
            write_pruned(source, shape, tmp_path / f"{name}.gguf", kept, values)
        assert loss(source, tmp_path / "corrected.gguf") < loss(source, tmp_path / "plain.gguf")


def test_a_mask_takes_the_least_important_weights_of_each_row() -> None:
    weights = np.array([[1.0, -2.0, 3.0, 0.1], [-5.0, 4.0, 0.2, 1.0]], np.float32)
    norms = np.array([1.0, 1.0, 0.1, 20.0], np.float32)
    found = wanda_masked(weights, norms, 0.5)
    np.testing.assert_array_equal(found, np.array([[0, -2, 0, 0.1], [-5, 0, 0, 1]], np.float32))
    for row, kept in zip(weights, found, strict=True):
        scores = np.abs(row) * norms
        assert set(np.flatnonzero(kept)) == set(np.argsort(scores)[2:])


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((4, None, None), "has 3 layers, and can keep 1 to 3, not 4"),
        ((None, 3, None), "has 2 key/value heads"),
        ((None, None, 40), "in steps of 32, not 40"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(counts: tuple[int | None, int | None, int | None], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        require_shape(tiny_config("llama"), *counts)


def test_models_whose_parts_cannot_be_left_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="choose layers"):
        require_shape(tiny_config("mixtral"), None, 1, None)
    with pytest.raises(UnsupportedModelError, match="Baichuan 13B by its number of layers"):
        require_shape(tiny_config("baichuan-13b"), 2, None, None)
    with pytest.raises(UnsupportedModelError, match="plain attention"):
        require_shape(tiny_config("baichuan-13b"), None, 2, None)
    with open_source(make_tiny_gguf(tmp_path, "gemma3")) as source:
        shape = PrunedShape(whole_shape(source.config).layers[1:], source.config.n_kv_heads, source.config.ffn_size)
        with pytest.raises(UnsupportedModelError, match="kind follows from their number"):
            write_pruned(source, shape, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_the_quantised_file_is_returned_when_it_loses_less(tmp_path: Path) -> None:
    def measure(file: Path, prompt: int, answer: int) -> MeasuredSpeed:
        rate = 4e8 / min(file.stat().st_size, 186_000)  # floats are packed in 8 bits
        return MeasuredSpeed(rate, answer / rate, answer / rate, None, 1, prompt, answer, 1)

    job = made_job(make_tiny_gguf(tmp_path, "llama"), tmp_path, size_bytes=110_000, prompt=100, answer=20)
    job.options, job.measure, job.drafts = replace(job.options, measure_speed=True), measure, lambda _: GAIN
    job.settings = Settings(tmp_path / "home", tmp_path / "home")
    card = Pruning(job, PruneOptions(layers=2)).run()
    assert read_card(job.out) == card
    changes = card.changes
    assert changes is not None
    assert changes["returned"] == "quantised"
    assert card.quality["mean_kl"] == changes["set_against"]["mean_kl"] < changes["pruned_file"]["mean_kl"]
    assert changes["set_against"]["bytes"] <= changes["pruned_file"]["bytes"] <= 110_000
    assert card.notes[0].startswith("quantised, not pruned: in ")
    assert [one["mean_kl"] for one in card.front["measured"][-2:]] == [
        card.quality["mean_kl"],
        changes["pruned_file"]["mean_kl"],
    ]
    assert front_page(card).count("<svg") == 2
    assert "(tokens/s: original 2150.5, pruned 36" in card.notes[0]
    with read_gguf(job.out) as found:
        assert found.metadata["llama.block_count"] == 3
    assert not job.out.with_name(f"{job.out.name}.work").exists()


def test_below_the_smallest_types_the_pruned_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_gguf(tmp_path, "llama")
    job = made_job(model, tmp_path, size_bytes=60_000)
    monkeypatch.setattr(prune.Optimization, "run", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Pruning(job, PruneOptions(layers=1)).run()
    monkeypatch.undo()
    assert not job.out.exists()
    monkeypatch.setattr(prune, "layer_order", lambda *_: pytest.fail("the order was kept"))
    card = Pruning(job, PruneOptions(layers=1)).run()
    assert card.changes is not None
    assert card.changes["returned"] == "pruned"
    assert "the smallest that these types allow" in card.changes["set_against"]["refused"]
    assert job.out.stat().st_size <= 60_000
    with open_source(job.out) as made:
        assert made.config.n_layers == 1
    assert card.quality["mean_kl"] > 1
    assert card.source["sha256"] != card.file["sha256"]


def test_matrices_that_lose_columns_are_quantised_again(tmp_path: Path) -> None:
    job = made_job(make_tiny_gguf(tmp_path, "llama", kind="Q8_0"), tmp_path, size_bytes=180_000)
    card = Pruning(job, PruneOptions(ffn=64)).run()
    assert card.changes is not None
    assert 100_000 < card.changes["pruned_file"]["bytes"] <= 180_000
    assert card.changes["set_against"]["bytes"] <= card.changes["pruned_file"]["bytes"]
    with open_source(job.path) as source:
        layers = whole_shape(source.config).layers
        assert stored_types_bytes(source, PrunedShape(layers, 2, 96)) <= job.path.stat().st_size + 64
        shape = PrunedShape(layers[:2], 2, 96)
        write_pruned(source, shape, tmp_path / "two.gguf")
        assert 0 <= stored_types_bytes(source, shape) - (tmp_path / "two.gguf").stat().st_size < 2048


def test_what_cannot_heal_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "text_sets", lambda *_: pytest.fail("work has begun"))
    job = made_job(make_tiny_gguf(tmp_path, "mixtral"), tmp_path, size_bytes=110_000)
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with pytest.raises(UnsupportedModelError, match="choose a plain decoder"):
        Pruning(job, PruneOptions(layers=2, heal=DistilRecipe())).run()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingLibraryError, match=r"miaotui\[optimize\]"):
        Pruning(job, PruneOptions(layers=2, heal=DistilRecipe())).run()


def test_a_mask_is_measured_and_answered_with_a_quantised_file(tmp_path: Path) -> None:
    job = made_job(make_tiny_gguf(tmp_path, "llama"), tmp_path, size_bytes=600_000)
    card = Pruning(job, PruneOptions(mask=0.5)).run()
    assert card.changes is not None
    assert "saves no bytes and no time here" in card.notes[0]
    assert card.quality["mean_kl"] < card.changes["masked"]["mean_kl"]
    assert job.out.stat().st_size <= card.changes["least_bytes"] < 600_000
    with pytest.raises(RequestError, match="nothing is left out"):
        Pruning(made_job(job.path, tmp_path / "..", size_bytes=600_000), PruneOptions(layers=3)).run()


def test_the_command_line_refuses_what_contradicts_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    model = make_tiny_gguf(tmp_path, "llama")
    for words, said in (
        (["--mask", "50%", "--layers", "2"], "--mask is measured alone"),
        (["--heal", "4096"], "--heal follows pruning"),
    ):
        assert main(["optimize", str(model), "--size", "300kB", *words]) == 1
        assert said in capsys.readouterr().err
    assert main(["optimize", str(model), "--mask", "1.5"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.compare
def test_the_command_line_prunes_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(optimize, "_rates", lambda: RATES)
    model = make_tiny_gguf(tmp_path, "llama")
    calibration, test = write_texts(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("layers: 1\nheal: 4096\nsize: 60kB\nprompt: 40\nanswer: 8\n", encoding="utf-8")
    words = ["--recipe", str(recipe), "--calibration", str(calibration), "--test", str(test)]
    out = tmp_path / "out.gguf"
    assert main(["optimize", str(model), *words, "--out", str(out)]) == 0
    card = read_card(out)
    assert card.changes is not None
    assert card.changes["healed"]["mean_kl"] < card.changes["pruned"]["mean_kl"]
    assert card.changes["returned"] == "pruned"
    assert card.speed is not None
    assert out.stat().st_size <= 60_000
    assert "pruned: it loses" in capsys.readouterr().out
