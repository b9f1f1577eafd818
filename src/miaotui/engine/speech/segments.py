"""The segments of a window: its tokens cut at timestamps, and where the next window begins.

Owns the cut. Knows no text and no sound. Invariant: a window moves on, and never beyond its own end. Source: Radford et
al. 2022, section 3.8, as openai/whisper's ``transcribe.py`` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from miaotui.text.speech.tokens import TOKENS_A_SECOND, SpeechTokens

FRAMES_A_TOKEN = 2


class WindowPart(NamedTuple):
    """A segment within its window: seconds from the window's start, and tokens with the timestamps around the text."""

    start_s: float
    end_s: float
    tokens: tuple[int, ...]


class WindowCut(NamedTuple):
    """A window's segments, and how many frames on the next window begins."""

    parts: tuple[WindowPart, ...]
    advance: int
    ends_in_silence: bool  # its last timestamp is single: nothing is spoken behind it


def cut_window(written: Sequence[int], frames: int, tokens: SpeechTokens) -> WindowCut:
    """Cut the tokens of a window of ``frames`` frames."""
    first = tokens.first_timestamp
    is_time = [token >= first for token in written]
    single_ending = is_time[-2:] == [False, True]
    ends = [place for place in range(1, len(written)) if is_time[place - 1] and is_time[place]]
    if not ends:
        times = [token for token in written if token > first]
        end_s = (times[-1] - first) / TOKENS_A_SECOND if times else frames / (FRAMES_A_TOKEN * TOKENS_A_SECOND)
        return WindowCut((WindowPart(0.0, end_s, tuple(written)),) if written else (), frames, single_ending)
    if single_ending:
        ends.append(len(written))
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        part = tuple(written[start:end])
        start_s, end_s = ((token - first) / TOKENS_A_SECOND for token in (part[0], part[-1]))
        parts.append(WindowPart(start_s, end_s, part))
    if single_ending:
        return WindowCut(tuple(parts), frames, single_ending)
    advance = (written[ends[-1] - 1] - first) * FRAMES_A_TOKEN
    return WindowCut(tuple(parts), min(advance, frames) or frames, single_ending)
