"""Opening an encoder on disk, in any container, as a configuration, canonical tensors, head and pooling.

Knows which container is read by which module; leaves their contents to these. Invariant: the result of `open_encoder`
has been checked against itself, tensor by tensor, and nothing has been decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaotui.closing import Closing
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.container import Similarity
from miaotui.model.encoder.heads import HeadConfig, PoolingConfig


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
