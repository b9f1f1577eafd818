"""transformers' greedy answers to prompts of token ids, in float32: the rival of `quality`.

Prompts of a lot are computed together, padded at the left. Rows that have ended leave the batch, which changes nothing
for the others: a row's attention has its own mask and its own positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEEP = 0.75  # a batch is made smaller when fewer of its rows than this share go on


class GreedyTransformers:
    """The weights of a GGUF file, dequantized to float32."""

    def __init__(self, path: Path, ends: Sequence[int], most_tokens: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch: Any = torch
        self.ends, self.most_tokens = frozenset(ends), most_tokens
        self.model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    def answer(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return each prompt's answer in token ids, without its end."""
        with self.torch.inference_mode():
            return self._answer(prompts)

    def _answer(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        from transformers import DynamicCache

        torch, width, pad = self.torch, max(map(len, prompts)), min(self.ends)
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
        seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        places = (seen.cumsum(-1) - 1).clamp(min=0)
        cache: Any = DynamicCache()
        answers: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # prompts that the batch has; some of them may have ended
        going = set(rows)
        while going:
            found = self.model(
                input_ids=ids, attention_mask=seen, position_ids=places, past_key_values=cache, logits_to_keep=1
            )
            tokens = found.logits[:, -1].argmax(-1).tolist()
            for row, token in zip(rows, tokens, strict=True):
                if row in going and token not in self.ends:
                    answers[row].append(token)
                if token in self.ends or len(answers[row]) == self.most_tokens:
                    going.discard(row)
            ids, places = torch.tensor(tokens)[:, None], places[:, -1:] + 1
            seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
            if len(going) < KEEP * len(rows):
                kept = torch.tensor([place for place, row in enumerate(rows) if row in going], dtype=torch.long)
                rows = [row for row in rows if row in going]
                cache.batch_select_indices(kept)
                ids, seen, places = ids[kept], seen[kept], places[kept]
        return answers
