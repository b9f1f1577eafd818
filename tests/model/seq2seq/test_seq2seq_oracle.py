"""The oracle of encoder-decoders: each family beside transformers, and rows one by one beside the whole target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.errors import RequestError
from miaotui.model.seq2seq.opened import is_seq2seq, open_seq2seq
from miaotui.model.seq2seq.oracle import Seq2SeqOracle, TargetCache
from tiny_seq2seq import VARIANTS, VOCAB, tiny_folder

SOURCE = [5, 17, 90, 33, 8, 120, 44, 3, 61, 2]


def oracle_of(folder: Path) -> Seq2SeqOracle:
    opened = open_seq2seq(folder)
    return Seq2SeqOracle(opened.config, opened.weights)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_one_by_one_are_those_of_the_whole_target(variant: str, tmp_path: Path) -> None:
    assert is_seq2seq(tiny_folder(tmp_path, variant))
    oracle = oracle_of(tmp_path)
    target = [2, 9, 31, 77, 14, 9, 55]
    memory = oracle.memory(oracle.encode(SOURCE))
    whole, _ = oracle.decode(memory, TargetCache(), target)
    cache, rows = TargetCache(), []
    for token in target:
        logits, cache = oracle.decode(memory, cache, [token])
        rows.append(logits[0])
    assert cache.n_tokens == len(target)
    np.testing.assert_allclose(np.array(rows), whole, atol=2e-4)
    other, _ = oracle.decode(oracle.memory(oracle.encode(SOURCE[:4])), TargetCache(), target)
    assert np.abs(other - whole).max() > 1e-3  # the source counts


@pytest.mark.parametrize("tokens", [[], [VOCAB], [-1], [5] * 81])
def test_a_source_that_is_no_text_of_the_model_is_refused(tokens: list[int], tmp_path: Path) -> None:
    oracle = oracle_of(tiny_folder(tmp_path, "bart"))
    with pytest.raises(RequestError):
        oracle.encode(tokens)


@pytest.mark.compare
@pytest.mark.parametrize("variant", VARIANTS)
def test_states_and_logits_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    oracle = oracle_of(tiny_folder(tmp_path, variant, seed=1))
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    model.double().eval()  # so that what differs is the oracle's own rounding
    target = [2, 9, 31, 77, 14, 9, 55]
    with torch.no_grad():
        found = model(input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([target]))
    states = oracle.encode(SOURCE)
    logits, _ = oracle.decode(oracle.memory(states), TargetCache(), target)
    np.testing.assert_allclose(states, found.encoder_last_hidden_state[0].numpy(), atol=3e-5, rtol=1e-4)
    np.testing.assert_allclose(logits, found.logits[0].numpy(), atol=1e-4, rtol=1e-4)
