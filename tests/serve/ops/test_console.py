"""The console's files: what is served, to whom, under which policy; and that they were built from the sources here."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asgi_calls import Answer, ask
from serving import services

from miaotui.serve.app import create_app
from miaotui.serve.console.routes import BUILT, open_paths
from miaotui.serve.middleware.keys import add_key
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for

ROOT = Path(__file__).parents[3]
CONSOLE = ROOT / "console"
SOURCES = ("src", "index.html", "icon.svg", "build.mjs", "package.json", "package-lock.json", "tsconfig.json")
MOST_BYTES = 300_000  # of all files, compressed


def application(settings: ServeSettings | None = None) -> Any:
    made = services(settings=settings)
    return create_app(made, layers_for(made.settings, made.operations))


def get(app: Any, path: str, *headers: tuple[str, str]) -> Answer:
    return asyncio.run(ask(app, path, (("host", "localhost"), *headers)))


def test_the_page_names_files_that_are_served() -> None:
    app = application()
    page = get(app, "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert len(named) == 3
    for path in named:
        found = get(app, f"/{path}")
        assert found.status == 200
        assert "immutable" in found.headers["cache-control"]
    assert get(app, "/monitor").body == page.body


def test_the_policy_allows_own_files_and_nothing_else() -> None:
    policy = get(application(), "/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == "'none'"
    assert "unsafe" not in policy
    assert {value for name, value in rules.items() if name.endswith("-src")} == {"'none'", "'self'"}
    page = (BUILT / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    app = application()
    first = get(app, "/")
    again = get(app, "/", ("if-none-match", f'W/{first.headers["etag"]}, "other"'))
    assert (again.status, again.body) == (304, b"")
    assert get(app, "/", ("if-none-match", '"other"')).status == 200


@pytest.mark.parametrize(("accepted", "packed"), [("gzip, br", True), ("gzip;q=0", False), ("br", False), ("*", True)])
def test_files_are_compressed_for_those_who_can_read_it(accepted: str, packed: bool) -> None:
    found = get(application(), "/", ("accept-encoding", accepted))
    assert (found.headers.get("content-encoding") == "gzip") == packed
    body = gzip.decompress(found.body) if packed else found.body
    assert body == (BUILT / "index.html").read_bytes()


def test_all_files_together_are_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in BUILT.iterdir()) <= MOST_BYTES


def test_no_other_file_is_served() -> None:
    app = application()
    for name in ("index.html", "manifest.json", "..%2froutes.py", "../routes.py", "console.js"):
        assert get(app, f"/console/{name}").status == 404


def test_the_page_needs_no_key_and_its_requests_do(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    add_key(keys, "one")
    app = application(ServeSettings(api_key_file=str(keys)))
    assert all(get(app, path).status == 200 for path in sorted(open_paths()))
    assert get(app, "/v1/models").status == 401
    assert get(app, "/console/other.js").status == 401


def test_it_can_be_switched_off() -> None:
    app = application(ServeSettings(console=False))
    assert get(app, "/").status in (404, 405)  # another route may take POST there
    assert get(app, "/monitor").status == 404


def digest_of_sources() -> str:
    """The digest that `console/build.mjs` writes into the manifest."""
    digest = hashlib.sha256()
    files = [CONSOLE / name for name in SOURCES]
    found = [each for path in files for each in (path.rglob("*") if path.is_dir() else (path,)) if each.is_file()]
    for name, path in sorted((each.relative_to(CONSOLE).as_posix(), each) for each in found):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def test_the_built_files_are_of_these_sources() -> None:
    manifest = json.loads((BUILT / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["sources"] == digest_of_sources(), "the sources of the console have changed: make console"


built_here = pytest.mark.skipif(
    shutil.which("node") is None or not (CONSOLE / "node_modules" / "esbuild").exists(), reason="needs `make console`"
)


@built_here
def test_a_text_that_grows_has_the_blocks_of_the_whole() -> None:
    """While an answer streams, only its end is parsed again: random texts, cut anywhere, show that this is enough."""
    found = subprocess.run(["node", str(CONSOLE / "test.mjs"), "300"], check=True, capture_output=True, text=True)
    assert int(found.stdout) > 250


@built_here
def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run(["node", str(CONSOLE / "build.mjs"), str(tmp_path / "built")], check=True, cwd=tmp_path)
    names = {path.name for path in BUILT.iterdir()}
    assert names == {path.name for path in (tmp_path / "built").iterdir()}
    for name in sorted(names):
        assert (tmp_path / "built" / name).read_bytes() == (BUILT / name).read_bytes(), name


def test_licences_of_all_libraries_are_beside_the_files() -> None:
    text = (BUILT / "LICENSES.txt").read_text(encoding="utf-8")
    wanted = json.loads((CONSOLE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for name, number in wanted.items():
        assert f"{name} {number} (" in text
