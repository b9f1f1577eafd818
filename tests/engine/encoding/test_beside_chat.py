"""A chat model and encoders share the cores: promises hold across them, and neither changes the other's bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scripted_encoder import FIRST, TableEncoder, texts_of

from miaotui.engine.encoding.loop import EncoderLoop
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading.readers import whole
from miaotui.engine.request import RequestOptions
from miaotui.engine.turns import PROMISED, REST, PlainSharer, shared_turns
from miaotui.errors import DeadlineUnattainableError
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.types import Deadline, SamplingParams
from tiny_engine import open_loop
from tiny_models import make_tiny_folder

LONG = SamplingParams(max_tokens=100, ignore_eos=True)
SLOW = CostRates(((1, 0.05), (256, 1.0)), 0.0, 0.0)  # of 100 tokens: 5 s
PROMPT = [1, 2, 3]


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[EngineLoop]:
    loop = open_loop(make_tiny_folder(tmp_path, "llama"), tmp_path, cost=CostModel(SLOW), backend="reference")
    yield loop
    loop.close()


@pytest.fixture
def encoder() -> Iterator[EncoderLoop]:
    # It thinks that 64 rows take 8 s.
    loop = EncoderLoop(TableEncoder(), cost=CostModel(CostRates(((1, 0.125), (256, 32.0)), 0.0, 0.0)))
    yield loop
    loop.close()


@contextmanager
def nobody_computes() -> Iterator[None]:
    """While the block runs, every model waits for its turn."""
    blocker, turns = PlainSharer(), shared_turns()
    turns.join(blocker)
    turns.enter(blocker)
    try:
        yield
    finally:
        turns.done(blocker)
        turns.leave(blocker)


def test_an_encoder_promises_only_what_a_chats_promises_leave(chat: EngineLoop, encoder: EncoderLoop) -> None:
    with nobody_computes():
        assert chat.spare_s() == math.inf
        assert chat.turn_rank() == REST
        request = chat.submit(PROMPT, LONG, RequestOptions(deadline=Deadline(10_000.0)))
        assert chat.turn_rank() == PROMISED
        assert 0 < chat.spare_s() < 5.0
        with pytest.raises(DeadlineUnattainableError):
            encoder.submit(texts_of(64), FIRST, Deadline(60_000.0))
        fits = encoder.submit(texts_of(2), FIRST, Deadline(60_000.0))
        free = encoder.submit(texts_of(64), FIRST)
    whole(chat, lambda: iter([request]))
    assert request.promise.met
    assert fits.future.result(20)
    assert free.future.result(20)
    assert chat.spare_s() == math.inf


def test_a_chat_promises_only_what_an_encoders_promises_leave(chat: EngineLoop, encoder: EncoderLoop) -> None:
    asked = RequestOptions(deadline=Deadline(10_000.0))
    with nobody_computes():
        job = encoder.submit(texts_of(64), FIRST, Deadline(60_000.0))
        assert 5 < encoder.ahead_s() < 20
        with pytest.raises(DeadlineUnattainableError) as caught:
            chat.submit(PROMPT, LONG, asked)
        assert caught.value.predicted_ms > 12_000
        late = chat.submit(PROMPT, LONG, RequestOptions(deadline=Deadline(60_000.0)))
    assert job.future.result(20)
    assert len(whole(chat, lambda: iter([late]))) == 1
    assert encoder.ahead_s() == 0


def test_both_run_together_and_their_bytes_do_not_change(chat: EngineLoop, encoder: EncoderLoop) -> None:
    alone = whole(chat, lambda: iter([chat.submit(PROMPT, LONG)]))
    vectors = encoder.submit(texts_of(5, 9), FIRST).future.result(20)
    jobs = [encoder.submit(texts_of(5, 9), FIRST) for _ in range(100)]
    together = whole(chat, lambda: iter([chat.submit(PROMPT, LONG) for _ in range(3)]))
    assert [each.token_ids for each in together] == [alone[0].token_ids] * 3
    for job in jobs:
        assert all(np.array_equal(a, b) for a, b in zip(job.future.result(20), vectors, strict=True))
