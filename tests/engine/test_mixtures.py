"""Mixtures of experts in the compiled pass: the experts chosen, and the reading of those alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.backends.cpu.backend import Runner
from miaotui.backends.cpu.program import Program
from miaotui.backends.cpu.workspace import KvPages, Workspace, rotation_tables
from miaotui.errors import ModelFormatError
from miaotui.kernels.experts.fields import FEW, FIRST_USED, ROUTE_FIELDS, USED, USED_FIELDS
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.config import ExpertsConfig, ModelConfig
from miaotui.model.experts import ExpertGroups, route
from miaotui.schedule.plan import Chunk
from tiny_engine import pack_tiny
from tiny_models import tiny_config

ROWS = 61
PAGES = tuple(range(-(-ROWS // 16)))


def with_experts(**changed: object) -> ModelConfig:
    """One layer of experts, with some of its properties changed."""
    config = tiny_config("qwen3-moe", num_hidden_layers=1)
    assert config.experts is not None
    return dataclasses.replace(config, experts=dataclasses.replace(config.experts, **changed))  # type: ignore[arg-type]


def run_rows(config: ModelConfig, folder: Path, rows: int, threads: int) -> Program:
    """Compute the first rows of a text; the program, whose buffers show what was done."""
    space = Workspace(config, ROWS, 1)
    program = Program(
        config, pack_tiny(config, folder), space, KvPages(config, len(PAGES), "f16"), rotation_tables(config, ROWS)
    )
    tokens = tuple(np.random.default_rng(9).integers(0, 320, rows).tolist())
    Runner(program, shared_pool(threads)).run([Chunk(0, 0, tokens, PAGES, 1)])
    return program


def expected_routes(program: Program, experts: ExpertsConfig, rows: int) -> dict[int, list[tuple[int, float]]]:
    """By expert: its rows and weights, computed in NumPy from the pass's own router inputs."""
    space = program.workspace.mixture
    assert space is not None
    router = program.weights.matrix("layers.0.router")
    weights = router.data.view(np.float32).reshape(-1, router.inputs, 16).transpose(0, 2, 1).reshape(-1, router.inputs)
    logits = space.inputs.floats(rows, router.inputs) @ weights[: experts.count].T
    bias = program.weights.vector("layers.0.router_bias") if experts.biased else None
    numbers, shares = route(logits, experts, bias)
    found: dict[int, list[tuple[int, float]]] = {}
    for row in range(rows):
        for number, share in zip(numbers[row], shares[row], strict=True):
            found.setdefault(int(number), []).append((row, float(share)))
    return found


def found_routes(program: Program) -> dict[int, list[tuple[int, float]]]:
    """By expert: its rows and weights as the pass has listed them."""
    space = program.workspace.mixture
    assert space is not None
    used, routes = space.used, space.routes.reshape(-1, ROUTE_FIELDS)
    weights = routes.view(np.float32)[:, 2]
    found = {}
    for number in range(int(used[USED])):
        expert, first, count = used[FIRST_USED + USED_FIELDS * number :][:USED_FIELDS].tolist()
        found[expert] = [(int(routes[at, 0]), float(weights[at])) for at in range(first, first + count)]
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 2, FEW, FEW + 1, ROWS])
def test_rows_are_listed_by_expert(rows: int, threads: int, tmp_path: Path) -> None:
    config = tiny_config("qwen3-moe", num_hidden_layers=1)
    assert config.experts is not None
    program = run_rows(config, tmp_path, rows, threads)
    expected, found = expected_routes(program, config.experts, rows), found_routes(program)
    assert list(found) == sorted(expected)
    for expert, routes in expected.items():
        assert [row for row, _ in found[expert]] == [row for row, _ in routes]
        np.testing.assert_allclose([w for _, w in found[expert]], [w for _, w in routes], rtol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"scores": "sigmoid", "biased": True, "scale": 2.5},
        {"normalized": False},
        {"count": 33, "chosen": 7},
        {"chosen": 8},
        {"count": 1, "chosen": 1},
        {"count": 12, "groups": ExpertGroups(4, 2, 1)},
        {"scores": "sigmoid", "biased": True, "count": 16, "groups": ExpertGroups(4, 2, 2), "scale": 2.5},
    ],
    ids=str,
)
def test_every_way_of_routing(changed: dict[str, object], tmp_path: Path) -> None:
    config = with_experts(**changed)
    assert config.experts is not None
    program = run_rows(config, tmp_path, ROWS, 1)
    expected, found = expected_routes(program, config.experts, ROWS), found_routes(program)
    assert sum(map(len, found.values())) == ROWS * config.experts.chosen
    for expert, routes in expected.items():
        np.testing.assert_allclose([w for _, w in found[expert]], [w for _, w in routes], rtol=1e-4)


def test_of_equal_scores_the_lower_number_is_chosen() -> None:
    config = with_experts().experts
    assert config is not None
    numbers, weights = route(np.zeros((2, 8), np.float32), config)
    assert numbers.tolist() == [[0, 1, 2]] * 2
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)


def by_hand(scores: np.ndarray, groups: ExpertGroups, chosen: int) -> list[int]:
    """The chosen experts of one row: the best groups, then the best experts in them, by sorting."""
    size = len(scores) // groups.number
    rank = [sum(sorted(scores[g * size : (g + 1) * size])[-groups.best :]) for g in range(groups.number)]
    kept = sorted(range(groups.number), key=lambda g: (-rank[g], g))[: groups.kept]
    open_ = [e for e in range(len(scores)) if e // size in kept]
    return sorted(sorted(open_, key=lambda e: (-scores[e], e))[:chosen])


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 3), (8, 2)]), st.sampled_from([1, 2]))
def test_experts_are_chosen_within_the_best_groups(seed: int, counts: tuple[int, int], best: int) -> None:
    config = with_experts(count=16, chosen=4, groups=ExpertGroups(*counts, best)).experts
    assert config is not None
    logits = np.random.default_rng(seed).standard_normal((5, 16)).astype(np.float32)
    numbers, _ = route(logits, config)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    for row, scores in zip(numbers, exps / exps.sum(axis=1, keepdims=True), strict=True):
        assert row.tolist() == by_hand(scores, config.groups, 4)


@pytest.mark.parametrize("groups", [(3, 1, 1), (8, 9, 1), (8, 1, 1), (8, 8, 2), (4, 2, 3), (0, 1, 1)], ids=str)
def test_groups_that_no_model_can_have_are_refused(groups: tuple[int, int, int]) -> None:
    with pytest.raises(ModelFormatError, match="group"):
        with_experts(groups=ExpertGroups(*groups))
