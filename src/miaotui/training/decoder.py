"""Decoder in torch, for training: the arithmetic of `model.oracle` with gradients, for whole texts.

Owns the parameters, under canonical names, and low-rank pairs beside them where only those are trained. Knows neither
texts nor files. Products may be computed in bfloat16; the stream, norms and softmax stay in float32. Invariant: in
float32 it gives the oracle's logits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.alibi import alibi_slopes
from miaotui.model.config import ModelConfig
from miaotui.model.rope import RopeConfig

Tensor = Any  # torch is an extra that may be missing
Array = NDArray[np.float32]
HEAD_ROWS = 512  # positions whose logits are in memory at a time
# Parts of `ModelConfig` that are computed here; everything else must be as the default is.
COMPUTED = frozenset(
    {"architecture", "vocab_size", "hidden_size", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_size"}
    | {"context_length", "norm", "norm_eps", "norm_bias", "activation", "rope", "local_rope", "rope_layers", "windows"}
    | {"long_context"}
    | {"attention_scale", "attention_softcap", "logit_softcap", "embedding_scale", "alibi", "qkv_bias", "o_bias"}
    | {"qk_norm", "rotated_qk_norm", "joint_qk_norm", "pre_norms", "post_norms", "parallel", "gated", "ffn_bias"}
    | {"head_bias", "tied_head"}
)
PRODUCTS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class DecoderOptions:
    """Options of a decoder that is trained: low-rank pairs beside the products in ``targets``, whose sum is scaled by
    ``alpha / rank`` (None: by 2). With ``recompute`` activations of a layer are computed again in the backward pass
    (Chen et al. 2016): less memory, a third more time.
    """

    alpha: float | None = None
    targets: tuple[str, ...] = PRODUCTS
    recompute: bool = False


PLAIN = DecoderOptions()


def require_plain(config: ModelConfig) -> None:
    """Raise `UnsupportedModelError`, naming it, for a part of a model that is not computed here."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in COMPUTED and value != field.default:
            raise UnsupportedModelError(
                f"{config.architecture} has {field.name.replace('_', ' ')}, which is not trained here: choose a "
                "plain decoder, without experts, latent attention, several streams or masked tokens"
            )


