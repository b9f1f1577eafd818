"""``miaotui batch`` over tiny models: the same answers as from Python, in one process and in actors of Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets

from miaotui.backends.options import EncoderOptions
from miaotui.cli import main
from miaotui.encoder import Encoder
from miaotui.encoders.runtime import run_encoder
from miaotui.errors import EngineError
from miaotui.llm import load
from miaotui.serve.batch.lines import BatchLine
from tiny_encoder_models import make_encoder_folder
from tiny_models import make_tiny_folder

PROMPTS = [[5, 6, 7, number] for number in range(20)]
TEXTS = ["the cat sat", "ana is good"]


def batch_of(folder: Path) -> Path:
    """A file with completions, embeddings of one text each, a request that is refused, and a line that is none."""
    lines: list[Any] = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "tiny", "prompt": prompt, "max_tokens": 12, "seed": 1, "temperature": 0.9},
        }
        for number, prompt in enumerate(PROMPTS)
    ]
    for number, text in enumerate(TEXTS):
        body = {"model": "vectors", "input": text, "encoding_format": "float"}
        lines.append({"custom_id": f"e{number}", "url": "/v1/embeddings", "body": body})
    lines.append({"custom_id": "wrong", "url": "/v1/completions", "body": {"model": "none", "prompt": "x"}})
    path = folder / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnothing\n", encoding="utf-8")
    return path


def wanted(llama: Path, encoder: Path) -> dict[str, Any]:
    with load(llama, threads=1) as llm:
        texts = llm.generate(PROMPTS, max_tokens=12, seed=1, temperature=0.9)
    found: dict[str, Any] = {f"c{number}": each.text for number, each in enumerate(texts)}
    with Encoder(*run_encoder(encoder, EncoderOptions(threads=1)), owns_loop=True) as model:
        found |= {f"e{number}": each.tolist() for number, each in enumerate(model.embed(TEXTS))}
    return found


def read(place: Path) -> dict[str, Any]:
    """What was answered, by custom_id; the statuses of what was not."""
    found: dict[str, Any] = {}
    for line in place.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        response = answer["response"]
        if response is None or response["status_code"] != 200:
            found[str(answer["custom_id"])] = (answer["error"] and answer["error"]["code"]) or response["status_code"]
        elif "data" in response["body"]:
            found[answer["custom_id"]] = response["body"]["data"][0]["embedding"]
        else:
            found[answer["custom_id"]] = response["body"]["choices"][0]["text"]
    return found


def models_in(folder: Path) -> tuple[Path, Path]:
    encoder = make_encoder_folder(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return make_tiny_folder(folder, "llama", max_position_embeddings=256), encoder


@pytest.mark.slow
def test_a_batch_is_answered_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    llama, encoder = models_in(tmp_path)
    path, place = batch_of(tmp_path), tmp_path / "answers.jsonl"
    words = ["batch", str(path), f"tiny={llama}", f"vectors={encoder}", "--threads", "1", "--output", str(place)]
    assert main(words) == 1, "two lines have no answer"
    right = {**wanted(llama, encoder), "wrong": 404, "None": "invalid_line"}
    assert read(place) == right
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])  # as if the run had been killed
    main(words)
    assert read(place) == right
    assert place.read_bytes().count(b"\n") == whole.count(b"\n"), "no line has two answers"
    assert main(words) == 0, "all is there"
    assert main(["batch", str(path), "--output", str(path)]) != 0


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_actors_of_ray_answer_as_one_process_does(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'miaotui[cluster]'")
    llama, encoder = models_in(tmp_path)
    path, place = batch_of(tmp_path), tmp_path / "answers.jsonl"
    words = ["batch", str(path), f"tiny={llama}", f"vectors={encoder}", "--output", str(place)]
    with raylets(2) as address:
        words += ["--cluster", address, "--replicas", "2", "--cpus", "0.5"]
        assert main(words) == 1
        assert read(place) == {**wanted(llama, encoder), "wrong": 404, "None": "invalid_line"}
        assert main(words) == 0, "all is there"


def test_an_object_store_without_room_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed: pip install 'miaotui[cluster]'")
    from miaotui.cluster.on_ray import batch  # noqa: PLC0415  (imports Ray)

    class Full:
        """Ray Data whose store takes nothing."""

        def __init__(self, error: Exception) -> None:
            self._error = error

        def from_items(self, items: list[Any]) -> Any:
            raise self._error

    line = BatchLine("0", "c0", "/v1/completions", {"model": "tiny", "prompt": [5]})
    for error, reason in (
        (exceptions.ObjectStoreFullError("no"), "its object store and the disk behind it have no room"),
        (exceptions.OutOfDiskError("no"), "its object store and the disk behind it have no room"),
        (exceptions.NodeDiedError("the node is gone"), "NodeDiedError: the node is gone"),
    ):
        monkeypatch.setattr(batch, "_ray_data", lambda *_, error=error: Full(error))
        with pytest.raises(EngineError, match=reason):
            list(batch.answers_of(iter([line]), {"tiny": "x"}, 1, 1.0, None))
