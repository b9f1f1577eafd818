"""Sources of decisions: likeness of an input to options, and the weights of likeness and logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miaotui
from miaotui.encoder import Encoder
from miaotui.errors import FieldError, MiaotuiError
from miaotui.llm import LLM
from miaotui.tasks import ChoiceQuestion, Decider, OptionEncoder, YesNoQuestion
from miaotui.tasks.decisions.likeness import likeness, option_phrases
from miaotui.tasks.decisions.questions import read_question
from miaotui.tasks.decisions.weights import (
    USUAL_WEIGHTS,
    SourcedOptions,
    SourceWeights,
    fit_weights,
    kind_of,
    logits_of,
    weights_for,
)
from tiny_encoder_models import make_encoder_folder, open_tiny
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

ABOUT = ChoiceQuestion("What is it?", {"cat": None, "ping_pong": "a game"})


def units(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_option_has_two_phrases() -> None:
    read = read_question("0", ABOUT)
    assert option_phrases(read) == ["cat", "What is it? cat", "ping pong: a game", "What is it? ping pong: a game"]


@given(seed=st.integers(0, 1000), options=st.integers(2, 6))
def test_likeness_is_of_the_options_alone(seed: int, options: int) -> None:
    """The sum is zero; the order changes nothing; a direction that all vectors share changes nothing."""
    vectors = units(2 * options + 1, seed)
    text, phrases = vectors[0], vectors[1:]
    found = likeness(text, phrases)
    assert sum(found) == pytest.approx(0.0, abs=1e-6)
    turned = phrases.reshape(options, 2, 8)[::-1].reshape(2 * options, 8)
    assert likeness(text, turned) == pytest.approx(found[::-1], abs=1e-6)
    shared = np.pad(phrases, ((0, 0), (0, 1)), constant_values=3.0)
    assert likeness(np.pad(text, (0, 1), constant_values=1.0), shared) == pytest.approx(found, abs=1e-5)


def test_likeness_to_two_options_is_at_most_one() -> None:
    phrases = units(4, 1)
    options = phrases.reshape(2, 2, 8).mean(axis=1)
    along = (options[0] - options[1]) / np.linalg.norm(options[0] - options[1])
    first, second = likeness(along, phrases)
    assert first - second == pytest.approx(1.0, abs=1e-6)


def answered(n: int, logits: float, alike: float, seed: int = 0) -> list[SourcedOptions]:
    """Questions of three options whose right ones are drawn with these weights."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        own, like = rng.normal(size=3), rng.normal(size=3) / 4
        chances = np.exp(logits * own + alike * like)
        right = int(rng.choice(3, p=chances / chances.sum()))
        found.append(SourcedOptions(own.tolist(), like.tolist(), right, "choice/4"))
    return found


def test_weights_that_made_the_answers_are_found() -> None:
    weights, by_kind = fit_weights(answered(4000, 0.5, 8.0))
    assert weights == pytest.approx((0.5, 8.0), rel=0.1)
    assert by_kind["choice/4"] == pytest.approx(weights, rel=0.02)


def test_few_examples_stay_near_the_usual_weights() -> None:
    weights, _ = fit_weights(answered(1, 0.5, 8.0))
    assert weights == pytest.approx(USUAL_WEIGHTS, rel=0.7)
    rare = [each._replace(kind="choice/2") for each in answered(1, 3.0, 0.5, seed=3)]
    overall, by_kind = fit_weights([*answered(1000, 0.5, 8.0), *rare])
    assert by_kind["choice/2"] == pytest.approx(overall, rel=0.2)
    assert weights_for("score/4", overall, by_kind) == overall


def test_many_examples_of_a_kind_are_held_less() -> None:
    """Cross-validation chooses the hold: what many examples say of unseen ones, weights may follow."""
    apart = [each._replace(kind="choice/2") for each in answered(200, 0.05, 2.0, seed=3)]
    overall, by_kind = fit_weights([*answered(400, 0.5, 8.0), *apart])
    _, alone = fit_weights([each._replace(kind="choice/2") for each in answered(2000, 0.05, 2.0, seed=5)])
    assert abs(by_kind["choice/2"].likeness - alone["choice/2"].likeness) < 0.4 * abs(
        overall.likeness - alone["choice/2"].likeness
    )
    _, few = fit_weights([*answered(400, 0.5, 8.0), *apart[:8]])
    assert few["choice/2"] == pytest.approx(overall, rel=0.35)


