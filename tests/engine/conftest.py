"""The fixture ``backend``, with which a module's tests of whole engines run over every backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

import tiny_engine
from miaotui.backends.options import BackendName


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run tests of real models on the CPU backend alone: a pass of one takes minutes in NumPy."""
    kept, dropped = [], []
    for item in items:
        in_numpy = isinstance(item, pytest.Function) and "[reference" in item.name
        (dropped if in_numpy and item.get_closest_marker("model") else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture(scope="module", params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[BackendName]:
    """Let `tiny_engine` open this backend; fixtures that open engines for a whole module ask for it."""
    name = cast("BackendName", request.param)
    tiny_engine.use_backend(name)
    yield name
    tiny_engine.use_backend("cpu")
