"""Choice of a replica for each request: the one that is done soonest, among equals the one that holds most of it.

Owns the replicas of one model, what each has published, the requests that this router sent and that have not ended,
and the prefixes that each holds. Knows no clock, process or network: times come in, in seconds. Deterministic: equal
calls give equal choices. Invariants: each ticket ends exactly once and leaves no count behind; a replica that drains,
left, or has its breaker open is never chosen; a prefix counts as the time it saves and decides alone only between
replicas that are equally soon; a client's mistake says nothing about a replica.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from miaotui.cluster.routing.breaker import Breaker
from miaotui.cluster.routing.forecast import Outlook, ReplicaCost, ReplicaLoad, outlook
from miaotui.cluster.routing.prefixes import PAGE_TOKENS, PrefixIndex
from miaotui.errors import DeadlineUnattainableError, OverloadedError

EQUAL_SHARE, EQUAL_S = 0.15, 0.002  # of each other: forecasts that count as equal
CROWD = 2  # requests more than another one that is done at the same time: too many, whatever prefixes say
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64 (Steele, Lea, Flood 2014)

Outcome = Literal["finished", "cancelled", "refused", "client_error", "failed"]


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """The parts of a request that decide where it goes. Deadlines are seconds from now; None: none."""

    prompt_tokens: int
    answer_tokens: int  # that are reckoned with
    pages: Sequence[int] = ()  # `page_hashes` of the prompt
    session: int = 0  # requests of one conversation share it
    total_s: float | None = None
    first_s: float | None = None
    token_s: float | None = None
    may_be_late: bool = False  # taken on although no replica is in time


@dataclass(slots=True)
class Ticket:
    """One request on its way to one replica."""

    number: int
    replica: str
    held_tokens: int  # of the prompt, that the replica was thought to hold
    predicted_s: float
    prompt_left: int
    answer_left: int
    pages: Sequence[int]


@dataclass(slots=True)
class ReplicaState:
    """One replica as the router sees it."""

    name: str
    cost: ReplicaCost
    load: ReplicaLoad = field(default_factory=ReplicaLoad)  # of this router's own requests
    others: ReplicaLoad = field(default_factory=ReplicaLoad)  # of other routers' requests, as published
    breaker: Breaker = field(default_factory=Breaker)
    draining: bool = False
    tickets: dict[int, Ticket] = field(default_factory=dict)
    key: int = 0

    @property
    def all(self) -> ReplicaLoad:
        """Return the whole load."""
        mine, others = self.load, self.others
        if not others.requests:
            return mine
        return ReplicaLoad(
            mine.requests + others.requests,
            mine.prompt_tokens + others.prompt_tokens,
            mine.answer_tokens + others.answer_tokens,
        )


class Router:
    """Router of one model's requests. Not safe for several threads at once.

    ``level_s``: among forecasts within so many seconds of the soonest, no replica gets `CROWD` requests more than
    another. Infinite: numbers of requests are levelled whatever it costs.
    """

    def __init__(self, level_s: float = EQUAL_S) -> None:
        self.level_s = level_s
        self.replicas: dict[str, ReplicaState] = {}
        self.prefixes = PrefixIndex()
        self._number = 0
        self._last_cost: ReplicaCost | None = None

    def add(self, name: str, cost: ReplicaCost) -> None:
        """Send requests to a replica from now on; it holds no prefixes yet."""
        self.remove(name)
        self.replicas[name] = ReplicaState(name, cost, key=_key(name))
        self.prefixes.add_replica(name, cost.kept_pages)

    def update(self, name: str, cost: ReplicaCost, total: ReplicaLoad) -> None:
        """Take in what a replica has published: its costs, and its load from all routers."""
        replica = self.replicas.get(name)
        if replica is None:
            return
        replica.cost, mine = cost, replica.load
        self._last_cost = cost
        replica.others = ReplicaLoad(
            max(total.requests - mine.requests, 0),
            max(total.prompt_tokens - mine.prompt_tokens, 0) if total.requests > mine.requests else 0,
            max(total.answer_tokens - mine.answer_tokens, 0) if total.requests > mine.requests else 0,
        )

    def drain(self, name: str) -> None:
        """Send nothing more to a replica; what it has goes on."""
        if name in self.replicas:
            self.replicas[name].draining = True

    def remove(self, name: str) -> list[Ticket]:
        """Forget a replica that left or died; return its tickets, which have ended with that."""
        replica = self.replicas.pop(name, None)
        self.prefixes.remove_replica(name)
        return [] if replica is None else list(replica.tickets.values())

    def pick(self, request: RouteRequest, now_s: float, tried: Collection[str] = ()) -> Ticket:
        """Choose a replica that was not ``tried`` and count the request there; end the ticket with `done`.

        Raises `DeadlineUnattainableError`, with the time it would take, and `OverloadedError` where no replica takes
        requests.
        """
        chosen, seen, held = self._choose(request, now_s, tried)
        late_s = _lateness(request, seen, chosen.cost.allowance)
        if late_s > 0 and not request.may_be_late:
            raise late_error(request, seen, chosen.cost.allowance)
        self._number += 1
        ticket = Ticket(
            self._number,
            chosen.name,
            held,
            seen.last_s,
            max(request.prompt_tokens - held, 1),
            request.answer_tokens,
            request.pages,
        )
        chosen.tickets[ticket.number] = ticket
        chosen.load.requests += 1
        chosen.load.prompt_tokens += ticket.prompt_left
        chosen.load.answer_tokens += ticket.answer_left
        chosen.breaker.sent()
        self.prefixes.note(chosen.name, request.pages)
        return ticket

    def quote(self, request: RouteRequest, now_s: float) -> tuple[Outlook, int, bool]:
        """Return the forecast of the best replica, tokens of the prompt that it holds, and whether it is in time."""
        chosen, seen, held = self._choose(request, now_s, ())
        return seen, held, _lateness(request, seen, chosen.cost.allowance) <= 0

    def work_s(self, request: RouteRequest) -> float:
        """Return the seconds of one replica that a request takes when many run; 0 while no replica's cost is known."""
        cost = next((replica.cost for replica in self.replicas.values()), self._last_cost)
        if cost is None:
            return 0.0
        return request.prompt_tokens * cost.read_s + request.answer_tokens * cost.token_s(cost.width) / cost.width

    def progress(self, ticket: Ticket, tokens: int) -> None:
        """Note answer tokens that came: the prompt has been read."""
        replica = self._holder(ticket)
        if replica is None:
            return
        tokens = min(tokens, ticket.answer_left)
        replica.load.prompt_tokens -= ticket.prompt_left
        replica.load.answer_tokens -= tokens
        ticket.prompt_left, ticket.answer_left = 0, ticket.answer_left - tokens

    def done(self, ticket: Ticket, outcome: Outcome, now_s: float, pages: Sequence[int] = ()) -> None:
        """End a ticket; ``pages`` are the hashes of prompt and answer together. Twice does nothing more.

        Only ``failed`` counts against the replica.
        """
        replica = self._holder(ticket)
        if replica is None:
            return
        del replica.tickets[ticket.number]
        replica.load.requests -= 1
        replica.load.prompt_tokens -= ticket.prompt_left
        replica.load.answer_tokens -= ticket.answer_left
        if outcome == "failed":
            replica.breaker.fail(now_s)
        elif outcome == "finished":
            replica.breaker.succeed()
        else:
            replica.breaker.abandon()
        if pages:
            self.prefixes.note(replica.name, pages)

    @property
    def in_flight(self) -> int:
        """Tickets that have not ended."""
        return sum(len(replica.tickets) for replica in self.replicas.values())

    def _holder(self, ticket: Ticket) -> ReplicaState | None:
        """Return the replica that holds a ticket; None if it ended, or the replica left or came back as another."""
        replica = self.replicas.get(ticket.replica)
        return replica if replica is not None and replica.tickets.get(ticket.number) is ticket else None

    def _choose(self, request: RouteRequest, now_s: float, tried: Collection[str]) -> tuple[ReplicaState, Outlook, int]:
        held = self.prefixes.held(request.pages)
        prompt, answer = request.prompt_tokens, request.answer_tokens
        most = max(prompt - 1, 0)
        best_s, found = math.inf, []
        for name, replica in self.replicas.items():
            if replica.draining or name in tried or not replica.breaker.allows(now_s):
                continue
            tokens = min(held[name] * PAGE_TOKENS, most) if name in held else 0
            seen = outlook(replica.cost, replica.all, prompt, tokens, answer)
            if seen.last_s <= best_s + max(self.level_s, EQUAL_SHARE * best_s):
                best_s = min(best_s, seen.last_s)
                found.append((seen, tokens, replica))
        if not found:
            raise self._none_left(now_s)
        equal_s = best_s + max(self.level_s, EQUAL_SHARE * best_s)
        same_s = best_s + self.level_s  # what lies within is noise: there the number of requests says more
        crowd = min((each[2].all.requests for each in found if each[0].last_s <= same_s), default=0) + CROWD
        seen, tokens, replica = min(
            (e for e in found if e[0].last_s <= equal_s and (e[0].last_s > same_s or e[2].all.requests < crowd)),
            key=lambda each: (-each[1], each[2].all.requests, _rank(request, each[2])),
        )
        return replica, seen, tokens

    def _none_left(self, now_s: float) -> OverloadedError:
        open_s = [each.breaker.open_until_s - now_s for each in self.replicas.values() if not each.draining]
        retry_s = max(min(open_s, default=1.0), 0.5)
        return OverloadedError("no replica of this model takes requests now: ask again in a moment", retry_s)


