"""The router's choices against a slow recount of everything, under random operations."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.cluster.routing.breaker import FAILURES, FIRST_PAUSE_S
from miaotui.cluster.routing.forecast import ReplicaCost, ReplicaLoad, outlook
from miaotui.cluster.routing.prefixes import PAGE_TOKENS, PrefixIndex, node_hashes, page_hashes
from miaotui.cluster.routing.router import EQUAL_S, EQUAL_SHARE, Router, RouteRequest, Ticket
from miaotui.errors import DeadlineUnattainableError, OverloadedError
from miaotui.schedule.pages import PageNode, PagePool, PrefixTree

COST = ReplicaCost(1e-3, (10e-3, 11e-3, 13e-3, 20e-3, 40e-3), 1.2, 4, 64)
PLAIN = RouteRequest(100, 20)


def router_of(*names: str, cost: ReplicaCost = COST) -> Router:
    router = Router()
    for name in names:
        router.add(name, cost)
    return router


def check_books(router: Router) -> None:
    """Loads are the sums of the tickets, and prefixes stay within their room."""
    for name, replica in router.replicas.items():
        tickets = replica.tickets.values()
        assert replica.load.requests == len(tickets)
        assert replica.load.prompt_tokens == sum(ticket.prompt_left for ticket in tickets)
        assert replica.load.answer_tokens == sum(ticket.answer_left for ticket in tickets)
        assert router.prefixes.pages_of(name) <= replica.cost.kept_pages


@given(st.randoms(use_true_random=False))
def test_random_operations_leave_the_books_right(rng: random.Random) -> None:
    router, open_, ended = router_of("a", "b"), list[Ticket](), list[Ticket]()
    now_s = 0.0
    for step in range(60):
        now_s += rng.random()
        what = rng.randrange(7)
        if what <= 2:
            tokens = [rng.randrange(3)] * rng.randrange(1, 200)
            request = RouteRequest(len(tokens), rng.randrange(1, 50), page_hashes(tokens), rng.randrange(5))
            try:
                ticket = router.pick(request, now_s)
            except OverloadedError:
                assert not any(each.breaker.allows(now_s) and not each.draining for each in router.replicas.values())
                continue
            assert not router.replicas[ticket.replica].draining
            open_.append(ticket)
        elif what == 3 and open_:
            router.progress(rng.choice(open_), rng.randrange(1, 9))
        elif what == 4 and open_:
            ticket = open_.pop(rng.randrange(len(open_)))
            router.done(ticket, rng.choice(("finished", "cancelled", "refused", "client_error", "failed")), now_s)
            ended.append(ticket)
        elif what == 5 and ended:
            router.done(rng.choice(ended), "failed", now_s)  # twice: nothing more
        elif what == 6:
            name = rng.choice("abcd")
            rng.choice((router.drain, router.remove, lambda name: router.add(name, COST)))(name)
            ended += [ticket for ticket in open_ if ticket.replica == name]
            if step % 2:
                router.update("a", COST, ReplicaLoad(rng.randrange(9), rng.randrange(99), rng.randrange(99)))
        check_books(router)
    for ticket in open_:
        router.done(ticket, "finished", now_s)
    check_books(router)
    assert router.in_flight == 0


@given(
    loads=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=6),
    prompt=st.integers(1, 400),
    answer=st.integers(1, 100),
)
def test_the_choice_is_as_soon_as_any(loads: list[tuple[int, int, int]], prompt: int, answer: int) -> None:
    router = router_of(*(f"r{i}" for i in range(len(loads))))
    times = {}
    for i, (requests, prompts, answers) in enumerate(loads):
        load = ReplicaLoad(requests, prompts * bool(requests), answers * bool(requests))
        router.update(f"r{i}", COST, load)
        times[f"r{i}"] = outlook(COST, load, prompt, 0, answer).last_s
    ticket = router.pick(RouteRequest(prompt, answer), 0.0)
    best_s = min(times.values())
    assert times[ticket.replica] <= best_s + max(EQUAL_S, EQUAL_SHARE * best_s)
    assert ticket.predicted_s == times[ticket.replica]


@given(st.integers(0, 20), st.integers(0, 999), st.integers(0, 999), st.integers(1, 999), st.integers(1, 200))
def test_more_work_is_never_sooner(requests: int, prompts: int, answers: int, prompt: int, answer: int) -> None:
    load = ReplicaLoad(requests, prompts * bool(requests), answers * bool(requests))
    seen = outlook(COST, load, prompt, 0, answer)
    assert 0 < seen.first_s <= seen.last_s
    for more in (replace(load, requests=load.requests + 1), replace(load, prompt_tokens=load.prompt_tokens + 9)):
        if load.requests < COST.width - 1:
            assert outlook(COST, more, prompt, 0, answer).last_s >= seen.last_s
    assert outlook(COST, load, prompt + 1, 0, answer).last_s >= seen.last_s
    assert outlook(COST, load, prompt, 0, answer + 1).last_s >= seen.last_s
    assert outlook(COST, load, prompt, min(16, prompt), answer).last_s <= seen.last_s


def test_a_prefix_draws_a_request_but_not_at_any_price() -> None:
    router, tokens = router_of("a", "b", "c"), list(range(320))
    request = RouteRequest(320, 20, page_hashes(tokens))
    first = router.pick(request, 0.0)
    router.done(first, "finished", 0.0)
    again = router.pick(request, 0.0)
    assert again.replica == first.replica
    assert again.held_tokens == 319
    router.done(again, "finished", 0.0)
    router.update(first.replica, COST, ReplicaLoad(3, 2000, 300))  # now reading there waits for others
    assert router.pick(request, 0.0).replica != first.replica


def test_turns_of_a_conversation_stay_together_and_loads_stay_even() -> None:
    """A trace of conversations side by side: as many pages are found as an oracle would find, loads differ by two."""
    router, rng = router_of(*"abcd", cost=replace(COST, width=16, kept_pages=4096)), random.Random(3)
    talks = [[rng.randrange(1000) for _ in range(64)] for _ in range(24)]
    found = possible = 0
    for turn in range(8):
        tickets = []
        for number, talk in enumerate(talks):
            pages = page_hashes(talk)
            ticket = router.pick(RouteRequest(len(talk), 16, pages, number), float(turn))
            if turn:
                possible += (len(talk) - 32) // PAGE_TOKENS * PAGE_TOKENS  # the tokens of the turns before
                found += min(ticket.held_tokens, (len(talk) - 32) // PAGE_TOKENS * PAGE_TOKENS)
            tickets.append(ticket)
            in_flight = [each.load.requests for each in router.replicas.values()]
            assert max(in_flight) - min(in_flight) <= 2
        for ticket, talk in zip(tickets, talks, strict=True):
            talk += [rng.randrange(1000) for _ in range(32)]  # the answer and the next question
            router.done(ticket, "finished", float(turn), page_hashes(talk[:-16]))
    assert found >= 0.95 * possible


def test_a_late_request_is_refused_with_the_time_it_takes() -> None:
    router = router_of("a", "b")
    with pytest.raises(DeadlineUnattainableError, match="the soonest takes") as refused:
        router.pick(RouteRequest(1000, 100, total_s=0.5), 0.0)
    wanted = outlook(COST, ReplicaLoad(), 1000, 0, 100).last_s * COST.allowance * 1e3
    assert refused.value.predicted_ms == pytest.approx(wanted)
    assert router.in_flight == 0
    assert router.pick(RouteRequest(1000, 100, total_s=0.5, may_be_late=True), 0.0)
    assert router.pick(RouteRequest(10, 2, total_s=0.5), 0.0)


def test_failures_open_the_breaker_and_a_trial_closes_it() -> None:
    router = router_of("a", "b")
    router.drain("b")
    for _ in range(FAILURES):
        router.done(router.pick(PLAIN, 0.0), "failed", 0.0)
    with pytest.raises(OverloadedError):
        router.pick(PLAIN, FIRST_PAUSE_S / 2)
    trial = router.pick(PLAIN, FIRST_PAUSE_S)
    with pytest.raises(OverloadedError):
        router.pick(PLAIN, FIRST_PAUSE_S)  # one trial at a time
    router.done(trial, "failed", FIRST_PAUSE_S)
    with pytest.raises(OverloadedError):
        router.pick(PLAIN, 2.9 * FIRST_PAUSE_S)  # the second pause is twice as long
    router.done(router.pick(PLAIN, 3 * FIRST_PAUSE_S), "cancelled", 9.0)
    router.done(router.pick(PLAIN, 3 * FIRST_PAUSE_S), "finished", 9.0)
    assert {router.pick(PLAIN, 9.0).replica for _ in range(3)} == {"a"}


@pytest.mark.parametrize("outcome", ["client_error", "refused", "cancelled"])
def test_a_clients_mistake_counts_against_no_replica(outcome: str) -> None:
    router = router_of("a")
    for _ in range(3 * FAILURES):
        router.done(router.pick(PLAIN, 0.0), outcome, 0.0)  # type: ignore[arg-type]
    assert router.pick(PLAIN, 0.0).replica == "a"


def test_replicas_that_were_tried_or_left_are_not_chosen() -> None:
    router = router_of("a", "b", "c")
    router.drain("a")
    assert router.pick(PLAIN, 0.0, tried=["b"]).replica == "c"
    assert [ticket.replica for ticket in router.remove("c")] == ["c"]
    with pytest.raises(OverloadedError):
        router.pick(PLAIN, 0.0, tried=["b"])


@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=80))
def test_pages_agree_exactly_as_far_as_tokens_do(left: list[int], right: list[int]) -> None:
    shared = 0
    for one, other in zip(page_hashes(left), page_hashes(right), strict=False):
        if one != other:
            break
        shared += 1
    same = next((i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None)
    least = min(len(left), len(right)) if same is None else same
    assert shared == least // PAGE_TOKENS
    assert not set(page_hashes(left)) & set(page_hashes(left, namespace=1))
    assert not set(page_hashes(left)) & set(page_hashes(left, adapter="legal"))


def test_prefixes_are_kept_up_to_a_replicas_room() -> None:
    index = PrefixIndex()
    index.add_replica("a", 4)
    old, new = page_hashes(list(range(48))), page_hashes(list(range(100, 148)))
    index.note("a", old)
    index.note("a", new)
    assert index.pages_of("a") == 4
    assert index.held(new) == {"a": 3}
    assert index.held(old) == {"a": 1}  # its last pages went first
    index.remove_replica("a")
    assert index.held(new) == {}
    assert index.pages_of("a") == 0


@given(st.randoms(use_true_random=False))
def test_replicas_name_the_pages_that_routers_count_on(rng: random.Random) -> None:
    """Hashes of stored and of evicted pages are those of the prompts that they are from."""
    pool = PagePool(1000)
    tree = PrefixTree(pool)
    tree.watch_evictions(1000)
    held: dict[int, PageNode] = {}
    for _ in range(rng.randrange(1, 8)):
        tokens = [rng.randrange(2) for _ in range(PAGE_TOKENS * rng.randrange(1, 5))]
        namespace, adapter, node = rng.randrange(2), rng.randrange(2), tree.root
        for place, page in enumerate(page_hashes(tokens, namespace, "0")):
            prefix = tokens[: (place + 1) * PAGE_TOKENS]
            node = tree.insert(node, prefix, pool.allocate(), namespace, adapter)
            if not adapter:
                held[page] = node
        tree.let_go(node)
    assert sorted(node_hashes(tree.nodes(), "0")) == sorted(held)
    gone = set()
    for _ in range(rng.randrange(tree.n_evictable + 1)):
        tree.evict()
    stored = {id(each) for each in tree.nodes()}
    gone = {page for page, node in held.items() if id(node) not in stored}
    assert set(node_hashes(tree.take_evicted(1000), "0")) == gone
    assert tree.take_evicted(1000) == []
    index = PrefixIndex()
    index.add_replica("a", 1000)
    index.note("a", held)
    index.forget("a", [*gone, 1, 2])
    assert index.pages_of("a") == len(held) - len(gone)
