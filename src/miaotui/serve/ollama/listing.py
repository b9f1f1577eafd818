"""``/api/tags``, ``/api/ps``, ``/api/show``, ``/api/version`` and ``/api/pull``: the models, as Ollama lists them.

Owns the names that mean a model and its details. Knows no layout of files (`hub`). Invariants: a list has the names by
which requests call the models; a client fetches a model only where the operator allows it (``--allow-pull``).
Source: Ollama's ``docs/api.md``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Container
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.hub.files import file_size
from miaotui.hub.parts import part_paths
from miaotui.hub.quantisation import quantisation
from miaotui.hub.resolve import is_stored_elsewhere
from miaotui.hub.resolve import pull as fetch
from miaotui.model.reading.files import open_model
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.http.bodies import Events, json_response, read_body
from miaotui.serve.http.errors import ApiError, bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.ollama.answers import LineStream, line, time_text
from miaotui.serve.ollama.wire import LATEST, PullRequest, ShowRequest
from miaotui.served_model import ServedModel
from miaotui.text.chat import DEFAULT
from miaotui.text.infill import find_infiller

API_VERSION = "0.12.0"  # of Ollama, whose routes these are
NEVER = datetime(2318, 1, 1, tzinfo=timezone.utc)  # when models are put away; Ollama's own word for never
_SUCCESS = {"status": "success"}


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/api/tags", "GET", tags, "List the models (Ollama)"),
        Endpoint("/api/ps", "GET", running, "List the models in memory (Ollama)"),
        Endpoint("/api/show", "POST", show, "Describe a model (Ollama)", body=ShowRequest),
        Endpoint("/api/version", "GET", versions, "Say which version is spoken (Ollama)"),
        Endpoint("/api/pull", "POST", pull, "Fetch a model (Ollama)", body=PullRequest),
    ]


def chat_name(known: Container[str], name: str) -> str:
    """Return the name under which a model is served that Ollama's clients call ``name``, perhaps with a tag."""
    bare = name.removesuffix(LATEST)
    for each in (name, bare, f"ollama:{name}", f"ollama:{bare}", f"ollama:{bare}{LATEST}"):
        if each in known:
            return each
    return name


async def tags(http: HttpRequest) -> Response:
    """Answer with all models."""
    services = services_of(http)
    chats = await asyncio.to_thread(lambda: [_chat(model) for model in services.models.all()])
    return json_response({"models": chats + [_encoder(entry) for entry in services.encoders.values()]})


async def running(http: HttpRequest) -> Response:
    """Answer with the models in memory, which stay there."""
    services = services_of(http)
    chats = await asyncio.to_thread(lambda: [(_chat(model), model.context) for model in services.models.all()])
    encoders = [(_encoder(entry), entry.max_tokens) for entry in services.encoders.loaded]
    more = {"expires_at": time_text(NEVER), "size_vram": 0}
    return json_response({"models": [{**each, **more, "context_length": n} for each, n in [*chats, *encoders]]})


async def show(http: HttpRequest) -> Response:
    """Answer with one model's details. Raises `ApiError` (404)."""
    body = await read_body(received(http).body, ShowRequest)
    name, services = _named(body), services_of(http)
    entry = services.encoders.get(chat_name(services.encoders, name))
    if entry is not None:
        found = _encoder(entry)
        info = {"general.architecture": entry.kind, "context_length": entry.max_tokens}
        return json_response(_shown(found, info, "", ["embedding"] if "embed" in entry.abilities else []))
    model = services.models.find(chat_name({each.name for each in services.models.all()}, name))
    return json_response(await asyncio.to_thread(lambda: _show(model)))


async def versions(_http: HttpRequest) -> Response:
    """Answer with the version of Ollama whose routes these are, and with our own."""
    return json_response({"version": API_VERSION, "miaotui": version("miaotui")})


