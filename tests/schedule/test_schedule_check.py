"""The integrity check notices each kind of damage: otherwise its silence would prove nothing."""

from __future__ import annotations

import pytest

from miaotui.schedule import ScheduleConfig, Scheduler


@pytest.fixture
def scheduler():
    """Two running sequences that share two pages, one of them planned; one waiting."""
    scheduler = Scheduler(ScheduleConfig(n_pages=16, context=500, max_sequences=2))
    for sequence in range(3):
        scheduler.add(sequence, range(40), 5)
        if sequence < 2:
            scheduler.commit(scheduler.plan(), {0: [50], 1: [50]} if sequence else {0: [50]})
    scheduler.plan()
    scheduler.check()
    return scheduler


def lost_page(s):
    s._ledger.pool.allocate()


def freed_page(s):
    s._ledger.pool.release(s._sequences[0].pages[-1])


def swapped_page(s):
    s._sequences[0].pages[0] = s._sequences[0].pages[1]


def writes_shared_page(s):
    s._ledger.pool.retain(s._sequences[0].pages[-1])


def forgotten_sequence(s):
    del s._sequences[0]


def line_out_of_order(s):
    s._lines.running.reverse()


def page_short(s):
    s._ledger.pool.release(s._sequences[1].pages.pop())


def too_far(s):
    s._sequences[0].computed += 1


def wrong_tokens(s):
    s._sequences[0].tokens[3] = 99


def wrong_namespace(s):
    s._sequences[0].namespace = 7


def pages_in_waiting(s):
    s._sequences[2].pages.append(s._ledger.pool.allocate())


def stale_table(s):
    state = s._sequences[0]
    s._ledger.pool.release(state.pages[-1])
    state.pages[-1] = s._ledger.pool.allocate()
    state.pages[-1:] = [s._ledger.pool.allocate()]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lost_page, "counts 1 holders but has 0"),
        (freed_page, "which has 0 holders"),
        (swapped_page, "holds other pages than its path"),
        (writes_shared_page, "which has 2 holders"),
        (forgotten_sequence, "in line but forgotten"),
        (line_out_of_order, "out of order"),
        (page_short, "too few pages"),
        (too_far, "too early"),
        (wrong_tokens, "of other tokens"),
        (wrong_namespace, "another namespace"),
        (pages_in_waiting, "is waiting but holds"),
        (stale_table, "planned chunk of other pages"),
    ],
)
def test_damage_is_named(scheduler, damage, reason):
    damage(scheduler)
    with pytest.raises(AssertionError, match=reason):
        scheduler.check()
