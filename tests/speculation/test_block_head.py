"""A draft head with masks: all tokens after the first one in one pass, against NumPy, and the same bytes as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_head import F, FreeRows, answers, arrays, arrays_that_look, look_back, matrix, normed, ready, reference, waits

from miaotui.backends.backend import TokenChoice
from miaotui.backends.cpu import draw
from miaotui.backends.sampling import Distribution
from miaotui.engine.engine import Engine
from miaotui.errors import ModelFormatError
from miaotui.hub.store import PackedStore
from miaotui.model.draft_head.weights import MASKS, HeadWeights, load_head, write_head
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.head import DraftHead
from miaotui.speculation.drafters.protocol import HeadInput
from miaotui.speculation.drafters.suffix import SuffixDrafter
from miaotui.types import SamplingParams
from tiny_engine import open_parts, settings_in
from tiny_models import make_tiny_gguf


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("blocks")
    return open_parts(make_tiny_gguf(folder, "llama"), settings_in(folder))


def load(opened: Any, path: Path, looks: bool, store: PackedStore | None = None) -> HeadWeights:
    program = opened[0].backend.runner.program
    config = program.config
    masks = np.random.default_rng(8).normal(0, 1, (MASKS, config.hidden_size)).astype(F)
    write_head(path, arrays_that_look(config, masks=masks) if looks else arrays(config.hidden_size, masks=masks))
    return load_head(path, program.weights, config.tied_head, store)


@pytest.fixture(scope="module", params=[False, True])
def head(opened: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HeadWeights:
    return load(opened, tmp_path_factory.mktemp("head") / "head.safetensors", request.param)


@pytest.mark.parametrize("shape", [None, Distribution.of(0.7, 0, 1.0, 0.0)])
def test_a_block_is_that_of_the_reference(opened: Any, head: HeadWeights, shape: Distribution | None) -> None:
    parts, _ = opened
    drafter, residual, middle = ready(parts, head)
    embedding = matrix(parts.backend.runner.program.weights.matrix("embed"))
    assert head.masks is not None
    masks = matrix(head.masks)[:MASKS]
    agreed = total = 0
    for start in range(8):
        choice = draw.choice(shape, start, ())
        inputs = [HeadInput(start + row, 7 + row, 50 + row, choice) for row in range(3)]
        drafter.begin(inputs)
        found = [drafter.step() for _ in range(1 + MASKS)]
        for row, each in enumerate(inputs):
            inner = middle[each.row]
            if head.query is not None:
                inner = look_back(parts, head, residual[each.row].copy(), each.token, inner, each.position - 1)
            begun, logits = reference(head, embedding, residual[each.row].copy(), each.token, inner)
            for depth in range(1 + MASKS):
                if depth:  # whatever was drafted before
                    _, logits = reference(head, masks, begun, depth - 1, inner)
                scores = logits * (1.15 * shape.scale if shape else 1.0)
                if shape is not None:
                    scores = scores - waits(start, each.position + depth)[head.tokens]
                agreed += found[depth][row].token == head.tokens[scores.argmax()]
                total += 1
    assert agreed >= 0.9 * total  # activations of 8 bits may decide close ones otherwise


def test_rows_do_not_sway_each_other_and_some_may_go_on_alone(opened: Any, head: HeadWeights) -> None:
    drafter, _, _ = ready(opened[0], head)
    choice: TokenChoice = draw.choice(Distribution.of(1.0, 0, 1.0, 0.0), 3, ())
    inputs = [HeadInput(row, 9 * row + 1, 5, choice) for row in range(4)]
    alone = []
    for each in inputs:
        drafter.begin([each])
        alone.append([drafter.step()[0] for _ in range(4)])
    drafter.begin(inputs)
    assert drafter.step() == [tokens[0] for tokens in alone]
    drafter.keep([1, 2, 3])
    assert drafter.step() == [tokens[1] for tokens in alone[1:]]
    drafter.keep([0, 2])
    assert drafter.step() == [alone[1][2], alone[3][2]]
    drafter.keep([1])
    assert drafter.step() == [alone[3][3]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_the_same_bytes(opened: Any, head: HeadWeights, temperature: float) -> None:
    parts, tokenizer = opened
    prompts = [[1, 5, 9], list(range(2, 40)), [7] * 20]
    params = [
        SamplingParams(max_tokens=40, ignore_eos=True, temperature=temperature, seed=s, top_p=p)
        for s, p in enumerate((1.0, 0.9, 0.8))
    ]
    plain = answers(Engine(parts, tokenizer), prompts, params)
    drafter = DraftHead(parts.backend.draft_head(head, 16))
    assert drafter.draft_run is None
    speculation = Speculation(SuffixDrafter(past_tokens=0), head=drafter)
    speculation.cost = FreeRows()
    assert answers(Engine(parts, tokenizer, speculation), prompts, params) == plain
    tried = {source.name: source.proposed for source in speculation.report()}
    assert tried["head"] > 20


def test_masks_are_kept_in_the_packed_form(opened: Any, tmp_path: Path) -> None:
    store = PackedStore(tmp_path / "packed", 1 << 30)
    first = load(opened, tmp_path / "head.safetensors", True, store)
    again = load_head(tmp_path / "head.safetensors", opened[0].backend.runner.program.weights, True, store)
    assert first.masks is not None
    assert again.masks is not None
    assert np.array_equal(first.masks.data, again.masks.data)
    assert normed(matrix(first.masks)[0]).shape == (opened[0].backend.runner.program.config.hidden_size,)


def test_masks_of_another_number_are_refused(opened: Any, tmp_path: Path) -> None:
    program = opened[0].backend.runner.program
    hidden = program.config.hidden_size
    write_head(tmp_path / "head.safetensors", arrays(hidden, masks=np.ones((MASKS + 1, hidden), F)))
    with pytest.raises(ModelFormatError, match="shapes do not fit"):
        load_head(tmp_path / "head.safetensors", program.weights, program.config.tied_head)
