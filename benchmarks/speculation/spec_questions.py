"""The questions of Spec-Bench (Xia et al. 2024), their six tasks, two more of code, and which answers run in circles.

Owns reading the files, which stay wherever they are: `question.jsonl` of the Spec-Bench repository, 480 questions, and
`HumanEval.jsonl`, 164 problems (Chen et al. 2021), of which each gives a question of ``code`` (complete the function)
and one of ``edits`` (write the solved function again with a change). Knows no engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MIAOTUI_SPEC_BENCH"
TASKS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag", "code", "edits")
CODE = "Complete this Python function. Answer with the whole function.\n\n```python\n{prompt}```"
EDIT = (
    "Rename the function `{entry_point}` to `solution`. Write all of the code again, and change nothing else.\n\n"
    "```python\n{prompt}{canonical_solution}```"
)
LOOP_PERIOD = 64  # tokens: longer repetitions are not called loops
LOOP_TOKENS = 24  # at least so many, and two whole periods


@dataclass(frozen=True)
class Question:
    """One conversation: what the user says, turn by turn."""

    number: int
    task: str
    turns: tuple[str, ...]


def read_questions(path: Path | None) -> list[Question]:
    """All questions of the file ``path``, or of the file or folder that the environment names."""
    named = path or Path(os.environ.get(VARIABLE, "question.jsonl"))
    file = named / "question.jsonl" if named.is_dir() else named
    if not file.exists():
        raise SystemExit(f"{file} is not there: give Spec-Bench's question.jsonl by --data or {VARIABLE}")
    questions = []
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        task = entry["category"] if entry["category"] in TASKS else "mt_bench"
        questions.append(Question(entry["question_id"], task, tuple(entry["turns"])))
    return questions


def read_code(path: Path) -> list[Question]:
    """Questions of code and of edits from HumanEval's problems."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there: give HumanEval.jsonl by --code")
    problems = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    forms = (("code", CODE), ("edits", EDIT))
    asked = [(task, form.format(**problem)) for task, form in forms for problem in problems]
    return [Question(number, task, (turn,)) for number, (task, turn) in enumerate(asked)]


def sample(questions: Sequence[Question], per_task: int) -> list[Question]:
    """``per_task`` questions of each task, evenly spread over the file; 0: all."""
    chosen: list[Question] = []
    for task in TASKS:
        all_of_it = [question for question in questions if question.task == task]
        step = len(all_of_it) / per_task if 0 < per_task < len(all_of_it) else 1.0
        chosen += [all_of_it[int(i * step)] for i in range(int(len(all_of_it) / step))]
    return chosen


def runs_in_circles(answer: Sequence[int]) -> bool:
    """Whether the answer ends by repeating itself: such text flatters drafts made from it.

    The last tokens repeat with a period of up to 64, for 24 tokens and two periods at least.
    """
    last = len(answer) - 1
    for period in range(1, LOOP_PERIOD + 1):
        same = 0
        while same + period <= last and answer[last - same] == answer[last - same - period]:
            same += 1
        if same >= max(2 * period, LOOP_TOKENS):
            return True
    return False
