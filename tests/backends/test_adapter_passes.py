"""Low-rank adapters in passes: equal to the oracle's arithmetic, and the same bits alone and in any batch.

Layers are compared as in `test_engine_oracle`: the oracle gets the engine's own input of each layer and rounds where
the engine rounds, adapters included; what is left is the order of float32 sums, and a rounding that tips now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.backends.backend import Backend, RowStates, probe_chunk
from miaotui.backends.cpu.adapters import PackedAdapter, packed_size
from miaotui.backends.cpu.build import assemble
from miaotui.backends.options import EngineOptions
from miaotui.backends.reference.build import assemble as assemble_reference
from miaotui.errors import EngineError, RequestError, UnsupportedModelError
from miaotui.kernels.adapters.fields import FEW
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.model.adapters.adapter import EXPERTS, LATENT, SHARED, LowRankPair, expert_pair, matrix_of
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Heads, Oracle
from miaotui.model.reading.names import tensor_shapes
from miaotui.schedule.plan import Chunk, Plan, RowKind
from packed_oracle import PackedOracle, unpacked
from tiny_engine import pack_tiny
from tiny_models import tiny_config, tiny_weights

Array = NDArray[np.float32]
Pairs = dict[str, LowRankPair]
MATRICES = (*("q", "k", "v", "o", "gate", "up", "down", "router"), *sorted(EXPERTS | SHARED | LATENT))
SMALL = {"threads": 1, "context": 256, "chunk_size": 128, "max_sequences": 8}


def random_adapter(config: ModelConfig, seed: int, rank: int = 5, only: Sequence[str] = (*MATRICES, "head")) -> Pairs:
    """Pairs for some matrices of every layer, about as large as the weights that they change."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in tensor_shapes(config).items():
        if matrix_of(name) in only and len(shape) == 2:
            for own, rows in _single(config, name, shape[0]):
                down = rng.normal(0, shape[1] ** -0.5, (rank, shape[1]))
                up = rng.normal(0, rank**-0.5, (rows, rank))
                found[own] = LowRankPair(down.astype(np.float32), up.astype(np.float32))
    return found


def _single(config: ModelConfig, name: str, rows: int) -> list[tuple[str, int]]:
    """The matrices of a canonical one, with their rows: those of all experts but one, which the adapter leaves."""
    if matrix_of(name) not in EXPERTS:
        return [(name, rows)]
    assert config.experts is not None
    return [(expert_pair(name, n), rows // config.experts.count) for n in range(config.experts.count) if n != 2]


def as_packed(pairs: Mapping[str, LowRankPair]) -> Pairs:
    """The pairs as the kernels see them, rounded to 8 bits."""
    return {name: LowRankPair(_rounded_down(pair.down), _rounded_up(pair.up)) for name, pair in pairs.items()}


def _rounded_down(down: Array) -> Array:
    return values(quantize(Format.Q8, down))


def _rounded_up(up: Array) -> Array:
    scales = np.abs(up).max(axis=1, keepdims=True) / np.float32(127)
    return (np.rint(up / scales) * scales).astype(np.float32)


def cpu_backend(config: ModelConfig, folder: Path, **options: int) -> Backend:
    return assemble(config, pack_tiny(config, folder), EngineOptions(**{**SMALL, **options})).backend  # type: ignore[arg-type]


def text(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, 320, count).tolist())


def agree(found: Array, expected: Array, share: float = 0.25) -> None:
    error = np.sort(np.abs(found - expected).max(axis=1) / expected.std())
    assert np.quantile(error, share) <= 1e-4
    assert error[-1] <= 0.1


@pytest.mark.parametrize("rank", [1, 16, 40])
@pytest.mark.parametrize(
    "variant",
    [
        "llama",
        "gemma2",
        "phi",
        "stablelm",
        "llama:24",
        "starcoder2",
        "qwen2-moe",
        "gpt-oss",
        "gemma3n",
        "gemma4",
        "deepseek-v2",
        "deepseek-v3",
    ],
)
def test_each_layer_equals_the_oracles(variant: str, rank: int, tmp_path: Path) -> None:
    """The seed is one with which no row has two experts that are equally likely: there either one is right."""
    name, _, head_dim = variant.partition(":")
    config, seed = tiny_config(name, **({"head_dim": int(head_dim)} if head_dim else {})), 4 if name == "gpt-oss" else 3
    weights, pairs = pack_tiny(config, tmp_path), random_adapter(config, seed, rank)
    backend = assemble(config, weights, EngineOptions(**SMALL)).backend
    backend.add_adapter(3, pairs)
    tokens, layers = text(seed, 61), tuple(range(config.n_layers + 1))
    chunk = probe_chunk(backend.limits, tokens, n_logits=8)._replace(adapter=3)
    result = backend.run(Plan((chunk,)), states=RowStates(layers=layers))
    oracle = PackedOracle(config, unpacked(config, weights)).with_adapter(as_packed(pairs))
    known: dict[int, Heads] = {}
    for layer in range(config.n_layers):
        agree(result.states[layer + 1], oracle.layer(result.states[layer], layer, known=known))
    agree(result.logits, oracle.head(result.states[config.n_layers])[-8:])


def test_eight_bits_of_an_adapter_change_little(tmp_path: Path) -> None:
    """Rounding the thin matrices moves logits much less than rounding activations does.

    The change of a weight is a third of the weight here, which is far more than training makes.
    """
    config = tiny_config("llama")
    weights, pairs = unpacked(config, pack_tiny(config, tmp_path)), random_adapter(config, 2, 16)
    pairs = {name: LowRankPair(pair.down, pair.up / 3) for name, pair in pairs.items()}
    exact = Oracle(config, weights).with_adapter(pairs).logits(text(0, 40))
    packed = Oracle(config, weights).with_adapter(as_packed(pairs)).logits(text(0, 40))
    rounded = PackedOracle(config, weights).with_adapter(pairs).logits(text(0, 40))

    def error(found: Array) -> float:
        return float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())

    assert error(packed) < 0.5 * error(rounded)
    assert error(packed) < 0.03


