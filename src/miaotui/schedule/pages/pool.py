"""The physical pages of the KV cache with their counts of holders, and the tree of prefixes that may be reused.

It knows page numbers and counts, not who the holders are or what a page contains. Every operation
is O(1). Invariant: a page is on the free stack exactly when its count is zero. The idea of a paged
KV cache is that of Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention" (2023).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from miaotui.errors import EngineError

PAGE_SIZE = 16  # tokens


def pages_for(n_tokens: int) -> int:
    """Return the number of pages that hold ``n_tokens`` positions."""
    return (n_tokens + PAGE_SIZE - 1) // PAGE_SIZE


class PagePool:
    """``n_pages`` pages, numbered from 0, each free or held by one or more holders."""

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self._references = [0] * n_pages
        self._free = list(range(n_pages - 1, -1, -1))  # a stack: the page freed last is warmest

    @property
    def n_free(self) -> int:
        """Number of pages without a holder."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a free page with one holder. Raises `EngineError` when none is free."""
        if not self._free:
            raise EngineError(f"all {self.n_pages} KV pages are held; evict or pause before allocating")
        page = self._free.pop()
        self._references[page] = 1
        return page

    def retain(self, page: int) -> int:
        """Add a holder to a held page and return its new count. Raises `EngineError` for a free page."""
        count = self._held(page) + 1
        self._references[page] = count
        return count

    def release(self, page: int) -> int:
        """Remove a holder and return its new count; at 0 the page is free. Raises `EngineError` if it was."""
        count = self._held(page) - 1
        self._references[page] = count
        if count == 0:
            self._free.append(page)
        return count

    def references(self, page: int) -> int:
        """Return the holders of a page; 0 means free."""
        return self._references[page]

    def free_pages(self) -> tuple[int, ...]:
        """Copy the list of free pages, the next one to be allocated last; for integrity checks."""
        return tuple(self._free)

    def _held(self, page: int) -> int:
        count = self._references[page]
        if count == 0:
            raise EngineError(f"KV page {page} is free; only a held page can be retained or released")
        return count


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
        """Return whether a sequence holds the node's page."""
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
