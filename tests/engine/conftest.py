"""The fixture ``backend``, with which a module's tests of whole engines run over every backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

import tiny_engine
from miaotui.backends.options import BackendName


@pytest.fixture(scope="module", params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[BackendName]:
    """Let `tiny_engine` open this backend; fixtures that open engines for a whole module ask for it."""
    name = cast("BackendName", request.param)
    tiny_engine.use_backend(name)
    yield name
    tiny_engine.use_backend("cpu")
