"""Questions with one right answer of three, by which a report card counts answers that an optimisation changed.

Owns the questions, own ones in English and Chinese, and how a model chooses: the answer whose tokens are likeliest. A
model may be wrong; what counts is whether the optimised one chooses otherwise (Dutta et al. 2024, "Accuracy is not all
you need"). Knows no model. Invariant: the first answer is the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUESTIONS: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("Question: What colour is the sky on a clear day?\nAnswer:", (" blue", " green", " red")),
    ("Question: How many legs does a spider have?\nAnswer:", (" eight", " six", " four")),
    ("Question: Which animal gives us milk?\nAnswer:", (" a cow", " a snake", " an eagle")),
    ("Question: What do plants need to grow?\nAnswer:", (" light and water", " salt and sand", " smoke and noise")),
    ("Question: What is the capital of France?\nAnswer:", (" Paris", " Rome", " Madrid")),
    ("Question: What is 7 plus 5?\nAnswer:", (" 12", " 11", " 13")),
    ("Question: What is 9 times 6?\nAnswer:", (" 54", " 45", " 56")),
    ("Question: Which of these is a fruit?\nAnswer:", (" an apple", " a hammer", " a river")),
    ("Question: What do you use to cut paper?\nAnswer:", (" scissors", " a spoon", " a pillow")),
    ("Question: Which month comes after March?\nAnswer:", (" April", " February", " June")),
    ("Question: Is ice hot or cold?\nAnswer:", (" cold", " hot", " loud")),
    ("Question: What is the opposite of early?\nAnswer:", (" late", " soon", " near")),
    ("The review says: I loved every minute of it. The review is", (" positive", " negative", " neutral")),
    ("The review says: A waste of time and money. The review is", (" negative", " positive", " neutral")),
    ("She locked the door because she wanted to feel", (" safe", " wet", " purple")),
    ("He put on a coat because it was", (" cold outside", " hot outside", " Tuesday")),
    ("The sentence 'They was late' should be 'They", (" were late", " is late", " be late")),
    ("In Python, the length of a list x is", (" len(x)", " x.length()", " size x")),
    ("To save a file on most computers, press", (" Ctrl+S", " Ctrl+Q", " Alt+F4")),
    ("Water freezes at zero degrees", (" Celsius", " metres", " litres")),
    ("问：一年有几个月？\n答：", ("十二个月", "十个月", "七个月")),
    ("问：中国的首都是哪里？\n答：", ("北京", "上海", "广州")),
    ("问：三加四等于几？\n答：", ("七", "八", "六")),
    ("问：太阳从哪边升起？\n答：", ("东边", "西边", "北边")),
    ("问：冬天的天气怎么样？\n答：", ("很冷", "很热", "很甜")),
    ("问：鱼生活在哪里？\n答：", ("水里", "树上", "沙漠里")),
    ("问：用什么写字？\n答：", ("铅笔", "筷子", "枕头")),
    ("问：“高兴”的反义词是什么？\n答：", ("难过", "开心", "快乐")),
    ("这条评论是：“太好吃了，下次还来。”态度是", ("正面的", "负面的", "中立的")),
    ("这条评论是：“等了两个小时，菜都凉了。”态度是", ("负面的", "正面的", "中立的")),
    ("下雨了，所以他带上了", ("雨伞", "墨镜", "铁锤")),
    ("医生在医院工作，老师在", ("学校工作", "海里工作", "月亮上工作")),
)


class ChoiceRow(NamedTuple):
    """Tokens of a question with one of its answers, which has the last ``answer`` of them."""

    question: int
    tokens: list[int]
    answer: int


def choice_rows(tokenizer: Any) -> list[ChoiceRow]:
    """Return a row for each question and answer, cut into tokens apart from each other."""
    rows = []
    for number, (question, answers) in enumerate(QUESTIONS):
        before = list(tokenizer.encode(question))
        for answer in answers:
            tokens = list(tokenizer.encode(answer, whole=False))
            rows.append(ChoiceRow(number, before + tokens, len(tokens)))
    return rows


def chosen(rows: Sequence[ChoiceRow], surprises: Sequence[NDArray[np.float64]]) -> list[int]:
    """Return which answer of each question is likeliest, from the surprise of each row's next tokens, in nats."""
    sums: dict[int, list[float]] = {}
    for row, surprise in zip(rows, surprises, strict=True):
        sums.setdefault(row.question, []).append(float(surprise[-row.answer - 1 : -1].sum()))
    return [int(np.argmin(each)) for _, each in sorted(sums.items())]
