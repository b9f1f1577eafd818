"""Texts that a model writes itself, from own openings: the default for calibration and for tests.

Owns how much is written and with which seeds. Runs the model by `LLM`. A model's own texts have the distribution that
its layers see in use, in each language that it knows (Williams et al. 2024, self-calibration). Invariant: the two sets
begin with other sentences and have other seeds; the same model writes the same texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from miaotui.config import Settings, cache_error
from miaotui.errors import MiaotuiError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.llm import LLM
from miaotui.llm import load as load_llm
from miaotui.optimize.texts.calibration import TextSet
from miaotui.optimize.texts.openings import CALIBRATION, TEST
from miaotui.types import Progress

CONTEXT = 1024
TOKENS = 256  # of each text
SEEDS = {CALIBRATION: 19, TEST: 7919}
SEED_STEP = 100_003  # between the seeds of two sets of texts


def own_texts(
    path: Path, digest: str, settings: Settings, progress: Progress | None = None, context: int = CONTEXT, seed: int = 0
) -> tuple[TextSet, TextSet]:
    """Return the calibration and the test texts that the model at ``path`` writes; ``digest`` is of its file.

    ``context`` is the model's, in tokens; texts are shorter where it is. Another ``seed`` gives other texts from the
    same openings. They are kept in the cache. Raises a `MiaotuiError`.
    """
    kept = settings.cache_dir / "optimize" / f"{_key(digest, seed)}.json"
    try:
        found = read_object(kept)
        return _set("calibration", found["calibration"]), _set("test", found["test"])
    except (MiaotuiError, KeyError, TypeError):
        pass
    if progress is not None:
        progress("writing texts", 0, None)
    with load_llm(os.fspath(path), context=min(context, CONTEXT), speculate=False, progress=progress) as llm:
        written = {"calibration": _written(llm, CALIBRATION, seed), "test": _written(llm, TEST, seed)}
    text = json.dumps(written, ensure_ascii=False).encode()
    try:
        settings.folder("optimize")
        write_whole(kept, "the model's own texts", lambda file: file.write(text))
    except OSError as error:
        raise cache_error(error, kept) from error
    return _set("calibration", written["calibration"]), _set("test", written["test"])


def _written(llm: LLM, openings: tuple[str, ...], seed: int) -> list[str]:
    tokens, first = min(TOKENS, llm.context // 2), SEEDS[openings] + SEED_STEP * seed
    done = llm.generate(list(openings), max_tokens=tokens, temperature=1.0, seed=first, ignore_eos=True)
    return [opening + one.text for opening, one in zip(openings, done, strict=True)]


def _set(purpose: str, texts: list[str]) -> TextSet:
    """Return a set in which the texts of both languages take turns, so that a part of it has both."""
    half = len(texts) // 2
    turns = [text for pair in zip(texts[:half], texts[half:], strict=True) for text in pair]
    return TextSet(f"the model's own {purpose} texts", tuple(map(str, turns)))


def _key(digest: str, seed: int) -> str:
    about = [digest, CALIBRATION, TEST, TOKENS, list(SEEDS.values()), *([seed] if seed else [])]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
