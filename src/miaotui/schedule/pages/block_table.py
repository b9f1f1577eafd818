"""The pages that each sequence holds: growth, reuse of prefixes, storing, giving back.

Owns the page pool and the prefix tree and changes the page fields of sequences; does not know whose turn it is.
Invariant: a sequence writes only to pages that it alone holds. It shares full pages of computed tokens, and positions
before ``computed`` are never written again, so that only the first page of a branch of drafts needs copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from miaotui.schedule.pages.pool import PAGE_SIZE, PageNode, PagePool, PrefixTree, pages_for
from miaotui.schedule.plan import Chunk
from miaotui.schedule.sequence import SequenceState
from miaotui.schedule.tree import DraftTree, lay_out, shapes


class BlockTable:
    """Pages by sequence; with ``reuse_prefix=False`` none is shared or kept."""

    def __init__(self, n_pages: int, reuse_prefix: bool) -> None:
        self.pool = PagePool(n_pages)
        self.tree = PrefixTree(self.pool)
        self.reuse_prefix = reuse_prefix
        self.reused_tokens = 0  # over all sequences, resumed ones too

    @property
    def n_available(self) -> int:
        """Number of pages that are free or can be evicted, without pausing a sequence."""
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
                    break  # nobody holds it, nor any page below it
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
            state.node = self.tree.insert(state.node, state.tokens, own, state.namespace)
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

    def stored_tokens(self, tokens: Sequence[int], namespace: int) -> int:
        """Count the tokens of the stored pages that begin ``tokens``, all but its last; only reads."""
        if not self.reuse_prefix:
            return 0
        pages = (len(tokens) - 1) // PAGE_SIZE
        found = sum(1 for _ in islice(self.tree.match(tokens, namespace), pages))
        return found * PAGE_SIZE

    def _stored(self, state: SequenceState) -> Iterator[PageNode]:
        """Yield stored pages that continue those it shares, up to the first row whose logits are wanted."""
        end = state.score_from if state.is_scoring else len(state.tokens) - 1
        usable = max(end // PAGE_SIZE - state.node.depth, 0)
        return islice(self.tree.match(state.tokens, state.namespace, state.node), usable)
