"""A few documents in English and Chinese, made for these tests, in an index of their own."""

from __future__ import annotations

from pathlib import Path

from miaotui.retrieval import Document, Index

DOCUMENTS = (
    Document(
        "lighthouse",
        "The lighthouse of Arden Point was built in 1874 by Clara Voss. It is 41 metres tall. "
        "The lamp was replaced because the old one leaked oil. About 12,500 people visit it each "
        "year, and 35% of them arrive by boat.",
        title="Arden Point",
        source="arden.md",
    ),
    Document(
        "museum",
        "The museum in Lowmere opens at nine. Entry costs $14 for adults. The collection of clocks "
        "was given by Peter Hallam in March 1952. Its oldest clock took three years to restore.",
        title="Lowmere Museum",
    ),
    Document(
        "bridge",
        "青石桥位于云安市，由建筑师林远设计，于1923年建成。桥长二百一十米，共有九个桥孔。"
        "因为洪水频繁，桥墩在1956年加固。",
        title="青石桥",
    ),
    Document("tea", "白露茶产自南屏山，每年三月采摘。约瑟夫·哈兰在他的游记中称赞了它的香气。", title="白露茶"),
)


def open_library(folder: Path) -> Index:
    index = Index.create(folder / "library")
    index.add(DOCUMENTS)
    return index
