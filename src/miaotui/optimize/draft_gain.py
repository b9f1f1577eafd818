"""Gain by drafts, measured in a process of its own: ``python -m miaotui.optimize.draft_gain FILE``.

Owns the texts and the figure. Knows no drafter and no target. The model continues own openings, English and Chinese,
and each pass gives as many tokens as its drafts were right, and one more. Invariant: answers are the same bytes with
and without drafts, so the figure is about speed alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from miaotui.errors import EngineError, MiaotuiError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.optimize.source import GgufSource
from miaotui.optimize.texts.openings import CALIBRATION

FORM = 1
TEXTS, TOKENS = 8, 64
LIMIT_S = 600


@dataclass(frozen=True)
class MeasuredDrafts:
    """Tokens that one pass gives with drafts (1: none was right): over all texts, and of the poorest and best text."""

    tokens_per_pass: float
    lowest: float
    highest: float
    texts: int
    tokens: int


def measured_drafts(file: Path) -> MeasuredDrafts:
    """Run ``file`` in a process of its own. Raises `EngineError` where it does not run."""
    command = [sys.executable, "-m", "miaotui.optimize.draft_gain", os.fspath(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)  # noqa: S603  (our own)
        return MeasuredDrafts(**json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise EngineError(f"{file} does not run with drafts: {str(said).strip()[-300:]}") from error


def own_drafts(source: GgufSource, gain: Callable[[Path], MeasuredDrafts], kept: Path) -> MeasuredDrafts:
    """Return the gain of the model ``source``, which ``gain`` measures once; it is kept in the folder ``kept``."""
    about = json.dumps([FORM, source.digest(), TEXTS, TOKENS])
    path = kept / f"drafts-{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"
    try:
        return MeasuredDrafts(**read_object(path))
    except (MiaotuiError, TypeError):
        found = gain(source.path)
    text = json.dumps(asdict(found)).encode()
    write_whole(path, "the gain by drafts", lambda file: file.write(text))
    return found


def _measure(file: str) -> MeasuredDrafts:
    from miaotui.llm import load  # noqa: PLC0415  (the measuring process alone)

    with load(file, context=4 * TOKENS) as llm:
        openings = CALIBRATION[:: len(CALIBRATION) // TEXTS]
        done = [llm.generate(each, max_tokens=TOKENS, temperature=0.0, ignore_eos=True) for each in openings]
    counts = [len(one.token_ids) - 1 for one in done]
    gains = [one.timing.tokens_per_pass for one in done]
    passes = sum(count / gain for count, gain in zip(counts, gains, strict=True))
    return MeasuredDrafts(sum(counts) / passes, min(gains), max(gains), len(done), sum(counts))


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(sys.argv[1]))))
