"""Hugging Face repositories, downloaded by the real client from a stand-in server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, serving, sha256

from miaotui.config import Settings
from miaotui.errors import CacheError, DownloadError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.sources.huggingface import cache_folder, find_local
from miaotui.hub.sources.huggingface_pull import pull_repository
from miaotui.hub.sources.repository import HubId, choose_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000  # files from this size on are stored as large files, with a stated SHA-256
SETTINGS = Settings(Path("unused"), Path("unused"))
TINY = HubId("owner/tiny")
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"tokens": "..."}',
    "tokenizer_config.json": b"{}",
    "model.safetensors": os.urandom(50_000),
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"import os",
    "README.md": b"# tiny",
    "onnx/model.onnx": b"x",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The stand-in, with an empty cache."""
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield server


def offer(server: Loopback, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
    """Serve a repository as the Hub does: its listing, and its files with their digests."""
    siblings = []
    for name, data in files.items():
        entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
        if len(data) >= LARGE:
            entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
        siblings.append(entry)
        etag = sha256(data) if len(data) >= LARGE else hashlib.sha1(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        server.add(f"/{repo}/resolve/{revision}/{name}", data, headers=headers)
    listing = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []}
    for path in (f"/api/models/{repo}/revision/{revision}", f"/api/models/{repo}"):
        server.add(path, json.dumps(listing), kind="application/json")


def test_a_repository_of_safetensors_arrives(hub: Loopback) -> None:
    offer(hub, "owner/tiny", FILES)
    calls: list[tuple[str, int, int | None]] = []
    folder = pull_repository(TINY, SETTINGS, lambda *call: calls.append(call))
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert {p.name for p in folder.iterdir()} == wanted
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    assert not any("pytorch_model" in r.path or ".py" in r.path for r in hub.requests)
    total = sum(len(FILES[name]) for name in wanted)
    assert calls[-1] == ("downloading owner/tiny", total, total)
    done = [d for _, d, _ in calls]
    assert done == sorted(done)
    assert {label for label, _, _ in calls} == {"downloading owner/tiny"}


def test_what_is_here_is_found_without_a_connection(hub: Loopback) -> None:
    offer(hub, "owner/tiny", FILES)
    assert find_local(TINY) is None
    folder = pull_repository(TINY, SETTINGS)
    count = len(hub.requests)
    assert find_local(TINY) == folder
    assert find_local(HubId("owner/tiny", COMMIT)) == folder
    assert find_local(HubId("owner/tiny", "other")) is None
    assert find_local(HubId("owner/other")) is None
    assert len(hub.requests) == count


def test_a_second_pull_fetches_nothing_again(hub: Loopback) -> None:
    offer(hub, "owner/tiny", FILES)
    pull_repository(TINY, SETTINGS)
    hub.requests.clear()
    pull_repository(TINY, SETTINGS)
    assert not [r for r in hub.requests if r.method == "GET" and "resolve" in r.path]


def test_shards_arrive_whole_or_do_not_count(hub: Loopback) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index}
    files |= {shard: os.urandom(3000) for shard in shards} | {"consolidated.safetensors": b"x"}
    offer(hub, "owner/tiny", files)
    hub.pages[f"/owner/tiny/resolve/main/{shards[1]}"].statuses = [403] * 20
    with pytest.raises(DownloadError, match="owner/tiny"):
        pull_repository(TINY, SETTINGS)
    assert find_local(TINY) is None
    hub.pages[f"/owner/tiny/resolve/main/{shards[1]}"].statuses = []
    folder = pull_repository(TINY, SETTINGS)
    assert find_local(TINY) == folder
    assert not (folder / "consolidated.safetensors").exists()


def test_one_gguf_file_is_fetched(hub: Loopback) -> None:
    offer(hub, "owner/tiny", {"m-Q8_0.gguf": b"GGUF" * 9, "m-Q4_0.gguf": b"GGUF4" * 9, "x.md": b""})
    path = pull_repository(TINY, SETTINGS)
    assert path.name == "m-Q4_0.gguf"
    assert path.read_bytes() == b"GGUF4" * 9
    assert find_local(TINY) == path
    named = HubId("owner/tiny", file="m-Q8_0.gguf")
    assert find_local(named) is None
    assert pull_repository(named, SETTINGS).name == "m-Q8_0.gguf"
    assert find_local(named) is not None


def test_a_revision_is_respected(hub: Loopback) -> None:
    offer(hub, "owner/tiny", {"m.gguf": b"GGUF"}, revision="v1.0")
    hub_id = HubId.parse("owner/tiny@v1.0")
    assert hub_id is not None
    assert pull_repository(hub_id, SETTINGS).read_bytes() == b"GGUF"
    assert find_local(hub_id) is not None
    assert find_local(TINY) is None


