"""docs/api.md names every field and every error of the routes that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from miaotui.serve.openai import chat, completions
from miaotui.serve.openai import models as listings
from miaotui.serve.openai.chat_wire import ChatRequest
from miaotui.serve.openai.completions_wire import CompletionRequest
from miaotui.serve.settings import ServeSettings
from miaotui.serve.wire import fields
from miaotui.types import Promise

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SERVE = ROOT / "src" / "miaotui" / "serve"
MODULES = ("http/errors", "http/bodies", "wire/params", "openai/chat", "openai/completions", "openai/models")


def words() -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", PAGE))


@pytest.mark.parametrize("body", [ChatRequest, CompletionRequest])
def test_every_field_is_described(body: type[BaseModel]) -> None:
    assert set(body.model_fields) <= words()


def test_every_error_is_described() -> None:
    codes = {
        code for name in MODULES for code in re.findall(r'code="([a-z_]+)"', (SERVE / f"{name}.py").read_text("utf-8"))
    }
    assert codes
    assert codes <= words()


def test_every_member_of_the_promise_is_described() -> None:
    assert set(Promise.__dataclass_fields__) <= words()


def test_every_route_is_named() -> None:
    for module in (chat, completions, listings):
        for endpoint in module.routes():
            assert endpoint.path.split("/{")[0] in PAGE


def test_bounds_are_those_of_the_code() -> None:
    stated = PAGE.split("Bounds are")[1]
    for bound in (fields.MAX_N, fields.MAX_STOPS, fields.MAX_LOGIT_BIAS, fields.MAX_MESSAGES):
        assert f"{bound:,} " in stated
    assert f"{fields.MAX_PROMPTS} prompts" in stated
    assert f"{ServeSettings().max_body_bytes >> 20} MiB" in stated