async def pull(http: HttpRequest) -> Response:
    """Fetch a model into this computer's caches; one that is served is there already.

    Raises `ApiError`: 403 unless the server was started with ``--allow-pull``.
    """
    body = await read_body(received(http).body, PullRequest)
    name, services = _named(body), services_of(http)
    chats = {model.name for model in services.models.all()}
    here = any(chat_name(known, name) in known for known in (chats, services.encoders))
    if not here and (not services.settings.allow_pull or is_stored_elsewhere(name)):
        raise ApiError(
            403,
            f"{name[:200]!r} is not served here, and clients may not fetch models: run miaotui pull on the server, "
            "or start it with --allow-pull",
            param="model",
            code="pull_not_allowed",
        )
    lines = _pulling(name, here)
    if body.stream is not False:
        return LineStream(lines, services.settings.ping_s)
    async for _ in lines:
        continue
    return json_response(_SUCCESS)


async def _pulling(name: str, here: bool) -> Events:
    """Yield the lines of a download, which runs in a thread and goes on if its client leaves."""
    if here:
        yield line({"status": "pulling manifest"}) + line(_SUCCESS)
        return
    loop, reports = asyncio.get_running_loop(), asyncio.Queue[tuple[str, int, int | None]]()

    def progress(label: str, done: int, total: int | None) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(reports.put_nowait, (label, done, total))

    work = asyncio.ensure_future(asyncio.to_thread(fetch, name, progress))
    yield line({"status": "pulling manifest"})
    while not work.done() or not reports.empty():
        with suppress(asyncio.TimeoutError):
            label, done, total = await asyncio.wait_for(reports.get(), 0.1)
            size = {} if total is None else {"total": total}
            yield line({"status": label, "digest": _digest(name), **size, "completed": done})
    await work
    yield line(_SUCCESS)


def _named(body: ShowRequest | PullRequest) -> str:
    name = body.model or body.name
    if not name:
        raise bad_value("model", "must be the name of a model")
    return name


def _chat(model: ServedModel) -> dict[str, Any]:
    loaded = model.loop.model
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": time_text(datetime.fromtimestamp(model.created_s, timezone.utc)),
        "size": _size(loaded.path),
        "digest": _digest(model.identity),
        "details": {**_details(loaded.path), "parent_model": model.parent or ""},
    }


def _encoder(entry: EncoderEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "model": entry.name,
        "modified_at": time_text(datetime.fromtimestamp(entry.created_s, timezone.utc)),
        "size": entry.size_bytes,
        "digest": _digest(entry.name),
        "details": _detail("", entry.kind, 0, ""),
    }


def _size(path: Path) -> int:
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file_size(part) for file in files for part in part_paths(file))


def _details(path: Path) -> dict[str, Any]:
    with open_model(path) as opened:
        weights = sum(tensor.rows * tensor.cols for tensor in opened.tensors.values())
        kind = "gguf" if path.is_file() else "safetensors"
        return _detail(kind, opened.config.architecture, weights, quantisation(opened.metadata, opened.tensors))


def _detail(kind: str, family: str, weights: int, quant: str) -> dict[str, Any]:
    size = f"{weights / 1e9:.1f}B" if weights >= 10**9 else f"{weights / 1e6:.2f}M" if weights else ""
    return {
        "parent_model": "",
        "format": kind,
        "family": family,
        "families": [family],
        "parameter_size": size,
        "quantization_level": quant,
    }


def _show(model: ServedModel) -> dict[str, Any]:
    config = model.loop.model.config
    family = config.architecture
    info = {
        "general.architecture": family,
        f"{family}.context_length": config.context_length,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.block_count": config.n_layers,
        f"{family}.vocab_size": config.vocab_size,
    }
    template = model.chat.template.sources.get(DEFAULT) or ""
    able = ["completion", *(["tools"] if "tools" in template else []), *(["thinking"] if model.chat.reasoning else [])]
    able += ["insert"] if find_infiller(model.tokenizer) else []
    return _shown(_chat(model), info, template, able)


def _shown(found: dict[str, Any], info: dict[str, Any], template: str, able: list[str]) -> dict[str, Any]:
    return {
        "modelfile": f"FROM {found['name']}\n",
        "parameters": "",
        "template": template,
        "details": found["details"],
        "model_info": info,
        "capabilities": able,
        "modified_at": found["modified_at"],
    }


def _digest(text: str) -> str:
    """Return 64 hex digits, as Ollama's digests have."""
    return hashlib.sha256(text.encode()).hexdigest()
