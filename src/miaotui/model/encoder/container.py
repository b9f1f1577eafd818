"""Contents of an encoder's container, before any tensor has its canonical name.

Owns the seam between readers of containers (sentence-transformers folders, ONNX exports and others), which produce an
`EncoderContainer`, and `from_hf`, which maps it. Knows neither side. Invariant: nothing here has been decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from miaotui.closing import Closing
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.heads import PoolingConfig

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
Pipeline = Literal["embedding", "splade", "colbert", "cross-encoder"]


@dataclass(frozen=True, kw_only=True)
class SentenceSettings:
    """Contents of a sentence-transformers folder beside the Transformer: modules, prompts, limits.

    ``pipeline`` follows from the modules: Transformer and Pooling make an "embedding"; MLMTransformer and SpladePooling a
    "splade"; Transformer and Dense without Pooling a "colbert". It decides the head, whatever `architectures` says.
    ``dense`` holds the tensors of the dense modules as ``{index}.weight`` and ``{index}.bias``, those of a ColBERT's, too.
    """

    pipeline: Pipeline = "embedding"
    pooling: PoolingConfig | None = None
    dense: Mapping[str, StoredTensor] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: Similarity = "cosine"
    max_tokens: int | None = None  # max_seq_length
    do_lower_case: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderContainer(Closing):
    """Contents of any container but GGUF: ``config.json``'s values, tensors with transformers' names.

    ``values`` must hold `model_type`, or `architectures`. ``metadata`` and ``folder`` lead to the tokenizer as in
    `OpenedEncoder`.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    sentence: SentenceSettings | None = None
    metadata: Mapping[str, Any] | None = None
    folder: Path | None = None
    release: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Unmap the files."""
        self.release()
