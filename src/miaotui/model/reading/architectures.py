"""Supported architectures as data: one entry each; nothing else knows their names.

An entry holds only facts that model files leave unsaid or state in several ways. Every number in the file (sizes,
frequencies, windows) comes from the file. Invariant: a model whose architecture has no entry is refused. Sources:
each model's technical report and reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from miaotui.errors import UnsupportedModelError


class Windows(Enum):
    """Rule that says which layers have a sliding window."""

    NONE = "none"
    ALL = "all"
    EXCEPT_EVERY_NTH = "all but every n-th"
    LATER = "from a given layer on"
    NOPE = "those without position encoding"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Properties of every model of one architecture.

    ``defaults`` are values of ``config.json`` that hold where a published file lacks the key.
    """

    name: str
    title: str
    gguf: str | None  # general.architecture
    hf: str  # model_type
    activation: Literal["silu", "gelu_tanh"] = "silu"
    windows: Windows = Windows.NONE
    gguf_windows: Windows | None = None  # where GGUF says less; None: the same
    global_every: int = 0  # with EXCEPT_EVERY_NTH: layers n-1, 2n-1, … have no window
    nope_every: int = 0  # layers n-1, 2n-1, … have no position encoding
    qkv_bias: bool = False  # always; any file may have them besides
    o_bias: bool = True  # of the attention's output, where q, k and v have one
    qk_norm: bool = False
    post_norms: bool = False
    tied_head: bool = False  # unless the file says otherwise
    scaled_embedding: bool = False  # by the square root of the hidden size
    norm_offset: float = 0.0  # what safetensors norm weights lack; GGUF has it added
    local_theta: float | None = None  # rope theta of layers with a window, if it differs
    query_scalars: Mapping[int, int] = field(default_factory=dict)  # by layer count; GGUF lacks it
    interleaved_gguf: bool = False  # GGUF stores the rotated pairs of q and k next to each other
    fused: bool = False  # q, k, v are one matrix; gate and up are one
    gguf_names: Mapping[str, str] = field(default_factory=dict)  # of a layer's tensors that are named in another way
    defaults: Mapping[str, object] = field(default_factory=dict)

    def embedding_scale(self, hidden_size: int) -> float:
        """Return the factor of the embeddings, in float32.

        Gemma's references round the root to the type they compute in (in bfloat16, 25.298 becomes 25.25). The first
        norm undoes most of that: on Gemma 3 270M the two differ by a mean KL of 6e-6 nats. It is not rounded here, as
        in their float32 forms.
        """
        return math.sqrt(hidden_size) if self.scaled_embedding else 1.0


