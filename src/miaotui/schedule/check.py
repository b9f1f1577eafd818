"""The scheduler's integrity check: pages, references and queues, computed again from scratch.

It reads and does not repair. Invariant: every page is accounted for, every reference has a holder, every queue is in
order. The tests run it after every operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from miaotui.schedule.pages import BlockTable
from miaotui.schedule.plan import PAGE_SIZE, Chunk, pages_for
from miaotui.schedule.sequence import Queues, SequenceState, Stage, rank


def check_integrity(ledger: BlockTable, lines: Queues, sequences: Mapping[int, SequenceState]) -> None:
    """Raise `AssertionError` with the reason if pages, tree, sequences and lines disagree."""
    _check_lines(lines.by_stage, sequences)
    for state in sequences.values():
        if state.stage is Stage.RUNNING:
            _check_running(ledger, state)
        else:
            idle = not (state.pages or state.branch_pages) and state.computed == 0 and state.planned is None
            _hold(idle, f"sequence {state.id} is {state.stage.value} but holds pages or rows")
            _hold(state.node is ledger.tree.root, f"sequence {state.id} shares pages but is not running")
    _check_counts(ledger, lines.running)
    _check_tree(ledger)


def _check_lines(lines: Mapping[Stage, Sequence[SequenceState]], sequences: Mapping[int, SequenceState]) -> None:
    queued = 0
    for stage, line in lines.items():
        queued += len(line)
        ranks = [rank(state) for state in line]
        _hold(ranks == sorted(set(ranks)), f"the {stage.value} line is out of order: {ranks}")
        for state in line:
            _hold(state.stage is stage, f"sequence {state.id} is in the wrong line")
            _hold(sequences.get(state.id) is state, f"sequence {state.id} is in line but forgotten")
    active = sum(state.stage is not Stage.DONE for state in sequences.values())
    _hold(queued == active, f"{active} sequences are active but {queued} are in line")


def _check_running(ledger: BlockTable, state: SequenceState) -> None:
    name = f"sequence {state.id}"
    shared = state.node.depth
    _hold(0 <= state.computed < len(state.tokens), f"{name} has computed its last token too early")
    _hold(len(state.tokens) < state.max_length, f"{name} is longer than it may be")
    _hold(len(state.pages) >= pages_for(state.computed), f"{name} has too few pages")
    expected = state.computed // PAGE_SIZE if ledger.reuse_prefix else 0
    _hold(shared == expected, f"{name} shares {shared} pages, but {expected} are full")
    path = list(state.node.path())[::-1]
    _hold([node.page for node in path] == state.pages[:shared], f"{name} holds other pages than its path")
    keyed = [token for node in path for token in node.key[-PAGE_SIZE:]]
    _hold(keyed == state.tokens[: shared * PAGE_SIZE], f"{name} shares pages of other tokens")
    if path:
        _hold(path[0].key[0] == state.namespace, f"{name} shares pages of another namespace")
        _hold(path[0].key[1] == state.adapter, f"{name} shares pages of another adapter")
    for page in state.pages[shared:]:
        count = ledger.pool.references(page)
        _hold(count == 1, f"{name} writes to page {page}, which has {count} holders")
    chunk = state.planned
    if chunk is not None:
        _hold(chunk.start == state.computed, f"{name} has a planned chunk that starts elsewhere")
        covered = pages_for(chunk.start + chunk.trunk)
        _hold(chunk.pages == tuple(state.pages[:covered]), f"{name} has a planned chunk of other pages")
        _hold(len(chunk.pages) == covered, f"{name} has a planned chunk with too few pages")
    _check_branches(state, chunk)


def _check_branches(state: SequenceState, chunk: Chunk | None) -> None:
    branches = () if chunk is None else chunk.branches
    own = [page for branch in branches for page in branch.pages[branch.own :]]
    _hold(own == state.branch_pages, f"sequence {state.id} holds other pages than its branches use")
    for branch in branches:
        _hold(
            len(branch.pages) == pages_for(branch.start + branch.count),
            f"sequence {state.id} has a branch of {len(branch.pages)} pages",
        )


def _check_counts(ledger: BlockTable, running: Sequence[SequenceState]) -> None:
    holders: Counter[int] = Counter(node.page for node in ledger.tree.nodes())
    _hold(all(count == 1 for count in holders.values()), "a page is stored in two nodes")
    for state in running:
        holders.update(state.pages)
        holders.update(state.branch_pages)
    listed = ledger.pool.free_pages()
    free = set(listed)
    _hold(len(listed) == len(free), "a page is free twice")
    for page in range(ledger.pool.n_pages):  # most of the check's time: reasons only where needed
        count, found = ledger.pool.references(page), holders.get(page, 0)
        if count != found:
            raise AssertionError(f"page {page} counts {count} holders but has {found}")
        if (count == 0) != (page in free):
            raise AssertionError(f"page {page} with {count} holders is lost or free wrongly")


def _check_tree(ledger: BlockTable) -> None:
    nodes = list(ledger.tree.nodes())
    unheld = {node for node in nodes if ledger.pool.references(node.page) == 1}
    idle = ledger.tree.idle_nodes()
    _hold(unheld == set(idle), "the eviction order does not list exactly the pages that no request uses")
    turn = {node: index for index, node in enumerate(idle)}
    for node in idle:
        for child in node.children.values():
            _hold(child in turn, f"page {node.page} could be evicted before page {child.page} in use")
            _hold(turn[child] < turn[node], f"page {node.page} would be evicted before page {child.page}")


def _hold(holds: bool, reason: str) -> None:
    if not holds:
        raise AssertionError(reason)