def test_without_likeness_a_temperature_is_fitted() -> None:
    examples = [each._replace(likeness=None) for each in answered(4000, 0.5, 0.0)]
    weights, _ = fit_weights(examples)
    assert weights.logits == pytest.approx(0.5, rel=0.1)
    assert logits_of([-1.0, -2.0], None, weights) == pytest.approx([-weights.logits, -2 * weights.logits])


def test_misleading_sources_get_no_negative_weight() -> None:
    weights, _ = fit_weights(answered(300, 1.0, -9.0))
    assert weights.likeness == 0.0
    options = SourcedOptions([-math.inf, 0.0], [1.0, -1.0], 1, "choice/2")
    assert all(map(math.isfinite, fit_weights([options])[0]))


def test_kinds_share_weights_by_the_number_of_options() -> None:
    assert kind_of("choice", 2) == "choice/2"
    assert kind_of("choice", 5) == kind_of("choice", 8) == "choice/8"
    assert kind_of("score", 9) == "score/16"
    assert logits_of([1.0, 2.0], [0.5, -0.5], SourceWeights(2.0, 4.0)) == [4.0, 2.0]


# models ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with miaotui.load(make_tiny_folder(folder, "llama"), backend="reference") as opened:
        yield opened


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Iterator[Encoder]:
    with open_tiny(make_encoder_folder(folder, "embed"), settings_in(folder)) as opened:
        yield opened


def test_a_decision_with_an_encoder(llm: LLM, encoder: Encoder) -> None:
    decider = Decider(llm, encoder=encoder)
    questions = {"what": ABOUT, "bad": ChoiceQuestion("?", ["a"]), "is": YesNoQuestion("Is it a cat?")}
    what, bad, holds = decider.decide("the cat sat", questions)
    assert what.likeness is not None
    assert what.best == "cat"
    assert bad.error is not None
    assert holds.likeness is not None
    alone = Decider(llm).decide("the cat sat", ABOUT)[0]
    assert alone.likeness is None
    assert alone.log_probabilities == pytest.approx(what.log_probabilities)
    logits = logits_of(list(what.log_probabilities.values()), list(what.likeness.values()), USUAL_WEIGHTS)
    chances = np.exp(logits) / np.exp(logits).sum()
    assert list(what.probabilities.values()) == pytest.approx(chances.tolist())


def test_the_order_of_options_changes_nothing(llm: LLM, encoder: Encoder) -> None:
    decider = Decider(llm, encoder=encoder)
    names = ["cat", "ping pong", "the"]
    first = decider.decide("the cat sat", ChoiceQuestion("?", names))[0]
    second = decider.decide("the cat sat", ChoiceQuestion("?", names[::-1]))[0]
    assert second.probabilities == pytest.approx(first.probabilities)


def test_another_script_is_read_by_the_other_encoder(llm: LLM, encoder: Encoder, folder: Path) -> None:
    asked = {"0": read_question("0", ABOUT)}
    with open_tiny(make_encoder_folder(folder, "embed"), settings_in(folder)) as other:
        both = OptionEncoder(encoder, other)
        assert both.likeness("猫", asked)["0"] == pytest.approx(OptionEncoder(other).likeness("猫", asked)["0"])
    both.likeness("the cat", asked)
    with pytest.raises(MiaotuiError):  # the other one is closed
        both.likeness("猫", asked)


def test_calibration_fits_both_weights(llm: LLM, encoder: Encoder) -> None:
    decider = Decider(llm, encoder=encoder)
    examples = [(text, ABOUT, "cat" if "cat" in text else "ping_pong") for text in ("cat cat", "ping pong", "the cat")]
    report = decider.calibrate(examples * 4)
    assert report.n == 12
    assert decider.options.calibrated
    assert set(decider.options.weights_by_kind) == {"choice/2"}
    assert decider.decide("the cat", ABOUT)[0].calibrated
    with pytest.raises(FieldError, match="give at least one"):
        decider.calibrate([])
