"""The page pool: counts, the free stack, and its refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import EngineError
from miaotui.schedule.pages import PagePool
from miaotui.schedule.plan import PAGE_SIZE, pages_for


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (33, 3)])
def test_pages_for(tokens, pages):
    assert PAGE_SIZE == 16
    assert pages_for(tokens) == pages


def test_a_page_is_free_when_its_last_holder_lets_go():
    pool = PagePool(2)
    page = pool.allocate()
    assert pool.retain(page) == 2
    assert pool.release(page) == 1
    assert pool.n_free == 1
    assert pool.release(page) == 0
    assert pool.n_free == 2
    assert pool.references(page) == 0


def test_the_page_freed_last_is_given_out_first():
    pool = PagePool(3)
    first, second = pool.allocate(), pool.allocate()
    pool.release(second)
    pool.release(first)
    assert pool.allocate() == first


def test_an_empty_pool_says_how_large_it_is():
    pool = PagePool(1)
    pool.allocate()
    with pytest.raises(EngineError, match="all 1 KV pages are held"):
        pool.allocate()


@pytest.mark.parametrize("operation", ["retain", "release"])
def test_a_free_page_can_be_neither_retained_nor_released(operation):
    pool = PagePool(1)
    with pytest.raises(EngineError, match="page 0 is free"):
        getattr(pool, operation)(0)


@given(st.lists(st.tuples(st.sampled_from("arR"), st.integers(0, 5)), max_size=60))
def test_counts_follow_a_dictionary(operations):
    pool, counts = PagePool(4), {}
    for operation, index in operations:
        held = sorted(counts)
        if operation == "a" and len(held) < 4:
            page = pool.allocate()
            assert page not in counts
            counts[page] = 1
        elif held and operation != "a":
            page = held[index % len(held)]
            counts[page] += 1 if operation == "r" else -1
            change = pool.retain if operation == "r" else pool.release
            assert change(page) == counts[page]
            if not counts[page]:
                del counts[page]
        assert set(pool.free_pages()) == set(range(4)) - counts.keys()
        assert pool.n_free == 4 - len(counts)
