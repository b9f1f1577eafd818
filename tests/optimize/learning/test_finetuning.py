"""Fine-tuning: only answers are learned, a killed run ends as another, what is written is what was trained."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lessons import write_chats, write_general
from safetensors.numpy import load_file

from miaotui.errors import MiaotuiError, RequestError, UnsupportedModelError
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.optimize.learning import finetune
from miaotui.optimize.learning.finetune import FinetuneFiles, Finetuning
from miaotui.optimize.learning.recipe import FinetuneRecipe
from miaotui.optimize.origin import read_origin
from miaotui.text.chat import ChatEncoder
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.training.examples import read_examples
from tiny_models import make_tiny_folder, make_tiny_gguf, tiny_config, tiny_weights
from tiny_tokenizer import END
from tiny_variants import VARIANTS


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two threads of a tiny model would wait for each other; torch may be missing, and then tests are skipped."""
    with contextlib.suppress(ImportError):
        import torch  # noqa: PLC0415  (an extra)

        torch.set_num_threads(1)


RECIPE = FinetuneRecipe(rank=4, steps=12, batch=4, length=64, rate=0.01)


def _chat(place: Path) -> ChatEncoder:
    with open_model(place) as opened:
        tokenizer = load_tokenizer(opened.metadata, opened.folder)
        return ChatEncoder(load_chat_template(opened.metadata, opened.folder), tokenizer)


