"""Classifiers over a tiny random encoder: wrong rows fail alone, and results say what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from miaotui.encoder import Encoder
from miaotui.errors import DeadlineUnattainableError, FieldError, RequestError
from miaotui.tasks import Classifier, SentimentClassifier, calls, classify, fit, sentiment
from miaotui.tasks.word_effects import placed_words
from tiny_encoder_models import make_encoder_folder, open_tiny
from tiny_engine import settings_in

CATS = ["the cat sat", "a cat on the mat", "cat cat", "one cat is good", "the cat is on the mat"]
PINGS = ["ping pong", "pong ping ping", "ping", "pong pong pong", "ping is pong"]
TEXTS, LABELS = [*CATS, *PINGS], ["animal"] * 5 + ["game"] * 5


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    folder = tmp_path_factory.mktemp("encoders")
    with open_tiny(make_encoder_folder(folder, "embed"), settings_in(folder)) as opened:
        yield opened


@pytest.fixture(scope="module")
def classifier(encoder: Encoder) -> Classifier:
    return Classifier.fit(encoder, TEXTS, LABELS)


def test_a_head_learns_its_examples(classifier: Classifier) -> None:
    found = classifier.classify(TEXTS)
    assert [each.label for each in found] == LABELS
    for index, each in enumerate(found):
        assert each.index == index
        assert each.source == "examples"
        assert each.model == "embed-0"
        assert each.calibrated
        assert each.took_ms > 0
        assert each.probability == max(each.scores.values())
        assert sum(each.scores.values()) == pytest.approx(1.0)


def test_a_texts_result_does_not_depend_on_the_others(classifier: Classifier) -> None:
    together = classifier.classify(TEXTS)
    alone = [classifier.classify(text)[0] for text in TEXTS]
    assert [each.scores for each in together] == [each.scores for each in alone]


def test_wrong_texts_fail_alone(classifier: Classifier) -> None:
    given = ["the cat", "", "   ", None, "\ud800", "ping"]
    found = classifier.classify(given, first=10)  # type: ignore[arg-type]
    assert [each.error is None for each in found] == [True, False, False, False, False, True]
    assert found[1].error == "texts[11]: must not be empty"
    assert found[3].error == "texts[13]: must be a text, not NoneType"
    assert "texts[14]" in str(found[4].error)
    assert found[1].label is None
    assert not found[1].abstained
    assert found[5].index == 15
    assert [each.error is None for each in classifier.classify(["", ""])] == [False, False]
    assert classifier.classify([]) == []


def test_long_texts_are_cut_and_it_is_told(classifier: Classifier) -> None:
    (found,) = classifier.classify("cat " * 100)
    assert found.dropped_tokens == 22
    assert found.to_json()["dropped_tokens"] == 22
    assert "error" not in found.to_json()


def test_below_the_threshold_it_abstains(classifier: Classifier) -> None:
    (found,) = classifier.classify("the cat", threshold=1.0)
    assert found.label is None
    assert found.abstained
    assert found.best in ("animal", "game")


def test_wrong_examples_are_left_out_one_by_one(encoder: Encoder) -> None:
    texts = [*TEXTS, "", "dog", "ping", None]
    labels = [*LABELS, "animal", "", "animal", "game"]
    found = Classifier.fit(encoder, texts, labels)  # type: ignore[arg-type]
    assert [(error.index, error.reason.split(":")[0]) for error in found.errors] == [
        (10, "texts[10]"),
        (11, "labels[11]"),
        (12, "labels[12]"),
        (13, "texts[13]"),
    ]
    assert "'game' in row 7" in found.errors[2].reason
    assert found.classify(TEXTS)[0].label == "animal"
    with pytest.raises(FieldError, match="has 1 labels for 2 texts"):
        Classifier.fit(encoder, ["a", "b"], ["c"])
    with pytest.raises(FieldError, match="2 to 4,096 labels"):
        Classifier.fit(encoder, ["cat", "dog"], ["a", "a"])


def test_one_more_example_and_a_file(encoder: Encoder, tmp_path: Path) -> None:
    found = Classifier.fit(encoder, TEXTS, LABELS)
    found.learn("你好 我们", "greeting")
    assert found.classify("你好 我们")[0].label == "greeting"
    found.save(tmp_path / "head.json")
    again = Classifier.load(tmp_path / "head.json", encoder)
    assert [each.scores for each in again.classify(TEXTS)] == [each.scores for each in found.classify(TEXTS)]
    with pytest.raises(RequestError, match=r"texts\[0\]: must not be empty"):
        found.learn("", "greeting")


def test_a_head_of_another_encoder_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    head = Classifier.fit(encoder, TEXTS, LABELS).head
    with (
        open_tiny(make_encoder_folder(tmp_path, "embed", seed=5), settings_in(tmp_path)) as other,
        pytest.raises(RequestError, match="the head was made with embed-0"),
    ):
        Classifier(other, head)


def test_descriptions_count_beside_examples(encoder: Encoder, tmp_path: Path) -> None:
    about = {"a": ["the cat sat", "a cat"], "b": "ping pong", "unused": "nothing"}
    classifier = Classifier.fit(encoder, ["cat", "pong"], ["a", "b"], descriptions=about)
    assert classifier.head.labels == ("a", "b")
    assert classifier.head.n_names == 0 or classifier.head.targets[:3].tolist() == [0, 0, 1]
    few = Classifier.fit(encoder, ["cat", "cat cat", "pong", "ping"], ["a", "a", "b", "b"], descriptions=about)
    assert few.head.n_names in (0, 3)
    few.save(tmp_path / "head.json")
    again = Classifier.load(tmp_path / "head.json", encoder)
    assert again.classify("the cat")[0].scores == few.classify("the cat")[0].scores
    with pytest.raises(FieldError, match="a description must be a text"):
        Classifier.fit(encoder, ["cat", "pong"], ["a", "b"], descriptions={"a": [""]})


def test_names_and_descriptions_need_no_examples(encoder: Encoder) -> None:
    by_name = Classifier.from_names(encoder, ["cat", "ping_pong"])
    assert by_name.classify("cat")[0].label == "cat"
    assert by_name.classify("ping pong")[0].label == "ping_pong"
    assert by_name.classify("cat")[0].source == "label names"
    assert not by_name.classify("cat")[0].calibrated
    by_name.calibrate(TEXTS, ["cat"] * 5 + ["ping_pong"] * 5)
    assert by_name.classify("cat")[0].calibrated
    described = Classifier.from_names(encoder, {"a": ["the cat sat", "cat"], "b": "ping pong", "c": None})
    assert described.classify("the cat sat")[0].label == "a"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], r"labels\[1\]: 'a' is there twice: labels\[0\] is the first"),
        (["a", ""], r"labels\[1\]: must be a text"),
        (["a", None], r"labels\[1\]: must be a text"),
        (["a"], "2 to 4,096 labels"),
        ("ab", "give a list of names"),
        ({"a": "x", "b": [""]}, "a description must be a text"),
    ],
)
def test_labels_missing_or_twice(encoder: Encoder, labels: object, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Classifier.from_names(encoder, labels)  # type: ignore[arg-type]


def test_a_deadline_that_cannot_be_met_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DeadlineUnattainableError):
        classifier.classify(TEXTS * 20, deadline_ms=0.01)


# calls ------------------------------------------------------------------------------------------------


def test_calls_take_one_of_labels_examples_and_a_head(encoder: Encoder, tmp_path: Path) -> None:
    pairs = list(zip(TEXTS, LABELS, strict=True))
    assert classify("cat cat", examples=pairs, model=encoder)[0].label == "animal"
    assert classify(["cat"], ["cat", "pong"], model=encoder)[0].label == "cat"
    head = fit(TEXTS, LABELS, model=encoder, save=tmp_path / "head.json")
    assert classify("ping pong", head=head, model=encoder)[0].label == "game"
    assert classify("ping pong", head=tmp_path / "head.json", model=encoder)[0].label == "game"
    for wrong in ({}, {"labels": ["a", "b"], "examples": pairs}, {"labels": ["a", "b"], "head": head}):
        with pytest.raises(FieldError, match="give one of labels, examples and head"):
            classify("cat", model=encoder, **wrong)  # type: ignore[arg-type]


def test_the_encoder_is_chosen_by_the_script() -> None:
    assert calls.encoder_for(["a cat", "naïve café"]) == "all-minilm-l6-v2"
    assert calls.encoder_for(["a cat", "你好"]) == "embedder"
    assert calls.encoder_for(["кошка"]) == "embedder"


# sentiment --------------------------------------------------------------------------------------------


def test_the_word_that_carries_it_has_the_greatest_effect(encoder: Encoder) -> None:
    found = SentimentClassifier.fit(encoder, TEXTS, ["positive"] * 5 + ["negative"] * 5)
    (each,) = found.sentiments("the cat, ping", words=3)
    assert {word.word for word in each.words} == {"the", "cat", "ping"}
    effects = [abs(word.effect) for word in each.words]
    assert effects == sorted(effects, reverse=True)
    for word in each.words:
        assert "the cat, ping"[word.start : word.end] == word.word
        without = "the cat, ping"[: word.start] + "the cat, ping"[word.end :]
        odds = [
            np.log(row / (1 - row)) for row in (each.probability, found.classify(without)[0].scores[each.best or ""])
        ]
        assert word.effect == pytest.approx(odds[0] - odds[1], abs=1e-4)
    assert "words" in each.to_json()


def test_texts_between_two_sentiments_are_neutral(encoder: Encoder) -> None:
    found = SentimentClassifier.fit(encoder, TEXTS, ["positive"] * 5 + ["negative"] * 5)
    sure, unsure = found.sentiments("cat cat", neutral_below=0.0)[0], found.sentiments("cat cat", neutral_below=1.0)[0]
    assert sure.label == "positive"
    assert unsure.label == "neutral"
    assert unsure.best == "positive"
    three = SentimentClassifier.fit(
        encoder, [*TEXTS, "dog", "dog dog"], [*["positive"] * 5, *["negative"] * 5, *["neutral"] * 2]
    )
    assert three.sentiments("cat cat", neutral_below=1.0)[0].label != "neutral"
    assert three.sentiments("dog dog")[0].label == "neutral"
    with pytest.raises(FieldError, match="from 0 to 1"):
        found.sentiments("cat", neutral_below=2.0)


def test_sentiment_without_examples(encoder: Encoder) -> None:
    found = sentiment(["the cat", ""], model=encoder, words=1)
    assert found[0].label in ("positive", "negative", "neutral")
    assert len(found[0].words) == 1
    assert found[1].error is not None
    with pytest.raises(FieldError, match="not both"):
        sentiment("x", examples=[("a", "positive")], head="somewhere", model=encoder)


def test_words_have_their_places() -> None:
    text = "It's not good：服务很好！well-made 2x"
    found = placed_words(text)
    assert [text[word.start : word.end] for word in found] == [word.text for word in found]
    assert [word.text for word in found][:3] == ["It's", "not", "good"]
    assert "".join(word.text for word in found if word.text > "\u3400") == "服务很好"
    assert [word.text for word in found][-2:] == ["well-made", "2x"]
    assert placed_words(" ...") == []
