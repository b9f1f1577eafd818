"""The shape of the package: which folders it has, who imports whom, how long things may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "miaotui"

# From the front door down; a module imports from its own layer and from later ones only.
LAYERS = (
    ("__main__",),
    ("cli", "doctor", "messages"),
    ("__init__",),
    ("llm",),
    ("serve",),
    ("apps",),
    ("bench",),
    ("optimize",),
    ("dmlm",),
    ("fsr",),
    ("drafthead",),
    ("engine",),
    ("schedule",),
    ("model",),
    ("text",),
    ("hub",),
    ("kernels",),
)
FREE = {"errors", "types", "config"}  # usable by all; they import nothing but each other
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
NARROW = {"schedule": {"schedule", "errors", "types"}}  # integers only

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "tools"}

FILES = sorted(SOURCE.rglob("*.py"))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def part_of(path: Path) -> str:
    """The folder or file right below the package that `path` belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, part of the package) for every import of our own, wherever it stands."""
    package = ("miaotui", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from parts_named(node.lineno, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield from parts_named(node.lineno, [*base, alias.name])


def parts_named(line: int, dotted: list[str]) -> Iterator[tuple[int, str]]:
    if dotted[0] == "miaotui":
        known = len(dotted) > 1 and (dotted[1] in RANK or dotted[1] in FREE)
        yield line, dotted[1] if known else "__init__"


def definitions(tree: ast.Module) -> Iterator[Definition]:
    """Yield the public classes and functions of a module, and those classes' public methods."""
    for node in public(tree):
        yield node
        if isinstance(node, ast.ClassDef):
            yield from public(node)


def public(scope: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Yield what is defined in a scope for others; overloads are documented where they end."""
    for node in scope.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            decorators = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
            if "overload" not in decorators:
                yield node


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 10


def test_only_the_known_parts_exist() -> None:
    found = {part_of(path) for path in FILES}
    assert found <= RANK.keys() | FREE, "a new folder or file needs its place in LAYERS"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    wrong = []
    for line, imported in imported_parts(path):
        if part in FREE:
            allowed = imported in FREE
        elif part in NARROW:
            allowed = imported in NARROW[part]
        else:
            allowed = imported in FREE or RANK[imported] >= RANK[part]
        if not allowed:
            wrong.append(f"line {line}: {part} imports {imported}")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_small_and_documented(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    assert ast.get_docstring(parse(path)), "a module says what it owns and what it does not know"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    functions = (n for n in ast.walk(parse(path)) if isinstance(n, Definition))
    long = [
        f"{node.name}: {length} lines"
        for node in functions
        if not isinstance(node, ast.ClassDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_are_documented(path: Path) -> None:
    silent = [n.name for n in definitions(parse(path)) if not ast.get_docstring(n)]
    assert not silent


def test_names_say_something() -> None:
    vague = [name_of(p) for p in SOURCE.rglob("*") if p.stem.lower().strip("_") in VAGUE_NAMES]
    assert not vague


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    folders = {p.name for p in tests.iterdir() if p.is_dir() and any(p.rglob("test_*.py"))}
    assert folders <= {part for part in RANK if (SOURCE / part).is_dir()} | {"aarch64"}
    names = [p.name for p in tests.rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest needs unique file names without packages"
    assert not list(tests.rglob("__init__.py"))