class Sequences:
    """Sequences with adapters of their own over one backend: logits of each after some tokens."""

    def __init__(self, backend: Backend, n_adapters: int, config: ModelConfig) -> None:
        self.backend = backend
        for number in range(1, n_adapters + 1):
            backend.add_adapter(number, random_adapter(config, number, rank=(4, 16, 24)[number % 3]))

    def logits(self, chunks: Sequence[Chunk]) -> list[bytes]:
        result = self.backend.run(Plan(tuple(chunks)))
        return [row.tobytes() for row in result.logits]


def chunk_of(number: int, adapter: int, count: int, start: int = 0) -> Chunk:
    pages = tuple(range(8 * number, 8 * number + 8))
    tokens = text(100 + number, start + count)[start:]
    return Chunk(
        number, start, tokens, pages, 1, kind=RowKind.DECODE if count == 1 else RowKind.PREFILL, adapter=adapter
    )


@pytest.mark.parametrize(
    ("variant", "threads"),
    [*[(v, n) for v in ("llama", "gemma2", "gpt-oss") for n in (1, 3)], ("qwen2-moe", 3), ("deepseek-v2", 3)],
)
def test_rows_have_the_same_bits_alone_and_in_any_batch(variant: str, threads: int, tmp_path: Path) -> None:
    config = tiny_config(variant)
    alone = Sequences(cpu_backend(config, tmp_path / "a"), 3, config)
    wanted = [(number, number % 4, 3 + 7 * number) for number in range(6)]  # some have no adapter
    expected = [alone.logits([chunk_of(*each)])[0] for each in wanted]
    plain = cpu_backend(config, tmp_path / "b")
    without = [plain.run(Plan((chunk_of(n, 0, count),))).logits[0].tobytes() for n, a, count in wanted if not a]
    assert without == [each for each, (_, a, _) in zip(expected, wanted, strict=True) if not a]
    assert len(set(expected)) == len(expected)

    together = Sequences(cpu_backend(config, tmp_path / "c", threads=threads), 3, config)
    assert sum(count for *_, count in wanted) > FEW
    assert together.logits([chunk_of(*each) for each in wanted]) == expected
    cut = Sequences(cpu_backend(config, tmp_path / "d", threads=threads), 3, config)
    cut.logits([chunk_of(number, adapter, count - 1)._replace(n_logits=0) for number, adapter, count in wanted[1:]])
    assert cut.logits([chunk_of(n, a, 1, start=count - 1) for n, a, count in wanted[1:]]) == expected[1:]


def test_the_reference_backend_computes_what_the_oracle_does() -> None:
    config = tiny_config("qwen3")
    weights = tiny_weights(config)
    backend = assemble_reference(config, weights, EngineOptions(backend="reference", context=64)).backend
    pairs = {number: random_adapter(config, number) for number in (1, 2)}
    for number, each in pairs.items():
        backend.add_adapter(number, each)
    chunks = [chunk_of(0, 1, 9), chunk_of(1, 0, 5), chunk_of(2, 2, 7)]
    logits = backend.run(Plan(tuple(chunks))).logits
    oracle = Oracle(config, weights)
    for row, chunk in zip(logits, chunks, strict=True):
        expected = oracle.with_adapter(pairs.get(chunk.adapter, {})).logits(chunk.tokens)[-1]
        assert np.abs(row - expected).max() < 5e-3 * np.abs(expected).max()
    backend.remove_adapter(2)
    with pytest.raises(EngineError, match="adapter 2 was removed"):
        backend.run(Plan((chunks[2],)))


def test_an_adapter_that_was_never_added_is_refused(tmp_path: Path) -> None:
    config = tiny_config("llama")
    backend = cpu_backend(config, tmp_path)
    with pytest.raises(EngineError, match="adapter 1 was removed, or never added"):
        backend.run(Plan((chunk_of(0, 1, 3),)))
    backend.add_adapter(1, random_adapter(config, 1, only=("q",)))
    backend.run(Plan((chunk_of(0, 1, 3),)))
    backend.remove_adapter(1)
    with pytest.raises(EngineError, match="adapter 1 was removed"):
        backend.run(Plan((chunk_of(0, 1, 3),)))


def test_adapters_that_do_not_fit_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("llama")
    backend, pairs = cpu_backend(config, tmp_path), random_adapter(config, 1)
    monkeypatch.setattr("miaotui.backends.backend.ADAPTER_SHARE", 1e-9)
    with pytest.raises(RequestError, match="unload another one, or use one of a lower rank"):
        backend.add_adapter(1, pairs)
    monkeypatch.undo()
    stream = {"layers.0.laurel_left": next(iter(pairs.values()))}
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.laurel_left, which is not supported per request"):
        backend.add_adapter(1, stream)
    with pytest.raises(EngineError, match="never added"):
        backend.run(Plan((chunk_of(0, 1, 3),)))


def test_its_memory_is_known_beforehand() -> None:
    config = tiny_config("stablelm")
    pairs = random_adapter(config, 1, rank=17)
    assert packed_size(config, pairs) == PackedAdapter(config, pairs).size_bytes
