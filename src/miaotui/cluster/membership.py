"""Descriptions and reports of replicas: who may join a pool, what each costs, what all of them are together.

Owns the reading of both messages. Knows no way to a replica. Invariant: replicas of one pool have equal files, equal
arithmetic and equal messages, so that an answer may go on in any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from miaotui.cluster.messages import Message
from miaotui.cluster.routing.forecast import ReplicaCost, ReplicaLoad
from miaotui.engine.remote.state import RemoteState
from miaotui.schedule.promises.cost import CostRates

_REASONS = {
    "protocol": "it speaks version {found} of the messages, and this process version {wanted}: use one miaotui",
    "miaotui": "it runs miaotui {found}, and this process {wanted}: use one version in the whole cluster",
    "digest": "its model file is another one (SHA-256 {found:.12}… instead of {wanted:.12}…): copy the file again",
    "computes": "it keeps weights or computes otherwise ({found} instead of {wanted}): use the same options for all",
    "context": "its context holds {found} tokens, and that of the others {wanted}: set `context` for all",
}


def admissible(described: Mapping[str, Any], expected: Message) -> str | None:
    """Return why a replica may not join; None if it may.

    What ``expected`` does not say yet is learned from the first replica that joins.
    """
    for name, reason in _REASONS.items():
        found, wanted = described.get(name), expected.get(name)
        if wanted is not None and found != wanted:
            return reason.format(found=found, wanted=wanted)
    expected.update({name: described[name] for name in _REASONS})
    return None


def cost_of(report: Mapping[str, Any]) -> ReplicaCost:
    """Return the costs that a replica has published."""
    cost = report["cost"]
    return ReplicaCost(
        read_s=max(float(cost["read_s"]), 1e-9),
        answer_s=tuple(float(each) for each in cost["answer_s"]),
        allowance=max(float(cost["allowance"]), 1.0),
        width=max(int(cost["width"]), 1),
        kept_pages=int(cost["kept_pages"]),
    )


def load_of(report: Mapping[str, Any]) -> ReplicaLoad:
    """Return the work that a replica has from all routers."""
    requests, prompt_tokens, answer_tokens = report["load"]
    return ReplicaLoad(int(requests), int(prompt_tokens), int(answer_tokens))


class Reports:
    """The latest reports of all replicas, and their sum."""

    def __init__(self) -> None:
        self.state = RemoteState()
        self._described: dict[str, Mapping[str, Any]] = {}
        self._latest: dict[str, Mapping[str, Any]] = {}

    def take(self, name: str, described: Mapping[str, Any] | None, report: Mapping[str, Any]) -> None:
        """Take a report in, with the description if the replica is new."""
        if described is not None:
            self._described[name] = described
        if name in self._described:
            self._latest[name] = report
            self._add_up()

    def published(self, name: str) -> Any:
        """Return a value that all replicas publish, from one of them; None before any has."""
        return next((each[name] for each in self._latest.values() if name in each), None)

    def place_of(self, name: str) -> tuple[str, int]:
        """Return a replica's machine and process."""
        described = self._described.get(name, {})
        return str(described.get("machine", "")), int(described.get("process", 0))

    def forget(self, name: str) -> None:
        """Leave a replica out from now on."""
        self._described.pop(name, None)
        self._latest.pop(name, None)
        self._add_up()

    def _add_up(self) -> None:
        latest, described = list(self._latest.values()), list(self._described.values())
        if not latest:
            self.state = replace(self.state, engines=0, running=0, waiting=0, pages_used=0, threads=0)
            return
        curve, logits_s = latest[0]["rates"]
        self.state = RemoteState(
            promises=all(each["promises"] for each in described),
            adapters=all(each["adapters"] for each in described),
            engines=sum(bool(each["healthy"]) for each in latest),
            running=sum(each["running"] for each in latest),
            waiting=sum(each["waiting"] for each in latest),
            pages=sum(each["pages"] for each in described),
            pages_used=sum(each["pages_used"] for each in latest),
            width=sum(each["width"] for each in described),
            chunk_rows=described[0]["chunk_rows"],
            threads=sum(each["threads"] for each in latest),
            weight_bytes=described[0]["weight_bytes"],
            kv_token_bytes=described[0]["kv_token_bytes"],
            rates=CostRates(tuple((int(rows), float(s)) for rows, s in curve), logits_s, latest[0]["attend_s"]),
            pace=latest[0]["pace"],
        )
