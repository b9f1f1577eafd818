"""A server's cache of answers and customer service, made from its options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaotui.errors import RequestError
from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.serve.models import ServedModels
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import near_rule, open_response_cache, open_support

MODEL = ("tiny",)


def test_nothing_is_made_unless_asked_for() -> None:
    assert open_response_cache(ServeSettings(MODEL)) is None
    assert open_support(ServeSettings(MODEL), ServedModels(), None) is None


def test_a_cache_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "answers.db"
    options = ServeSettings(MODEL, answer_cache=str(path), answer_cache_mb=1, answer_cache_hours=2)
    cache = open_response_cache(options)
    assert isinstance(cache, AnswerCache)
    assert (cache.options.max_bytes, cache.options.max_age_s) == (1 << 20, 7200.0)
    assert cache.options.near is None
    assert path.exists()


def test_near_answers_need_a_cache_and_proof(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RequestError, match="--answer-cache"):
        ServeSettings(MODEL, near_answers="made").checked()
    rule = near_rule("made", 0.001)
    assert rule is not None
    assert rule.bound == 0.001
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"first": "a b c", "second": "a b d", "same": False}))
    options = ServeSettings(MODEL, answer_cache=str(tmp_path / "a.db"), near_answers=str(pairs))
    cache = open_response_cache(options)
    assert cache is not None
    assert cache.options.near is None
    assert "near matches stay off" in caplog.text


def test_a_customer_service(tmp_path: Path) -> None:
    faq = tmp_path / "faq.csv"
    faq.write_text("question,answer\nWhen do you open?,At nine.\n")
    options = ServeSettings(MODEL, support_faq=str(faq), support_store=str(tmp_path / "t.db"))
    service = open_support(options, ServedModels(), None)
    assert service is not None
    talk, _ = service.begin()
    assert service.say(talk.id, "when do you open").text == "At nine."
    with pytest.raises(RequestError):
        open_support(ServeSettings(MODEL, support_rules=str(tmp_path / "none.yaml")), ServedModels(), None)
