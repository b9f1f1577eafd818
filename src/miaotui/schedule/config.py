"""The scheduler's fixed limits, and the check that a request fits them.

The limits are checked when they are made, a request when it is added. Knows no state. Invariant: a request that
passes `require_fitting` can run to its end when nothing else runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.errors import PromptTooLongError, RequestError
from miaotui.schedule.plan import PAGE_SIZE, pages_for


@dataclass(frozen=True)
class ScheduleConfig:
    """Limits of a scheduler. Raises `RequestError` for values that could not make progress."""

    n_pages: int  # physical KV pages of PAGE_SIZE tokens
    context: int  # tokens: the longest prompt plus answer
    max_rows: int = 512  # rows of one step
    max_sequences: int = 64  # sequences that run at once; each gets a row in every step
    chunk_size: int = 512  # prompt tokens of one sequence in one step
    reuse_prefix: bool = True
    scored_rows: int = 64  # rows of logits that one step may spend on drafts and on scoring prompts

    def __post_init__(self) -> None:
        for name in ("n_pages", "context", "max_rows", "max_sequences", "chunk_size", "scored_rows"):
            value = getattr(self, name)
            if value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")
        if self.max_rows < self.max_sequences:
            raise RequestError(
                f"max_rows ({self.max_rows}) must be at least max_sequences "
                f"({self.max_sequences}), as each running one needs a row in every step; "
                "raise the one or lower the other"
            )

    def require_fitting(self, n_prompt: int, max_tokens: int) -> None:
        """Raise unless prompt and answer, in tokens, fit the context, and the pages when alone.

        Raises `RequestError` for numbers below 1 and `PromptTooLongError` for what does not fit.
        """
        if n_prompt < 1:
            raise RequestError("the prompt has no tokens; at least one is needed")
        if max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, not {max_tokens}")
        total = f"a prompt of {n_prompt} tokens and an answer of up to {max_tokens}"
        if n_prompt + max_tokens > self.context:
            raise PromptTooLongError(
                f"{total} exceed the context of {self.context} tokens; shorten the prompt or lower max_tokens"
            )
        needed = pages_for(n_prompt + max_tokens - 1)  # the last token is never fed back
        if needed > self.n_pages:
            raise PromptTooLongError(
                f"{total} need {needed} KV pages of {PAGE_SIZE} tokens, but there are only "
                f"{self.n_pages}; shorten the prompt, lower max_tokens or enlarge the KV cache"
            )
