"""Models that other programs have stored: found in their layouts, run in place, refused when they are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from gguf_bytes import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import sha256

from miaotui.config import Settings
from miaotui.errors import MiaotuiError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.local.ollama import ollama_models
from miaotui.hub.local.programs import find_stored, stored_models
from miaotui.hub.local.stored import StoredModel
from miaotui.hub.resolve import resolve

GGUF = sample().build()
LIBRARY = "registry.ollama.ai/library"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, to which no variable adds a folder."""
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "HF_HUB_CACHE", "HF_HOME", "MODELSCOPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put(path: Path, data: bytes = GGUF) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_ollama(root: Path, name: str, data: bytes = GGUF, *layers: dict[str, object], **changes: object) -> Path:
    """Store a model as Ollama does: a manifest, and its weights under their digest."""
    digest = sha256(data)
    model = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(data)}
    manifest = {"schemaVersion": 2, "config": {}, "layers": [model | changes, *layers]}
    put(root / "manifests" / name, json.dumps(manifest).encode())
    return put(root / "blobs" / f"sha256-{digest}", data)


def names(home: Path) -> list[str]:
    return [model.name for model in stored_models() if str(home) in str(model.path)]


def test_ollamas_models_are_found_by_their_names(home: Path) -> None:
    root = home / ".ollama" / "models"
    blob = put_ollama(root, f"{LIBRARY}/qwen2.5/0.5b")
    put_ollama(root, f"{LIBRARY}/mine/latest", GGUF + b"2")
    put_ollama(root, "hf.co/bartowski/Tiny-GGUF/Q4_K_M", GGUF + b"3")
    assert names(home) == ["ollama:hf.co/bartowski/Tiny-GGUF:Q4_K_M", "ollama:mine:latest", "ollama:qwen2.5:0.5b"]
    assert find_stored("ollama:qwen2.5:0.5b") == blob
    assert find_stored("OLLAMA:Mine").read_bytes() == GGUF + b"2"
    with pytest.raises(ModelNotFoundError, match=r"no 'llama3'.*ollama:qwen2\.5:0\.5b"):
        find_stored("ollama:llama3")


def test_ollamas_folder_may_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "elsewhere"))
    put_ollama(home / "elsewhere", f"{LIBRARY}/tiny/latest")
    assert names(home) == ["ollama:tiny:latest"]


