"""Descriptions and reports of replicas that keep no pages: when they join, and twice a second after that.

Owns both forms. Knows no model and no index. Invariant: they have all that a router reads of a decoder's replica; what
only pages and batches of tokens have is nothing here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

from miaotui.cluster.messages import VERSION, Message
from miaotui.cluster.routing.forecast import LEVELS

WIDTH = 1 << 20  # jobs at once: they wait in the replica's own queue


def description(digest: str, computes: Sequence[object], *, promises: bool, context: int) -> Message:
    """Return what decides if a replica may join a pool, and its place. ``context``: tokens of its longest text."""
    return {
        "protocol": VERSION,
        "miaotui": version("miaotui"),
        "digest": digest,
        "computes": computes,
        "promises": promises,
        "adapters": False,
        "context": context,
        "width": WIDTH,
        "chunk_rows": 1,
        "pages": 0,
        "weight_bytes": 0,
        "kv_token_bytes": 0,
        "machine": platform.node(),
        "process": os.getpid(),
    }


def report(token_s: float, jobs: int, waiting_tokens: int, *, margin: float = 1.0, pace: float = 1.0) -> Message:
    """Return what a token costs, ``token_s`` seconds, and the work of ``jobs`` that run.

    ``margin`` and ``pace``: the factors by which promises allow for errors of the forecast and for a slower machine.
    """
    return {
        "cost": {
            "read_s": token_s,
            "answer_s": [0.0] * len(LEVELS),
            "allowance": margin,
            "width": WIDTH,
            "kept_pages": 0,
        },
        "load": [jobs, waiting_tokens, 0],
        "rates": [[[1, token_s], [2, 2 * token_s]], 0.0],
        "attend_s": 0.0,
        "pace": pace,
        "healthy": True,
        "running": jobs,
        "waiting": 0,
        "pages_used": 0,
        "threads": 0,
    }
