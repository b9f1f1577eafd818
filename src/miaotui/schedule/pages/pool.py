"""The physical pages of the KV cache and how many holders each of them has.

It knows page numbers and counts, not who the holders are or what a page contains. Every operation
is O(1). Invariant: a page is on the free stack exactly when its count is zero. The idea of a paged
KV cache is that of Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention" (2023).
"""

from __future__ import annotations

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
