"""Folders and settings: from the environment, by each platform's habit, with clear errors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from miaotui.config import Settings, _folders, cache_error, format_size, make_folder
from miaotui.errors import CacheError, RequestError


def test_home_is_one_folder_for_everything(tmp_path: Path) -> None:
    settings = Settings.from_env({"MIAOTUI_HOME": str(tmp_path), "XDG_CACHE_HOME": "/elsewhere"})
    assert settings.cache_dir == tmp_path
    assert settings.config_dir == tmp_path / "config"


def test_home_may_be_relative_or_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert Settings.from_env({"MIAOTUI_HOME": "~/models"}).cache_dir == Path("/home/me/models")
    assert Settings.from_env({"MIAOTUI_HOME": "here"}).cache_dir == Path.cwd() / "here"


def test_linux_follows_xdg() -> None:
    env = {"XDG_CACHE_HOME": "/c", "XDG_CONFIG_HOME": "/d"}
    assert _folders(env, "linux") == (Path("/c/miaotui"), Path("/d/miaotui"))
    relative = {"XDG_CACHE_HOME": "not/absolute"}
    assert _folders(relative, "linux")[0] == Path.home() / ".cache" / "miaotui"
    assert _folders({}, "linux")[1] == Path.home() / ".config" / "miaotui"


def test_macos_and_windows_follow_their_habits() -> None:
    cache, config = _folders({}, "darwin")
    assert cache == Path.home() / "Library" / "Caches" / "miaotui"
    assert config == Path.home() / "Library" / "Application Support" / "miaotui"
    cache, config = _folders({"LOCALAPPDATA": "/l", "APPDATA": "/r"}, "win32")
    assert (cache, config) == (Path("/l/miaotui/Cache"), Path("/r/miaotui"))
    assert _folders({}, "win32")[0] == Path.home() / "AppData" / "Local" / "miaotui" / "Cache"


def test_defaults() -> None:
    settings = Settings.from_env({})
    assert not settings.offline
    assert settings.timeout_s == 30.0
    assert settings.packed_max_bytes == 64 * 10**9


@pytest.mark.parametrize(
    ("env", "offline"),
    [
        ({"MIAOTUI_OFFLINE": "1"}, True),
        ({"MIAOTUI_OFFLINE": " Yes "}, True),
        ({"MIAOTUI_OFFLINE": "0"}, False),
        ({"MIAOTUI_OFFLINE": ""}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "odd"}, False),
    ],
)
def test_offline_switch(env: dict[str, str], offline: bool) -> None:
    assert Settings.from_env(env).offline is offline


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIAOTUI_OFFLINE", "maybe"),
        ("MIAOTUI_TIMEOUT_S", "soon"),
        ("MIAOTUI_TIMEOUT_S", "-1"),
        ("MIAOTUI_TIMEOUT_S", "nan"),
        ("MIAOTUI_TIMEOUT_S", "inf"),
        ("MIAOTUI_PACKED_MAX_GB", "0"),
    ],
)
def test_values_that_cannot_be_read_are_named(name: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"{name} must be .*{value!r}"):
        Settings.from_env({name: value})


def test_numbers_are_read() -> None:
    settings = Settings.from_env({"MIAOTUI_TIMEOUT_S": "2.5", "MIAOTUI_PACKED_MAX_GB": "0.5"})
    assert (settings.timeout_s, settings.packed_max_bytes) == (2.5, 500_000_000)


def test_folders_are_made(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "cache", tmp_path / "config")
    assert settings.folder("packed").is_dir()
    assert settings.folder("packed") == tmp_path / "cache" / "packed"


def test_a_folder_that_cannot_be_made_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot write in .*file/sub.*MIAOTUI_HOME"):
        make_folder(tmp_path / "file" / "sub")


def test_a_full_disk_says_how_much_is_needed(tmp_path: Path) -> None:
    error = cache_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path, 98_362_432)
    assert str(error) == (
        f"no room to write in {tmp_path}: No space left on device; 98,362,432 bytes (98.4 MB) are "
        "needed. Free space there, or set MIAOTUI_HOME to a folder on a larger disk"
    )
    assert "needed" not in str(cache_error(OSError(errno.EFBIG, "File too large"), tmp_path))


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (10**12, "1.0 TB")]
)
def test_sizes_are_shown_in_decimal_units(size: int, text: str) -> None:
    assert format_size(size) == text
