"""The things that requests to a model can have, as data: what is asked for and is not there is refused here, by name.

Owns the list and the errors. Knows no engine: each loop says which of them it has (`ModelLoop.abilities`), a server
shows them. Invariant: what is asked for is done or refused, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from miaotui.backends.backend import Backend
from miaotui.engine.request import RequestOptions
from miaotui.errors import RequestError
from miaotui.types import SamplingParams

# How sure a promised time is: ``kept`` by an engine that plans its own passes, ``estimated`` from outside with wider
# margins, ``none`` at all.
Certainty = Literal["kept", "estimated", "none"]


@dataclass(frozen=True)
class ModelAbilities:
    """Abilities of one running model. ``engine`` names it in errors, and ``otherwise`` says what else can be done."""

    engine: str
    otherwise: str = "load the model with another backend"
    same_bytes: bool = True  # equal requests have equal answers, whatever else runs
    promises: Certainty = "kept"
    grammar: bool = True  # grammars, schemas and tools that must be followed
    adapters: bool = True
    logprobs: bool = True
    prompt_logprobs: bool = True
    logit_bias: bool = True
    min_tokens: bool = True
    explanations: bool = True  # where each token came from

    def require(self, params: SamplingParams, options: RequestOptions) -> None:
        """Raise `RequestError` for the first thing that a request asks for and is not here."""
        for ability, name in self._asked(params, options):
            if getattr(self, ability) in (False, "none"):
                raise RequestError(f"{self.engine} has no {name}: leave it out, or {self.otherwise}")

    @staticmethod
    def _asked(params: SamplingParams, options: RequestOptions) -> Iterator[tuple[str, str]]:
        """Yield the abilities that a request needs, each with its name for people."""
        if options.deadline is not None:
            yield "promises", "promises of time (a deadline)"
        if options.constraint is not None:
            yield "grammar", "grammars, schemas and tools that must be followed"
        if options.adapter is not None:
            yield "adapters", "adapters"
        if params.logprobs is not None or params.logprob_token_ids:
            yield "logprobs", "log-probabilities (logprobs)"
        if params.prompt_logprobs is not None:
            yield "prompt_logprobs", "log-probabilities of the prompt (prompt_logprobs)"
        if params.logit_bias:
            yield "logit_bias", "logit_bias"
        if params.min_tokens:
            yield "min_tokens", "min_tokens"
        if options.explains:
            yield "explanations", "explanation of its tokens"

    def shown(self) -> dict[str, Any]:
        """Return the abilities as plain values, by name, for listings."""
        return {name: value for name, value in asdict(self).items() if name not in ("engine", "otherwise")}


def abilities_of(backend: Backend, *, is_masked: bool) -> ModelAbilities:
    """Return what requests to an engine over ``backend`` can have.

    ``is_masked``: the model restores masked tokens in any order, which a grammar, a bias or a score cannot follow.
    """
    able = backend.capabilities
    name = "a model that restores masked tokens" if is_masked else f"the {backend.identity.name} backend"
    return ModelAbilities(
        engine=name,
        otherwise="choose another model" if is_masked else "load the model with another backend",
        same_bytes=able.same_bytes,
        promises="kept" if able.promises else "none",
        adapters=able.adapters,
        grammar=not is_masked,
        logprobs=not is_masked,
        prompt_logprobs=not is_masked,
        logit_bias=not is_masked,
        min_tokens=not is_masked,
    )
