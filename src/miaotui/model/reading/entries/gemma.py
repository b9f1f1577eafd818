"""Gemma's architectures as data, in the form of `families`.

Sources: the technical reports of Gemma 2 (2024), Gemma 3 (2025), Gemma 3n (2025) and Gemma 4 (2026), transformers'
reference implementations, and for GGUF llama.cpp's converter. Invariant: as in `architectures`.
"""

from __future__ import annotations

from miaotui.model.reading.architectures import Architecture, Windows

_INPUTS = {
    "input_gate": "per_layer_input_gate",
    "input_projection": "per_layer_projection",
    "input_norm": "post_per_layer_input_norm",
}
_GGUF_INPUTS = {"input_gate": "inp_gate", "input_projection": "proj", "input_norm": "post_norm"}
_OUTER = {
    "layer_embed": "model.embed_tokens_per_layer",
    "layer_projection": "model.per_layer_model_projection",
    "layer_projection_norm": "model.per_layer_projection_norm",
}
_GGUF_OUTER = {
    "layer_embed": "per_layer_token_embd",
    "layer_projection": "per_layer_model_proj",
    "layer_projection_norm": "per_layer_proj_norm",
}

GEMMA_ARCHITECTURES = (
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
        name="gemma3n",
        title="Gemma 3n (text)",
        gguf="gemma3n",
        hf="gemma3n_text",
        activation="gelu_tanh",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=5,
        qk_norm=True,
        value_norm=True,
        plain_scores=True,
        post_norms=True,
        tied_head=True,
        scaled_embedding=True,
        local_theta=10_000.0,
        layer_parts=True,
        names={
            **_INPUTS,
            "altup_norm": "altup.router_norm",
            "altup_router": "altup.modality_router",
            "altup_predict": "altup.prediction_coefs",
            "altup_correct": "altup.correction_coefs",
            "altup_scale": "altup.correct_output_scale",
            "laurel_left": "laurel.linear_left",
            "laurel_right": "laurel.linear_right",
            "laurel_norm": "laurel.post_laurel_norm",
        },
        gguf_names={
            **_GGUF_INPUTS,
            "altup_norm": "altup_router_norm",
            "altup_router": "altup_router",
            "altup_predict": "altup_predict_coef",
            "altup_correct": "altup_correct_coef",
            "altup_scale": "altup_correct_scale",
            "laurel_left": "laurel_l",
            "laurel_right": "laurel_r",
            "laurel_norm": "laurel_post_norm",
        },
        outer_names={
            **_OUTER,
            "stream_up": "model.altup_projections.{}",
            "stream_down": "model.altup_unembed_projections.{}",
        },
        gguf_outer_names={**_GGUF_OUTER, "stream_up": "altup_proj", "stream_down": "altup_unembd_proj"},
        expected={"altup_active_idx": 0, "altup_correct_scale": True},
        defaults={
            "vocab_size": 262_400,
            "vocab_size_per_layer_input": 262_144,
            "hidden_size_per_layer_input": 256,
            "altup_num_inputs": 4,
            "laurel_rank": 64,
            "num_kv_shared_layers": 15,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "max_position_embeddings": 32_768,
            "rope_theta": 1e6,
            "sliding_window": 512,
            "final_logit_softcapping": 30.0,
        },
    ),
    Architecture(
        name="gemma4",
        title="Gemma 4 (text)",
        gguf="gemma4",
        hf="gemma4_text",
        activation="gelu_tanh",
        windows=Windows.EXCEPT_EVERY_NTH,
        global_every=6,
        qk_norm=True,
        value_norm=True,
        plain_scores=True,
        post_norms=True,
        tied_head=True,
        scaled_embedding=True,
        local_theta=10_000.0,
        layer_parts=True,
        names={
            **_INPUTS,
            "scale": "layer_scalar",
            "dense_norm": "post_feedforward_layernorm_1",
            "experts_norm": "pre_feedforward_layernorm_2",
            "experts_post_norm": "post_feedforward_layernorm_2",
        },
        gguf_names={
            **_GGUF_INPUTS,
            "scale": "layer_output_scale",
            "dense_norm": "post_ffw_norm_1",
            "experts_norm": "pre_ffw_norm_2",
            "experts_post_norm": "post_ffw_norm_2",
        },
        outer_names=_OUTER,
        gguf_outer_names=_GGUF_OUTER,
        defaults={
            "vocab_size_per_layer_input": 262_144,
            "hidden_size_per_layer_input": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "sliding_window": 512,
        },
    ),
)
