"""Choosing a sequence's next token from a row of logits.

Owns the order of operations: log-probabilities of the raw logits; then mask, min_tokens, bias,
penalties; then temperature, top-k, top-p, min-p; then the draw. It knows neither batches nor the
model. Invariant: a choice depends only on the row, the parameters, the sequence's history and
(seed, position), bit for bit. Top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024)
each see the distribution the one before has left, made to sum to one again. Of equal logits the
lower id ranks first everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Peak, Sampling, TokenChoice
from miaotui.backends.sampling import Distribution, noise_key
from miaotui.engine.sampling.logprobs import token_logprobs
from miaotui.engine.sampling.penalties import LogitBias, Penalties
from miaotui.errors import EngineError, RequestError
from miaotui.types import SamplingParams, TokenLogprobs

Mask = NDArray[np.bool_] | NDArray[np.uint32] | NDArray[np.int32]
Row = NDArray[np.float32]


class Choice(NamedTuple):
    """A chosen token, and its log-probabilities if the request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class SequenceSampler:
    """One sequence's sampling: its parameters and the history they look at.

    `pick` chooses and changes nothing here; `accept` tells what the sequence went on with;
    `rollback` takes that back. Raises `RequestError` if the parameters or the prompt name tokens
    outside the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        eos_ids: Iterable[int],
        vocab_size: int,
        sampling: Sampling,
    ) -> None:
        _check_ids("logit_bias", params.logit_bias, vocab_size)
        _check_ids("stop_token_ids", params.stop_token_ids, vocab_size)
        _check_ids("logprob_token_ids", params.logprob_token_ids, vocab_size)
        self._params = params
        self._vocab_size = vocab_size
        self._sampling = sampling
        self._answered = 0
        self._ends = np.array(sorted(end_ids(params, eos_ids, vocab_size)), np.int64)
        self._bias = LogitBias(params.logit_bias) if params.logit_bias else None
        self._penalties: Penalties | None = None
        if params.penalizes:
            _check_ids("the prompt", prompt_ids, vocab_size)
            self._penalties = Penalties(params, prompt_ids)
        self._shape: Distribution | None = None  # None: greedy
        if params.temperature > 0 and params.top_k != 1:
            top_k = params.top_k if params.top_k < vocab_size else 0
            self._shape = Distribution.of(params.temperature, top_k, params.top_p, params.min_p)
        editing = self._bias, self._penalties, params.min_tokens and self._ends.size
        self.likely = sampling.choice(self._shape, params.seed, self._ends.tolist())  # how its tokens are drafted
        self._allowed: Mask | None = None  # the mask that `likely` has
        plain = params.logprobs is None and not any(editing)
        self.choice: TokenChoice | None = self.likely if plain else None  # how a pass chooses; None: only `pick` can

    @property
    def params(self) -> SamplingParams:
        """Return the parameters that it follows."""
        return self._params

    def leave(self) -> None:
        """Let the next pass neither choose nor touch the logits: `pick` will."""
        self.likely.leave()
        self._allowed = None

    def choice_within(self, allowed: Mask | None) -> TokenChoice | None:
        """Return `choice` for one position, where only some tokens are allowed; None if `pick` must choose.

        ``allowed`` are 32-bit words as for `pick`, which must stay where they are until the pass is over;
        None: all are.
        """
        if self.choice is None:
            return None
        if allowed is None or allowed is not self._allowed:  # mostly the same memory, filled anew
            self.choice.allow(None)
            self._allowed = None
            if allowed is not None:
                words = allowed.shape == ((self._vocab_size + 31) // 32,)
                if not words or allowed.dtype == np.bool_ or not allowed.flags.c_contiguous:
                    return None
                self.choice.allow(allowed.view(np.uint32))
                self._allowed = allowed
        return self.choice

    @property
    def temperature(self) -> float:
        """Return the temperature; 0: greedy."""
        return 0.0 if self._shape is None else self._params.temperature

    @property
    def shape(self) -> Distribution | None:
        """Return how logits become a distribution; None: the greatest wins."""
        return self._shape

    @property
    def seed(self) -> int:
        """Return the seed of its noise."""
        return self._params.seed

    def pick(self, row: Row, position: int, allowed: Mask | None = None, peak: Peak | None = None) -> Choice:
        """Choose the token at absolute ``position`` from the logits ``row``.

        ``row`` is contiguous float32 [vocab] and is written over. ``allowed`` restricts the choice:
        booleans [vocab], or 32-bit words [ceil(vocab / 32)] with token i at bit i % 32 of word
        i // 32. ``peak`` is the row's own, if it is known already. Logits of -inf are never chosen.
        Raises `EngineError` for NaN or +inf, and if nothing may be chosen.
        """
        token, top = self._best(row, position) if peak is None else peak
        if not -math.inf < top < math.inf:
            raise EngineError(_broken(top, token, position))
        if self._shape is None and self.choice and allowed is None:
            return Choice(token)
        wanted = self._params.logprobs
        raw, raw_top = row, top
        if wanted is not None:
            row = row.copy()
        if self._edit(row, allowed):
            token = int(row.argmax())
            top = float(row[token])
            if top == -math.inf:
                raise EngineError(
                    f"no token may be chosen at position {position}: mask and min_tokens exclude them all"
                )
        if self._shape is not None:
            token = self._sampling.draw(row, top, self._shape, noise_key(self._params.seed, position))
        if wanted is None:
            return Choice(token)
        named = self._params.logprob_token_ids
        return Choice(token, token_logprobs(self._sampling, raw, raw_top, token, wanted, named))

    def take(self, peak: Peak, position: int) -> int:
        """Return the token that a pass has chosen by `choice`; raises what `pick` does for its row's peak."""
        token, top = peak
        if not -math.inf < top < math.inf:
            raise EngineError(_broken(top, token, position))
        return token

    def accept(self, token_id: int) -> None:
        """Note that the sequence went on with ``token_id``."""
        if not 0 <= token_id < self._vocab_size:
            raise EngineError(f"token {token_id} was accepted; expected one in [0, {self._vocab_size})")
        self._answered += 1
        if self._penalties is not None:
            self._penalties.accept(token_id)

    def rollback(self, n: int) -> None:
        """Take back the last ``n`` accepted tokens."""
        if not 0 <= n <= self._answered:
            raise EngineError(f"{n} tokens were to be taken back of {self._answered} accepted ones")
        self._answered -= n
        if self._penalties is not None:
            self._penalties.rollback(n)

    def fork(self) -> SequenceSampler:
        """Return a copy with the same history, that goes its own way from here."""
        twin = SequenceSampler.__new__(SequenceSampler)
        twin.__dict__.update(self.__dict__)
        twin._penalties = None if self._penalties is None else self._penalties.fork()
        return twin

    def verify(self, rows: NDArray[np.float32], position: int, draft: Sequence[int]) -> list[Choice]:
        """Choose and accept tokens for as long as they confirm the draft.

        ``rows`` are logits, float32 [1 + len(draft), vocab], and are written over.         Row i
        holds the logits after the first i drafted tokens; ``position`` is that of row 0's choice.
        Returns one choice more than were confirmed: exactly what picking one row at a time would
        have given (`rollback` undoes those past an end).
        """
        choices: list[Choice] = []
        for i, row in enumerate(rows):
            choices.append(self.pick(row, position + i))
            self.accept(choices[-1].token_id)
            if i == len(draft) or choices[-1].token_id != draft[i]:
                break
        return choices

    def _best(self, row: Row, position: int) -> Peak:
        """Return the row's peak; refuses what is no row of logits."""
        size = self._vocab_size
        if row.shape != (size,) or row.dtype != np.float32 or not row.flags.c_contiguous:
            raise EngineError(
                f"the logits at position {position} are {row.dtype} {row.shape}; expected contiguous float32 ({size},)"
            )
        token = int(row.argmax())
        return token, float(row[token])

    def _edit(self, row: Row, allowed: Mask | None) -> bool:
        """Apply mask, min_tokens, bias and penalties in place; return whether there was any."""
        early = self._answered < self._params.min_tokens and self._ends.size > 0
        if allowed is not None:
            self._restrict(row, allowed)
        if early:
            row[self._ends] = -np.inf
        if self._bias is not None:
            self._bias.apply(row)
        if self._penalties is not None:
            self._penalties.apply(row)
        return early or not (allowed is None and self._bias is None and self._penalties is None)

    def _restrict(self, row: Row, allowed: Mask) -> None:
        """Set the logits of tokens that are not allowed to -inf."""
        vocab_size = row.size
        if allowed.dtype == np.bool_ and allowed.shape == (vocab_size,):
            row[~allowed] = -np.inf
            return
        if allowed.dtype in (np.uint32, np.int32) and allowed.shape == ((vocab_size + 31) // 32,):
            self._sampling.restrict(row, np.ascontiguousarray(allowed).view(np.uint32))
            return
        raise EngineError(
            f"a token mask is {allowed.dtype} {allowed.shape}; expected bool ({vocab_size},) "
            f"or 32-bit words ({(vocab_size + 31) // 32},)"
        )


def end_ids(params: SamplingParams, eos_ids: Iterable[int], vocab_size: int) -> frozenset[int]:
    """Return the tokens that end an answer: the request's, and the model's own unless ignored.

    A tokenizer may know end tokens that the model has no logit for; those can never come.
    """
    own = () if params.ignore_eos else eos_ids
    return frozenset(params.stop_token_ids).union(i for i in own if i < vocab_size)


def _broken(peak: float, token: int, position: int) -> str:
    if peak == -math.inf:
        return f"no token may be chosen at position {position}: every logit is -inf"
    return f"the logit of token {token} at position {position} is {peak}; expected a number or -inf"


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    outside = next((i for i in ids if not 0 <= i < vocab_size), None)
    if outside is not None:
        raise RequestError(f"{name} names token {outside}; this model's tokens are 0 to {vocab_size - 1}")
