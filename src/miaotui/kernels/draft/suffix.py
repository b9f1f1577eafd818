"""A suffix index over token ids: it finds earlier places of a text's last tokens, and the tokens that followed there.

Tokens lie in a ring, so the oldest are overwritten. For runs of 1, 2, 4 and 8 tokens a hash table holds the latest
place after such a run, and every place holds the one before it. A link may lead to a place that was overwritten since,
so each match is verified by comparing tokens: a stale link costs time and never gives a wrong match. Adding a token
touches one slot per order; a search compares at most `WALK` places per order, however many tokens there are. Hash
chains are those of LZ77 compressors (Deutsch, RFC 1951, section 4); continuing the longest match is prompt lookup
decoding (Saxena 2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from miaotui.kernels.draft.suffix_fields import (
    BRANCH_COUNT,
    BRANCH_FIELDS,
    BRANCH_LENGTH,
    BRANCH_SIZE,
    BRANCH_TOKENS,
    BRANCHES,
    CAPACITY,
    ENOUGH,
    FIRST,
    FOUND_FIELDS,
    HEAD,
    MASK,
    MAX_MATCH,
    MAX_TOKENS,
    NOTHING,
    ORDERS,
    PREVIOUS,
    TOKENS,
    WALK,
)
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek, poke
from miaotui.kernels.sampling.weights import fields, words

_GAMMA = np.int64(0x9E3779B97F4A7C15 - 2**64)  # 2**64 / golden ratio, made odd
_COUNT = len(ORDERS)
_REACH = ORDERS[-1]


@inline
def scramble(value: Any, token: Any) -> Any:
    """Extend the hash of a run by one older token."""
    mixed = (value + np.int64(token) + 1) * _GAMMA
    return mixed ^ (mixed >> 29)


@inline
def order_of(length: Any) -> Any:
    """The order of runs of ``length`` tokens; -1: none."""
    if length == 1:
        return 0
    if length == 2:
        return 1
    if length == 4:
        return 2
    if length == 8:
        return 3
    return -1


@inline
def step_back(place: Any, capacity: Any) -> Any:
    """The place before ``place`` in the ring."""
    return place - 1 if place > 0 else capacity - 1


@inline
def note(store: Any, tokens: Any, place: Any) -> Any:
    """Enter ``place`` into the chains of the runs that end before it."""
    capacity, mask = peek(store, CAPACITY), peek(store, MASK)
    first = words(peek(store, FIRST), _COUNT * (mask + 1))
    previous = words(peek(store, PREVIOUS), _COUNT * capacity)
    value, at = np.int64(0), place
    for length in range(1, _REACH + 1):
        at = step_back(at, capacity)
        if tokens[at] == NOTHING:
            return 0
        value = scramble(value, tokens[at])
        order = order_of(length)
        if order >= 0:
            slot = order * (mask + 1) + (value & mask)
            previous[order * capacity + place] = first[slot]
            first[slot] = place + 1
    return 0


@kernel(3)
def extend(store: Any, source: Any, count: Any) -> Any:
    """Append ``count`` tokens (int64 at ``source``) to a store."""
    capacity, head = peek(store, CAPACITY), peek(store, HEAD)
    tokens = words(peek(store, TOKENS), capacity)
    for index in range(count):
        token = peek(source, index)
        tokens[head] = token
        head = head + 1 if head + 1 < capacity else 0
        tokens[head] = NOTHING
        if token != NOTHING:
            note(store, tokens, head)
    poke(store, HEAD, head)
    return 0


@inline
def common(tokens: Any, place: Any, text: Any, end: Any) -> Any:
    """Count the tokens before ``place`` that equal those before ``end`` of ``text``."""
    size, text_size, length = tokens.size, text.size, 0
    while length < MAX_MATCH:
        place, end = step_back(place, size), step_back(end, text_size)
        token = tokens[place]
        if token == NOTHING or token != text[end]:
            break
        length += 1
    return length


@inline
def enter(found: Any, tokens: Any, place: Any, length: Any) -> Any:
    """Count a match for the branch of its next token, which keeps the longest and latest match.

    While searching, a branch's size holds its place.
    """
    for branch in range(found[0]):
        base = 1 + branch * BRANCH_FIELDS
        if found[base + BRANCH_TOKENS] == tokens[place]:
            found[base + BRANCH_COUNT] += 1
            if length > found[base + BRANCH_LENGTH]:
                found[base + BRANCH_LENGTH] = length
                found[base + BRANCH_SIZE] = place
            return 0
    if found[0] < BRANCHES:
        base = 1 + found[0] * BRANCH_FIELDS
        found[base + BRANCH_LENGTH] = length
        found[base + BRANCH_COUNT] = 1
        found[base + BRANCH_SIZE] = place
        found[base + BRANCH_TOKENS] = tokens[place]
        found[0] += 1
    return 0


@inline
def walk(store: Any, found: Any, text: Any, end: Any, order: Any, value: Any) -> Any:
    """Compare the latest places after a run of this order; returns the longest match."""
    capacity, mask = peek(store, CAPACITY), peek(store, MASK)
    tokens = words(peek(store, TOKENS), capacity)
    first = words(peek(store, FIRST), _COUNT * (mask + 1))
    previous = words(peek(store, PREVIOUS), _COUNT * capacity)
    least, longest = 1 << order, 0
    below = 2 * least if order + 1 < _COUNT else MAX_MATCH + 1  # longer ones were met already
    entry = np.int64(first[order * (mask + 1) + (value & mask)])
    steps = 0
    while entry > 0 and steps < WALK:
        place = entry - 1
        entry = np.int64(previous[order * capacity + place])
        steps += 1
        if tokens[place] == NOTHING:
            continue
        length = common(tokens, place, text, end)
        if least <= length < below:
            enter(found, tokens, place, length)
            longest = max(longest, length)
    return longest


@inline
def sort_branches(found: Any) -> Any:
    """Sort branches by length, the longest first; of equal ones the first found."""
    for i in range(1, found[0]):
        j = i
        while j > 0:
            low, high = 1 + (j - 1) * BRANCH_FIELDS, 1 + j * BRANCH_FIELDS
            if found[low + BRANCH_LENGTH] >= found[high + BRANCH_LENGTH]:
                break
            for field in range(BRANCH_TOKENS):
                kept = found[low + field]
                found[low + field] = found[high + field]
                found[high + field] = kept
            j -= 1
    return 0


@inline
def write_out(found: Any, tokens: Any) -> Any:
    """Replace each branch's place by its continuation."""
    for branch in range(found[0]):
        base = 1 + branch * BRANCH_FIELDS
        place, size = found[base + BRANCH_SIZE], 0
        while size < MAX_TOKENS and tokens[place] != NOTHING:
            found[base + BRANCH_TOKENS + size] = tokens[place]
            place = place + 1 if place + 1 < tokens.size else 0
            size += 1
        found[base + BRANCH_SIZE] = size
    return 0


