"""Options of a transcription are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from miaotui.errors import FieldError
from miaotui.speech.transcript import TranscriptionOptions


def test_the_defaults_are_sound() -> None:
    assert TranscriptionOptions().task == "transcribe"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("language", "x" * 33),
        ("language", 3),
        ("task", "sing"),
        ("prompt", "x" * (1 << 16) + "x"),
        ("temperature", 1.5),
        ("temperature", float("nan")),
        ("temperature", True),
        ("beam_size", 0),
        ("beam_size", 17),
        ("word_times", "yes"),
        ("deadline_s", 0),
        ("deadline_s", float("inf")),
        ("seed", -1),
        ("script", "latin"),
    ],
)
def test_a_wrong_option_is_named(field: str, value: Any) -> None:
    with pytest.raises(FieldError) as caught:
        TranscriptionOptions(**{field: value})
    assert caught.value.field == field
