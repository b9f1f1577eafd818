"""schemathesis over /openapi.json: whatever the page allows, and much that it does not, is never a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from serving import Serving, serving

from tiny_encoder_models import TASKS, make_encoder_folder
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

pytestmark = [pytest.mark.clients, pytest.mark.slow]

EXAMPLES = 8  # of each operation
ANSWER_S = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("schema")
    encoders = {task: make_encoder_folder(folder, task) for task in TASKS}
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder), encoders=encoders) as running:
        yield running


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_operation_ever_fails(server: Serving, mode: str) -> None:
    """Bodies as the page describes them, and bodies that break what it says."""
    import schemathesis  # noqa: PLC0415 - a second, and only where the marker is asked for
    from schemathesis import GenerationMode  # noqa: PLC0415

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        name = f"{operation.method.upper()} {operation.path}"

        def attack(case: Any, name: str = name) -> None:
            answer = case.call(timeout=ANSWER_S)
            assert answer.status_code < 500, (name, case.body, answer.text)
            tried[name] = tried.get(name, 0) + 1

        strategy = operation.as_strategy(generation_mode=GenerationMode(mode))
        run = settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        _each(strategy, run, attack)
    assert len(tried) >= 8, tried
    assert server.in_flight() == 0


def _each(strategy: Any, run: settings, attack: Any) -> None:
    from hypothesis import given  # noqa: PLC0415
    from hypothesis.errors import Unsatisfiable  # noqa: PLC0415

    @run
    @given(case=strategy)
    def one(case: Any) -> None:
        attack(case)

    try:
        one()
    except Unsatisfiable:  # an operation that takes nothing cannot be asked wrongly
        return