def test_a_large_file_that_arrives_damaged_is_removed(hub: Loopback) -> None:
    offer(hub, "owner/tiny", FILES)
    page = hub.pages["/owner/tiny/resolve/main/model.safetensors"]
    good, page.body = page.body, bytes(len(page.body))
    with pytest.raises(DownloadError, match="arrived damaged"):
        pull_repository(TINY, SETTINGS)
    assert find_local(TINY) is None
    page.body = good
    folder = pull_repository(TINY, SETTINGS)
    assert (folder / "model.safetensors").read_bytes() == good


def test_offline_opens_no_connection(hub: Loopback) -> None:
    offer(hub, "owner/tiny", FILES)
    with pytest.raises(DownloadError, match=r"offline.*MIAOTUI_OFFLINE"):
        pull_repository(TINY, Settings(Path(), Path(), offline=True))
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (404, "RepoNotFound", ModelNotFoundError, "no Hugging Face repository owner/tiny"),
        (401, "RepoNotFound", ModelNotFoundError, "HF_TOKEN"),
        (403, "GatedRepo", DownloadError, r"Accept them at https://huggingface\.co/owner/tiny"),
        (404, "RevisionNotFound", ModelNotFoundError, "Check revision"),
        (400, "", DownloadError, "cannot download owner/tiny"),
    ],
)
def test_refusals_are_explained(hub: Loopback, status: int, code: str, error: type[Exception], words: str) -> None:
    headers = {"X-Error-Code": code}
    path = "/api/models/owner/tiny/revision/main"
    hub.add(path, statuses=[status] * 9, headers=headers)
    with pytest.raises(error, match=words):
        pull_repository(TINY, SETTINGS)


def test_an_unreachable_server_is_explained(hub: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="HTTPS_PROXY"):
        pull_repository(TINY, SETTINGS)


def test_an_answer_that_is_no_listing_is_explained(hub: Loopback) -> None:
    for body in ("[]", "not json", '{"sha": null}', '{"siblings": [{"rfilename": 1}]}'):
        hub.add("/api/models/owner/tiny/revision/main", body, kind="application/json")
        with pytest.raises(DownloadError):
            pull_repository(TINY, SETTINGS)


def test_a_file_too_large_for_the_disk_is_not_begun(hub: Loopback) -> None:
    offer(hub, "owner/tiny", {"m.gguf": b"GGUF"})
    page = hub.pages["/api/models/owner/tiny/revision/main"]
    page.body = page.body.replace(b'"size": 4', b'"size": 1000000000000000000')
    with pytest.raises(CacheError, match="no room"):
        pull_repository(TINY, SETTINGS)


def test_a_cache_that_cannot_be_made_is_explained(
    hub: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(CacheError, match="file/hub"):
        pull_repository(TINY, SETTINGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-0.6B", HubId("Qwen/Qwen3-0.6B")),
        ("a/b@v1", HubId("a/b", "v1")),
        ("a/b@refs/pr/1", HubId("a/b", "refs/pr/1")),
        ("a/b:sub/x.Q4_0.gguf", HubId("a/b", file="sub/x.Q4_0.gguf")),
        ("a/b@v1:x.gguf", HubId("a/b", "v1", "x.gguf")),
        ("a/b:Q4_K_M", HubId("a/b", quant="Q4_K_M")),
        ("a/b@v1:iq4_xs", HubId("a/b", "v1", quant="iq4_xs")),
        ("a/b:UD-Q4_K_XL", HubId("a/b", quant="UD-Q4_K_XL")),
    ],
)
def test_ids_are_parsed_and_spelled(text: str, expected: HubId) -> None:
    assert HubId.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "/a/b", "a/", "./a", "~/x", "-a/b", "a b/c"])
@pytest.mark.parametrize("end", ["", "@", ":", "@../x", ":../x.gguf", ":/x.gguf", ":x.bin", "\n"])
def test_what_is_no_id_is_refused(text: str, end: str) -> None:
    assert HubId.parse(text + end) is None
    assert not end or HubId.parse(f"owner/name{end}") is None
    assert HubId.parse("a/../b") is None
    assert HubId.parse("a\\b/c") is None


@given(st.text(max_size=40))
def test_any_text_parses_to_itself_or_nothing(text: str) -> None:
    hub_id = HubId.parse(text)
    assert hub_id is None or str(hub_id) == text


def choose(*names: str, file: str = "", quant: str = "") -> tuple[str, ...]:
    return choose_files(names, HubId("o/n", file=file, quant=quant))


