"""What follows the measured load: how many run at once, how much of a prompt a step reads.

Owns the current bounds and says in the log, under ``miaotui.adjust``, why it changed one. The
number of threads is chosen by `kernels.pace`, pass by pass; its changes are told here as well.
Knows no requests. Invariant: no bound changes more than once in `CALM_S`, and each change is logged
with its reason; changes of the number of threads that last, each, and fleeting ones as a count.
"""

from __future__ import annotations

import logging

from miaotui.schedule.config import ScheduleConfig
from miaotui.schedule.cost import CostModel
from miaotui.schedule.forecast import Policy

CALM_S = 0.5
CHUNK_S = 0.06  # a step that reads prompts takes about so long: answers flow beside it
CHUNK_STEPS = (
    4.0  # but not less than so many of the smallest steps: it would read weights for little
)
PROMISES_S = 10.0  # so long after the last promise, the next one is expected
WIDEN_S = 2.0  # without a shortage of pages, before one more sequence may run

THREADS_S = 1.0  # so long a number of threads must last to be told
FLUTTER_S = 10.0  # if none lasts, what goes on is told so often

logger = logging.getLogger("miaotui.adjust")


class Adjuster:
    """Keeps a `Policy` that fits what happens."""

    def __init__(self, config: ScheduleConfig, cost: CostModel) -> None:
        self._config, self._cost = config, cost
        self._most = config.chunk_size
        self._promised_s = float("-inf")  # when promised work was last seen
        self._changed_s = float("-inf")
        self._short_s = float("-inf")  # when pages last ran out
        self._pauses = 0
        self._threads = Threads()
        self.policy = Policy(config.max_sequences, self._most)

    def follow(self, now_s: float, promised: bool, running: int, pauses: int) -> Policy:
        """The bounds for the next steps, after one that ended at ``now_s``.

        ``promised``: whether promised work is in flight; ``pauses``: how often, since the start, a
        sequence lost its pages to another.
        """
        if promised:
            self._promised_s = now_s
        if pauses > self._pauses:
            self._pauses, self._short_s = pauses, now_s
            if running < self.policy.width:
                self._change(now_s, max(1, running), self.policy.chunk, "pages ran out")
        if now_s - self._changed_s < CALM_S:
            return self.policy
        width, chunk = self.policy.width, self.policy.chunk
        if width < self._config.max_sequences and now_s - self._short_s > WIDEN_S:
            self._short_s = now_s
            self._change(now_s, width + 1, chunk, "pages have sufficed for a while")
        elif (wanted := self._chunk(now_s)) > 1.25 * chunk or wanted < 0.8 * chunk:
            expected = now_s - self._promised_s < PROMISES_S
            reason = "answers have due times" if expected else "no answer has a due time"
            self._change(now_s, width, wanted, reason)
        return self.policy

    def tell_threads(self, now_s: float, alone: bool, size: int) -> None:
        """The team gives way to one thread (``alone``), or works as a whole."""
        self._threads.see(now_s, 1 if alone else size)

    def _chunk(self, now_s: float) -> int:
        """Prompt rows of a step: all there is room for, unless answers with a due time flow."""
        if now_s - self._promised_s >= PROMISES_S:
            return self._most
        cost = self._cost
        allowed_s = max(CHUNK_S, CHUNK_STEPS * cost.seconds(1, 1, 0.0))
        rows = cost.affordable_rows(allowed_s, 1, 0.0, self._most)
        return max(min(rows, self._most), min(16, self._most))

    def _change(self, now_s: float, width: int, chunk: int, reason: str) -> None:
        before, self.policy = self.policy, Policy(width, chunk)
        self._changed_s = now_s
        if before.width != width:
            logger.info("batch width: %d -> %d (%s)", before.width, width, reason)
        if before.chunk != chunk:
            pace = self._cost.pace
            text = "chunk size: %d -> %d rows (%s; the machine runs at %.2f of its calibrated pace)"
            logger.info(text, before.chunk, chunk, reason, 1 / pace)


class Threads:
    """Tells of the number of threads that work. It may change many times a second: see `THREADS_S`."""

    def __init__(self) -> None:
        self._count = self._told = 0  # 0: not seen yet
        self._changes = 0  # that the log knows nothing of
        self._first_s = self._last_s = float("-inf")  # when the first and the last of them came

    def see(self, now_s: float, count: int) -> None:
        """So many threads work at ``now_s``."""
        if not self._told:
            self._count = self._told = count
        if count != self._count:
            self._count, self._last_s = count, now_s
            self._first_s = self._first_s if self._changes else now_s
            self._changes += 1
        if self._changes and now_s - self._last_s >= THREADS_S:
            self._tell_lasting()
        elif self._changes and now_s - self._first_s >= FLUTTER_S:
            text = "threads: %d changes in %.0f s, %d now (other work comes and goes)"
            logger.info(text, self._changes, now_s - self._first_s, count)
            self._told, self._changes = count, 0

    def _tell_lasting(self) -> None:
        """The number has lasted; nothing is said if it is the one that the log knows."""
        if self._count != self._told:
            fewer = self._count < self._told
            reason = "other work keeps a core busy" if fewer else "the cores are free again"
            more = f"; {self._changes - 1} more changes before" if self._changes > 1 else ""
            logger.info("threads: %d -> %d (%s%s)", self._told, self._count, reason, more)
        self._told, self._changes = self._count, 0
