"""The file of kept answers: age, room, damage, threads and writers."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from answer_keys import RULE, Clock, asking

from miaotui.errors import CacheError, RequestError
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions

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
