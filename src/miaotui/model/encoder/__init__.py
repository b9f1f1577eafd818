"""Encoder models: their configuration, weights, heads, and a readable forward pass in float32 NumPy.

Knows no tokenizer, batch, thread or kernel. Invariant: a file's contents become one `EncoderConfig` and one set of
canonical tensors, checked against each other, whatever family or container they come from.

Canonical weights. Matrices are ``[outputs, inputs]``; ``h`` is `hidden_size`, ``e`` is `embedding_size`, ``a`` is
``n_heads * head_dim``, ``f`` is `ffn_size`. ``(+_bias)`` stands for a vector of the same name with ``_bias`` appended.

    embed                   [vocab_size, e]
    position_embed          [position_rows, e]       if position_rows > 0; row = position_offset + position
    type_embed              [type_vocab_size, e]     if type_vocab_size > 0
    embed_norm (+_bias)     [e]                      after the sum of the embeddings
    embed_projection        [h, e] (+_bias [h])      if e != h (ALBERT), after embed_norm
    relative_bias           [relative_buckets, n_heads]      position "relative" (MPNet): added to the scaled scores
    relative_embed          [2 * relative_buckets, h]        position "disentangled" (DeBERTa)
    relative_embed_norm (+_bias) [h]                         norm of relative_embed (DeBERTa)
    layers.i.q, .k, .v      [a, h] (+_bias if qkv_bias)
    layers.i.o              [h, a] (+_bias if o_bias)
    layers.i.attn_norm      [h] (+_bias)    norm_first: before attention (absent in layer 0 if skip_first_norm);
                                            otherwise after attention and residual
    layers.i.gate           [f, h] (+_bias if up_bias)       if gated: activation(gate) * up
    layers.i.up             [f, h] (+_bias if up_bias)
    layers.i.down           [h, f] (+_bias if down_bias)
    layers.i.ffn_norm       [h] (+_bias)    norm_first: before the feed-forward part; otherwise after its residual
    final_norm (+_bias)     [h]             if norm_first
    head.*                                  see `heads.head_shapes`

With ``shared_layers`` (ALBERT) there is only ``layers.0``, used by every layer. Norm biases exist if `norm_bias`.
"""
