"""Folders of safetensors as sources: their GGUF copy is the same model, or one error names another way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_texts import write_texts

from miaotui.cli import main
from miaotui.cli.advice import machine_speeds
from miaotui.config import Settings
from miaotui.errors import CacheError, ModelError, UnsupportedModelError
from miaotui.hub import files
from miaotui.hub.formats.gguf import read_gguf
from miaotui.kernels.platform.cpu import probe
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.model.writing.gguf_copy import write_gguf_copy
from miaotui.optimize.folder_copy import as_gguf
from miaotui.text.load import load_chat_template, load_tokenizer
from tiny_models import make_tiny_folder, make_tiny_gguf
from tiny_variants import VARIANTS

REFUSED = (
    "chatglm",
    "phi3-longrope",
    *("granite", "minicpm", "minicpm3", "cohere", "cohere2", "youtu"),
    *("qwen3-moe", "qwen3-moe-sparse", "qwen2-moe", "glm4-moe", "gpt-oss", "ernie4_5-moe", "granitemoe", "olmoe"),
    *("mixtral", "deepseek-v2", "deepseek-v2-groups", "deepseek-v3", "glm4-moe-lite"),
    *("gemma3n", "gemma4", "gemma4-moe"),
)
TOKENS = [1, 5, 250, 33, 90]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in REFUSED])
def test_a_copy_is_the_model(variant: str, tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, variant)
    write_gguf_copy(folder, tmp_path / "copy.gguf")
    with open_model(folder) as one, open_model(tmp_path / "copy.gguf") as two:
        first, second = (Oracle(each.config, each.tensors).logits(TOKENS) for each in (one, two))
        np.testing.assert_allclose(second, first, atol=2e-5)
        texts = [load_tokenizer(*where).encode("the hen, 12\n") for where in ((two.metadata, None), (None, folder))]
        assert texts[0] == texts[1]
        assert load_chat_template(two.metadata, None).sources == load_chat_template(None, folder).sources


@pytest.mark.parametrize("variant", REFUSED)
def test_what_a_copy_cannot_say_is_refused(variant: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"cannot be copied to a GGUF file: .*convert_hf_to_gguf\.py"):
        write_gguf_copy(make_tiny_folder(tmp_path, variant), tmp_path / "copy.gguf")
    assert not list(tmp_path.glob("copy*"))


def test_a_copy_has_the_metadata_of_a_converted_file(tmp_path: Path) -> None:
    write_gguf_copy(make_tiny_folder(tmp_path, "llama"), tmp_path / "copy.gguf")
    with read_gguf(tmp_path / "copy.gguf") as copy, read_gguf(make_tiny_gguf(tmp_path, "llama")) as converted:
        assert copy.tensors.keys() == converted.tensors.keys()
        for name, tensor in converted.tensors.items():
            np.testing.assert_array_equal(copy.tensors[name].float32(), tensor.float32())
        kinds = "tokenizer.ggml.token_type"
        for key in converted.metadata.keys() - {kinds, "tokenizer.ggml.padding_token_id"}:
            assert np.all(copy.metadata[key] == converted.metadata[key]), key
        assert [kind for kind in copy.metadata[kinds] if kind == 3] == [3, 3, 3]


def rewritten(folder: Path, name: str, change: str, value: object) -> None:
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    values[change] = value
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def test_tokenizers_that_a_file_cannot_describe_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": "[aeiou]"}, "behavior": "Isolated", "invert": False}
    rewritten(folder, "tokenizer.json", "pre_tokenizer", {"type": "Sequence", "pretokenizers": [split, byte_level]})
    with pytest.raises(UnsupportedModelError, match="cuts texts in a way that has no name"):
        write_gguf_copy(folder, tmp_path / "x.gguf")
    rewritten(
        folder, "tokenizer.json", "decoder", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    )
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
    rewritten(folder, "tokenizer.json", "model", model)
    with pytest.raises(UnsupportedModelError, match="is no BPE"):
        write_gguf_copy(folder, tmp_path / "x.gguf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=re.escape("has no tokenizer.json")):
        write_gguf_copy(folder, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x*"))


def test_a_full_disk_is_one_error_before_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(CacheError, match="are free"):
        write_gguf_copy(folder, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x*"))


def test_a_copy_is_made_once_for_each_version_of_a_model(tmp_path: Path) -> None:
    folder, settings = make_tiny_folder(tmp_path, "llama"), Settings(tmp_path / "home", tmp_path / "home")
    copy = as_gguf(folder, settings)
    made = copy.stat().st_mtime_ns
    assert as_gguf(folder, settings) == copy
    assert copy.stat().st_mtime_ns == made
    assert as_gguf(copy, settings) == copy
    other = make_tiny_folder(tmp_path, "llama", 1)
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
    assert as_gguf(folder, settings) != copy


def test_the_command_line_plans_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    machine_speeds.keep_speeds(machine_speeds.Speeds(probe().team_size, 20.0, 200.0), probe(), Settings.from_env())
    monkeypatch.setattr("miaotui.optimize.optimizer.Optimization.own_speed", lambda *_: None)
    monkeypatch.setattr("miaotui.optimize.optimizer.Optimization.own_drafts", lambda *_: None)
    folder = make_tiny_folder(tmp_path, "llama")
    calibration, test = write_texts(tmp_path)
    words = ["--calibration", str(calibration), "--test", str(test), "--size", "150kB"]
    assert main(["optimize", str(folder), *words, "--plan"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["file_bytes"] <= 150_000
