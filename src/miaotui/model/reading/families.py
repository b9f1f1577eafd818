"""Supported architectures as data: one entry each; nothing else knows their names.

Invariant: a model whose architecture has no entry is refused by name. Sources: each model's technical report and
reference implementation, and for GGUF llama.cpp's converter.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.architectures import Architecture, Windows
from miaotui.model.reading.entries.gemma import GEMMA_ARCHITECTURES
from miaotui.model.reading.entries.masked import MASKED_ARCHITECTURES
from miaotui.model.reading.entries.mixtures import GRANITE_MULTIPLIERS, MIXTURE_ARCHITECTURES

ARCHITECTURES = (
    Architecture(
        name="llama",
        title="Llama 1-3, SmolLM2, Yi, Falcon 3, and Mistral and InternLM 3 as GGUF",
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
        title="Qwen2, Qwen2.5 and models distilled into them",
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
    *GEMMA_ARCHITECTURES,
    Architecture(
        name="phi3",
        title="Phi-3, Phi-3.5, Phi-4 and Phi-4-mini",
        gguf="phi3",
        hf="phi3",
        windows=Windows.ALL,
        fused_qkv="self_attn.qkv_proj",
        fused_gate_up="mlp.gate_up_proj",
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="glm",
        title="GLM-4-9B, and ChatGLM's form of it as GGUF",
        gguf="chatglm",
        hf="glm",
        qkv_bias=True,
        o_bias=False,
        rotated_share=0.5,
        interleaved_gguf=True,
        interleaved_hf=True,
        fused_gate_up="mlp.gate_up_proj",
        defaults={"head_dim": 128, "rms_norm_eps": 1.5625e-7, "attention_bias": True, "num_key_value_heads": 2},
    ),
    Architecture(
        name="chatglm",
        title="ChatGLM3, and GLM-4-9B in its form",
        gguf=None,
        hf="chatglm",
        bias_key="add_qkv_bias",
        o_bias=False,
        eps_key="layernorm_epsilon",
        rotated_share=0.5,
        interleaved_hf=True,
        layers="transformer.encoder.layers",
        names={"o": "self_attention.dense", "down": "mlp.dense_4h_to_h"},
        outer_names={
            "embed": "transformer.embedding.word_embeddings",
            "final_norm": "transformer.encoder.final_layernorm",
            "head": "transformer.output_layer",
        },
        fused_qkv="self_attention.query_key_value",
        fused_gate_up="mlp.dense_h_to_4h",
        keys={
            "num_hidden_layers": "num_layers",
            "vocab_size": "padded_vocab_size",
            "intermediate_size": "ffn_hidden_size",
            "head_dim": "kv_channels",
            "num_key_value_heads": "multi_query_group_num",
            "max_position_embeddings": "seq_length",
        },
        expected={
            "rmsnorm": True,
            "post_layer_norm": True,
            "apply_residual_connection_post_layernorm": False,
            "add_bias_linear": False,
            "multi_query_attention": True,
            "original_rope": True,
        },
        defaults={"layernorm_epsilon": 1e-5, "tie_word_embeddings": False},
    ),
    Architecture(
        name="glm4",
        title="GLM-4-0414 and GLM-Z1",
        gguf="glm4",
        hf="glm4",
        o_bias=False,
        post_norms=True,
        rotated_share=0.5,
        interleaved_gguf=True,
        interleaved_hf=True,
        names={
            "attn_post_norm": "post_self_attn_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "ffn_post_norm": "post_mlp_layernorm",
        },
        fused_gate_up="mlp.gate_up_proj",
        defaults={"head_dim": 128, "rms_norm_eps": 1.5625e-7, "attention_bias": True, "num_key_value_heads": 2},
    ),
    Architecture(
        name="ernie4_5",
        title="ERNIE 4.5 (dense)",
        gguf="ernie4_5",
        hf="ernie4_5",
        tied_head=True,
        bias_key="use_bias",
        interleaved_gguf=True,
        interleaved_hf=True,
        defaults={"head_dim": 128, "rms_norm_eps": 1e-5, "num_key_value_heads": 2},
    ),
    Architecture(
        name="granite",
        title="Granite 3",
        gguf="granite",
        hf="granite",
        interleaved_gguf=True,
        multipliers=GRANITE_MULTIPLIERS,
        divided_logits=True,
    ),
    Architecture(
        name="minicpm",
        title="MiniCPM 1, 2 and 4",
        gguf="minicpm",
        hf="minicpm",
        tied_head=True,
        interleaved_gguf=True,
        multipliers={"embedding": "scale_emb", "depth": "scale_depth", "width": "dim_model_base"},
        divided_logits=True,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="minicpm3",
        title="MiniCPM 3",
        gguf="minicpm3",
        hf="minicpm3",
        latent=True,
        tied_head=True,
        multipliers={"embedding": "scale_emb", "depth": "scale_depth", "width": "dim_model_base"},
        divided_logits=True,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="youtu", title="Youtu-LLM", gguf=None, hf="youtu", latent=True, tied_head=True, interleaved_hf=True
    ),
    Architecture(
        name="hunyuan_v1_dense",
        title="Hunyuan (dense)",
        gguf="hunyuan-dense",
        hf="hunyuan_v1_dense",
        rotated_qk_norm=True,
        names={"q_norm": "self_attn.query_layernorm", "k_norm": "self_attn.key_layernorm"},
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="internlm2",
        title="InternLM 2 and 2.5",
        gguf="internlm2",
        hf="internlm2",
        bias_key="bias",
        interleaved_gguf=True,
        names={
            "attn_norm": "attention_norm",
            "o": "attention.wo",
            "ffn_norm": "ffn_norm",
            "gate": "feed_forward.w1",
            "up": "feed_forward.w3",
            "down": "feed_forward.w2",
        },
        outer_names={"embed": "model.tok_embeddings", "head": "output"},
        fused_qkv="attention.wqkv",
        grouped_qkv=True,
    ),
    Architecture(
        name="internlm3",
        title="InternLM 3",
        gguf=None,
        hf="internlm3",
        bias_key="qkv_bias",
        o_bias=False,
        defaults={"head_dim": 128, "rms_norm_eps": 1e-5, "num_key_value_heads": 2},
    ),
    Architecture(
        name="baichuan",
        title="Baichuan and Baichuan 2, 7B and 13B",
        gguf="baichuan",
        hf="baichuan",
        interleaved_gguf=True,
        fused_qkv="self_attn.W_pack",
        fused_gguf=False,
        alibi_layers=40,  # 13B
        unit_head_vocab=125_696,  # Baichuan 2
        keys={"max_position_embeddings": "model_max_length"},
    ),
    Architecture(
        name="stablelm",
        title="StableLM 3B, StableLM 2 1.6B",
        gguf="stablelm",
        hf="stablelm",
        norm="layer",
        norm_bias=True,
        eps_key="layer_norm_eps",
        bias_key="use_qkv_bias",
        o_bias=False,
        parallel_key="use_parallel_residual",
        rotated_share=0.25,
        defaults={"layer_norm_eps": 1e-5},
    ),
    Architecture(
        name="starcoder2",
        title="StarCoder 2",
        gguf="starcoder2",
        hf="starcoder2",
        activation="gelu_tanh",
        windows=Windows.ALL,
        tied_head=True,
        norm="layer",
        norm_bias=True,
        eps_key="norm_epsilon",
        bias_key="use_bias",
        gated=False,
        ffn_bias=True,
        names={"up": "mlp.c_fc", "down": "mlp.c_proj"},
        defaults={"norm_epsilon": 1e-5, "use_bias": True, "num_key_value_heads": 2},
    ),
    Architecture(
        name="phi",
        title="Phi-1.5 and Phi-2",
        gguf="phi2",
        hf="phi",
        activation="gelu_tanh",
        norm="layer",
        norm_bias=True,
        eps_key="layer_norm_eps",
        parallel=True,
        rotated_share=0.5,
        gated=False,
        ffn_bias=True,
        head_bias=True,
        names={"o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
        outer_names={"final_norm": "model.final_layernorm"},
        defaults={"layer_norm_eps": 1e-5, "attention_bias": True},
    ),
    Architecture(
        name="cohere",
        title="Command-R and Aya",
        gguf="command-r",
        hf="cohere",
        tied_head=True,
        norm="layer",
        eps_key="layer_norm_eps",
        parallel=True,
        interleaved_gguf=True,
        interleaved_hf=True,
        multipliers={"logits": "logit_scale"},
        defaults={"layer_norm_eps": 1e-5, "logit_scale": 0.0625},
    ),
    Architecture(
        name="cohere2",
        title="Command-R7B and Command A",
        gguf="cohere2",
        hf="cohere2",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=4,
        nope_global=True,
        tied_head=True,
        norm="layer",
        eps_key="layer_norm_eps",
        parallel=True,
        interleaved_gguf=True,
        interleaved_hf=True,
        multipliers={"logits": "logit_scale"},
        defaults={"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "sliding_window": 4096},
    ),
    Architecture(
        name="exaone4",
        title="EXAONE 4",
        gguf="exaone4",
        hf="exaone4",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=4,
        nope_global=True,
        qk_norm=True,
        pre_norms=False,
        post_norms=True,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="olmo2",
        title="OLMo 2",
        gguf="olmo2",
        hf="olmo2",
        joint_qk_norm=True,
        pre_norms=False,
        post_norms=True,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="seed_oss",
        title="Seed-OSS",
        gguf="seed_oss",
        hf="seed_oss",
        gguf_names={"ffn_norm": "post_attention_norm"},
        qkv_bias=True,
        o_bias=False,
        defaults={"head_dim": 128, "num_key_value_heads": 8},
    ),
    *MIXTURE_ARCHITECTURES,
    *MASKED_ARCHITECTURES,
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


def by_model_type(name: str, values: Mapping[str, object] = MappingProxyType({})) -> Architecture:
    """Return the entry for a ``config.json``'s ``model_type``; raises `UnsupportedModelError`.

    Of several entries ``values``, the file's, decide by their markers.
    """
    entries = sorted(ARCHITECTURES, key=lambda entry: entry.marker is None, reverse=True)  # those with a marker last
    return _find({entry.hf: entry for entry in entries if entry.hf and (entry.marker or name) in {*values, name}}, name)


def _find(known: Mapping[str, Architecture], name: str) -> Architecture:
    if name in known:
        return known[name]
    from miaotui.model.encoder.reading.families import is_encoder_type  # noqa: PLC0415 - only an error needs it

    if is_encoder_type(name) or name.endswith("-bert") or name.startswith("jina-bert"):
        raise UnsupportedModelError(f"the model is an encoder ({name[:80]}), {NO_TEXT}")
    raise UnsupportedModelError(
        f"the model's architecture is {name[:80]!r}, which is not supported. Known here: {', '.join(known)}. "
        "Choose a model of one of these; docs/models.md says which models they are"
    )
