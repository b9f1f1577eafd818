"""A real model through OpenVINO GenAI: fluent answers, ends, streams, and what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino_genai", reason="OpenVINO is not installed: pip install 'miaotui[openvino]'")

import miaotui
from miaotui.errors import RequestError, UnsupportedModelError
from tiny_models import make_tiny_folder, make_tiny_gguf

pytestmark = [pytest.mark.compare]


@pytest.mark.long
@pytest.mark.model
def test_a_model_answers_through_openvino() -> None:
    with miaotui.load("smollm2-135m", backend="openvino", context=256, threads=1) as llm:
        found = llm.generate("The capital of France is", max_tokens=24, temperature=0)
        assert found.text.startswith(" Paris")
        assert found.prompt_tokens == 5
        pieces = [piece.text for piece in llm.stream("The capital of France is", max_tokens=24, temperature=0)]
        assert "".join(pieces) == found.text
        assert len(pieces) > 3
        stopped = llm.generate("The capital of France is", max_tokens=24, temperature=0, stop=["."])
        assert stopped.text == found.text.partition(".")[0]
        together = llm.generate(["The capital of France is", "One, two, three, four,"], max_tokens=8)
        assert [len(each.token_ids) for each in together] == [8, 8]
        with pytest.raises(RequestError, match="no promises"):
            llm.generate("x", deadline_ms=1000)
        with pytest.raises(RequestError, match="log-probabilities"):
            llm.generate("x", logprobs=1)


@pytest.mark.slow
def test_models_that_openvino_cannot_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedModelError, match="reads GGUF files"):
        miaotui.load(make_tiny_folder(tmp_path, "llama"), backend="openvino")
    file = make_tiny_gguf(tmp_path, "llama")
    with pytest.raises(UnsupportedModelError, match="OpenVINO cannot read"):
        miaotui.load(file, backend="openvino")
    with pytest.raises(RequestError, match="OpenVINO has no kv"):
        miaotui.load(file, backend="openvino", kv="int8")
    monkeypatch.setenv("MIAOTUI_OPENVINO_DEVICE", "GPU.7")
    with pytest.raises(RequestError, match=r"OpenVINO sees .*CPU"):
        miaotui.load(file, backend="openvino")
