"""An encoder in memory: its configuration, tokenizer, head and backend, and what it can be asked for.

Owns the record, which `miaotui.runtime` fills, and the list of abilities. Invariant: everything in it is open until
`close`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from miaotui.backends.encoder_backend import EncoderBackend, Floats
from miaotui.errors import RequestError
from miaotui.hub.store import content_key
from miaotui.model.encoder.container import Similarity
from miaotui.model.encoder.decoder import LogitScore
from miaotui.model.encoder.heads import HeadConfig, PoolingConfig
from miaotui.model.encoder.pooling import Pooler, normalized
from miaotui.model.encoder.task_head import TaskHead, sigmoid
from miaotui.text.encoders.rerank_prompt import RerankPrompt
from miaotui.text.encoders.tokenizer import EncoderTokenizer

Ability = Literal["embed", "rerank", "classify", "tag", "fill_mask"]

_OF_HEADS: Mapping[str, Ability] = {
    "mlm": "fill_mask",
    "sequence": "classify",
    "token": "tag",
    "cross-encoder": "rerank",
}


@dataclass(frozen=True)
class LoadedEncoder:
    """One encoder in memory. ``pooler`` gives vectors as they are; ``normalize``: their length is to be 1."""

    path: Path
    vocab_size: int
    hidden_size: int
    tokenizer: EncoderTokenizer
    backend: EncoderBackend
    head: HeadConfig
    task_head: TaskHead | LogitScore | None
    pooler: Pooler | None
    normalize: bool = False
    rerank_prompt: RerankPrompt | None = None  # of a decoder that ranks
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: Similarity = "cosine"
    dimensions: tuple[int, ...] = ()  # that embeddings may be cut to, as the model was trained

    @property
    def abilities(self) -> tuple[Ability, ...]:
        """Return what it can be asked for."""
        return abilities_of(self.head, None if self.pooler is None else self.pooler.pooling)

    @property
    def width(self) -> int:
        """Return the length of an embedding, or of a token's vector; 0 for a model that gives none."""
        if self.head.kind in ("colbert", "splade"):
            return self.head.outputs
        return 0 if self.pooler is None else self.pooler.dimensions

    @property
    def max_tokens(self) -> int:
        """Return tokens of the longest text, special tokens included."""
        return self.backend.limits.tokens

    def require(self, *abilities: Ability) -> None:
        """Raise `RequestError` unless it has one of these abilities."""
        if not set(abilities) & set(self.abilities):
            raise lacking_ability(self.path.name, abilities[0], self.abilities)

    def logits(self, states: Floats) -> Floats:
        """Return the head's outputs for a text's states ``[n, hidden]``, see `TaskHead.logits`."""
        if self.task_head is None:
            raise RequestError(f"the model {self.path.name} has no head: choose a model that was trained for this")
        if isinstance(self.task_head, LogitScore):
            return np.array([self.task_head.logit(states)], np.float32)
        return self.task_head.logits(states)

    def probabilities(self, states: Floats) -> Floats:
        """Return a text's scores ``[labels]``: probabilities, or the logits of a regression."""
        logits = self.logits(states)
        return self.task_head.probabilities(logits) if isinstance(self.task_head, TaskHead) else sigmoid(logits)

    def embedding(
        self, states: Floats, dimensions: int | None = None, normalize: bool | None = None, prompt_rows: int = 0
    ) -> Floats:
        """Return a text's embedding, cut to the first ``dimensions``, its pooling without the first ``prompt_rows``.

        Its length is 1 if ``normalize`` says so; None: if the model's files do, or where it was cut.
        """
        if self.head.kind == "splade":
            return self.logits(states)
        self.require("embed")
        assert self.pooler is not None
        whole = self.pooler.embedding(states, prompt_rows=prompt_rows)
        cut = whole[:dimensions]
        if normalize is None:
            normalize = self.normalize or len(cut) < len(whole)
        return normalized(cut) if normalize else cut

    def identity(self) -> str:
        """Return a digest of the weights and of how the backend keeps them."""
        return content_key(self.path, dataclasses.asdict(self.backend.identity))

    def close(self) -> None:
        """Give the weights' memory back. Closing twice does nothing."""
        self.backend.close()


def abilities_of(head: HeadConfig, pooling: PoolingConfig | None) -> tuple[Ability, ...]:
    """Return what a model of this head and pooling can be asked for."""
    if head.kind == "colbert":  # one vector for each token: no embedding of a text
        return ("rerank",)
    if head.kind == "splade":
        return ("embed",)
    found = [_OF_HEADS[head.kind]] if head.kind in _OF_HEADS else []
    if pooling is not None:
        found.append("embed")
    return tuple(found)


def lacking_ability(name: str, ability: Ability, has: tuple[Ability, ...]) -> RequestError:
    """Return the error of an encoder that cannot do what it is asked for."""
    wanted = _WORDS[ability]
    able = ", ".join(_WORDS[each] for each in has) or "states alone: no file says how they become an embedding"
    return RequestError(f"the model {name} gives no {wanted} (it gives {able}): choose a model that was trained for it")


_WORDS: Mapping[Ability, str] = {
    "embed": "embeddings",
    "rerank": "rankings",
    "classify": "classes of texts",
    "tag": "labels of words",
    "fill_mask": "words for masks",
}
