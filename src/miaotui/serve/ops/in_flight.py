"""Requests that the engines work on at this moment, each with the account of its HTTP request.

Owns the list of running requests, as an `Observer`; enters their tokens into accounts. Knows no text. Invariant: a
request is in the list from its submission until it is read no more.
"""

from __future__ import annotations

from collections.abc import Mapping

from miaotui.engine.request import Request
from miaotui.errors import RefusedError
from miaotui.serve.middleware.accounting import Account, current
from miaotui.served_model import ServedModel


class Running:
    """An `Observer` that knows what runs; ``models`` may be filled later, while the server starts."""

    def __init__(self, hosts: Mapping[str, ServedModel]) -> None:
        self._hosts = hosts
        self._open: dict[tuple[str, int], tuple[Request, Account | None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def submitted(self, model: str, request: Request) -> None:
        """Count its prompt from now on."""
        account = current()
        self._open[model, request.number] = request, account
        if account is not None:
            account.model = model
            account.use(prompt=request.prompt_tokens)

    def refused(self, model: str, error: RefusedError) -> None:
        """Note the model's name, for the log."""
        account = current()
        if account is not None:
            account.model = model

    def left(self, model: str, request: Request) -> None:
        """Count what it answered too."""
        _, account = self._open.pop((model, request.number), (request, None))
        if account is None:
            return
        account.use(answer=len(request.token_ids), cached=request.cached_tokens)
        if request.finish_reason in ("stop", "length"):
            ttft_s = request.completion().timing.ttft_s
            account.ttft_s = ttft_s if account.ttft_s is None else min(account.ttft_s, ttft_s)

    def cancel_all(self) -> int:
        """Cancel everything and return the count; readers get what there is of their answers."""
        for (model, _), (request, _account) in self._open.items():
            self._hosts[model].loop.cancel(request)
        return len(self._open)
