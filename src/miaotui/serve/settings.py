"""How a server behaves: values that do not change while it runs.

Owns the names and defaults of the server's settings, not where they come from (command line,
configuration file, environment). Invariant: a `ServeSettings` is valid once it exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.errors import RequestError
from miaotui.serve.bounds import MAX_BODY_BYTES, MAX_BODY_S
from miaotui.types import MAX_DEADLINE_MS


@dataclass(frozen=True)
class ServeSettings:
    """Settings of one server process. Raises `RequestError` for values out of range."""

    deadline_ms: float | None = None  # for requests that name none; None: no deadline
    max_body_bytes: int = MAX_BODY_BYTES
    body_timeout_s: float = MAX_BODY_S
    ping_s: float = 5.0  # a stream that says nothing for so long sends a comment
    docs: bool = True  # /openapi.json and /docs

    def __post_init__(self) -> None:
        if self.deadline_ms is not None and not 0 < self.deadline_ms <= MAX_DEADLINE_MS:
            raise RequestError(f"deadline_ms must be in (0, {MAX_DEADLINE_MS:,}], not {self.deadline_ms!r}")
        for name in ("max_body_bytes", "body_timeout_s", "ping_s"):
            if getattr(self, name) <= 0:
                raise RequestError(f"{name} must be greater than 0, not {getattr(self, name)!r}")