def test_safetensors_come_with_their_companions_and_nothing_else() -> None:
    extras = ("model.py", "pytorch_model.bin", "x.gguf", "adapter.safetensors", "a/b.safetensors")
    assert choose("config.json", "model.safetensors", "merges.txt", *extras) == (
        "config.json",
        "merges.txt",
        "model.safetensors",
    )
    assert choose("config.json", "weights.safetensors") == ("config.json", "weights.safetensors")


@pytest.mark.parametrize("best", ["Q4_0", "Q4_1", "Q4_K_M", "Q8_0"])
def test_gguf_formats_are_preferred_in_order(best: str) -> None:
    order = ["Q4_0", "Q4_1", "Q4_K_M", "Q8_0"]
    names = [f"m-{kind}.gguf" for kind in [*order[order.index(best) :], "Q2_K", "Q4_0_4_4", "F16"]]
    assert choose(*names) == (f"m-{best}.gguf",)
    assert choose(*(n.lower() for n in names)) == (f"m-{best}.gguf".lower(),)


def test_an_open_choice_lists_the_files() -> None:
    with pytest.raises(ModelNotFoundError, match=r"a-Q4_0\.gguf, b-Q4_0\.gguf\. Name one: o/n:a-Q4_0"):
        choose("a-Q4_0.gguf", "b-Q4_0.gguf", "a-Q8_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"a-F16\.gguf, a-Q2_K\.gguf"):
        choose("a-F16.gguf", "a-Q2_K.gguf")
    with pytest.raises(ModelNotFoundError, match=r"no file x\.gguf.*a-F16\.gguf"):
        choose("a-F16.gguf", file="x.gguf")


def test_pickles_are_refused() -> None:
    for names in (["pytorch_model.bin", "config.json"], ["mmproj-F16.gguf"], []):
        with pytest.raises(UnsupportedModelError, match="Pickled weights"):
            choose(*names)


def test_a_quantisation_is_chosen_by_its_name() -> None:
    names = ("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-q8_0.gguf", "m-fp16.gguf", "mmproj-m-Q8_0.gguf", "config.json")
    assert choose(*names, "model.safetensors", quant="q4_k_m") == ("m-Q4_K_M.gguf",)
    assert choose(*names, quant="Q8_0") == ("m-q8_0.gguf",)
    assert choose(*names, quant="F16") == ("m-fp16.gguf",)
    with pytest.raises(ModelNotFoundError, match=r"no GGUF file of Q2_K.*m-Q4_K_M\.gguf"):
        choose(*names, quant="Q2_K")


def test_a_model_in_parts_is_taken_whole_or_refused() -> None:
    parts = tuple(f"Q8_0/m-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3))
    assert choose(*reversed(parts), "m-Q2_K.gguf", quant="Q8_0") == parts
    assert choose(*parts) == parts
    assert choose(*parts, file=parts[0]) == parts
    with pytest.raises(ModelNotFoundError, match="missing: Q8_0/m-Q8_0-00002-of-00003"):
        choose(parts[0], parts[2])


def test_the_cache_follows_the_documented_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert cache_folder() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert cache_folder() == Path("/c")


def test_a_folder_of_modules_is_taken_whole() -> None:
    """sentence-transformers' small files count, and the weights of dense modules; no pickles and no code."""
    wanted = {
        "config.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "vocab.txt",
    }
    others = {"2_Dense/pytorch_model.bin", "modeling.py", "onnx/model.onnx", "1_Pooling/../x/config.json", "README.md"}
    chosen = choose_files(wanted | others, HubId("a/b"))
    assert set(chosen) == wanted
    assert chosen[-1] == "model.safetensors"


def test_the_token_goes_to_the_hub_alone(hub: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated repository needs a token, which the storage that the hub sends a download on to never sees."""
    offer(hub, "owner/tiny", FILES)
    for path in list(hub.pages):
        hub.pages[path].login = "Bearer secret"
    with pytest.raises(DownloadError, match="401"):
        pull_repository(TINY, SETTINGS)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving() as storage:
        where = storage.url.replace("127.0.0.1", "localhost")
        page = hub.pages["/owner/tiny/resolve/main/model.safetensors"]
        storage.add("/blob", page.body)
        page.redirect = f"{where}/blob"
        page.headers |= {"X-Linked-Etag": page.headers["ETag"], "X-Linked-Size": str(len(page.body))}
        folder = pull_repository(TINY, SETTINGS)
        assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        assert storage.seen("/blob")
        assert not any("authorization" in request.headers for request in storage.requests)
