"""Merges: held to the papers' equations written anew over whole tensors, and refused where models do not fit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from miaotui.config import Settings
from miaotui.errors import CacheError, MiaotuiError, ModelFormatError, RequestError, UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.model.writing import layout
from miaotui.optimize.merging import methods
from miaotui.optimize.merging.merge import merge
from miaotui.optimize.merging.recipe import MergeRecipe
from miaotui.optimize.origin import read_origin
from miaotui.training.noise import Noise
from tiny_models import make_tiny_folder, make_tiny_gguf
from tiny_variants import VARIANTS

Whole = NDArray[np.float64]


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A base and two models near it."""
    base = make_tiny_folder(tmp_path, "llama")
    return [base, _near(base, tmp_path / "a", 1), _near(base, tmp_path / "b", 2)]


def _near(base: Path, place: Path, seed: int) -> Path:
    place.mkdir()
    for file in base.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    rng = np.random.default_rng(seed)
    arrays = load_file(base / "model.safetensors")
    changed = {name: x + 0.1 * rng.standard_normal(x.shape, np.float32) for name, x in arrays.items()}
    save_file(changed, place / "model.safetensors")
    return place


def _merged(recipe: MergeRecipe, out: Path) -> dict[str, NDArray[np.float32]]:
    merge(recipe, out, Settings.from_env())
    return load_file(out / "model.safetensors")


def _weights(place: Path) -> dict[str, Whole]:
    return {name: x.astype(np.float64) for name, x in load_file(place / "model.safetensors").items()}


def _ties(base: Whole, others: list[Whole], weights: list[float], density: float, trim: bool) -> Whole:
    """Algorithm 1 of TIES, step by step."""
    vectors = []
    for other in others:
        tau = (other - base).ravel()
        if trim:
            keep = np.argsort(-np.abs(tau), kind="stable")[: max(1, round(density * tau.size))]
            trimmed = np.zeros_like(tau)
            trimmed[keep] = tau[keep]
            tau = trimmed
        vectors.append(tau)
    elected = np.sign(sum(w * v for w, v in zip(weights, vectors, strict=True)))
    merged = np.zeros_like(vectors[0])
    for at in range(merged.size):
        chosen = [(w, v[at]) for w, v in zip(weights, vectors, strict=True) if np.sign(v[at]) == elected[at] != 0]
        if chosen:
            merged[at] = sum(w * v for w, v in chosen) / sum(w for w, _ in chosen)
    return base + merged.reshape(base.shape)


def test_linear_and_task_arithmetic(models: list[Path], tmp_path: Path) -> None:
    base, a, b = map(_weights, models)
    names = tuple(map(str, models[1:]))
    found = _merged(MergeRecipe("linear", names, weights=((1.0,), (3.0,))), tmp_path / "linear")
    added = _merged(
        MergeRecipe("task-arithmetic", names, str(models[0]), ((0.5,), (0.7,)), scale=0.8, normalize=False),
        tmp_path / "added",
    )
    for name in base:
        assert np.allclose(found[name], (a[name] + 3 * b[name]) / 4, atol=1e-6)
        task = 0.5 * (a[name] - base[name]) + 0.7 * (b[name] - base[name])
        assert np.allclose(added[name], base[name] + 0.8 * task, atol=1e-6)


def test_slerp_follows_the_arc(models: list[Path], tmp_path: Path) -> None:
    far = make_tiny_folder(tmp_path, "llama", seed=5)
    a, b = _weights(models[1]), _weights(far)
    found = _merged(MergeRecipe("slerp", (str(models[1]), str(far)), t=(0.3,)), tmp_path / "out")
    for name in a:
        x, y = a[name].ravel(), b[name].ravel()
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        factors = (0.7, 0.3)
        if abs(cosine) <= 0.9995:
            angle = np.arccos(cosine)
            factors = (np.sin(0.7 * angle) / np.sin(angle), np.sin(0.3 * angle) / np.sin(angle))
        expected = factors[0] * a[name] + factors[1] * b[name]
        assert np.allclose(found[name], expected, atol=2e-5), name