class TorchDecoder:
    """A decoder over texts of one length.

    With ``rank`` 0 all weights are trained, else pairs of that rank beside products (LoRA, Hu et al. 2021).
    ``dtype`` is that of products.
    Raises `UnsupportedModelError` for what is not in `COMPUTED`, such as experts.
    """

    def __init__(
        self,
        torch: Any,
        config: ModelConfig,
        weights: Mapping[str, Array],
        dtype: Any,
        rank: int = 0,
        seed: int = 0,
        options: DecoderOptions = PLAIN,
    ) -> None:
        require_plain(config)
        self.torch, self.config, self._dtype, self._rank = torch, config, dtype, rank
        self._recompute = options.recompute
        self.scale = (2.0 if options.alpha is None else options.alpha / rank) if rank else 0.0
        self.weights: dict[str, Tensor] = {name: torch.from_numpy(np.array(weights[name])) for name in weights}
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        if rank:
            generator = torch.Generator().manual_seed(seed)
            for name, weight in self.weights.items():
                if name.startswith("layers.") and name.split(".")[-1] in options.targets:
                    bound = 1 / math.sqrt(weight.shape[1])  # as PEFT begins
                    first = torch.empty(rank, weight.shape[1]).uniform_(-bound, bound, generator=generator)
                    self.pairs[name] = first.requires_grad_(), torch.zeros(weight.shape[0], rank).requires_grad_()
        else:
            for weight in self.weights.values():
                weight.requires_grad_()

    def begin_with(self, pairs: Mapping[str, LowRankPair]) -> None:
        """Take the pairs of an adapter as the first values of those that are trained; others stay without effect."""
        for name, pair in pairs.items():
            if name in self.pairs:
                down, up = (self.torch.from_numpy(np.array(each)) for each in (pair.down, pair.up / self.scale))
                self.pairs[name] = down.requires_grad_(), up.requires_grad_()

    def low_rank(self) -> dict[str, LowRankPair]:
        """Return the pairs as an adapter has them, scaled."""
        return {
            name: LowRankPair(a.detach().numpy().copy(), (b.detach() * self.scale).numpy())
            for name, (a, b) in self.pairs.items()
        }

    @contextlib.contextmanager
    def without_pairs(self) -> Iterator[None]:
        """Compute the model itself meanwhile, without what its pairs add."""
        scale, self.scale = self.scale, 0.0
        try:
            yield
        finally:
            self.scale = scale

    def trained(self) -> dict[str, Tensor]:
        """Return what is trained, by name."""
        if not self._rank:
            return self.weights
        return {f"{name}.{part}": each[i] for name, each in self.pairs.items() for i, part in enumerate("ab")}

    def arrays(self) -> dict[str, Array]:
        """Return the weights by canonical name, low-rank pairs added to theirs."""
        with self.torch.no_grad():
            added = {name: self.scale * (b @ a) for name, (a, b) in self.pairs.items()}
            return {
                name: (weight + added[name] if name in added else weight).detach().numpy()
                for name, weight in self.weights.items()
            }

    def states(self, tokens: Tensor) -> Tensor:
        """Return what the output matrix reads, ``[texts, n, hidden]``, of ``tokens [texts, n]``."""
        config = self.config
        x = self.weights["embed"][tokens] * config.embedding_scale
        for layer in range(config.n_layers):
            x = self._checkpointed(x, layer) if self._recompute else self._layer(x, layer)
        return self._norm(x, "final_norm")

    def logits(self, states: Tensor) -> Tensor:
        """Return logits ``[m, vocab]`` in float32 of states ``[m, hidden]``."""
        found = self._product(states, self.weights["embed" if self.config.tied_head else "head"])
        if self.config.head_bias:
            found = found + self.weights["head_bias"]
        cap = self.config.logit_softcap
        return self.torch.tanh(found / cap) * cap if cap else found

    def losses(self, tokens: Tensor, counted: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats) of each token that is ``counted``, ``[m]``, text after text.

        ``tokens [texts, n]``, ``counted [texts, n]`` bool; the first token of a text has no prediction. Logits of some
        positions are in memory at a time, and computed again in the backward pass.
        """
        torch = self.torch
        chosen = counted[:, 1:]
        states, wanted = self.states(tokens)[:, :-1][chosen], tokens[:, 1:][chosen]
        parts = [
            torch.utils.checkpoint.checkpoint(self._losses, states[at : at + HEAD_ROWS], each, use_reentrant=False)
            for at, each in zip(range(0, len(states), HEAD_ROWS), wanted.split(HEAD_ROWS), strict=False)
        ]
        return torch.cat(parts) if parts else states.sum() * torch.zeros(0)

    def _losses(self, states: Tensor, wanted: Tensor) -> Tensor:
        return self.torch.nn.functional.cross_entropy(self.logits(states), wanted, reduction="none")

    def _checkpointed(self, x: Tensor, layer: int) -> Tensor:
        return self.torch.utils.checkpoint.checkpoint(self._layer, x, layer, use_reentrant=False)

    def _layer(self, x: Tensor, layer: int) -> Tensor:
        config, prefix = self.config, f"layers.{layer}."
        read = self._norm(x, prefix + "attn_norm") if config.pre_norms else x
        mixed = self._linear(self._attention(read, layer, prefix), prefix + "o")
        if config.post_norms:
            mixed = self._norm(mixed, prefix + "attn_post_norm")
        if not config.parallel:
            read = x + mixed
            read = self._norm(read, prefix + "ffn_norm") if config.pre_norms else read
        fed = self._feed_forward(read, prefix)
        if config.post_norms:
            fed = self._norm(fed, prefix + "ffn_post_norm")
        return x + mixed + fed

    def _attention(self, read: Tensor, layer: int, prefix: str) -> Tensor:
        config, torch = self.config, self.torch
        q, k, v = (self._heads(read, prefix, name) for name in ("q", "k", "v"))
        norms = [config.qk_norm, config.rotated_qk_norm]
        rope = config.layer_rope(layer)
        for turn, wanted in enumerate(norms):
            if wanted:
                q, k = self._norm(q, prefix + "q_norm"), self._norm(k, prefix + "k_norm")
            if not turn and rope is not None:
                q, k = self._rotated(q, rope), self._rotated(k, rope)
        group = config.n_heads // config.n_kv_heads
        q, k, v = (each.transpose(1, 2).to(self._dtype) for each in (q, k, v))
        k, v = (each.repeat_interleave(group, 1) if group > 1 else each for each in (k, v))
        seen = self._seen(q.shape[2], config.windows[layer])
        cap = config.attention_softcap
        if config.alibi:
            seen = self._biased(seen)
        if cap:
            scores = torch.tanh((q @ k.transpose(-1, -2)).float() * config.attention_scale / cap) * cap
            mixed = scores.masked_fill(~seen, -math.inf).softmax(-1).to(self._dtype) @ v
        else:
            attention = torch.nn.functional.scaled_dot_product_attention
            mixed = attention(q, k, v, attn_mask=seen, scale=config.attention_scale)
        return mixed.transpose(1, 2).flatten(2).float()

    def _heads(self, read: Tensor, prefix: str, name: str) -> Tensor:
        found = self._linear(read, prefix + name)
        if self.config.joint_qk_norm and name != "v":
            found = self._norm(found, f"{prefix}{name}_norm")
        return found.unflatten(-1, (-1, self.config.head_dim))

    def _feed_forward(self, read: Tensor, prefix: str) -> Tensor:
        functional = self.torch.nn.functional
        up = self._linear(read, prefix + "up")
        inner = self._linear(read, prefix + "gate") if self.config.gated else up
        silu = self.config.activation == "silu"
        inner = functional.silu(inner) if silu else functional.gelu(inner, approximate="tanh")
        return self._linear(inner * up if self.config.gated else inner, prefix + "down")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        found = self._product(x, self.weights[name])
        if name in self.pairs:
            a, b = self.pairs[name]
            found = found + self.scale * self._product(self._product(x, a), b)
        bias = self.weights.get(name + "_bias")
        return found if bias is None else found + bias

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.torch.nn.functional.linear(x.to(self._dtype), weight.to(self._dtype)).float()

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if self.config.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        x = x * self.torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.norm_eps) * self.weights[name]
        bias = self.weights.get(name + "_bias")
        return x if bias is None else x + bias

    def _rotated(self, heads: Tensor, rope: RopeConfig) -> Tensor:
        """Rotate heads ``[texts, n, heads, dim]`` by their positions."""
        torch = self.torch
        angles = torch.from_numpy(np.arange(heads.shape[1])[:, None] * rope.inverse_frequencies())[:, None]
        cos, sin = (each.float() * rope.magnitude() for each in (angles.cos(), angles.sin()))
        first, second, rest = heads.split((rope.dim // 2, rope.dim // 2, heads.shape[-1] - rope.dim), -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)

    def _biased(self, seen: Tensor) -> Tensor:
        """Return what is added to scores where they fall with distance (ALiBi), ``[heads, n, n]``."""
        torch, places = self.torch, self.torch.arange(len(seen))
        slopes = torch.from_numpy(alibi_slopes(self.config.n_heads))[:, None, None]
        bias = slopes * (places[None, :] - places[:, None])
        return bias.masked_fill(~seen, -math.inf).to(self._dtype)

    def _seen(self, n: int, window: int) -> Tensor:
        """Return which position sees which, bool ``[n, n]``."""
        places = self.torch.arange(n)
        back = places[:, None] - places[None, :]
        return (back >= 0) & (back < window) if window else back >= 0
