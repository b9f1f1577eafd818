"""Random interleavings of everything a scheduler can be asked, against each request run alone."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from paged_device import VOCABULARY, PagedDevice, Request

from miaotui.schedule import PAGE_SIZE, Plan, ScheduleConfig, Scheduler
from miaotui.schedule.plan import DraftTree

STEMS = [[(i * i + stem) % VOCABULARY for i in range(70)] for stem in range(2)]


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        n_pages=st.integers(2, 10),
        max_sequences=st.integers(1, 4),
        more_rows=st.sampled_from([0, 5, 16, 50, 100]),
        chunk_size=st.sampled_from([1, 7, 16, 64]),
        reuse_prefix=st.booleans(),
        scored_rows=st.sampled_from([1, 3, 8, 64]),
    )
    def start(self, n_pages, max_sequences, more_rows, chunk_size, reuse_prefix, scored_rows):
        self.config = ScheduleConfig(
            n_pages=n_pages,
            context=1000,
            max_rows=max_sequences + more_rows,
            max_sequences=max_sequences,
            chunk_size=chunk_size,
            reuse_prefix=reuse_prefix,
            scored_rows=scored_rows,
        )
        self.scheduler = Scheduler(self.config)
        self.device = PagedDevice(n_pages)
        self.requests: dict[int, Request] = {}
        self.tokens: dict[int, list[int]] = {}  # prompt and answer so far, of those in the scheduler
        self.unscored: dict[int, list[int]] = {}  # rows of each prompt whose logits are still wanted
        self.plan: Plan | None = None
        self.next_id = 0

    @rule(
        stem=st.sampled_from(STEMS),
        length=st.sampled_from([1, 15, 16, 17, 20, 33, 48, 60]),
        tail=st.lists(st.integers(0, VOCABULARY - 1), max_size=3),
        max_tokens=st.integers(1, 40),
        namespace=st.sampled_from([0, 0, 0, 1]),
        score_from=st.sampled_from([None, None, 0, 1, 16, 30]),
    )
    def add(self, stem, length, tail, max_tokens, namespace, score_from):
        prompt = tuple(stem[:length] + tail)
        room = self.config.n_pages * PAGE_SIZE + 1
        prompt = prompt[: room - 1]
        request = Request(prompt, min(max_tokens, room - len(prompt)), namespace)
        self.scheduler.add(self.next_id, request.prompt, request.max_tokens, namespace, score_from=score_from)
        last = len(prompt) - 1
        self.unscored[self.next_id] = list(range(last if score_from is None else score_from, last))
        self.requests[self.next_id] = request
        self.tokens[self.next_id] = list(prompt)
        self.next_id += 1

    @rule(kind=st.sampled_from(["none", "right", "wrong", "mixed"]), length=st.integers(1, 6))
    def make_plan(self, kind, length):
        """Also while another plan is pending: the new one supersedes it."""
        self._plan({} if kind == "none" else {i: self._draft(i, kind, length) for i in self.tokens})

    def _plan(self, drafts):
        plan = self.scheduler.plan(drafts)
        assert plan.n_rows <= self.config.max_rows
        assert len(plan.chunks) <= self.config.max_sequences
        planned = [chunk.sequence for chunk in plan.chunks]
        assert planned == sorted(planned)
        unfinished = [i for i in self.tokens if self._missing(i)]
        assert planned[:1] == unfinished[:1], "the oldest must be in every plan"
        for chunk in plan.chunks:
            if chunk.n_logits <= 1:
                assert len(chunk.tokens) <= self.config.chunk_size
            deepest = [chunk.start + chunk.trunk, *(b.start + b.count for b in chunk.branches)]
            known = len(self.tokens[chunk.sequence])
            assert max(deepest) - known < max(self._missing(chunk.sequence), 1)
        scored = sum(chunk.n_scored for chunk in plan.chunks)
        drafted_rows = sum(chunk.n_logits - 1 for chunk in plan.chunks if chunk.n_logits)
        assert not scored or scored + drafted_rows <= self.config.scored_rows
        for chunk in plan.chunks:
            end = chunk.start + len(chunk.tokens) - chunk.n_logits
            rows = [row for row in self.unscored[chunk.sequence] if row < end]
            assert rows == list(range(end - chunk.n_scored, end)), "each wanted row has logits, once and in order"
        self.plan = plan
        self.planned_tokens = {i: list(tokens) for i, tokens in self.tokens.items()}

    @rule(nodes=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=24), deep=st.booleans())
    def plan_trees(self, nodes, deep):
        """Trees of any shape; ``deep`` ones have few and long branches."""
        self._plan({i: self._tree(i, nodes, deep) for i in self.tokens})

    @precondition(lambda self: self.plan is not None)
    @rule()
    def run_plan(self):
        """The rows of sequences cancelled since the plan run too; nobody may ever read them."""
        plan, self.plan = self.plan, None
        namespaces = {i: request.namespace for i, request in self.requests.items()}
        accepted = self.device.run(plan, self.planned_tokens, namespaces)
        self.scheduler.commit(plan, accepted)
        for chunk in plan.chunks:
            del self.unscored[chunk.sequence][: chunk.n_scored]
            assert not (chunk.n_logits and self.unscored[chunk.sequence])
        for sequence in accepted.keys() & self.tokens.keys():
            self.tokens[sequence] += accepted[sequence]

    @precondition(lambda self: self.tokens)
    @rule(index=st.integers(0, 20))
    def cancel(self, index):
        sequence = list(self.tokens)[index % len(self.tokens)]
        del self.tokens[sequence]
        assert self.scheduler.cancel(sequence)
        assert not self.scheduler.cancel(sequence)

    @precondition(lambda self: self.tokens)
    @rule()
    def finish_done(self):
        for sequence in [i for i in self.tokens if not self._missing(i)]:
            request = self.requests[sequence]
            assert self.tokens.pop(sequence)[len(request.prompt) :] == request.answer()
            assert 0 <= self.scheduler.cached_tokens(sequence) < len(request.prompt)
            self.scheduler.finish(sequence)

    @invariant()
    def sound(self):
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check()
        stats = self.scheduler.stats()
        total = stats.pages_free + stats.pages_used + stats.pages_evictable
        assert total == self.config.n_pages
        unfinished = sum(self._missing(i) > 0 for i in self.tokens)
        assert stats.running + stats.waiting + stats.paused == unfinished
        assert stats.running or not stats.pages_used

    def teardown(self):
        """Everything drains, in no more steps than there are tokens: the oldest gains in each."""
        if not hasattr(self, "scheduler"):
            return
        limit = sum(len(self.tokens[i]) + self._missing(i) for i in self.tokens)
        steps = 0
        while any(self._missing(i) for i in self.tokens):
            self.make_plan("none", 1)
            self.run_plan()
            self.sound()
            self.finish_done()
            steps += 1
            assert steps <= limit
        self.finish_done()
        assert not self.tokens
        assert self.scheduler.plan() == Plan(())
        stats = self.scheduler.stats()
        assert (stats.pages_used, stats.running, stats.waiting, stats.paused) == (0, 0, 0, 0)
        if not self.config.reuse_prefix:
            assert (stats.pages_free, stats.reused_tokens) == (self.config.n_pages, 0)

    def _missing(self, sequence: int) -> int:
        request = self.requests[sequence]
        return len(request.prompt) + request.max_tokens - len(self.tokens[sequence])

    def _draft(self, sequence: int, kind: str, length: int) -> list[int]:
        request = self.requests[sequence]
        right = request.answer()[len(self.tokens[sequence]) - len(request.prompt) :][:length]
        if kind == "right":
            return right
        if kind == "wrong":
            return [(token + 1) % VOCABULARY for token in right]
        return [(token + index // 2) % VOCABULARY for index, token in enumerate(right)]

    def _tree(self, sequence, nodes, deep):
        request = self.requests[sequence]
        right = request.answer()[len(self.tokens[sequence]) - len(request.prompt) :]
        tokens, parents, depths = [], [], []
        for index, (pick, good) in enumerate(nodes):
            parent = index - 1 if deep and pick % 8 else pick % (index + 1) - 1
            depth = 0 if parent < 0 else depths[parent] + 1
            hoped = right[depth] if depth < len(right) else 0
            parents.append(parent)
            depths.append(depth)
            tokens.append(hoped if good or (deep and pick % 3) else (hoped + 1) % VOCABULARY)
        return DraftTree(tuple(tokens), tuple(parents))


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
