"""Real models against transformers in float32 on the same weights, over thousands of English words.

What differs is the rounding of activations to int8 in groups of 32; keys and values in float16 add
less than 1e-5 nats. For SmolLM2 the weights are exactly the file's. Gemma's file has Q4_K blocks,
whose scales (6 bits times float16) are rounded to float16, and Q6_K blocks, rounded to 8 bits per
weight: in float32 that alone costs 0.5 % of top-1 agreement and 0.00013 nats; its limits leave as
much again for texts of other versions of Python.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import miaotui
from miaotui.hub.resolve import resolve
from miaotui.llm import LLM
from miaotui.model.reading.files import open_model
from reference_models import Agreement, Comparison, english, reference_model, windows

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.compare]


def agreement(path: Path, count: int, length: int) -> Agreement:
    """Over ``count`` stretches of ``length`` tokens of English."""
    import torch  # noqa: PLC0415  (only these tests have it)

    comparison = Comparison()
    with miaotui.load(path) as llm, open_model(path) as files, torch.no_grad():
        reference = reference_model(files)
        for tokens in windows(llm.tokenizer.encode(english(), whole=False), count, length, begin(llm)):
            expected = reference(torch.tensor([tokens])).logits[0].numpy()
            comparison.add(tokens, llm.logits(tokens), expected)
    print(f"\n{path.name}: {comparison.agreement}")
    return comparison.agreement


def begin(llm: LLM) -> tuple[int, ...]:
    """What the model's own rules put before a text."""
    return llm.tokenizer.roles.prefix


def test_smollm2_predicts_as_in_float32() -> None:
    found = agreement(resolve("smollm2-135m"), count=12, length=512)
    assert found.tokens >= 2_000
    assert found.top1 >= 0.965
    assert found.mean_kl <= 0.004
    assert abs(found.perplexity_ratio - 1) <= 0.003


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_gemma3_predicts_as_in_float32(count: int) -> None:
    found = agreement(resolve("gemma3-270m"), count, length=640)  # longer than its window of 512
    assert found.tokens >= 600 * count
    assert found.top1 >= 0.955
    assert found.mean_kl <= 0.005
    assert abs(found.perplexity_ratio - 1) <= 0.01
