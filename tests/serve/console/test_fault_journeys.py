"""What must not lose anything: a full storage, none at all, a server that starts anew, files that are gone or large."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from console_page import ALL, ConsolePage, PageMaker
from playwright.sync_api import Locator, expect
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.skipif(not ALL, reason="make test-console-all runs it")
LONG = {"ignore_eos": True, "max_tokens": 15_000, "temperature": 1}
NO_STORAGE = "IDBFactory.prototype.open = () => { throw new Error('none') }"


def history(console: ConsolePage) -> Locator:
    """The list of conversations, shown also where the page is narrow."""
    if not console.page.locator(".history").is_visible():
        console.press("History", "历史")
    return console.page.locator(".history li")


def exported(console: ConsolePage) -> list[dict[str, Any]]:
    history(console)
    with console.page.expect_download() as download:
        console.press("Export all", "全部导出")
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["conversations"]


def two_chats(console: ConsolePage) -> None:
    """Two conversations, and the first one again."""
    for text in ("an owl", "a horse"):
        console.force(text, temperature=0)
        expect(console.ask(f"Is it {text}?")).to_contain_text(text)
        if text == "an owl":
            history(console)
            console.press("New chat", "新对话", console.page.locator(".history"))
    history(console).last.get_by_role("button").first.click()
    expect(console.page.locator("article.assistant")).to_contain_text("an owl")


def test_a_full_storage_is_said_and_loses_nothing(console: ConsolePage) -> None:
    client = console.context.new_cdp_session(console.page)
    quota = {"origin": console.url, "quotaSize": 1}
    client.send("Storage.overrideQuotaForOrigin", quota)
    two_chats(console)
    expect(console.page.locator(".notice.warning")).to_contain_text(console.name("storage is full", "存储空间已满"))
    console.picture("full")
    assert [len(each["messages"]) for each in exported(console)] == [2, 2]
    client.send("Storage.overrideQuotaForOrigin", {"origin": console.url})
    history(console).first.get_by_role("button").last.click()  # what is removed makes room for the rest
    expect(console.page.locator(".history li")).to_have_count(1)
    expect(console.page.locator(".notice.warning")).to_have_count(0)
    console.page.reload()
    expect(console.page.locator("article.assistant")).to_contain_text("an owl")
    assert not console.problems


def test_without_storage_conversations_stay_until_the_page_is_closed(console: ConsolePage) -> None:
    console.context.add_init_script(NO_STORAGE)
    console.page.reload()
    two_chats(console)
    history(console)
    console.page.get_by_role("searchbox").fill("horse")
    expect(console.page.locator(".history li")).to_have_count(1)
    assert [len(each["messages"]) for each in exported(console)] == [2, 2]


def test_an_answer_goes_on_when_the_server_is_back(open_page: PageMaker, look: tuple[str, int], tmp_path: Path) -> None:
    models = {"tiny": make_tiny_folder(tmp_path, "llama", max_position_embeddings=1 << 15)}
    settings = settings_in(tmp_path)
    with serving(models, settings) as first:
        page = open_page(locale=look[0], width=look[1], url=first.url)
        page.force(**LONG)
        page.send("Write for long.")
        expect(page.page.locator("article.assistant .markdown")).not_to_be_empty()
    answer = page.whole_answer()
    expect(answer.locator(".problem")).to_contain_text(page.name("about to stop", "即将停止"))
    page.picture("away")
    with serving(models, settings, port=int(first.url.rsplit(":", 1)[1])):
        page.press("Continue", "继续", answer)
        expect(answer.locator(".problem")).to_have_count(0)
        answer = page.whole_answer()
        expect(answer.locator(".problem")).to_have_count(0)
        begun = page.asked[-1]["answer_token_ids"]
        assert 0 < len(begun) < LONG["max_tokens"]
        asked = {**page.asked[0], **LONG, "stream": False}
        whole = page.page.evaluate(ASK, asked)
        page.page.reload()
        kept = exported(page)[0]["messages"][-1]
        assert kept["content"] == whole["choices"][0]["message"]["content"]


def test_a_tab_that_closes_frees_the_server(console: ConsolePage, server: Serving) -> None:
    console.force(ignore_eos=True, max_tokens=25_000)
    console.send("Write for long.")
    expect(console.page.locator("article.assistant .markdown")).not_to_be_empty()
    assert server.in_flight() == 1
    console.page.close()
    time.sleep(0.2)
    assert server.in_flight() == 0


def test_a_page_whose_files_are_gone_shows_plain_text(console: ConsolePage) -> None:
    console.context.route("**/console/part-*", lambda route: route.fulfill(status=404, body="{}"))
    console.force("```python\nprint(1)\n```\n\n$x^2$", temperature=0)
    answer = console.ask("Write some code.")
    expect(answer.locator("pre")).to_have_text("print(1)")
    expect(answer.locator(".formula")).to_have_text("x^2")
    console.check_safe()
    console.context.unroute("**/console/part-*")


def test_a_document_of_fifty_megabytes_is_indexed_and_a_larger_one_named(open_page: PageMaker, tmp_path: Path) -> None:
    page = open_page("/#documents")
    page.page.locator("input[list]").fill("large")
    large, larger = tmp_path / "large.log", tmp_path / "larger.log"
    line = "2026-11-30 request 😀 was answered after so many milliseconds, and nothing else is written in this line\n"
    large.write_text(line * (50_000_000 // len(line.encode())) + "The moat has nine herons.\n", encoding="utf-8")
    larger.write_bytes(b"a line of a file\n" * (65 << 20 >> 4))
    page.page.evaluate(TASKS)
    page.page.locator("input[type=file]").set_input_files([large, larger])
    uploads = page.page.locator(".uploads")
    expect(uploads).to_contain_text("64 MB", timeout=180_000)
    expect(uploads).to_contain_text("indexed")
    longest_ms = page.page.evaluate("Math.max(0, ...tasks)")
    print(f"50 MB: the longest task takes {longest_ms:.0f} ms")
    assert longest_ms < 5000
    page.page.get_by_label("Question").fill("herons of the moat")
    page.press("Search", "搜索")
    expect(page.page.locator(".hits q").first).to_contain_text("nine herons")
    page.check_safe()


ASK = """async (body) =>
  (await fetch("v1/chat/completions", {method: "POST", body: JSON.stringify(body)})).json()
"""
TASKS = """() => {
  window.tasks = [];
  const note = (list) => list.getEntries().forEach((each) => tasks.push(each.duration));
  new PerformanceObserver(note).observe({type: "longtask"});
}"""
