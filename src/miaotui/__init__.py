"""miaotui (秒推): language models that answer in under a second on the computer you already have.

import miaotui
with miaotui.load("smollm2-135m") as llm:
    question = {"role": "user", "content": "What is the capital of France?"}
    print(llm.chat([question], max_tokens=32).text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from miaotui.errors import MiaotuiError

if TYPE_CHECKING:
    from miaotui.async_encoder import AsyncEncoder, load_encoder_async
    from miaotui.async_llm import AsyncLLM, load_async
    from miaotui.encoder import Encoder, load_encoder
    from miaotui.encoders.results import Classification, MaskFill, RankedDocument, TaggedSpan
    from miaotui.llm import LLM, load
    from miaotui.seq2seq.async_model import AsyncSeq2Seq, load_seq2seq_async
    from miaotui.seq2seq.facade import TargetText
    from miaotui.seq2seq.model import Seq2Seq, load_seq2seq
    from miaotui.speech.async_model import AsyncSpeechModel, load_speech_async
    from miaotui.speech.model import SpeechModel, load_speech
    from miaotui.speech.transcript import Transcript, TranscriptionOptions
    from miaotui.translation.result import Translation
    from miaotui.types import Completion, Deadline, Delta, Promise, SamplingParams, Score, Timing, TokenLogprobs

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncEncoder",
    "AsyncLLM",
    "AsyncSeq2Seq",
    "AsyncSpeechModel",
    "Classification",
    "Completion",
    "Deadline",
    "Delta",
    "Encoder",
    "MaskFill",
    "MiaotuiError",
    "Promise",
    "RankedDocument",
    "SamplingParams",
    "Score",
    "Seq2Seq",
    "SpeechModel",
    "TaggedSpan",
    "TargetText",
    "Timing",
    "TokenLogprobs",
    "Transcript",
    "TranscriptionOptions",
    "Translation",
    "load",
    "load_async",
    "load_encoder",
    "load_encoder_async",
    "load_seq2seq",
    "load_seq2seq_async",
    "load_speech",
    "load_speech_async",
]
_LAZY = {
    "LLM": "miaotui.llm",
    "load": "miaotui.llm",
    "AsyncLLM": "miaotui.async_llm",
    "load_async": "miaotui.async_llm",
    "Encoder": "miaotui.encoder",
    "load_encoder": "miaotui.encoder",
    "AsyncEncoder": "miaotui.async_encoder",
    "load_encoder_async": "miaotui.async_encoder",
    **dict.fromkeys(("AsyncSeq2Seq", "load_seq2seq_async"), "miaotui.seq2seq.async_model"),
    **dict.fromkeys(("Seq2Seq", "load_seq2seq"), "miaotui.seq2seq.model"),
    "TargetText": "miaotui.seq2seq.facade",
    **dict.fromkeys(("AsyncSpeechModel", "load_speech_async"), "miaotui.speech.async_model"),
    **dict.fromkeys(("SpeechModel", "load_speech"), "miaotui.speech.model"),
    **dict.fromkeys(("Transcript", "TranscriptionOptions"), "miaotui.speech.transcript"),
    "Translation": "miaotui.translation.result",
    **dict.fromkeys(("Classification", "MaskFill", "RankedDocument", "TaggedSpan"), "miaotui.encoders.results"),
    **dict.fromkeys(
        ("Completion", "Deadline", "Delta", "Promise", "SamplingParams", "Score", "Timing", "TokenLogprobs"),
        "miaotui.types",
    ),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a start of the command line need not wait for it."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'miaotui' has no attribute {name!r}")
    try:
        found = globals()[name] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        from miaotui.libraries import missing  # noqa: PLC0415  (only where something is wrong)

        raise missing(error.name or "") from error
    return found
