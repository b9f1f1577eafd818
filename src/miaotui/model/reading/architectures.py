"""Form of an architecture's entry; the entries are in `families`.

An entry holds only facts that model files leave unsaid or state in several ways. Every number in the file (sizes,
frequencies, windows) comes from the file. Knows no names of models. Invariant: an entry
holds for every model of its architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from miaotui.model.masked import MaskedConfig
from miaotui.model.reading.checks import require


class Windows(Enum):
    """Rule that says which layers have a sliding window."""

    NONE = "none"
    ALL = "all"
    EXCEPT_EVERY_NTH = "all but every n-th"
    LATER = "from a given layer on"
    NOPE = "those without position encoding"


@dataclass(frozen=True)
class MaskedTraits:
    """Traits of models that restore masked tokens, where ``config.json`` does not say.

    ``block`` 0: every position sees all. ``shifted`` as in `MaskedConfig`.
    """

    mask_id: int | None = None
    block: int = 0
    shifted: bool = False

    def config(
        self, key: str, mask_id: int | None, block: int | None = None, shifted: bool | None = None
    ) -> MaskedConfig:
        """Return the configuration of a file that says these values (None: it does not); ``key`` names the mask's.

        Raises `ModelFormatError` without a mask token.
        """
        token = self.mask_id if mask_id is None else mask_id
        require(token is not None, key, "the token that stands for a masked one", None)
        assert token is not None
        return MaskedConfig(token, block or self.block, self.shifted if shifted is None else shifted)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Properties of every model of one architecture.

    ``defaults`` are values of ``config.json`` that hold where a published file lacks the key.
    """

    name: str
    title: str
    gguf: str | None  # general.architecture
    hf: str | None  # model_type
    activation: Literal["silu", "gelu_tanh"] = "silu"
    windows: Windows = Windows.NONE
    gguf_windows: Windows | None = None  # where GGUF says less; None: the same
    global_every: int = 0  # with EXCEPT_EVERY_NTH: layers n-1, 2n-1, … have no window
    nope_every: int = 0  # layers n-1, 2n-1, … have no position encoding
    nope_global: bool = False  # no position encoding in layers without a window, where others have one
    rotated_share: float = 1.0  # of each head's values, where config.json does not say
    value_norm: bool = False  # RMS norm of each value head, without weights
    plain_scores: bool = False  # scores of attention are not scaled
    layer_parts: bool = False  # layers share keys, have inputs of their own, and so on (see `reading.layer_parts`)
    alibi_layers: int = 0  # models with so many layers have ALiBi instead of rotated positions
    unit_head_vocab: int = 0  # models with so many tokens divide each row of the head by its length
    sinks: bool = False  # a score without a value for each query head
    rounded_yarn: bool = True  # where GGUF does not say: the ends of YaRN's ramp are whole pairs
    qkv_bias: bool = False  # always; any file may have them besides
    bias_key: str = "attention_bias"  # of config.json: whether q, k and v have biases
    o_bias: bool = True  # o has one where they have
    norm: Literal["rms", "layer"] = "rms"
    eps_key: str = "rms_norm_eps"  # of config.json
    norm_bias: bool = False
    qk_norm: bool = False
    rotated_qk_norm: bool = False  # after rotation
    latent: bool = False  # attention through small vectors (see `reading.latent`)
    joint_qk_norm: bool = False  # over all heads together
    qk_norm_key: str | None = None  # of config.json, that says so for each model; GGUF shows it
    pre_norms: bool = True  # before attention and feed-forward
    post_norms: bool = False  # of what they give, before it is added
    parallel: bool = False  # attention and feed-forward read one norm, and both are added to what it read
    parallel_key: str | None = None  # of config.json and GGUF, that says so for each model
    gated: bool = True
    ffn_bias: bool = False  # up and down have one where q has
    head_bias: bool = False
    tied_head: bool = False  # unless the file says otherwise
    scaled_embedding: bool = False  # by the square root of the hidden size
    norm_offset: float = 0.0  # what safetensors norm weights lack; GGUF has it added
    local_theta: float | None = None  # rope theta of layers with a window, if it differs
    query_scalars: Mapping[int, int] = field(default_factory=dict)  # by layer count; GGUF lacks it
    interleaved_gguf: bool = False  # GGUF stores the rotated pairs of q and k next to each other
    interleaved_hf: bool = False  # safetensors do
    multipliers: Mapping[str, str] = field(default_factory=dict)  # keys of config.json; see `reading.multipliers`
    divided_logits: bool = False  # the factor of the logits divides
    names: Mapping[str, str] = field(default_factory=dict)  # of safetensors in a layer, where they differ
    gguf_names: Mapping[str, str] = field(default_factory=dict)  # and of GGUF
    outer_names: Mapping[str, str] = field(default_factory=dict)  # and outside of layers
    gguf_outer_names: Mapping[str, str] = field(default_factory=dict)  # and of GGUF there
    fused_qkv: str | None = None  # safetensors hold q, k and v in one matrix of this name
    fused_gguf: bool = True  # and GGUF does too, unless they are grouped
    grouped_qkv: bool = False  # whose rows are, for each key head, its query heads, the key's and the value's
    fused_gate_up: str | None = None  # and gate and up
    layers: str = "model.layers"  # of safetensors: where a layer's tensors lie
    keys: Mapping[str, str] = field(default_factory=dict)  # config.json's own names of transformers' keys
    expected: Mapping[str, object] = field(default_factory=dict)  # values that config.json must have, where it has any
    marker: str | None = None  # a key of config.json that tells it from others of the same model_type
    masked: MaskedTraits | None = None  # of models that restore masked tokens
    defaults: Mapping[str, object] = field(default_factory=dict)

    @property
    def traits(self) -> dict[str, Any]:
        """Return the values that a model's configuration has under the same names."""
        norms = ("norm", "norm_bias", "rotated_qk_norm", "joint_qk_norm", "value_norm", "pre_norms", "post_norms")
        return {name: getattr(self, name) for name in (*norms, "gated", "sinks", "head_bias")}

    def embedding_scale(self, hidden_size: int) -> float:
        """Return the factor of the embeddings, in float32.

        Gemma's references round the root to the type they compute in (in bfloat16, 25.298 becomes 25.25). The first
        norm undoes most of that: on Gemma 3 270M the two differ by a mean KL of 6e-6 nats. It is not rounded here, as
        in their float32 forms.
        """
        return math.sqrt(hidden_size) if self.scaled_embedding else 1.0
