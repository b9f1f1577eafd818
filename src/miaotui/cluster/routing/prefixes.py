"""Prefixes of prompts as hashes of their pages, and which replica holds which of them.

Owns the hash of a page, which covers all tokens before it too, and, for each replica, the hashes that it is thought to
hold, least recently used first to go. Knows no tokens beyond that. What a request will make a replica hold is noted
when it is sent; replicas say themselves what they have evicted. Invariants: equal hashes mean equal tokens from the
start, within one namespace and adapter (64 bits of BLAKE2b: among a million pages two agree by chance with a
probability of 3e-8, and then only a forecast is wrong); a replica never counts for more pages than it can keep.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from miaotui.schedule.pages import PageNode
from miaotui.schedule.plan import NO_ADAPTER

PAGE_TOKENS = 16  # of keys and values, which engines keep and reuse as a whole


def page_hashes(tokens: Sequence[int], namespace: int = 0, adapter: str = "") -> tuple[int, ...]:
    """Return a hash for each full page of ``tokens``; each covers everything from the start to its page's end."""
    state = hashlib.blake2b(f"{namespace}:{adapter}".encode(), digest_size=8)
    found = []
    for start in range(0, len(tokens) - PAGE_TOKENS + 1, PAGE_TOKENS):
        state.update(array("q", tokens[start : start + PAGE_TOKENS]).tobytes())
        found.append(int.from_bytes(state.digest(), "little"))
    return tuple(found)


def node_hashes(nodes: Iterable[PageNode], adapter: str) -> list[int]:
    """Return the hash of each stored page that no adapter's rows are in, as `page_hashes` has it for its prompt.

    ``adapter`` is the name of none of them. Costs one hash for each page on the ways from the root.
    """
    states: dict[int, Any] = {}  # of pages on the way, by their nodes' identities
    found = []
    for node in nodes:
        path = list(node.path())[::-1]
        namespace, number = path[0].key[:2]
        if number != NO_ADAPTER:
            continue
        state = hashlib.blake2b(f"{namespace}:{adapter}".encode(), digest_size=8)
        for each in path:
            known = states.get(id(each))
            if known is None:
                state = state.copy()
                tokens = each.key if each.depth > 1 else each.key[2:]
                state.update(array("q", tokens).tobytes())
                states[id(each)] = state
            else:
                state = known
        found.append(int.from_bytes(state.digest(), "little"))
    return found


class PrefixIndex:
    """Holders of pages, by hash."""

    def __init__(self) -> None:
        self._holders: dict[int, set[str]] = {}
        self._kept: dict[str, OrderedDict[int, None]] = {}
        self._room: dict[str, int] = {}

    def add_replica(self, replica: str, pages: int) -> None:
        """Begin with a replica that holds nothing yet and can keep so many pages."""
        self.remove_replica(replica)
        self._kept[replica], self._room[replica] = OrderedDict(), max(pages, 0)

    def remove_replica(self, replica: str) -> None:
        """Forget a replica and all that it held."""
        for page in self._kept.pop(replica, ()):
            self._drop(page, replica)
        self._room.pop(replica, None)

    def note(self, replica: str, pages: Iterable[int]) -> None:
        """Note pages that a replica computes or uses now, first page first."""
        kept = self._kept.get(replica)
        if kept is None:
            return
        for page in reversed(tuple(pages)):  # a prefix's first pages go last
            if page in kept:
                kept.move_to_end(page)
            else:
                kept[page] = None
                self._holders.setdefault(page, set()).add(replica)
        while len(kept) > self._room[replica]:
            page, _ = kept.popitem(last=False)
            self._drop(page, replica)

    def forget(self, replica: str, pages: Iterable[int]) -> None:
        """Forget pages that a replica says it has evicted."""
        kept = self._kept.get(replica, OrderedDict())
        for page in pages:
            if page in kept:
                del kept[page]
                self._drop(page, replica)

    def held(self, pages: Sequence[int]) -> dict[str, int]:
        """Return how many of the first ``pages`` each holder holds without a gap; others are absent."""
        found: dict[str, int] = {}
        holders: set[str] = set()
        for count, page in enumerate(pages, 1):
            at = self._holders.get(page, set())
            holders = set(at) if count == 1 else holders & at
            if not holders:
                break
            for replica in holders:
                found[replica] = count
        return found

    def pages_of(self, replica: str) -> int:
        """Return how many pages a replica is thought to hold."""
        return len(self._kept.get(replica, ()))

    def _drop(self, page: int, replica: str) -> None:
        holders = self._holders.get(page)
        if holders is not None:
            holders.discard(replica)
            if not holders:
                del self._holders[page]
