"""Layers shared out over processes: the same bytes as one process, a clear end when one dies, and no trust in ports."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.backend import RowStates, probe_chunk
from miaotui.backends.options import EngineOptions
from miaotui.backends.stages.backend import StagedBackend
from miaotui.backends.stages.worker import StageModel, bind_stage, listen
from miaotui.engine.engine import Engine
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import from_pattern
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading import readers
from miaotui.engine.request import RequestOptions
from miaotui.errors import EngineError, RequestError, StageLostError, UnsupportedModelError
from miaotui.runtime import load_model
from miaotui.schedule.plan import DraftTree, Plan
from miaotui.types import Deadline, SamplingParams
from tiny_engine import answers, chosen_options, open_engine, settings_in
from tiny_models import make_tiny_folder

PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(0, 300, n)] for n in (3, 20, 20, 37)]
PARAMS = [
    SamplingParams(max_tokens=10, ignore_eos=True),
    SamplingParams(max_tokens=10, ignore_eos=True, temperature=1.0, seed=3),
    SamplingParams(max_tokens=10, ignore_eos=True, temperature=0.8, top_p=0.9, seed=4, logprobs=3),
    SamplingParams(max_tokens=10, temperature=1.0, repetition_penalty=1.2, seed=5),
]
SECRET = b"a secret of many bytes"


def engine_of(path: Path, folder: Path, stages: int, **options: object) -> Engine:
    return open_engine(path, folder, stages=stages, max_sequences=4, kv_tokens=2048, **options)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """One process, and two that share the layers."""
    path = make_tiny_folder(tmp_path, "llama")
    with contextlib.ExitStack() as closing:
        found = [engine_of(path, tmp_path, stages) for stages in (1, 2)]
        for engine in found:
            closing.callback(engine.backend.close)
        yield found[0], found[1]


@pytest.mark.parametrize(("variant", "stages"), [("llama", 3), ("gemma2", 2)])
def test_stages_answer_as_one_process(variant: str, stages: int, tmp_path: Path) -> None:
    path = make_tiny_folder(tmp_path, variant)
    whole, parts = engine_of(path, tmp_path, 1), engine_of(path, tmp_path, stages)
    with contextlib.closing(parts.backend):
        for engine in (whole, parts):
            engine.submit(PROMPTS[1], PARAMS[0])  # others find its prefix
        expected = answers(whole, PROMPTS, *PARAMS)
        assert answers(parts, PROMPTS, *PARAMS) == expected
        assert parts.backend.identity == whole.backend.identity
        assert parts.backend.stats().kv_token_bytes == whole.backend.stats().kv_token_bytes


def test_long_prompts_go_through_in_pieces(tmp_path: Path) -> None:
    path = make_tiny_folder(tmp_path, "llama", max_position_embeddings=1024)
    prompts = [[int(i) for i in np.random.default_rng(n).integers(0, 300, n)] for n in (400, 60)]
    whole, parts = (engine_of(path, tmp_path, stages, chunk_size=512) for stages in (1, 2))
    with contextlib.closing(parts.backend):
        params = [replace(PARAMS[1], prompt_logprobs=2), PARAMS[0]]
        assert answers(parts, prompts, *params) == answers(whole, prompts, *params)


def test_logits_are_the_same_bits_and_drafts_are_verified(pair: tuple[Engine, Engine]) -> None:
    whole, parts = pair
    plan = Plan((probe_chunk(whole.backend.limits, range(20), 0, 20),))
    expected = whole.backend.run(plan).logits.tobytes()
    assert parts.backend.run(plan).logits.tobytes() == expected
    found = []
    for engine in pair:
        (right,) = answers(engine, [PROMPTS[3]], PARAMS[0])
        request = engine.submit(PROMPTS[3], PARAMS[0])
        engine.step()
        wrong = (right[1] + 1) % 300
        tree = DraftTree((right[1], wrong, wrong, right[2]), (-1, 0, -1, 0))
        engine.step({request.number: tree})
        found.append(list(request.token_ids))
        while engine.step():
            pass
        assert request.completion().token_ids == right
    assert found[0] == found[1]
    assert len(found[1]) == 4  # the first, two accepted ones, and the next


def test_grammars_bind_where_the_head_is(pair: tuple[Engine, Engine]) -> None:
    found = []
    for engine in pair:
        constraint = Grammars(engine.tokenizer, 320).constraint(from_pattern("[ab]{4}[0-9]{2}"))
        request = engine.prepare(PROMPTS[0], SamplingParams(temperature=1.0, seed=3), constraint=constraint)
        engine.enter(request)
        while engine.step():
            pass
        found.append(request.completion().text)
    assert found[0] == found[1]
    assert set(found[0]) <= set("ab0123456789")


def test_a_dead_stage_is_one_clear_error_and_then_all_is_as_before(tmp_path: Path) -> None:
    path = make_tiny_folder(tmp_path, "llama")
    options = chosen_options({"stages": 2, "max_sequences": 4, "kv_tokens": 2048})
    model = load_model(path, options, settings_in(tmp_path))
    backend = model.parts.backend
    assert isinstance(backend, StagedBackend)
    loop = EngineLoop(Engine(model.parts, model.tokenizer), model)
    with contextlib.closing(loop):
        (expected,) = readers.whole(loop, lambda: (loop.submit(PROMPTS[3], PARAMS[0]) for _ in range(1)))
        late = RequestOptions(deadline=Deadline(total_ms=600_000))
        (promised,) = readers.whole(loop, lambda: iter([loop.submit(PROMPTS[3], PARAMS[0], late)]))
        assert promised.promise is not None
        assert promised.promise.met
        child = backend.links[0].child
        assert child is not None
        child.kill()
        child.wait()
        with pytest.raises(EngineError, match=r"stage 2 .*has ended"):
            readers.whole(loop, lambda: (loop.submit(PROMPTS[3], PARAMS[0]) for _ in range(1)))
        loop.between_steps(lambda: None)  # the loop has begun anew
        (again,) = readers.whole(loop, lambda: (loop.submit(PROMPTS[3], PARAMS[0]) for _ in range(1)))
        assert again.token_ids == expected.token_ids
        assert again.cached_tokens == 0  # nothing is believed to be in the new stage's pages
    assert backend.links[0].child is None


def test_a_stage_that_died_between_answers_is_not_started_behind_the_engines_back(pair: tuple[Engine, Engine]) -> None:
    backend = pair[1].backend
    assert isinstance(backend, StagedBackend)
    child = backend.links[0].child
    assert child is not None
    child.kill()
    child.wait()
    with pytest.raises(StageLostError):
        backend.probe()
    backend.probe()  # begins anew, after that was said


@contextlib.contextmanager
def listening(model: StageModel, folder: Path, secret: bytes | None = SECRET) -> Iterator[int]:
    with bind_stage("127.0.0.1", 0, secret) as found:
        thread = threading.Thread(target=listen, args=(found, secret, model, settings_in(folder)), daemon=True)
        thread.start()
        yield found.getsockname()[1]
        found.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


def test_a_stage_elsewhere_computes_for_who_knows_its_secret(tmp_path: Path) -> None:
    path = make_tiny_folder(tmp_path, "llama")
    key, wrong = tmp_path / "key", tmp_path / "wrong"
    key.write_bytes(SECRET + b"\n")
    wrong.write_bytes(b"another secret of bytes")
    whole = engine_of(path, tmp_path, 1)
    with listening(StageModel.of(path), tmp_path) as port:
        place = (f"127.0.0.1:{port}",)
        with pytest.raises(StageLostError, match="key file"):
            engine_of(path, tmp_path, 1, stage_at=place, stage_key_file=str(wrong))
        other = make_tiny_folder(tmp_path, "llama", seed=1)
        with pytest.raises(EngineError, match="another model file"):
            engine_of(other, tmp_path, 1, stage_at=place, stage_key_file=str(key))
        parts = engine_of(path, tmp_path, 2, stage_at=place, stage_key_file=str(key))
        with contextlib.closing(parts.backend):
            assert answers(parts, PROMPTS, *PARAMS) == answers(whole, PROMPTS, *PARAMS)


def test_what_stages_cannot_do_is_refused_by_name(tmp_path: Path, pair: tuple[Engine, Engine]) -> None:
    with pytest.raises(UnsupportedModelError, match="more than one residual stream"):
        engine_of(make_tiny_folder(tmp_path, "gemma3n"), tmp_path, 2)
    with pytest.raises(RequestError, match="stages must be 1 to 3"):
        engine_of(make_tiny_folder(tmp_path, "mistral"), tmp_path, 9)
    with pytest.raises(RequestError, match="has no stages"):
        EngineOptions(backend="reference", stages=2)
    with pytest.raises(RequestError, match="HOST:PORT"):
        engine_of(tmp_path / "llama-0", tmp_path, 1, stage_at=("nowhere",))
    with pytest.raises(RequestError, match="key-file"):
        bind_stage("0.0.0.0", 0, None)
    backend, plan = pair[1].backend, Plan((probe_chunk(pair[1].backend.limits, range(2)),))
    with pytest.raises(RequestError, match="no hidden states"):
        backend.run(plan, states=RowStates(layers=(1,)))
    with pytest.raises(RequestError, match="no adapters"):
        backend.add_adapter(1, {})
