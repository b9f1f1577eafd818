"""The compiled encoder: held to the oracle for every family, and the same bytes whatever shares a pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.backends.cpu.encoder.backend import CpuEncoder
from miaotui.backends.cpu.encoder.build import assemble_encoder, build_encoder, encoder_limits
from miaotui.backends.cpu.encoder.program import require_runnable_encoder
from miaotui.backends.encoder_backend import EncoderLimits, TextRows
from miaotui.config import Settings
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from tiny_encoders import (
    VARIANTS,
    hf_tensors,
    make_tiny_encoder,
    make_tiny_encoder_gguf,
    tiny_encoder_config,
    tiny_encoder_values,
    tiny_encoder_weights,
    write_encoder,
)

Floats = NDArray[np.float32]

SIZES = (5, 1, 33, 16, 78, 17)
LEAST_COSINE = {Format.F32: 0.99999, Format.Q8: 0.999}  # of the mean of a text's states
LEAST_OF_ONE_TOKEN = {Format.F32: 0.99999, Format.Q8: 0.99}  # random weights, 64 values


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


def settings_of(home: Path) -> Settings:
    return replace(Settings.from_env(), cache_dir=home)


def folder_of(home: Path, variant: str) -> Path:
    """The folder of a tiny model, made by the first test that asks for it."""
    path = home / f"{variant}-0"
    return path if path.exists() else make_tiny_encoder(home, variant)


def built(home: Path, variant: str, form: Format = Format.Q8, threads: int = 1) -> CpuEncoder:
    path = folder_of(home, variant)
    with open_encoder(path) as opened:
        return build_encoder(path, opened, settings_of(home), form=form, threads=threads)


def texts_of(variant: str, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> list[TextRows]:
    types = tiny_encoder_config(variant).type_vocab_size
    rng = np.random.default_rng(seed)
    return [
        TextRows(rng.integers(0, 320, n).tolist(), rng.integers(0, types, n).tolist() if types > 1 else ())
        for n in sizes
    ]


def oracle_of(home: Path, variant: str, form: Format = Format.F32) -> EncoderOracle:
    """The oracle over the weights as they are packed."""
    with open_encoder(folder_of(home, variant)) as opened:
        weights = {name: rounded(name, tensor.float32(), form) for name, tensor in opened.weights.items()}
        return EncoderOracle(opened.config, weights)


def rounded(name: str, weights: Floats, form: Format) -> Floats:
    if (
        weights.ndim == 1
        or form is Format.F32
        or name in ("position_embed", "type_embed", "relative_bias", "relative_embed")
    ):
        return weights
    return values(quantize(form, weights))


def states_of(encoder: CpuEncoder, texts: list[TextRows]) -> list[Floats]:
    return [states.copy() for states in encoder.encode(texts).states]


def cosines(found: Floats, expected: Floats) -> Floats:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    result: Floats = (found * expected).sum(axis=1) / lengths
    return result


@pytest.mark.parametrize("form", LEAST_COSINE, ids=lambda form: form.value)
@pytest.mark.parametrize("variant", VARIANTS)
def test_states_are_the_oracles(home: Path, variant: str, form: Format) -> None:
    encoder, texts = built(home, variant, form), texts_of(variant)
    oracle = oracle_of(home, variant, form)
    for text, states in zip(texts, states_of(encoder, texts), strict=True):
        assert states.shape == (len(text.tokens), 64)
        expected = oracle.states(text.tokens, text.types)
        assert cosines(states, expected).min() >= LEAST_OF_ONE_TOKEN[form]
        pooled = cosines(states.mean(axis=0, keepdims=True), expected.mean(axis=0, keepdims=True))
        assert pooled.min() >= LEAST_COSINE[form]
        if form is Format.F32:
            np.testing.assert_allclose(states, expected, atol=2e-4)


@pytest.mark.parametrize("form", LEAST_COSINE, ids=lambda form: form.value)
@pytest.mark.parametrize(
    "variant", ["bert", "albert", "modernbert", "nomic-bert", "mpnet", "jina-bert-v2", "deberta-v3"]
)
def test_a_text_has_the_same_bytes_alone_and_among_others(home: Path, variant: str, form: Format) -> None:
    texts = texts_of(variant)
    alone = [states_of(built(home, variant, form), [text])[0] for text in texts]
    for threads in (1, 2, 3):
        encoder = built(home, variant, form, threads)
        for order in ([0, 1, 2, 3, 4, 5], [4, 2, 0, 5, 3, 1], [1, 1, 1, 4, 4, 2]):
            for index, states in zip(order, states_of(encoder, [texts[i] for i in order]), strict=True):
                np.testing.assert_array_equal(states, alone[index])


@pytest.mark.parametrize("rows", [200, 700])
def test_many_texts_take_several_passes_and_keep_their_bytes(home: Path, rows: int) -> None:
    limits = EncoderLimits(rows=rows, tokens=80)
    path = folder_of(home, "bert")
    with open_encoder(path) as opened:
        encoder = build_encoder(path, opened, settings_of(home), limits=limits)
    texts = texts_of("bert", (1,) * 199 if rows == 200 else (80, 1, 75) * 4)
    states = [each.copy() for each in encoder.encode(texts).states]
    for index in (0, 3, 5, len(texts) - 1):
        np.testing.assert_array_equal(states[index], states_of(encoder, [texts[index]])[0])


def test_quantized_files_are_read_as_they_are_and_widened_for_float32(home: Path) -> None:
    path = make_tiny_encoder_gguf(home, "bert", kind="Q8_0")
    texts = texts_of("bert", (40,))
    with open_encoder(path) as opened:
        expected = EncoderOracle(opened.config, opened.weights).states(*texts[0])
        exact = build_encoder(path, opened, settings_of(home), form=Format.F32)
        quick = build_encoder(path, opened, settings_of(home))
    np.testing.assert_allclose(states_of(exact, texts)[0], expected, atol=2e-4)
    assert cosines(states_of(quick, texts)[0], expected).min() > 0.998
    assert exact.identity.formats == ("f32",)
    assert quick.identity.formats == ("q8",)
    assert exact.identity != quick.identity


def test_models_share_threads_and_packed_files(home: Path) -> None:
    pool = shared_pool(2)
    first = built(home, "bert", threads=2)
    assert first.pool is pool
    path = folder_of(home, "bert")
    with open_encoder(path) as opened:
        second = build_encoder(path, opened, settings_of(home), threads=pool)
    texts = texts_of("bert")
    for one, other in zip(states_of(first, texts), states_of(second, texts), strict=True):
        np.testing.assert_array_equal(one, other)
    second.close()


LARGE = np.arange(5, 256, 43)


def with_large_channels(home: Path) -> Path:
    """A tiny BERT of which six channels are 20 times as large as the others after every norm."""
    values = tiny_encoder_values("bert", hidden_size=256)
    weights = tiny_encoder_weights(tiny_encoder_config("bert", hidden_size=256), seed=7)
    for name, array in weights.items():
        if name.endswith("_norm"):
            array[LARGE] *= 20.0
        elif name.rpartition(".")[2] in ("q", "k", "v", "up"):
            array[:, LARGE] /= 20.0
    return write_encoder(home / "large", values, hf_tensors(values, weights))


def test_activations_of_8_bits_lose_little_among_large_channels(home: Path) -> None:
    path, texts = with_large_channels(home), texts_of("bert")
    with open_encoder(path) as opened:
        oracle = EncoderOracle(opened.config, {name: each.float32() for name, each in opened.weights.items()})
        expected = [oracle.states(text.tokens, text.types) for text in texts]
        exact, narrow = (build_encoder(path, opened, settings_of(home), wide=wide) for wide in (True, False))
        program = build_encoder(path, opened, settings_of(home)).program.weights
        plain = assemble_encoder(opened.config, program, shared_pool(1), wide=False)  # as the channels were
    others = np.setdiff1d(np.arange(256), LARGE)
    lost = {
        name: np.mean(
            [
                1 - cosines(found[:, others], right[:, others]).mean()
                for found, right in zip(states_of(each, texts), expected, strict=True)
            ]
        )
        for name, each in {"13 bits": exact, "8 bits": narrow, "8 bits, not ordered": plain}.items()
    }
    assert lost["13 bits"] < lost["8 bits"] < 0.8 * lost["8 bits, not ordered"] < 1e-3
    assert narrow.identity != exact.identity
    for text, states in zip(texts, states_of(narrow, texts), strict=True):
        np.testing.assert_array_equal(states_of(narrow, [text])[0], states)
    narrow_logits, logits = (each.output_product()(expected[0]) for each in (narrow, exact))
    assert cosines(narrow_logits, logits).min() > 0.999


@pytest.fixture
def bert(home: Path) -> Iterator[CpuEncoder]:
    encoder = built(home, "bert")
    yield encoder
    encoder.close()


def test_texts_that_do_not_fit_are_refused(bert: CpuEncoder) -> None:
    most = bert.limits.tokens
    assert most == 80
    assert len(bert.encode([TextRows([7] * most)]).states[0]) == most
    for tokens in ([], [7] * (most + 1), [320], [-1]):
        with pytest.raises(RequestError):
            bert.encode([TextRows(tokens)])
    with pytest.raises(RequestError, match="segment"):
        bert.encode([TextRows([7, 7], [0, 2])])
    with pytest.raises(RequestError, match="do not fit a pass"):
        bert.encode([TextRows([7] * most)] * (bert.limits.rows // most + 1))


def test_limits_beyond_the_model_are_refused(home: Path, bert: CpuEncoder) -> None:
    with pytest.raises(RequestError, match="up to 80 tokens, not 81"):
        assemble_encoder(bert.program.config, bert.program.weights, bert.pool, EncoderLimits(100, 81))
    assert encoder_limits(bert.program.config) == EncoderLimits(2048, 80)


@pytest.mark.parametrize(("variant", "word"), [("nomic-bert", "gated relu"), ("modernbert", "rotates 16")])
def test_shapes_that_the_kernels_cannot_run_are_refused_by_name(variant: str, word: str) -> None:
    config = tiny_encoder_config(variant)
    if variant == "nomic-bert":
        config = replace(config, activation="relu")
    if variant == "modernbert":
        assert config.rope is not None
        config = replace(config, rope=replace(config.rope, dim=16))
    with pytest.raises(UnsupportedModelError, match=word) as raised:
        require_runnable_encoder(config)
    assert "backend='reference'" in str(raised.value)
