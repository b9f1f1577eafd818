"""Settings of one server process: what an operator chooses, by the names of the command line's options.

Owns the values, their defaults and what must hold between them. Knows no parser and no file. Invariant: a
`ServeSettings` holds values in their ranges once it exists; one that was `checked` can be served, as far as that can be
known without loading a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from miaotui.errors import RequestError
from miaotui.serve.http.listener import Tls, is_loopback
from miaotui.types import MAX_DEADLINE_MS

MAX_MODELS = 16
AUDIO_PATHS = "/v1/audio/"  # of routes that take recordings
MAX_MODEL_NAME_CHARACTERS = 128
_ABOVE_ZERO = ("drain_timeout_s", "max_body_bytes", "max_audio_bytes", "max_audio_hours", "body_timeout_s", "ping_s")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server. Raises `RequestError` for values out of range."""

    models: tuple[str, ...] = ()  # MODEL or NAME=MODEL each
    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: str | None = None
    tls_key: str | None = None
    drain_timeout_s: float = 30.0
    docs: bool = True  # /docs and /openapi.json
    console: bool = True  # the page at /
    api_key_file: str | None = None
    tenants: str | None = None  # a file of tenants, in place of the key file
    insecure: bool = False
    share_prefix: bool = False
    adapter: tuple[str, ...] = ()  # NAME=PATH each: low-rank adapters of the first model
    tiers: tuple[str, ...] = ()  # NAME=A,B,... each: served models behind one name, the best first
    route: tuple[str, ...] = ()  # NAME=zh:A,code:B,<200:C,D each: served models of which the prompt chooses one
    allow_adapters: bool = False  # whether clients may load and unload adapters from this computer's folders
    allow_pull: bool = False  # whether clients may fetch models into this computer's caches
    allowed_host: tuple[str, ...] = ()
    cors_origin: tuple[str, ...] = ()
    deadline_s: float | None = None  # for requests that name none; None: no deadline
    max_requests: int = 256
    max_tokens: int = 1 << 18
    max_running: int = 16
    max_body_bytes: int = 4 << 20  # 128k tokens of English take about 0.6 MB, as token ids about 0.9 MB
    max_audio_bytes: int = 25 << 20  # of a request with a recording; OpenAI takes as many
    max_audio_hours: float = 4.0  # of one recording
    body_timeout_s: float = 30.0  # from the first byte of a body to its last
    ping_s: float = 5.0  # a stream that is silent for so long sends a comment
    format: str | None = None
    kv: str = "f16"
    threads: int | None = None
    context: int | None = None
    backend: str = "cpu"
    no_speculate: bool = False
    stages: int = 1  # processes that share a model's layers
    stage_at: tuple[str, ...] = ()  # HOST:PORT each: stages elsewhere
    stage_key_file: str | None = None
    encoder_memory_mb: int | None = None  # of weights of all loaded encoders; None: half of the memory
    pooling: str | None = None  # of encoders whose files do not say it
    head: tuple[str, ...] = ()  # NAME=FILE each: heads of classifiers
    answer_cache: str | None = None
    answer_cache_mb: int = 256
    answer_cache_hours: int = 168
    near_answers: str | None = None
    near_bound: float = 0.001
    support_faq: str | None = None
    support_docs: str | None = None
    support_rules: str | None = None
    support_tracker: str | None = None
    support_store: str | None = None
    audit_log: str | None = None
    audit_log_mb: int = 64  # of one file; then it is put aside
    audit_log_files: int = 9  # that were put aside
    log_format: str = "text"
    log_level: str = "info"

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not 0 < self.deadline_s * 1e3 <= MAX_DEADLINE_MS:
            raise RequestError(f"deadline_s must be in (0, {MAX_DEADLINE_MS // 1000:,}], not {self.deadline_s!r}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} must be greater than 0, not {getattr(self, name)!r}")

    @cached_property
    def deadline_ms(self) -> float | None:
        """Return the deadline of requests that name none, in milliseconds."""
        return None if self.deadline_s is None else self.deadline_s * 1e3

    @property
    def has_keys(self) -> bool:
        """Return whether clients need a key."""
        return self.api_key_file is not None or self.tenants is not None

    @property
    def tls(self) -> Tls | None:
        """Return the certificate, if there is one."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Tls(Path(self.tls_cert), Path(self.tls_key))

    @property
    def named_models(self) -> dict[str, str]:
        """Return where each model is found, by the name it is served under. Raises `RequestError`."""
        found: dict[str, str] = {}
        for word in self.models:
            name, equals, model = word.partition("=")
            if not equals or "/" in name:  # a path may hold an equals sign; a name no slash
                name, model = _name_of(word), word
            if not name or not model or len(name) > MAX_MODEL_NAME_CHARACTERS or not name.isprintable():
                raise RequestError(f"{word!r} names no model: expected MODEL or NAME=MODEL")
            if name in found:
                raise RequestError(f"two models are called {name}: name one of them NAME={model}")
            found[name] = model
        return found

    def checked(self) -> ServeSettings:
        """Return these settings. Raises `RequestError` for settings that do not go together."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RequestError("--tls-cert and --tls-key go together: give both or neither")
        if self.api_key_file and self.tenants:
            raise RequestError("--tenants takes the place of --api-key-file: give one of them")
        if not (is_loopback(self.host) or self.has_keys or self.insecure):
            raise RequestError(
                f"on {self.host} other machines could use this server without a key. Give --api-key-file "
                "(miaotui key NAME makes one), --tenants (miaotui tenant add NAME), or --insecure if that is meant"
            )
        if not 1 <= len(self.named_models) <= MAX_MODELS:
            raise RequestError(f"a server has 1 to {MAX_MODELS} models, not {len(self.models)}")
        if self.near_answers is not None and self.answer_cache is None:
            raise RequestError("--near-answers needs --answer-cache FILE to keep answers in")
        for origin in self.cors_origin:
            _check_origin(origin)
        if self.tls is not None:
            self.tls.check()
        return self


def _check_origin(origin: str) -> None:
    scheme, separator, rest = origin.partition("://")
    if origin != "*" and (not separator or not scheme or not rest or "/" in rest):
        raise RequestError(f"--cors-origin {origin!r}: expected an origin such as https://chat.example, without a path")


def _name_of(model: str) -> str:
    """Return a short name: a catalog name or repository as it is, a path without folders and suffix."""
    path = Path(model)
    if path.exists():
        return path.resolve().name.removesuffix(".gguf").removesuffix(".ensemble.json")
    return model
