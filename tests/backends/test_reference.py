"""The reference backend by itself: the oracle's numbers, its outputs besides logits, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.backend import BackendLimits, RowStates, StepResult, probe_chunk
from miaotui.backends.options import EngineOptions
from miaotui.backends.reference.backend import ReferenceBackend
from miaotui.backends.reference.build import assemble, reference_sizes
from miaotui.errors import EngineError, RequestError
from miaotui.model.oracle import Oracle
from miaotui.schedule.plan import Chunk, Plan, RowKind
from tiny_models import make_tiny_folder, tiny_config, tiny_weights
from tiny_variants import VARIANTS

F = np.float32
OPTIONS = EngineOptions(backend="reference")
TOKENS = tuple(int(i) for i in np.random.default_rng(5).integers(0, 320, 24))


def backend_of(variant: str = "llama") -> ReferenceBackend:
    config = tiny_config(variant)
    backend = assemble(config, tiny_weights(config), OPTIONS).backend
    assert isinstance(backend, ReferenceBackend)
    return backend


def run_text(backend: ReferenceBackend, cuts: tuple[int, ...] = (), layers: tuple[int, ...] = ()) -> list[StepResult]:
    """Results of ``TOKENS`` in chunks that end at ``cuts``, each row with its logits; their arrays stay valid."""
    results = []
    for start, end in zip((0, *cuts), (*cuts, len(TOKENS)), strict=True):
        chunk = probe_chunk(backend.limits, TOKENS[start:end], start, end - start)
        results.append(backend.run(Plan((chunk,)), states=RowStates(layers=layers)))
    return results


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_oracles(variant: str) -> None:
    config = tiny_config(variant)
    (result,) = run_text(backend_of(variant))
    expected = Oracle(config, tiny_weights(config)).logits(TOKENS)
    error = np.abs(result.logits - expected).max() / expected.std()
    assert error < 2e-2  # keys and values are kept as float16
    best = result.logits.argmax(axis=1)
    assert list(result.chosen) == [(int(i), float(row[i])) for i, row in zip(best, result.logits, strict=True)]


@pytest.mark.parametrize("variant", ["llama", "gemma2", "mistral"])
def test_chunks_and_neighbours_change_no_bit(variant: str) -> None:
    backend = backend_of(variant)
    (whole,) = run_text(backend)
    cut = run_text(backend, cuts=(1, 7, 16, 23))
    assert np.concatenate([each.logits for each in cut]).tobytes() == whole.logits.tobytes()
    beside = Chunk(1, 0, TOKENS[:5], (0,), 5)
    together = backend.run(Plan((beside, probe_chunk(backend.limits, TOKENS, 0, 24), beside._replace(pages=(1,)))))
    assert together.logits[5:29].tobytes() == whole.logits.tobytes()
    assert together.logits[:5].tobytes() == whole.logits[:5].tobytes() == together.logits[29:].tobytes()


def test_states_are_the_stream_between_layers() -> None:
    config = tiny_config("llama")
    layers = tuple(range(config.n_layers + 1))
    (result,) = run_text(backend_of(), layers=layers)
    expected = Oracle(config, tiny_weights(config)).hidden_states(TOKENS)
    assert set(result.states) == set(layers)
    for layer in layers:
        np.testing.assert_allclose(result.states[layer], expected[layer], atol=2e-2)


def test_a_row_may_begin_with_an_embedding() -> None:
    """Embeddings from elsewhere in the place of some tokens: those of the tokens themselves give their logits."""
    backend, config = backend_of(), tiny_config("llama")
    embedded = Oracle(config, tiny_weights(config)).embedded(TOKENS)
    (whole,) = run_text(backend)
    other = tuple(0 if row in (3, 4, 9) else token for row, token in enumerate(TOKENS))
    plan = Plan((probe_chunk(backend.limits, other, 0, 24),))
    given = backend.run(plan, states=RowStates({row: embedded[row] for row in (3, 4, 9)}))
    assert given.logits.tobytes() == whole.logits.tobytes()
    assert backend.run(plan).logits.tobytes() != whole.logits.tobytes()


@pytest.mark.parametrize("variant", ["llama", "mistral"])
def test_encoded_texts_see_both_ways_and_are_pooled(variant: str) -> None:
    backend, config = backend_of(variant), tiny_config(variant)
    oracle = Oracle(config, tiny_weights(config))
    final = oracle.normed(oracle.hidden_states(TOKENS, bidirectional=True)[-1])
    texts = [Chunk(number, 0, TOKENS, pages, 0, kind=RowKind.ENCODE) for number, pages in enumerate([(0, 1), (2, 3)])]
    for how, expected in (("mean", final.mean(axis=0)), ("first", final[0]), ("last", final[-1])):
        result = backend.run(Plan(tuple(texts)), states=RowStates(pooling=how))  # type: ignore[arg-type]
        assert result.pooled is not None
        assert result.pooled.shape == (2, config.hidden_size)
        assert result.pooled[0].tobytes() == result.pooled[1].tobytes()
        np.testing.assert_allclose(result.pooled[0], expected, atol=2e-2)


def test_a_range_of_layers_needs_states_and_gives_no_logits() -> None:
    config = tiny_config("llama")

    def part(layers: range) -> ReferenceBackend:
        limits: BackendLimits = reference_sizes(config, OPTIONS, layers).limits
        return ReferenceBackend(Oracle(config, tiny_weights(config)), limits)

    first = run_text(part(range(2)), layers=(2,))[0]
    assert first.logits.shape == (0, 320)
    assert not first.chosen
    assert first.states[2].shape == (24, config.hidden_size)
    with pytest.raises(EngineError, match="row 0 has no state, and layer 2 begins with one"):
        run_text(part(range(2, 3)))


@pytest.mark.parametrize(
    ("option", "reason"),
    [({"format": "q8"}, "no format"), ({"threads": 2}, "no threads 2"), ({"kv": "int8"}, "no kv 'int8'")],
)
def test_options_of_packed_weights_are_refused(option: dict[str, object], reason: str) -> None:
    from miaotui.kernels.linear.formats import Format  # noqa: PLC0415  (likewise)

    changed = {name: Format(value) if name == "format" else value for name, value in option.items()}
    config = tiny_config("llama")
    with pytest.raises(RequestError, match=reason):
        assemble(config, tiny_weights(config), EngineOptions(backend="reference", **changed))  # type: ignore[arg-type]


def test_draft_heads_are_refused_by_name() -> None:
    backend = backend_of()
    with pytest.raises(RequestError, match="no draft head"):
        backend.find_draft_head(None)  # type: ignore[arg-type]


NOTHING_COMPILED = """
import json, sys
from pathlib import Path
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.runtime import load_model
from miaotui.types import SamplingParams
loaded = load_model(Path(sys.argv[1]), EngineOptions(backend="reference"), Settings.from_env())
engine = Engine(loaded.parts, loaded.tokenizer)
params = SamplingParams(max_tokens=5, temperature=1.0, top_p=0.9, top_k=40, logprobs=2, ignore_eos=True)
request = engine.submit([1, 2, 3], params)
while engine.step():
    pass
compiled = [name for name in sys.modules if name.split(".")[0] in ("numba", "llvmlite")]
print(json.dumps([len(request.completion().token_ids), compiled]))
"""


def test_nothing_is_compiled(tmp_path: Path) -> None:
    """Neither the compiler nor what loads its machine code is imported, from the files to the answer."""
    path = make_tiny_folder(tmp_path, "llama")
    command = [sys.executable, "-c", NOTHING_COMPILED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [5, []]