def test_damaged_manifests_make_models_with_a_problem(home: Path) -> None:
    root = home / ".ollama" / "models"
    adapter = {"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:" + "0" * 64, "size": 1}
    put_ollama(root, f"{LIBRARY}/adapted/latest", GGUF, adapter)
    put_ollama(root, f"{LIBRARY}/short/latest", GGUF + b"s", size=7)
    put_ollama(root, f"{LIBRARY}/outside/latest", GGUF + b"o", digest="sha256:../../../etc/passwd")
    put(root / "manifests" / LIBRARY / "torn" / "latest", b'{"layers": [')
    for name, reason in {
        "adapted": "adapter",
        "short": "not the 7 of its manifest",
        "outside": "names no SHA-256",
        "torn": "not valid JSON",
    }.items():
        with pytest.raises(UnsupportedModelError, match=f"ollama:{name}:latest cannot be opened: .*{reason}"):
            find_stored(f"ollama:{name}")


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_no_manifest_leads_out_of_the_blobs(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "ollama-fuzz"
    put(root / "manifests" / LIBRARY / "m" / "latest", text)
    for model in ollama_models(root):
        assert model.problem


layer_values = st.one_of(st.none(), st.integers(), st.text(max_size=80), st.sampled_from(["sha256:" + "a" * 64]))


@given(st.lists(st.dictionaries(st.sampled_from(["mediaType", "digest", "size"]), layer_values), max_size=3))
@settings(max_examples=200)
def test_any_layers_are_survived(tmp_path_factory: pytest.TempPathFactory, layers: list[dict[str, object]]) -> None:
    root = tmp_path_factory.getbasetemp() / "ollama-layers"
    kinds = [{**layer, "mediaType": "application/vnd.ollama.image.model"} for layer in layers]
    put(root / "manifests" / LIBRARY / "m" / "latest", json.dumps({"layers": kinds}).encode())
    for model in ollama_models(root):
        assert model.problem or model.path.parent == root / "blobs"


def test_lm_studio_and_llama_cpp(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = put(home / ".lmstudio" / "models" / "infra-ai" / "ocelot-v1" / "ocelot-v1-q4_0.gguf")
    put(home / ".lmstudio" / "models" / "infra-ai" / "ocelot-v1" / "mmproj-ocelot.gguf")
    put(home / ".cache" / "lm-studio" / "models" / "a" / "b" / "old.gguf")
    flat = put(home / ".cache" / "llama.cpp" / "ggml-org_tiny_tiny-Q8_0.gguf")
    put(home / ".cache" / "llama.cpp" / "manifest=ggml-org=tiny=latest.json", b"{}")
    assert names(home) == [
        "lmstudio:infra-ai/ocelot-v1/ocelot-v1-q4_0",
        "lmstudio:a/b/old",
        "llamacpp:ggml-org_tiny_tiny-Q8_0",
    ]
    assert find_stored("lmstudio:infra-ai/ocelot-v1/ocelot-v1-q4_0") == new
    assert find_stored("llamacpp:ggml-org_tiny_tiny-Q8_0") == flat
    monkeypatch.setenv("LLAMA_CACHE", str(home / "named"))
    put(home / "named" / "sub" / "x.gguf")
    assert find_stored("llamacpp:sub/x") == home / "named" / "sub" / "x.gguf"


def test_lm_studio_may_have_moved(home: Path) -> None:
    other, disk = home / "elsewhere", home / "disk" / "models"
    put(home / ".lmstudio-home-pointer", f"{other}\n".encode())
    put(other / "models" / "a" / "b" / "pointed.gguf", GGUF + b"1")
    put(other / "settings.json", json.dumps({"downloadsFolder": str(disk)}).encode())
    put(disk / "a" / "b" / "chosen.gguf", GGUF + b"2")
    put(home / ".lmstudio" / "models" / "a" / "b" / "left.gguf", GGUF + b"3")
    assert names(home) == ["lmstudio:a/b/chosen", "lmstudio:a/b/pointed", "lmstudio:a/b/left"]
    for pointer, values in ((b"\xff\xfe", b"[1]"), (b"\n", b'{"downloadsFolder": 7}'), (b"\x00", b"{")):
        put(home / ".lmstudio-home-pointer", pointer)
        put(home / ".lmstudio" / "settings.json", values)
        assert names(home) == ["lmstudio:a/b/left"]


def test_parts_for_pictures_are_no_models(home: Path) -> None:
    for name in ("mmproj-F16", "ggml-org_gemma-3-4b-it-GGUF_mmproj-model-f16", "Qwen2.5-VL-7B-mmproj-f16", "x.imatrix"):
        put(home / ".cache" / "llama.cpp" / f"{name}.gguf", GGUF + name.encode())
    put(home / ".cache" / "llama.cpp" / "summmprojects.gguf")
    assert names(home) == ["llamacpp:summmprojects"]


def test_ollamas_models_for_other_engines_say_so(home: Path) -> None:
    root = home / ".ollama" / "models"
    kinds = {"mlx": ["application/vnd.ollama.image.tensor"] * 2, "cloud": ["application/vnd.ollama.image.license"]}
    for name, layers in kinds.items():
        manifest = {"layers": [{"mediaType": kind, "digest": "sha256:" + "0" * 64, "size": 1} for kind in layers]}
        put(root / "manifests" / LIBRARY / name / "latest", json.dumps(manifest).encode())
    assert names(home) == ["ollama:mlx:latest"]
    with pytest.raises(UnsupportedModelError, match=r"tensor by tensor .* pull a tag of it in GGUF"):
        find_stored("ollama:mlx")


def test_hugging_face_and_modelscope(home: Path) -> None:
    snapshot = home / ".cache/huggingface/hub/models--owner--tiny/snapshots/abc"
    put(snapshot.parents[1] / "refs" / "main", b"abc")
    put(snapshot / "config.json", b"{}")
    put(snapshot / "model.safetensors", b"1234")
    two = home / ".cache/modelscope/models/Qwen--Qwen3-0.6B-GGUF/snapshots/master"
    put(two / "q-Q4_K_M.gguf")
    put(two / "q-Q8_0.gguf")
    put(home / ".cache/modelscope/hub/models/old/Tiny-1___5B/t.gguf")
    found = {model.name: model for model in stored_models() if str(home) in str(model.path)}
    assert list(found) == [
        "hf:owner/tiny",
        "ms:Qwen/Qwen3-0.6B-GGUF:q-Q4_K_M.gguf",
        "ms:Qwen/Qwen3-0.6B-GGUF:q-Q8_0.gguf",
        "ms:old/Tiny-1.5B",
    ]
    assert found["hf:owner/tiny"].size_bytes == 4
    here = Settings(home / "h", home / "c", offline=True)
    for name, model in found.items():
        assert resolve(name, settings=here) == model.path
    assert resolve("owner/tiny", settings=here) == snapshot
    assert resolve("ms:Qwen/Qwen3-0.6B-GGUF:Q8_0", settings=here) == two / "q-Q8_0.gguf"
    assert resolve("Qwen/Qwen3-0.6B-GGUF:Q8_0", settings=here) == two / "q-Q8_0.gguf", "a copy from any hub will do"
    with pytest.raises(MiaotuiError, match="Hugging Face cache, and miaotui is offline"):
        resolve("hf:Qwen/Qwen3-0.6B-GGUF:Q8_0", settings=here)


def test_files_linked_from_two_programs_are_listed_once(home: Path) -> None:
    blob = put_ollama(home / ".ollama" / "models", f"{LIBRARY}/tiny/latest")
    link = home / ".lmstudio" / "models" / "a" / "b" / "tiny.gguf"
    link.parent.mkdir(parents=True)
    os.symlink(blob, link)
    assert names(home) == ["ollama:tiny:latest"]


def test_a_model_in_parts_is_one_model(home: Path) -> None:
    root = home / ".lmstudio" / "models" / "a" / "b"
    parts = [put(root / f"m-0000{i}-of-00002.gguf") for i in (1, 2)]
    assert [model.size_bytes for model in stored_models() if str(home) in str(model.path)] == [2 * len(GGUF)]
    parts[1].unlink()
    (broken,) = (model for model in stored_models() if str(home) in str(model.path))
    assert isinstance(broken, StoredModel)
    assert "m-00002-of-00002.gguf" in broken.problem
