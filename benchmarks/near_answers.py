"""Whether an embedding may decide that two questions have one answer: cosines of pairs that differ and of paraphrases.

    miaotui pull embedder
    python benchmarks/near_answers.py

Pairs that differ are made ones (`retrieval/answers/pairs`) whose negations, numbers and names agree, so that the test
of the answer cache lets them through to a likeness. Paraphrases were written for this. A threshold that keeps false
hits within 0.1% has to lie above the cosines of nearly all pairs that differ. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from miaotui.apps.meaning.encoders import find_encoders
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.retrieval.answers.similarity import marks_agree, read
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.meaning.protocols import TextEmbedder

MADE = 600
PARAPHRASES = (
    ("How do I change my password?", "How can I alter my password?"),
    ("How do I cancel my order?", "What do I do to call off my order?"),
    ("What is the capital of France?", "Which city is France's capital?"),
    ("How do I delete my account?", "How can I get rid of my account?"),
    ("How do I block my card?", "What is the way to lock my card?"),
    ("What is the population of Japan?", "How many people live in Japan?"),
    ("How do I print my invoice?", "Where can I print out my invoice?"),
    ("Why was the parcel not delivered yesterday?", "For what reason did the parcel fail to arrive yesterday?"),
    ("怎么修改我的密码？", "我想换个密码怎么弄"),
    ("怎么取消我的订单？", "订单不想要了怎么退"),
    ("法国的首都是什么？", "法国首都是哪座城市"),
    ("日本的人口是什么？", "日本有多少人"),
    ("怎么删除我的账户？", "怎样注销我的账号"),
    ("怎么打印我的发票？", "发票在哪里打印"),
    ("怎么冻结我的银行卡？", "银行卡怎么锁住"),
    ("怎么更新我的地址？", "我搬家了地址怎么改"),
)


def pass_marks(first: str, second: str) -> bool:
    """Whether the answer cache would compare the two by their likeness."""
    a, b = read(first), read(second)
    return a is not None and b is not None and marks_agree(a, b)


def cosines(embedder: TextEmbedder, pairs: list[tuple[str, str]]) -> list[float]:
    firsts = embedder.embed([first for first, _ in pairs], "query")
    seconds = embedder.embed([second for _, second in pairs], "query")
    return sorted(float(value) for value in np.einsum("nd,nd->n", firsts, seconds))


def main() -> int:
    encoders = find_encoders()
    if encoders is None:
        print("the embedder is not here: miaotui pull embedder", file=sys.stderr)
        return 2
    made = [
        (pair.first, pair.second)
        for pair in make_pairs(sample_questions(), MADE)
        if not pair.same and pass_marks(pair.first, pair.second)
    ]
    result = {}
    with encoders:
        for language in ("English", "Chinese"):
            chinese = language == "Chinese"
            embedder = encoders.embedder if chinese or encoders.english is None else encoders.english
            differ = cosines(embedder, [pair for pair in made if is_chinese(pair[0]) == chinese])
            same = cosines(embedder, [pair for pair in PARAPHRASES if is_chinese(pair[0]) == chinese])
            row = {
                "differ": len(differ),
                "differ, median": round(differ[len(differ) // 2], 3),
                "differ, nearest": round(differ[-1], 3),
                "paraphrases": len(same),
                "paraphrases, median": round(same[len(same) // 2], 3),
                "paraphrases, nearest": round(same[-1], 3),
                "paraphrases above all that differ": sum(value > differ[-1] for value in same),
            }
            result[language] = row
            print(language, "  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps({"benchmark": "near_answers", "results": result}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
