"""A library that is missing ends in one error, which names the remedy on this system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from miaotui.errors import MissingLibraryError
from miaotui.libraries import need, remedy_for
from tiny_models import make_tiny_folder


def test_what_is_there_is_imported() -> None:
    assert need("json.decoder").JSONDecodeError


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(
        MissingLibraryError, match=r"sklearn is not installed here\. Run: pip install 'miaotui\[apps\]'"
    ):
        need("sklearn.svm")


@pytest.mark.parametrize(
    ("library", "system", "machine", "version", "remedy"),
    [
        ("tantivy", "linux", "x86_64", (3, 10), "pip install miaotui"),
        ("tantivy", "win32", "ARM64", (3, 13), "x86-64"),
        ("rjieba", "win32", "ARM64", (3, 13), "x86-64"),
        ("tantivy", "win32", "AMD64", (3, 13), "pip install miaotui"),
        ("numba", "win32", "ARM64", (3, 11), "Python 3.12 or later"),
        ("numba", "win32", "ARM64", (3, 12), "pip install miaotui"),
        ("llvmlite", "darwin", "x86_64", (3, 14), "Python 3.10 to 3.13"),
        ("llvmlite", "darwin", "x86_64", (3, 13), "pip install miaotui"),
        ("numba", "darwin", "arm64", (3, 14), "pip install miaotui"),
        ("symspellpy", "win32", "ARM64", (3, 13), "miaotui[spelling]"),
    ],
)
def test_the_remedy_fits_the_system(
    library: str, system: str, machine: str, version: tuple[int, int], remedy: str
) -> None:
    assert remedy in remedy_for(library, system, machine, version)


@pytest.mark.parametrize("library", ["llvmlite", "numpy"])
def test_python_and_command_line_name_what_the_engine_misses(library: str, tmp_path: Path) -> None:
    model = str(make_tiny_folder(tmp_path, "llama"))
    block = f"import sys; sys.modules[{library!r}] = None; "
    loading = subprocess.run(
        [sys.executable, "-c", f"{block}import miaotui; miaotui.load({model!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"MissingLibraryError: the library {library} is not installed here." in loading.stderr
    running = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{block}from miaotui.cli import main; sys.exit(main(['run', {model!r}, 'y', '--raw']))",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert running.returncode == 1
    assert f"the library {library} is not installed here. Run: pip install miaotui" in running.stderr
    assert running.stderr.count("\n") == 1
