"""Architectures with mixtures of experts: one entry each, as in `families`; their experts are in `mixtures`.

Owns what their files leave unsaid besides the experts. Invariant: that of `families`. Sources: as there.
"""

from __future__ import annotations

from miaotui.model.reading.architectures import Architecture, Windows

GRANITE_MULTIPLIERS = {
    "embedding": "embedding_multiplier",
    "residual": "residual_multiplier",
    "attention": "attention_multiplier",
    "logits": "logits_scaling",
}

MIXTURE_ARCHITECTURES = (
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
        qk_norm_key="use_qk_norm",
        gguf_names={"ffn_norm": "post_attention_norm"},
        defaults={"partial_rotary_factor": 0.5, "norm_topk_prob": True},
    ),
    Architecture(
        name="gpt_oss",
        title="gpt-oss",
        gguf="gpt-oss",
        hf="gpt_oss",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=2,
        sinks=True,
        rounded_yarn=False,
        gguf_names={"ffn_norm": "post_attention_norm"},
        defaults={"attention_bias": True},
    ),
    Architecture(
        name="ernie4_5_moe",
        title="ERNIE 4.5 with experts (21B-A3B)",
        gguf="ernie4_5-moe",
        hf="ernie4_5_moe",
        tied_head=True,
        bias_key="use_bias",
        interleaved_gguf=True,
        interleaved_hf=True,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 5e5, "moe_num_shared_experts": 2, "moe_layer_start_index": 1},
    ),
    Architecture(
        name="granitemoe",
        title="Granite 3 with experts (1B-A400M, 3B-A800M)",
        gguf="granitemoe",
        hf="granitemoe",
        interleaved_gguf=True,
        multipliers=GRANITE_MULTIPLIERS,
        divided_logits=True,
    ),
    Architecture(
        name="deepseek_v2",
        title="DeepSeek-V2 and V2-Lite, and as GGUF V3, Moonlight and GLM-4.7-Flash",
        gguf="deepseek2",
        hf="deepseek_v2",
        latent=True,
        interleaved_gguf=True,
        interleaved_hf=True,
    ),
    Architecture(
        name="deepseek_v3",
        title="DeepSeek-V3 and R1, Moonlight",
        gguf=None,
        hf="deepseek_v3",
        latent=True,
        interleaved_hf=True,
        defaults={"first_k_dense_replace": 3, "norm_topk_prob": True, "routed_scaling_factor": 2.5},
    ),
    Architecture(
        name="glm4_moe_lite",
        title="GLM-4.7-Flash",
        gguf=None,
        hf="glm4_moe_lite",
        latent=True,
        interleaved_hf=True,
        defaults={"rms_norm_eps": 1e-5, "norm_topk_prob": True, "routed_scaling_factor": 1.8},
    ),
    Architecture(
        name="olmoe", title="OLMoE", gguf="olmoe", hf="olmoe", joint_qk_norm=True, defaults={"rms_norm_eps": 1e-5}
    ),
    Architecture(
        name="mixtral",
        title="Mixtral",
        gguf=None,
        hf="mixtral",
        windows=Windows.ALL,
        defaults={"num_key_value_heads": 8},
    ),
)
