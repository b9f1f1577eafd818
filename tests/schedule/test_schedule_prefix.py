"""The prefix tree: what it finds, whose pages it keeps, and in which order it evicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import EngineError
from miaotui.schedule.pages import PageNode, PagePool, PrefixTree
from miaotui.schedule.plan import PAGE_SIZE


def page_of(token: int) -> list[int]:
    return [token] * PAGE_SIZE


def text(letters: str) -> list[int]:
    """One page of equal tokens per letter."""
    return [token for letter in letters for token in page_of(ord(letter))]


class Holder:
    """Does with a tree what a sequence does: shares what is stored, stores the rest, lets go."""

    def __init__(self, tree: PrefixTree, pool: PagePool, letters: str, namespace: int = 0) -> None:
        self.tree = tree
        self.node: PageNode = tree.root
        tokens = text(letters)
        for node in tree.match(tokens, namespace):
            tree.hold(node)
            self.node = node
        while self.node.depth < len(letters):
            self.node = tree.insert(self.node, tokens, pool.allocate(), namespace)

    def let_go(self) -> None:
        self.tree.let_go(self.node)


def stored(tree: PrefixTree) -> set[str]:
    """Each stored page as the letters on its path."""
    return {"".join(chr(step.key[-1]) for step in list(node.path())[::-1]) for node in tree.nodes()}


@pytest.fixture
def pool():
    return PagePool(32)


@pytest.fixture
def tree(pool):
    return PrefixTree(pool)


def test_match_finds_the_longest_run_of_full_pages(tree, pool):
    Holder(tree, pool, "abc")
    assert len(list(tree.match(text("abc")))) == 3
    assert len(list(tree.match(text("abx")))) == 2
    assert len(list(tree.match(text("abc")[:-1]))) == 2
    assert list(tree.match(text("b"))) == []
    assert list(tree.match([])) == []


def test_match_continues_after_a_node(tree, pool):
    Holder(tree, pool, "abc")
    first, second, third = tree.match(text("abc"))
    assert list(tree.match(text("abcd"), after=first)) == [second, third]


def test_namespaces_never_meet(tree, pool):
    Holder(tree, pool, "ab", namespace=1)
    assert list(tree.match(text("ab"), namespace=0)) == []
    assert len(list(tree.match(text("ab"), namespace=1))) == 2


def test_equal_pages_are_kept_once_and_the_later_copy_is_freed(tree, pool):
    first = Holder(tree, pool, "a")
    copy = pool.allocate()
    node = tree.insert(tree.root, text("a"), copy)
    assert node is first.node
    assert pool.references(copy) == 0
    assert pool.references(node.page) == 3  # the tree and two holders


def test_pages_in_use_are_not_evicted(tree, pool):
    Holder(tree, pool, "ab")
    Holder(tree, pool, "ac").let_go()
    assert tree.n_evictable == 1
    tree.evict()
    assert stored(tree) == {"a", "ab"}
    with pytest.raises(EngineError, match="no prefix page can be evicted"):
        tree.evict()


def test_the_least_recently_used_leaf_goes_first(tree, pool):
    for letters in ("ab", "ac", "d"):
        Holder(tree, pool, letters).let_go()
    Holder(tree, pool, "ab").let_go()  # used again
    evicted = []
    while tree.n_evictable:
        before = stored(tree)
        tree.evict()
        evicted += before - stored(tree)
    assert evicted == ["ac", "d", "ab", "a"]
    assert pool.n_free == pool.n_pages


letters = st.text("ab", min_size=1, max_size=4)


@given(st.lists(st.one_of(letters, st.integers(0, 3), st.none()), max_size=40))
def test_against_a_model_with_clocks(operations):
    """A text is held, a number lets one go, None evicts; the model times each last use."""
    pool = PagePool(64)
    tree = PrefixTree(pool)
    holders: list[tuple[str, Holder]] = []
    last_used: dict[str, int] = {}
    for clock, operation in enumerate(operations):
        if isinstance(operation, str):
            assert len(list(tree.match(text(operation)))) == sum(
                operation[:length] in last_used for length in range(1, len(operation) + 1)
            )
            holders.append((operation, Holder(tree, pool, operation)))
        elif operation is not None and holders:
            holders.pop(operation % len(holders))[1].let_go()
        in_use = {held[:n] for held, _ in holders for n in range(1, len(held) + 1)}
        _touch(last_used, in_use, clock)
        idle = {path for path in last_used if path not in in_use}
        assert tree.n_evictable == len(idle)
        if operation is None and idle:
            leaves = [p for p in idle if not any(q != p and q.startswith(p) for q in last_used)]
            oldest = min(last_used[path] for path in leaves)
            tree.evict()
            (gone,) = last_used.keys() - stored(tree)
            assert gone in leaves
            assert last_used[gone] == oldest
            del last_used[gone]
        assert stored(tree) == last_used.keys()
        assert pool.n_free == 64 - len(last_used)


def _touch(last_used: dict[str, int], in_use: set[str], clock: int) -> None:
    for path in in_use:
        last_used[path] = clock
