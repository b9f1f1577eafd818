"""Decoders used as encoders: embeddings from the last token, and rerankers that answer yes or no.

Owns what is to be computed from a decoder's states, which are those of a causal pass after the final norm; knows no
tokenizer, engine or files (`reading.from_decoder`). Invariant: a pass over the prompt is all that is computed; nothing
is generated. Sources: the model cards of Qwen3-Embedding, Qwen3-Reranker and E5-Mistral; sentence-transformers'
`LogitScore`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from miaotui.closing import Closing
from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.container import Similarity
from miaotui.model.encoder.heads import PoolingConfig
from miaotui.model.encoder.pooling import rows_product
from miaotui.model.reading.files import ModelFiles
from miaotui.text.encoders.rerank_prompt import RerankPrompt

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DecoderEncoder(Closing):
    """Opened decoder that embeds or ranks. Its tensors view mapped files: do not use them after `close`.

    One of the two is set. ``pooling``: the text's embedding is pooled from its states (``dense`` holds the dense
    modules' tensors by canonical name); with "last" the tokenizer must end each text with its end token. ``score``: the
    prompt's relevance is read from its last state.
    """

    files: ModelFiles
    pooling: PoolingConfig | None = None
    dense: Mapping[str, StoredTensor] = field(default_factory=dict)
    score: StoredTensor | None = None  # [1 or 2, hidden]: of the answer "yes", and of "no" if there are two
    rerank_prompt: RerankPrompt | None = None  # set beside ``score``
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name, such as "query"
    default_prompt: str | None = None
    similarity: Similarity = "cosine"
    max_tokens: int  # of a text, special tokens included

    def close(self) -> None:
        """Unmap the files."""
        self.files.close()


class LogitScore:
    """Relevance of a prompt from its last state: the log-odds of "yes" against "no"."""

    def __init__(self, opened: DecoderEncoder) -> None:
        if opened.score is None:
            raise UnsupportedModelError("the model embeds texts and does not rank documents: choose a reranker")
        self._rows = opened.score.float32()  # [1 or 2, hidden]

    def logit(self, states: Array) -> float:
        """Return the score of a prompt's states ``[n, hidden]``, n at least 1; its sigmoid is the probability."""
        logits = rows_product(states[-1:], self._rows)[0]
        return float(logits[0]) if len(logits) == 1 else float(logits[0] - logits[1])