def test_ties_equals_its_algorithm(models: list[Path], tmp_path: Path) -> None:
    base, a, b = map(_weights, models)
    recipe = MergeRecipe("ties", tuple(map(str, models[1:])), str(models[0]), ((1.0,), (2.0,)), (0.3,))
    found = _merged(recipe, tmp_path / "out")
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        # task vectors are those of float32, in which a difference is rounded
        parts = [x[name].astype(np.float32) - base[name].astype(np.float32) + base[name] for x in (a, b)]
        expected = _ties(base[name], parts, [1.0, 2.0], 0.3, trim=True)
        assert np.mean(~np.isclose(found[name], expected, atol=1e-5)) < 1e-3, name


def test_dare_keeps_a_share_and_its_expectation(models: list[Path], tmp_path: Path) -> None:
    base, a, _ = map(_weights, models)
    recipe = MergeRecipe("dare-linear", (str(models[1]),), str(models[0]), densities=(0.25,), seed=3)
    found, again = (_merged(recipe, tmp_path / name) for name in ("one", "two"))
    name = "model.layers.0.mlp.gate_proj.weight"
    change, full = found[name] - base[name], a[name] - base[name]
    kept = np.abs(change) > 1e-7
    assert abs(kept.mean() - 0.25) < 0.02
    assert np.allclose(change[kept], full[kept] / 0.25, atol=1e-5)
    assert all(np.array_equal(found[each], again[each]) for each in found), "one seed, one merge"
    other = _merged(
        MergeRecipe("dare-linear", (str(models[1]),), str(models[0]), densities=(0.25,), seed=4), tmp_path / "three"
    )
    assert not np.array_equal(found[name], other[name])


def test_dare_with_elected_signs(models: list[Path], tmp_path: Path) -> None:
    base, a, b = map(_weights, models)
    names = tuple(map(str, models[1:]))
    found = _merged(MergeRecipe("dare-ties", names, str(models[0]), densities=(0.5,)), tmp_path / "out")
    name, canonical = "model.layers.1.mlp.down_proj.weight", "layers.1.down"
    digest = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:7], "big")
    dropped = []
    for number, each in enumerate((a, b)):
        shape = base[name].shape
        kept = Noise(0, digest).uniform(np.arange(shape[0]), shape[1], number) < 0.5
        dropped.append(base[name] + np.where(kept, (each[name] - base[name]) / 0.5, 0))
    expected = _ties(base[name], dropped, [1.0, 1.0], 1.0, trim=False)
    assert np.mean(~np.isclose(found[name], expected, atol=1e-5)) < 1e-3


