"""Lines to learn from, made here: small sums as chats, and plain lines."""

from __future__ import annotations

import json
from pathlib import Path


def write_chats(path: Path, count: int, start: int = 0, word: str = "sum") -> Path:
    """Write questions and answers as JSONL, each line once."""
    lines = []
    for number in range(start, start + count):
        question = f"{word} {number} {number + 1}?"
        answer = f"{word}: {2 * number + 1}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_general(path: Path) -> Path:
    """Write texts apart by empty lines, enough to measure on."""
    path.write_text("\n\n".join(f"Text {i}: the river and the hill in the rain, number {i}." for i in range(60)))
    return path
