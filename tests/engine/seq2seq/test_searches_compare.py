"""Searches over tiny models beside transformers' ``generate``: the same token ids on 200 sources of each family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq
from miaotui.engine.seq2seq.searches import SearchQueue
from miaotui.model.seq2seq.opened import open_seq2seq
from tiny_seq2seq import VARIANTS, VOCAB, tiny_folder

pytestmark = pytest.mark.compare
SOURCES = 200
LENGTH = 12
FORCED = {"mbart": {"forced_bos_token_id": 20}, "m2m100": {"forced_bos_token_id": 20}}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1, "no_repeat_ngram_size": 2},
    "beams": {"num_beams": 4, "early_stopping": False},
    "beams, early": {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
    "beams, never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.4, "min_length": 5},
    "beams, words": {
        "num_beams": 4,
        "length_penalty": -1.0,
        "bad_words_ids": [[7], [9, 11], [30, 31, 32]],
        "suppress_tokens": [12, 13],
        "begin_suppress_tokens": [14],
        "early_stopping": True,
    },
}


def sources_of(seed: int, count: int) -> list[list[int]]:
    """Random sources of eight lengths."""
    rng = np.random.default_rng(seed)
    return [[*map(int, rng.integers(4, VOCAB - 2, 1 + 3 * (number % 8))), 2] for number in range(count)]


def theirs(folder: Path, sources: list[list[int]], ends: set[int]) -> list[list[int]]:
    """Targets of transformers, without what fills them up; sources of one length share a batch, so none is padded."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    found: dict[int, list[int]] = {}
    for length in sorted({len(source) for source in sources}):
        places = [place for place, source in enumerate(sources) if len(source) == length]
        batch = torch.tensor([sources[place] for place in places])
        with torch.no_grad():
            targets = model.generate(batch, attention_mask=torch.ones_like(batch)).tolist()
        found |= {place: until_end(target, ends) for place, target in zip(places, targets, strict=True)}
    return [found[place] for place in range(len(sources))]


def until_end(target: list[int], ends: set[int]) -> list[int]:
    stop = next((place for place in range(1, len(target)) if target[place] in ends), len(target) - 1)
    return target[: stop + 1]


def ours(folder: Path, sources: list[list[int]]) -> list[tuple[int, ...]]:
    opened = open_seq2seq(folder)
    backend = ReferenceSeq2Seq(opened.config, opened.weights)
    queue = SearchQueue(backend, opened.config.vocab_size)
    requests = [queue.submit(source, opened.generation) for source in sources]
    while not queue.is_idle:
        queue.step()
    assert backend.kept == (0, 0)
    return [request.result.tokens for request in requests if request.result is not None]


def generation(variant: str, search: Mapping[str, Any]) -> dict[str, Any]:
    values = VARIANTS[variant]
    ids = {key: value for key, value in values.items() if key.endswith("token_id")}
    start = {"pegasus": 0, "m2m100": 2}.get(variant, 2)
    ids = {"decoder_start_token_id": start, "eos_token_id": start or 1, "pad_token_id": 1 - bool(start == 0)} | ids
    return {"max_length": LENGTH, **ids, **FORCED.get(variant, {}), **search}


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_ids_are_those_of_transformers(variant: str, search: str, tmp_path: Path) -> None:
    tiny_folder(tmp_path, variant, seed=2, generation=generation(variant, SEARCHES[search]))
    count = SOURCES if search in ("greedy", "beams") else 24
    sources = sources_of(3, count)
    found = ours(tmp_path, sources)
    ends = set(open_seq2seq(tmp_path).generation.eos_ids)
    for source, mine, expected in zip(sources, found, theirs(tmp_path, sources, ends), strict=True):
        assert list(mine) == expected, source
