"""Chatting in the browser: what a person does, and what the page and the server make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from console_page import ALL, ConsolePage
from playwright.sync_api import expect
from serving import Serving

rarely = pytest.mark.skipif(not ALL, reason="make test-console-all runs it")
CODE = "# Head\n\nSome **bold** text, a table and code:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
CODE += "```python\nprint(1)\n```\n\n$x^2$ and [late]\n\n- one\n- two\n\n[late]: https://example.org"


def test_an_answer_is_shown_as_markdown(console: ConsolePage) -> None:
    console.force(CODE, temperature=0)
    answer = console.ask("Write some code.")
    expect(answer.locator("h1")).to_have_text("Head")
    expect(answer.locator("td")).to_have_text(["1", "2"])
    expect(answer.locator("pre .hljs-built_in")).to_have_text("print")
    expect(answer.locator("math")).to_be_visible()
    grown = answer.locator(".markdown").inner_html()
    console.press("Copy", "复制", answer.locator("figure"))
    console.picture("chat")
    console.check_safe()
    assert 'href="https://example.org"' in grown
    console.page.reload()
    again = console.whole_answer().locator(".markdown")
    expect(again.locator("pre .hljs-built_in")).to_have_text("print")
    expect(again.locator("math")).to_be_visible()
    assert again.inner_html() == grown, "an answer that grew is not what its whole text is"


def test_stop_ends_the_answer_and_frees_the_server(console: ConsolePage, server: Serving) -> None:
    console.force(ignore_eos=True, max_tokens=25_000)
    console.send("Write for long.")
    answer = console.page.locator("article.message.assistant").last
    expect(answer.locator(".markdown")).not_to_be_empty()
    console.press("Stop", "停止", answer)
    console.page.wait_for_timeout(200)
    assert server.in_flight() == 0
    expect(answer).to_contain_text(console.name("Stopped.", "已停止。"))


def test_answers_and_edits_are_branches(console: ConsolePage) -> None:
    console.force("one", temperature=0)
    console.ask("first")
    console.force("two", temperature=0)
    console.press("Again", "重新回答", console.page.locator("article.assistant"))
    answer = console.whole_answer()
    expect(answer).to_contain_text("two")
    expect(answer.locator(".branches")).to_contain_text("2 / 2")
    answer.locator(".branches button").first.click()
    expect(console.page.locator("article.assistant")).to_contain_text("one")
    asked = console.page.locator("article.user")
    console.press("Edit", "编辑", asked)
    asked.get_by_role("textbox").fill("changed")
    console.press("Send", "发送", asked)
    console.whole_answer()
    assert console.asked[-1]["messages"][-1]["content"] == "changed"
    expect(console.page.locator("article.user .branches")).to_contain_text("2 / 2")


def test_an_answer_that_a_reload_breaks_off_goes_on_byte_for_byte(console: ConsolePage) -> None:
    fields = {"ignore_eos": True, "max_tokens": 6000, "temperature": 1}
    console.force(**fields)
    console.send("Write for long.")
    expect(console.page.locator("article.assistant .markdown")).not_to_be_empty()
    console.page.wait_for_timeout(600)
    console.page.reload()
    console.whole_answer()
    first, again = console.asked[0], console.asked[-1]
    assert 0 < len(again["answer_token_ids"]) < 6000
    assert again["seed"] == first["seed"]
    asked = {**first, **fields, "stream": False}
    whole = console.page.evaluate(
        "async (body) => (await fetch('v1/chat/completions', {method: 'POST', body: JSON.stringify(body)})).json()",
        asked,
    )
    (kept,) = (each for each in console.page.evaluate(MESSAGES) if each["role"] == "assistant")
    assert kept["content"] == whole["choices"][0]["message"]["content"]
    assert [token["id"] for token in kept["answer"]["tokens"]] == [t["id"] for t in whole["choices"][0]["tokens"]]


MESSAGES = """() => new Promise((resolve) => {
  indexedDB.open("miaotui").onsuccess = (event) => {
    const found = event.target.result.transaction("messages").objectStore("messages").getAll();
    found.onsuccess = () => resolve(found.result);
  };
})"""


def test_history_is_kept_found_exported_and_imported(console: ConsolePage, tmp_path: Path) -> None:
    console.force("an owl", temperature=0)
    console.ask("Which bird?")
    console.page.reload()
    expect(console.page.locator("article.assistant")).to_contain_text("an owl")
    show_history(console)
    console.page.get_by_role("searchbox").fill("OWL")
    expect(console.page.locator(".history li")).to_have_count(1)
    console.page.get_by_role("searchbox").fill("a horse")
    expect(console.page.locator(".history li")).to_have_count(0)
    console.page.get_by_role("searchbox").fill("")
    before, path = exported(console), tmp_path / "kept.json"
    path.write_text(before, encoding="utf-8")
    console.page.locator(".history li button").last.click()
    expect(console.page.locator(".history li")).to_have_count(0)
    console.page.locator(".history input[type=file]").set_input_files(path)
    expect(console.page.locator("article.assistant")).to_contain_text("an owl")
    show_history(console)
    assert exported(console) == before
    assert console.dialogs


def show_history(console: ConsolePage) -> None:
    if not console.page.locator(".history").is_visible():
        console.press("History", "历史")


def exported(console: ConsolePage) -> str:
    with console.page.expect_download() as download:
        console.press("Export all", "全部导出")
    return Path(download.value.path()).read_text(encoding="utf-8")


@rarely
def test_options_go_into_the_request(console: ConsolePage) -> None:
    console.press("Options", "选项")
    panel = console.page.locator(".options")
    panel.get_by_role("textbox").first.fill("Be brief.")
    for name, value in (("Temperature", "0.5"), ("Seed", "7")):
        panel.get_by_label(console.name(name, {"Temperature": "温度", "Seed": "随机种子"}[name])).fill(value)
    console.picture("options")
    console.press("Options", "选项")
    console.force("yes")
    console.ask("Go.")
    body = console.asked[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["seed"]) == (0.5, 7)


@rarely
def test_a_schema_holds_the_answer(console: ConsolePage) -> None:
    console.press("Options", "选项")
    console.page.locator(".options summary").first.click()
    schema = console.page.locator(".options textarea.json").first
    schema.fill("{")
    expect(console.page.locator(".options .problem")).to_be_visible()
    schema.fill('{"enum": ["red", "blue"]}')
    console.press("Options", "选项")
    assert json.loads(console.ask("A colour?").locator(".markdown").inner_text()) in ("red", "blue")


@rarely
def test_a_tool_is_called_and_answered(console: ConsolePage) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    console.force(tools=[tool], tool_choice="required", temperature=0)
    answer = console.ask("Weather?")
    expect(answer.locator("legend code")).to_have_text("weather")
    answer.get_by_role("textbox").last.fill("sunny")
    console.force("It is sunny.", temperature=0)
    console.press("Send the results", "发送结果", answer)
    expect(console.whole_answer()).to_contain_text("It is sunny.")
    assert console.asked[-1]["messages"][-1]["content"] == "sunny"


@rarely
def test_an_answer_goes_on_from_its_end_and_from_an_alternative(console: ConsolePage) -> None:
    console.force(max_tokens=6, temperature=0, logprobs=True, top_logprobs=3, ignore_eos=True)
    answer = console.ask("Go.")
    expect(answer).to_contain_text(console.name("reached its limit", "达到了词元上限"))
    console.force(max_tokens=12, temperature=0, logprobs=True, top_logprobs=3, ignore_eos=True)
    console.press("Continue", "继续", answer)
    expect(console.whole_answer().locator("summary")).to_contain_text("12")
    assert len(console.asked[-1]["answer_token_ids"]) == 6
    console.page.locator(".explanation summary").click()
    console.page.locator(".token-text .token").nth(7).click()
    console.picture("tokens")
    console.page.locator(".alternatives button").nth(1).click()
    expect(console.whole_answer().locator(".branches")).to_contain_text("2 / 2")
    assert len(console.asked[-1]["answer_token_ids"]) == 8


def test_the_prediction_is_shown_before_sending(console: ConsolePage) -> None:
    area = console.page.get_by_role("textbox", name=console.name("Message", "消息"))
    area.fill("How long will this take?")
    told = console.page.locator(".prediction")
    expect(told).to_contain_text(console.name("will take about", "大约需要"))
    slider = console.page.get_by_role("slider")
    slider.fill("1")
    console.press("Options", "选项")
    console.page.get_by_label(console.name("Most tokens", "最多词元")).fill("20000")
    console.page.locator(".options select").select_option("refuse")
    console.press("Options", "选项")
    expect(told).to_contain_text(console.name("would take", "超过期限"))
    console.picture("deadline")
    area.press("Enter")
    expect(console.whole_answer().locator(".problem")).to_contain_text(
        console.name("longer than the deadline", "超过了期限")
    )


@rarely
def test_requests_are_copied_as_programs(console: ConsolePage) -> None:
    console.context.grant_permissions(["clipboard-read", "clipboard-write"])
    console.force('it\'s "quoted"', temperature=0)
    answer = console.ask("It's a 'question'\nof two lines")
    for name, part in (("curl", "curl -N http://127.0.0.1"), ("Python", "client.chat.completions.create(")):
        answer.get_by_role("button", name=name, exact=True).click()
        expect(console.page.locator(".notice")).to_be_visible()
        text = console.page.evaluate("navigator.clipboard.readText()")
        assert part in text
        if name == "Python":
            compile(text, "copied.py", "exec")
    assert "answer_token_ids" not in text


@rarely
def test_a_thought_is_folded(console: ConsolePage, tmp_path: Path) -> None:
    said = {"id": "a", "role": "user", "content": "Why?", "parent": None, "created": 1}
    thought = {"id": "b", "role": "assistant", "content": "So.", "parent": "a", "created": 2, "reasoning": "I see."}
    chat = {"id": "c", "title": "t", "created": 1, "updated": 1, "leaf": "b", "messages": [said, thought]}
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"format": "miaotui-conversations", "version": 1, "conversations": [chat]}))
    console.page.locator(".history input[type=file]").set_input_files(path)
    folded = console.page.get_by_text("I see.")
    expect(console.page.get_by_text("So.")).to_be_visible()
    expect(folded).to_be_hidden()
    console.page.locator(".reasoning summary").click()
    expect(folded).to_be_visible()


@rarely
def test_without_a_place_for_history_the_chat_works_and_says_so(console: ConsolePage) -> None:
    console.context.add_init_script("IDBFactory.prototype.open = () => { throw new Error('none') }")
    console.page.reload()
    expect(console.page.locator(".notice.warning")).to_contain_text(console.name("no storage", "不提供存储"))
    console.force("still here", temperature=0)
    expect(console.ask("Are you there?")).to_contain_text("still here")
    assert not console.problems
