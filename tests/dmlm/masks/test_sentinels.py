"""Masked spans of an encoder-decoder: sources and targets have every token, and any rule's masks make them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miaotui
from miaotui.dmlm.masks.batch import TokenBatch
from miaotui.dmlm.masks.rules import RULES
from miaotui.dmlm.masks.sentinels import span_example, span_fills
from miaotui.errors import RequestError
from miaotui.tasks.frames import fill_frame
from miaotui.training.noise import Noise
from seq2seq_files import unigram_folder

SENTINELS, END = tuple(range(900, 930)), 1


def joined(source: tuple[int, ...], fills: list[tuple[int, ...]]) -> list[int]:
    """The text of a source with its gaps filled."""
    text: list[int] = []
    for token in source[:-1]:
        text += fills[SENTINELS.index(token)] if token in SENTINELS else [token]
    return text


@given(st.lists(st.tuples(st.integers(2, 800), st.booleans()), min_size=1, max_size=50))
def test_source_and_target_have_every_token(rows: list[tuple[int, bool]]) -> None:
    tokens, chosen = [token for token, _ in rows], np.array([masked for _, masked in rows])
    if not chosen.any():
        return
    made = span_example(tokens, chosen, SENTINELS, END)
    fills = span_fills(made.target, SENTINELS, {END})
    assert joined(made.source, fills) == tokens
    assert sum(map(len, fills)) == chosen.sum()
    assert made.source[-1] == made.target[-1] == END
    assert all(fills)


def test_span_masks_feed_it() -> None:
    tokens = np.arange(2, 130)[None]
    words = np.arange(128)[None] // 2
    batch = TokenBatch(tokens, np.ones((1, 128), bool), np.array([3]), words)
    chosen = RULES["spans"].choose(batch, np.array([0.15]), Noise(4, 0)).chosen[0]
    assert 0 < chosen.sum() < 64
    made = span_example(tokens[0].tolist(), chosen, SENTINELS, END)
    spans = span_fills(made.target, SENTINELS, {END})
    assert joined(made.source, spans) == tokens[0].tolist()
    assert max(map(len, spans)) > 1  # several tokens for one sentinel


def test_targets_of_a_model_are_read_as_far_as_they_go() -> None:
    first, second, third = SENTINELS[:3]
    assert span_fills([first, 7, 8, second, 9, END, 5], SENTINELS, {END}) == [(7, 8), (9,)]
    assert span_fills([7, second, 9, first, 4, third], SENTINELS, {END}) == [(), (9,), ()]
    assert span_fills([], SENTINELS, {END}) == []


def test_bad_spans_are_refused() -> None:
    with pytest.raises(RequestError, match="no mask"):
        span_example([5, 6], np.zeros(2, bool), SENTINELS, END)
    with pytest.raises(RequestError, match="has no sentinels"):
        span_example([5, 6], np.ones(2, bool), (), END)
    with pytest.raises(RequestError, match="2 masked spans"):
        span_example([5, 6, 7], np.array([True, False, True]), SENTINELS[:1], END)
    with pytest.raises(RequestError, match="as many masks"):
        span_example([5, 6], np.ones(3, bool), SENTINELS, END)


def test_an_encoder_decoder_fills_a_frame(tmp_path: Path) -> None:
    codes = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
    folder = unigram_folder(tmp_path, "t5", codes, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    frame = "the [MASK] runs to\tthe [MASK]."
    with miaotui.load_seq2seq(folder, backend="reference") as model:
        tokenizer = model.model.tokenizer
        assert len(tokenizer.sentinels) == 3
        found = fill_frame(frame, model, max_tokens=4, num_beams=1)
        parts = frame.split("[MASK]")
        assert found.text == parts[0] + found.fills[0] + parts[1] + found.fills[1] + parts[2]
        source = tokenizer.source_of_parts(parts)
        assert [token for token in source if token in tokenizer.sentinels] == list(tokenizer.sentinels[:2])
        assert source[-1] == 1
        plain = tokenizer.source("the <extra_id_0> runs")  # text stays text
        assert not set(plain) & set(tokenizer.sentinels)
        with pytest.raises(RequestError, match="4 masked spans"):
            fill_frame("[MASK] a [MASK] b [MASK] c [MASK]", model)
        with pytest.raises(RequestError, match="no gap"):
            fill_frame("nothing", model)
