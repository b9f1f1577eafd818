"""The models' reference: transformers in float32 on exactly the weights that a file decodes to.

Needs torch and transformers. Also the text to compare on, and the figures of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.model.config import ModelConfig
from miaotui.model.reading.files import ModelFiles

Logits = NDArray[np.float32]

_ROWS = 64  # compared at a time


def english() -> str:
    """Some 18,000 words: the paragraphs of plain prose in Python's own documentation."""
    from pydoc_data.topics import topics  # noqa: PLC0415  (700 kB)

    return "\n\n".join(dict.fromkeys(_prose(topics)))


def _prose(topics: dict[str, str]) -> Iterator[str]:
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            lines = paragraph.strip("\n").split("\n")
            flush = all(line and not line[0].isspace() for line in lines)
            if flush and paragraph.endswith(".") and "::=" not in paragraph:
                yield " ".join(lines)


def windows(tokens: list[int], count: int, length: int, first: tuple[int, ...]) -> list[list[int]]:
    """``count`` stretches of ``length`` tokens spread over a text, each beginning with ``first``."""
    step = (len(tokens) - length) // (count - 1)
    return [[*first, *tokens[i * step : i * step + length - len(first)]] for i in range(count)]


def reference_model(files: ModelFiles) -> Any:
    """A Llama or Gemma 3 of transformers, in float32, with the weights of ``files``."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    config = AutoConfig.for_model(**_values(files.config))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    offset = 1.0 if files.config.architecture.startswith("gemma") else 0.0
    state = {}
    for name, tensor in files.tensors.items():
        values = torch.from_numpy(np.array(tensor.float32()))
        state[_name(name, files.config)] = values - offset if "norm" in name else values
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name == "lm_head.weight" for name in missing), missing
    model.tie_weights()
    return model


def _values(config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied_head,
    }
    if config.architecture.startswith("gemma"):
        assert config.local_rope is not None
        values |= {
            "model_type": "gemma3_text",
            "sliding_window": max(config.windows),
            "layer_types": ["sliding_attention" if window else "full_attention" for window in config.windows],
            "query_pre_attn_scalar": round(config.attention_scale**-2),
            "rope_local_base_freq": config.local_rope.theta,
            "hidden_activation": "gelu_pytorch_tanh",
        }
    return values


def _name(name: str, config: ModelConfig) -> str:
    if not name.startswith("layers."):
        return {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}[name] + ".weight"
    _, layer, part = name.split(".")
    if part in ("q", "k", "v", "o"):
        part = f"self_attn.{part}_proj"
    elif part in ("gate", "up", "down"):
        part = f"mlp.{part}_proj"
    elif part in ("q_norm", "k_norm"):
        part = f"self_attn.{part}"
    else:
        before_ffn = "pre_feedforward" if config.post_norms else "post_attention"
        part = {
            "attn_norm": "input",
            "attn_post_norm": "post_attention",
            "ffn_norm": before_ffn,
            "ffn_post_norm": "post_feedforward",
        }[part] + "_layernorm"
    return f"model.layers.{layer}.{part}.weight"


@dataclass(frozen=True)
class Agreement:
    """How close one model's predictions are to the reference's."""

    tokens: int
    top1: float  # share of positions whose likeliest token is the same
    mean_kl: float  # of the reference's distribution from ours, nats
    perplexity: float  # ours
    perplexity_ratio: float  # ours over the reference's

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens: top-1 agreement {self.top1:.2%}, mean KL {self.mean_kl:.5f} "
            f"nats, perplexity {self.perplexity:.3f}, {self.perplexity_ratio - 1:+.3%}"
        )


class Comparison:
    """Adds up windows of logits ``[n, vocab]`` of ours and of the reference, for the same tokens."""

    def __init__(self) -> None:
        self._positions = self._same = self._predicted = 0
        self._kl = self._ours_nats = self._reference_nats = 0.0

    def add(self, tokens: list[int], ours: Logits, reference: Logits) -> None:
        """Count one stretch of text; its last row predicts nothing that is known."""
        following = np.array([*tokens[1:], 0])
        for start in range(0, len(tokens), _ROWS):  # float64 takes memory
            part = slice(start, start + _ROWS)
            self._add(following[part], ours[part], reference[part])
        self._predicted += len(tokens) - 1
        last = slice(-1, None)
        self._ours_nats += float(_log_softmax(ours[last])[0, 0])
        self._reference_nats += float(_log_softmax(reference[last])[0, 0])

    def _add(self, following: NDArray[np.int64], ours: Logits, reference: Logits) -> None:
        log_ours, log_reference = _log_softmax(ours), _log_softmax(reference)
        at = np.arange(len(following)), following
        self._positions += len(following)
        self._same += int((ours.argmax(axis=1) == reference.argmax(axis=1)).sum())
        self._kl += float((np.exp(log_reference) * (log_reference - log_ours)).sum())
        self._ours_nats -= float(log_ours[at].sum())
        self._reference_nats -= float(log_reference[at].sum())

    @property
    def agreement(self) -> Agreement:
        return Agreement(
            tokens=self._positions,
            top1=self._same / self._positions,
            mean_kl=self._kl / self._positions,
            perplexity=float(np.exp(self._ours_nats / self._predicted)),
            perplexity_ratio=float(np.exp((self._ours_nats - self._reference_nats) / self._predicted)),
        )


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result
