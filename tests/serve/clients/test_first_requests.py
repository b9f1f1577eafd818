"""The first request of each route waits for no import and no compiler: a deadline would not survive them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_models import make_tiny_folder

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("first")
    made = make_tiny_folder(folder, "llama", max_position_embeddings=4096)
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "first_requests.py"), str(made)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_every_route_answers_as_expected(found: dict[str, dict[str, object]]) -> None:
    assert len(found) == 14
    for name, each in found.items():
        assert each["status"] == each["expected"], name


def test_no_first_request_imports_loads_or_compiles(found: dict[str, dict[str, object]]) -> None:
    assert {name: each["new"] for name, each in found.items() if each["new"]} == {}
