"""The canonical names and shapes of a model's tensors, whatever file they came from.

Knows neither files nor encodings. Invariant: the keys of `tensor_shapes` are exactly the tensors
that a forward pass with this configuration reads; matrices are ``[outputs, inputs]``.
"""

from __future__ import annotations

from miaotui.model.config import ExpertsConfig, LatentConfig, ModelConfig

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Return every tensor the model has, by canonical name, in the order the forward pass reads them."""
    hidden, vocab = config.hidden_size, config.vocab_size
    shapes: Shapes = {"embed": (vocab, hidden), **_state_shapes(config)}
    for layer in range(config.n_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in layer_shapes(config, layer).items()}
    shapes |= _norm(config, "final_norm")
    if not config.tied_head:
        shapes["head"] = (vocab, hidden)
    if config.head_bias:
        shapes["head_bias"] = (vocab,)
    return shapes


def layer_shapes(config: ModelConfig, layer: int) -> Shapes:
    """Return the tensors of one layer, without the ``layers.{i}.`` prefix."""
    alone, experts = config.at(layer), config.layer_experts(layer)
    shapes = _attention_shapes(alone, config.has_keys(layer)) | _ffn_shapes(alone, experts)
    return shapes | _stream_shapes(config) | _input_shapes(config)


def _state_shapes(config: ModelConfig) -> Shapes:
    """Return what makes the state before the first layer besides the embedding, and the stream behind the last one."""
    shapes, hidden = Shapes(), config.hidden_size
    if config.streams is not None:
        others = (config.streams.number - 1) * hidden
        shapes |= {"stream_up": (others, hidden), "stream_down": (others, hidden)}
    if config.layer_inputs is not None:
        each, all_layers = config.layer_inputs.width, config.n_layers * config.layer_inputs.width
        shapes |= {"layer_embed": (config.layer_inputs.vocab_size, all_layers)}
        shapes |= {"layer_projection": (all_layers, hidden), "layer_projection_norm": (each,)}
    return shapes


def _stream_shapes(config: ModelConfig) -> Shapes:
    """Return how a layer predicts and corrects streams, and its learned residual."""
    if config.streams is None:
        return {}
    (rank, count), hidden = config.streams, config.hidden_size
    return {
        "altup_norm": (hidden,),
        "altup_router": (count, hidden),
        "altup_predict": (count * count, count),
        "altup_correct": (count, count),
        "altup_scale": (hidden,),
        "laurel_left": (rank, hidden),
        "laurel_right": (hidden, rank),
        "laurel_norm": (hidden,),
    }


def _input_shapes(config: ModelConfig) -> Shapes:
    """Return what a layer makes of its inputs, and the number by which it multiplies the stream."""
    shapes, hidden = Shapes(), config.hidden_size
    if config.layer_inputs is not None:
        width = config.layer_inputs.width
        shapes |= {"input_gate": (width, hidden), "input_projection": (hidden, width), "input_norm": (hidden,)}
    return shapes | {"scale": (1,)} if config.layer_scales else shapes


def _attention_shapes(config: ModelConfig, has_keys: bool) -> Shapes:
    hidden = config.hidden_size
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes = _norm(config, "attn_norm") if config.pre_norms else {}
    if config.latent is None:
        shapes |= {"q": (queries, hidden)}
        shapes |= {"k": (keys, hidden), "v": (keys, hidden)} if has_keys else {}
    else:
        shapes |= _latent_shapes(config, config.latent)
    if config.qkv_bias:
        shapes |= {"q_bias": (queries,), "k_bias": (keys,), "v_bias": (keys,)}
    if config.sinks:
        shapes["sinks"] = (config.n_heads,)
    if config.joint_qk_norm:
        shapes |= {"q_norm": (queries,), "k_norm": (keys,)}
    if config.qk_norm or config.rotated_qk_norm:
        shapes |= {"q_norm": (config.head_dim,)} | ({"k_norm": (config.head_dim,)} if has_keys else {})
    shapes["o"] = (hidden, config.n_heads * config.value_dim)
    if config.o_bias:
        shapes["o_bias"] = (hidden,)
    if config.post_norms:
        shapes |= _norm(config, "attn_post_norm")
    return shapes


def _latent_shapes(config: ModelConfig, latent: LatentConfig) -> Shapes:
    """Return the products to small vectors, their norms, and the products from them.

    ``k_rope`` is the rotated part of every key, ``k`` the rest of each.
    """
    hidden, rotated, heads = config.hidden_size, config.rope.dim, config.n_heads
    shapes: Shapes = {}
    if latent.query_rank:
        shapes |= {"q_a": (latent.query_rank, hidden), "q_a_norm": (latent.query_rank,)}
    shapes["q"] = (heads * config.head_dim, latent.query_rank or hidden)
    shapes |= {"kv_a": (latent.rank, hidden), "k_rope": (rotated, hidden), "kv_a_norm": (latent.rank,)}
    return shapes | {
        "k": (heads * (config.head_dim - rotated), latent.rank),
        "v": (heads * latent.value_dim, latent.rank),
    }


def _ffn_shapes(config: ModelConfig, experts: ExpertsConfig | None) -> Shapes:
    hidden = config.hidden_size
    shapes = _norm(config, "ffn_norm") if config.pre_norms and not config.parallel else {}
    shapes |= _plain_shapes(config) if experts is None or experts.beside else {}
    shapes |= {} if experts is None else _expert_shapes(hidden, experts)
    if config.post_norms:
        shapes |= _norm(config, "ffn_post_norm")
    return shapes


def _plain_shapes(config: ModelConfig) -> Shapes:
    hidden, ffn = config.hidden_size, config.ffn_size
    shapes: Shapes = {"gate": (ffn, hidden)} if config.gated else {}
    shapes |= {"up": (ffn, hidden), "down": (hidden, ffn)}
    if config.ffn_bias:
        shapes |= {"up_bias": (ffn,), "down_bias": (hidden,)}
    return shapes


def _expert_shapes(hidden: int, experts: ExpertsConfig) -> Shapes:
    """Return the router and the experts: matrices of all experts, one expert's rows after another's."""
    rows, shared = experts.count * experts.size, experts.shared_size
    shapes: Shapes = {"router": (experts.count, hidden)}
    if experts.beside:
        shapes |= dict.fromkeys(("dense_norm", "experts_norm", "experts_post_norm", "router_scale"), (hidden,))
        shapes["route_scale"] = (experts.count,)
    if experts.biased:
        shapes["router_bias"] = (experts.count,)
    if experts.router_bias:
        shapes["router_logit_bias"] = (experts.count,)
    shapes |= {"expert_gate": (rows, hidden), "expert_up": (rows, hidden)}
    if experts.expert_bias:
        shapes |= {"expert_gate_bias": (rows,), "expert_up_bias": (rows,)}
        shapes["expert_down_bias"] = (experts.count * hidden,)
    shapes["expert_down"] = (experts.count * hidden, experts.size)
    if experts.shared_gate:
        shapes["shared_router"] = (1, hidden)
    if shared:
        shapes |= {"shared_gate": (shared, hidden), "shared_up": (shared, hidden), "shared_down": (hidden, shared)}
    return shapes


def _norm(config: ModelConfig, name: str) -> Shapes:
    shapes: Shapes = {name: (config.hidden_size,)}
    if config.norm_bias:
        shapes[f"{name}_bias"] = (config.hidden_size,)
    return shapes
