"""Several encoders in one server: loaded once, put away when memory is short, never while one answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving

from miaotui.errors import ModelFormatError, OverloadedError
from miaotui.serve.encoders.registry import EncoderEntry, EncoderRegistry
from miaotui.serve.http.errors import ApiError
from tiny_encoder_models import make_encoder_folder, open_tiny
from tiny_engine import settings_in
from tiny_models import make_tiny_folder


class Maker:
    """Makes entries over one tiny model, and counts how often each is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened = folder, list[str]()
        self.model = make_encoder_folder(folder)

    def entry(self, name: str, size_bytes: int = 10) -> EncoderEntry:
        def opening() -> Any:
            self.opened.append(name)
            encoder = open_tiny(self.model, settings_in(self.folder))
            encoder._closing.detach()  # type: ignore[union-attr]
            return encoder.model, encoder.loop

        return EncoderEntry(name, ("embed",), 80, size_bytes, opening)


def run(folder: Path, names: str, budget: int | None, main: Callable[[EncoderRegistry, Maker], Any]) -> None:
    async def running() -> None:
        maker = Maker(folder)
        registry = EncoderRegistry(map(maker.entry, names), budget)
        try:
            await main(registry, maker)
        finally:
            registry.close()

    asyncio.run(running())


async def touch(registry: EncoderRegistry, name: str) -> None:
    async with registry.use(registry[name]) as encoder:
        assert (await encoder.embed("x")).shape == (1, 64)


def test_two_requests_load_a_model_once(tmp_path: Path) -> None:
    async def main(registry: EncoderRegistry, maker: Maker) -> None:
        assert registry.loaded == []
        await asyncio.gather(*(touch(registry, "a") for _ in range(5)))
        assert maker.opened == ["a"]

    run(tmp_path, "ab", None, main)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    async def main(registry: EncoderRegistry, maker: Maker) -> None:
        for name in "abac":
            await touch(registry, name)
        assert [entry.name for entry in registry.loaded] == ["a", "c"]
        await touch(registry, "b")
        assert [entry.name for entry in registry.loaded] == ["b", "c"]
        assert "".join(maker.opened) == "abcb"

    run(tmp_path, "abc", 20, main)


def test_one_that_answers_stays(tmp_path: Path) -> None:
    async def main(registry: EncoderRegistry, maker: Maker) -> None:
        async with registry.use(registry["a"]) as encoder:
            with pytest.raises(OverloadedError, match="a answer now and leave no memory for b"):
                await touch(registry, "b")
            assert (await encoder.embed("x")).shape == (1, 64)
        await touch(registry, "b")
        assert [entry.name for entry in registry.loaded] == ["b"]

    run(tmp_path, "ab", 10, main)


def test_a_model_larger_than_the_budget_is_loaded_alone(tmp_path: Path) -> None:
    async def main(registry: EncoderRegistry, maker: Maker) -> None:
        await touch(registry, "a")
        await touch(registry, "b")
        assert [entry.name for entry in registry.loaded] == ["b"]

    run(tmp_path, "ab", 5, main)


def test_a_request_that_gives_up_leaves_the_loading_to_others(tmp_path: Path) -> None:
    async def main(registry: EncoderRegistry, maker: Maker) -> None:
        first = asyncio.create_task(touch(registry, "a"))
        await asyncio.sleep(0.005)
        first.cancel()
        await asyncio.wait([first])
        await touch(registry, "a")
        assert maker.opened == ["a"]
        assert registry["a"].users == 0

    run(tmp_path, "a", None, main)


def test_a_model_that_cannot_be_opened_fails_its_request_alone(tmp_path: Path) -> None:
    async def main(registry: EncoderRegistry, maker: Maker) -> None:
        def broken() -> Any:
            raise ModelFormatError("the file is damaged")

        registry["a"].open = broken
        with pytest.raises(ModelFormatError):
            await touch(registry, "a")
        assert registry["a"].users == 0
        await touch(registry, "b")

    run(tmp_path, "ab", 10, main)


def test_a_deadline_does_not_wait_for_a_model_that_must_be_loaded(tmp_path: Path) -> None:
    encoders = {"embed": make_encoder_folder(tmp_path)}
    with serving({}, settings_in(tmp_path), encoders=encoders) as server:
        body = {"input": "x", "deadline_ms": 1500}
        refused = httpx.post(server.url + "/v1/embeddings", json=body, timeout=30)
        assert refused.status_code == 429
        assert refused.json()["error"]["predicted_ms"] > 1500
        assert "is being loaded" in refused.json()["error"]["message"]
        for _ in range(600):
            if httpx.get(server.url + "/v1/models/embed").json()["loaded"]:
                break
            time.sleep(0.05)
        assert (
            httpx.post(server.url + "/v1/embeddings", json={**body, "deadline_ms": 60_000}, timeout=30).status_code
            == 200
        )
        late = {**body, "on_late": "best_effort"}
        assert httpx.post(server.url + "/v1/embeddings", json=late, timeout=30).status_code == 200


def test_models_are_found_by_name_or_as_the_only_one_that_fits() -> None:
    def entry(name: str, *abilities: Any) -> EncoderEntry:
        return EncoderEntry(name, abilities, 80, 1, lambda: pytest.fail("not opened here"))

    async def main() -> None:
        registry = EncoderRegistry([entry("e", "embed"), entry("r", "rerank")], None, lambda: ["chat"])
        assert registry.find(None, "rerank", "embed").name == "r"
        assert registry.find(None, "embed").name == "e"
        assert registry.find("e", "rerank", "embed").name == "e"
        for name, status, words in (
            ("chat", 400, "chat is a chat model, which gives no rerank results here; use r"),
            ("nobody", 404, "Models: chat, e, r"),
            ("e", 400, "gives no rankings"),
        ):
            with pytest.raises(ApiError) as caught:
                registry.find(name, "rerank")
            assert caught.value.status == status
            assert words in caught.value.message
        with pytest.raises(ApiError) as caught:
            registry.find(None, "classify")
        assert caught.value.status == 404
        several = EncoderRegistry([entry("e", "embed"), entry("f", "embed")])
        with pytest.raises(ApiError, match="name one of e, f"):
            several.find(None, "embed")

    asyncio.run(main())


def test_chat_and_encoders_in_one_server(tmp_path: Path) -> None:
    chat = make_tiny_folder(tmp_path, "llama", max_position_embeddings=256)
    encoders = {task: make_encoder_folder(tmp_path, task) for task in ("embed", "rerank")}
    with serving({"chat": chat}, settings_in(tmp_path), encoders=encoders) as server:
        listed = httpx.get(server.url + "/v1/models").json()["data"]
        assert [(each["id"], each["kind"], each["loaded"]) for each in listed] == [
            ("chat", "chat", True),
            ("embed", "embedding", False),
            ("rerank", "rerank", False),
        ]
        messages = [{"role": "user", "content": "hi"}]
        body: Any = {"messages": messages, "max_tokens": 4, "temperature": 0}
        before = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=30).json()
        vectors = httpx.post(server.url + "/v1/embeddings", json={"input": ["x"] * 50}, timeout=30)
        assert len(vectors.json()["data"]) == 50
        wrong = httpx.post(server.url + "/v1/embeddings", json={"input": "x", "model": "chat"}, timeout=30)
        assert wrong.status_code == 400
        after = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=30).json()
        assert before["choices"][0]["message"] == after["choices"][0]["message"]
        loaded = [each["id"] for each in httpx.get(server.url + "/v1/models").json()["data"] if each["loaded"]]
        assert loaded == ["chat", "embed"]
