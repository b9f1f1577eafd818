"""Folders of miaotui, and the few settings from the environment.

Owns the cache and configuration folders and the wording of disk errors. Knows nothing of models, and reads the
environment only when asked (`Settings.from_env`), never at import. Invariant: a `Settings` value never changes, so
one process acts on one set of folders from start to end. The folders follow the XDG Base Directory specification on
Linux, and the platform's own habits on macOS and Windows.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import CacheError, RequestError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
MEMORY_VARIABLE = "MIAOTUI_MEMORY_GB"
HUBS = ("huggingface", "modelscope")
FULL_DISK = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True)
class Settings:
    """Folders and switches of one process.

    Repositories are not kept here but in the caches that other programs share (``HF_HOME``, ``MODELSCOPE_CACHE``).

    | variable | meaning | default |
    |---|---|---|
    | ``MIAOTUI_HOME`` | one folder for everything | the platform's folders |
    | ``MIAOTUI_OFFLINE`` | 1: never open a connection (``HF_HUB_OFFLINE`` counts too) | 0 |
    | ``MIAOTUI_TIMEOUT_S`` | seconds a download may stand still | 30 |
    | ``MIAOTUI_PACKED_MAX_GB`` | bound of the packed-weights cache, in 10**9 bytes | 64 |
    | ``MIAOTUI_MEMORY_GB`` | memory that models may count on, in 10**9 bytes | the machine's, or the container's |
    | ``MIAOTUI_ENCRYPTION_KEY_FILE`` | master keys that indexes and answers are encrypted under | no encryption |
    | ``MIAOTUI_ENCRYPTION_KEY`` | the master key itself, 32 bytes in base64 | |
    | ``MIAOTUI_MEMORY_FOLDER`` | file system in memory that encrypted indexes are opened in | ``/dev/shm`` |
    | ``MIAOTUI_HUB`` | hub of ids without ``hf:`` or ``ms:``: ``huggingface`` or ``modelscope`` | huggingface |
    """

    cache_dir: Path
    config_dir: Path
    offline: bool = False
    timeout_s: float = 30.0
    packed_max_bytes: int = 64 * 10**9
    hub: str = HUBS[0]

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read settings from ``env`` (default: the process environment).

        Raises `RequestError` for a value that cannot be read, `CacheError` when no home folder is known.
        """
        env = os.environ if env is None else env
        cache_dir, config_dir = _folders(env, sys.platform)
        return cls(
            cache_dir=cache_dir,
            config_dir=config_dir,
            offline=_switch(env, "MIAOTUI_OFFLINE") or env.get("HF_HUB_OFFLINE", "").lower() in _TRUE,
            timeout_s=_positive(env, "MIAOTUI_TIMEOUT_S", 30.0),
            packed_max_bytes=int(_positive(env, "MIAOTUI_PACKED_MAX_GB", 64.0) * 10**9),
            hub=_hub(env),
        )

    def folder(self, name: str) -> Path:
        """Return the folder ``name`` inside the cache, made if it is missing; raises `CacheError` when that fails."""
        return make_folder(self.cache_dir / name)


def memory_bound(env: Mapping[str, str] | None = None) -> int | None:
    """Return the bytes of ``MIAOTUI_MEMORY_GB``; None where it is not set. Raises `RequestError`."""
    env = os.environ if env is None else env
    return int(_positive(env, MEMORY_VARIABLE, 0.0) * 10**9) if env.get(MEMORY_VARIABLE) else None


def make_folder(path: Path) -> Path:
    """Make ``path`` with its parents; raises `CacheError` naming the folder and the remedy."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(error, path) from error
    return path


def cache_error(error: OSError, path: Path, needed_bytes: int | None = None) -> CacheError:
    """Return the `CacheError` that says what ``error`` means for ``path``; ``needed_bytes`` is what the whole write
    takes.
    """
    reason = error.strerror or str(error)
    if error.errno in FULL_DISK:
        needs = "" if needed_bytes is None else f"; {needed_bytes:,} bytes ({format_size(needed_bytes)}) are needed"
        return CacheError(
            f"no room to write in {path}: {reason}{needs}. "
            "Free space there, or set MIAOTUI_HOME to a folder on a larger disk"
        )
    return CacheError(f"cannot write in {path}: {reason}. Make it writable, or set MIAOTUI_HOME to a writable folder")


def format_size(size_bytes: int) -> str:
    """Format ``size_bytes`` in decimal units, as disks and downloads are labelled: ``98362432`` is ``98.4 MB``."""
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{int(size)} B" if unit == "B" else f"{size:.1f} {unit}"


def _folders(env: Mapping[str, str], platform: str) -> tuple[Path, Path]:
    """Return (cache folder, configuration folder)."""
    if env.get("MIAOTUI_HOME"):
        root = Path(os.path.abspath(os.path.expanduser(env["MIAOTUI_HOME"])))
        return root, root / "config"
    if platform == "win32":
        local = _absolute(env, "LOCALAPPDATA") or _home() / "AppData" / "Local"
        roaming = _absolute(env, "APPDATA") or _home() / "AppData" / "Roaming"
        return local / "miaotui" / "Cache", roaming / "miaotui"
    cache, config = _absolute(env, "XDG_CACHE_HOME"), _absolute(env, "XDG_CONFIG_HOME")
    mac = platform == "darwin"
    cache = cache or (_home() / "Library" / "Caches" if mac else _home() / ".cache")
    config = config or (_home() / "Library" / "Application Support" if mac else _home() / ".config")
    return cache / "miaotui", config / "miaotui"


def _absolute(env: Mapping[str, str], name: str) -> Path | None:
    """Return the folder a variable names; the XDG specification says to ignore relative ones."""
    value = env.get(name, "")
    return Path(value) if os.path.isabs(value) else None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise CacheError("this user has no home folder to keep models in. Set MIAOTUI_HOME to a folder") from error


def _switch(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "").strip().lower()
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise RequestError(f"{name} must be 1 or 0, not {env[name]!r}. Correct or unset it")


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(env.get(name) or default)
    except ValueError:
        value = -1.0
    if 0 < value < float("inf"):
        return value
    raise RequestError(f"{name} must be a number above 0, not {env[name]!r}. Correct or unset it")


def _hub(env: Mapping[str, str]) -> str:
    value = env.get("MIAOTUI_HUB", "").strip().lower() or HUBS[0]
    if value in HUBS:
        return value
    raise RequestError(f"MIAOTUI_HUB must be {' or '.join(HUBS)}, not {env['MIAOTUI_HUB']!r}. Correct or unset it")
