from __future__ import annotations

import string

import pytest

from miaotui.cli.options.parser import COMMANDS, parse, sampling_params
from miaotui.cli.output import messages
from miaotui.cli.output.messages import CliMessage, language
from miaotui.errors import RequestError


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["run", "why?"], ["why?"]),
        (["run", "tiny", "why?"], ["tiny", "why?"]),
        (["run", "tiny", "--temperature", "0.5", "why?"], ["tiny", "why?"]),
        (["run", "-"], ["-"]),
        (["run", "-5 degrees, warm?"], ["-5 degrees, warm?"]),
        (["run", "tiny", "--", "--why"], ["tiny", "--why"]),
        (["run", "--", "-x"], ["-x"]),
        (["chat"], []),
        (["chat", "tiny"], ["tiny"]),
        (["pull", "owner/name"], ["owner/name"]),
        (["models"], []),
        (["doctor", "--json"], []),
    ],
)
def test_words(line: list[str], words: list[str]) -> None:
    parsed = parse(line)
    assert parsed.command == line[0]
    assert parsed.words == words


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (["rum", "x"], "unknown command rum (did you mean run?)"),
        (["run"], "expected [MODEL] PROMPT, got 0 words"),
        (["run", "why", "is", "it"], "got 3 words"),
        (["chat", "a", "b"], "got 2 words"),
        (["models", "a"], "expected no words, got 1"),
        (["pull"], "expected NAME"),
        (["run", "x", "--temp", "1"], "--temp (did you mean --temperature?)"),
        (["run", "x", "--topk=3"], "--topk=3 (did you mean --top-k?)"),
        (["run", "x", "--threads", "0"], "whole number of at least 1"),
        (["run", "x", "--threads", "two"], "whole number of at least 1"),
        (["run", "x", "--format", "q7"], "q7"),
        (["run", "x", "--kv", "f32"], "f32"),
        (["run", "x", "--top-k", "many"], "many"),
        (["run", "x", "--seed"], "expected one argument"),
        (["pull", "x", "--seed", "1"], "--seed"),
    ],
)
def test_mistakes_are_named(line: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse(line)
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("miaotui: error: ")
    assert reason in error


def test_nothing_at_all_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse([])
    assert leaving.value.code == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse([command, "--help"])
    assert leaving.value.code == 0
    assert f"usage: miaotui {command}" in capsys.readouterr().out


def test_only_named_parameters_are_passed_on() -> None:
    parsed = parse(["run", "x", "--top-p", "0.9", "--stop", "a", "--stop", "b", "--ignore-eos"])
    assert sampling_params(parsed) == {"max_tokens": 512, "top_p": 0.9, "stop": ("a", "b"), "ignore_eos": True}


@pytest.mark.parametrize("option", ["--temperature=-1", "--top-p=0", "--top-k=-1", "--min-p=2", "--max-tokens=0"])
def test_values_out_of_range_are_errors(option: str) -> None:
    with pytest.raises(RequestError, match=r"must be"):
        sampling_params(parse(["run", "x", option]))


# ---- messages ------------------------------------------------------------------------------------

ALL_MESSAGES = {name: value for name, value in vars(messages).items() if isinstance(value, CliMessage)} | {
    f"STAGES[{key}]": value for key, value in messages.STAGES.items()
}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("name", ALL_MESSAGES)
def test_both_languages_say_the_same(name: str) -> None:
    message = ALL_MESSAGES[name]
    assert fields(message.en) == fields(message.zh)
    assert message.en.isascii() or "·" in message.en


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
        ({}, "en"),
    ],
)
def test_language(env: dict[str, str], expected: str) -> None:
    assert language(env, platform="linux") == expected


def test_chinese_locale_gets_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    with pytest.raises(SystemExit):
        parse(["rum"])
    assert "未知命令 rum（是否想用 run？）" in capsys.readouterr().err
