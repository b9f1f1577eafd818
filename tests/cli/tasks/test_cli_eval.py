"""``miaotui eval``: quality beside speed, rivals in the same run, and files that cannot be scored."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import miaotui
from miaotui.bench.evaluation import evaluate
from miaotui.bench.scores import (
    ScoredItem,
    accuracy,
    calibration_error,
    field_metrics,
    label_metrics,
    macro_f1,
    scored,
    summary_metrics,
    text_metrics,
    translation_metrics,
)
from miaotui.cli import main
from miaotui.errors import RequestError
from tiny_models import make_tiny_folder


def labelled(*pairs: tuple[str, str, float]) -> list[ScoredItem]:
    return [ScoredItem(answer, (right,), probability) for answer, right, probability in pairs]


ITEMS = labelled(("a", "a", 0.9), ("a", "a", 0.8), ("a", "b", 0.6), ("b", "b", 0.7), ("c", "b", 0.2))


def test_metrics_of_labels_are_those_of_their_definitions() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    given, right = [item.answer for item in ITEMS], [item.references[0] for item in ITEMS]
    assert accuracy(ITEMS) == pytest.approx(3 / 5)
    expected = sklearn.f1_score(right, given, labels=sorted(set(right)), average="macro", zero_division=0)
    assert macro_f1(ITEMS) == pytest.approx(expected)
    assert calibration_error(ITEMS) == pytest.approx((0.1 + 0.2 + 0.6 + 0.3 + 0.2) / 5)


def test_an_answer_that_is_missing_is_wrong() -> None:
    assert accuracy([ScoredItem(None, ("a",)), ScoredItem("a", ("a",))]) == 0.5


def test_intervals_hold_the_value_and_depend_on_the_seed_alone() -> None:
    metrics = label_metrics(ITEMS)
    once, again = scored(metrics, ITEMS, seed=3), scored(metrics, ITEMS, seed=3)
    assert once == again
    assert all(each.low <= each.value <= each.high for name, each in once.items() if name == "accuracy")


def test_translations_are_scored_as_sacrebleu_scores_them() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    metrics, signatures = translation_metrics("en")
    items = [ScoredItem("the cat sat on a mat", ("the cat sat on the mat",)), ScoredItem(None, ("hello there",))]
    answers, references = ["the cat sat on a mat", ""], [["the cat sat on the mat", "hello there"]]
    assert metrics["BLEU"](items) == pytest.approx(sacrebleu.corpus_bleu(answers, references).score)
    assert metrics["chrF"](items) == pytest.approx(sacrebleu.corpus_chrf(answers, references).score)
    assert "version" in signatures["BLEU"]


def test_summaries_take_the_best_reference() -> None:
    pytest.importorskip("rouge_score")
    rouge = summary_metrics(chinese=False)["ROUGE-1"]
    assert rouge([ScoredItem("one two", ("three four", "one two"))]) == pytest.approx(1.0)
    chinese = summary_metrics(chinese=True)["ROUGE-L"]
    assert chinese([ScoredItem("今天天气很好", ("今天天气很好",))]) == pytest.approx(1.0)


def test_values_are_right_field_by_field() -> None:
    items = [
        ScoredItem('{"a": 1, "b": null}', ('{"a": 1, "b": null}',)),
        ScoredItem('{"a": 1, "b": ["x"]}', ('{"a": 2, "b": ["x"]}',)),
        ScoredItem(None, ('{"a": 1}',)),
    ]
    metrics = field_metrics(items)
    assert metrics["field accuracy"](items) == pytest.approx(3 / 5)
    assert metrics["all fields"](items) == pytest.approx(1 / 3)


@pytest.mark.parametrize("task", ["decide", "extract", "generate"])
def test_tasks_of_chat_models(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way through a tiny random model: its quality is printed beside its speed, whatever it is."""
    pytest.importorskip("rouge_score")
    monkeypatch.setattr("miaotui.tasks.writing.open.load", partial(miaotui.load, backend="reference"))
    schema = {"type": "object", "properties": {"animal": {"type": "string"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    row = {"text": "a cat", "label": "it", "reference": "a cat", "values": {"animal": "cat"}}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"label": "an"}) + "\n")
    words = ["--model", str(make_tiny_folder(tmp_path, "llama")), "--alone", "1"]
    if task == "extract":
        assert main(["eval", task, str(path), *words]) == 1
        assert "--schema is needed" in capsys.readouterr().err
        words += ["--schema", str(tmp_path / "schema.json")]
    if task == "generate":  # its context is too short for an answer: no quality, so no speed
        assert main(["eval", task, str(path), *words]) == 1
        assert "answered none of 2 rows" in capsys.readouterr().err
        return
    assert main(["eval", task, str(path), *words]) == 0
    found = json.loads(capsys.readouterr().out.rstrip().rsplit("\n", 1)[1])
    (way,) = found["ways"]
    assert found["protocol"]["rows"] == way["items"] == 2
    metric = {"decide": "accuracy", "extract": "field accuracy"}[task]
    assert 0 <= way["quality"][metric]["value"] <= 1
    assert way["items_per_s"] > 0


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    metrics = text_metrics()
    items = [ScoredItem(nats=2.0, tokens=2, size_bytes=4), ScoredItem(nats=4.0, tokens=1, size_bytes=2)]
    assert metrics["perplexity"](items) == pytest.approx(7.389056)
    assert metrics["bits per byte"](items) == pytest.approx(6.0 / 0.693147 / 6, rel=1e-5)


