"""Decoding in parallel: exact caches change no token, blocks of one are plain autoregression, and answers end."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import miaotui
from miaotui.backends.backend import Backend
from miaotui.backends.cpu.build import assemble
from miaotui.backends.options import EngineOptions
from miaotui.backends.reference.build import assemble as assemble_reference
from miaotui.dmlm import MaskedLM, load_masked
from miaotui.dmlm.decoding.acceptance import Acceptance
from miaotui.dmlm.decoding.decode import DecodedPass, DecodeOptions, decode, propose, restore
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.engine.turns import PlainSharer, shared_turns
from miaotui.errors import EngineError, PromptTooLongError, RequestError, UnsupportedModelError
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime import compiled
from miaotui.model.config import MaskedConfig, ModelConfig
from miaotui.model.oracle import Oracle
from tiny_engine import pack_tiny
from tiny_masked import MASK, make_masked_folder, masked_config
from tiny_models import make_tiny_folder, tiny_weights

PROMPT = [int(token) for token in np.random.default_rng(5).integers(0, 256, 11)]
SIZES = {"chunk_size": 64, "max_sequences": 16}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[ModelConfig, Backend]]:
    made: dict[tuple[str, str], tuple[ModelConfig, Backend]] = {}

    def build(variant: str, name: str) -> tuple[ModelConfig, Backend]:
        if (variant, name) not in made:
            config = masked_config(variant)
            if name == "cpu":
                weights = pack_tiny(config, tmp_path_factory.mktemp(variant), Format.Q8)
                backend = assemble(config, weights, EngineOptions(format=Format.Q8, threads=1, **SIZES)).backend
            else:
                options = EngineOptions(backend="reference", **SIZES)
                backend = assemble_reference(config, tiny_weights(config), options).backend
            made[variant, name] = config, backend
        return made[variant, name]

    return build


def run(
    config: ModelConfig, passes: TextPasses, options: DecodeOptions, ends: tuple[int, ...] = ()
) -> list[DecodedPass]:
    assert config.masked is not None
    return list(decode(passes, config.masked, PROMPT, options, ends))


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(30),
        DecodeOptions(30, acceptance=Acceptance(count=3)),
        DecodeOptions(30, acceptance=Acceptance(factor=1.5), temperature=0.8, seed=3),
    ],
    ids=["threshold", "count", "factor"],
)
def test_exact_cache_changes_no_token(built: object, name: str, options: DecodeOptions) -> None:
    config, backend = built("bd3lm", name)  # type: ignore[operator]
    assert config.masked is not None
    cached = TextPasses(backend, config.masked)
    with_cache = run(config, cached, options)
    rows = cached.rows
    whole = TextPasses(backend, config.masked, exact_cache=False)
    assert run(config, whole, options) == with_cache
    assert rows < whole.rows
    assert MASK not in with_cache[-1].tokens
    assert with_cache[-1].final == 30


@pytest.mark.parametrize("variant", ["llada", "dream"])
def test_one_token_a_pass_follows_the_definition(built: object, variant: str) -> None:
    """The loop written out: whole passes of the oracle, the most confident token of the block stays."""
    config, backend = built(variant, "reference")  # type: ignore[operator]
    assert config.masked is not None
    found = run(config, TextPasses(backend, config.masked), DecodeOptions(8, block=4, acceptance=Acceptance(count=1)))
    oracle = Oracle(config, tiny_weights(config))
    text = [*PROMPT, *[MASK] * 8]
    for step, start in enumerate([11] * 4 + [15] * 4):
        logits = oracle.logits(text).astype(np.float64)
        if variant == "dream":
            logits = np.roll(logits, 1, axis=0)  # a position's logits are those of the row before
        logits[:, MASK] = -np.inf
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        open_places = [at for at in range(start, start + 4) if text[at] == MASK]
        best = max(open_places, key=lambda at: chances[at].max())
        text[best] = int(chances[best].argmax())
        assert found[step].tokens == text


def test_blocks_of_one_with_shifted_logits_are_plain_autoregression(built: object) -> None:
    config, backend = built("bd3lm", "reference")  # type: ignore[operator]
    causal = Oracle(dataclasses.replace(config, masked=None), tiny_weights(config))
    masked = MaskedConfig(MASK, block=1, shifted=True)
    *_, last = decode(TextPasses(backend, masked), masked, PROMPT, DecodeOptions(10))
    text = list(PROMPT)
    for _ in range(10):
        logits = causal.logits(text)[-1]
        logits[MASK] = -np.inf
        text.append(int(logits.argmax()))
    assert last.tokens == text


def test_a_low_threshold_takes_one_pass_a_block(built: object) -> None:
    config, backend = built("bd3lm", "cpu")  # type: ignore[operator]
    options = DecodeOptions(29, acceptance=Acceptance(threshold=1e-9))
    assert len(run(config, TextPasses(backend, config.masked), options)) == 4  # 11..15, then three blocks of eight
    config, backend = built("llada", "cpu")  # type: ignore[operator]
    assert len(run(config, TextPasses(backend, config.masked), dataclasses.replace(options, block=10))) == 3


def test_prefix_cache_computes_fewer_rows(built: object) -> None:
    config, backend = built("llada", "cpu")  # type: ignore[operator]
    options = DecodeOptions(24, block=8, acceptance=Acceptance(count=1))
    whole, kept = TextPasses(backend, config.masked), TextPasses(backend, config.masked)
    run(config, whole, options)
    lossy = run(config, kept, dataclasses.replace(options, prefix_cache=True))
    assert kept.passes == whole.passes == 24
    assert kept.rows < 0.7 * whole.rows
    assert MASK not in lossy[-1].tokens


def test_draws_are_those_of_the_distribution(built: object) -> None:
    config, backend = built("bd3lm", "cpu")  # type: ignore[operator]
    passes = TextPasses(backend, config.masked)
    greedy = run(config, passes, DecodeOptions(16))[-1].tokens
    assert run(config, passes, DecodeOptions(16, temperature=1.0, top_k=1))[-1].tokens == greedy
    logits = np.random.default_rng(2).standard_normal((1, config.vocab_size), np.float32)
    chances = np.exp(logits[0].astype(np.float64))
    chances[MASK] = 0
    chances /= chances.sum()
    drawn = np.zeros(config.vocab_size)
    for seed in range(4000):
        options = DecodeOptions(temperature=1.0, seed=seed)
        (token,), confidence = propose(logits.copy(), [3], MASK, options, backend.sampling)
        assert confidence[0] == pytest.approx(chances[token], rel=1e-3)
        drawn[token] += 1
    best = np.argsort(-chances)[:5]
    assert drawn[best] / 4000 == pytest.approx(chances[best], abs=4 * np.sqrt(chances[best].max() / 4000))
    with pytest.raises(EngineError, match="not numbers"):
        propose(np.full((1, config.vocab_size), np.nan, np.float32), [3], MASK, options, backend.sampling)


def test_draws_depend_on_the_seed(built: object) -> None:
    config, backend = built("bd3lm", "cpu")  # type: ignore[operator]
    passes = TextPasses(backend, config.masked)
    texts = {tuple(run(config, passes, DecodeOptions(16, temperature=1.0, seed=seed))[-1].tokens) for seed in (1, 1, 2)}
    assert len(texts) == 2


def test_an_end_token_ends_behind_its_block(built: object) -> None:
    config, backend = built("bd3lm", "cpu")  # type: ignore[operator]
    passes = TextPasses(backend, config.masked)
    free = run(config, passes, DecodeOptions(30))[-1].tokens
    ended = run(config, passes, DecodeOptions(30), ends=(free[13],))[-1].tokens
    assert ended[:16] == free[:16]
    assert ended[16:] == [MASK] * 25


def test_restore_fills_masks_anywhere_and_changes_nothing_else(built: object) -> None:
    for variant in ("llada", "bd3lm"):
        config, backend = built(variant, "cpu")  # type: ignore[operator]
        text = [MASK if at % 5 == 2 else token for at, token in enumerate(PROMPT * 2)]
        *_, last = restore(TextPasses(backend, config.masked), config.masked, text, DecodeOptions())
        assert MASK not in last.tokens
        assert [token for token, was in zip(last.tokens, text, strict=True) if was != MASK] == [
            t for t in text if t != MASK
        ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MaskedLM:
    folder = tmp_path_factory.mktemp("masked")
    return load_masked(make_masked_folder(folder, "bd3lm"), backend="reference", chunk_size=64)


def test_a_loaded_model_answers_and_streams(model: MaskedLM) -> None:
    options = DecodeOptions(20, acceptance=Acceptance(count=2))
    answer = model.generate("the end", options)
    assert "".join(model.stream("the end", options)) == answer.text
    assert answer.finish_reason == ("length" if len(answer.token_ids) == 20 else "stop")
    assert answer.prompt_tokens == len(model.tokenizer.encode("the end"))
    assert model.generate(model.tokenizer.encode("the end"), options).token_ids == answer.token_ids
    assert answer.tokens_per_pass > 1
    said = model.chat([{"role": "user", "content": "the end"}], options)
    assert said.prompt_tokens > answer.prompt_tokens
    stream = model.stream("the end", options)
    next(stream)
    stream.close()  # leaving early frees the model for the next text
    assert model.generate("the end", options).text == answer.text


def test_models_of_one_process_take_turns_at_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.cache_folder()  # remembered for the rest of the process
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    options = DecodeOptions(60, acceptance=Acceptance(count=1))
    with (
        load_masked(make_masked_folder(tmp_path, "bd3lm"), chunk_size=64) as masked,
        miaotui.load(make_tiny_folder(tmp_path, "llama")) as llm,
        ThreadPoolExecutor(2) as threads,
    ):
        alone = masked.generate("the end", options).text, llm.generate("the end", max_tokens=100, ignore_eos=True).text
        for _ in range(5):
            one = threads.submit(masked.generate, "the end", options)
            other = threads.submit(llm.generate, "the end", max_tokens=100, ignore_eos=True)
            assert (one.result().text, other.result().text) == alone


def test_a_dropped_model_gives_everything_back(tmp_path: Path) -> None:
    model = load_masked(make_masked_folder(tmp_path, "bd3lm"), backend="reference")
    model.generate("the end", DecodeOptions(4))
    sharer, kept = weakref.ref(model._sharer), weakref.ref(model)
    assert sharer() in shared_turns().others(PlainSharer())
    del model
    gc.collect()
    assert kept() is None
    assert sharer() is None


def test_wrong_calls_are_refused(model: MaskedLM, tmp_path: Path) -> None:
    for prompt in (None, b"abc", [1.5], 7):
        with pytest.raises(RequestError, match="a prompt must be text or token ids"):
            model.generate(prompt)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no mask"):
        model.restore([1, 2, 3])
    with pytest.raises(PromptTooLongError, match="context"):
        model.restore([model.masked.mask_id] * 10_000)
    with pytest.raises(PromptTooLongError, match="context"):
        model.generate("a", DecodeOptions(10_000))
    with pytest.raises(RequestError, match="token ids"):
        model.generate([1, 5000])
    with pytest.raises(UnsupportedModelError, match="continues texts"):
        load_masked(make_tiny_folder(tmp_path, "llama"), backend="reference")
    closed = load_masked(make_masked_folder(tmp_path, "dream"), backend="reference")
    with pytest.raises(RequestError, match="prompt must have a token"):
        closed.generate([])
    closed.close()
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        closed.generate("a")
    whole = load_masked(make_masked_folder(tmp_path, "llada"), backend="reference", chunk_size=32)
    with pytest.raises(PromptTooLongError, match="chunk_size"):
        whole.generate("a", DecodeOptions(80))
