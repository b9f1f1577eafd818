"""What one key's prompts leave behind is of no use to another, unless the operator says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import plain_http
import pytest
from serving import serving

from miaotui.serve.middleware.keys import add_key
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

PROMPT = "the quarterly figures that only one of the two keys may know of: " * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture(params=[False, True], ids=["apart", "shared"])
def cached(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Reused prompt tokens of the same prompt by alice, alice, bob, and alice once more."""
    path = tmp_path / "keys"
    keys = {name: add_key(path, name) for name in ("alice", "bob")}
    options = ServeSettings(("tiny",), api_key_file=str(path), share_prefix=request.param)
    operations = Operations(ServedModels())
    layers = layers_for(options, operations)

    with serving(
        {"tiny": model}, settings_in(model.parent), layers=layers, parts=lambda models: {"operations": operations}
    ) as server:
        found = []
        for name in ("alice", "alice", "bob", "alice"):
            answer = plain_http.post(
                f"{server.url}/v1/completions",
                json={"prompt": PROMPT, "max_tokens": 1, "user": "alice"},
                headers={"x-api-key": keys[name]},
            )
            assert answer.status_code == 200, answer.text
            found.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
        yield [*found, request.param]


def test_prefixes_are_reused_within_a_key(cached: list[int]) -> None:
    first, second, other, again, shared = cached
    assert first == 0
    assert second > 0
    assert again == second
    assert other == (second if shared else 0)
