"""Questions about pages of a Chinese textbook: definitions, lists, steps and reasons, each in its form."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from miaotui.apps.answering import Answer, compose
from miaotui.apps.evidence import Passage, gather
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.retrieval import Document, Index

SECTIONS = {
    "预训练 › 掩码语言模型": "掩码语言模型先遮住一部分词，再让模型根据上下文补全。它由杨帆等人于2018年提出。"
    "常用的掩码策略有：\n- 随机掩码：随机遮住一些字\n- 全词掩码：遮住组成一个词的所有字\n- 片段掩码：遮住连续的一段字\n"
    "全词掩码在中文上效果更好，因为中文的一个词往往由几个字组成，只遮住一个字太容易猜。",
    "评测 › MLPerf": "MLPerf是一套衡量训练和推理速度的开源基准测试。它由多家公司共同维护，每年发布两次结果。"
    "参加者须公布所用的机器和软件版本。",
    "微调 › 步骤": "微调让预训练好的模型适应一个新任务。微调分为以下几步：\n1. 准备带标签的数据\n2. 加载预训练权重\n"
    "3. 用较小的学习率训练几轮\n4. 在验证集上选出最好的一轮\n"
    "学习率过大时，模型会忘记预训练学到的知识，这叫灾难性遗忘。",
    "部署 › 量化": "量化把权重从32位浮点数变成8位整数，模型因此变小约四倍。为了减少误差，每32个权重共用一个比例。"
    "量化后的模型在处理器上更快，因为从内存读取的数据更少。",
}
# A question, and the words that its answer has.
LISTS = (
    ("哪些掩码策略", ("随机掩码", "全词掩码", "片段掩码")),
    ("常用的掩码策略有哪些？", ("随机掩码", "全词掩码", "片段掩码")),
    ("怎么微调模型？", ("准备带标签的数据", "加载预训练权重", "较小的学习率", "验证集")),
    ("微调有哪些步骤？", ("准备带标签的数据", "加载预训练权重", "较小的学习率", "验证集")),
)
EXPLAINED = (
    ("MLPerf是什么", ("基准测试",)),
    ("什么是MLPerf？", ("基准测试",)),
    ("什么是灾难性遗忘？", ("忘记",)),
    ("全词掩码为什么在中文上效果更好？", ("几个字",)),
    ("量化后的模型为什么更快？", ("内存",)),
    ("片段掩码是怎么做的？", ("遮住连续的一段字",)),
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with Index.create(tmp_path_factory.mktemp("book") / "book") as index:
        index.add([Document(f"s{n}", text, title) for n, (title, text) in enumerate(SECTIONS.items())])
        yield index


def answered(book: Index, question: str) -> Answer:
    *_, answer = QaPipeline(book).ask(Question(question, "book"))
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize(("question", "wanted"), LISTS)
def test_a_list_and_steps_are_given_whole(book: Index, question: str, wanted: tuple[str, ...]) -> None:
    answer = answered(book, question)
    assert all(each in answer.text for each in wanted)
    assert len(answer.text.splitlines()) == len(wanted) + 1


@pytest.mark.parametrize(("question", "wanted"), EXPLAINED)
def test_definitions_and_reasons_get_their_sentence(book: Index, question: str, wanted: tuple[str, ...]) -> None:
    answer = answered(book, question)
    assert all(each in answer.text for each in wanted)
    assert "随机掩码" not in answer.text


def test_an_answer_in_another_language_than_the_passages_is_bound_to_its_own() -> None:
    english = compose(gather("What is MLPerf?", [Passage("a", SECTIONS["评测 › MLPerf"])]), len, 1_000)
    chinese = compose(gather("MLPerf是什么", [Passage("a", "MLPerf is an open benchmark of speed.")]), len, 1_000)
    same = compose(gather("MLPerf是什么", [Passage("a", SECTIONS["评测 › MLPerf"])]), len, 1_000)
    assert same.structured is None
    assert english.structured is not None
    assert chinese.structured is not None
    for said, fits in (("It is a benchmark.", (True, False)), ("MLPerf是基准测试。", (False, True))):
        forms = (english.structured["regex"], chinese.structured["regex"])
        assert tuple(re.fullmatch(form, said) is not None for form in forms) == fits
