"""Questions about pages of a textbook, in Chinese and English: definitions, lists, steps, reasons, phrases."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import miaotui
from miaotui.apps.answering import Answer, compose
from miaotui.apps.evidence import Passage, gather
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.llm import LLM
from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.languages import is_chinese

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
SECTIONS |= {
    "Pretraining › Masked language models": "A masked language model hides some of the words and learns to fill them "
    "in from their context. It was proposed by Ada Brandt in 2018. The usual masking strategies are:\n"
    "- random masking: hides words by chance\n- whole-word masking: hides all pieces of a word\n"
    "- span masking: hides a run of words\n"
    "Whole-word masking works better because the pieces of a word give each other away.",
    "Evaluation › MLBench": "MLBench is an open suite of benchmarks that measures how fast models train and answer. "
    "It is maintained by several companies, which publish results twice a year.",
    "Fine-tuning › Steps": "Fine-tuning fits a pretrained model to a new task. It takes these steps:\n"
    "1. Prepare labelled data\n2. Load the pretrained weights\n3. Train a few rounds with a small learning rate\n"
    "4. Choose the best round on the validation set\n"
    "With too large a learning rate the model forgets what it learned before, which is called catastrophic forgetting.",
    "Deployment › Quantization": "Quantization turns 32-bit weights into 8-bit integers, so that the model becomes "
    "about four times smaller. To reduce the error, every 32 weights share one scale. A quantized model is faster on a "
    "processor because less data is read from memory.",
}
# A question, and the words that its answer has; a phrase stands alone.
LISTS = (
    ("哪些掩码策略", ("随机掩码", "全词掩码", "片段掩码")),
    ("常用的掩码策略有哪些？", ("随机掩码", "全词掩码", "片段掩码")),
    ("怎么微调模型？", ("准备带标签的数据", "加载预训练权重", "较小的学习率", "验证集")),
    ("微调有哪些步骤？", ("准备带标签的数据", "加载预训练权重", "较小的学习率", "验证集")),
    ("Which masking strategies are there?", ("random masking", "whole-word masking", "span masking")),
    ("How do I fine-tune a model?", ("labelled data", "pretrained weights", "learning rate", "validation set")),
    ("What are the steps of fine-tuning?", ("labelled data", "pretrained weights", "learning rate", "validation set")),
)
EXPLAINED = (
    ("MLPerf是什么", ("基准测试",)),
    ("什么是MLPerf？", ("基准测试",)),
    ("什么是灾难性遗忘？", ("忘记",)),
    ("全词掩码为什么在中文上效果更好？", ("几个字",)),
    ("量化后的模型为什么更快？", ("内存",)),
    ("片段掩码是怎么做的？", ("遮住连续的一段字",)),
    ("学习率过大会怎样？", ("灾难性遗忘",)),
    ("What is MLBench?", ("benchmarks",)),
    ("What is catastrophic forgetting?", ("forgets",)),
    ("Why does whole-word masking work better?", ("pieces",)),
    ("Why is a quantized model faster?", ("memory",)),
    ("How does span masking work?", ("a run of words",)),
)
PHRASES = (
    ("掩码语言模型是谁提出的？", "杨帆"),
    ("掩码语言模型是哪一年提出的？", "2018年"),
    ("多少个权重共用一个比例？", "32"),
    ("Who proposed the masked language model?", "Ada Brandt"),
    ("When was the masked language model proposed?", "2018"),
    ("How many weights share one scale?", "32"),
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with Index.create(tmp_path_factory.mktemp("book") / "book") as index:
        index.add([Document(f"s{n}", text, title) for n, (title, text) in enumerate(SECTIONS.items())])
        yield index


def answered(book: Index, question: str, llm: LLM | None = None) -> Answer:
    mode = "extractive" if llm is None else "generated"
    *_, answer = QaPipeline(book, llm).ask(Question(question, "book", mode, deadline_ms=120_000))
    assert isinstance(answer, Answer)
    return answer


def is_echo(answer: Answer, question: str) -> bool:
    """Whether the answer's text only repeats the question."""
    said = answer.text.strip("？?。 ")
    return said in question


@pytest.mark.parametrize(("question", "wanted"), LISTS)
def test_a_list_and_steps_are_given_whole(book: Index, question: str, wanted: tuple[str, ...]) -> None:
    answer = answered(book, question)
    assert all(each in answer.text for each in wanted)
    assert len(answer.text.splitlines()) == len(wanted) + 1


@pytest.mark.parametrize(("question", "wanted"), EXPLAINED)
def test_definitions_and_reasons_get_their_sentence(book: Index, question: str, wanted: tuple[str, ...]) -> None:
    answer = answered(book, question)
    assert all(each in answer.text for each in wanted)
    assert not any(other in answer.text for other in ("随机掩码", "random masking"))


@pytest.mark.parametrize("question", ["MLPerf有几种语言的版本？", "How many languages does MLBench support?"])
def test_a_count_of_what_the_page_does_not_have_is_not_found(book: Index, question: str) -> None:
    assert not answered(book, question).found


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


@pytest.mark.slow
@pytest.mark.model
def test_a_chat_model_answers_each_question_in_its_form_and_language(book: Index) -> None:
    phrases = dict(PHRASES)
    with miaotui.load("qwen2.5-coder-0.5b") as llm:
        for question, wanted in (*LISTS, *EXPLAINED, *((question, (phrase,)) for question, phrase in PHRASES)):
            answer = answered(book, question, llm)
            assert answer.found, question
            assert answer.supported, question
            assert all(each in answer.text for each in wanted), (question, answer.text)
            assert is_chinese(answer.text) == is_chinese(question) or answer.text in wanted
            assert not is_echo(answer, question)
            if question in phrases:
                assert len(answer.text) <= len(phrases[question]) + 4, question
