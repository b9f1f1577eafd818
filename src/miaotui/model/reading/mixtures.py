"""Mixtures of experts in model files: the keys that declare them, and where their tensors lie.

One entry for each architecture that has experts; nothing else knows these names. Follows transformers' configurations
and the conventions of llama.cpp's converter. Invariant: a way of routing that the forward pass lacks is refused by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miaotui.errors import UnsupportedModelError
from miaotui.model.config import MAX_LAYERS, MAX_WIDTH, ExpertsConfig
from miaotui.model.experts import MAX_CHOSEN, MAX_EXPERTS, MAX_GROUPS, SWIGLU_LIMIT, ExpertGroups, Scores
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.sources import TensorSource

_GATING: Mapping[int, Scores] = {0: "softmax", 1: "softmax", 2: "sigmoid", 3: "softmax"}
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # config.json's names
_CHOSEN = ("num_experts_per_tok", "moe_k", "top_k_experts")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Properties of the experts of one architecture that its files leave unsaid."""

    names: Mapping[str, str]  # of safetensors by canonical name, after ``model.layers.N.``; {} is an expert's number
    normalized: bool | None = None  # None: config.json says it (norm_topk_prob)
    gguf_normalized: bool = True  # where the metadata say nothing
    scores: Scores = "softmax"
    biased: bool | None = False  # None: where scores are sigmoids
    size: str = "moe_intermediate_size"
    shared_gate: bool = False
    expert_bias: bool = False  # of the router and of each expert; with the clamped activation
    beside: bool = False  # of the usual feed-forward part; files of the architecture may have no experts
    optional: bool = False  # a GGUF file of the architecture may have no experts


