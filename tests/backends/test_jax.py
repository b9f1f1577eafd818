"""The exported forward pass equals the oracle for every architecture; the backend answers like the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("jax", reason="JAX is not installed: pip install 'miaotui[jax]'")

import miaotui
from miaotui.backends.jax.build import assemble
from miaotui.backends.options import EngineOptions
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.model.oracle import Oracle
from miaotui.schedule.plan import Chunk, Plan, RowKind
from tiny_masked import make_masked_folder
from tiny_models import make_tiny_folder, tiny_config, tiny_weights
from tiny_variants import VARIANTS

pytestmark = [pytest.mark.slow, pytest.mark.compare]

RUN = [variant for variant in sorted(VARIANTS) if tiny_config(variant).has_one_stream]
SAMPLED = ("gpt-oss",)  # the others in the long set

TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 320, 37)]
SIZES: dict[str, Any] = {"context": 64, "kv_tokens": 128, "chunk_size": 32}


@pytest.mark.parametrize(
    "variant", [each if each in SAMPLED else pytest.param(each, marks=pytest.mark.long) for each in RUN]
)
def test_chunks_of_every_architecture_give_the_oracles_logits(variant: str) -> None:
    """A prompt in two chunks beside another sequence, in pages out of order; then both go on in one call."""
    config = tiny_config(variant)
    weights = tiny_weights(config)
    backend = assemble(config, weights, EngineOptions(**SIZES)).backend
    wanted, other = Oracle(config, weights).logits(TOKENS), Oracle(config, weights).logits(TOKENS[5:9])
    pages, second = (4, 1, 6), (2,)
    parts = [
        (Chunk(1, 0, tuple(TOKENS[:20]), pages[:2], 1, kind=RowKind.PREFILL), wanted[19:20]),
        (Chunk(2, 0, tuple(TOKENS[5:8]), second, 1, kind=RowKind.PREFILL), other[2:3]),
        (Chunk(1, 20, tuple(TOKENS[20:36]), pages, 0, kind=RowKind.PREFILL), wanted[:0]),
    ]
    for chunk, rows in parts:
        assert_close(backend.run(Plan((chunk,))).logits, rows)
    both = Plan((Chunk(1, 36, (TOKENS[36],), pages, 1), Chunk(2, 3, (TOKENS[8],), second, 1)))
    assert_close(backend.run(both).logits, np.stack([wanted[36], other[3]]))
    backend.close()


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max(initial=0.0) <= 1e-4


def test_answers_are_those_of_the_reference(tmp_path: Path) -> None:
    """Greedy and drawn tokens, log-probabilities and grammars; what it cannot do is refused by name."""
    folder = make_tiny_folder(tmp_path, "llama")
    calls: list[dict[str, Any]] = [
        {"temperature": 0, "max_tokens": 12},
        {"temperature": 1.0, "seed": 4, "top_k": 40, "max_tokens": 12},
        {"temperature": 0, "max_tokens": 9, "structured_outputs": {"choice": ["red", "green"]}},
    ]
    answers = {}
    for backend in ("jax", "reference"):
        with miaotui.load(folder, backend=backend, **SIZES) as llm:
            answers[backend] = [llm.generate("the end", **call).token_ids for call in calls]
            if backend == "jax":
                with pytest.raises(RequestError, match="jax backend has no promises"):
                    llm.generate("the end", max_tokens=2, deadline_ms=1000)
    assert answers["jax"] == answers["reference"]
    with pytest.raises(RequestError, match="jax backend has no kv 'int8'"):
        miaotui.load(folder, backend="jax", kv="int8")
    with pytest.raises(UnsupportedModelError, match="jax backend has no gemma4"):
        miaotui.load(make_tiny_folder(tmp_path, "gemma4"), backend="jax")
    with pytest.raises(UnsupportedModelError, match="restore masked tokens"):
        miaotui.load(make_masked_folder(tmp_path, "bd3lm"), backend="jax")
