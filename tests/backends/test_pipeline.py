"""A model cut in two by layers: the engine's answers are those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.backend import RowStates, probe_chunk
from miaotui.backends.options import Built, EngineOptions
from miaotui.backends.reference.backend import ReferenceBackend
from miaotui.backends.reference.build import reference_sizes
from miaotui.backends.reference.pipeline import Pipeline
from miaotui.engine.engine import Engine
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import from_pattern
from miaotui.errors import EngineError
from miaotui.model.oracle import Oracle
from miaotui.schedule.plan import Plan
from miaotui.schedule.scheduler import Scheduler
from miaotui.text.load import load_tokenizer
from miaotui.types import SamplingParams
from tiny_engine import answers
from tiny_models import tiny_config, tiny_weights
from tiny_tokenizer import write_tokenizer

OPTIONS = EngineOptions(backend="reference", max_sequences=4, chunk_size=16, kv_tokens=256)
PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(0, 300, n)] for n in (3, 20, 20, 37)]
PARAMS = [
    SamplingParams(max_tokens=10, ignore_eos=True),
    SamplingParams(max_tokens=10, ignore_eos=True, temperature=1.0, seed=3),
    SamplingParams(max_tokens=10, ignore_eos=True, temperature=0.8, top_p=0.9, seed=4, logprobs=3),
    SamplingParams(max_tokens=10, temperature=1.0, repetition_penalty=1.2, seed=5),
]


def stage(variant: str, layers: range) -> ReferenceBackend:
    config = tiny_config(variant)
    return ReferenceBackend(Oracle(config, tiny_weights(config)), reference_sizes(config, OPTIONS, layers).limits)


def engine_over(variant: str, cuts: tuple[int, ...], folder: Path) -> Engine:
    """An engine over the whole model, or over stages that end at ``cuts``."""
    config = tiny_config(variant)
    ends = (*cuts, config.n_layers)
    stages = [stage(variant, range(start, end)) for start, end in zip((0, *cuts), ends, strict=True)]
    backend = Pipeline(stages) if cuts else stages[0]
    write_tokenizer(folder)
    built = Built(backend, Scheduler(reference_sizes(config, OPTIONS).schedule))
    return Engine(built, load_tokenizer(None, folder))


@pytest.mark.parametrize(("variant", "cuts"), [("llama", (1,)), ("llama", (1, 2)), ("gemma2", (2,)), ("mistral", (2,))])
def test_a_model_cut_by_layers_answers_as_the_whole(variant: str, cuts: tuple[int, ...], tmp_path: Path) -> None:
    whole, parts = engine_over(variant, (), tmp_path), engine_over(variant, cuts, tmp_path)
    for engine in (whole, parts):
        engine.submit(PROMPTS[1], PARAMS[0])  # others find its prefix
    expected = answers(whole, PROMPTS, *PARAMS)
    assert answers(parts, PROMPTS, *PARAMS) == expected
    alone = engine_over(variant, cuts, tmp_path)
    assert [answers(alone, [prompt], params)[0] for prompt, params in zip(PROMPTS, PARAMS, strict=True)] == expected


def test_grammars_bind_the_last_stage(tmp_path: Path) -> None:
    found = []
    for cuts in ((), (1,)):
        engine = engine_over("llama", cuts, tmp_path)
        grammars = Grammars(engine.tokenizer, 320)
        request = engine.prepare(
            PROMPTS[0],
            SamplingParams(temperature=1.0, seed=3),
            constraint=grammars.constraint(from_pattern("[ab]{4}[0-9]{2}")),
        )
        engine.enter(request)
        while engine.step():
            pass
        found.append(request.completion().text)
    assert found[0] == found[1]
    assert len(found[0]) <= 6
    assert set(found[0]) <= set("ab0123456789")


def test_states_and_logits_are_those_of_the_whole(tmp_path: Path) -> None:
    whole = stage("llama", range(3))
    cut = Pipeline([stage("llama", range(1)), stage("llama", range(1, 3))])
    plan, states = Plan((probe_chunk(whole.limits, range(20), 0, 20),)), RowStates(layers=(0, 1, 2, 3))
    one, other = whole.run(plan, states=states), cut.run(plan, states=states)
    assert one.logits.tobytes() == other.logits.tobytes()
    assert one.states.keys() == other.states.keys()
    assert all(one.states[layer].tobytes() == other.states[layer].tobytes() for layer in one.states)
    assert cut.limits.layers == whole.limits.layers
    assert cut.identity != whole.identity
    assert (
        cut.read_cache(2, plan.chunks[0].pages, 20).tobytes() == whole.read_cache(2, plan.chunks[0].pages, 20).tobytes()
    )


def test_layers_that_do_not_join_are_refused() -> None:
    with pytest.raises(EngineError, match=r"range\(0, 1\) and range\(2, 3\) do not join"):
        Pipeline([stage("llama", range(1)), stage("llama", range(2, 3))])
