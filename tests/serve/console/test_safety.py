"""Hostile texts of the model, of documents and files: no script runs, and nothing is asked of other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attacks import ATTACKS
from console_page import ALL, ConsolePage, PageMaker
from playwright.sync_api import expect

FEW = ATTACKS if ALL else ATTACKS[::12]
USER = {"role": "user", "content": "x", "parent": None, "created": 1}


def shown(page: ConsolePage) -> str:
    """All text of the page."""
    return page.page.locator("body").inner_text()


def test_what_the_model_writes_is_text(open_page: PageMaker) -> None:
    """Each attack is written by a real model, whose tokens are bytes: a stream splits it at every place."""
    page = open_page()
    for attack in FEW:
        page.force(attack, temperature=0)
        answer = page.ask("x")
        expect(answer.locator(".problem")).to_have_count(0)
        for each in answer.locator("a").all():
            each.hover()
        page.check_safe()


def conversation(texts: tuple[str, ...]) -> str:
    """A file in which every text that a person reads is an attack."""
    messages: list[dict[str, Any]] = [{**USER, "id": "m0"}]
    for number, text in enumerate(texts, 1):
        call = {"id": text, "function": {"name": text, "arguments": text}}
        answer = {"state": "failed", "error": text, "finish": text, "tokens": [{"id": 1, "text": text, "source": text}]}
        said = {
            "id": f"m{number}",
            "parent": f"m{number - 1}",
            "role": "assistant",
            "content": text,
            "created": number + 1,
        }
        messages.append({**said, "reasoning": text, "toolCalls": [call], "answer": answer})
    made = {"id": "c", "title": texts[0], "created": 1, "updated": 1, "leaf": messages[-1]["id"], "messages": messages}
    return json.dumps({"format": "miaotui-conversations", "version": 1, "conversations": [made]})


def test_what_a_file_brings_is_text(open_page: PageMaker, tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(conversation(ATTACKS), encoding="utf-8")
    page = open_page()
    page.page.locator(".history input[type=file]").set_input_files(path)
    expect(page.page.locator("article.message.assistant")).to_have_count(60)
    page.page.get_by_role("button", name="Show earlier").click()
    expect(page.page.locator("article.message")).to_have_count(61)
    page.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.page.wait_for_timeout(300)
    page.check_safe()
    for link in page.page.locator(".markdown a").all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"


BROKEN = (
    "{",
    "[]",
    '{"format": "other"}',
    '{"format": "miaotui-conversations", "version": 1, "conversations": [{"id": "<b>", "messages": []}]}',
    '{"format": "miaotui-conversations", "version": 1, "conversations": [{"id": "a", "title": "t", "created": 1, '
    '"updated": 1, "leaf": "m", "messages": [{"id": "m", "role": "user", "content": "x", "created": 1, "parent": "n"}, '
    '{"id": "n", "role": "user", "content": "x", "created": 1, "parent": "m"}]}]}',
    '{"format": "miaotui-conversations", "conversations": [{"__proto__": {"id": "a"}, "messages": []}]}',
)


def test_a_broken_file_changes_nothing_and_is_named(open_page: PageMaker, tmp_path: Path) -> None:
    page = open_page()
    page.force("one", temperature=0)
    page.ask("keep me")
    for number, text in enumerate(BROKEN if ALL else BROKEN[::2]):
        path = tmp_path / f"{number}.json"
        path.write_text(text, encoding="utf-8")
        page.page.locator(".history input[type=file]").set_input_files(path)
        expect(page.page.locator(".notices")).to_contain_text("file is")
        expect(page.page.locator(".history li")).to_have_count(1)
    page.check_safe()


def test_what_a_document_holds_is_text(open_page: PageMaker, tmp_path: Path) -> None:
    texts = ATTACKS if ALL else ATTACKS[::6]
    body = "\n\n".join(f"The fact {number} of the moat is {text} indeed." for number, text in enumerate(texts))
    path = tmp_path / "<img src=x onerror=window.hit=1>.txt"
    path.write_text(body, encoding="utf-8")
    page = open_page("/#documents")
    page.page.get_by_role("textbox", name="Index").or_(page.page.get_by_role("combobox", name="Index")).fill("moat")
    page.page.locator("input[type=file]").set_input_files(path)
    expect(page.page.locator(".uploads")).to_contain_text("indexed")
    page.page.get_by_label("Question").fill("What is the fact 3 of the moat?")
    page.page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.page.locator(".answer-text, .hint, .problem").first).to_be_visible()
    for opener in page.page.locator(".citations button").all():
        opener.click()
        expect(page.page.locator("dialog mark")).to_be_visible()
        page.check_safe()
        page.page.keyboard.press("Escape")
    page.check_safe()
    assert "window.hit" in shown(page)
