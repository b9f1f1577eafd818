"""Forms of tasks in the browser: texts and options go out, tables and CSV come back."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from console_page import ALL, ConsolePage, PageMaker
from playwright.sync_api import expect

from miaotui.retrieval.graph import KnowledgeGraph
from miaotui.tasks.recommend import Recommender
from miaotui.tasks.recommend.file import save_recommender

rarely = pytest.mark.skipif(not ALL, reason="make test-console-all runs it")


def choose_task(page: ConsolePage, task: str) -> None:
    page.page.locator("select").filter(has_text=page.name("Summarise", "摘要")).last.select_option(task)


@rarely
def test_words_that_carry_a_label_are_marked(open_page: PageMaker, look: tuple[str, int]) -> None:
    page = open_page("/#tasks", locale=look[0], width=look[1])
    page.page.locator("textarea").fill("the cat sat\nping pong")
    page.page.locator("form input[type=text]").first.fill("animal, game")
    page.press("Run", "运行")
    expect(page.page.locator("tbody tr")).to_have_count(2)
    expect(page.page.locator("tbody mark").first).to_be_visible()
    page.picture("words")
    page.check_safe()


@rarely
def test_a_task_gives_a_table_and_csv(open_page: PageMaker, look: tuple[str, int], tmp_path: Path) -> None:
    page = open_page("/#tasks", locale=look[0], width=look[1])
    choose_task(page, "summarize")
    path = tmp_path / "texts.csv"
    lines = '"Cats sleep a lot, they do. Dogs bark."\r\n"房子很旧。门开着。"\r\n'
    path.write_text(lines, encoding="gb18030")  # as spreadsheets in Chinese write it
    page.page.locator("input[type=file]").set_input_files(path)
    page.press("Run", "运行")
    expect(page.page.locator("tbody tr")).to_have_count(2)
    page.picture("tasks")
    with page.page.expect_download() as download:
        page.press("Save as CSV", "保存为 CSV")
    saved = Path(download.value.path()).read_bytes()
    assert saved.startswith(codecs.BOM_UTF8)  # by which they know that it is UTF-8
    assert '"Cats sleep a lot, they do.' in saved.decode()
    assert "房子很旧" in saved.decode()
    path.write_bytes(bytes(9 << 20))
    page.page.locator("input[type=file]").set_input_files(path)
    expect(page.page.locator(".problem")).to_contain_text(page.name("is larger than 8 MB", "大于 8 MB"))


@rarely
def test_questions_are_decided(open_page: PageMaker, look: tuple[str, int]) -> None:
    page = open_page("/#tasks", locale=look[0], width=look[1])
    choose_task(page, "decide")
    for kind, options in (("predicate", ""), ("choice", "cat, dog"), ("score", "low, middle, high")):
        page.page.locator("form select").first.select_option(kind)
        page.page.locator("form input[type=text]").last.fill(options)
        page.press("Run", "运行")
        expect(page.page.locator("tbody tr")).to_have_count(2)
        label = page.page.locator("tbody td").nth(1).inner_text()
        assert label in (options.split(", ") if options else "✓✗")
    page.picture("decide")
    page.check_safe()


@rarely
def test_recommenders_and_graphs_answer(
    open_page: PageMaker, look: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path))
    for folder in ("recommenders", "graphs"):
        (tmp_path / folder).mkdir()
    rows = [(f"u{user}", f"i{(user + step) % 9}", step, 1) for user in range(12) for step in range(4)]
    save_recommender(Recommender.fit(rows), tmp_path / "recommenders" / "shop.npz")
    graph = KnowledgeGraph([("Anna Lind", "spouse", "Bo Berg"), ("Bo Berg", "profession", "carpenter")])
    graph.save(tmp_path / "graphs" / "people.json")
    page = open_page("/#tasks", locale=look[0], width=look[1])
    choose_task(page, "recommend")
    page.page.locator("textarea").fill("i1, i2\ni4")
    page.press("Run", "运行")
    expect(page.page.locator("tbody tr")).to_have_count(2)
    expect(page.page.locator("tbody td").nth(1)).to_contain_text("item: i")
    choose_task(page, "graph")
    page.page.locator("textarea").fill("the profession of Anna Lind's spouse")
    page.press("Run", "运行")
    expect(page.page.locator("tbody")).to_contain_text("Bo Berg → profession → carpenter")
    page.picture("graph")
    page.page.locator("form input[type=text]").first.fill("none")
    page.press("Run", "运行")
    expect(page.page.locator(".problem")).to_contain_text("none")
    page.check_safe()
