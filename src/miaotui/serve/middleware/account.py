"""What one HTTP request used: who asked, which route, how many tokens, how it ended.

Owns the account of the request at hand, which the engine's side finds through a context variable, so
that no handler has to carry it. Knows no text: what is asked and answered never gets here.
Invariant: everything in an account is the server's own word (key names, route templates, numbers),
or one of a fixed set; nothing that a client made up.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from miaotui.serve.middleware.keys import ANYONE, Caller

UNKNOWN_ROUTE = "(unknown)"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass
class Account:
    """One HTTP request. Times are `time.perf_counter` seconds."""

    method: str = "OTHER"
    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started_s: float = field(default_factory=time.perf_counter)
    caller: Caller = ANYONE
    route: str = UNKNOWN_ROUTE
    status: int = 0  # 0: no response was begun
    whole: bool = False  # whether the response was sent to its end
    model: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    duration_s: float = 0.0
    ttft_s: float | None = None
    charge: Callable[[int], None] | None = None  # told of tokens as soon as they are known

    def use(self, *, prompt: int = 0, cached: int = 0, answer: int = 0) -> None:
        """Add tokens of one of its generations; ``cached`` ones are among those of the prompt."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.answer_tokens += answer
        if self.charge is not None and prompt + answer:
            self.charge(prompt + answer)


CURRENT: ContextVar[Account | None] = ContextVar("miaotui_account", default=None)


def current() -> Account | None:
    """The account of the HTTP request that this code works for; None outside of one."""
    return CURRENT.get()


def known_method(method: str) -> str:
    """The method, or OTHER: clients may send any word."""
    return method if method in METHODS else "OTHER"


PROBING: ContextVar[bool] = ContextVar("miaotui_probing", default=False)  # not a person's request
