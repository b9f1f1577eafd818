"""Outcome of one request: its moments, its tokens, and the name of the way in which it ended.

Owns the names of ends and how tokens are counted where a server's own count cannot be right. Knows no server. Times
are seconds from the load's begin. Invariant: every request that was due has one outcome with one end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Final

ANSWERED: Final = "answered"
REFUSED: Final = "refused"  # 429, 503, or the engine's refusal: the server is too busy
UNAUTHORISED: Final = "unauthorised"  # 401, 403
REJECTED: Final = "rejected"  # other statuses 400 to 499: the request is wrong
SERVER_ERROR: Final = "server error"  # other statuses, and an error within a stream
UNREACHABLE: Final = "unreachable"  # no connection
CLOSED_EARLY: Final = "closed early"  # the connection ended before the answer did
STALLED: Final = "stalled"  # nothing came for too long
ENDLESS: Final = "did not end"  # the time or the size that an answer may take is used up
MALFORMED: Final = "malformed"  # not a stream of events as the protocol has them
LEFT_OUT: Final = "not sent"  # too many were open already

ENDS = (
    ANSWERED,
    REFUSED,
    UNAUTHORISED,
    REJECTED,
    SERVER_ERROR,
    UNREACHABLE,
    CLOSED_EARLY,
    STALLED,
    ENDLESS,
    MALFORMED,
    LEFT_OUT,
)


@dataclass
class RequestOutcome:
    """Times and counts of one request; changed while its answer comes, see `RequestOutcome.end`."""

    number: int
    due_s: float
    asked_tokens: int  # the limit of the answer
    sent_s: float | None = None
    first_s: float | None = None  # first text
    done_s: float | None = None  # the end, of whatever kind
    end: str = LEFT_OUT
    status: int | None = None
    detail: str = ""  # code or message of an error
    pieces_s: list[float] = field(default_factory=list)  # when text came
    text_bytes: int = 0
    prompt_tokens: int | None = None  # as the server says
    claimed_tokens: int | None = None  # of the answer, as the server says
    cached_tokens: int | None = None
    promised: bool = False  # the server took a deadline on
    predicted_ms: float | None = None

    def piece(self, now_s: float, size_bytes: int) -> None:
        """Note a piece of text."""
        if self.first_s is None:
            self.first_s = now_s
        self.pieces_s.append(now_s)
        self.text_bytes += size_bytes

    def ended(self, end: str, now_s: float, detail: str = "") -> None:
        """Note the end."""
        self.end, self.done_s, self.detail = end, now_s, detail[:200]

    @property
    def claim_is_possible(self) -> bool:
        """Return whether the server's count of tokens fits what came.

        It does not if it exceeds the limit that was asked for, if there are more pieces of text than tokens, or if it
        is missing. Tokens without text (ends, special tokens) make larger counts than pieces possible.
        """
        claimed = self.claimed_tokens
        return claimed is not None and len(self.pieces_s) <= claimed <= self.asked_tokens

    @property
    def tokens(self) -> int:
        """Return tokens of the answer: the server's count if it is possible, else the pieces of text."""
        return self.claimed_tokens if self.claim_is_possible and self.claimed_tokens else len(self.pieces_s)

    @property
    def is_answered(self) -> bool:
        """Return whether the whole answer came."""
        return self.end == ANSWERED

    # seconds; None where there is none. They count from the moment at which the request was due, so that a client or
    # a server that falls behind does not look fast (coordinated omission) --------------------------------------------

    @property
    def ttft_s(self) -> float | None:
        """Time to the first text."""
        return None if self.first_s is None else self.first_s - self.due_s

    @property
    def e2e_s(self) -> float | None:
        """Time to the end of the answer."""
        return self.done_s - self.due_s if self.is_answered and self.done_s is not None else None

    @property
    def refusal_s(self) -> float | None:
        """Time in which the server said that it was too busy, from the moment of sending."""
        return self.done_s - self.sent_s if self.end == REFUSED and self.done_s and self.sent_s is not None else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (last piece - first piece) / (tokens - 1)."""
        if not self.is_answered or self.tokens < 2 or len(self.pieces_s) < 2:
            return None
        return (self.pieces_s[-1] - self.pieces_s[0]) / (self.tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """Gaps between pieces of text (inter-token latencies; a piece may hold several tokens)."""
        return [later - earlier for earlier, later in itertools.pairwise(self.pieces_s)]

    @property
    def late_s(self) -> float:
        """Time between the moment at which it was due and the one at which it was sent: the client's own delay."""
        return 0.0 if self.sent_s is None else self.sent_s - self.due_s