@inline
def search(store: Any, text: Any, end: Any, found: Any) -> Any:
    """Find how ``store`` goes on after the tokens of ``text`` before ``end``; returns the number of branches."""
    found[0] = 0
    values = (np.int64(0), np.int64(0), np.int64(0), np.int64(0))
    one = two = four = eight = np.int64(0)
    known, value, at = 0, np.int64(0), end
    for length in range(1, _REACH + 1):
        at = step_back(at, text.size)
        if text[at] == NOTHING:
            break
        value = scramble(value, text[at])
        known = length
        if length == 1:
            one = value
        elif length == 2:
            two = value
        elif length == 4:
            four = value
        elif length == 8:
            eight = value
    values = (one, two, four, eight)
    order = _COUNT - 1
    longest = 0
    while order >= 0 and longest < ENOUGH:
        if known >= 1 << order:
            longest = walk(store, found, text, end, order, values[order])
        order -= 1
    sort_branches(found)
    write_out(found, words(peek(store, TOKENS), peek(store, CAPACITY)))
    return found[0]


@kernel(5)
def find(store: Any, reader: Any, out: Any, source: Any, count: Any) -> Any:
    """Find how ``store`` goes on after the last tokens of the store ``reader``; returns the number of branches.

    ``count`` tokens (int64 at ``source``, written over) are assumed to follow in ``reader``. ``out`` is int64
    ``[FOUND_FIELDS]``.
    """
    text, end = words(peek(reader, TOKENS), peek(reader, CAPACITY)), peek(reader, HEAD)
    exchange(text, end, source, count)
    found = search(store, text, (end + count) % text.size, fields(out, FOUND_FIELDS))
    exchange(text, end, source, count)
    return found


@inline
def exchange(text: Any, place: Any, source: Any, count: Any) -> Any:
    """Swap ``count`` tokens of a ring from ``place`` on with those at ``source``."""
    for index in range(count):
        token = peek(source, index)
        poke(source, index, np.int64(text[place]))
        text[place] = token
        place = place + 1 if place + 1 < text.size else 0
    return 0
