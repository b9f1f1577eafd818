"""A hundred short texts with the right values of their fields, in English and Chinese, written for these tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

_LINES = (Path(__file__).with_suffix(".jsonl")).read_text(encoding="utf-8").splitlines()
_ROWS = [json.loads(line) for line in _LINES]
SCHEMAS: dict[str, Any] = {row["name"]: row["schema"] for row in _ROWS if "name" in row}


class Case(NamedTuple):
    """A text, the name of its schema, and the right values."""

    schema: str
    text: str
    answer: dict[str, Any]


CASES = [Case(**row) for row in _ROWS if "name" not in row]
