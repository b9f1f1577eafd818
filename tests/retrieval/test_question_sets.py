"""The question sets: each answer stands in its passage, a fifth of the questions have none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "questions"
SETS = sorted(FOLDER.glob("*.jsonl"))
CALIBRATION = sorted((FOLDER / "calibration").glob("*.jsonl"))
CHECK = sorted((FOLDER / "check").glob("*.jsonl"))  # nothing is fitted on these


@pytest.mark.parametrize("path", [*SETS, *CALIBRATION, *CHECK], ids=lambda path: path.stem)
def test_a_set_is_whole(path: Path) -> None:
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^# (.*)$", page)
    assert len(headings) == len(set(headings))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["question"] for row in rows}) == len(rows)
    for row in rows:
        if row["answers"]:
            assert row["passage"] in headings, row
            section = page.partition(f"# {row['passage']}\n")[2].partition("\n# ")[0].casefold()
            assert any(answer.casefold() in section for answer in row["answers"]), row
        else:
            assert "passage" not in row, row


def test_there_are_four_sets_of_25_questions() -> None:
    assert [path.stem for path in SETS] == ["broadband.en", "broadband.zh", "pool.en", "pool.zh"]
    for path in SETS:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert (len(rows), sum(not row["answers"] for row in rows)) == (25, 5)
