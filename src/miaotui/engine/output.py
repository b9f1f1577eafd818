"""The output of one request: its tokens and text, when they came, where it ends, and how much of it may be shown.

Owns end tokens, stop strings, the limit on tokens, and the pieces that were not read yet. Knows nothing of logits or
the tokenizer's insides. Changed by the thread that steps the engine, read in any thread. Invariant: however a text is
split into pieces, what is released and where it is cut are the same, because matching goes character by character.
Text that may be the beginning of a stop string is held back until that is decided. Matching follows Knuth, Morris and
Pratt (1977).
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple, Protocol

from miaotui.engine.sampling.sampler import Choice
from miaotui.errors import EngineError, RequestError
from miaotui.types import AnswerTimes, Deadline, FinishReason, SamplingParams, Timing, TokenLogprobs


class TextSource(Protocol):
    """Turns tokens into text piece by piece; may hold back bytes that are not yet characters."""

    def push(self, token_id: int) -> str:
        """Return the text that this token completes."""

    def finish(self, cut: bool = False) -> str:
        """Return the text of the bytes held back, as no token follows; none if the answer was ``cut`` short."""


class Piece(NamedTuple):
    """Text that may be shown now, and the reason if the answer ended."""

    text: str
    finish_reason: FinishReason | None = None


class StopStrings:
    """Cuts a streamed text before the stop string that is complete first.

    Of several that are complete at once, the longest counts.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._matchers = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._held = ""

    @property
    def any(self) -> bool:
        """Return whether there are stop strings at all."""
        return bool(self._matchers)

    def push(self, text: str, armed: bool = True) -> tuple[str, bool]:
        """Return the text that may be shown after ``text`` arrived, and whether a stop string was found.

        No text follows a stop string. A stop string that completes while not ``armed`` is ordinary text.
        """
        if not self._matchers:
            return text, False
        pending = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            found = 0
            for matcher in self._matchers:
                found = max(found, matcher.step(character))
            if found and armed:
                self._held = ""
                return pending[: end - found], True
        cut = len(pending) - max(matcher.matched for matcher in self._matchers)
        self._held = pending[cut:]
        return pending[:cut], False

    def finish(self) -> str:
        """Return the text held back, as no more follows."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """One stop string's automaton: how much of it the text so far ends with."""

    def __init__(self, stop: str) -> None:
        self.matched = 0
        self._stop = stop
        self._fallback = [0]  # of the first n + 1 characters: the longest proper prefix that is also a suffix
        for character in stop[1:]:
            self._fallback.append(self._advance(self._fallback[-1], character))

    def step(self, character: str) -> int:
        """Take one character; return the stop string's length if it is complete, else 0."""
        self.matched = self._advance(self.matched, character)
        if self.matched < len(self._stop):
            return 0
        self.matched = self._fallback[-1]
        return len(self._stop)

    def _advance(self, matched: int, character: str) -> int:
        while matched and self._stop[matched] != character:
            matched = self._fallback[matched - 1]
        return matched + 1 if self._stop[matched] == character else 0


