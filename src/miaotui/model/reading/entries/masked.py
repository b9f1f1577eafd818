"""Architectures that restore masked tokens: one entry each, as in `families`.

Each is the layers of a family of decoders with another pattern of attention. Invariant: that of `families`. Sources:
the reference code and configurations of LLaDA, LLaDA-MoE (Zhu et al., 2025), Dream, RND1 (Chandrasegaran et al., 2025),
and of dLLM's conversions of Qwen decoders.
"""

from __future__ import annotations

from miaotui.model.reading.architectures import Architecture, MaskedTraits

QWEN3_MASK = 151_669  # the first id behind Qwen3's own tokens
NO_WINDOWS = {"use_sliding_window": False}

MASKED_ARCHITECTURES = (
    Architecture(
        name="llada",
        title="LLaDA",
        gguf="llada",
        interleaved_gguf=True,
        hf="llada",
        masked=MaskedTraits(mask_id=126_336),
        layers="model.transformer.blocks",
        outer_names={
            "embed": "model.transformer.wte",
            "final_norm": "model.transformer.ln_f",
            "head": "model.transformer.ff_out",
        },
        names={
            "attn_norm": "attn_norm",
            "q": "q_proj",
            "k": "k_proj",
            "v": "v_proj",
            "o": "attn_out",
            "ffn_norm": "ff_norm",
            "gate": "ff_proj",
            "up": "up_proj",
            "down": "ff_out",
        },
        keys={
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "num_key_value_heads": "n_kv_heads",
            "intermediate_size": "mlp_hidden_size",
            "max_position_embeddings": "max_sequence_length",
            "vocab_size": "embedding_size",
            "tie_word_embeddings": "weight_tying",
        },
        expected={"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True},
        bias_key="include_qkv_bias",
        o_bias=False,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        name="llada_moe",
        title="LLaDA-MoE",
        gguf="llada-moe",
        hf="llada",
        marker="num_experts",
        masked=MaskedTraits(mask_id=156_895),
        qk_norm_key="qk_layernorm",
        defaults={"rms_norm_eps": 1e-5, "norm_topk_prob": False},
    ),
    Architecture(
        name="dream",
        title="Dream",
        gguf="dream",
        hf="Dream",
        masked=MaskedTraits(mask_id=151_666, shifted=True),
        expected=NO_WINDOWS,
        qkv_bias=True,
    ),
    Architecture(
        name="a2d_qwen2",
        title="Qwen2.5 made to restore masked tokens",
        gguf=None,
        hf="a2d-qwen2",
        masked=MaskedTraits(),
        expected=NO_WINDOWS,
        qkv_bias=True,
    ),
    Architecture(
        name="a2d_qwen3",
        title="Qwen3-0.6B-diffusion (mdlm and bd3lm)",
        gguf=None,
        hf="a2d-qwen3",
        masked=MaskedTraits(mask_id=QWEN3_MASK),
        expected=NO_WINDOWS,
        qk_norm=True,
        defaults={"head_dim": 128},
    ),
    Architecture(
        name="rnd1",
        title="RND1",
        gguf="rnd1",
        hf="rnd1",
        masked=MaskedTraits(mask_id=QWEN3_MASK),
        expected=NO_WINDOWS,
        qk_norm=True,
        defaults={"head_dim": 128},
    ),
)
