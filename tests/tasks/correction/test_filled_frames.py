"""Frames: fixed parts stay byte for byte, and gaps are filled as a decoder or a masked model fills them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import miaotui
from infill_models import make_infill_folder
from miaotui.dmlm import MaskedLM, load_masked
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.tasks.frames import fill_frame
from tiny_masked import make_masked_folder

FRAME = "Dear [MASK],\n thé [MASK] is\tready 好[MASK]."
PARTS = FRAME.split("[MASK]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("frames")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(made / "home"))
        yield made


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with miaotui.load(make_infill_folder(folder), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def masked(folder: Path) -> Iterator[MaskedLM]:
    with load_masked(make_masked_folder(folder, "llada"), backend="reference") as loaded:
        yield loaded


def joined(parts: list[str], fills: tuple[str, ...]) -> str:
    return "".join(part + fill for part, fill in zip(parts, (*fills, ""), strict=True))


def test_a_decoder_fills_one_gap_after_the_other(llm: LLM) -> None:
    found = fill_frame(FRAME, llm, max_tokens=[4, 5, 6])
    assert found.text == joined(PARTS, found.fills)
    assert fill_frame(PARTS, llm, max_tokens=[4, 5, 6]) == found
    first = llm.infill(PARTS[0], PARTS[1], max_tokens=4, stop=[PARTS[1]])
    assert found.fills[0] == first.text
    begun = PARTS[0] + first.text + PARTS[1]
    assert found.fills[1] == llm.infill(begun, PARTS[2], max_tokens=5, stop=[PARTS[2]]).text


def test_a_masked_model_restores_all_gaps_together(masked: MaskedLM) -> None:
    found = fill_frame(FRAME, masked, max_tokens=3)
    assert found.text == joined(PARTS, found.fills)
    mask = masked.masked.mask_id
    tokens = masked.tokenizer.encode(PARTS[0])
    for part in PARTS[1:]:
        tokens += [mask] * 3 + masked.tokenizer.encode(part, special=False)
    restored = masked.restore(tokens)
    start = tokens.index(mask)
    kept = [token for token in restored[start : start + 3] if token not in masked.tokenizer.eos_ids]
    assert found.fills[0] == masked.tokenizer.decode(kept)


def test_a_frame_without_a_gap_and_counts_that_do_not_fit_are_refused(llm: LLM, masked: MaskedLM) -> None:
    for frame in (None, 5, ["a", 5], [b"a", b"b"]):
        with pytest.raises(RequestError, match="frame: must be a text"):
            fill_frame(frame, llm)  # type: ignore[arg-type]
    for counts in (0, 2.5, [1, "2"], [1, 2, 3]):
        with pytest.raises(RequestError, match="max_tokens: must be 1 or more"):
            fill_frame("a [MASK] b [MASK]", llm, max_tokens=counts)  # type: ignore[arg-type]
    for model in (llm, masked):
        with pytest.raises(RequestError, match="no gap"):
            fill_frame("nothing to do", model)
        with pytest.raises(RequestError, match="max_tokens"):
            fill_frame(FRAME, model, max_tokens=[1])
        with pytest.raises(RequestError, match="max_tokens"):
            fill_frame(FRAME, model, max_tokens=0)
        with pytest.raises(RequestError, match="at most 64"):
            fill_frame("[MASK]" * 65, model)
    with pytest.raises(PromptTooLongError, match=r"context|pass"):
        fill_frame(FRAME, masked, max_tokens=10_000)
    with pytest.raises(PromptTooLongError, match="context"):
        fill_frame("x" * 9000 + "[MASK]", llm)
    with pytest.raises(RequestError, match="mark"):
        fill_frame("x", llm, mark="")