class Ending:
    """State of one answer's end: follows it token by token and says when it is over.

    An end token or a complete stop string ends it with "stop" (neither is shown), but not within
    the first ``min_tokens`` tokens; the ``max_tokens``-th token ends it with "length" unless it
    ends it with "stop". A limit or a cancellation may cut a character in two: the text then ends
    before that character. After an end token nothing completes it, so it is U+FFFD.
    """

    def __init__(self, params: SamplingParams, end_ids: frozenset[int], max_tokens: int, source: TextSource) -> None:
        self._stops = StopStrings(params.stop)
        self._end_ids = end_ids
        self._min_tokens = params.min_tokens
        self.max_tokens = max_tokens
        self._source = source
        self._tokens = 0
        self._over = False
        self._shown = sys.maxsize  # tokens that make text: all but an end token
        self._finished = False

    @property
    def needs_text(self) -> bool:
        """Return whether the end depends on the text; if not, `note` and `text_of` are enough."""
        return self._stops.any

    def note(self, token_id: int) -> FinishReason | None:
        """Take the next token without its text; return the reason if the answer ends with it."""
        if self._over:
            raise EngineError(f"token {token_id} came after the answer had ended; expected none")
        self._tokens += 1
        if token_id in self._end_ids and self._tokens > self._min_tokens:
            self._over, self._shown = True, self._tokens - 1
            return "stop"
        if self._tokens < self.max_tokens:
            return None
        self._over = True
        return "length"

    def note_all(self, token_ids: Sequence[int]) -> tuple[int, FinishReason | None]:
        """Take the next tokens up to the end of the answer; return how many were taken, and the reason if it ended."""
        for count, token in enumerate(token_ids, 1):
            reason = self.note(token)
            if reason is not None:
                return count, reason
        return len(token_ids), None

    def text_of(self, token_ids: Sequence[int], first: int, is_over: bool) -> str:
        """Return the text of noted tokens; ``first`` tokens before them were read already.

        The reader may call this in a thread of its own. The rest comes when the answer ``is_over``.
        """
        text = "".join(map(self._source.push, token_ids[: max(self._shown - first, 0)]))
        if is_over and not self._finished:
            self._finished = True
            text += self._source.finish(cut=self._shown == sys.maxsize)
        return text

    def resume(self, token_ids: Sequence[int]) -> str:
        """Take tokens of the answer that are known already; return the text that they release.

        They count for no limit. Raises `RequestError` if the answer has ended within them.
        """
        texts = []
        for token in token_ids:
            text, stopped = self._stops.push("" if token in self._end_ids else self._source.push(token))
            if stopped or token in self._end_ids:
                raise RequestError(f"the answer ends with token {token}: there is nothing to go on with")
            texts.append(text)
        return "".join(texts)

    def push(self, token_id: int) -> Piece:
        """Take the next token of the answer. Raises `EngineError` after the end."""
        if self._over:
            raise EngineError(f"token {token_id} came after the answer had ended; expected none")
        self._tokens += 1
        armed = self._tokens > self._min_tokens
        if armed and token_id in self._end_ids:
            return Piece(self._rest(armed, cut=False)[0], "stop")
        text, stopped = self._stops.push(self._source.push(token_id), armed)
        if stopped:
            self._over = True
            return Piece(text, "stop")
        if self._tokens < self.max_tokens:
            return Piece(text)
        rest, stopped = self._rest(armed, cut=True)
        return Piece(text + rest, "stop" if stopped else "length")

    def close(self) -> str:
        """End the answer from outside (for example, cancelled); return the text still held back."""
        return "" if self._over else self._rest(True, cut=True)[0]

    def _rest(self, armed: bool, cut: bool) -> tuple[str, bool]:
        self._over = True
        text, stopped = self._stops.push(self._source.finish(cut), armed)
        return (text, True) if stopped else (text + self._stops.finish(), False)


