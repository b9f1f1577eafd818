"""An encoder-decoder in torch that is trained on masked spans: T5's layers, so that the engine loads what comes out.

Owns parameters under the names of T5's files, and its relative positions (Raffel et al., 2020, section 2.1; the gated
layers of Shazeer, "GLU Variants Improve Transformer", 2020). Knows no data. Invariant: a padded source row is seen by
no row, and a target row sees no row after it.
"""

from __future__ import annotations

import math
from typing import Any

from miaotui.dmlm.train.recipe import TrainRecipe

EPS = 1e-6
BUCKETS, FARTHEST = 32, 128  # of relative positions
SELF, CROSS = "SelfAttention", "EncDecAttention"


class SpanNetwork:
    """Parameters by name, and the forward pass; ``torch`` is the library, which is loaded only to train."""

    def __init__(self, torch: Any, recipe: TrainRecipe, vocab_size: int) -> None:
        self.torch, self.recipe = torch, recipe
        generator = torch.Generator().manual_seed(recipe.seed)
        width, dim = recipe.width, recipe.head_dim

        def matrix(rows: int, columns: int, spread: float) -> Any:
            return torch.empty(rows, columns).normal_(0, spread, generator=generator).requires_grad_()

        def ones() -> Any:
            return torch.ones(width).requires_grad_()

        self.weights = {"shared.weight": matrix(vocab_size, width, 1.0)}  # small: the output is its transpose
        inner = width**-0.5
        for side, layers in (("encoder", recipe.layers), ("decoder", recipe.decoder_layers)):
            kinds = (SELF,) if side == "encoder" else (SELF, CROSS)
            for layer in range(layers):
                prefix = f"{side}.block.{layer}.layer."
                for number, kind in enumerate(kinds):
                    made = {"q": matrix(width, width, inner * dim**-0.5), "k": matrix(width, width, inner)}
                    made |= {"v": matrix(width, width, inner), "o": matrix(width, width, inner)}
                    self.weights |= {f"{prefix}{number}.{kind}.{name}.weight": each for name, each in made.items()}
                    self.weights[f"{prefix}{number}.layer_norm.weight"] = ones()
                last = f"{prefix}{len(kinds)}."
                self.weights[f"{last}layer_norm.weight"] = ones()
                for name, shape in (("wi_0", (recipe.ffn, width)), ("wi_1", (recipe.ffn, width))):
                    self.weights[f"{last}DenseReluDense.{name}.weight"] = matrix(*shape, inner)
                self.weights[f"{last}DenseReluDense.wo.weight"] = matrix(width, recipe.ffn, recipe.ffn**-0.5)
            bias = f"{side}.block.0.layer.0.{SELF}.relative_attention_bias.weight"
            self.weights[bias] = matrix(BUCKETS, recipe.heads, inner)
            self.weights[f"{side}.final_layer_norm.weight"] = ones()

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(values.numel() for values in self.weights.values())

    def logits(self, source: Any, target: Any, is_source: Any) -> Any:
        """Return logits ``[B, m, vocab]`` after each target token, ids ``[B, m]``, which begin with the start token.

        ``source`` are ids ``[B, n]``, ``is_source [B, n]`` False at padding.
        """
        torch, embedding = self.torch, self.weights["shared.weight"]
        hidden = torch.zeros(is_source.shape).masked_fill(~is_source, -math.inf)[:, None, None]
        states, bias = embedding[source], self._bias("encoder", source.shape[1]) + hidden
        for layer in range(self.recipe.layers):
            prefix = f"encoder.block.{layer}.layer."
            states = self._attend(states, states, f"{prefix}0.", SELF, bias, is_own=True)
            states = self._feed(states, f"{prefix}1.")
        encoded = self._norm(states, "encoder.final_layer_norm.weight")
        states, m = embedding[target], target.shape[1]
        later = torch.full((m, m), -math.inf).triu(1)
        bias = self._bias("decoder", m) + later
        for layer in range(self.recipe.decoder_layers):
            prefix = f"decoder.block.{layer}.layer."
            states = self._attend(states, states, f"{prefix}0.", SELF, bias, is_own=True)
            states = self._attend(states, encoded, f"{prefix}1.", CROSS, hidden)
            states = self._feed(states, f"{prefix}2.")
        found = self._norm(states, "decoder.final_layer_norm.weight") * self.recipe.width**-0.5
        return found @ embedding.T

    def _attend(self, states: Any, others: Any, prefix: str, kind: str, bias: Any, is_own: bool = False) -> Any:
        torch, recipe = self.torch, self.recipe
        normed = self._norm(states, prefix + "layer_norm.weight")
        heads = []
        for name, rows in (("q", normed), ("k", normed if is_own else others), ("v", normed if is_own else others)):
            each = rows @ self.weights[f"{prefix}{kind}.{name}.weight"].T
            heads.append(each.unflatten(-1, (recipe.heads, recipe.head_dim)).transpose(1, 2))
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=bias, scale=1.0)
        return states + mixed.transpose(1, 2).flatten(2) @ self.weights[f"{prefix}{kind}.o.weight"].T

    def _feed(self, states: Any, prefix: str) -> Any:
        normed = self._norm(states, prefix + "layer_norm.weight")
        gate, up = (normed @ self.weights[f"{prefix}DenseReluDense.{name}.weight"].T for name in ("wi_0", "wi_1"))
        inner = self.torch.nn.functional.gelu(gate, approximate="tanh") * up
        return states + inner @ self.weights[f"{prefix}DenseReluDense.wo.weight"].T

    def _norm(self, x: Any, name: str) -> Any:
        return x * self.torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weights[name]

    def _bias(self, side: str, n: int) -> Any:
        """Return what each head adds for the distance of two rows, ``[1, heads, n, n]``."""
        torch, is_encoder = self.torch, side == "encoder"
        positions = torch.arange(n)
        apart = positions[None] - positions[:, None]  # of the row that is seen, from the one that sees
        buckets = torch.zeros(n, n, dtype=torch.long)
        count = BUCKETS
        if is_encoder:
            count //= 2
            buckets += (apart > 0) * count
            apart = apart.abs()
        else:
            apart = (-apart).clamp(min=0)
        exact = count // 2
        far = torch.log(apart.clamp(min=1).float() / exact) / math.log(FARTHEST / exact) * (count - exact)
        far = (exact + far.long()).clamp(max=count - 1)
        buckets += torch.where(apart < exact, apart, far)
        weight = self.weights[f"{side}.block.0.layer.0.{SELF}.relative_attention_bias.weight"]
        return weight[buckets].permute(2, 0, 1)[None]
