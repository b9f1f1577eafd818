"""Continuous batching over a paged KV cache, in integers only: which sequence computes which rows in each step.

The engine calls `Scheduler.plan`, runs the planned rows, and hands the new tokens to `Scheduler.commit`. Nothing here
knows tensors, text, clocks or threads. Invariant: equal calls in equal order give equal plans.
"""

from __future__ import annotations

from miaotui.schedule.plan import PAGE_SIZE, Chunk, Plan, ScheduleConfig, pages_for
from miaotui.schedule.scheduler import Scheduler, SchedulerStats

__all__ = ["PAGE_SIZE", "Chunk", "Plan", "ScheduleConfig", "Scheduler", "SchedulerStats", "pages_for"]
