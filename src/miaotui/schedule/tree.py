"""A small tree of drafted tokens, and the pages of its branches' keys and values.

Pure values: token ids, rows, positions and page numbers. A tree's trunk is a line and lies in the sequence's own pages,
at the cost of a line. Every other branch has a private tail of pages, which begins with a copy of the page in which it
leaves its parent. Invariant: a row finds at each position before it the keys and values of its own path, in the page
order of plain decoding. Verifying a tree in one pass follows Miao et al., "SpecInfer" (2024), and Cai et al., "Medusa"
(2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from miaotui.errors import EngineError
from miaotui.schedule.pages.pool import PAGE_SIZE, pages_for


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Drafted tokens, each after its parent: an earlier token's index, or -1 for the last known token.

    The trunk comes first: tokens 0, 1, ... as long as each one's parent is the one before it. Likewise every later run
    of tokens that follow each other is one branch. Raises `EngineError` for parents that do not come before their
    children.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise EngineError(
                f"a tree of {len(self.tokens)} drafted tokens names {len(self.parents)} parents; each token needs one"
            )
        for index, parent in enumerate(self.parents):
            if not -1 <= parent < index:
                raise EngineError(
                    f"drafted token {index} follows parent {parent}; expected an earlier token, -1 to {index - 1}"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def trunk(self) -> tuple[int, ...]:
        """Return the line with which the tree begins."""
        for index, parent in enumerate(self.parents):
            if parent != index - 1:
                return self.tokens[:index]
        return self.tokens

    def kept(self, wanted: Callable[[int, int], bool]) -> DraftTree:
        """Drop the tokens that are not ``wanted(token, depth)``, and all that follow them.

        Depths count from 0.
        """
        tokens: list[int] = []
        parents: list[int] = []
        moved = {-1: -1}
        depths = {-1: -1}
        for index, (token, parent) in enumerate(zip(self.tokens, self.parents, strict=True)):
            depths[index] = depths[parent] + 1
            if parent in moved and wanted(token, depths[index]):
                moved[index] = len(tokens)
                tokens.append(token)
                parents.append(moved[parent])
        return self if len(tokens) == len(self) else DraftTree(tuple(tokens), tuple(parents))

    def cut(self, count: int, depth: int) -> DraftTree:
        """Keep its first ``count`` tokens, of those fewer than ``depth`` steps from the known token."""
        shallow = self.kept(lambda _, at: at < depth)
        if count >= len(shallow):
            return shallow
        count = max(count, 0)
        return DraftTree(shallow.tokens[:count], shallow.parents[:count])


Draft = Sequence[int] | DraftTree  # a line, or a tree


def trunk_of(draft: Draft) -> Sequence[int]:
    """Return the line with which a draft begins, or the draft if it is a line."""
    return draft.trunk if isinstance(draft, DraftTree) else draft


@dataclass(frozen=True, slots=True)
class Branch:
    """Rows of a chunk that follow each other but not the trunk; rows count from the chunk's first."""

    row: int
    count: int
    parent: int  # the row that its first one follows
    start: int  # position of its first row
    pages: tuple[int, ...]  # of positions [0, start + count): its parent's, then its own
    again: tuple[int, ...]  # rows before it, up to `parent`, that its first own page holds too
    copied: int | None  # the page that its first own one is a copy of, because positions before
    # the chunk lie in it; None: there are none

    @property
    def own(self) -> int:
        """Return the index, in ``pages``, of the first page that is its own."""
        return self.start // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class TreeShape:
    """A branch before it has pages."""

    row: int
    count: int
    parent: int
    start: int

    @property
    def n_pages(self) -> int:
        """Number of pages it needs for itself."""
        return pages_for(self.start + self.count) - self.start // PAGE_SIZE


def shapes(tree: DraftTree, start: int) -> list[TreeShape]:
    """Return the branches of a tree after a known token at position ``start``, which is row 0."""
    found: list[TreeShape] = []
    positions = [start]
    for row, parent in enumerate((parent + 1 for parent in tree.parents), 1):
        positions.append(positions[parent] + 1)
        if parent != row - 1:
            found.append(TreeShape(row, 1, parent, positions[row]))
        elif found:
            last = found[-1]
            found[-1] = TreeShape(last.row, last.count + 1, last.parent, last.start)
    return found


def lay_out(tree: DraftTree, start: int, trunk: Sequence[int], take: Callable[[], int]) -> tuple[Branch, ...]:
    """Give the branches their pages.

    ``trunk`` are the pages of known tokens and trunk, ``take`` gives a page that no other sequence has.
    """
    branches: list[Branch] = []
    rows_before = (0, *(parent + 1 for parent in tree.parents))  # of row 0: itself
    for shape in shapes(tree, start):
        first = shape.start // PAGE_SIZE
        begin = first * PAGE_SIZE
        parent_pages = next((b.pages for b in branches if b.row <= shape.parent < b.row + b.count), trunk)
        again: list[int] = []
        row, position = shape.parent, shape.start - 1
        while position >= max(begin, start):
            again.append(row)
            row, position = rows_before[row], position - 1
        own = [take() for _ in range(shape.n_pages)]
        branches.append(
            Branch(
                shape.row,
                shape.count,
                shape.parent,
                shape.start,
                (*parent_pages[:first], *own),
                tuple(reversed(again)),
                trunk[first] if begin < start else None,
            )
        )
    return tuple(branches)
