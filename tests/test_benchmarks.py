"""Benchmarks are a package: small folders, imports that exist, and a README that names each program."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
MOST_FILES = 15  # beside sub-folders
MODULES = sorted(
    path for path in FOLDER.rglob("*.py") if not {"subjects", ".peers"} & set(path.relative_to(FOLDER).parts)
)
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_others_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = (ROOT / node.module.replace(".", "/")).is_dir()
            modules = [f"{node.module}.{each.name}" if inside else node.module for each in node.names]
        assert "sys.path" not in ast.unparse(node) or not isinstance(node, ast.Call), f"{path}: run it as a module"
        for module in modules:
            if module.partition(".")[0] in ("benchmarks", "tests"):
                assert ROOT.joinpath(*module.split(".")).with_suffix(".py").exists(), module


def test_folders_of_benchmarks_are_small() -> None:
    for folder in {path.parent for path in MODULES}:
        assert len([each for each in folder.iterdir() if each.is_file()]) <= MOST_FILES, folder
        assert (folder / "__init__.py").exists(), folder


def test_the_readme_names_each_program_and_no_other() -> None:
    programs = {path.relative_to(ROOT).with_suffix("") for path in MODULES if "__main__" in path.read_text("utf-8")}
    table = README.partition("## Questions")[2].partition("\n## ")[0]
    for program in programs:
        full = ".".join(program.parts)
        assert f"-m {full}`" in table or f"-m {full} " in table or f"`… {program.name}" in table, full
    for word in README.replace("`", " ").split():
        if word.startswith("benchmarks."):
            named = ROOT.joinpath(*word.rstrip(".,;:)").split("."))
            assert named.is_dir() or named.with_suffix(".py").exists(), word
