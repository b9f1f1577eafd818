"""Several processes that share each step: every one computes gradients of some texts, and all take their sum.

Owns the processes and their sums (torch.distributed with gloo, over loopback). Knows neither networks nor data.
Invariants: all processes have equal weights after each step; when one ends with an error, all end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from miaotui.errors import RequestError
from miaotui.training.torch_loading import load_torch

LOOPBACK = {"linux": "lo", "darwin": "lo0"}
WAIT_S = 300.0  # for the other processes, at the beginning and in each sum


@dataclass(frozen=True)
class Worker:
    """One of ``count`` processes."""

    rank: int = 0
    count: int = 1

    def share(self, numbers: Sequence[int]) -> list[int]:
        """Return the part of ``numbers`` that is this process's."""
        return list(numbers[self.rank :: self.count])

    def sum_gradients(self, weights: Sequence[Any]) -> None:
        """Replace each weight's gradient by the sum over all processes."""
        if self.count == 1:
            return
        torch = load_torch()
        joined = torch.cat(
            [(torch.zeros_like(each) if each.grad is None else each.grad).reshape(-1) for each in weights]
        )
        torch.distributed.all_reduce(joined)
        for each, part in zip(weights, joined.split([each.numel() for each in weights]), strict=True):
            each.grad = part.view_as(each)

    def sum_value(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.count == 1:
            return value
        torch = load_torch()
        total = torch.tensor([value], dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return float(total)


@contextlib.contextmanager
def workers(count: int, run: Callable[[Worker, Any], None], job: Any, threads: int | None = None) -> Iterator[Worker]:
    """Start ``count - 1`` further processes that call ``run(worker, job)``, and yield this process's worker.

    ``run`` and ``job`` are pickled; ``threads`` are those of each process. Raises `RequestError` if a process cannot be
    started, or has failed.
    """
    if count == 1:
        yield Worker()
        return
    torch = load_torch()
    if not torch.distributed.is_available():
        raise RequestError("this torch has no distributed training: use one process (--processes 1)")
    with tempfile.TemporaryDirectory() as folder:
        store, context = Path(folder) / "meeting", multiprocessing.get_context("spawn")
        each = threads or max(1, len(os.sched_getaffinity(0)) // count if hasattr(os, "sched_getaffinity") else 1)
        others = [
            context.Process(target=_work, args=(run, job, Worker(rank, count), str(store), each), daemon=True)
            for rank in range(1, count)
        ]
        for process in others:
            process.start()
        try:
            with _group(Worker(0, count), store, each) as worker:
                yield worker
            for process in others:
                process.join(WAIT_S)
            if any(process.exitcode for process in others):
                raise RequestError("a process of the training has failed: see its message above")
        except RuntimeError as error:
            why = str(error).partition("] ")[2].partition(". ")[0] or str(error)  # without the place in torch's source
            raise RequestError(
                f"a process of the training was lost ({why[:200]}): give the same command again, and it goes "
                "on from the last checkpoint"
            ) from error
        finally:
            for process in others:
                process.kill()
                process.join()


def _work(run: Callable[[Worker, Any], None], job: Any, worker: Worker, store: str, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others
    with _group(worker, Path(store), threads) as here:
        run(here, job)


@contextlib.contextmanager
def _group(worker: Worker, store: Path, threads: int) -> Iterator[Worker]:
    torch = load_torch()
    if sys.platform in LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    torch.set_num_threads(threads)
    torch.distributed.init_process_group(
        "gloo", init_method=store.as_uri(), rank=worker.rank, world_size=worker.count, timeout=timedelta(seconds=WAIT_S)
    )
    try:
        yield worker
    finally:
        torch.distributed.destroy_process_group()
