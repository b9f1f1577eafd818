"""Renderings for tests of templates."""

from __future__ import annotations

from typing import Any

from miaotui.text.chat import ChatTemplate

USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(messages, **options)
