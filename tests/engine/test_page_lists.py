"""Lists of pages in memory: each is where its address says, whatever came before."""

from __future__ import annotations

import ctypes

from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.backends.cpu.pass_tables import ROOM, PageLists

Pages = tuple[int, ...]


def at(address: int, count: int) -> Pages:
    return tuple((ctypes.c_int64 * count).from_address(address))


def check_pass(lists: PageLists, passes: list[Pages]) -> list[int]:
    """Place the lists of a pass; all of them are right once all are placed."""
    lists.begin()
    addresses = [lists.place(pages) for pages in passes]
    for address, pages in zip(addresses, passes, strict=True):
        assert at(address, len(pages)) == pages
    return addresses


def test_what_stays_is_not_moved_and_what_grows_moves_nothing() -> None:
    lists = PageLists(4 * ROOM)
    first, second = tuple(range(5)), tuple(range(10, 20))
    before = check_pass(lists, [first, second])
    assert check_pass(lists, [first, second]) == before
    assert check_pass(lists, [(*first, 77), second]) == before
    longer = tuple(range(ROOM + 1))
    assert check_pass(lists, [longer, second])[1] != before[1]
    assert check_pass(lists, [first, second]) == before


def test_more_than_there_was_room_for() -> None:
    lists = PageLists(ROOM)
    for count in (1, 3, 40, 2):
        check_pass(lists, [tuple(range(i, i + 20)) for i in range(count)])


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 200))
def test_any_order_of_passes(data: st.DataObject, fields: int) -> None:
    lists, known = PageLists(fields), [(1,)]
    known += [tuple(range(n, 2 * n)) for n in (2, 30, 32, 33, 70)]
    known += [tuple(range(100 * n, 101 * n)) for n in (31, 65)]
    for _ in range(data.draw(st.integers(1, 6))):
        check_pass(lists, data.draw(st.lists(st.sampled_from(known), max_size=6)))
