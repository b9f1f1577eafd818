"""Heads over vectors: what they learn on clouds that can be told apart, and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import FieldError, ModelFormatError, ModelNotFoundError
from miaotui.tasks.calibration import CalibrationReport
from miaotui.tasks.heads.head import ClassifierHead, fit_head, head_of_names, unit
from miaotui.tasks.heads.head_file import load_head, save_head
from miaotui.tasks.heads.kernel_ridge import KernelLayer, fit_kernel, fit_kernels
from miaotui.tasks.heads.logistic import Linear, fit_logistic, minimize
from miaotui.tasks.heads.selection import (
    MOST_KERNEL_ROWS,
    ChosenLayer,
    NameRows,
    balance,
    choose_layer,
    fold_numbers,
    heaviest,
)

Floats = np.ndarray[Any, np.dtype[np.float32]]
LABELS = ["news", "sport", "weather", "food"]


def clouds(seed: int, each: int, noise: float = 0.6, width: int = 24, labels: int = 4) -> tuple[Floats, list[str]]:
    """Unit vectors around one centre for each label; the centres are those of seed 0, whatever the seed."""
    centres = np.random.default_rng(0).standard_normal((labels, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rng = np.random.default_rng(seed + 1)
    rows = np.repeat(centres, each, axis=0) + noise * rng.standard_normal((labels * each, width)) / np.sqrt(width)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), [LABELS[place] for place in range(labels) for _ in range(each)]


def fitted(seed: int = 1, each: int = 20, **options: Any) -> ClassifierHead:
    vectors, labels = clouds(seed, each, **options)
    return fit_head(vectors, labels, encoder="tiny", prompt=None)


def right(head: ClassifierHead, vectors: Floats, labels: list[str]) -> float:
    best = head.probabilities(vectors).argmax(axis=1)
    return float(np.mean([head.labels[place] == label for place, label in zip(best, labels, strict=True)]))


def test_clouds_are_told_apart_with_calibrated_probabilities() -> None:
    head = fitted(each=30, noise=1.5)
    vectors, labels = clouds(9, 300, noise=1.5)
    assert right(head, vectors, labels) > 0.88
    assert head.calibrated
    targets = [head.labels.index(label) for label in labels]
    assert head.calibrate(vectors, labels).held_out is not None
    sure = head.probabilities(vectors).max(axis=1).mean()
    hits = (head.probabilities(vectors).argmax(axis=1) == targets).mean()
    assert sure == pytest.approx(hits, abs=0.06)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_gradient_is_that_of_the_loss(seed: int) -> None:
    """At the end of a fit no small step in any direction lowers the loss."""
    rng = np.random.default_rng(seed)
    vectors, targets = rng.standard_normal((40, 5)).astype(np.float32), rng.integers(0, 3, 40)
    penalty = 0.05
    layer = fit_logistic(vectors, targets, 3, penalty)

    def loss(weights: Floats, bias: Floats) -> float:
        logits = (vectors @ weights.T + bias).astype(np.float64)
        total = np.log(np.exp(logits).sum(axis=1))
        return float((total - logits[np.arange(40), targets]).mean() + penalty / 2 * np.square(weights).sum())

    least = loss(*layer)
    for _ in range(10):
        moved = layer.weights + 0.02 * rng.standard_normal(layer.weights.shape)
        assert loss(moved, layer.bias) > least - 1e-6


def test_the_minimum_of_a_long_valley_is_found() -> None:
    scale = np.array([1.0, 100.0, 0.1], np.float32)
    target = np.array([3.0, -2.0, 5.0], np.float32)
    found = minimize(
        lambda at: (float(0.5 * scale @ np.square(at - target)), scale * (at - target)), np.zeros(3, np.float32)
    )
    assert found == pytest.approx(target, abs=0.01)


def test_a_fit_is_the_same_each_time() -> None:
    one, other = fitted(), fitted()
    assert one.layer.weights.tobytes() == other.layer.weights.tobytes()
    assert one.temperature == other.temperature


def test_a_vectors_answer_does_not_depend_on_the_others() -> None:
    head = fitted()
    vectors, _ = clouds(5, 8)
    together = head.probabilities(vectors)
    alone = np.concatenate([head.probabilities(vector[None]) for vector in vectors])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("count", [1, 3, 15, 16, 17, 40])
def test_a_rows_bytes_do_not_depend_on_its_place(count: int) -> None:
    head = fitted()
    vectors, _ = clouds(5, 10)
    whole = head.probabilities(vectors)
    turned = head.probabilities(np.ascontiguousarray(vectors[::-1][:count]))
    assert turned.tobytes() == np.ascontiguousarray(whole[::-1][:count]).tobytes()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), penalty=st.sampled_from([0.03, 0.3]))
def test_a_held_out_row_is_the_answer_of_a_fit_without_it(seed: int, penalty: float) -> None:
    vectors, labels = clouds(seed, 4)
    targets = np.array([LABELS.index(each) for each in labels])
    weight = np.random.default_rng(seed).uniform(0.5, 2.0, len(targets)).astype(np.float32)
    (fit,) = fit_kernels(vectors, targets, 4, 2.0, [penalty], weight)
    whole = fit_kernel(vectors, targets, 4, 2.0, penalty, weight)
    assert fit.layer.weights == pytest.approx(whole.weights, abs=1e-5)
    row = seed % len(targets)
    rest = np.delete(np.arange(len(targets)), row)
    share = weight / weight.mean()
    near = np.exp(2.0 * (vectors[rest] @ vectors[rest].T - 1.0))
    wanted = np.eye(4)[targets] - whole.bias
    without = np.linalg.solve(near + penalty * np.diag(1.0 / share[rest]), wanted[rest])
    answer = np.exp(2.0 * (vectors[rest] @ vectors[row] - 1.0)) @ without + whole.bias
    assert answer == pytest.approx(fit.held_out[row], abs=1e-3)


def test_few_examples_make_a_kernel_and_many_a_line() -> None:
    assert isinstance(fitted(each=10).layer, KernelLayer)
    vectors, labels = clouds(1, MOST_KERNEL_ROWS // 4 + 1)
    head = fit_head(vectors, labels, encoder="tiny", prompt=None)
    assert isinstance(head.layer, Linear)
    assert right(head, *clouds(2, 50)) > 0.95


def test_names_of_labels_help_few_examples() -> None:
    names, _ = clouds(0, 1, noise=0.1)
    vectors, labels = clouds(3, 2, noise=3.0)
    targets = np.array([LABELS.index(each) for each in labels])
    chosen = choose_layer(vectors, targets, 4, NameRows(names, np.arange(4)))
    assert chosen.n_names == 4
    held, wanted = clouds(4, 100, noise=1.5)
    without = choose_layer(vectors, targets, 4)
    places = np.array([LABELS.index(each) for each in wanted])
    share = [float((each.layer.logits(held).argmax(axis=1) == places).mean()) for each in (chosen, without)]
    assert share[0] > share[1]


def test_names_that_say_nothing_are_left_out() -> None:
    wrong, _ = clouds(0, 1, noise=0.1)
    vectors, labels = clouds(3, 20, noise=1.5)
    targets = np.array([LABELS.index(each) for each in labels])
    assert choose_layer(vectors, targets, 4, NameRows(np.roll(wrong, 1, axis=0), np.arange(4))).n_names == 0


def test_several_descriptions_of_a_label_count_together() -> None:
    names, _ = clouds(0, 1, noise=0.1)
    more, _ = clouds(1, 1, noise=0.6)
    vectors, labels = clouds(3, 2, noise=3.0)
    described = {name: np.stack([names[at], more[at]]) for at, name in enumerate(LABELS)}
    described[LABELS[0]] = described[LABELS[0]][:1]
    head = fit_head(vectors, labels, encoder="tiny", prompt=None, names=described)
    assert head.n_names == 7
    assert head.targets[:7].tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert right(head, *clouds(4, 100, noise=1.5)) > right(fitted(each=2), *clouds(4, 100, noise=1.5)) - 0.05
    assert head.learn(vectors[:1], labels[:1]).n_names == 7


@pytest.mark.parametrize(("n", "weight"), [(10, 16.0), (4000, 1.0)])
def test_few_examples_do_not_outvote_names(n: int, weight: float) -> None:
    """Of weights whose losses cannot be told apart the greatest is taken; many examples tell them apart."""
    layer = fitted(each=2).layer
    found = []
    for name_weight, loss, swing in ((0.0, 0.9, 0.2), (1.0, 0.5, -0.2), (16.0, 0.52, 0.2), (64.0, 2.0, 0.2)):
        losses = loss + np.resize([swing, -swing], n)
        figures = CalibrationReport(n, 0.5, 0.0, float(losses.mean()))
        found.append(ChosenLayer(layer, 1.0, 1.0, figures, 4, name_weight, losses))
    assert heaviest(found).name_weight == weight
    useless = found[0]._replace(held_out=CalibrationReport(n, 0.5, 0.0, 0.1))
    assert heaviest([useless, *found[1:]]).name_weight == 0.0


def test_rare_labels_weigh_more() -> None:
    weight = balance(np.array([0, 0, 0, 0, 1]))
    assert weight[4] == pytest.approx(2 * weight[0])


def test_one_more_example_is_learned_at_once() -> None:
    head = fitted(each=6)
    odd = unit(np.random.default_rng(77).standard_normal(24).astype(np.float32))
    learned = head.learn(odd[None], ["odd"])
    assert learned.labels == (*head.labels, "odd")
    assert learned.labels[int(learned.probabilities(odd[None]).argmax())] == "odd"
    vectors, labels = clouds(9, 20)
    assert right(learned, vectors, labels) > 0.95
    assert head.labels == tuple(LABELS), "the head that was given is as it was"


def test_a_label_that_comes_later_weighs_as_much_as_names() -> None:
    names, _ = clouds(0, 1, noise=0.1)
    vectors, labels = clouds(3, 2, noise=0.5)
    known = dict(zip(LABELS, names, strict=True))
    head = replace(fit_head(vectors, labels, encoder="tiny", prompt=None, names=known), name_weight=16.0)
    odd = unit(np.random.default_rng(77).standard_normal(24).astype(np.float32))
    learned = head.learn(odd[None], ["odd"])
    near = unit(odd + 0.1 * vectors[0])
    assert learned.labels[int(learned.probabilities(near[None]).argmax())] == "odd"


def test_a_wrong_answer_is_mended_by_examples() -> None:
    head = fitted(each=3)
    vectors, _ = clouds(4, 1, noise=0.1)
    wrong = vectors[0]  # near the first label's centre, and said to be the second
    learned = head.learn(np.stack([wrong] * 8), [LABELS[1]] * 8)
    assert learned.labels[int(learned.probabilities(wrong[None]).argmax())] == LABELS[1]


def test_label_names_make_a_head_that_learns() -> None:
    vectors, _ = clouds(1, 1, noise=0.3)
    head = head_of_names(dict(zip(LABELS, vectors[:, None], strict=True)), encoder="tiny", prompt=None)
    held, labels = clouds(2, 10)
    assert right(head, held, labels) > 0.9
    assert not head.calibrated
    calibrated = head.calibrate(held, labels)
    assert calibrated.calibrated
    assert calibrated.temperature != head.temperature
    assert head.learn(held, labels).source == "examples"


def test_folds_hold_out_every_example_of_labels_with_two() -> None:
    folds = fold_numbers(np.array([0, 0, 0, 1, 1, 2]))
    assert folds[5] == -1
    assert (folds[:5] >= 0).all()
    for label in ([0, 1, 2], [3, 4]):
        assert len({int(folds[place]) for place in label}) == len(label)
    assert (fold_numbers(np.array([0, 1, 2])) == -1).all()


def test_one_example_of_each_label_is_enough_and_not_calibrated() -> None:
    head = fitted(each=1, noise=0.1)
    assert not head.calibrated
    assert right(head, *clouds(3, 5, noise=0.1)) == 1.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "must name 2 to 4,096 labels, not 1"),
        (["a", ""], "labels\\[1\\]: must be a text that is not empty"),
        (["a", "b" * 600], "has 600 characters"),
    ],
)
def test_labels_that_cannot_be(labels: list[str], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        fit_head(np.eye(2, dtype=np.float32), labels, encoder="tiny", prompt=None)


# files ------------------------------------------------------------------------------------------------


def test_a_saved_head_answers_and_learns_as_before(tmp_path: Path) -> None:
    head = fitted()
    save_head(head, tmp_path / "head.json")
    loaded = load_head(tmp_path / "head.json")
    vectors, labels = clouds(6, 5)
    assert loaded.probabilities(vectors).tobytes() == head.probabilities(vectors).tobytes()
    assert loaded.held_out == head.held_out
    one, other = head.learn(vectors, labels), loaded.learn(vectors, labels)
    assert one.layer.weights.tobytes() == other.layer.weights.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 9},
        {"labels": ["a"]},
        {"labels": ["news", "sport", "weather", "weather"]},
        {"labels": None},
        {"width": 3},
        {"width": True},
        {"width": 1 << 40},
        {"weights": "AAAA"},
        {"weights": "no base64!"},
        {"weights": 5},
        {"bias": ""},
        {"gamma": 0},
        {"gamma": "1"},
        {"gamma": None},
        {"names": -1},
        {"names": 1 << 40},
        {"names": None},
        {"temperature": 0},
        {"temperature": "1"},
        {"temperature": None},
        {"source": "somewhere"},
        {"encoder": 3},
        {"targets": "//8="},
        {"held_out": {"n": 1}},
    ],
)
def test_a_file_that_does_not_fit_itself_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "head.json"
    save_head(fitted(each=3), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelFormatError):
        load_head(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.sampled_from([b"{}", b"[]", b'{"format": "miaotui-classifier"}']))
def test_other_files_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "other.json"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError):
        load_head(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_head(tmp_path / "nowhere.json")
