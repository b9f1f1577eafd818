"""vLLM behind our loop: its child process, with a scripted package in vLLM's place, and the real one if it is here.

``MIAOTUI_VLLM_PYTHON`` names the Python that has vLLM; without, the last test is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from scripted_vllm import DIES, REFUSED, write

import miaotui
from miaotui.backends.options import EngineOptions
from miaotui.engine.reading import readers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.request import RequestOptions
from miaotui.engines.vllm.build import engine_arguments, open_vllm
from miaotui.engines.vllm.engine import VllmEngine, child_command
from miaotui.errors import (
    DeadlineUnattainableError,
    EngineError,
    MiaotuiError,
    MissingLibraryError,
    RequestError,
    UnsupportedModelError,
)
from miaotui.types import Completion, Deadline, SamplingParams
from tiny_models import make_tiny_folder, make_tiny_gguf

OPTIONS = EngineOptions(backend="vllm", max_sequences=4, context=128)


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteLoop]:
    monkeypatch.setenv("MIAOTUI_VLLM_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(write(tmp_path / "site")))
    with closing(open_vllm(make_tiny_folder(tmp_path, "llama"), OPTIONS)) as made:
        yield made
    assert made.in_flight == 0


def answered(loop: RemoteLoop, *prompts: Sequence[int], **params: object) -> list[Completion]:
    chosen = SamplingParams(**{"max_tokens": 5, "ignore_eos": True, **params})
    return readers.whole(loop, lambda: (loop.submit(prompt, chosen) for prompt in prompts))


def test_answers_come_together_with_log_probabilities(loop: RemoteLoop) -> None:
    found = answered(loop, [10], [20, 30], [40])
    assert [each.token_ids for each in found] == [tuple(range(first, first + 5)) for first in (11, 31, 41)]
    (scored,) = answered(loop, [10], logprobs=2)
    assert [(each.token_id, each.logprob, each.top) for each in scored.logprobs[:1]] == [
        (11, -2.5, ((1, -0.1), (2, -0.2)))
    ]
    (biased,) = answered(loop, [10], logit_bias={70: 5.0})
    assert biased.token_ids[0] == 70


def test_a_child_that_dies_fails_what_ran_and_another_one_answers(loop: RemoteLoop) -> None:
    with pytest.raises(EngineError, match=r"process has ended \(status 9\)"):
        answered(loop, [DIES, 5])
    end_s = time.monotonic() + 30
    while not loop.healthy and time.monotonic() < end_s:
        time.sleep(0.005)
    assert answered(loop, [10])[0].token_ids == (11, 12, 13, 14, 15)
    with pytest.raises(RequestError, match="not this one"):
        answered(loop, [REFUSED, 1])
    assert answered(loop, [10])[0].token_ids == (11, 12, 13, 14, 15)


def test_what_it_can_do_is_said_and_the_rest_is_refused(loop: RemoteLoop) -> None:
    able = loop.abilities.shown()
    assert able["promises"] == "estimated"
    assert (able["same_bytes"], able["grammar"], able["logprobs"]) == (False, False, True)
    for params, options, reason in (
        (SamplingParams(min_tokens=2), RequestOptions(), "min_tokens"),
        (SamplingParams(prompt_logprobs=1), RequestOptions(), "of the prompt"),
        (SamplingParams(), RequestOptions(adapter="law"), "no adapters"),
    ):
        with pytest.raises(RequestError, match=reason):
            loop.submit([1, 2], params, options)


def test_a_deadline_is_estimated_from_what_was_measured(loop: RemoteLoop) -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    with pytest.raises(DeadlineUnattainableError, match="by estimate"):
        loop.submit([1, 2], params, RequestOptions(deadline=Deadline(total_ms=1.0)))
    options = RequestOptions(deadline=Deadline(total_ms=60_000))
    (found,) = readers.whole(loop, lambda: iter([loop.submit([1, 2], params, options)]))
    assert found.promise is not None
    assert found.promise.predicted_ms > 0
    assert loop.can_promise
    assert loop.admission.counts.refused == 1


def test_options_and_files_that_it_does_not_get_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    failures: list[tuple[Path, EngineOptions, type[MiaotuiError], str]] = [
        (folder, EngineOptions(backend="vllm", threads=2), RequestError, "no threads 2"),
        (make_tiny_gguf(tmp_path, "llama"), OPTIONS, UnsupportedModelError, "folders of safetensors"),
    ]
    for path, options, kind, reason in failures:
        with pytest.raises(kind, match=reason):
            open_vllm(path, options)
    monkeypatch.setenv("MIAOTUI_VLLM_PYTHON", str(tmp_path / "python"))
    with pytest.raises(RequestError, match="no such program"):
        open_vllm(folder, OPTIONS)
    monkeypatch.setenv("MIAOTUI_VLLM_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # without vLLM
    if not has_vllm():
        with pytest.raises(EngineError, match="did not start"):
            VllmEngine(child_command(sys.executable, engine_arguments(folder, OPTIONS, 64)))
        monkeypatch.delenv("MIAOTUI_VLLM_PYTHON")
        with pytest.raises(MissingLibraryError, match=r"miaotui\[vllm\]"):
            open_vllm(folder, OPTIONS)


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


@pytest.mark.compare
@pytest.mark.long
@pytest.mark.skipif("MIAOTUI_VLLM_PYTHON" not in os.environ, reason="MIAOTUI_VLLM_PYTHON names no Python with vLLM")
def test_the_real_one_writes_what_our_float32_reference_writes(tmp_path: Path) -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}  # of a size that vLLM's kernels take
    folder = make_tiny_folder(tmp_path, "llama", **heads)
    params = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True, "logprobs": 2}
    with miaotui.load(folder, backend="reference", context=128) as reference:
        wanted = reference.generate("Hello there", **params)
    with miaotui.load(folder, backend="vllm", context=128) as llm:
        found = llm.generate("Hello there", **params)
        assert found.token_ids == wanted.token_ids
        assert [each.logprob for each in found.logprobs] == pytest.approx(
            [each.logprob for each in wanted.logprobs], abs=0.02
        )
        with pytest.raises(DeadlineUnattainableError):
            llm.generate("Hello there", max_tokens=12, ignore_eos=True, deadline_ms=0.5)
