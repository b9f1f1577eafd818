"""The answer cache: what is the same question, what may be kept, and what damage does to it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miaotui.errors import CacheError, RequestError
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheOptions, may_keep
from miaotui.retrieval.answers.calibrate import NearRule, calibrate, needed, read_pairs, upper_bound
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.retrieval.answers.similarity import MAX_QUESTION_CHARS, likeness, marks_agree, normalised, read
from miaotui.retrieval.minhash import band_keys, minhash, signature
from miaotui.types import SamplingParams

RULE = NearRule(threshold=0.9, bound=0.001, trials=5000, false_hits=0)
QUESTION = "How do I reset the password of my account?"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def asking(question: str = QUESTION, **changes: Any) -> AnswerKey:
    values: dict[str, Any] = {
        "model": "m1",
        "template": "t1",
        "namespace": "key-1",
        "params": SamplingParams(max_tokens=50),
        "messages": [{"role": "user", "content": question}],
    }
    return AnswerKey(**{**values, **changes})


def near_cache(**options: Any) -> AnswerCache:
    return AnswerCache(CacheOptions(near=RULE, **options))


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


# ---- the file ------------------------------------------------------------------------------------


def test_answers_outlive_the_process_and_grow_old(tmp_path: Path) -> None:
    clock, options = Clock(), CacheOptions(tmp_path / "answers.db", max_age_s=100)
    first = AnswerCache(options, clock)
    first.keep(asking(), b"answer")
    first.close()
    assert first.find(asking()) is None
    assert (tmp_path / "answers.db").stat().st_mode & 0o077 == 0
    again = AnswerCache(options, clock)
    clock.now += 70
    found = again.find(asking())
    assert found is not None
    assert found.age_s == 70
    clock.now += 31
    assert again.find(asking()) is None
    assert again.counts().entries == 0


def test_the_least_recently_used_leave_when_it_is_full() -> None:
    clock = Clock()
    cache = AnswerCache(CacheOptions(max_bytes=1 << 16), clock)
    for number in range(100):
        clock.now += 100
        cache.keep(asking(f"question {number}"), b"x" * 1000)
        assert cache.find(asking("question 0")) is not None
    counts = cache.counts()
    assert counts.size_bytes <= 1 << 16
    assert counts.evicted > 0
    assert cache.find(asking("question 99")) is not None
    assert cache.find(asking("question 1")) is None
    assert not cache.keep(asking("large"), b"x" * (1 << 15))


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    path.write_bytes(b"this is no database, " * 1000)
    cache = AnswerCache(CacheOptions(path))
    assert path.with_name("answers.db.damaged").exists()
    assert cache.keep(asking(), b"answer")
    assert cache.find(asking()) is not None
    assert cache.counts().rebuilt == 1


def test_damage_while_open_is_a_miss_and_then_mended(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    cache = AnswerCache(CacheOptions(path))
    for number in range(200):
        cache.keep(asking(f"question {number}"), b"x" * 2000)
    cache.close()
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    cache = AnswerCache(CacheOptions(path))
    for number in range(200):
        assert cache.find(asking(f"question {number}")) is None
    assert cache.keep(asking(), b"answer")
    found = cache.find(asking())
    assert found is not None


def test_a_changed_payload_is_never_given_out(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    cache = AnswerCache(CacheOptions(path))
    cache.keep(asking(), b"answer")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE answers SET payload = ?", (b"forged",))
    assert cache.find(asking()) is None
    assert cache.counts().entries == 0


def test_a_locked_file_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.db"
    cache = AnswerCache(CacheOptions(path))
    cache._store._db.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert not cache.keep(asking(), b"answer")
    other.execute("ROLLBACK")
    other.close()
    assert cache.keep(asking(), b"answer")
    assert cache.counts().failures == 1


def test_a_place_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot write"):
        AnswerCache(CacheOptions(tmp_path))
    with pytest.raises(RequestError):
        CacheOptions(max_bytes=10)
    with pytest.raises(RequestError):
        CacheOptions(max_age_s=0)


def test_many_threads_share_one_cache(tmp_path: Path) -> None:
    cache = AnswerCache(CacheOptions(tmp_path / "answers.db", near=RULE))

    def work(first: int) -> None:
        for number in range(first, first + 20):
            cache.keep(asking(f"question number {number} of many"), str(number).encode())

    threads = [threading.Thread(target=work, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(80):
        found = cache.find(asking(f"question number {number} of many"))
        assert found is not None
        assert found.payload == str(number).encode()


WRITER = """
import sys
from pathlib import Path
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheOptions
from miaotui.types import SamplingParams
cache = AnswerCache(CacheOptions(Path(sys.argv[1])))
number = 0
while True:
    message = {"role": "user", "content": f"question {number}"}
    cache.keep(AnswerKey("m1", "t1", "key-1", SamplingParams(max_tokens=50), [message]), b"x" * 500)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    kept = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    cache = AnswerCache(CacheOptions(path))
    assert all(cache.find(asking(f"question {number}")) is not None for number in kept)
    assert cache.counts().rebuilt == 0


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
