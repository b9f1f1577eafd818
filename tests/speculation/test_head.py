"""A draft head against NumPy, its file against bad ones, and answers with it against answers without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sampling_oracle as oracle

from miaotui.backends.backend import probe_chunk
from miaotui.backends.cpu import draw
from miaotui.backends.cpu.build import assemble
from miaotui.backends.options import EngineOptions
from miaotui.backends.sampling import Distribution, noise_key
from miaotui.engine.engine import Engine
from miaotui.errors import ModelFormatError
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.packed_blocks import unpack, values
from miaotui.model.draft_head.weights import HeadWeights, digest_of, load_head, path_for, write_head
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.head import DraftHead, head_for
from miaotui.speculation.drafters.protocol import HeadInput
from miaotui.speculation.drafters.suffix import SuffixDrafter
from miaotui.speculation.policy import RowCost
from miaotui.types import SamplingParams
from tiny_engine import open_parts, pack_tiny, settings_in
from tiny_models import make_tiny_gguf, tiny_config

F = np.float32
WIDTH, LAYER = 96, 1
LENGTH = 64  # tokens of a text
SHARPER = 1.15  # how much further apart than they are a head's logits are taken under noise
TOKENS = np.arange(3, 300, 2)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("head")
    parts, tokenizer = open_parts(make_tiny_gguf(folder, "llama"), settings_in(folder))
    path = folder / "head.safetensors"
    config = parts.backend.runner.program.config
    write_head(path, arrays(config.hidden_size))
    weights = parts.backend.runner.program.weights
    head = load_head(path, weights, config.tied_head)
    return parts, tokenizer, head, path


@pytest.fixture(scope="module")
def looking(opened: Any, tmp_path_factory: pytest.TempPathFactory) -> HeadWeights:
    """A head with attention."""
    program = opened[0].backend.runner.program
    config, path = program.config, tmp_path_factory.mktemp("looking") / "head.safetensors"
    write_head(path, arrays_that_look(config))
    return load_head(path, program.weights, config.tied_head)


def arrays_that_look(config: Any, **changes: Any) -> dict[str, np.ndarray]:
    hidden, heads, rng = (config.hidden_size, config.n_heads * config.head_dim, np.random.default_rng(5))
    query = rng.normal(0, 0.3, (heads, 3 * hidden)).astype(F)
    return arrays(hidden, query=query, mix=rng.normal(0, 0.3, (hidden, heads)).astype(F), **changes)


def arrays(hidden: int, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    drawn = {
        "tokens": TOKENS.astype(F),
        "gate": rng.normal(0, 0.1, (WIDTH, 3 * hidden)).astype(F),
        "up": rng.normal(0, 0.1, (WIDTH, 3 * hidden)).astype(F),
        "down": rng.normal(0, 0.3, (hidden, WIDTH)).astype(F),
        "carry": rng.uniform(0.2, 0.8, hidden).astype(F),
        "layer": np.array([LAYER], F),
    }
    return {**drawn, **changes}


def normed(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def matrix(packed: Any, tiles: slice = slice(0, 2)) -> np.ndarray:
    """Float32 rows of some tiles of each unit."""
    some = np.ascontiguousarray(packed.data[:, tiles].reshape(-1, packed.tile_stride))
    return values(unpack(packed.format, some, packed.inputs))


def reference(
    head: HeadWeights, embedding: np.ndarray, state: np.ndarray, token: int, middle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step in NumPy: the next state, and logits of the head's tokens."""
    state = normed(state)
    inputs = np.concatenate([state, normed(embedding[token]), normed(middle)])
    gate, up = (matrix(head.gate_up, part)[:WIDTH] @ inputs for part in (slice(0, 2), slice(2, 4)))
    following = head.carry * state + matrix(head.down)[: len(state)] @ (gate / (1 + np.exp(-gate)) * up)
    return following, matrix(head.outputs)[: len(head.tokens)] @ (normed(following) * head.norm)