ARCHITECTURES = (
    Architecture(
        name="llama",
        title="Llama 1-3, SmolLM2, and Mistral as GGUF",
        gguf="llama",
        hf="llama",
        gguf_windows=Windows.ALL,  # Mistral
        interleaved_gguf=True,
    ),
    Architecture(
        name="mistral",
        title="Mistral",
        gguf=None,
        hf="mistral",
        windows=Windows.ALL,
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    Architecture(
        name="smollm3",
        title="SmolLM3",
        gguf="smollm3",
        hf="smollm3",
        windows=Windows.NOPE,
        nope_every=4,
        tied_head=True,
        interleaved_gguf=True,
        defaults={"rope_theta": 2e6},
    ),
    Architecture(
        name="qwen2",
        title="Qwen2 and Qwen2.5",
        gguf="qwen2",
        hf="qwen2",
        windows=Windows.LATER,
        gguf_windows=Windows.NONE,
        qkv_bias=True,
        defaults={"max_window_layers": 28},
    ),
    Architecture(
        name="qwen3",
        title="Qwen3 (dense)",
        gguf="qwen3",
        hf="qwen3",
        windows=Windows.LATER,
        gguf_windows=Windows.NONE,
        qk_norm=True,
        defaults={"head_dim": 128, "max_window_layers": 28},
    ),
    Architecture(
        name="qwen2_moe",
        title="Qwen1.5-MoE and Qwen2-MoE",
        gguf="qwen2moe",
        hf="qwen2_moe",
        windows=Windows.LATER,
        gguf_windows=Windows.NONE,
        qkv_bias=True,
        defaults={"max_window_layers": 28},
    ),
    Architecture(
        name="qwen3_moe",
        title="Qwen3-MoE",
        gguf="qwen3moe",
        hf="qwen3_moe",
        windows=Windows.LATER,
        gguf_windows=Windows.NONE,
        qk_norm=True,
        defaults={"max_window_layers": 0},
    ),
    Architecture(
        name="glm4_moe",
        title="GLM-4.5 and GLM-4.5-Air",
        gguf="glm4moe",
        hf="glm4_moe",
        o_bias=False,
        gguf_names={"ffn_norm": "post_attention_norm.weight"},
        defaults={"partial_rotary_factor": 0.5, "norm_topk_prob": True},
    ),
    Architecture(
        name="mixtral",
        title="Mixtral",
        gguf=None,
        hf="mixtral",
        windows=Windows.ALL,
        defaults={"num_key_value_heads": 8},
    ),
    Architecture(
        name="gemma2",
        title="Gemma 2",
        gguf="gemma2",
        hf="gemma2",
        activation="gelu_tanh",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=2,
        post_norms=True,
        tied_head=True,
        scaled_embedding=True,
        norm_offset=1.0,
        query_scalars={46: 144},  # 27B
        defaults={
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    Architecture(
        name="gemma3",
        title="Gemma 3 (text)",
        gguf="gemma3",
        hf="gemma3_text",
        activation="gelu_tanh",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=6,
        qk_norm=True,
        post_norms=True,
        tied_head=True,
        scaled_embedding=True,
        norm_offset=1.0,
        local_theta=10_000.0,
        query_scalars={62: 168},  # 27B
        defaults={
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "max_position_embeddings": 131_072,
            "rope_theta": 1e6,
            "sliding_window": 4096,
        },
    ),
    Architecture(
        name="phi3",
        title="Phi-3, Phi-3.5 and Phi-4",
        gguf="phi3",
        hf="phi3",
        windows=Windows.ALL,
        fused=True,
        defaults={"rms_norm_eps": 1e-5},
    ),
)


def architecture_of(name: str) -> Architecture:
    """Return the entry of that name, which a model's configuration has."""
    return next(entry for entry in ARCHITECTURES if entry.name == name)


def by_gguf_name(name: str) -> Architecture:
    """Return the entry for a GGUF file's ``general.architecture``; raises `UnsupportedModelError`."""
    return _find({entry.gguf: entry for entry in ARCHITECTURES if entry.gguf}, name)


NO_TEXT = (
    "which embeds, ranks or classifies texts and writes none: use `miaotui.load_encoder`, or serve it beside a chat "
    "model (`miaotui serve chat=MODEL embed=ENCODER`)"
)


def by_model_type(name: str) -> Architecture:
    """Return the entry for a ``config.json``'s ``model_type``; raises `UnsupportedModelError`."""
    return _find({entry.hf: entry for entry in ARCHITECTURES}, name)


def _find(known: Mapping[str, Architecture], name: str) -> Architecture:
    if name in known:
        return known[name]
    from miaotui.model.encoder.reading.families import is_encoder_type  # noqa: PLC0415 - only an error needs it

    if is_encoder_type(name) or name.endswith("-bert") or name.startswith("jina-bert"):
        raise UnsupportedModelError(f"the model is an encoder ({name[:80]}), {NO_TEXT}")
    titles = "; ".join(f"{key} ({entry.title})" for key, entry in known.items())
    raise UnsupportedModelError(
        f"the model's architecture is {name[:80]!r}, which is not supported. Known here: {titles}. "
        "Choose a model of one of these"
    )
