"""The documentation: its examples run, its links lead somewhere, its lists are complete."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from miaotui.cli.options.parser import parse

ROOT = Path(__file__).parents[1]
ENGLISH = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CHINESE = sorted(ROOT.glob("docs/zh/*.md"))  # their examples are those of the English pages, which are run
PAGES = [*ENGLISH, *CHINESE]
SOURCE = ROOT / "src" / "miaotui"
# What is shown but not run: it would change this machine.
SHOWN_ONLY = {"pip install .", "pytest tests/model/encoder -m compare"}
# What needs a server is run by tests/serve/ops/test_serving_page.py.
SERVER = "http://127.0.0.1:8000"
TIMEOUT_S = 300


@dataclass(frozen=True)
class Example:
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples(language: str) -> list[Example]:
    found = []
    for page in ENGLISH:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Example(page, line, match[1], match[2]))
    return [example for example in found if example.language == language]


def commands() -> list[tuple[Example, str]]:
    return [
        (example, line.removeprefix("$ "))
        for example in examples("console")
        for line in example.code.splitlines()
        if line.startswith("$ ")
    ]


def is_served(command: str) -> bool:
    return SERVER in command or command.startswith("miaotui serve")


def named(pairs: list[tuple[Example, str]]) -> list[object]:
    return [pytest.param(command, id=f"{example}-{command[:30]}") for example, command in pairs]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done


def test_all_blocks_are_of_a_known_kind() -> None:
    kinds = {"python", "console", "text", "toml", "ini", "yaml"}
    for page in PAGES:
        blocks = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(blocks) % 2 == 0
        assert set(blocks[::2]) <= kinds, page.name
        assert set(blocks[1::2]) <= {""}, page.name


@pytest.mark.model
@pytest.mark.parametrize("example", [e for e in examples("python") if SERVER not in e.code], ids=str)
def test_python_examples_run(example: Example, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example.code, encoding="utf-8")
    assert run([sys.executable, str(script)], cwd=tmp_path).stdout.strip()


@pytest.mark.parametrize("command", named([c for c in commands() if "make " in c[1]]))
def test_make_commands_have_a_target(command: str) -> None:
    run([*shlex.split(command), "--dry-run"], cwd=ROOT)


@pytest.mark.model
@pytest.mark.parametrize("command", named([c for c in commands() if "miaotui " in c[1] and not is_served(c[1])]))
def test_console_commands_run(command: str, tmp_path: Path) -> None:
    folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": folder + os.pathsep + os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    run(["bash", "-c", command], env=env, cwd=tmp_path, input="")


def shown_commands() -> list[tuple[Example, str]]:
    """Commands in blocks of text: they need models or machines that tests do not have."""
    lines = [(each, line.removeprefix("$ ")) for each in examples("text") for line in each.code.splitlines()]
    return [(each, line.partition("  #")[0]) for each, line in lines if line.startswith("miaotui ")]


@pytest.mark.parametrize("command", named(shown_commands()))
def test_commands_that_are_only_shown_are_understood(command: str) -> None:
    words = shlex.split(command)[1:]
    assert parse(words).command == words[0]


def test_every_command_is_either_run_or_listed() -> None:
    for example, command in commands():
        is_run = command.startswith("make ") or "miaotui " in command
        assert is_run or is_served(command) or command in SHOWN_ONLY, example


def program(name: str) -> ModuleType:
    """A program of the folder of documents, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("language", ["en", "zh"])
def test_figures_are_those_of_the_benchmarks(language: str) -> None:
    module = program("make_figures")
    assert module.PAGES[language].read_text(encoding="utf-8") == module.page(language), "run: make figures"


@pytest.mark.parametrize("locale", ["C", "zh_CN.UTF-8"])
def test_command_line_reference_is_current(locale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.setenv("NO_COLOR", "1")
    module = program("make_cli")
    assert module.PAGES[locale].read_text(encoding="utf-8") == module.page(locale), "run: make docs"
    variables = [set(re.findall(r"^\| `(\w+)`", module.page(each), re.MULTILINE)) for each in module.PAGES]
    assert variables[0] == variables[1]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and code of what is run or copied from a page; drawings and outputs are not."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in found if block[0] != "text"]


@pytest.mark.parametrize("page", CHINESE, ids=str)
def test_chinese_pages_follow_the_english_ones(page: Path) -> None:
    english = page.parents[1] / page.name
    assert blocks(page) == blocks(english), "run: make docs"
    headings = [re.findall(r"^#+ ", path.read_text(encoding="utf-8"), re.MULTILINE) for path in (page, english)]
    assert headings[0] == headings[1], "the Chinese page has other sections"
    assert f"](../{page.name})" in page.read_text(encoding="utf-8").split("\n## ")[0]
    assert f"](zh/{page.name})" in english.read_text(encoding="utf-8").split("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_named_in_the_text_exist(page: Path) -> None:
    missing = []
    for name in re.findall(r"`([\w./-]+\.py|[\w-]+/|(?:src|tests|docs)/[\w./-]+)`", page.read_text()):
        path = name.rstrip("/")
        if not any((base / path).exists() for base in (ROOT, SOURCE)):
            missing.append(name)
    assert not missing


def test_dependencies_are_all_explained() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project[project.index("dependencies = [") : project.index("[project.scripts]")]
    needed = set(re.findall(r'"([A-Za-z0-9_-]+)[><=]', section))
    console = json.loads((ROOT / "console" / "package.json").read_text(encoding="utf-8"))
    needed |= console["dependencies"].keys() | console["devDependencies"].keys()
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w, @/.-]+) \|", page, re.MULTILINE)
    explained = {name.strip() for row in rows for name in row.split(",")} - {"library"}
    assert needed <= explained
    assert explained - needed == {"atheris", "hatchling"}  # asked for elsewhere


def test_both_readmes_have_the_same_first_screen() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        first = (ROOT / name).read_text(encoding="utf-8").splitlines()[:12]
        assert any(line.startswith("$ make run") for line in first)
        assert any(line.startswith("$ make test") for line in first)


def test_both_readmes_lead_to_the_same_pages() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    rows = re.findall(r"^\| \[(\S+)\]", english, re.MULTILINE)
    assert rows
    assert set(re.findall(r"^\| \[(\S+)\]", chinese, re.MULTILINE)) == {
        row.replace("docs/", "docs/zh/") for row in rows
    }
    assert {row for row in rows if row.startswith("docs/")} == {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")}
