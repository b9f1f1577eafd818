"""The cache of machine code: what is broken is compiled again, what cannot be kept is used anyway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from miaotui.kernels.runtime import compiled

KERNEL = "runtime.passes:pass_announce"  # the quickest to compile
OTHERS = ["draft.policy:rows", "pointwise.rows:tap"]
SCRIPT = """
import sys
from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import aligned_int64
told = []
compiled.prepare(sys.argv[1:], lambda *news: told.append(news))
mail = aligned_int64(ops.MAIL_FIELDS)
announce = compiled.function("runtime.passes:pass_announce", 5)
mail[ops.MAIL_ASLEEP + 1] = 1
assert announce(1, 2, 3, mail.ctypes.data, 2) == 1
assert mail[ops.MAIL_COUNT] == 2
print(compiled.cache_folder(), "numba" if "numba" in sys.modules else "cache", told)
"""


def run(home: Path, *kernels: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *kernels],
        env={**os.environ, "MIAOTUI_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def load(home: Path, *kernels: str) -> tuple[Path, str, str]:
    """Load kernels in a fresh process: the cache folder, where code came from, what was told."""
    done = run(home, *(kernels or (KERNEL,)))
    assert done.returncode == 0, done.stderr
    folder, origin, told = done.stdout.strip().split(" ", 2)
    return Path(folder), origin, told


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_a_kernel_is_compiled_once(home: Path) -> None:
    """The second process needs no compiler; only what must be compiled is told of."""
    folder, *rest = load(home)
    assert rest == ["numba", f"[('{KERNEL}', 0, 1), ('', 1, 1)]"]
    assert [path.suffix for path in folder.iterdir()] == [".o"]
    assert load(home) == (folder, "cache", "[]")


def test_torn_files_are_compiled_again(home: Path) -> None:
    """One file cut short, one empty, one with a single bit changed."""
    kernels = [KERNEL, *OTHERS]
    folder, *_ = load(home, *kernels)
    paths = [folder / (kernel.replace(":", ".") + ".o") for kernel in kernels]
    whole = [path.read_bytes() for path in paths]
    changed = bytes([whole[2][-9] ^ 1])
    torn = [whole[0][:500], b"", whole[2][:-9] + changed + whole[2][-8:]]
    for path, data in zip(paths, torn, strict=True):
        path.write_bytes(data)
    assert load(home, *kernels) == (folder, "numba", "[]")
    for path, data in zip(paths, torn, strict=True):
        assert path.read_bytes() != data
    assert load(home, *kernels) == (folder, "cache", "[]")


def test_a_cache_that_cannot_be_written_is_done_without(home: Path, tmp_path: Path) -> None:
    """A file lies where the folder of this build belongs; not even root can write in there."""
    folder = tmp_path / load(home)[0].relative_to(home)
    folder.parent.mkdir()
    folder.write_text("in the way")
    assert load(tmp_path)[:2] == (folder, "numba")
    assert folder.read_text() == "in the way"


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "home", KERNEL)
    assert done.returncode
    last = done.stderr.splitlines()[-1]
    assert "CacheError" in last
    assert "MIAOTUI_HOME" in last


def test_a_kernel_is_one_function_for_all() -> None:
    assert compiled.address(KERNEL) == compiled.address(KERNEL)
    assert compiled.cache_folder() == compiled.cache_folder()
    assert compiled.symbol(KERNEL) == "miaotui_runtime_passes_pass_announce"
