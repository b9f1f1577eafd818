"""Models whose encoding of positions is another one for a longer context that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import miaotui
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from tiny_models import make_tiny_folder


@pytest.mark.parametrize(("asked", "holds"), [(None, 64), (60, 60), (120, 120)])
def test_a_context_that_is_asked_for_chooses_the_encoding(asked: int | None, holds: int, tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "phi3-longrope")
    tokens = np.random.default_rng(1).integers(0, 320, 50).tolist()
    with open_model(folder) as files:
        expected = Oracle(files.config.for_context(asked), files.tensors).logits(tokens)
        other = Oracle(files.config.for_context(None if asked == 120 else 120), files.tensors).logits(tokens)
    with miaotui.load(str(folder), backend="reference", context=asked) as llm:
        assert llm.context == holds
        found = llm.logits(tokens)
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert np.abs(found - other).max() > 5e-2 * np.abs(expected).max()