def test_no_speed_without_quality() -> None:
    rows = [("x", ("a",))] * 3
    with pytest.raises(RequestError, match="a speed is only printed with its quality"):
        evaluate("nothing", lambda texts: [ScoredItem() for _ in texts], rows, label_metrics)
    with pytest.raises(RequestError, match="no rows"):
        evaluate("nothing", lambda texts: [], [], label_metrics)


def test_a_way_is_scored_and_timed() -> None:
    rows = [("x", ("a",)), ("y", ("b",))]
    way = evaluate("all a", lambda texts: [ScoredItem("a") for _ in texts], rows, label_metrics, alone=2)
    assert way.quality["accuracy"].value == 0.5
    assert way.items == 2
    assert 0 <= way.p50_s <= way.p99_s
    assert way.items_per_s > 0


def test_summaries_beside_the_lead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rouge_score")
    path = tmp_path / "papers.jsonl"
    texts = ["Trams were late. The new line opened in May. It was expensive.", "Rain fell. The match was ended early."]
    rows = [{"text": text, "reference": [text.split(". ")[1]]} for text in texts] + [{"text": "No right answer here."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["eval", "summarize", str(path), "--sentences", "1", "--against", "lead"]) == 0
    shown = capsys.readouterr()
    table, line = shown.out.rstrip().rsplit("\n", 1)
    assert "ROUGE-L" in table
    assert "p99 [ms]" in table
    found = json.loads(line)
    assert [way["name"] for way in found["ways"]] == ["default", "lead"]
    assert found["protocol"]["rows"] == 2
    assert "row 3: has no 'reference': left out" in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["guess", "FILE"], "there is no evaluation of 'guess'"),
        (["translate", "FILE"], "--to is needed"),
        (["classify", "FILE", "--against", "tfidf", "--model", "MISSING"], "MISSING"),
        (["classify", "NONE"], "cannot be read"),
        (["classify", "EMPTY"], "a speed is only printed with its quality"),
    ],
)
def test_faults_are_named(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sacrebleu")
    good, empty = tmp_path / "rows.jsonl", tmp_path / "empty.jsonl"
    good.write_text('{"text": "x", "label": "a", "reference": "b"}\n', encoding="utf-8")
    empty.write_text('{"text": "x"}\n', encoding="utf-8")
    places = {"FILE": str(good), "EMPTY": str(empty), "NONE": str(tmp_path / "none.jsonl")}
    assert main(["eval", *(places.get(word, word) for word in words)]) == 1
    assert said in capsys.readouterr().err
