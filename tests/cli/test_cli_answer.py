from __future__ import annotations

import io
import math
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from miaotui.cli.chat import ChatSession
from miaotui.cli.run import checked, read_prompt, show, statistics, write
from miaotui.errors import EngineError, PromptTooLongError, RequestError
from miaotui.types import Completion, Delta, Timing


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")


def completion(text: str = "four", tokens: int = 2, rate: float = 200.0) -> Completion:
    ids = tuple(range(tokens))
    return Completion(text, ids, 5, 0, "stop", Timing(0.0153, 0.1, rate))


def deltas(*texts: str) -> Iterator[Delta]:
    for text in texts:
        yield Delta(text, (1,))
    yield Delta("", (), "stop", completion("".join(texts)))


class ScriptedModel:
    """Stands where an LLM does: answers with the next script and keeps the requests."""

    def __init__(self, *scripts: list[str | BaseException]) -> None:
        self.scripts = list(scripts)
        self.requests: list[list[dict[str, str]]] = []
        self.closed = 0

    def chat_stream(self, messages: list[dict[str, str]], **params: Any) -> Iterator[Delta]:
        self.requests.append(messages)
        said = []
        try:
            for piece in self.scripts.pop(0):
                if isinstance(piece, BaseException):
                    raise piece
                said.append(piece)
                yield Delta(piece, (1,))
            yield Delta("", (), "stop", completion("".join(said)))
        finally:
            self.closed += 1

    def memory_share(self, completion: Completion) -> float:
        return 0.9


def roles(request: list[dict[str, str]]) -> list[str]:
    return [message["role"] for message in request]


# ---- one answer ----------------------------------------------------------------------------------


def test_show_streams_and_ends_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(deltas("fo", "ur")).text == "four"
    assert capsys.readouterr().out == "four\n"


def test_show_adds_no_second_newline(capsys: pytest.CaptureFixture[str]) -> None:
    show(deltas("four\n"))
    assert capsys.readouterr().out == "four\n"


def test_show_ends_the_line_of_a_broken_answer(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[Delta]:
        yield Delta("fo", (1,))
        raise EngineError("lost")

    with pytest.raises(EngineError, match="lost"):
        show(broken())
    assert capsys.readouterr().out == "fo\n"


def test_stream_without_an_end_is_a_bug() -> None:
    with pytest.raises(EngineError, match="without a completion"):
        show([Delta("x", (1,))])


def test_an_interrupt_ends_the_line_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    steps = []

    def interrupted() -> Iterator[Delta]:
        for number in range(5):
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            steps.append(number)
            yield Delta(str(number), (1,))

    with pytest.raises(KeyboardInterrupt):
        show(interrupted())
    assert steps == [0, 1]
    assert capsys.readouterr().out == "01\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_waits_for_nothing() -> None:
    def stuck() -> Iterator[Delta]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield Delta("never", (1,))

    with pytest.raises(KeyboardInterrupt):
        show(stuck())


def test_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    write("a\x1b[31m\tb\n\x9bc\x7f\r")
    assert terminal.getvalue() == "a�[31m\tb\n�c��"


def test_pipe_gets_the_exact_text(capsys: pytest.CaptureFixture[str]) -> None:
    write("a\x1b[31m")
    assert capsys.readouterr().out == "a\x1b[31m"


def test_statistics() -> None:
    line = statistics(completion(), 0.914)
    assert line == "TTFT 15 ms · 200 tokens/s · 91% of the memory limit"


@pytest.mark.parametrize(("tokens", "rate", "share"), [(1, 0.0, 0.0), (5, math.nan, math.inf)])
def test_statistics_without_a_decode_speed(tokens: int, rate: float, share: float) -> None:
    line = statistics(completion(tokens=tokens, rate=rate), share)
    assert line == "TTFT 15 ms · – tokens/s · – of the memory limit"


def test_prompt_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("你好\n".encode())))
    assert read_prompt("-") == "你好\n"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"ok\xc3"])
def test_standard_input_must_be_utf8(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(RequestError, match="UTF-8"):
        read_prompt("-")


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a" * ((16 << 20) + 1))))
    with pytest.raises(RequestError, match=r"16\.8 MB"):
        read_prompt("-")


@pytest.mark.parametrize("text", ["", "  \n", "a\udcff"])
def test_impossible_prompts(text: str) -> None:
    with pytest.raises(RequestError):
        checked(text)


# ---- a conversation ------------------------------------------------------------------------------


def test_conversation_sends_what_was_said() -> None:
    model = ScriptedModel(["Hel", "lo."], ["Fine."])
    conversation = ChatSession(model, {}, "Be brief.")
    conversation.say("Hi")
    conversation.say("How are you?")
    assert conversation.turns == [("Hi", "Hello."), ("How are you?", "Fine.")]
    assert roles(model.requests[1]) == ["system", "user", "assistant", "user"]
    assert model.requests[1][2]["content"] == "Hello."


def test_interrupted_answer_stays_in_the_conversation() -> None:
    model = ScriptedModel(["One, ", "two", KeyboardInterrupt()], ["Three."])
    conversation = ChatSession(model, {}, None)
    conversation.say("Count")
    conversation.say("Go on")
    assert conversation.turns[0] == ("Count", "One, two")
    assert model.closed == 2


def test_full_context_forgets_the_oldest_turns(capsys: pytest.CaptureFixture[str]) -> None:
    full: list[str | BaseException] = [PromptTooLongError("too long")]
    model = ScriptedModel(["1"], ["2"], ["3"], full, ["4"])
    conversation = ChatSession(model, {}, "Rule.")
    for text in "abcd":
        conversation.say(text)
    assert conversation.turns == [("c", "3"), ("d", "4")]
    assert roles(model.requests[-1]) == ["system", "user", "assistant", "user"]
    assert "oldest messages are left out" in capsys.readouterr().err


def test_a_single_message_that_does_not_fit_is_an_error() -> None:
    conversation = ChatSession(ScriptedModel([PromptTooLongError("too long")]), {}, None)
    with pytest.raises(PromptTooLongError):
        conversation.say("endless")
    assert conversation.turns == []


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = ChatSession(ScriptedModel(["Hello."]), {}, None)
    assert conversation.command("/history")
    conversation.say("Hi")
    assert conversation.command("/history now")
    assert conversation.command("/reset")
    assert conversation.command("/help")
    assert conversation.command("/nonsense")
    assert not conversation.command("/exit")
    out, err = capsys.readouterr()
    assert "> Hi\nHello.\n" in out
    assert conversation.turns == []
    assert "The conversation is empty." in err
    assert "no command /nonsense" in err