class OutputPiece(NamedTuple):
    """Text that was not read yet, and the tokens that came with it."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


class RequestOutput:
    """Tokens and text of one answer so far.

    Texts are made where they are read (`read`), which keeps no step waiting, unless the end depends on them.
    """

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self._text: list[str] = []
        self._is_late = not ending.needs_text  # whether the thread that reads an answer makes its text
        self._told = 0  # tokens read, if so
        self._unread: deque[tuple[str, int, TokenLogprobs | None]] = deque()  # if not

    @property
    def is_unread(self) -> bool:
        """Return whether `read` has something to give."""
        return len(self.token_ids) > self._told if self._is_late else bool(self._unread)

    def note_all(self, token_ids: list[int]) -> tuple[list[int], FinishReason | None]:
        """Take tokens up to the end of the answer; return those taken, and the reason if it ended."""
        if not self._is_late:
            return self.note(map(Choice, token_ids))
        count, reason = self.ending.note_all(token_ids)
        kept = token_ids if count == len(token_ids) else token_ids[:count]
        self.token_ids += kept  # after all that reading them needs
        return kept, reason

    def note(self, choices: Iterable[Choice]) -> tuple[list[int], FinishReason | None]:
        """Do as `note_all` does, for tokens that may have log-probabilities."""
        before, reason = len(self.token_ids), None
        for token, logprobs in choices:
            if self._is_late:
                reason = self.ending.note(token)
            else:
                text, reason = self.ending.push(token)
                self._show(text, token, logprobs)
            if logprobs is not None:
                self.logprobs.append(logprobs)
            self.token_ids.append(token)  # after all that reading it needs
            if reason is not None:
                break
        return self.token_ids[before:], reason

    def _show(self, text: str, token_id: int, logprobs: TokenLogprobs | None = None) -> None:
        self._unread.append((text, token_id, logprobs))
        if text:
            self._text.append(text)

    def close(self) -> None:
        """End it from outside, for example when the request is cancelled."""
        rest = "" if self._is_late else self.ending.close()
        if rest:
            self._show(rest, -1)

    def read(self, is_over: bool) -> OutputPiece:
        """Return what came since the last call; ``is_over``: nothing follows."""
        if not self._is_late:
            return self._read_shown()
        first, end = self._told, len(self.token_ids)
        ids = tuple(self.token_ids[first:end])
        text = self.ending.text_of(ids, first, is_over)
        self._told = end
        if text:
            self._text.append(text)
        return OutputPiece(text, ids, tuple(self.logprobs[first:end]) if self.logprobs else ())

    def whole_text(self) -> str:
        """Return the text of an answer that is over, read or not."""
        if self._is_late:
            self.read(is_over=True)
        return "".join(self._text)

    def _read_shown(self) -> OutputPiece:
        pieces = []
        while self._unread:
            pieces.append(self._unread.popleft())
        text = "".join([piece for piece, _, _ in pieces])
        ids = tuple([token for _, token, _ in pieces if token >= 0])
        return OutputPiece(text, ids, tuple([each for _, _, each in pieces if each is not None]))


class Timeline:
    """Moments of one request, `time.perf_counter` seconds that only move forwards; made when it is submitted."""

    def __init__(self) -> None:
        self._submitted_s = time.perf_counter()
        self.arrived_s = self._submitted_s  # from when its deadline counts
        self.gaps = array("f")  # seconds between what one step brought and the next
        self._begun_s: float | None = None  # when a step first computed for it
        self._first_s = self._last_s = self._over_s = self._submitted_s  # of its tokens
        self._handed_s: float | None = None  # when the whole answer was read
        self._passes = 0  # after the first token's
        self.steps: list[tuple[float, int]] | None = None  # when each one ended, and its tokens; None: not wanted

    def begin(self) -> None:
        """Note that a step is about to compute for it; only the first of them counts."""
        if self._begun_s is None:
            self._begun_s = time.perf_counter()

    def note(self, passes: int, is_first: bool, tokens: int) -> None:
        """Note that tokens have come, by so many passes."""
        now = time.perf_counter()
        if self.steps is not None:
            self.steps.append((now - self._submitted_s, tokens))
        if is_first:
            self._first_s = now
        else:
            self._passes += passes
            gap = (now - self._last_s) / passes
            for _ in range(passes):
                self.gaps.append(gap)
        self._last_s = self._over_s = now

    def end(self, has_tokens: bool) -> None:
        """Note that it was ended from outside, or without a token of its own."""
        self._over_s = time.perf_counter()
        if not has_tokens:
            self._first_s = self._last_s = self._over_s

    def hand_over(self) -> bool:
        """Note that the whole answer was read; False if that was known."""
        is_news = self._handed_s is None
        if is_news:
            self._handed_s = time.perf_counter()
        return is_news

    @property
    def hand_over_s(self) -> float:
        """Return the seconds from the last token until the answer was read; 0 as long as it was not."""
        return 0.0 if self._handed_s is None else self._handed_s - self._over_s

    @property
    def took_ms(self) -> float | None:
        """Return the milliseconds from its arrival until its answer was read; None as long as it was not."""
        return None if self._handed_s is None else (self._handed_s - self.arrived_s) * 1e3

    def keeps(self, deadline: Deadline, tokens: int) -> bool | None:
        """Return whether an answer of so many tokens kept its deadline; None as long as it was not read."""
        took_ms = self.took_ms
        if took_ms is None:
            return None
        first_ms = (self._first_s - self.arrived_s) * 1e3
        between_ms = (self._last_s - self._first_s) * 1e3 / max(tokens - 1, 1)
        return (
            (deadline.total_ms is None or took_ms <= deadline.total_ms)
            and (deadline.ttft_ms is None or first_ms <= deadline.ttft_ms)
            and (deadline.tpot_ms is None or between_ms <= deadline.tpot_ms)
        )

    def timing(self, tokens: int) -> Timing:
        """Return the times of an answer of so many tokens, for reports."""
        span = self._last_s - self._first_s
        return Timing(
            ttft_s=self._first_s - self._submitted_s,
            total_s=self._over_s - self._submitted_s,
            decode_tokens_per_s=(tokens - 1) / span if tokens > 1 and span > 0 else 0.0,
            tokens_per_pass=(tokens - 1) / self._passes if self._passes else 1.0,
            queue_s=(self._begun_s or self._over_s) - self._submitted_s,
        )

    def times(self, drafted: Container[int]) -> AnswerTimes:
        """Return the times of steps, if they were wanted; ``drafted`` holds the places of drafted tokens."""
        at, steps = 0, []
        for ended_s, tokens in self.steps or ():
            steps.append((ended_s, tokens, sum(place in drafted for place in range(at, at + tokens))))
            at += tokens
        begun_s = self._begun_s or self._over_s
        return AnswerTimes(begun_s - self._submitted_s, self._first_s - self._submitted_s, tuple(steps[1:]))
