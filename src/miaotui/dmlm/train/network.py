"""The network that is trained, in torch: the layers of Qwen3, so that the engine loads what comes out.

Owns parameters under the names of Qwen3's files, and the pattern of attention. Knows no data. Invariant: for texts
without blocks a row sees all rows; with blocks it computes what the engine computes block by block, since each block is
restored beside the clean text before it (Arriola et al., BD3-LM, 2025, section 3.1, figure 2).
"""

from __future__ import annotations

import math
from typing import Any

from miaotui.dmlm.train.recipe import TrainRecipe

EPS, THETA = 1e-6, 10_000.0


class Network:
    """Parameters by name, and the forward pass; ``torch`` is the library, which is loaded only to train."""

    def __init__(self, torch: Any, recipe: TrainRecipe, vocab_size: int) -> None:
        self.torch, self.recipe = torch, recipe
        generator = torch.Generator().manual_seed(recipe.seed)
        width, small = recipe.width, 0.02 / math.sqrt(2 * recipe.layers)

        def matrix(rows: int, columns: int, spread: float = 0.02) -> Any:
            return torch.empty(rows, columns).normal_(0, spread, generator=generator).requires_grad_()

        def ones(n: int) -> Any:
            return torch.ones(n).requires_grad_()

        self.weights = {"model.embed_tokens.weight": matrix(vocab_size, width), "model.norm.weight": ones(width)}
        for layer in range(recipe.layers):
            made = {
                "input_layernorm": ones(width),
                "self_attn.q_proj": matrix(width, width),
                "self_attn.k_proj": matrix(width, width),
                "self_attn.v_proj": matrix(width, width),
                "self_attn.o_proj": matrix(width, width, small),
                "self_attn.q_norm": ones(recipe.head_dim),
                "self_attn.k_norm": ones(recipe.head_dim),
                "post_attention_layernorm": ones(width),
                "mlp.gate_proj": matrix(recipe.ffn, width),
                "mlp.up_proj": matrix(recipe.ffn, width),
                "mlp.down_proj": matrix(width, recipe.ffn, small),
            }
            self.weights |= {f"model.layers.{layer}.{name}.weight": values for name, values in made.items()}
        self._seen = self._pattern()
        self._turns = self._rotation()

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(values.numel() for values in self.weights.values())

    def states(self, inputs: Any, clean: Any) -> Any:
        """Return the final states of the masked texts, ``[B, n, width]``; ``inputs`` and ``clean`` are ids ``[B, n]``.

        With blocks, masked and clean texts are computed together, each masked block beside the clean blocks before it.
        """
        torch, n = self.torch, inputs.shape[1]
        ids = torch.cat([inputs, clean], 1) if self.recipe.block else inputs
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.recipe.layers):
            x = self._layer(x, f"model.layers.{layer}.")
        return self._norm(x[:, :n], "model.norm.weight")

    def logits(self, states: Any) -> Any:
        """Return logits ``[m, vocab]`` of states ``[m, width]``; the output matrix is the embedding."""
        return states @ self.weights["model.embed_tokens.weight"].T

    def _layer(self, x: Any, prefix: str) -> Any:
        torch, recipe = self.torch, self.recipe
        batch, rows, width = x.shape
        normed = self._norm(x, prefix + "input_layernorm.weight")
        heads = []
        for name in ("q", "k", "v"):
            each = normed @ self.weights[f"{prefix}self_attn.{name}_proj.weight"].T
            each = each.view(batch, rows, recipe.heads, recipe.head_dim)
            if name != "v":
                each = self._turned(self._norm(each, f"{prefix}self_attn.{name}_norm.weight"))
            heads.append(each.transpose(1, 2))
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=self._seen)
        mixed = mixed.transpose(1, 2).reshape(batch, rows, width)
        x = x + mixed @ self.weights[prefix + "self_attn.o_proj.weight"].T
        normed = self._norm(x, prefix + "post_attention_layernorm.weight")
        gate, up = (normed @ self.weights[f"{prefix}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        return x + (torch.nn.functional.silu(gate) * up) @ self.weights[prefix + "mlp.down_proj.weight"].T

    def _norm(self, x: Any, name: str) -> Any:
        return x * self.torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weights[name]

    def _turned(self, heads: Any) -> Any:
        """Rotate each head by its position, in halves (RoFormer, as Llama has it)."""
        cos, sin = self._turns
        first, second = heads.chunk(2, dim=-1)
        return self.torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def _rotation(self) -> tuple[Any, Any]:
        torch, n, half = self.torch, self.recipe.length, self.recipe.head_dim // 2
        rates = THETA ** (-torch.arange(half, dtype=torch.float64) / half)
        positions = torch.arange(n, dtype=torch.float64)
        angles = (torch.cat([positions, positions]) if self.recipe.block else positions)[:, None] * rates
        return angles.cos().float()[None, :, None], angles.sin().float()[None, :, None]

    def _pattern(self) -> Any:
        """Return which rows see which, bool ``[2n, 2n]``: masked rows first, then clean ones; None: all see all."""
        torch, n, block = self.torch, self.recipe.length, self.recipe.block
        if not block:
            return None
        of = torch.arange(n) // block
        same, before = of[:, None] == of[None, :], of[:, None] > of[None, :]
        upper = torch.cat([same, before], 1)
        lower = torch.cat([torch.zeros(n, n, dtype=torch.bool), same | before], 1)
        return torch.cat([upper, lower], 0)
