"""How one server process is to run: everything that ``miaotui serve`` can be told.

Owns the values and what must hold between them. Knows no parser. Invariant: a `ServeOptions` that
was `checked` can be served, as far as that can be known without loading a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import RequestError
from miaotui.serve.http.sockets import Tls, is_loopback

MAX_MODELS = 16


@dataclass(frozen=True)
class ServeOptions:
    """The options by their long names; times are in seconds."""

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: str | None = None
    tls_key: str | None = None
    drain_timeout: float = 30.0
    api_key_file: str | None = None
    insecure: bool = False
    share_prefix: bool = False
    allowed_host: tuple[str, ...] = ()
    cors_origin: tuple[str, ...] = ()
    deadline: float | None = None
    max_requests: int = 256
    max_tokens: int = 1 << 18
    max_running: int = 16
    format: str | None = None
    kv: str = "f16"
    threads: int | None = None
    context: int | None = None
    no_speculate: bool = False
    answer_cache: str | None = None
    answer_cache_mb: int = 256
    answer_cache_hours: int = 168
    near_answers: str | None = None
    near_bound: float = 0.001
    support_faq: str | None = None
    support_docs: str | None = None
    support_rules: str | None = None
    support_store: str | None = None
    audit_log: str | None = None
    log_format: str = "text"
    log_level: str = "info"

    @property
    def tls(self) -> Tls | None:
        """The certificate, if there is one."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Tls(Path(self.tls_cert), Path(self.tls_key))

    @property
    def named_models(self) -> dict[str, str]:
        """What each model is called, and where it is found."""
        found: dict[str, str] = {}
        for word in self.models:
            name, equals, model = word.partition("=")
            if not equals or "/" in name:  # a path may hold an equals sign; a name no slash
                name, model = _name_of(word), word
            if not name or not model or len(name) > 128 or not name.isprintable():
                raise RequestError(f"{word!r} names no model: expected MODEL or NAME=MODEL")
            if name in found:
                raise RequestError(f"two models are called {name}: name one of them NAME={model}")
            found[name] = model
        return found

    def checked(self) -> ServeOptions:
        """Itself. Raises `RequestError` for options that do not go together."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RequestError("--tls-cert and --tls-key go together: give both or neither")
        if not (is_loopback(self.host) or self.api_key_file or self.insecure):
            raise RequestError(
                f"on {self.host} other machines could use this server without a key. Give "
                "--api-key-file (miaotui key NAME makes one), or --insecure if that is meant"
            )
        if not 1 <= len(self.named_models) <= MAX_MODELS:
            raise RequestError(f"a server has 1 to {MAX_MODELS} models, not {len(self.models)}")
        if self.near_answers is not None and self.answer_cache is None:
            raise RequestError("--near-answers needs --answer-cache FILE to keep answers in")
        for origin in self.cors_origin:
            scheme, separator, rest = origin.partition("://")
            if origin != "*" and (not separator or not scheme or not rest or "/" in rest):
                raise RequestError(
                    f"--cors-origin {origin!r}: expected an origin such as https://chat.example, without a path"
                )
        if self.tls is not None:
            self.tls.check()
        return self


def _name_of(model: str) -> str:
    """A short name: a catalog name or repository as it is, a path without folders and suffix."""
    path = Path(model)
    if path.exists():
        return path.resolve().name.removesuffix(".gguf")
    return model
