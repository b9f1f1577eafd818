from __future__ import annotations

import os
import pty
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from miaotui.cli import main
from miaotui.cli.output.progress import ProgressBars


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment without models, languages and connections."""
    return {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "MIAOTUI_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "MIAOTUI_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def here(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MIAOTUI_TRACEBACK", raising=False)


def miaotui(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "miaotui", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_version(env: dict[str, str]) -> None:
    done = miaotui("--version", env=env)
    assert (done.returncode, done.stdout) == (0, f"miaotui {version('miaotui')}\n")


@pytest.mark.usefixtures("here")
def test_error_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "smollm2-135"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("miaotui: error: ")
    assert err.count("\n") == 1
    assert "smollm2-135m" in err


@pytest.mark.usefixtures("here")
def test_traceback_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOTUI_TRACEBACK", "1")
    assert main(["pull", "nothing-like-it"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "line",
    [
        ["run", "missing.gguf", "why?"],
        ["run", "smollm2-135m", "why?"],
        ["run", " "],
        ["run", "why?", "--temperature", "-1"],
        ["run", "why?", "--raw", "--system", "Be brief."],
        ["chat", "./missing"],
    ],
)
def test_what_cannot_work_fails_before_anything_is_read(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 1
    err = capsys.readouterr().err
    assert err.startswith("miaotui: error: ")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("here")
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "why?", "--no-such"]) == 2
    assert "usage: miaotui run" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Model", "Here", "Languages", "Size", "License", "From"]
    assert lines[1].split()[:5] == ["smollm2-135m", "en", "98.4", "MB", "Apache-2.0"]
    assert "miaotui doctor" in lines[-1]


@pytest.mark.usefixtures("here")
def test_terms_are_shown_before_a_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "gemma3-270m"]) == 1  # offline
    err = capsys.readouterr().err
    assert err.index("Gemma Terms of Use") < err.index("miaotui: error: ")


def test_reader_that_leaves_is_no_error(env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "miaotui", "models"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_start_imports_nothing_heavy(env: dict[str, str]) -> None:
    code = (
        "import sys; from miaotui.cli.options.parser import parse; import miaotui.cli.run;"
        "parse(['run', 'why?']);"
        "heavy = {'numba', 'numpy', 'rich', 'jinja2', 'huggingface_hub', 'llvmlite', 'tokenizers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_progress_without_a_terminal_is_a_line_for_each_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    with ProgressBars() as progress:
        for done in range(3):
            progress("compiling", done, 3)
        progress("downloading x.gguf", 0, None)
        progress("downloading x.gguf", 10, 10)
        progress("x.gguf (in another process)", 0, None)
    assert capsys.readouterr().err == (
        "Compiling for this processor (once) ...\nDownloading x.gguf ...\nX.gguf (in another process) ...\n"
    )


def test_a_stage_that_tells_more_is_one_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    with ProgressBars() as progress:
        for done in range(1, 201):
            progress(f"learning (loss {300 - done})", done, 200)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Learning (loss 299) ...", "Learning (loss 280) 20/200 ..."]
    assert len(lines) == 11, "one at the start, and one for each tenth"


def test_progress_in_a_terminal_is_a_bar_that_goes_away() -> None:
    code = (
        "from miaotui.cli.output.progress import ProgressBars\n"
        "with ProgressBars() as progress:\n"
        "    for done in range(4): progress('packing', done, 3)\n"
        "    for done in range(9): progress(f'learning (loss {done})', done, 9)\n"
    )
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "100"}
        subprocess.run([sys.executable, "-c", code], env=env, stderr=theirs, check=True, timeout=60)
        os.close(theirs)
        shown = terminal.read(1 << 16)
    assert b"Packing weights (once)" in shown
    assert b"100%" in shown
    assert shown.rpartition(b"Packing")[2].count(b"Learning") == 1, "a stage has one bar, whatever more it tells"
    assert shown.endswith(b"\x1b[2K")  # the bar's line is erased


def test_a_model_brings_its_companions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fetched: list[str] = []

    def fetch(name: str, _progress: object) -> Path:
        fetched.append(name)
        return Path(name)

    monkeypatch.setattr("miaotui.cli.pull.fetch", fetch)
    assert main(["pull", "embedder"]) == 0
    assert fetched == ["embedder", "bge-small-en", "all-minilm-l6-v2"]
    assert capsys.readouterr().out.splitlines() == ["embedder"]
