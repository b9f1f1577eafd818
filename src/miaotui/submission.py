"""From the arguments of a Python call to requests of an `EngineLoop`, for `LLM` and `AsyncLLM` alike.

Owns the names and the checks of all parameters, and the way from text, token ids and messages to prompts. Knows no
thread and no event loop. Invariant: what a caller gets wrong is a `RequestError` before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeGuard, cast

import numpy as np

from miaotui.engine.adapters import LoadedAdapter
from miaotui.engine.model_loop import ModelLoop, ModelParts
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import FieldError, RequestError
from miaotui.text.chat import Message
from miaotui.text.continuation import continued
from miaotui.types import Completion, Deadline, OnLate, SamplingParams, token_ids

if TYPE_CHECKING:  # imported by the first request that needs them
    from miaotui.engine.constraint import Constraint
    from miaotui.engine.grammar.constraint import Grammars
    from miaotui.text.answers import AnswerReader, AnswerSyntax
    from miaotui.text.tokenizers.tokenizer import Tokenizer
    from miaotui.text.tool_calls.tooling import Tooling

Prompt = str | Sequence[int]
ReasoningChoice = Literal["auto", "none"]


class TextParameters(TypedDict, total=False):
    """The keywords of `LLM.generate` and `LLM.stream`. None is as good as absent.

    First those of `SamplingParams`. Then: ``deadline_ms`` from now to the whole answer, with ``on_late`` (``refuse``,
    ``shorten``, ``best_effort``), or a whole ``deadline``; ``passages``, texts or token ids that the answer may quote
    (drafts are taken from them); ``namespace``, within which prefixes and past answers are shared; ``adapter``, by its
    name in `LLM.load_adapter`;
    ``response_format`` as OpenAI has it (``json_schema``, ``json_object``, and ours ``regex``, ``choice``, ``lark``) or
    ``structured_outputs`` as vLLM has it (``json``, ``json_object``, ``regex``, ``choice``, ``grammar``).
    """

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int] | set[int]
    ignore_eos: bool
    min_tokens: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    logprobs: int | None
    logprob_token_ids: Sequence[int]
    prompt_logprobs: int | None
    prompt_logprobs_start: int
    deadline_ms: float | None
    on_late: OnLate | None
    deadline: Deadline | None
    passages: Sequence[Prompt] | None
    namespace: int
    adapter: str | None
    response_format: Mapping[str, Any] | None
    structured_outputs: Mapping[str, Any] | None


class ChatParameters(TextParameters, total=False):
    """The keywords of `LLM.chat` and `LLM.chat_stream`: those of `TextParameters`, and OpenAI's for tools.

    ``tools`` are functions in OpenAI's form, ``tool_choice`` is ``auto``, ``none``, ``required`` or names one;
    ``chat_template_kwargs`` are options that the model's template knows. ``max_reasoning_tokens`` closes the model's
    thought after so many tokens; ``reasoning_format="none"`` leaves the thought in the text.
    """

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    chat_template_kwargs: Mapping[str, Any] | None
    max_reasoning_tokens: int | None
    reasoning_format: ReasoningChoice | None


_SAMPLING = tuple(SamplingParams.__dataclass_fields__)
TEXT_NAMES = tuple(TextParameters.__annotations__)
CHAT_NAMES = tuple(ChatParameters.__annotations__)


@dataclass(frozen=True)
class Submission:
    """Prompts that are answered together, and how: each has its own parameters.

    ``constraint`` makes what holds one answer to a grammar; ``syntax`` tells thoughts and tool calls from text.
    """

    prompts: Sequence[Sequence[int]]
    params: Sequence[SamplingParams]
    options: RequestOptions
    constraint: Callable[[], Constraint] | None = None
    syntax: AnswerSyntax | None = None
    tokenizer: Tokenizer | None = None

    def submit(self, loop: ModelLoop) -> Iterator[Request]:
        """Submit one request after the other. Raises what `EngineLoop.submit` raises."""
        for prompt, params in zip(self.prompts, self.params, strict=True):
            options = self.options
            if self.constraint is not None:  # each answer has its own place in the grammar
                options = replace(options, constraint=self.constraint())
            yield loop.submit(prompt, params, options)

    def submit_one(self, loop: ModelLoop) -> Request:
        """Submit the only prompt. Raises what `EngineLoop.submit` raises."""
        (request,) = self.submit(loop)
        return request

    def reader(self) -> AnswerReader | None:
        """Return what tells the parts of one answer apart; None: it is text alone."""
        if self.syntax is None or self.tokenizer is None or self.syntax.is_plain:
            return None
        from miaotui.text.answers import AnswerReader  # noqa: PLC0415  (few requests need it)

        return AnswerReader(self.syntax, self.tokenizer)

    def finished(self, completions: Sequence[Completion]) -> list[Completion]:
        """Return whole answers with their thoughts and tool calls apart from their text."""
        return [each if (reader := self.reader()) is None else reader.read_whole(each) for each in completions]


class SubmissionReader:
    """Reads the arguments of calls for one model; it outlives the model's memory."""

    def __init__(self, model: ModelParts, adapter: LoadedAdapter | str | None = None) -> None:
        self._adapter = adapter  # of calls that name none
        self._tokenizer, self._chat, self._context = model.tokenizer, model.chat, model.context
        self._vocab_size = model.config.vocab_size

    @cached_property
    def _grammars(self) -> Grammars:
        from miaotui.engine.grammar.constraint import Grammars  # noqa: PLC0415  (few requests have a grammar)

        return Grammars(self._tokenizer, self._vocab_size)

    def texts(
        self, prompts: Sequence[Prompt], params: SamplingParams | None, parameters: Mapping[str, Any]
    ) -> Submission:
        """Read the arguments of `LLM.generate`. Raises `RequestError`."""
        require_known(parameters, TEXT_NAMES)
        sampling = read_params(params, parameters)
        options, constraint = self._options(parameters), self._constraint(parameters, None)
        tokens = [self.tokens(prompt) for prompt in prompts]
        return Submission(tokens, [sampling] * len(prompts), options, constraint)

    def infill(
        self,
        prefix: str,
        suffix: str,
        files: Sequence[tuple[str, str]],
        params: SamplingParams | None,
        parameters: Mapping[str, Any],
    ) -> Submission:
        """Read the arguments of `LLM.infill`. Raises `RequestError`, and `PromptTooLongError`."""
        from miaotui.text.infill import named_texts, require_infiller  # noqa: PLC0415  (few requests fill in)

        require_known(parameters, TEXT_NAMES)
        for name, text in (("prefix", prefix), ("suffix", suffix)):
            if not isinstance(text, str):
                raise FieldError(name, f"must be text, not {type(text).__name__}")
        sampling = read_params(params, parameters)
        options, constraint = self._options(parameters), self._constraint(parameters, None)
        infiller = require_infiller(self._tokenizer)
        prompt = infiller.encode(prefix, suffix, files=named_texts(files), at_most=self._context)
        sampling = replace(sampling, stop_token_ids=(*sampling.stop_token_ids, *infiller.end_ids))
        return Submission([prompt], [sampling], options, constraint)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None, parameters: Mapping[str, Any]
    ) -> Submission:
        """Read the arguments of `LLM.chat`. Raises `RequestError`, and `TemplateError` without a template."""
        require_known(parameters, CHAT_NAMES)
        sampling = read_params(params, parameters)
        options, tooling = self._options(parameters), self._tooling(parameters)
        budget, separate = read_reasoning(parameters)
        described = None if tooling is None else tooling.described
        kwargs = parameters.get("chat_template_kwargs")
        prompt = self._chat.encode(messages, described, options=kwargs, at_most=self._context)
        syntax, constraint = self._syntax(prompt, tooling, separate), self._constraint(parameters, tooling)
        if self._chat.reasoning is not None and (constraint is not None or budget is not None):
            constraint = self._with_reasoning(prompt, budget, constraint, tooling is not None and bool(tooling.tools))
        return Submission([prompt], [sampling], options, constraint, syntax, self._tokenizer)

    def scored(self, prompt: Prompt, continuations: Sequence[Prompt]) -> tuple[Submission, list[int]]:
        """Read the arguments of `LLM.score`; the numbers are the positions at which continuations begin."""
        if isinstance(continuations, str):
            raise RequestError("continuations must be a list: [text] for one")
        whole = [self._continued(prompt, continuation) for continuation in continuations]
        params = [SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=start) for _, start in whole]
        options = RequestOptions(adapter=self._adapter)
        return Submission([tokens for tokens, _ in whole], params, options), [start for _, start in whole]

    def _continued(self, prompt: Prompt, continuation: Prompt) -> tuple[list[int], int]:
        before, after = (part if isinstance(part, str) else self.tokens(part) for part in (prompt, continuation))
        return continued(self._tokenizer, before, after, at_most=self._context)

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return a prompt's token ids. Raises `RequestError`, and `PromptTooLongError`."""
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, at_most=self._context)
        return token_ids(prompt)

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return a conversation's token ids, ready for the assistant's turn.

        Contents are text: what looks like a control token in them is none.
        """
        return self._chat.encode(messages, at_most=self._context)

    def _tooling(self, parameters: Mapping[str, Any]) -> Tooling | None:
        tools, choice = parameters.get("tools"), parameters.get("tool_choice")
        if not tools and choice is None:
            return None
        from miaotui.text.tool_calls.tooling import read_tooling  # noqa: PLC0415  (few requests have tools)

        return read_tooling(self._chat.dialect, tools, choice, parameters.get("parallel_tool_calls"))

    def _syntax(self, prompt: Sequence[int], tooling: Tooling | None, separate: bool) -> AnswerSyntax | None:
        form = self._chat.reasoning if separate else None
        if form is None and tooling is None:
            return None
        from miaotui.text.answers import AnswerSyntax, is_thought_open  # noqa: PLC0415  (few requests need them)
        from miaotui.text.tool_calls.tooling import Tooling  # noqa: PLC0415  (as above)

        is_open = form is not None and is_thought_open(form, self._tokenizer, prompt)
        return AnswerSyntax(tooling or Tooling(self._chat.dialect), form, is_open)

    def _with_reasoning(
        self, prompt: Sequence[int], budget: int | None, inner: Callable[[], Constraint] | None, has_tools: bool
    ) -> Callable[[], Constraint]:
        from miaotui.engine.grammar.reasoning import reasoning_tokens, with_reasoning  # noqa: PLC0415  (rare)
        from miaotui.text.answers import is_thought_open  # noqa: PLC0415  (few requests need it)

        form = self._chat.reasoning
        assert form is not None, "asked only for models that think"
        tokens = reasoning_tokens(form, self._tokenizer, self._vocab_size, has_tools)
        return with_reasoning(tokens, is_thought_open(form, self._tokenizer, prompt), budget, inner)

    def _constraint(self, parameters: Mapping[str, Any], tooling: Tooling | None) -> Callable[[], Constraint] | None:
        format_, structured = parameters.get("response_format"), parameters.get("structured_outputs")
        if format_ is None and structured is None and tooling is None:
            return None
        from miaotui.engine.grammar import response_format as formats  # noqa: PLC0415  (few requests have one)
        from miaotui.text.tool_calls.tooling import Tooling  # noqa: PLC0415  (as above)

        if format_ is not None and structured is not None:
            raise RequestError("response_format: give it or structured_outputs, not both")
        shape = formats.read_format(format_) or formats.read_structured(structured)
        field = formats.FORMAT if structured is None else formats.STRUCTURED
        wanted = formats.answer_grammar(tooling or Tooling(self._chat.dialect), shape, self._tokenizer, field)
        return None if wanted is None else wanted.constraints(self._grammars)

    def _options(self, parameters: Mapping[str, Any]) -> RequestOptions:
        adapter = parameters.get("adapter") or self._adapter
        if not isinstance(adapter, LoadedAdapter | str | None):
            raise RequestError(f"adapter must be the name of a loaded adapter, not {adapter!r:.80}")
        namespace = parameters.get("namespace") or 0
        if isinstance(namespace, bool) or not isinstance(namespace, int):
            raise RequestError(f"namespace must be a whole number, not {namespace!r}")
        given = parameters.get("passages") or ()
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise RequestError("passages must be a list of texts, or of lists of token ids")
        encode = self._tokenizer.encode
        passages = [encode(each, special=False) if isinstance(each, str) else self.tokens(each) for each in given]
        return RequestOptions(namespace, deadline=read_deadline(parameters), passages=passages, adapter=adapter)


def is_prompt(prompt: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    """Return whether it is one prompt (text, or token ids) and not several. Raises `RequestError` for neither."""
    if isinstance(prompt, str):
        return True
    if not isinstance(prompt, (Sequence, np.ndarray)) or isinstance(prompt, (bytes, bytearray)):
        kind = type(prompt).__name__
        raise RequestError(f"a prompt must be text, token ids, or a list of those, not {kind}")
    return len(prompt) > 0 and isinstance(prompt[0], (int, np.integer))


def read_params(params: SamplingParams | None, parameters: Mapping[str, Any]) -> SamplingParams:
    """Return one `SamplingParams` from either form. Raises `RequestError`."""
    given = {name: _plain(parameters[name]) for name in _SAMPLING if parameters.get(name) is not None}
    if params is not None:
        if given:
            raise RequestError("give sampling parameters as one object or as keywords, not both")
        return params
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    for name in ("stop", "stop_token_ids", "logprob_token_ids"):
        if isinstance(given.get(name), (list, set, frozenset)):
            given[name] = tuple(given[name])
    return SamplingParams(**given)


def read_reasoning(parameters: Mapping[str, Any]) -> tuple[int | None, bool]:
    """Return the budget of a thought in tokens (None: no limit), and whether it is kept apart from the text.

    Raises `RequestError`.
    """
    budget, form = _plain(parameters.get("max_reasoning_tokens")), parameters.get("reasoning_format")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
        raise RequestError(f"max_reasoning_tokens must be a whole number from 0 on, not {budget!r}")
    if form not in (None, "auto", "none"):
        raise RequestError(f"reasoning_format must be 'auto' or 'none', not {form!r}")
    return budget, form != "none"


def read_deadline(parameters: Mapping[str, Any]) -> Deadline | None:
    """Return the deadline that the keywords name; None if they name none. Raises `RequestError`."""
    deadline, total_ms, on_late = (parameters.get(name) for name in ("deadline", "deadline_ms", "on_late"))
    if deadline is not None:
        if total_ms is not None or on_late is not None:
            raise RequestError("deadline: give it as one object, or as deadline_ms and on_late, not both")
        if not isinstance(deadline, Deadline):
            raise RequestError(
                f"deadline must be a miaotui.Deadline, not {type(deadline).__name__}: or use deadline_ms"
            )
        return deadline
    if total_ms is None:
        if on_late is not None:
            raise RequestError("on_late says what happens to a late answer: give deadline_ms with it")
        return None
    return Deadline(_plain(total_ms), on_late=cast("OnLate", on_late or "refuse"))


def require_known(given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise `RequestError` for a name that is not in ``names``; it names the nearest one."""
    import difflib  # noqa: PLC0415  (only for the error)

    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}"
            raise RequestError(f"unknown parameter {name!r}: {hint}")


def _plain(value: Any) -> Any:
    """Return a number of NumPy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
