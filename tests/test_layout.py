"""The shape of the package: which folders it has, who imports whom, how long things may be."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "miaotui"

# From the front door down; a module imports from its own layer and from later ones only.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("cluster",),
    ("serve",),
    ("apps",),
    ("tasks",),
    ("bench", "optimize"),
    ("__init__", "async_llm", "async_encoder"),
    ("llm", "encoder", "seq2seq", "speech"),
    ("submission", "encoders", "runtime", "translation", "engines"),
    ("served_model",),
    ("dmlm",),
    ("retrieval",),
    ("speculation",),
    ("engine",),
    ("backends",),
    ("schedule",),
    ("training",),
    ("model",),
    ("text",),
    ("sealing",),
    ("hub",),
    ("kernels",),
)
FREE = {"errors", "types", "config", "closing", "libraries"}  # usable by all; they import nothing but each other
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
NARROW = {
    "schedule": {"schedule", "errors", "types"},  # integers only
    # no arithmetic, no model files, no text
    "cluster": {
        *("cluster", "serve", "apps", "runtime", "llm", "encoders", "speech", "retrieval"),
        *("engine", "backends", "schedule", "model", "hub"),
        *FREE,
    },
}

MAX_FILE_LINES = 400
MAX_FOLDER_FILES = 15  # beside sub-folders
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "tools"}

FILES = sorted(SOURCE.rglob("*.py"))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def part_of(path: Path) -> str:
    """The folder or file right below the package that `path` belongs to; a program is above all of them."""
    if path.name == "__main__.py":
        return "__main__"
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@functools.cache
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


def may_import(part: str, imported: str) -> bool:
    if part in FREE:
        return imported in FREE
    if part in NARROW:
        return imported in NARROW[part]
    return imported in FREE or RANK[imported] >= RANK[part]


def test_imports_point_downwards() -> None:
    wrong = [
        f"{name_of(path)}, line {line}: {part_of(path)} imports {imported}"
        for path in FILES
        for line, imported in imported_parts(path)
        if not may_import(part_of(path), imported)
    ]
    assert not wrong


def test_only_backends_know_how_passes_are_computed() -> None:
    """What runs a model sees `backends.backend`; only what trains on packed weights sees the CPU's own modules."""
    inner = ("miaotui.backends.cpu", "miaotui.backends.reference")
    wrong = [
        f"{name_of(path)}: {module}"
        for path in FILES
        if part_of(path) not in ("backends", "kernels") and not name_of(path).startswith("speculation/train/")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").startswith(inner)
    ]
    assert not wrong


def test_files_are_small() -> None:
    tests = Path(__file__).parent
    named = {name_of(path): path for path in FILES} | {
        str(path.relative_to(tests)): path for path in tests.rglob("*.py")
    }
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in named.items()}
    assert not {name: count for name, count in lines.items() if count > MAX_FILE_LINES}


def test_folders_are_small() -> None:
    tests = Path(__file__).parent
    named = {name_of(path.parent): path.parent for path in FILES} | {
        str(path.parent.relative_to(tests)): path.parent for path in tests.rglob("*.py")
    }
    counts = {name: len(list(folder.glob("*.py"))) for name, folder in named.items()}
    assert not {name: count for name, count in counts.items() if count > MAX_FOLDER_FILES}


def test_modules_are_documented() -> None:
    """A module says what it owns and what it does not know."""
    assert not [name_of(path) for path in FILES if not ast.get_docstring(parse(path))]


def test_functions_are_short() -> None:
    long = [
        f"{name_of(path)}: {node.name}: {length} lines"
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long


def test_public_names_are_documented() -> None:
    silent = [
        f"{name_of(path)}: {node.name}"
        for path in FILES
        for node in definitions(parse(path))
        if not ast.get_docstring(node)
    ]
    assert not silent


def test_docstrings_begin_plainly() -> None:
    """The standard term comes first: no riddle, no reference to the docstring before."""
    riddles = [
        f"{name_of(path)}, {getattr(node, 'name', 'module')}: {text[:60]}"
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Module | Definition)
        and (text := ast.get_docstring(node) or "").startswith(("What ", "Who ", "Whoever ", "The same"))
    ]
    assert not riddles


def test_names_say_something() -> None:
    vague = [name_of(p) for p in SOURCE.rglob("*") if p.stem.lower().strip("_") in VAGUE_NAMES]
    assert not vague


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    folders = {p.name for p in tests.iterdir() if p.is_dir() and any(p.rglob("test_*.py"))}
    assert folders <= {part for part in RANK if (SOURCE / part).is_dir()} | {"aarch64", "llm"}
    names = [p.name for p in tests.rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest needs unique file names without packages"
    assert not list(tests.rglob("__init__.py"))


def test_no_class_has_the_name_of_another() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name_of(path))
    assert not {name: places for name, places in found.items() if len(places) > 1}


def test_no_constant_of_the_server_has_the_name_of_another() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        if part_of(path) != "serve":
            continue
        for node in parse(path).body:
            names = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
            for name in names:
                found.setdefault(name, []).append(name_of(path))
    assert not {name: places for name, places in found.items() if len(places) > 1}
