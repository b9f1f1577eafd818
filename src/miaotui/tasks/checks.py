"""Check of a task's text, for all tasks: its type, that it says anything, and its length.

Knows no model and no task. Invariant: each error names the field, its place, and what is allowed.
"""

from __future__ import annotations

from miaotui.errors import FieldError


def require_text(text: object, index: int, most_characters: int | None = None, field: str = "texts") -> None:
    """Raise `FieldError` unless the text of a task is one that can be taken. Without a bound any length is."""
    name = f"{field}[{index}]"
    if not isinstance(text, str):
        raise FieldError(name, f"must be a text, not {type(text).__name__}")
    if not text.strip():
        raise FieldError(name, "must not be empty")
    if most_characters is not None and len(text) > most_characters:
        raise FieldError(name, f"has {len(text):,} characters, at most {most_characters:,} are taken: give parts of it")
