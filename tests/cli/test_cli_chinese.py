"""The command line's help in Chinese: complete, and in lines that fit."""

from __future__ import annotations

from unicodedata import east_asian_width

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.cli.options.parser import COMMANDS, Command, overview
from miaotui.cli.output.help_zh import HELP, chinese, wrap

WIDTH = 88


def columns(text: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def texts(command: Command) -> set[str]:
    parser = command.parser()
    found = [parser.description, parser.epilog]
    found += [group.title for group in parser._action_groups if group._group_actions]
    found += [action.help for action in parser._actions]
    return {text for text in found if text}


def test_every_text_has_a_translation_and_every_translation_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    shown = {text for command in COMMANDS for text in texts(command)} | {command.about for command in COMMANDS}
    assert not {text for text in shown if chinese(text) == text}
    assert not {text for text in HELP if text not in shown and text not in overview() and f"{text}:" not in overview()}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_is_chinese_and_fits(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    shown = command.parser().format_help()
    assert shown.startswith("用法：miaotui")
    assert max(map(columns, shown.splitlines())) <= WIDTH


@given(st.text("ab ，。词元-", max_size=80), st.integers(8, 40))
def test_wrapped_lines_have_all_the_text(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    words = max((columns(word) for word in text.replace("，", " ").replace("。", " ").split()), default=0)
    assert max(map(columns, lines)) <= max(width, words + 2)
