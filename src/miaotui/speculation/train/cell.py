"""A draft head's cell in torch, for training: the arithmetic of `backends.cpu.draft_head`, with gradients.

Owns the weights during training, and their optimizers. Knows neither texts nor files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.draft_head import EPS
from miaotui.model.draft_head.attention_spec import AttentionSpec
from miaotui.model.draft_head.weights import INPUTS
from miaotui.training.torch_loading import product_dtype

Tensor = Any  # torch is an extra that may be missing

DECAY = 0.02


class Cell:
    """The recurrent cell for states of ``hidden`` values; with attention over the text if ``attention`` is given.

    With ``masks`` it drafts blocks: every token after the first one from the first one's state and a mask.
    """

    def __init__(
        self, torch: Any, hidden: int, width: int, attention: AttentionSpec | None = None, masks: int = 0
    ) -> None:
        self._torch, self._attention, self._dtype = torch, attention, product_dtype(torch)
        self.weights: dict[str, Tensor] = {
            "gate": self._uniform(width, INPUTS * hidden),
            "up": self._uniform(width, INPUTS * hidden),
            "down": self._uniform(hidden, width),
            "carry": torch.full((hidden,), 0.5),
        }
        if attention is not None:
            self._frequencies = torch.from_numpy(attention.frequencies)
            query = 0.5 * self._uniform(attention.heads * attention.dim, INPUTS * hidden)
            query[:, -hidden:] += torch.from_numpy(attention.own)  # training starts from the layer's own queries
            self.weights |= {"query": query, "mix": torch.zeros(hidden, len(query))}
        if masks:
            self.weights["masks"] = torch.randn(masks, hidden)
        for weight in self.weights.values():
            weight.requires_grad_()

    def _uniform(self, rows: int, columns: int) -> Tensor:
        return (self._torch.rand(rows, columns) * 2 - 1) / math.sqrt(columns)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights, as `write_head` takes them."""
        return {name: weight.detach().float().numpy() for name, weight in self.weights.items()}

    def optimizers(self, rate: float) -> list[Any]:
        """Muon for the matrices (Jordan et al. 2024), which saves about a third of the steps; AdamW for the rest."""
        optim = self._torch.optim
        others = [self.weights[name] for name in ("carry", "masks") if name in self.weights]
        matrices = [weight for name, weight in self.weights.items() if name not in ("carry", "masks")]
        return [
            optim.Muon(matrices, lr=rate, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            optim.AdamW(others, lr=rate, weight_decay=DECAY, betas=(0.9, 0.95)),
        ]

    def mask(self, number: int) -> Tensor:
        """Return the normed input ``[hidden]`` in the place of the token before the masked one of this number."""
        return normed(self.weights["masks"][number])

    def forget_gradients(self) -> None:
        """Drop the gradients before the next ones are computed."""
        for weight in self.weights.values():
            weight.grad = None

    def attend(
        self,
        state: Tensor,
        embedded: Tensor,
        middle: Tensor,
        positions: Tensor,
        found: tuple[Tensor, Tensor],
        seen: Tensor,
    ) -> Tensor:
        """Add to the middle states ``[texts, rows, hidden]`` what attention over the texts so far finds.

        ``positions [texts, rows]`` are those of the newest tokens. ``found`` are keys and values
        ``[texts, heads, m, dim]``; a row sees those where ``seen [texts, 1, rows, m]`` is true.
        """
        attention, torch = self._attention, self._torch
        assert attention is not None, "a cell with attention"
        inputs = torch.cat([state, embedded, middle], -1).to(self._dtype)
        queries = self._product("query", inputs).float().unflatten(-1, (attention.heads, attention.dim))
        queries = self._rotated(queries, positions).to(self._dtype).transpose(1, 2)
        attended = torch.nn.functional.scaled_dot_product_attention(
            queries, *found, attn_mask=seen, scale=attention.scale, enable_gqa=True
        )
        mixed = self._product("mix", attended.transpose(1, 2).flatten(2))
        return normed(middle + mixed.float())

    def __call__(self, state: Tensor, embedded: Tensor, middle: Tensor) -> Tensor:
        """Return the next states."""
        torch = self._torch
        inputs = torch.cat([state, embedded, middle], -1).to(self._dtype)
        gate = torch.nn.functional.silu(self._product("gate", inputs))
        fed = self._product("down", gate * self._product("up", inputs))
        return normed(fed.float() + self.weights["carry"] * state)

    def _product(self, name: str, inputs: Tensor) -> Tensor:
        weight = self.weights[name].to(self._dtype)
        return self._torch.nn.functional.linear(inputs, weight)

    def _rotated(self, queries: Tensor, positions: Tensor) -> Tensor:
        """Rotate ``queries [texts, rows, heads, dim]`` to their positions (see `AttentionSpec`)."""
        assert self._attention is not None, "a cell with attention"
        half, size = len(self._frequencies), self._attention.magnitude
        angles = (positions[..., None].float() * self._frequencies)[:, :, None]
        cos, sin = angles.cos() * size, angles.sin() * size
        one, other, rest = queries.split((half, half, queries.shape[-1] - 2 * half), -1)
        turned = (one * cos - other * sin, other * cos + one * sin, rest)
        return self._torch.cat(turned, -1)


def normed(values: Tensor) -> Tensor:
    """Scale each row to unit variance."""
    return values * (values.pow(2).mean(-1, keepdim=True) + EPS).rsqrt()
