"""ModelScope repositories, downloaded from a stand-in that speaks its API, faults included."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelscope_stand_in import ModelScopeStandIn, modelscope_serving

from miaotui.config import Settings
from miaotui.errors import DownloadError, MiaotuiError, ModelNotFoundError
from miaotui.hub.resolve import pull, resolve
from miaotui.hub.sources import modelscope_pull
from miaotui.hub.sources.connection import UrlOpener
from miaotui.hub.sources.modelscope import find_local
from miaotui.hub.sources.modelscope_pull import ModelScope, pull_repository
from miaotui.hub.sources.repository import HubId

WEIGHTS = os.urandom(400_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"tokens": "..."}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"import os",
}
TINY = HubId("owner/tiny")
HERE = Settings(Path("unused"), Path("unused"), timeout_s=2.0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelScopeStandIn]:
    """The stand-in with one repository, and an empty cache."""
    with modelscope_serving() as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        server.repositories["owner/tiny"] = dict(FILES)
        yield server


def quick(server: ModelScopeStandIn, **more: object) -> ModelScope:
    """The hub with short pauses between tries."""
    real = ModelScope.from_env(HERE)
    options = {"tokens": real.connection.tokens, "remedies": real.connection.remedies, **more}
    return ModelScope(server.url, UrlOpener(timeout_s=2.0, pause_s=0.001, **options))  # type: ignore[arg-type]


def test_a_repository_arrives_by_its_name(hub: ModelScopeStandIn) -> None:
    calls: list[tuple[str, int, int | None]] = []
    folder = pull("ms:owner/tiny", lambda *call: calls.append(call), settings=HERE)
    wanted = {"config.json", "tokenizer.json", "model.safetensors"}
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == wanted
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    assert not hub.downloads("pytorch_model.bin")
    total = sum(len(FILES[name]) for name in wanted)
    assert calls[-1] == ("downloading owner/tiny", total, total)
    count = len(hub.requests)
    assert resolve("ms:owner/tiny", settings=HERE) == folder == find_local(TINY)
    assert len(hub.requests) == count, "what is here is used without a connection"


def test_the_default_hub_may_be_modelscope(hub: ModelScopeStandIn, tmp_path: Path) -> None:
    chosen = Settings.from_env({"MIAOTUI_HOME": str(tmp_path / "home"), "MIAOTUI_HUB": "modelscope"})
    assert resolve("owner/tiny", settings=chosen).is_dir()
    hub.repositories["Qwen/Qwen3-0.6B"] = dict(FILES)
    assert resolve("qwen3-0.6b", settings=chosen).is_dir(), "catalog models come from there too"
    with pytest.raises(MiaotuiError, match="MIAOTUI_HUB must be huggingface or modelscope, not 'x'"):
        Settings.from_env({"MIAOTUI_HOME": "h", "MIAOTUI_HUB": "x"})


def test_one_quantisation_of_many_in_parts(hub: ModelScopeStandIn) -> None:
    parts = {f"q4/m-Q4_K_M-0000{i}-of-00002.gguf": b"GGUF" + bytes([i]) * 99 for i in (1, 2)}
    hub.repositories["owner/ggufs"] = {"m-Q8_0.gguf": b"GGUF8", **parts, "mmproj-F16.gguf": b"GGUF"}
    path = pull("ms:owner/ggufs:Q4_K_M", settings=HERE)
    assert [(path.parent / Path(name).name).read_bytes() for name in parts] == list(parts.values())
    assert path.name == "m-Q4_K_M-00001-of-00002.gguf"
    assert not hub.downloads("m-Q8_0.gguf")
    del hub.repositories["owner/ggufs"]["q4/m-Q4_K_M-00002-of-00002.gguf"]
    with pytest.raises(ModelNotFoundError, match="missing: q4/m-Q4_K_M-00002-of-00002"):
        pull("ms:owner/ggufs:Q4_K_M", settings=HERE)


def test_a_download_that_breaks_off_is_continued(hub: ModelScopeStandIn) -> None:
    hub.faults.cut["model.safetensors"] = [100_000, 50_000]
    folder = pull_repository(TINY, HERE, hub=quick(hub))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.headers.get("range") for request in hub.downloads("model.safetensors")]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_pull_that_failed_is_continued_by_the_next(hub: ModelScopeStandIn) -> None:
    hub.faults.cut["model.safetensors"] = [100_000]
    hub.faults.statuses["model.safetensors"] = []
    hub.faults.cut["model.safetensors"] += [0] * 8
    with pytest.raises(DownloadError):
        pull_repository(TINY, HERE, hub=quick(hub))
    assert find_local(TINY) is None
    hub.faults.cut.clear()
    hub.requests.clear()
    pull_repository(TINY, HERE, hub=quick(hub))
    assert [r.headers.get("range") for r in hub.downloads("model.safetensors")] == ["bytes=100000-"]
    assert not hub.downloads("config.json")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_passing_failures_are_tried_again(hub: ModelScopeStandIn, status: int) -> None:
    hub.faults.statuses = {"": [status], "model.safetensors": [status, status]}
    assert pull_repository(TINY, HERE, hub=quick(hub)).is_dir()


@pytest.mark.parametrize(
    ("name", "status", "remedy"),
    [
        ("", 401, "MODELSCOPE_API_TOKEN"),
        ("", 403, "Accept the model's terms"),
        ("", 404, "no ModelScope repository owner/tiny"),
        ("", 503, "Try again later"),
        ("model.safetensors", 403, "MODELSCOPE_API_TOKEN"),
        ("model.safetensors", 404, "Check the model's name"),
        ("model.safetensors", 500, "Try again later"),
    ],
)
def test_refusals_name_the_remedy_and_leave_no_model(
    hub: ModelScopeStandIn, name: str, status: int, remedy: str
) -> None:
    hub.faults.statuses[name] = [status] * 20
    with pytest.raises(MiaotuiError, match=remedy):
        pull_repository(TINY, HERE, hub=quick(hub))
    assert find_local(TINY) is None


def test_wrong_bytes_are_never_kept(hub: ModelScopeStandIn) -> None:
    for fault in (
        {"digests": {"model.safetensors": "0" * 64}},
        {"lengths": {"model.safetensors": len(WEIGHTS) + 1}},
        {"sends": {"model.safetensors": WEIGHTS[:-1] + b"?"}},
        {"sends": {"model.safetensors": WEIGHTS + b"?"}},
    ):
        for key, value in fault.items():
            setattr(hub.faults, key, value)
        with pytest.raises(DownloadError, match=r"another mirror, or pull the model from Hugging Face"):
            pull_repository(TINY, HERE, hub=quick(hub))
        assert find_local(TINY) is None
        for key in fault:
            setattr(hub.faults, key, {})
    hub.faults.digests = {"model.safetensors": "none"}
    with pytest.raises(DownloadError, match=r"no SHA-256 of model\.safetensors"):
        pull_repository(TINY, HERE, hub=quick(hub))


def test_a_server_that_stands_still_is_named(hub: ModelScopeStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope_pull, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"the server stood still.*MIAOTUI_TIMEOUT_S"):
            pull_repository(TINY, HERE, hub=ModelScope(url, UrlOpener(timeout_s=0.2, pause_s=0.001)))


def test_the_token_goes_to_the_hub_alone(hub: ModelScopeStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.token = "secret"
    with pytest.raises(DownloadError, match="MODELSCOPE_API_TOKEN"):
        pull_repository(TINY, HERE, hub=quick(hub))
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    with modelscope_serving() as storage:
        storage.repositories["owner/tiny"] = dict(FILES)
        hub.faults.redirect = storage.url.replace("127.0.0.1", "localhost")
        pull_repository(TINY, HERE, hub=quick(hub))
        assert len(storage.requests) == 3
        assert not any("authorization" in request.headers for request in storage.requests)
    assert all(request.headers["authorization"] == "Bearer secret" for request in hub.requests[1:])


def test_paths_that_lead_elsewhere_are_not_listed(hub: ModelScopeStandIn, tmp_path: Path) -> None:
    for path in ("../x-Q4_0.gguf", "/etc/x-Q4_0.gguf", "a/../../x-Q4_0.gguf", "a\\..\\x-Q4_0.gguf", "c:x-Q4_0.gguf"):
        hub.extra = [{"Path": path, "Type": "blob", "Size": 4, "Sha256": "0" * 64}]
        with pytest.raises(MiaotuiError):
            pull_repository(HubId("owner/tiny", quant="Q4_0"), HERE, hub=quick(hub))
    assert not list(tmp_path.rglob("*x-Q4_0*"))


@pytest.mark.parametrize(
    "text", [b"<html>", b"[]", b'{"Success": false, "Message": "over"}', b'{"Data": 3}', b"[" * 100_000]
)
def test_listings_of_another_form_are_refused(hub: ModelScopeStandIn, text: bytes) -> None:
    hub.faults.listing = text
    with pytest.raises(DownloadError, match="MODELSCOPE_ENDPOINT"):
        pull_repository(TINY, HERE, hub=quick(hub))


leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.sampled_from(["blob", "tree"]))
entry = st.dictionaries(st.sampled_from(["Path", "Size", "Sha256", "Type", "Name"]), leaf)


@given(st.lists(st.one_of(leaf, entry), max_size=4))
@settings(max_examples=100)
def test_any_entries_are_survived(entries: list[object]) -> None:
    for listed in filter(None, map(modelscope_pull._listed, entries)):
        name, file = listed
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
        assert file.size_bytes >= 0
    json.dumps(entries)


@pytest.mark.clients
def test_modelscopes_own_client_downloads_from_the_stand_in(hub: ModelScopeStandIn, tmp_path: Path) -> None:
    """The stand-in speaks the protocol if the real client is content with it, and its cache is found here."""
    if importlib.util.find_spec("modelscope_hub") is None:
        pytest.skip("modelscope_hub is not installed")
    code = "from modelscope_hub.compat.snapshot_download import snapshot_download as get; print(get('owner/tiny'))"
    env = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True)
    assert find_local(TINY) is not None
