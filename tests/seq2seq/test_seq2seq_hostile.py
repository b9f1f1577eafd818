"""Texts that tempt a translator to loop or to echo, on a tiny random model: each ends, soundly or with an error."""

from __future__ import annotations

from pathlib import Path

import miaotui
from benchmarks.translation.hostile_texts import echoes, hostile_texts, loops
from seq2seq_files import marian_folder


def test_no_hostile_text_comes_back_as_a_loop_or_an_echo(tmp_path: Path) -> None:
    texts = hostile_texts()
    with miaotui.load_seq2seq(marian_folder(tmp_path)) as model:
        found = model.translate(texts, source="en", target="de")
    assert len(found) == len(texts) == 200
    for text, each in zip(texts, found, strict=True):
        assert (each.text is None) == (each.error is not None)
        if each.text is not None and each.pieces:
            assert not loops(text, each.text)
            assert not echoes(text, each.text, "de")
