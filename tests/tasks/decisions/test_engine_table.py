"""The engine of labels: the measured table, the choice, and engines that are named."""

from __future__ import annotations

import pytest

from miaotui.errors import FieldError
from miaotui.tasks import engine_table
from miaotui.tasks.calls import engine_for
from miaotui.tasks.engine_table import ENGINES, MeasuredEngine, choose_engine, measured_engines

ROWS = (
    MeasuredEngine("similarity", "latin", 0, "e", {"a": 0.7, "b": 0.5, "c": 1.0}, 5.0),
    MeasuredEngine("head", "latin", 8, "e", {"a": 0.8, "b": 0.6}, 6.0),
    MeasuredEngine("head", "latin", 32, "e", {"a": 0.9, "b": 0.7}, 6.0),
    MeasuredEngine("logits", "latin", 0, "m", {"a": 0.9, "b": 0.65, "c": 0.9}, 900.0),
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_table, "measured_engines", lambda: (ROWS, "a machine"))


def test_the_table_of_the_package_is_whole() -> None:
    rows, machine = measured_engines()
    assert machine
    assert {row.script for row in rows} == {"latin", "other"}
    for row in rows:
        assert row.engine in ENGINES
        assert row.accuracy
        assert all(0 < share <= 1 for share in row.accuracy.values())
        assert row.ms_per_text > 0
        assert (row.examples > 0) == (row.engine == "head")


@pytest.mark.parametrize(
    ("examples", "allowed_ms", "expected"),
    [(0, 50.0, "similarity"), (0, 2000.0, "logits"), (64, 2000.0, "head"), (16, 2000.0, "logits"), (16, 50.0, "head")],
)
def test_the_best_engine_within_the_time_is_chosen(
    table: None, examples: int, allowed_ms: float, expected: str
) -> None:
    kinds = ENGINES if examples else ("similarity", "logits")
    found = choose_engine(2, examples, is_latin=True, allowed_ms=allowed_ms, engines=kinds)
    assert found.engine == expected
    assert not found.named
    assert len([row for row in found.rows if row.engine == "head"]) == (1 if examples else 0)


def test_accuracies_are_compared_over_common_sets(table: None) -> None:
    found = choose_engine(2, 64, is_latin=True)
    assert found.sets == ("a", "b")
    assert [row.engine for row in found.rows] == ["head", "logits", "similarity"]
    first, second, *_ = found.lines()
    assert first == "engine: head (right most often within 50 ms a text; a, b; measured on a machine)"
    assert "32 examples a label  80.0% right  6.0 ms a text" in second


def test_an_engine_that_is_named_is_taken(table: None) -> None:
    found = choose_engine(2, 0, is_latin=True, engine="logits", allowed_ms=1.0)
    assert found.engine == "logits"
    assert found.lines()[0].startswith("engine: logits (named;")
    assert choose_engine(2, 0, is_latin=False, engines=("similarity", "logits")).engine == "similarity"


def test_engines_that_cannot_be(table: None) -> None:
    with pytest.raises(FieldError, match="must be one of head, similarity, logits, not 'guess'"):
        choose_engine(2, 0, is_latin=True, engine="guess")
    with pytest.raises(FieldError, match="a head needs examples"):
        choose_engine(2, 0, is_latin=True, engine="head")


def test_a_deadline_allows_each_text_its_share(table: None) -> None:
    assert engine_for(["x"], ["a", "b"]).engine == "similarity"
    assert engine_for(["x"], ["a", "b"], deadline_ms=1000.0).engine == "logits"
    assert engine_for(["x"] * 10, ["a", "b"], deadline_ms=1000.0).engine == "similarity"
    assert engine_for(["x"], ["a", "b"], [("y", "a"), ("z", "b")]).engine == "head"
    assert engine_for(["x"], ["a", "b"], model="some-encoder").engine == "similarity"