@pytest.mark.parametrize("method", ["ties", "dare-ties", "linear", "slerp"])
def test_blocks_of_rows_do_not_matter(
    models: list[Path], tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = None if method in ("linear", "slerp") else str(models[0])
    recipe = MergeRecipe(method, tuple(map(str, models[1:])), base)
    whole = _merged(recipe, tmp_path / "whole")
    monkeypatch.setattr(layout, "BLOCK_WEIGHTS", 640)
    monkeypatch.setattr(methods, "BLOCK_WEIGHTS", 640)
    cut = _merged(recipe, tmp_path / "cut")
    for name in whole:
        assert np.allclose(whole[name], cut[name], rtol=0, atol=1e-6 if method == "slerp" else 0), name


@pytest.mark.parametrize("variant", ["gemma3", "mixtral"])
def test_a_merge_of_a_model_with_itself_is_the_model(tmp_path: Path, variant: str) -> None:
    """Through fused, reordered, offset and expert tensors there and back, from both containers."""
    folder = make_tiny_folder(tmp_path, variant)
    gguf = make_tiny_gguf(tmp_path, variant)
    merge(MergeRecipe("linear", (str(folder), str(gguf))), tmp_path / "out", Settings.from_env())
    merge(MergeRecipe("linear", (str(gguf), str(folder)), dtype="f32"), tmp_path / "out.gguf", Settings.from_env())
    for out in ("out", "out.gguf"):
        with open_model(folder) as expected, open_model(tmp_path / out) as found:
            tokens = [5, 17, 3, 90, 41]
            want, got = (Oracle(each.config, each.tensors).logits(tokens) for each in (expected, found))
        assert np.abs(want - got).max() < 1e-4 * np.abs(want).max()


REFUSED = {  # stored in forms that are put together when they are read
    "folder": {"gpt-oss", "granitemoe"},
    "gguf": {"youtu", "minicpm3", "deepseek-v2-groups", "deepseek-v3", "glm4-moe-lite"},
}


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_every_architecture_is_merged_or_refused_by_name(tmp_path: Path, form: str) -> None:
    refused: dict[str, str] = {}
    for variant in VARIANTS:
        try:
            source = make_tiny_folder(tmp_path, variant) if form == "folder" else make_tiny_gguf(tmp_path, variant)
        except (KeyError, ValueError):
            continue  # no such file is made here
        out = tmp_path / f"{variant}-out{'' if form == 'folder' else '.gguf'}"
        try:
            merge(MergeRecipe("linear", (str(source), str(source))), out, Settings.from_env())
        except UnsupportedModelError as error:
            refused[variant] = str(error)
            continue
        with open_model(source) as expected, open_model(out) as found:
            for name in expected.tensors:
                wanted, got = (each.tensors[name].float32() for each in (expected, found))
                assert np.allclose(wanted, got, rtol=0, atol=1e-6), (variant, name)
    assert refused.keys() >= REFUSED[form]
    assert not refused.keys() & {"llama", "gemma3", "phi3", "cohere2", "mixtral", "qwen3-moe", "baichuan-7b"}
    assert all("to plain matrices first" in message for message in refused.values())
    assert not any((tmp_path / f"{variant}-out").exists() for variant in refused)


def test_quantised_sources_become_floats(tmp_path: Path) -> None:
    first, second = (make_tiny_gguf(tmp_path, "llama", seed=seed, kind="Q8_0") for seed in (0, 1))
    origin = merge(MergeRecipe("linear", (str(first), str(second))), tmp_path / "m.gguf", Settings.from_env())
    with open_model(first) as a, open_model(second) as b, open_model(tmp_path / "m.gguf") as made:
        assert made.tensors["layers.0.up"].kind is BlockType.F16
        mean = (a.tensors["layers.0.up"].float32() + b.tensors["layers.0.up"].float32()) / 2
        assert np.abs(made.tensors["layers.0.up"].float32() - mean).max() < 2e-3
    assert read_origin(tmp_path / "m.gguf") == origin
    assert [len(source["sha256"]) for source in origin.sources] == [64, 64]
    (tmp_path / "m.gguf").write_bytes((tmp_path / "m.gguf").read_bytes() + b"x")
    with pytest.raises(ModelFormatError, match="other files"):
        read_origin(tmp_path / "m.gguf")


def _with_token(place: Path, text: str, number: int) -> None:
    path = place / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": number, "content": text})
    path.write_text(json.dumps(values))


def test_added_tokens_are_joined(models: list[Path], tmp_path: Path) -> None:
    """A token that one model alone knows has this model's row; others have the mean."""
    arrays = load_file(models[2] / "model.safetensors")
    grown = {n: np.concatenate([x, x[:1] + 9]) if x.shape[0] == 320 else x for n, x in arrays.items()}
    save_file(grown, models[2] / "model.safetensors")
    config = json.loads((models[2] / "config.json").read_text()) | {"vocab_size": 321}
    (models[2] / "config.json").write_text(json.dumps(config))
    _with_token(models[2], "<|new|>", 320)
    names = tuple(map(str, models[1:]))
    with pytest.raises(UnsupportedModelError, match="--tokenizer union"):
        merge(MergeRecipe("linear", names), tmp_path / "out", Settings.from_env())
    assert not (tmp_path / "out").exists()
    found = _merged(MergeRecipe("linear", names, tokenizer="union"), tmp_path / "out")
    a = load_file(models[1] / "model.safetensors")
    name = "model.embed_tokens.weight"
    assert found[name].shape == (321, 64)
    assert np.allclose(found[name][:320], (a[name] + grown[name][:320]) / 2, atol=1e-6)
    assert np.allclose(found[name][320], grown[name][320], atol=1e-6)
    with open_model(tmp_path / "out") as made:
        assert made.config.vocab_size == 321


def test_what_a_killed_run_left_is_not_in_the_result(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "model.safetensors.1-a.part").write_bytes(b"half")
    merge(MergeRecipe("linear", tuple(map(str, models[:2]))), tmp_path / "out", Settings.from_env())
    assert not (tmp_path / "out.part").exists()
    assert not list((tmp_path / "out").glob("*.part"))


def test_models_that_do_not_fit_are_refused_before_any_work(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    wide = make_tiny_folder(tmp_path, "llama", seed=8, intermediate_size=160)
    tied = make_tiny_folder(tmp_path, "llama", seed=9, tie_word_embeddings=True)
    other = make_tiny_folder(tmp_path, "qwen3")
    vocabulary = _near(models[0], tmp_path / "c", 3)
    values = json.loads((vocabulary / "tokenizer.json").read_text())
    values["model"]["merges"] = values["model"]["merges"][::-1]
    (vocabulary / "tokenizer.json").write_text(json.dumps(values))
    cases: list[tuple[Path, str, str]] = [
        (wide, "same", "merge models of one size"),
        (tied, "same", "an output matrix of its own"),
        (other, "same", "merge models of one architecture"),
        (vocabulary, "same", "another tokenizer"),
        (vocabulary, "union", "cut texts in other ways"),
    ]
    for place, tokenizer, message in cases:
        with pytest.raises(UnsupportedModelError, match=message):
            merge(MergeRecipe("linear", (str(models[0]), str(place)), tokenizer=tokenizer), out, Settings.from_env())
        assert not out.exists()
        assert not list(tmp_path.glob("*.part"))
    out.mkdir()
    with pytest.raises(RequestError, match="there already"):
        merge(MergeRecipe("linear", tuple(map(str, models[:2]))), out, Settings.from_env())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "slerp", "models": ("a", "b", "c")}, "slerp merges two models"),
        ({"method": "ties", "models": ("a",)}, "needs a base"),
        ({"method": "linear", "models": ("a", "b"), "base": "c"}, "has no base"),
        ({"method": "linear", "models": ("a",)}, "2 to 16 models"),
        ({"method": "linear", "models": ("a", "b"), "weights": ((1.0,), (-1.0,))}, "sum to 0"),
        ({"method": "linear", "models": ("a", "b"), "densities": (0.5,)}, "has no densities"),
        ({"method": "ties", "models": ("a", "b"), "base": "c", "densities": (1.5,)}, "above 0 and at most 1"),
        ({"method": "linear", "models": ("a", "b"), "weights": ((1.0,), (1.0,), (1.0,))}, "one for all models or 2"),
        ({"method": "slerp", "models": ("a", "b"), "weights": ((1.0,),)}, "t instead of weights"),
        ({"method": "slerp", "models": ("a", "b"), "t": (1.5,)}, "between 0"),
        ({"method": "linear", "models": ("a", "b"), "scale": float("nan")}, "must be numbers"),
        ({"method": "median", "models": ("a", "b")}, "no method is called"),
    ],
)
def test_recipes_that_contradict_themselves(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MiaotuiError, match=message):
        MergeRecipe(**values)


def test_a_full_disk_is_noticed_before_the_work(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(CacheError, match="free"):
        merge(MergeRecipe("linear", tuple(map(str, models[:2]))), tmp_path / "out", Settings.from_env())
    assert not list(tmp_path.glob("out*"))
