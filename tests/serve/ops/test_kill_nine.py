"""kill -9 in the middle of work, again and again: what was kept is whole, and the server serves again."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from child_server import Child, child_server

from tiny_models import make_tiny_folder

pytestmark = pytest.mark.slow
PATH = "/v1/completions"
ROUNDS = 4


def question(number: int) -> dict[str, Any]:
    """Greedy questions can be kept; some come again and again."""
    return {"prompt": f"question {number % 12}", "max_tokens": 12, "temperature": 0, "seed": 1}


def text_of(child: Child, number: int) -> str:
    status, answer = child.ask(PATH, question(number))
    assert status == 200, answer
    return str(answer["choices"][0]["text"])


def hammer(child: Child, stop: threading.Event, seen: dict[int, set[str]]) -> None:
    rng = random.Random()
    while not stop.is_set():
        number = rng.randrange(12)
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            seen[number].add(text_of(child, number))


def test_killed_under_load_everything_kept_is_whole(tmp_path: Path) -> None:
    model = make_tiny_folder(tmp_path, "llama")
    cache, audit = tmp_path / "answers.db", tmp_path / "audit.jsonl"
    words = (f"tiny={model}", "--answer-cache", str(cache), "--audit-log", str(audit))
    seen: dict[int, set[str]] = {number: set() for number in range(12)}
    moments = random.Random(9)
    for _ in range(ROUNDS):
        with child_server(*words) as child:
            stop = threading.Event()
            clients = [threading.Thread(target=hammer, args=(child, stop, seen)) for _ in range(4)]
            for client in clients:
                client.start()
            time.sleep(moments.uniform(0.2, 1.0))
            child.process.kill()
            child.process.wait()
            stop.set()
            for client in clients:
                client.join(30)
        with contextlib.closing(sqlite3.connect(cache)) as kept:
            assert kept.execute("pragma integrity_check").fetchone() == ("ok",)
        for line in audit.read_text().splitlines():
            assert json.loads(line)["route"]
    with child_server(*words) as child:
        for number, texts in seen.items():
            assert texts <= {text_of(child, number)}
        assert child.ask("/health")[0] == 200


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_cache_of_answers_does_not_keep_the_server_from_starting(damage: str, tmp_path: Path) -> None:
    model = make_tiny_folder(tmp_path, "llama")
    cache = tmp_path / "answers.db"
    words = (f"tiny={model}", "--answer-cache", str(cache))
    with child_server(*words) as child:
        before = [text_of(child, number) for number in range(3)]
        child.process.terminate()
        child.process.wait(30)
    whole = cache.read_bytes()
    spoilt = {"cut": whole[: len(whole) // 2], "noise": random.Random(1).randbytes(len(whole))}
    cache.write_bytes(spoilt[damage])
    with child_server(*words) as child:
        assert [text_of(child, number) for number in range(3)] == before
        assert [text_of(child, number) for number in range(3)] == before
