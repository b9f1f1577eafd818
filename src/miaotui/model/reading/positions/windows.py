"""Layers with a sliding window or a position encoding, by an architecture's rule.

Integers only; knows no files. Layer numbers start at 0; "every n-th layer" is n-1, 2n-1, and so on.
"""

from __future__ import annotations

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.architectures import Windows


def every_nth(n_layers: int, n: int) -> tuple[bool, ...]:
    """Return True for layers n-1, 2n-1, …; for none if ``n`` is 0."""
    return tuple(n > 0 and (layer + 1) % n == 0 for layer in range(n_layers))


def layer_windows(
    rule: Windows, window: int, rope_layers: tuple[bool, ...], *, global_every: int = 0, first: int = 0
) -> tuple[int, ...]:
    """Return the window of each layer in tokens, 0 for full attention.

    ``first`` is the first layer with a window under `Windows.LATER`.
    """
    n_layers = len(rope_layers)
    if rule is Windows.NONE or window == 0:
        return (0,) * n_layers
    if rule is Windows.ALL:
        return (window,) * n_layers
    if rule is Windows.LATER:
        return tuple(window if layer >= first else 0 for layer in range(n_layers))
    if rule is Windows.NOPE:
        return tuple(0 if roped else window for roped in rope_layers)
    return tuple(0 if full else window for full in every_nth(n_layers, global_every))


def rope_in_windows(windows: tuple[int, ...]) -> tuple[bool, ...]:
    """Return which layers have a position encoding: those with a window, and all of a model that has no windows."""
    return tuple(window > 0 or not any(windows) for window in windows)


def windows_of_types(types: list[object], window: int) -> tuple[int, ...]:
    """Return the window of each layer from ``layer_types`` as ``config.json`` names them."""
    known = {"full_attention": 0, "sliding_attention": window}
    for kind in types:
        if not isinstance(kind, str) or kind not in known:
            raise UnsupportedModelError(
                f"the model has layers of type {kind!r}; only {', '.join(known)} are supported: choose another model"
            )
    return tuple(known[str(kind)] for kind in types)
