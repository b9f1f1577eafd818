"""The pages of the KV cache: which are free, which prefixes are stored in them, and which each sequence holds.

Owns the page pool with its counts of holders, the tree of prefixes that may be reused, and the page fields of
sequences; knows neither whose turn it is nor what a page contains. Invariants: a page is on the free stack exactly
when its count is zero. A sequence writes only to pages that it alone holds; it shares full pages of computed tokens,
and positions before ``computed`` are never written again, so that only the first page of a branch of drafts needs
copying. The idea of a paged KV cache is that of Kwon et al., "Efficient Memory Management for Large Language Model
Serving with PagedAttention" (2023).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import islice

from miaotui.errors import EngineError
from miaotui.schedule.plan import NO_ADAPTER, PAGE_SIZE, Chunk, DraftTree, lay_out, pages_for, shapes
from miaotui.schedule.sequence import SequenceState


class PagePool:
    """``n_pages`` pages, numbered from 0, each free or held by one or more holders."""

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self._references = [0] * n_pages
        self._free = list(range(n_pages - 1, -1, -1))  # a stack: the page freed last is warmest

    @property
    def n_free(self) -> int:
        """Return the number of pages without a holder."""
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
    """A cache of computed pages, shared read-only within a namespace and among users of one adapter, never across."""

    def __init__(self, pool: PagePool) -> None:
        self.root = PageNode(None, (), -1)
        self._pool = pool
        self._idle: OrderedDict[PageNode, None] = OrderedDict()  # held by the tree alone, LRU first
        self._evicted: deque[PageNode] | None = None  # those that went lately, where somewhere else counts on them

    @property
    def n_evictable(self) -> int:
        """Return the number of pages that only the tree holds."""
        return len(self._idle)

    def match(
        self, tokens: Sequence[int], namespace: int = 0, after: PageNode | None = None, adapter: int = NO_ADAPTER
    ) -> Iterator[PageNode]:
        """Find the longest run of stored full pages of ``tokens``, from the page that follows ``after``.

        ``after`` (the root when None) must be a prefix of ``tokens``. Yields nodes without holding them; O(length).
        """
        node = self.root if after is None else after
        while (node.depth + 1) * PAGE_SIZE <= len(tokens):
            child = node.children.get(_key(tokens, node.depth, namespace, adapter))
            if child is None:
                return
            yield child
            node = child

    def insert(
        self, parent: PageNode, tokens: Sequence[int], page: int, namespace: int = 0, adapter: int = NO_ADAPTER
    ) -> PageNode:
        """Store ``page``, the one after ``parent`` in ``tokens``; return the node that the caller now holds.

        When an equal page is stored already, the caller's reference moves to that one (see ``node.page``) and ``page``
        is released: equal tokens give equal bytes, so that one copy is enough.
        """
        key = _key(tokens, parent.depth, namespace, adapter)
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
        if self._evicted is not None:
            self._evicted.append(node)
        self._pool.release(node.page)

    def watch_evictions(self, most: int) -> None:
        """Note the last ``most`` pages that are evicted from now on, for `take_evicted`."""
        self._evicted = deque(maxlen=most)

    def take_evicted(self, most: int) -> list[PageNode]:
        """Return up to ``most`` pages that were evicted since the last call and are not stored again.

        Any thread may ask at any time.
        """
        found: list[PageNode] = []
        while self._evicted and len(found) < most:
            node = self._evicted.popleft()
            if node.parent is not None and node.key not in node.parent.children:
                found.append(node)
        return found

    def nodes(self) -> Iterator[PageNode]:
        """Yield all nodes but the root, parents before children. Any thread may ask at any time."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def idle_nodes(self) -> tuple[PageNode, ...]:
        """Return the nodes that only the tree holds, in the order of their eviction; for integrity checks."""
        return tuple(self._idle)


def _key(tokens: Sequence[int], depth: int, namespace: int, adapter: int) -> tuple[int, ...]:
    """Return the key of page number ``depth``; the first page's key begins with the namespace and the adapter."""
    page = tuple(tokens[depth * PAGE_SIZE : (depth + 1) * PAGE_SIZE])
    return page if depth else (namespace, adapter, *page)


