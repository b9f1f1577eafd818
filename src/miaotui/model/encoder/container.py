"""Contents of an encoder's container, before and after its tensors have their canonical names.

Owns the seam between readers of containers (sentence-transformers folders, ONNX exports and others), which produce an
`EncoderContainer`, and `reading`, which turns it into an `OpenedEncoder`. Knows neither side. Invariant: nothing here
has been decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from miaotui.closing import Closing
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.heads import HeadConfig, PoolingConfig

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
Pipeline = Literal["embedding", "splade", "colbert", "cross-encoder"]


@dataclass(frozen=True, kw_only=True)
class SentenceSettings:
    """Contents of a sentence-transformers folder beside the Transformer: modules, prompts, limits.

    ``pipeline`` follows from the modules: Transformer and Pooling make an "embedding"; MLMTransformer and SpladePooling
    a "splade"; Transformer and Dense without Pooling a "colbert". It decides the head, whatever `architectures` says.
    ``dense`` holds the tensors of the dense modules as ``{index}.weight`` and ``{index}.bias``; a ColBERT's is 0.
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


@dataclass(frozen=True, kw_only=True)
class OpenedEncoder(Closing):
    """Opened encoder. Its weights view mapped files: do not use them after `close`.

    ``pooling`` is None where no file says how states become an embedding. ``metadata`` holds a GGUF file's pairs,
    ``folder`` is where ``tokenizer.json`` lies; one of them is set.
    """

    config: EncoderConfig
    weights: Mapping[str, StoredTensor]
    head: HeadConfig = field(default_factory=HeadConfig)
    pooling: PoolingConfig | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name, such as "query"
    default_prompt: str | None = None
    similarity: Similarity = "cosine"
    dimensions: tuple[int, ...] = ()  # that embeddings were trained to be cut to (Matryoshka); (1,): any
    lower_case: bool = False  # sentence-transformers' do_lower_case, beside the tokenizer's own
    metadata: Mapping[str, Any] | None = None
    folder: Path | None = None
    release: Callable[[], None] = lambda: None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the head's outputs; empty if it has none."""
        return self.head.labels

    def close(self) -> None:
        """Unmap the files."""
        self.release()
