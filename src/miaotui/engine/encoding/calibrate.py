"""Measures what passes of an encoder cost on this machine, when it is loaded and never on a request's time.

Owns the choice of passes. Knows no jobs: the passes are over made-up tokens. Invariant: nothing is left behind but
numbers, the best of some rounds; how fast the machine is at the moment shows in every real pass (`CostModel`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from miaotui.backends.encoder_backend import EncoderBackend, TextRows
from miaotui.engine.turns import CoreTurns, PlainSharer, Sharer
from miaotui.schedule.promises.cost import CostRates

PATIENCE_S = 0.5  # no pass is begun after so long, but for the first of each of the small shapes
SHORT = 32  # tokens of a short text
ROWS = (8, 32, 64, 128, 256)  # of passes over short texts
LONG = 512  # tokens of the text that shows what attention costs
SURE = 64  # rows: passes up to here are measured, however long they take
ROUNDS = 3
PASS_BESIDE_S = 100e-6  # of Python around a pass, until real passes show it

Shape = tuple[int, ...]  # tokens of each text


def calibrate_encoder(
    backend: EncoderBackend, turns: CoreTurns, clock: Callable[[], float] = time.perf_counter
) -> CostRates:
    """Time passes over several numbers of short texts, and over one long text; each takes a turn."""
    sharer = PlainSharer()
    turns.join(sharer)
    try:
        return _measured(backend, turns, sharer, clock)
    finally:
        turns.leave(sharer)


def _measured(backend: EncoderBackend, turns: CoreTurns, sharer: Sharer, clock: Callable[[], float]) -> CostRates:
    limits = backend.limits
    short = min(SHORT, limits.tokens)
    shapes: list[Shape] = []
    for rows in ROWS:
        if rows <= limits.rows:
            shapes.append((rows,) if rows <= short else (short,) * (rows // short))
    long: Shape = (min(LONG, limits.tokens),)
    shapes = list(dict.fromkeys([*shapes, long])) or [long]
    best: dict[Shape, float] = {}
    end_s = clock() + PATIENCE_S
    for turn in range(ROUNDS + 1):  # the first round touches memory and warms the caches
        for shape in shapes:
            if clock() > end_s and (shape in best or sum(shape) > SURE):
                continue
            took_s = _time(backend, shape, turns, sharer, clock)
            best[shape] = took_s if turn <= 1 else min(took_s, best[shape])
    return _rates(best, long)


def _time(backend: EncoderBackend, shape: Shape, turns: CoreTurns, sharer: Sharer, clock: Callable[[], float]) -> float:
    texts = [TextRows((0,) * n) for n in shape]
    turns.enter(sharer)
    try:
        start_s = clock()
        backend.encode(texts)
        return clock() - start_s
    finally:
        turns.done(sharer)


def _rates(best: dict[Shape, float], long: Shape) -> CostRates:
    """Turn times into a curve over rows and the cost of one row looking at one other."""
    short = {shape: took_s for shape, took_s in best.items() if shape != long or len(best) == 1}
    curve = sorted((sum(shape), took_s + PASS_BESIDE_S) for shape, took_s in short.items())
    attend_s = 0.0
    if long in best and long not in short:
        rows, took_s = curve[-1]
        linear_s = took_s * max(sum(long) / rows, 1.0)
        attend_s = max(best[long] - linear_s, 0.0) / sum(long) ** 2
    if len(curve) == 1:  # the curve needs two ends
        curve.append((2 * curve[0][0], 2 * curve[0][1]))
    return CostRates(curve, 0.0, attend_s)
