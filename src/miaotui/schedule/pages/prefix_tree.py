"""The full pages of computed tokens: a trie of pages, keyed by their token ids.

The tree holds one reference on each of its pages; sequences that use a page hold more. Does not know sequences.
Invariant: a holder of a node's page holds those of all its ancestors too, and gives them back deepest first. So among
the pages that only the tree holds, kept in the order of their release, every node comes before its ancestors: the
first one is always a leaf, and the least recently used. Eviction is therefore exact LRU in O(1). The idea of a prefix
tree over KV pages is that of Zheng et al., "SGLang" (2023), RadixAttention.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from miaotui.errors import EngineError
from miaotui.schedule.pages.pool import PAGE_SIZE, PagePool


class PageNode:
    """One full page of tokens that follows its parent's; the root is the empty prefix."""

    __slots__ = ("children", "depth", "key", "page", "parent")

    def __init__(self, parent: PageNode | None, key: tuple[int, ...], page: int) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.depth: int = 0 if parent is None else parent.depth + 1  # pages from the root to here
        self.children: dict[tuple[int, ...], PageNode] = {}

    def path(self) -> Iterator[PageNode]:
        """Yield this node and its ancestors, deepest first, without the root."""
        node: PageNode = self
        while node.parent is not None:
            yield node
            node = node.parent


class PrefixTree:
    """A cache of computed pages, shared read-only within a namespace, never across."""

    def __init__(self, pool: PagePool) -> None:
        self.root = PageNode(None, (), -1)
        self._pool = pool
        self._idle: OrderedDict[PageNode, None] = OrderedDict()  # held by the tree alone, LRU first

    @property
    def n_evictable(self) -> int:
        """Number of pages that only the tree holds."""
        return len(self._idle)

    def match(self, tokens: Sequence[int], namespace: int = 0, after: PageNode | None = None) -> Iterator[PageNode]:
        """Find the longest run of stored full pages of ``tokens``, from the page that follows ``after``.

        ``after`` (the root when None) must be a prefix of ``tokens``. Yields nodes without holding them; O(length).
        """
        node = self.root if after is None else after
        while (node.depth + 1) * PAGE_SIZE <= len(tokens):
            child = node.children.get(_key(tokens, node.depth, namespace))
            if child is None:
                return
            yield child
            node = child

    def insert(self, parent: PageNode, tokens: Sequence[int], page: int, namespace: int = 0) -> PageNode:
        """Store ``page``, the one after ``parent`` in ``tokens``; return the node that the caller now holds.

        When an equal page is stored already, the caller's reference moves to that one (see ``node.page``) and ``page``
        is released: equal tokens give equal bytes, so that one copy is enough.
        """
        key = _key(tokens, parent.depth, namespace)
        node = parent.children.get(key)
        if node is None:
            node = parent.children[key] = PageNode(parent, key, page)
            self._pool.retain(page)
        else:
            self.hold(node)
            self._pool.release(page)
        return node

    def hold(self, node: PageNode) -> None:
        """Add a holder to a node's page; its ancestors must be held already."""
        if self._pool.retain(node.page) == 2:
            del self._idle[node]

    def let_go(self, node: PageNode) -> None:
        """Remove one holder from the node and from each of its ancestors."""
        for each in node.path():
            if self._pool.release(each.page) == 1:
                self._idle[each] = None

    def in_use(self, node: PageNode) -> bool:
        """Whether a sequence holds the node's page."""
        return node not in self._idle

    def evict(self) -> None:
        """Free the least recently used page that only the tree holds. Raises `EngineError` if there is none."""
        if not self._idle:
            raise EngineError("no prefix page can be evicted: running sequences hold all of them")
        node, _ = self._idle.popitem(last=False)
        assert node.parent is not None
        del node.parent.children[node.key]
        self._pool.release(node.page)

    def nodes(self) -> Iterator[PageNode]:
        """Yield all nodes but the root, parents before children; for integrity checks."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def idle_nodes(self) -> tuple[PageNode, ...]:
        """Return the nodes that only the tree holds, in the order of their eviction; for integrity checks."""
        return tuple(self._idle)


def _key(tokens: Sequence[int], depth: int, namespace: int) -> tuple[int, ...]:
    """Return the key of page number ``depth``; the first page's key begins with the namespace."""
    page = tuple(tokens[depth * PAGE_SIZE : (depth + 1) * PAGE_SIZE])
    return page if depth else (namespace, *page)