def look_back(
    parts: Any, head: HeadWeights, state: np.ndarray, token: int, middle: np.ndarray, position: int
) -> np.ndarray:
    """The middle state, to which a head that looks back has added what it found before ``position``."""
    program = parts.backend.runner.program
    config, dim = program.config, program.config.head_dim
    embedded = matrix(program.weights.matrix("embed"))[token]
    inputs = np.concatenate([normed(state), normed(embedded), normed(middle)])
    heads = head.mix.inputs
    queries = (matrix(head.query)[:heads] @ inputs).reshape(-1, dim)
    angles = position * config.rope.inverse_frequencies()
    one, other = queries[:, : dim // 2], queries[:, dim // 2 :]
    queries = np.concatenate(
        [one * np.cos(angles) - other * np.sin(angles), other * np.cos(angles) + one * np.sin(angles)], 1
    )
    keys, values_ = stored(parts, head.layer, position)
    group, found = config.n_heads // config.n_kv_heads, []
    for number, query in enumerate(queries):
        scores = keys[:, number // group] @ query / np.sqrt(dim)
        weights = np.exp(scores - scores.max())
        found.append(weights @ values_[:, number // group] / weights.sum())
    return normed(middle) + matrix(head.mix)[: len(middle)] @ np.concatenate(found)


def stored(parts: Any, layer: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values ``[end, heads, dim]`` in the pages of the sequence that `ready` has computed."""
    program = parts.backend.runner.program
    config, pages = program.config, program.pages
    heads, dim = config.n_kv_heads, config.head_dim
    table = pages._data[: pages.n_pages * pages.page_bytes].view(np.float16)
    each = table.reshape(pages.n_pages, config.n_layers, heads, 2, 16 * dim)
    some = each[list(parts.backend.limits.spare_pages[: LENGTH // 16]), layer].astype(F)
    keys = some[:, :, 0].reshape(-1, heads, dim, 16).transpose(0, 3, 1, 2)
    values_ = some[:, :, 1].reshape(-1, heads, 16, dim).transpose(0, 2, 1, 3)
    return keys.reshape(-1, heads, dim)[:end], values_.reshape(-1, heads, dim)[:end]


def ready(parts: Any, weights: HeadWeights, most: int = 4) -> tuple[DraftHead, np.ndarray, np.ndarray]:
    """A head, and the last and middle states it may start from, filled at random, after a pass."""
    runner = parts.backend.runner
    space, hidden = runner.program.workspace, runner.program.config.hidden_size
    middle = runner.tap(weights.layer).floats(space.max_rows, hidden)
    tokens = tuple(np.random.default_rng(2).integers(0, 300, LENGTH).tolist())
    runner.run([probe_chunk(parts.backend.limits, tokens)])
    residual = space.residual[0].floats(space.max_rows, hidden)
    residual[:], middle[:] = np.random.default_rng(1).normal(0, 3, (2, *residual.shape))
    return DraftHead(parts.backend.draft_head(weights, most)), residual, middle


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("shape", [None, Distribution.of(1.0, 0, 1.0, 0.0), Distribution.of(0.5, 0, 1.0, 0.0)])
def test_drafted_tokens_are_those_that_the_reference_would_draw(
    opened: Any, looking: HeadWeights, shape: Distribution | None, looks: bool
) -> None:
    parts, _, weights, _ = opened
    weights = looking if looks else weights
    head, residual, middle = ready(parts, weights)
    embedding = matrix(parts.backend.runner.program.weights.matrix("embed"))
    agreed = total = 0
    for start in range(12):
        choice = draw.choice(shape, start, ())
        inputs = [HeadInput(start + row, 7 + row, 50 + row, choice) for row in range(3)]
        head.begin(inputs)
        found = [head.step() for _ in range(3)]
        for row, each in enumerate(inputs):
            state, token = residual[each.row].copy(), each.token
            inner = middle[each.row]
            if looks:
                inner = look_back(parts, weights, state, token, inner, each.position - 1)
            for depth in range(3):
                state, logits = reference(weights, embedding, state, token, inner)
                scores = logits * (SHARPER * shape.scale if shape else 1.0)
                if shape is not None:
                    scores = scores - waits(start, each.position + depth)[weights.tokens]
                token = found[depth][row].token
                agreed += token == weights.tokens[scores.argmax()]
                total += 1
    assert agreed >= 0.9 * total  # activations of 8 bits may decide close ones otherwise


def waits(seed: int, position: int) -> np.ndarray:
    """What each token of the tiny vocabulary waits, in octaves."""
    return oracle.log2_waits(oracle.token_noise(noise_key(seed, position), 320))


@pytest.mark.parametrize("looks", [False, True])
def test_rows_do_not_sway_each_other_and_some_may_go_on_alone(opened: Any, looking: HeadWeights, looks: bool) -> None:
    parts, _, weights, _ = opened
    head, _, _ = ready(parts, looking if looks else weights)
    choice = draw.choice(Distribution.of(1.0, 0, 1.0, 0.0), 3, ())
    inputs = [HeadInput(row, 9 * row + 1, 5, choice) for row in range(4)]
    alone = []
    for each in inputs:
        head.begin([each])
        alone.append([head.step()[0] for _ in range(3)])
    head.begin(inputs)
    assert head.step() == [tokens[0] for tokens in alone]
    head.keep([1, 3])
    assert head.step() == [alone[1][1], alone[3][1]]
    head.keep([1])
    assert head.step() == [alone[3][2]]


def test_keys_and_values_are_read_as_passes_store_them(opened: Any) -> None:
    parts, _, weights, _ = opened
    ready(parts, weights)
    for length in (1, 16, 37):
        found = parts.backend.runner.program.pages.read(LAYER, parts.backend.limits.spare_pages, length)
        keys, values_ = stored(parts, LAYER, length)
        assert np.array_equal(found[:, 0], keys)
        assert np.array_equal(found[:, 1], values_)
    assert np.abs(found.astype(F)).max() > 0.1


class FreeRows(RowCost):
    """As if rows and steps of a head cost nothing."""

    def ratio(self, rows: int) -> float:
        return 1.0

    def seconds(self, rows: int) -> float:
        return 1e9


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_answers_are_the_same_bytes_with_a_head(
    opened: Any, looking: HeadWeights, temperature: float, looks: bool
) -> None:
    parts, tokenizer, weights, _ = opened
    weights = looking if looks else weights
    prompts = [[1, 5, 9], list(range(2, 40)), [7] * 20, [3, 1, 4, 1, 5, 9, 2, 6]]
    params = [
        SamplingParams(max_tokens=40, ignore_eos=True, temperature=temperature, seed=s, top_p=p)
        for s, p in enumerate((1.0, 0.9, 1.0, 0.8))
    ]
    plain = answers(Engine(parts, tokenizer), prompts, params)
    head = DraftHead(parts.backend.draft_head(weights, 16))
    speculation = Speculation(SuffixDrafter(past_tokens=0), head=head)
    speculation.cost = FreeRows()
    engine = Engine(parts, tokenizer, speculation)
    assert answers(engine, prompts, params) == plain
    tried = {source.name: source.proposed for source in speculation.report()}
    assert tried["head"] > 20


def answers(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> list[Any]:
    requests = [engine.submit(p, q) for p, q in zip(prompts, params, strict=True)]
    while engine.step():
        pass
    return [request.completion().token_ids for request in requests]


# files --------------------------------------------------------------------------------------------


def test_a_model_without_a_head_has_none(opened: Any, tmp_path: Path) -> None:
    assert path_for(opened[0].backend.runner.program.weights, tmp_path) is None


def test_a_head_that_a_model_cannot_use_is_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, settings = tiny_config("gemma3n"), settings_in(tmp_path)
    weights = pack_tiny(config, tmp_path)
    backend = assemble(config, weights, EngineOptions(threads=1, context=64)).backend
    assert head_for(backend, settings) is None
    assert not caplog.records
    (folder := settings.folder("heads")).mkdir(parents=True, exist_ok=True)
    (folder / f"{digest_of(weights)}.safetensors").write_bytes(b"")
    assert head_for(backend, settings) is None
    (record,) = caplog.records
    assert "is not used: models with several streams" in record.getMessage()


def test_a_head_of_one_s_own_is_found(opened: Any, tmp_path: Path) -> None:
    parts, _, _, path = opened
    settings = settings_in(tmp_path)
    assert head_for(parts.backend, settings) is None
    folder = settings.folder("heads")
    own = folder / f"{digest_of(parts.backend.runner.program.weights)}.safetensors"
    own.write_bytes(path.read_bytes())
    assert head_for(parts.backend, settings) is not None
    own.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFormatError, match="download it again"):
        head_for(parts.backend, settings)


def test_models_are_told_apart_by_their_norms(opened: Any) -> None:
    digest = digest_of(opened[0].backend.runner.program.weights)
    assert len(digest) == 16
    assert digest == digest_of(opened[0].backend.runner.program.weights)


def test_a_written_head_is_read_again(opened: Any) -> None:
    parts, _, weights, _ = opened
    stored = arrays(parts.backend.runner.program.config.hidden_size)
    assert weights.tokens.tolist() == TOKENS.tolist()
    assert weights.carry == pytest.approx(stored["carry"].astype(np.float16))
    gate = matrix(weights.gate_up)[:WIDTH]
    assert np.abs(gate - stored["gate"]).max() < 0.03


def test_outputs_are_rounded_for_the_states_if_their_spread_is_known(opened: Any, tmp_path: Path) -> None:
    parts, _, plain, _ = opened
    config, weights, path = (parts.backend.runner.program.config, parts.backend.runner.program.weights, tmp_path / "h")
    rng, hidden = np.random.default_rng(6), config.hidden_size
    mixing = rng.normal(0, 1, (hidden, hidden)) * 0.8 ** np.arange(hidden)
    states = normed(rng.normal(0, 1, (3000, hidden)) @ mixing.T).astype(F)
    write_head(path, arrays(hidden, spread=states.T @ states / len(states)))
    head = load_head(path, weights, config.tied_head)
    inputs, rows = states * head.norm, slice(0, len(head.tokens))
    outer = matrix(weights.matrix("embed" if config.tied_head else "head"))
    wanted = inputs @ outer[head.tokens].T
    off, nearer = (np.square(inputs @ matrix(each.outputs)[rows].T - wanted).mean() for each in (plain, head))
    assert nearer < 0.3 * off


def test_a_packed_head_is_mapped_the_next_time(opened: Any, tmp_path: Path) -> None:
    parts, _, weights, path = opened
    store, tied = PackedStore(tmp_path), parts.backend.runner.program.config.tied_head
    first, second = (load_head(path, parts.backend.runner.program.weights, tied, store) for _ in range(2))
    assert (first.file is None, second.file is None) == (True, False)
    for name in ("gate_up", "down", "outputs"):
        one, other = getattr(weights, name), getattr(second, name)
        assert (one.format, one.inputs) == (other.format, other.inputs)
        assert np.array_equal(one.data, other.data)
    assert np.array_equal(weights.tokens, second.tokens)
    assert np.array_equal(weights.carry, second.carry)
    assert weights.layer == second.layer == LAYER


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"carry": np.ones(7, F)}, "shapes do not fit"),
        ({"gate": np.zeros((WIDTH, 6), F)}, "shapes do not fit"),
        ({"layer": np.array([99], F)}, "layer 99, which this model does not have"),
        ({"layer": np.array([-1], F)}, "layer -1, which"),
        ({"layer": np.array([1, 2], F)}, "shapes do not fit"),
        ({"tokens": np.array([5, 3, 9], F)}, "not ids"),
        ({"tokens": np.array([], F)}, "at least 1"),
        ({"tokens": np.array([1, 2, 1e6], F)}, "not ids"),
        ({"down": np.full((64, WIDTH), np.nan, F)}, "not numbers"),
        ({"spread": np.eye(32, dtype=F)}, "shapes do not fit"),
        ({"spread": -np.eye(64, dtype=F)}, "no states spread like those"),
        ({"spread": np.full((64, 64), np.inf, F)}, "not numbers"),
        ({"mix": np.zeros((64, 64), F)}, "no draft head"),
        ({"mix": np.zeros((64, 64), F), "query": np.zeros((32, 192), F)}, "shapes do not fit"),
        ({"mix": np.zeros((64, 32), F), "query": np.zeros((32, 192), F)}, "shapes do not fit"),
        ({"mix": np.full((64, 64), np.nan, F), "query": np.zeros((64, 192), F)}, "not numbers"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(opened: Any, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    parts = opened[0]
    path = tmp_path / "bad.safetensors"
    write_head(path, arrays(parts.backend.runner.program.config.hidden_size, **changes))
    with pytest.raises(ModelFormatError, match=said):
        load_head(path, parts.backend.runner.program.weights, tied=parts.backend.runner.program.config.tied_head)


def test_another_kind_of_file_is_refused(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelFormatError, match="no draft head"):
        load_head(path, opened[0].backend.runner.program.weights, tied=True)
