"""Kernels compiled in other processes: the same machine code, and never a need."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from miaotui.kernels.runtime import compile_workers, compiled

KERNELS = ["runtime.passes:pass_announce", "runtime.multistep:ask", "pointwise.rows:tap"]  # quick to compile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of this process and of its workers, into which this process compiles nothing."""
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path))
    compiled.cache_folder.cache_clear()
    yield compiled.cache_folder()
    compiled.cache_folder.cache_clear()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.o")} if folder.exists() else set()


def test_a_worker_compiles_what_it_is_named(folder: Path) -> None:
    """It answers with the cache's folder, then with each name; the machine code is that of this process."""
    done = subprocess.run(
        [sys.executable, "-c", compile_workers.START, *sys.path],
        input="\n".join(KERNELS[:2]) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == [str(folder), *KERNELS[:2]]
    code = (folder / "runtime.passes.pass_announce.o").read_bytes()
    assert code[32:] == compiled._compile(KERNELS[0])


def test_workers_take_what_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process waits with its own kernel until a worker has compiled the others."""
    own: list[str] = []

    def address(name: str) -> int:
        own.append(name)
        due_s = time.monotonic() + 120
        while len(files(folder)) < len(KERNELS) - 1 and time.monotonic() < due_s:
            time.sleep(0.01)
        return 0

    monkeypatch.setattr(compiled, "address", address)
    started: list[tuple[str, int]] = []
    compile_workers.compile_all(KERNELS, 2, lambda name, done: started.append((name, done)))
    assert len(own) == 1
    assert [name for name, _ in started] == own
    assert len(files(folder)) == len(KERNELS) - 1


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    "script", ["exit 1", "echo elsewhere; cat", "echo $FOLDER; read name", "echo $FOLDER; sleep 100"]
)
def test_a_worker_that_fails_is_done_without(
    script: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot start, has other settings, ends early: nothing hangs, and `prepare` compiles what it left."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FOLDER", str(folder))
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.setattr(compile_workers, "PATIENCE_S", 0.1)
    monkeypatch.setattr(compiled, "_addresses", {})
    own: list[str] = []
    monkeypatch.setattr(compiled, "_load", lambda name: own.append(name) or 1)
    compiled.prepare(KERNELS)
    assert sorted(own) == sorted(KERNELS)


def test_another_program_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a program that embeds Python, its own name is no Python to be started."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/editor")
    assert compile_workers._start_workers(3) == []
