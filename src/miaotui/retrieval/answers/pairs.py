"""Pairs of questions made from questions: paraphrases, and misleading ones.

Owns the ways to rephrase and to mislead, in English and Chinese. Knows no cache. Invariant: a pair's label is true by
construction, and equal questions and seed give equal pairs. For operators without labelled pairs of their own; pairs
from their own traffic are better.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from miaotui.retrieval.answers.calibrate import Pair


def _words(text: str) -> list[str]:
    return text.split()


_ENGLISH = {
    "How do I {} my {}?": (
        _words("change cancel activate block update close delete find print verify"),
        _words("card account password address order invoice subscription photo number plan"),
    ),
    "What is the {} of {}?": (
        _words("capital population area climate language currency history height"),
        _words("France Norway Peru Kenya Japan Canada Chile Egypt"),
    ),
    "Which {} opens before {} on Sunday?": (
        _words("bank museum library shop office station"),
        _words("7 8 9 10 11 12"),
    ),
    "Why was the {} not {} yesterday?": (
        _words("payment parcel refund transfer invoice report"),
        _words("sent accepted delivered printed booked approved"),
    ),
}
_CHINESE = {
    "怎么{}我的{}？": (
        _words("修改 取消 激活 冻结 更新 关闭 删除 查询 打印 验证"),
        _words("银行卡 账户 密码 地址 订单 发票 会员 照片 手机号 套餐"),
    ),
    "{}的{}是什么？": (
        _words("法国 挪威 秘鲁 日本 加拿大 埃及 智利 印度"),
        _words("首都 人口 面积 气候 语言 货币 历史 国旗"),
    ),
    "昨天的{}为什么没有{}？": (_words("付款 包裹 退款 转账 发票 报告"), _words("发出 通过 送达 打印 入账 批准")),
}
_HAN = re.compile("[\u3400-\u9fff]")
_SAME_EN: tuple[Callable[[str], str], ...] = (
    lambda q: f"Hi, {q[0].lower()}{q[1:]}",
    lambda q: q.rstrip("?"),
    lambda q: f"Please tell me: {q}",
    lambda q: f"{q} Thanks in advance",
    str.lower,
    lambda q: re.sub(r"\bthe ", "", q),
)
_SAME_ZH: tuple[Callable[[str], str], ...] = (
    lambda q: f"请问{q}",
    lambda q: q.rstrip("？"),
    lambda q: f"你好，{q}",
    lambda q: f"{q.rstrip('？')}呢？谢谢",
    lambda q: q.replace("的", ""),
)


def sample_questions() -> list[str]:
    """Return questions of everyday kinds, a few hundred, in English and Chinese."""
    return [
        frame.format(first, second)
        for frames in (_ENGLISH, _CHINESE)
        for frame, (firsts, seconds) in frames.items()
        for first in firsts
        for second in seconds
    ]


def make_pairs(questions: Sequence[str], count: int = 8_000, seed: int = 0) -> list[Pair]:
    """Make ``count`` pairs from ``questions``, one in four of equal meaning."""
    chance = random.Random(seed)  # noqa: S311  (nothing secret)
    known = set(questions)
    pairs: list[Pair] = []
    for attempt in range(20 * count):
        if len(pairs) == count or not questions:
            break
        question = questions[chance.randrange(len(questions))]
        if attempt % 4 == 0:
            ways = _SAME_ZH if _HAN.search(question) else _SAME_EN
            pairs.append(Pair(question, chance.choice(ways)(question), True))
            continue
        other = _misleading(question, questions, chance)
        if other not in known and other != question:
            pairs.append(Pair(question, other, False))
    return pairs


def _misleading(question: str, questions: Sequence[str], chance: random.Random) -> str:
    """Return a question with another meaning and nearly the same words."""
    chinese = bool(_HAN.search(question))
    parts = list(question.rstrip("?？")) if chinese else question.rstrip("?").split()
    other = questions[chance.randrange(len(questions))].rstrip("?？")
    theirs = list(other) if _HAN.search(other) else other.split()
    place = chance.randrange(len(parts))
    way = chance.randrange(4)
    if way == 0:  # a word of another question
        parts[place] = chance.choice(theirs) + ("x" if not chinese else "")
    elif way == 1:  # one more condition
        parts.append(chance.choice(("以前", "在国外", "两次") if chinese else _CONDITIONS))
    elif way == 2:  # a number
        parts.insert(place, str(chance.randrange(2, 99)))
    else:  # the opposite
        parts.insert(place, "不" if chinese else "not")
    return "".join(parts) + "？" if chinese else " ".join(parts) + "?"


_CONDITIONS = ("abroad", "twice", "for children", "without paper", "before March")
