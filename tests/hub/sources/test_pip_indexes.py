"""Package indexes as pip's configuration names them, and pages that are odd."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miaotui.config import Settings
from miaotui.errors import DownloadError
from miaotui.hub.sources.connection import UrlOpener
from miaotui.hub.sources.pip_config import DEFAULT_INDEX, PackageIndexes, package_indexes
from miaotui.hub.sources.simple_index import Link, _html_links, _json_links


def configured(tmp_path: Path, env: dict[str, str], **files: str) -> PackageIndexes:
    """What is configured by ``files`` (user, xdg, named) and ``env`` alone."""
    places = {
        "xdg": tmp_path / "etc" / "pip" / "pip.conf",
        "user": tmp_path / "config" / "pip" / "pip.conf",
        "named": tmp_path / "named.conf",
    }
    for name, text in files.items():
        places[name].parent.mkdir(parents=True, exist_ok=True)
        places[name].write_text(text)
    base = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path / "etc"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PIP_CONFIG_FILE": str(places["named"]),
    }
    return package_indexes(Settings(tmp_path, tmp_path), base | env)


@pytest.mark.skipif(sys.platform != "linux", reason="places of the files on Linux")
def test_pip_files_and_variables_are_read_in_pips_order(tmp_path: Path) -> None:
    user = "[global]\nindex-url = https://u/simple/\nextra-index-url =\n  https://e1/s\n  https://e2/s\n"
    assert configured(tmp_path, {}, user=user).urls[0] == "https://u/simple"
    assert configured(tmp_path, {}, xdg="[global]\nindex-url=https://x/s").urls[0] == ("https://u/simple")
    found = configured(tmp_path, {}, named="[install]\nindex_url = https://n/s\n")
    assert found.urls == ("https://n/s", "https://e1/s", "https://e2/s")
    found = configured(tmp_path, {"PIP_INDEX_URL": "https://v/s", "PIP_EXTRA_INDEX_URL": "https://w"})
    assert found.urls == ("https://v/s", "https://w")


def test_pip_defaults_options_and_logins(tmp_path: Path) -> None:
    nothing = {"PIP_CONFIG_FILE": os.devnull}
    assert package_indexes(Settings(tmp_path, tmp_path), nothing).urls == (DEFAULT_INDEX,)
    found = package_indexes(
        Settings(tmp_path, tmp_path, offline=True, timeout_s=3.0),
        nothing
        | {
            "PIP_INDEX_URL": "https://me:secret@mirror:8443/simple",
            "PIP_CERT": "/ca.pem",
            "PIP_FIND_LINKS": f"{tmp_path} https://elsewhere/links {tmp_path.as_uri()} /absent",
        },
    )
    assert found.urls == ("https://mirror:8443/simple",)
    assert found.connection == UrlOpener(
        timeout_s=3.0, offline=True, cafile="/ca.pem", logins={"mirror:8443": "me:secret"}
    )
    assert found.folders == (tmp_path, tmp_path)
    assert "secret" not in repr(found)
    off = package_indexes(Settings(tmp_path, tmp_path), nothing | {"PIP_NO_INDEX": "1"})
    assert off.urls == ()


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"named\.conf.*Correct that file"):
        configured(tmp_path, {}, named="no section\n")


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists, max_leaves=5))
def test_odd_json_pages_end_in_our_error_or_in_links(value: object) -> None:
    entries = {"files": [{"filename": "f", "url": value, "hashes": value}, value]}
    for page in (value, {"files": value}, entries, {"files": [{"filename": value}]}):
        try:
            links = list(_json_links(json.dumps(page), "https://host/simple/m/"))
        except DownloadError:
            continue
        assert all(isinstance(link, Link) for link in links)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="<>a href='\"=/#sha256&;!-[]base:x", max_size=80))
@example("<![2")
def test_odd_html_pages_end_in_links(text: str) -> None:
    for link in _html_links(text, "https://host/simple/m/"):
        assert isinstance(link, Link)
