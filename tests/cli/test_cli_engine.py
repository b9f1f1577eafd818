"""The commands as a user runs them, on a tiny random model: processes, pipes and signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_models import make_tiny_gguf

NUMBERS = re.compile(r"TTFT \d+ ms · (\d+|\d\.\d|–) tokens/s · (\d+%|–) of the memory limit")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_gguf(tmp_path_factory.mktemp("models"), "llama"))


@pytest.fixture(scope="module")
def tireless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose answers last long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("models")
    return str(make_tiny_gguf(folder, "llama", max_position_embeddings=32_768))


def environment() -> dict[str, str]:
    """This user's environment, so that compiled kernels are found; English, and offline."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "MIAOTUI_OFFLINE": "1"}


def miaotui(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "miaotui", *arguments],
        env=environment() | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_run_answers_and_counts(model: str) -> None:
    done = miaotui("run", model, "Hello", "--max-tokens", "8", "--ignore-eos")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert NUMBERS.search(done.stderr.splitlines()[-1])


def test_a_model_larger_than_the_memory_runs_and_says_so_first(model: str) -> None:
    line = ["run", model, "Hello", "--raw", "--max-tokens", "8", "--ignore-eos"]
    usual, small = miaotui(*line), miaotui(*line, MIAOTUI_MEMORY_GB="0.00015")
    assert small.returncode == 0, small.stderr
    assert small.stdout == usual.stdout
    notes = [line for line in small.stderr.splitlines() if line.startswith("note: the weights of ")]
    assert len(notes) == 1
    assert "more than the 150.0 kB of memory here" in notes[0]
    assert "note: the weights" not in usual.stderr


def test_same_seed_same_answer(model: str) -> None:
    line = ["run", model, "Hello", "--max-tokens", "12", "--temperature", "1", "--ignore-eos"]
    first, again, other = (miaotui(*line, "--seed", seed).stdout for seed in ("3", "3", "4"))
    assert first == again
    assert first != other


def test_standard_input_is_the_same_prompt(model: str) -> None:
    options = ["--max-tokens", "8", "--raw", "--ignore-eos"]
    assert miaotui("run", model, "-", *options, stdin="abc").stdout == (miaotui("run", model, "abc", *options).stdout)


def test_options_of_the_model_are_accepted(model: str) -> None:
    done = miaotui("run", model, "Hi", "--max-tokens", "4", "--kv", "int8", "--threads", "1", "--system", "Hm.")
    assert done.returncode == 0, done.stderr


def test_the_backend_can_be_chosen(model: str) -> None:
    done = miaotui("run", model, "Hi", "--max-tokens", "4", "--ignore-eos", "--backend", "reference")
    assert done.returncode == 0, done.stderr
    assert NUMBERS.search(done.stderr.splitlines()[-1])
    done = miaotui("run", model, "Hi", "--backend", "reference", "--threads", "1")
    assert done.returncode == 1
    assert "reference backend has no threads" in done.stderr


def test_prompt_beyond_the_context_is_one_clear_line(model: str) -> None:
    done = miaotui("run", model, "x" * 5000)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("miaotui: error: ")


def test_corrupt_model_is_one_clear_line(model: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(model).read_bytes()[:3000])
    done = miaotui("run", str(broken), "Hello")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("miaotui: error: ")


def test_chat_from_a_pipe(model: str) -> None:
    lines = "Hello\n\n/history\nAnd?\n/reset\n/history\n/nonsense\n/exit\nnever read\n"
    done = miaotui("chat", model, "--max-tokens", "6", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert len(NUMBERS.findall(done.stderr)) == 2
    assert "> Hello\n" in done.stdout
    assert "The conversation is empty." in done.stderr
    assert "no command /nonsense" in done.stderr


def test_chat_goes_on_after_a_message_that_does_not_fit(model: str) -> None:
    done = miaotui("chat", model, "--max-tokens", "4", stdin="x" * 5000 + "\nHello\n")
    assert done.returncode == 0, done.stderr
    assert "error: " in done.stderr
    assert len(NUMBERS.findall(done.stderr)) == 1


def test_interrupt_ends_with_130(tireless: str) -> None:
    command = [sys.executable, "-m", "miaotui", "run", tireless, "Hello", "--ignore-eos"]
    with subprocess.Popen(
        [*command, "--max-tokens", "30000", "--temperature", "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)  # it is answering
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert time.monotonic() - started < 30
        assert "Traceback" not in errors


def test_reader_that_has_enough_is_no_error(tireless: str) -> None:
    command = f"{sys.executable} -m miaotui run {tireless} Hello --ignore-eos --max-tokens 30000"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
