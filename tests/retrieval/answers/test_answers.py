"""The answer cache: what is the same question, what may be kept, and what damage does to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_keys import QUESTION, RULE, asking, near_cache
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions, may_keep
from miaotui.retrieval.answers.calibrate import NearRule, calibrate, needed, read_pairs, upper_bound
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.retrieval.answers.similarity import MAX_QUESTION_CHARS, likeness, marks_agree, normalised, read
from miaotui.retrieval.minhash import band_keys, minhash, signature
from miaotui.types import SamplingParams

# ---- exact ---------------------------------------------------------------------------------------


def test_the_same_question_gets_the_same_bytes() -> None:
    cache = AnswerCache()
    assert cache.find(asking()) is None
    assert cache.keep(asking(), b"\x00answer\xff")
    found = cache.find(asking(f"  {QUESTION}\r\n"))
    assert found is not None
    assert (found.payload, found.how, found.likeness) == (b"\x00answer\xff", "hit", 1.0)
    assert 0 <= found.took_s < 1
    counts = cache.counts()
    assert (counts.hits, counts.misses, counts.kept, counts.entries) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m2"},
        {"template": "t2"},
        {"namespace": "key-2"},
        {"params": SamplingParams(max_tokens=51)},
        {"params": SamplingParams(max_tokens=50, temperature=1, seed=1)},
        {"params": SamplingParams(max_tokens=50, logit_bias={3: 1.0})},
        {"indexes": (("docs", "1"),)},
        {"extra": {"response_format": "json"}},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": QUESTION}]},
        {"messages": [{"role": "assistant", "content": QUESTION}]},
    ],
)
def test_what_differs_is_another_question_to_both_kinds_of_match(change: dict[str, Any]) -> None:
    cache = near_cache()
    cache.keep(asking(), b"answer")
    assert cache.find(asking(**change)) is None


def test_a_seed_counts_only_where_there_is_chance() -> None:
    cache = AnswerCache()
    cache.keep(asking(), b"answer")
    assert cache.find(asking(params=SamplingParams(max_tokens=50, seed=9))) is not None
    warm = SamplingParams(max_tokens=50, temperature=1.0, seed=9)
    cache.keep(asking(params=warm), b"warm")
    assert cache.find(asking(params=replace(warm, seed=10))) is None


def test_answers_never_cross_namespaces_not_even_near_ones() -> None:
    cache = near_cache()
    cache.keep(asking(), b"answer")
    assert cache.find(asking(f"Hi, {QUESTION}")) is not None
    assert cache.find(asking(f"Hi, {QUESTION}", namespace="key-2")) is None
    assert cache.forget_namespace("key-1") == 1
    assert cache.find(asking()) is None


def test_an_answer_holds_for_the_version_of_its_index() -> None:
    cache = AnswerCache()
    cache.keep(asking(indexes=(("docs", "7"),)), b"old")
    cache.keep(asking(indexes=(("docs", "8"),)), b"new")
    cache.keep(asking(), b"free")
    assert cache.find(asking(indexes=(("docs", "9"),))) is None
    assert cache.find(asking(indexes=(("docs", "8"),))) is not None
    assert cache.find(asking()) is not None


def test_only_what_leaves_nothing_open_may_be_kept() -> None:
    greedy, warm = SamplingParams(), SamplingParams(temperature=0.7)
    assert may_keep(greedy, seed_given=False)
    assert may_keep(SamplingParams(temperature=1.0, top_k=1), seed_given=False)
    assert not may_keep(warm, seed_given=False)
    assert may_keep(warm, seed_given=True)
    assert not may_keep(greedy, seed_given=True, tools=True)
    assert not may_keep(greedy, seed_given=True, choices=2)
    assert not may_keep(SamplingParams(logprobs=0), seed_given=True)


# ---- near ----------------------------------------------------------------------------------------

SAME = [
    (QUESTION, "Hi, could you please tell me how do I reset the password of my account"),
    ("What is the capital of France?", "what is the capital of france"),
    ("我能不能退款？", "请问我能退款吗？"),
    ("怎么修改我的收货地址", "你好，怎么修改我的收货地址？谢谢"),
]


DIFFERENT = [
    ("Can I pay my order by card?", "Can I not pay my order by card?"),
    ("Can I pay my order by card?", "Can't I pay my order by card?"),
    ("Trains to Lyon after 9 tomorrow?", "Trains to Lyon after 8 tomorrow?"),
    ("Trains to Lyon after nine tomorrow?", "Trains to Lyon after eight tomorrow?"),
    ("Flights from London to Paris on Monday", "Flights from Paris to London on Monday"),
    ("What did Ann Smith write about him?", "What did Ann Jones write about him?"),
    ("how tall is mount Fuji in winter", "how tall is mount Etna in winter"),
    ("我可以退款到银行卡吗", "我不可以退款到银行卡吗"),
    ("三天内能送到北京吗", "五天内能送到北京吗"),
    ("请问张伟的电话号码是多少", "请问李伟的电话号码是多少"),
    ("《红楼》的作者是哪一位", "《西游》的作者是哪一位"),
    ("订单有没有发货", "订单没有发货"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_question_in_other_words_is_near(first: str, second: str) -> None:
    cache = near_cache()
    cache.keep(asking(first), b"answer")
    found = cache.find(asking(second))
    assert found is not None
    assert found.how == "near"


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_negations_numbers_and_names_must_match(first: str, second: str) -> None:
    lenient = NearRule(threshold=0.1, bound=0.4, trials=10, false_hits=0)
    cache = AnswerCache(CacheOptions(near=lenient))
    cache.keep(asking(first), b"answer")
    assert cache.find(asking(second)) is None


def test_near_matching_is_off_by_default_and_for_chance() -> None:
    plain = AnswerCache()
    plain.keep(asking(), b"answer")
    assert plain.find(asking(f"Hi, {QUESTION}")) is None
    cache, warm = near_cache(), SamplingParams(temperature=0.5, seed=3)
    cache.keep(asking(params=warm), b"answer")
    assert cache.find(asking(f"Hi, {QUESTION}", params=warm)) is None
    cache.keep(asking(), b"answer")
    assert cache.find(asking(f"Hi, {QUESTION}", near=False)) is None


def test_one_other_word_in_a_long_question_is_another_question() -> None:
    long = "please describe in detail " + " ".join(f"part{chr(97 + i)}" for i in range(26))
    a, b = read(long + " enabled"), read(long + " disabled")
    assert a is not None
    assert b is not None
    assert likeness(a.shingles, b.shingles) < RULE.threshold
    assert read("x " * MAX_QUESTION_CHARS) is None
    assert read("Why?") is None


@given(st.text(max_size=200))
@example("0A“B”")
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_read_and_is_like_itself(text: str) -> None:
    reading = read(text)
    if reading is not None:
        assert marks_agree(reading, reading)
        assert likeness(reading.shingles, reading.shingles) == 1.0
    assert normalised(normalised(text)) == normalised(text)
    cache = near_cache()
    cache.keep(asking(text), b"answer")
    found = cache.find(asking(text))
    assert found is not None
    assert found.how == "hit"


def test_signatures_estimate_likeness_and_never_change() -> None:
    a = {f"word {n}" for n in range(100)}
    b = {f"word {n}" for n in range(20, 120)}
    share = float((minhash(a) == minhash(b)).mean())
    assert abs(share - 80 / 120) < 0.2
    assert band_keys(b"s", ["one", "two"])[:2] == [4214527964109809948, 3385998249933140760]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(0, 2**64 - 1))
def test_a_signature_is_exact_for_hashes_of_64_bits(hashes: list[int], more: int) -> None:
    """The values of a union are the smaller ones of both parts: none may be rounded."""
    together = signature([*hashes, more])
    assert together.tolist() == np.minimum(signature(hashes), signature([more])).tolist()


# ---- calibration ---------------------------------------------------------------------------------


def test_the_interval_is_clopper_and_pearsons() -> None:
    assert upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert upper_bound(3, 100) == pytest.approx(0.07571, abs=1e-5)
    assert upper_bound(5, 5) == 1.0
    assert upper_bound(0, 0) == 1.0
    assert needed(0.001) == 2995


def test_made_pairs_give_a_rule_within_the_bound() -> None:
    outcome = calibrate(make_pairs(sample_questions(), 5_000))
    assert outcome.rule is not None
    assert upper_bound(outcome.rule.false_hits, outcome.rule.trials) <= 0.001
    assert 0.5 < outcome.rule.threshold <= 1.0
    assert outcome.found > 0.5


def test_too_few_or_misleading_pairs_leave_it_off_and_say_why() -> None:
    pairs = make_pairs(sample_questions(), 200)
    few = calibrate(pairs)
    assert few.rule is None
    assert "2,995" in few.reason
    wrong = calibrate([type(p)(p.first, p.second, False) for p in pairs], bound=0.2)
    assert wrong.rule is None
    assert "more than 20.00%" in wrong.reason
    with pytest.raises(RequestError):
        calibrate(pairs, bound=0.0)


def test_pairs_come_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"first": "a", "second": "b", "same": True}) + "\n\n")
    assert [(p.first, p.same) for p in read_pairs(path)] == [("a", True)]
    for bad in ("{", '{"first": 1, "second": "b", "same": true}', "[" * 100_000, "7"):
        path.write_text(bad)
        with pytest.raises(RequestError, match="line 1"):
            read_pairs(path)
    with pytest.raises(RequestError):
        read_pairs(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('Does Alice like the "Red Hat" of Bob at all?', ("alice", "red", "hat", "bob")),
        ("Who wrote 「红楼梦」 and when did Cao live?", ("红", "楼", "梦", "cao")),
        ('Please tell me. What is "it" about?', ("it",)),
    ],
)
def test_names_come_as_in_the_text_and_once(text: str, names: tuple[str, ...]) -> None:
    """Also those that are both capital and in quotes."""
    reading = read(text)
    assert reading is not None
    assert reading.names == names