def test_only_answers_are_learned(tmp_path: Path) -> None:
    chat = _chat(make_tiny_folder(tmp_path, "llama"))
    turns = [("user", "one?"), ("assistant", "two"), ("user", "three?"), ("assistant", "four")]
    messages = [{"role": role, "content": text} for role, text in turns]
    file = tmp_path / "a.jsonl"
    rows: list[dict[str, Any]] = [
        {"messages": messages},
        {"prompt": "p", "completion": "answer"},
        {"text": "plain text"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    both, pair, text = read_examples([file], chat, 200, 320).examples
    learned = [chat.tokenizer.decode(both.tokens[both.counted]), chat.tokenizer.decode(pair.tokens[pair.counted])]
    assert learned == ["twofour", "answer"]
    assert both.tokens[both.counted].tolist().count(END) == 2, "the token that ends an answer is learned"
    assert chat.tokenizer.decode(text.tokens[text.counted]) == "plain text"


def test_long_texts_are_cut_into_pieces_and_answers_are_not_lost_silently(tmp_path: Path) -> None:
    chat = _chat(make_tiny_folder(tmp_path, "llama"))
    plain = tmp_path / "a.txt"
    plain.write_text("abcdefgh" * 10)
    found = read_examples([plain], chat, 16, 320)
    assert found.counted == 80, "each token but the first is predicted once, in one piece"
    chats = write_chats(tmp_path / "b.jsonl", 3)
    short = read_examples([chats], chat, 20, 320)
    assert (short.cut, short.skipped, short.examples) == (3, 3, ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "content": "x"}]}', "nothing to learn"),
        ('{"question": "x"}', "expected"),
        ("not json", "not JSON"),
        ("[1]", "JSON object"),
        ('{"prompt": "x", "completion": ""}', "is empty"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]}', "is empty"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "tools": 5}',
            "tools must",
        ),
        ('{"text": "half a character: \\ud800"}', "surrogate"),
        ('{"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}', "role must be"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    chat = _chat(make_tiny_folder(tmp_path, "llama"))
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine, and\u2028\u0085in one line"}\r\n\n \n' + line, encoding="utf-8")
    with pytest.raises(RequestError, match=f"line 4.*{message}"):
        read_examples([file], chat, 64, 320)
    file.write_bytes(b"\xff\xfe\x00\x01" * 50)
    with pytest.raises(RequestError, match="UTF-8"):
        read_examples([file], chat, 64, 320)


@pytest.mark.compare
@pytest.mark.parametrize("variant", ["llama", "phi3", "gemma3"])
def test_the_adapter_that_is_written_is_the_one_that_was_trained(tmp_path: Path, variant: str) -> None:
    base = make_tiny_folder(tmp_path, variant)
    general = write_general(tmp_path / "general.txt")
    job = Finetuning(str(base), [write_chats(tmp_path / "a.jsonl", 30)], tmp_path / "out", RECIPE)
    job.files = FinetuneFiles(general=general)
    origin = job.run()
    held = origin.measured["held_out"]
    assert held["after"] < held["before"] - 0.2
    assert origin.measured["general"]["kl"] > 0
    assert read_origin(tmp_path / "out") == origin
    assert not (tmp_path / "out.work").exists()
    with open_model(base) as opened:
        adapter = read_adapter(tmp_path / "out", opened.config)
        oracle = Oracle(opened.config, opened.tensors).with_adapter(adapter)
        chat = _chat(base)
        rows = read_examples([tmp_path / "a.jsonl"], chat, 64, 320).split(10)[1].examples
        total = count = 0.0
        for row in rows:
            logits = oracle.logits(row.tokens.tolist()).astype(np.float64)
            logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            logs -= logits.max(-1, keepdims=True)
            at = np.flatnonzero(row.counted[1:])
            total -= logs[at, row.tokens[at + 1]].sum()
            count += len(at)
    assert total / count == pytest.approx(held["after"], abs=0.02), "the oracle measures what training measured"


@pytest.mark.compare
def test_every_architecture_is_trained_as_it_is_computed_or_refused() -> None:
    import torch  # noqa: PLC0415  (an extra)

    from miaotui.training.decoder import TorchDecoder  # noqa: PLC0415  (beside torch)

    tokens, refused = list(range(3, 40)), set()
    for variant in VARIANTS:
        config = tiny_config(variant)
        weights = tiny_weights(config)
        try:
            decoder = TorchDecoder(torch, config, weights, torch.float32)
        except UnsupportedModelError:
            refused.add(config.architecture)
            continue
        with torch.no_grad():
            found = decoder.logits(decoder.states(torch.tensor([tokens]))[0]).numpy()
        expected = Oracle(config, weights).logits(tokens)
        assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max(), variant
    assert refused >= {"mixtral", "gpt_oss", "deepseek_v2", "gemma3n"}
    assert not refused & {"llama", "qwen3", "gemma3", "phi3", "cohere2", "starcoder2", "baichuan"}


@pytest.mark.compare
def test_all_weights_into_the_form_of_the_model(tmp_path: Path) -> None:
    general = FinetuneFiles(general=write_general(tmp_path / "general.txt"))
    data = write_chats(tmp_path / "a.jsonl", 30)
    recipe = FinetuneRecipe(rank=0, steps=6, batch=4, accumulate=2, length=64, rate=0.003, recompute=True)
    for base, out in ((make_tiny_folder(tmp_path, "qwen2"), "folder"), (make_tiny_gguf(tmp_path, "llama"), "m.gguf")):
        origin = Finetuning(str(base), [data], tmp_path / out, recipe, general).run()
        held = origin.measured["held_out"]
        assert held["after"] < held["before"]
        with open_model(base) as old, open_model(tmp_path / out) as new:
            assert new.config == old.config
            assert not np.array_equal(new.tensors["layers.0.q"].float32(), old.tensors["layers.0.q"].float32())
    with pytest.raises(RequestError, match="name the place accordingly"):
        Finetuning(str(base), [data], tmp_path / "other", recipe, general).run()


@pytest.mark.compare
def test_old_lines_are_kept_by_replay(tmp_path: Path) -> None:
    """After new lines without old ones the old are lost further than with a share of them."""
    base, general = make_tiny_folder(tmp_path, "llama"), write_general(tmp_path / "general.txt")
    old, new = write_chats(tmp_path / "old.jsonl", 40, word="old"), write_chats(tmp_path / "new.jsonl", 40, 100, "new")
    Finetuning(str(base), [old], tmp_path / "first", RECIPE, FinetuneFiles(general=general)).run()
    found = {}
    for share in (0.0, 0.5):
        recipe = FinetuneRecipe(rank=4, steps=12, batch=4, length=64, rate=0.01, replay=share or 0.01)
        files = FinetuneFiles(general=general, start=tmp_path / "first", replay=old)
        job = Finetuning(str(base), [new], tmp_path / f"second-{share}", recipe, files)
        if not share:
            job.files = FinetuneFiles(general=general, start=tmp_path / "first")
            job.run()
            with open_model(base):
                pass
            files = FinetuneFiles(held_out=old, general=general, start=tmp_path / f"second-{share}")
            probe = FinetuneRecipe(rank=4, steps=1, batch=4, length=64, rate=1e-9)
            found[share] = Finetuning(str(base), [new], tmp_path / "probe", probe, files).run().measured["held_out"]
        else:
            found[share] = job.run().measured["old"]
    assert found[0.5]["after"] < found[0.0]["after"] - 0.1
    few = FinetuneRecipe(rank=4, targets=("q",), steps=1)
    job = Finetuning(str(base), [new], tmp_path / "x", few, FinetuneFiles(general=general, start=tmp_path / "first"))
    with pytest.raises(RequestError, match="other products"):
        job.run()


@pytest.mark.compare
@pytest.mark.slow
def test_a_killed_run_ends_as_another(tmp_path: Path) -> None:
    base, general = make_tiny_folder(tmp_path, "llama"), write_general(tmp_path / "general.txt")
    data = write_chats(tmp_path / "a.jsonl", 30)
    words = [
        "finetune",
        str(base),
        str(data),
        "--general",
        str(general),
        "--steps",
        "60",
        "--batch",
        "4",
        "--rank",
        "4",
    ]
    words += ["--save-every", "5", "--threads", "1", "--length", "64"]
    command = [sys.executable, "-m", "miaotui", *words, "--out"]
    running = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state, deadline_s = tmp_path / "killed.work" / "training.safetensors", time.monotonic() + 60
    while time.monotonic() < deadline_s and not (state.is_file() and _step(state) >= 5):
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert 5 <= _step(state) < 60
    assert not (tmp_path / "killed").exists()
    recipe = FinetuneRecipe(rank=4, steps=60, batch=4, length=64)
    for name in ("killed", "whole"):
        files = FinetuneFiles(general=general)
        Finetuning(str(base), [data], tmp_path / name, recipe, files, save_every=5).run()
    killed, whole = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("killed", "whole"))
    assert all(np.array_equal(killed[each], whole[each]) for each in whole)