def _lateness(request: RouteRequest, seen: Outlook, allowance: float) -> float:
    """Return by how many seconds the tightest of the limits is missed; negative: time to spare."""
    limits = ((request.total_s, seen.last_s), (request.first_s, seen.first_s), (request.token_s, seen.token_s))
    return max((needs * allowance - limit for limit, needs in limits if limit is not None), default=-1.0)


def late_error(request: RouteRequest, seen: Outlook, allowance: float) -> DeadlineUnattainableError:
    """Return the refusal of a request that no replica can do in time."""
    predicted_ms = 1e3 * seen.last_s * allowance
    wanted = request.total_s if request.total_s is not None else request.first_s
    asked = "its limit between tokens" if wanted is None else f"{1e3 * wanted:.0f} ms"
    return DeadlineUnattainableError(
        f"the deadline cannot be kept: no replica is done within {asked}, the soonest takes {predicted_ms:.0f} ms. "
        "Allow more time, ask for a shorter answer, or use on_late=shorten",
        max(seen.last_s - (request.total_s or 0.0), 0.1),
        predicted_ms,
    )


def _key(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = _mix(value ^ byte)
    return value


def _rank(request: RouteRequest, replica: ReplicaState) -> int:
    """Return the replica's place for this session: rendezvous hashing (Thaler, Ravishankar 1998)."""
    return _mix(request.session ^ replica.key)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & (1 << 64) - 1
    value = ((value ^ value >> 30) * MIXERS[0]) & (1 << 64) - 1
    value = ((value ^ value >> 27) * MIXERS[1]) & (1 << 64) - 1
    return value ^ value >> 31
