"""Answers held to a grammar: which tokens may come next, from the library llguidance.

Owns one model's view of its vocabulary for that library, the compiled grammars, and the bounds on
both. Does not know what a grammar is for. Invariant: whatever a grammar says, compiling it and each
step with it take bounded time and memory, or end in a `RequestError`.
Source: Moskal et al., llguidance (derivatives of regular expressions under an Earley parser).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miaotui.engine.grammar.explain import MAX_CHARACTERS, explain
from miaotui.engine.grammar.source import Grammar
from miaotui.engine.grammar.trial import Trial
from miaotui.errors import EngineError, RequestError
from miaotui.libraries import need
from miaotui.text.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 32  # compiled grammars of one model
LIMITS = {
    "initial_lexer_fuel": 500_000,  # about 10 ms
    "step_lexer_fuel": 20_000,  # about 1.5 ms of one step
    "step_max_items": 10_000,  # about 0.5 ms of one step
    "max_lexer_states": 20_000,  # about 2 KB each
    "max_grammar_size": 100_000,
}
TRIAL = Trial(LIMITS)  # one for all models: it knows none
_SPECIAL = b"\xff"  # how the library tells markers from text


class Grammars:
    """The grammars of one model. Safe to use from several threads.

    The library's view of the vocabulary is built on first use (a fifth of a second for 49,152
    tokens), so call `warm` early, or compile in a thread that may wait.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self.vocab_size = tokenizer, vocab_size
        self.end_ids = frozenset(i for i in tokenizer.eos_ids if i < vocab_size)
        self._view: LLTokenizer | None = None
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, grammar: Grammar) -> bool:
        """Return whether `starter` would return at once."""
        return grammar.digest in self._compiled

    def warm(self) -> None:
        """Build the view of the vocabulary now, and start the process that tries grammars."""
        TRIAL.start()  # it reads the library while the view is built
        with self._lock:
            self._vocabulary()
        TRIAL.warm()

    def constraint(self, grammar: Grammar) -> GrammarConstraint:
        """Return the grammar's state at the start of an answer, see `starter`."""
        return self.starter(grammar)()

    def starter(self, grammar: Grammar) -> Callable[[], GrammarConstraint]:
        """Makes states at the start of an answer, at little cost; compiles the grammar if it is new.

        Raises `RequestError` for a grammar that is faulty or too complex.
        """
        with self._lock:
            matcher = self._compiled.get(grammar.digest)
            if matcher is not None:
                self._compiled.move_to_end(grammar.digest)
            view = self._vocabulary()
        if matcher is None:
            said = TRIAL.verdict(grammar.digest, grammar.text, lambda error: explain(error, grammar))
            if said is not None:
                raise RequestError(f"the grammar or JSON schema cannot be used: {said}")
            matcher = _compile(view, grammar)
            self._keep(grammar.digest, matcher)
        known = matcher
        return lambda: GrammarConstraint(known.deep_copy(), view, self.end_ids, grammar)

    def after(self, marker: bytes | int, inner: GrammarConstraint) -> AfterMarker:
        """Free text, and from a marker on (its bytes, or its token) what ``inner`` says."""
        return AfterMarker(inner, marker, self._tokenizer.token_bytes)

    def _keep(self, digest: bytes, matcher: LLMatcher) -> None:
        with self._lock:
            self._compiled[digest] = matcher
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)

    def _vocabulary(self) -> LLTokenizer:
        if self._view is None:
            if not self.end_ids:
                raise RequestError(
                    "this model's tokenizer names no end token, so no grammar can end its answers: "
                    "use another model, or ask without a grammar"
                )
            tokens = _TokenView(self._tokenizer, self.vocab_size, min(self.end_ids))
            self._view = _library().LLTokenizer(tokens, n_vocab=self.vocab_size, eos_token=sorted(self.end_ids))
        return self._view


