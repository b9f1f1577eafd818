"""Checks at the package index that each default dependency has a wheel for every supported system.

Owns the list of systems and versions of Python, and what they lack (`GAPS`). Reads `pyproject.toml` and the index;
installs nothing. Indirect dependencies are those of the packages installed here. Run it with `make wheels`.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
# sys_platform, platform_machine and the ends of the platform tags of wheels
SYSTEMS = {
    "Linux x86-64": ("linux", "x86_64", ("linux", "x86_64")),
    "Linux arm64": ("linux", "aarch64", ("linux", "aarch64")),
    "macOS x86-64": ("darwin", "x86_64", ("macosx", "x86_64", "universal2")),
    "macOS arm64": ("darwin", "arm64", ("macosx", "arm64", "universal2")),
    "Windows x86-64": ("win32", "AMD64", ("win", "amd64")),
    "Windows arm64": ("win32", "ARM64", ("win", "arm64")),
}
# Numba and what it needs have no wheels here; docs/dependencies.md says what to use instead.
GAPS = {("macOS x86-64", (3, 14)), ("Windows arm64", (3, 10)), ("Windows arm64", (3, 11))}


def environment(system: str, version: tuple[int, int]) -> dict[str, str]:
    """Return what markers see on a system."""
    sys_platform, machine, _ = SYSTEMS[system]
    names = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
    return {
        "sys_platform": sys_platform,
        "platform_machine": machine,
        "platform_system": names[sys_platform],
        "os_name": "nt" if sys_platform == "win32" else "posix",
        "python_version": "{}.{}".format(*version),
        "python_full_version": "{}.{}.9".format(*version),
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def applies(marker: Marker | None, system: str, version: tuple[int, int]) -> bool:
    """Return whether a requirement with this marker is asked for on a system."""
    return marker is None or marker.evaluate(environment(system, version))


def needed(system: str, version: tuple[int, int]) -> dict[str, SpecifierSet]:
    """Return the packages asked for on a system, by name, and their versions.

    Of packages that others bring any version will do: installers look for one that fits the others.
    """
    own = [Requirement(text) for text in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]]
    found = {canonicalize_name(r.name): r.specifier for r in own if applies(r.marker, system, version)}
    waiting = list(found)
    while waiting:
        for requirement in map(Requirement, _brought_by(waiting.pop())):
            name = canonicalize_name(requirement.name)
            if name not in found and applies(requirement.marker, system, version):
                found[name] = SpecifierSet()
                waiting.append(name)
    return dict(found)


def _brought_by(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # this system does not need it
        return []


@dataclass(frozen=True)
class Wheel:
    """One file of a package."""

    version: Version
    tags: frozenset[Tag]
    python: str | None


def wheels(name: str) -> Iterator[Wheel]:
    """Yield all wheels of a package that installers take."""
    request = urllib.request.Request(f"{INDEX}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    for file in files:
        try:
            _, version, _, tags = parse_wheel_filename(file["filename"])
        except (InvalidWheelFilename, InvalidVersion):  # no wheel, or of a time before the rules
            continue
        if not file.get("yanked"):
            yield Wheel(version, tags, file.get("requires-python"))


def fits(tags: Iterable[Tag], system: str, version: tuple[int, int]) -> bool:
    """Return whether a wheel with these tags can be installed on a system."""
    start, *ends = SYSTEMS[system][2]
    known = {*cpython_tags(version, platforms=["any"]), *compatible_tags(version, platforms=["any"])}
    known = {(tag.interpreter, tag.abi) for tag in known}
    for tag in tags:
        here = tag.platform.startswith((start, f"many{start}")) and tag.platform.endswith(tuple(ends))
        if (tag.interpreter, tag.abi) in known and (here or tag.platform == "any"):
            return True
    return False


def has_wheel(known: Iterable[Wheel], specifier: SpecifierSet, system: str, version: tuple[int, int]) -> bool:
    """Return whether one of the wheels fulfils a requirement on a system."""
    release = "{}.{}.9".format(*version)
    return any(
        wheel.version in specifier
        and (wheel.python is None or release in SpecifierSet(wheel.python))
        and fits(wheel.tags, system, version)
        for wheel in known
    )


def main() -> int:
    """Print what is missing; return 1 if that is more than the known gaps."""
    known: dict[str, list[Wheel]] = {}
    missing, names = 0, set()
    for system in SYSTEMS:
        for version in PYTHONS:
            for name, specifier in needed(system, version).items():
                names.add(name)
                if name not in known:
                    known[name] = list(wheels(name))
                if not has_wheel(known[name], specifier, system, version):
                    is_known = (system, version) in GAPS
                    missing += not is_known
                    print(f"{system}, Python {version[0]}.{version[1]}: {name}{' (known)' * is_known}")
    print(f"{len(names)} packages, {len(SYSTEMS)} systems, {len(PYTHONS)} versions of Python: {missing} gaps")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
