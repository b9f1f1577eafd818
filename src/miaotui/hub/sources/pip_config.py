"""Reads the package indexes that this user has configured for pip: from pip's files and variables, without
running pip.

Owns the reading of ``pip.conf`` / ``pip.ini`` and of ``PIP_*``
(https://pip.pypa.io/en/stable/topics/configuration/). It knows nothing of what indexes offer.
Invariant: what pip would ask, in pip's order of precedence (system, user, environment, file named
by ``PIP_CONFIG_FILE``, variables), is what is asked here, and nothing else: a company's mirror is
never bypassed.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from miaotui.config import Settings
from miaotui.errors import DownloadError
from miaotui.hub.sources.connection import UrlOpener, split_login

DEFAULT_INDEX = "https://pypi.org/simple"
_SECTIONS = ("global", "install", "download")  # later ones win, as for ``pip download``
_TRUE = frozenset({"1", "true", "yes", "y", "on", "t"})


@dataclass(frozen=True)
class PackageIndexes:
    """The indexes to ask, in order (addresses without log-ins), the folders to look into first, and
    how to connect.
    """

    urls: tuple[str, ...]
    folders: tuple[Path, ...]
    connection: UrlOpener


def package_indexes(settings: Settings, env: Mapping[str, str] | None = None) -> PackageIndexes:
    """Return the configuration of pip. Raises `DownloadError` when a configuration file cannot be
    understood.
    """
    env = os.environ if env is None else env
    options = _options(env)
    urls = [] if _is_on(options.get("no-index", "")) else [options.get("index-url") or DEFAULT_INDEX]
    if urls:
        urls += options.get("extra-index-url", "").split()
    split = [split_login(url.rstrip("/")) for url in dict.fromkeys(urls)]
    connection = UrlOpener(
        timeout_s=settings.timeout_s,
        offline=settings.offline,
        cafile=options.get("cert") or None,
        logins={urlsplit(url).netloc: login for url, login in split if login is not None},
    )
    folders = tuple(p for link in options.get("find-links", "").split() if (p := _folder(link)))
    return PackageIndexes(tuple(url for url, _ in split), folders, connection)


def _options(env: Mapping[str, str]) -> dict[str, str]:
    """Return pip's options of all sources, the strongest last; names with dashes."""
    options: dict[str, str] = {}
    for path in _config_files(env):
        options |= _read(path)
    for name, value in env.items():
        if name.upper().startswith("PIP_") and value:
            options[name[4:].lower().replace("_", "-")] = value
    return options


def _read(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DownloadError(f"cannot read pip's configuration {path}: {reason}. Correct that file") from error
    options: dict[str, str] = {}
    for section in _SECTIONS:
        if parser.has_section(section):
            options |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    return options


def _config_files(env: Mapping[str, str]) -> Iterator[Path]:
    """Return pip's configuration files, the weakest first, whether or not they exist."""
    named = env.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    home = Path(env.get("HOME") or env.get("USERPROFILE") or os.path.expanduser("~"))
    if sys.platform == "win32":
        yield Path(env.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / name
        yield home / "pip" / name
        yield Path(env.get("APPDATA", home / "AppData" / "Roaming")) / "pip" / name
    elif sys.platform == "darwin":
        yield Path("/Library/Application Support/pip") / name
        yield home / ".pip" / name
        folder = home / "Library" / "Application Support" / "pip"
        yield (folder if folder.is_dir() else home / ".config" / "pip") / name
    else:
        for folder_name in reversed((env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)):
            yield Path(folder_name) / "pip" / name
        yield Path("/etc") / name
        yield home / ".pip" / name
        yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / name
    yield Path(sys.prefix) / name
    if named:
        yield Path(named)


def _folder(link: str) -> Path | None:
    """Return the local folder that a ``find-links`` entry names; pages on the web are not looked at."""
    parts = urlsplit(link)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    path = Path(link).expanduser()
    return path if path.is_dir() else None


def _is_on(value: str) -> bool:
    return value.strip().lower() in _TRUE
