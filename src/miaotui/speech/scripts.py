"""Chinese transcripts in one script: simplified or traditional, whichever the model wrote.

Whisper writes Chinese in both scripts, at times within one recording. Owns the choice of OpenCC's tables (extra
``speech``). Invariant: text that is not Chinese, and ``as_is``, stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from miaotui.libraries import need
from miaotui.speech.transcript import Script, Segment

CHINESE = "zh"
_TABLES: dict[Script, str] = {"simplified": "t2s", "traditional": "s2t"}


def in_script(text: str, script: Script) -> str:
    """Return Chinese text in a script. Raises `MissingLibraryError` without OpenCC."""
    if script == "as_is" or text.isascii():
        return text
    return _converter(_TABLES[script])(text)


def segment_in_script(segment: Segment, script: Script) -> Segment:
    """Return a segment whose text and words are in a script; its tokens stay the model's."""
    words = tuple(replace(each, word=in_script(each.word, script)) for each in segment.words)
    return replace(segment, text=in_script(segment.text, script), words=words)


@functools.cache
def _converter(table: str) -> Callable[[str], str]:
    convert: Callable[[str], str] = need("opencc").OpenCC(table).convert
    return convert
