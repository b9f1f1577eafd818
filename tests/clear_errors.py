"""Shape of a clear error, and a small command line, for tests of bad input."""

from __future__ import annotations

import re
from pathlib import Path

import miaotui

# What a message asks the reader to do, in one of these words.
REMEDY = re.compile(
    r"\b(again|another|ask|change|check|choose|convert|correct|did you mean|download|expected|free"
    r"|generate|get|give|known|load|lower|make|must be|name|report|run|send|set|shorten|unset|use)\b",
    re.IGNORECASE,
)


SHORT = ["--max-tokens", "4", "--ignore-eos", "--raw"]


def clear(text: str) -> None:
    """One line of bearable length that names a remedy."""
    assert "\n" not in text
    assert 20 < len(text) < 1500
    assert REMEDY.search(text), text


def use(model: Path, prompt: str = "Hello there") -> None:
    with miaotui.load(model, threads=1) as llm:
        llm.generate(prompt, max_tokens=2)


def kept(home: Path) -> set[str]:
    packed = home / "packed"
    return {path.name for path in packed.iterdir()} if packed.is_dir() else set()