def _mlp_names(
    prefix: str = "mlp", gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> dict[str, str]:
    each = f"{prefix}.experts.{{}}."
    return {
        "router": f"{prefix}.gate.weight",
        "expert_gate": f"{each}{gate}.weight",
        "expert_up": f"{each}{up}.weight",
        "expert_down": f"{each}{down}.weight",
    }


def _shared_names(prefix: str) -> dict[str, str]:
    return {f"shared_{part}": f"{prefix}.{part}_proj.weight" for part in ("gate", "up", "down")}


_CHOICE_BIAS = {"router_bias": "mlp.gate.e_score_correction_bias"}
MIXTURES: Mapping[str, Mixture] = {
    "qwen3_moe": Mixture(names=_mlp_names()),
    "qwen2_moe": Mixture(
        names=_mlp_names() | _shared_names("mlp.shared_expert") | {"shared_router": "mlp.shared_expert_gate.weight"},
        gguf_normalized=False,
        shared_gate=True,
    ),
    "mixtral": Mixture(
        names=_mlp_names("block_sparse_moe", "w1", "w3", "w2"), normalized=True, size="intermediate_size"
    ),
    "gpt_oss": Mixture(
        names={
            "router": "mlp.router.weight",
            "router_logit_bias": "mlp.router.bias",
            **{f"expert_{part}": f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")},
            **{f"expert_{part}_bias": f"mlp.experts.{part}_proj_bias" for part in ("gate", "up", "down")},
        },
        normalized=True,
        size="intermediate_size",
        expert_bias=True,
    ),
    "gemma4": Mixture(
        names={
            "router": "router.proj.weight",
            "router_scale": "router.scale",
            "route_scale": "router.per_expert_scale",
            **{f"expert_{part}": f"experts.{{}}.{part}_proj.weight" for part in ("gate", "up", "down")},
        },
        normalized=True,
        optional=True,
        beside=True,
    ),
    "granitemoe": Mixture(
        names=_mlp_names("block_sparse_moe") | {"router": "block_sparse_moe.router.layer.weight"},
        normalized=True,
        size="intermediate_size",
    ),
    "olmoe": Mixture(names=_mlp_names(), gguf_normalized=False, size="intermediate_size"),
    "rnd1": Mixture(names=_mlp_names(), normalized=True),
    "llada_moe": Mixture(names=_mlp_names(), gguf_normalized=False, size="expert_intermediate_size"),
    "ernie4_5_moe": Mixture(
        names=_mlp_names()
        | _shared_names("mlp.shared_experts")
        | {"router_bias": "mlp.moe_statics.e_score_correction_bias"},
        normalized=True,
        biased=True,
    ),
    "deepseek_v2": Mixture(
        names=_mlp_names() | _shared_names("mlp.shared_experts") | _CHOICE_BIAS,
        gguf_normalized=False,
        biased=None,
        optional=True,
    ),
    **dict.fromkeys(
        ("deepseek_v3", "glm4_moe_lite"),
        Mixture(
            names=_mlp_names() | _shared_names("mlp.shared_experts") | _CHOICE_BIAS,
            normalized=None,
            scores="sigmoid",
            biased=True,
        ),
    ),
    "glm4_moe": Mixture(
        names=_mlp_names() | _shared_names("mlp.shared_experts") | _CHOICE_BIAS, scores="sigmoid", biased=True
    ),
}
GGUF_MIXTURES = {**MIXTURES, "llama": MIXTURES["mixtral"]}  # a Llama with experts is Mixtral

GGUF_NAMES = {
    "router": "ffn_gate_inp.weight",
    "router_bias": "exp_probs_b.bias",
    "expert_gate": "ffn_gate_exps.weight",
    "expert_up": "ffn_up_exps.weight",
    "expert_down": "ffn_down_exps.weight",
    "router_logit_bias": "ffn_gate_inp.bias",
    "expert_gate_bias": "ffn_gate_exps.bias",
    "expert_up_bias": "ffn_up_exps.bias",
    "expert_down_bias": "ffn_down_exps.bias",
    "router_scale": "ffn_gate_inp.scale",
    "route_scale": "ffn_down_exps.scale",
    "shared_router": "ffn_gate_inp_shexp.weight",
    "shared_gate": "ffn_gate_shexp.weight",
    "shared_up": "ffn_up_shexp.weight",
    "shared_down": "ffn_down_shexp.weight",
}


def experts_from_hf(fields: Fields, architecture: str, n_layers: int) -> ExpertsConfig | None:
    """Read the experts that ``config.json`` declares; None if it declares none.

    Raises `UnsupportedModelError` for experts that the architecture or the forward pass lacks.
    """
    count_key = next((key for key in _COUNTS if fields.get(key)), None)
    mixture = MIXTURES.get(architecture)
    if mixture and mixture.beside and not fields.flag("enable_moe_block", False):
        return None
    if count_key is None or (mixture is None and fields.get(count_key) == 1):  # one expert is a plain network
        _require_plain(mixture, fields.where, f"none of {', '.join(_COUNTS)} is there")
        return None
    if mixture is None:
        raise UnsupportedModelError(
            f"the model has a mixture of experts ({count_key} in {fields.where}), which {architecture} does not have "
            "here: choose another model"
        )
    limit = fields.number("swiglu_limit", SWIGLU_LIMIT)
    require(limit == SWIGLU_LIMIT, "swiglu_limit", f"{SWIGLU_LIMIT}, the only one that is supported", limit)
    size = fields.count(mixture.size, MAX_WIDTH)
    chosen_key = next((key for key in _CHOSEN if fields.has(key)), _CHOSEN[0])
    normalized = fields.flag("norm_topk_prob", False) if mixture.normalized is None else mixture.normalized
    return ExpertsConfig(
        layers=_hf_layers(fields, n_layers),
        count=fields.count(count_key, MAX_EXPERTS),
        chosen=fields.count(chosen_key, MAX_CHOSEN),
        size=size,
        scores=mixture.scores,
        normalized=normalized,
        scale=fields.number("routed_scaling_factor", 1.0),
        biased=_is_biased(mixture, mixture.scores),
        groups=_hf_groups(fields, mixture.scores),
        shared_size=_hf_shared_size(fields, size),
        shared_gate=mixture.shared_gate,
        beside=mixture.beside,
        **_biases(mixture),
    )


def _is_biased(mixture: Mixture, scores: Scores) -> bool:
    return scores == "sigmoid" if mixture.biased is None else mixture.biased


def _hf_groups(fields: Fields, scores: Scores) -> ExpertGroups:
    """Return the groups that a row chooses first; a file may count some and say that they are not used."""
    if fields.get("topk_method") == "greedy":
        return ExpertGroups()
    return _groups(fields, "n_group", "topk_group", scores)


def _groups(fields: Fields, count: str, kept: str, scores: Scores) -> ExpertGroups:
    """Return groups: DeepSeek-V2 ranks them by the highest score, V3 (sigmoids) by the sum of the highest two."""
    groups = fields.size(count, MAX_GROUPS)
    if groups <= 1:
        return ExpertGroups()
    return ExpertGroups(groups, fields.count(kept, MAX_GROUPS, groups), 2 if scores == "sigmoid" else 1)


def _biases(mixture: Mixture) -> dict[str, bool]:
    return dict.fromkeys(("router_bias", "expert_bias", "clamped"), mixture.expert_bias)


def _hf_shared_size(fields: Fields, size: int) -> int:
    """Return the width of the shared expert: given as such, or as a number of experts."""
    for key in ("n_shared_experts", "moe_num_shared_experts"):
        if fields.has(key):
            return fields.size(key, MAX_EXPERTS) * size
    return fields.size("shared_expert_intermediate_size", MAX_WIDTH)


def _hf_layers(fields: Fields, n_layers: int) -> tuple[bool, ...]:
    """Return which layers have experts, by any of the rules that configurations have."""
    first = fields.size("first_k_dense_replace", MAX_LAYERS) or fields.size("moe_layer_start_index", MAX_LAYERS)
    last = fields.get("moe_layer_end_index")
    end = last + 1 if isinstance(last, int) and last >= 0 else n_layers
    step = fields.count("decoder_sparse_step", MAX_LAYERS, fields.count("moe_layer_interval", MAX_LAYERS, 1))
    plain = fields.sequence("mlp_only_layers") or []
    kinds = fields.sequence("mlp_layer_types")
    if kinds is not None:
        require(len(kinds) == n_layers, "mlp_layer_types", f"{n_layers} values, one per layer", len(kinds))
        return tuple(kind == "sparse" for kind in kinds)
    sparse = fields.get("moe_layer_freq")
    if isinstance(sparse, list):
        require(len(sparse) == n_layers, "moe_layer_freq", f"{n_layers} values, one per layer", len(sparse))
        return tuple(bool(each) for each in sparse)
    spacing = fields.count("moe_layer_freq", MAX_LAYERS, 1)
    require(spacing == 1, "moe_layer_freq", "1, the only one that is supported", spacing)
    return tuple(first <= n < end and (n + 1) % step == 0 and n not in plain for n in range(n_layers))


def experts_from_gguf(fields: Fields, architecture: str, n_layers: int) -> ExpertsConfig | None:
    """Read the experts that GGUF metadata declare; None if they declare none. Raises as `experts_from_hf`."""
    mixture = GGUF_MIXTURES.get(architecture)
    if not fields.size("expert_count", MAX_EXPERTS):
        if mixture is None or not mixture.optional:
            _require_plain(MIXTURES.get(architecture), fields.where, "expert_count is not there")
        return None
    if mixture is None:
        raise UnsupportedModelError(
            f"the model has a mixture of experts (expert_count in {fields.where}), which {architecture} does not have "
            "here: choose another model"
        )
    gating = fields.size("expert_gating_func", 16)
    if gating not in _GATING:
        raise UnsupportedModelError(
            f"the model's router is of kind {gating} (expert_gating_func), unknown here: choose another model"
        )
    scores = _GATING[gating] if gating else mixture.scores
    first = fields.size("leading_dense_block_count", n_layers)
    step = fields.count("interleave_moe_layer_step", MAX_LAYERS, 1)
    size = fields.count("expert_feed_forward_length", MAX_WIDTH, fields.count("feed_forward_length", MAX_WIDTH))
    shared = fields.size("expert_shared_count", MAX_EXPERTS) * size
    return ExpertsConfig(
        layers=tuple(n >= first and (n + 1) % step == 0 for n in range(n_layers)),
        count=fields.count("expert_count", MAX_EXPERTS),
        chosen=fields.count("expert_used_count", MAX_CHOSEN),
        size=size,
        scores=scores,
        normalized=fields.flag("expert_weights_norm", mixture.gguf_normalized),
        scale=fields.number("expert_weights_scale", 0.0) or 1.0,
        biased=_is_biased(mixture, scores),
        groups=_groups(fields, "expert_group_count", "expert_group_used_count", scores),
        shared_size=fields.size("expert_shared_feed_forward_length", MAX_WIDTH) or shared,
        shared_gate=mixture.shared_gate,
        beside=mixture.beside,
        **_biases(mixture),
    )


def _require_plain(mixture: Mixture | None, where: str, missing: str) -> None:
    """Raise `ModelFormatError` where an architecture has experts and the file counts none."""
    require(mixture is None, f"number of experts ({where})", "at least 1 in a mixture of experts", missing)


def expert_sources(experts: ExpertsConfig, architecture: str, prefix: str, is_gguf: bool) -> dict[str, TensorSource]:
    """Return the sources of one layer's router and experts, whose stored names begin with ``prefix``."""
    names = GGUF_NAMES if is_gguf else MIXTURES[architecture].names
    return {
        name: TensorSource(prefix + stored, experts=experts.count if name.startswith("expert_") else 0)
        for name, stored in names.items()
    }
