"""Miaotui's folder on a full disk, read-only, torn; prompts from pipes: all in processes of their own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clear_errors import SHORT, clear, kept, use
from miaotui.kernels.runtime import compiled
from tiny_models import make_tiny_folder, make_tiny_gguf


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own that knows the compiled kernels."""
    kernels = compiled.cache_folder().parent
    folder = tmp_path_factory.mktemp("home")
    (folder / "kernels").symlink_to(kernels, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        patch.setenv("MIAOTUI_OFFLINE", "1")
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.delenv("MIAOTUI_TRACEBACK", raising=False)
        yield folder


@pytest.fixture(scope="module")
def gguf(home: Path) -> Path:
    return make_tiny_gguf(home, "llama")


def process(
    home: Path, *line: str, stdin: bytes = b"", limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, with ``home`` as its home."""
    return subprocess.run(
        [sys.executable, "-m", "miaotui", *line],
        env={**os.environ, "MIAOTUI_HOME": str(home), "MIAOTUI_OFFLINE": "1"},
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )


def failed_clearly(done: subprocess.CompletedProcess[bytes], *expected: str) -> None:
    lines = [line for line in done.stderr.decode().splitlines() if not line.endswith("...")]
    assert done.returncode == 1, lines
    assert done.stdout == b""
    assert len(lines) == 1, lines
    clear(lines[0])
    for text in expected:
        assert text in lines[0]


@pytest.fixture
def fresh(home: Path, tmp_path: Path) -> Path:
    """A home where nothing is packed yet."""
    place = tmp_path / "fresh"
    place.mkdir()
    (place / "kernels").symlink_to((home / "kernels").resolve(), target_is_directory=True)
    return place


@pytest.fixture(scope="module")
def wide(home: Path) -> Path:
    """A model whose packed weights take about 2 MB."""
    return make_tiny_folder(home, "llama", seed=5, intermediate_size=6400)


def mount(*options: str) -> bool:
    """Whether a file system could be mounted; only root may."""
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


def test_a_full_disk_while_packing(fresh: Path, wide: Path) -> None:
    """A file system of 1 MB where one may be mounted, else files of at most 1 MB."""
    packed = fresh / "packed"
    packed.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(packed))
    try:
        limit = None if mounted else _small_files
        done = process(fresh, "run", str(wide), "Hello", *SHORT, limit=limit)
        failed_clearly(done, str(packed), "MIAOTUI_HOME", "bytes")
        assert list(packed.iterdir()) == []
    finally:
        if mounted:
            subprocess.run(["umount", str(packed)], check=True, timeout=10)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_file_size_limit_while_packing(fresh: Path, wide: Path) -> None:
    done = process(fresh, "run", str(wide), "Hello", *SHORT, limit=_small_files)
    failed_clearly(done, "MIAOTUI_HOME")
    assert kept(fresh) == set()


@pytest.mark.parametrize("place", ["", "packed"], ids=["home", "packed"])
def test_a_file_where_a_folder_belongs(place: str, fresh: Path, gguf: Path) -> None:
    target = (fresh if place else fresh / "home") / (place or ".")
    target.write_text("in the way")
    home = fresh if place else target
    failed_clearly(process(home, "run", str(gguf), "Hello", *SHORT), "MIAOTUI_HOME")
    assert target.read_text() == "in the way"


def test_a_home_that_is_read_only(fresh: Path, gguf: Path, home: Path, tmp_path: Path) -> None:
    """What is packed there is used; what is not gives one clear error."""
    mounted = mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(fresh))
    try:
        if mounted:
            (fresh / "kernels").symlink_to((home / "kernels").resolve(), target_is_directory=True)
        first = process(fresh, "run", str(gguf), "Hello", *SHORT)
        if not mounted or not mount("-o", "remount,ro", str(fresh)):
            (fresh / "packed").chmod(0o555)  # enough for whoever is not root
        again = process(fresh, "run", str(gguf), "Hello", *SHORT)
        assert again.returncode == 0, again.stderr
        assert again.stdout == first.stdout
        other = make_tiny_gguf(tmp_path, "llama", seed=1)
        failed_clearly(process(fresh, "run", str(other), "Hello", *SHORT), "MIAOTUI_HOME")
    finally:
        if mounted:
            subprocess.run(["umount", str(fresh)], check=True, timeout=10)


def test_torn_caches_are_made_again(fresh: Path, gguf: Path) -> None:
    """Packed weights cut short, zeroed, or of another model under this one's name."""
    whole = process(fresh, "run", str(gguf), "Hello", *SHORT)
    assert whole.returncode == 0, whole.stderr
    (packed,) = (fresh / "packed").glob("*.packed")
    good = packed.read_bytes()
    for torn in (good[: len(good) // 2], bytes(len(good)), good[:4096] + bytes(len(good) - 4096)):
        packed.write_bytes(torn)
        use_in(fresh, gguf)
        assert packed.read_bytes() == good
    (fresh / "packed" / f".{packed.stem}.0123abcd.part").write_bytes(b"left by a crash")
    assert process(fresh, "run", str(gguf), "Hello", *SHORT).stdout == whole.stdout


def use_in(home: Path, model: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(home))
        use(model)


def test_prompts_from_standard_input(fresh: Path, gguf: Path) -> None:
    failed_clearly(process(fresh, "run", str(gguf), "-", stdin=b"\xff\xfe half"), "UTF-8")
    failed_clearly(process(fresh, "run", str(gguf), "-", stdin=b"word " * 1_000_000), "characters")