class BlockTable:
    """Pages by sequence; with ``reuse_prefix=False`` none is shared or kept."""

    def __init__(self, n_pages: int, reuse_prefix: bool) -> None:
        self.pool = PagePool(n_pages)
        self.tree = PrefixTree(self.pool)
        self.reuse_prefix = reuse_prefix
        self.reused_tokens = 0  # over all sequences, resumed ones too

    @property
    def n_available(self) -> int:
        """Return the number of pages that are free or can be evicted, without pausing a sequence."""
        return self.pool.n_free + self.tree.n_evictable

    def grow(self, state: SequenceState, n_tokens: int) -> int:
        """Give a sequence pages for up to ``n_tokens`` positions; return the positions for which it has them."""
        pages = state.pages
        missing = pages_for(n_tokens) - len(pages)
        if missing > 0:
            for _ in range(min(missing, self.n_available)):
                pages.append(self._take())
        return min(n_tokens, len(pages) * PAGE_SIZE)

    def reach(self, states: Sequence[SequenceState], rows: int) -> int:
        """Return how many of the next ``rows`` all of them can compute: there are pages and room for as many."""
        for state in states:
            rows = min(rows, state.max_length - len(state.tokens))
        for state in states:
            end = state.computed + rows
            if end > len(state.pages) * PAGE_SIZE:
                rows = self.grow(state, end) - state.computed
        return rows

    def _take(self) -> int:
        if not self.pool.n_free:
            self.tree.evict()
        return self.pool.allocate()

    def branch(self, state: SequenceState, tree: DraftTree) -> Chunk | None:
        """Add the branches to its planned chunk, which has the tree's trunk alone; None: no pages."""
        chunk = state.planned
        assert chunk is not None, "branches leave a trunk that is planned"
        if sum(shape.n_pages for shape in shapes(tree, chunk.start)) > self.n_available:
            return None

        def take() -> int:
            state.branch_pages.append(self._take())
            return state.branch_pages[-1]

        branches = lay_out(tree, chunk.start, chunk.pages, take)
        tokens = (*chunk.tokens[:1], *tree.tokens)
        state.planned = chunk._replace(tokens=tokens, n_logits=len(tokens), branches=branches)
        return state.planned

    def graft(self, state: SequenceState, chunk: Chunk, row: int) -> None:
        """Make the pages of the path that ended at ``row`` the sequence's own.

        ``computed`` is up to date. The pages of other branches are freed.
        """
        if not state.branch_pages:
            return
        path = chunk.pages_of(row)
        for index in range(chunk.start // PAGE_SIZE, pages_for(state.computed)):
            page = path[index]
            if index == len(state.pages):
                state.pages.append(page)
            elif page != state.pages[index]:
                self.pool.release(state.pages[index])
                state.pages[index] = page
            else:
                continue
            state.branch_pages.remove(page)
            state.forget_page_table()
        self.prune(state)

    def prune(self, state: SequenceState) -> None:
        """Free the pages of its branches."""
        while state.branch_pages:
            self.pool.release(state.branch_pages.pop())

    def reuse(self, state: SequenceState) -> None:
        """Let a sequence share the stored pages that continue its computed tokens, all but its last token.

        The last token is always left to be computed, because its row gives the logits, and so is every row whose logits
        score the prompt. This works in mid-prompt too: of two sequences with equal prompts, the later one catches up.
        """
        if not self.reuse_prefix:
            return
        before, pages = state.node, state.pages
        for node in self._stored(state):
            self.tree.hold(node)
            if node.depth <= len(pages):  # its own copy, perhaps half computed
                self.pool.release(pages[node.depth - 1])
                pages[node.depth - 1] = node.page
            else:
                pages.append(node.page)
            state.node = node
        if state.node is before:
            return
        state.forget_page_table()
        reused = state.node.depth * PAGE_SIZE - state.computed
        state.computed += reused
        self.reused_tokens += reused
        if not state.was_paused:
            state.cached_tokens += reused

    def price(self, state: SequenceState) -> int:
        """Return the available pages that starting it takes: all it needs, less the shared ones in use."""
        shared = 0
        if self.reuse_prefix:
            for node in self._stored(state):
                if not self.tree.in_use(node):
                    break  # no request holds it, nor any page below it
                shared += 1
        return pages_for(len(state.tokens)) - shared

    def settle(self, state: SequenceState) -> None:
        """Store the pages that a step filled, and free those of rejected rows."""
        surplus = len(state.pages) - pages_for(state.computed)
        if surplus > 0:
            for _ in range(surplus):
                self.pool.release(state.pages.pop())
            state.forget_page_table()
        if not self.reuse_prefix:
            return
        while (state.node.depth + 1) * PAGE_SIZE <= state.computed:
            index = state.node.depth
            own = state.pages[index]
            state.node = self.tree.insert(state.node, state.tokens, own, state.namespace, state.adapter)
            if state.node.page != own:
                state.pages[index] = state.node.page
                state.forget_page_table()

    def take_back(self, state: SequenceState) -> None:
        """Free all its pages; full ones stay in the tree, to be reused or evicted."""
        self.prune(state)
        for page in state.pages[state.node.depth :]:
            self.pool.release(page)
        self.tree.let_go(state.node)
        state.node = self.tree.root
        state.pages.clear()
        state.computed = 0
        state.forget_page_table()

    def stored_tokens(self, tokens: Sequence[int], namespace: int, adapter: int) -> int:
        """Count the tokens of the stored pages that begin ``tokens``, all but its last; only reads."""
        if not self.reuse_prefix:
            return 0
        pages = (len(tokens) - 1) // PAGE_SIZE
        found = sum(1 for _ in islice(self.tree.match(tokens, namespace, adapter=adapter), pages))
        return found * PAGE_SIZE

    def _stored(self, state: SequenceState) -> Iterator[PageNode]:
        """Yield stored pages that continue those it shares, up to the first row whose logits are wanted."""
        end = state.score_from if state.is_scoring else len(state.tokens) - 1
        usable = max(end // PAGE_SIZE - state.node.depth, 0)
        return islice(self.tree.match(state.tokens, state.namespace, state.node, state.adapter), usable)