class GrammarConstraint:
    """One answer's place in a grammar (see `Constraint`)."""

    decides_end = True

    def __init__(self, matcher: LLMatcher, view: LLTokenizer, end_ids: frozenset[int], grammar: Grammar) -> None:
        self._matcher, self._view, self._end_ids = matcher, view, end_ids
        self.grammar = grammar
        self._mask = np.zeros((view.vocab_size + 31) // 32, np.uint32)
        self._address = int(self._mask.__array_interface__["data"][0])
        self._over = False

    def mask(self) -> NDArray[np.uint32] | None:
        """Return the tokens that may come next, a bit each; None after the end.

        Raises `RequestError` if the grammar needs more work for one step than the limits allow.
        """
        if self._over:
            return None
        self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())[:MAX_CHARACTERS]
            raise RequestError(f"the grammar is too complex to follow ({reason}): make it simpler")
        return self._mask

    def accept(self, token_id: int) -> None:
        """Return the answer went on with ``token_id``. Raises `EngineError` if that was not allowed."""
        if self._over:
            return
        if not self._matcher.consume_token(token_id):
            raise EngineError(f"token {token_id} came where its grammar does not allow it")
        self._over = token_id in self._end_ids

    def forced(self) -> list[int]:
        """Return tokens that must come next: the grammar leaves no choice."""
        return [] if self._over else self._matcher.compute_ff_tokens()

    def follow(self, text: bytes) -> bool:
        """Go on with ``text``, however it is cut into tokens; False, and no change, if it may not."""
        ids = self._view.tokenize_bytes(text)
        if self._matcher.validate_tokens(ids) < len(ids):
            return False
        return self._matcher.try_consume_tokens(ids) == len(ids)

    @property
    def may_end(self) -> bool:
        """Return whether what was accepted so far is a whole text of the grammar."""
        return self._over or self._matcher.is_accepting()


class AfterMarker:
    """Free text until a marker comes; from there on, a grammar. Free steps cost nothing."""

    decides_end = True

    def __init__(self, inner: GrammarConstraint, marker: bytes | int, spell: Callable[[int], bytes]) -> None:
        self.inner, self.marker, self._spell = inner, marker, spell
        self._tail = b""  # the end of the text so far, where a marker may have begun
        self._bound = False

    def mask(self) -> NDArray[np.uint32] | None:
        """Return the tokens that may come next; None while the text is free, and after the end."""
        return self.inner.mask() if self._bound else None

    def accept(self, token_id: int) -> None:
        """Return the answer went on with ``token_id``. Raises `EngineError` if that was not allowed."""
        if self._bound:
            self.inner.accept(token_id)
        elif isinstance(self.marker, int):
            self._bound = token_id == self.marker
        else:
            self._look(self._tail + self._spell(token_id), self.marker)

    def forced(self) -> list[int]:
        """Return tokens that must come next; none while the text is free."""
        return self.inner.forced() if self._bound else []

    def _look(self, text: bytes, marker: bytes) -> None:
        """Find the marker; what its last token holds behind it must suit the grammar already."""
        at = text.find(marker)
        if at >= 0 and self.inner.follow(text[at + len(marker) :]):
            self._bound = True
        self._tail = text[at + 1 :] if at >= 0 else text[max(0, len(text) - len(marker) + 1) :]


class _TokenView:
    """The vocabulary in the form that the library reads; the names are the library's."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_id
        markers = self._markers = tokenizer.special_ids | tokenizer.eos_ids
        self.special_token_ids = sorted(i for i in markers if i < vocab_size)
        spelled = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        self._by_bytes = {text: i for i, text in enumerate(spelled) if i not in markers and text}
        self._longest = max(map(len, self._by_bytes), default=1)
        for i in self.special_token_ids:
            spelled[i] = _SPECIAL + spelled[i]
        self.tokens = spelled

    def __call__(self, text: str) -> list[int]:
        """Return tokens of a text that the grammar forces, as the model itself would cut it."""
        wanted = text.encode("utf-8", "surrogatepass")
        ids = self._tokenizer.encode(text, whole=False)
        if not self._markers.isdisjoint(ids):
            ids = self._tokenizer.encode(text, special=False)
        if b"".join(map(self._tokenizer.token_bytes, ids)) == wanted:
            return ids
        return self._greedy(wanted)  # the tokenizer puts a space before texts

    def _greedy(self, rest: bytes) -> list[int]:
        ids = []
        while rest:
            lengths = range(min(self._longest, len(rest)), 0, -1)
            size = next((n for n in lengths if rest[:n] in self._by_bytes), 0)
            if size == 0:
                break  # a byte without a token: the library goes on by its own means
            ids.append(self._by_bytes[rest[:size]])
            rest = rest[size:]
        return ids


def _compile(view: LLTokenizer, grammar: Grammar) -> LLMatcher:
    library = _library()
    limits = library.LLParserLimits(**LIMITS, verbose_errors=False)
    matcher: LLMatcher = library.LLMatcher(view, grammar.text, log_level=0, limits=limits)
    if matcher.is_error():
        raise RequestError(f"the grammar or JSON schema cannot be used: {explain(matcher.get_error(), grammar)}")
    GrammarConstraint(matcher.deep_copy(), view, frozenset(), grammar).mask()  # too complex? say so now
    return matcher


def _library() -> Any:
    return need("llguidance")  # only answers with a grammar need it