def _step(state: Path) -> int:
    from safetensors import safe_open  # noqa: PLC0415  (a test extra)

    with safe_open(state, framework="numpy") as file:
        return int(file.metadata()["step"])


@pytest.mark.compare
def test_bad_runs_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "own_texts", lambda *_: pytest.fail("work has begun"))
    base, general = make_tiny_folder(tmp_path, "llama"), FinetuneFiles(general=write_general(tmp_path / "g.txt"))
    few, lines = write_chats(tmp_path / "few.jsonl", 3), write_chats(tmp_path / "a.jsonl", 30)
    moe = make_tiny_folder(tmp_path, "mixtral")
    cases: list[tuple[Path, Path, FinetuneFiles, str]] = [
        (base, few, general, "at least 8"),
        (base, lines, FinetuneFiles(general=general.general, held_out=few), "both learned and held out"),
        (base, lines, FinetuneFiles(general=general.general, replay=few), "not learned anyway"),
        (base, lines, FinetuneFiles(general=few), "at least 1024"),
        (base, lines, FinetuneFiles(start=tmp_path / "none"), "adapter"),
        (moe, lines, general, "experts"),
    ]
    for model, data, files, message in cases:
        with pytest.raises(MiaotuiError, match=message):
            Finetuning(str(model), [data], tmp_path / "out", RECIPE, files).run()
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.work").exists()
    monkeypatch.setenv("MIAOTUI_MEMORY_GB", "0.002")
    with pytest.raises(RequestError, match=r"of memory, and 2\.0 MB may be used"):
        Finetuning(str(base), [lines], tmp_path / "out", RECIPE).run()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 999}, "rank must be"),
        ({"rank": 0, "alpha": 4.0}, "leave rank, alpha and targets out"),
        ({"targets": ("q", "router")}, "targets must be"),
        ({"steps": 0}, "steps must be"),
        ({"batch": 2, "accumulate": 3}, "accumulate 1 to batch"),
        ({"replay": 1.0}, "below 1"),
    ],
)
def test_recipes_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        FinetuneRecipe(**values)
