"""Whatever a user or a file gets wrong ends in one clear error that names what to do, soon, and
leaves nothing behind: through `miaotui.load`, and through the command line."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import miaotui
from clear_errors import SHORT, clear, kept, use
from hostile_files import BROKEN_FOLDERS, BROKEN_GGUF, HOSTILE_TOKENIZERS, Spoiler, nonsense
from miaotui.cli import main
from miaotui.errors import MiaotuiError, PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from tiny_models import make_tiny_folder, make_tiny_gguf


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own that knows the compiled kernels."""
    kernels = compiled.cache_folder().parent
    folder = tmp_path_factory.mktemp("home")
    (folder / "kernels").symlink_to(kernels, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        patch.setenv("MIAOTUI_OFFLINE", "1")
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.delenv("MIAOTUI_TRACEBACK", raising=False)
        yield folder


@pytest.fixture(scope="module")
def gguf(home: Path) -> Path:
    return make_tiny_gguf(home, "llama")


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    return make_tiny_folder(home, "llama")


# model files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", BROKEN_GGUF)
def test_a_broken_gguf_file(what: str, gguf: Path, home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    shutil.copy(gguf, broken)
    refuse(broken, BROKEN_GGUF[what], home)


@pytest.mark.parametrize("what", BROKEN_FOLDERS)
def test_a_broken_folder(what: str, folder: Path, home: Path, tmp_path: Path) -> None:
    refuse(copied(folder, tmp_path), BROKEN_FOLDERS[what], home)


def copied(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "model"))


def refuse(model: Path, spoil: Spoiler, home: Path) -> None:
    spoil(model)
    before = kept(home)
    with pytest.raises(MiaotuiError) as refused:
        use(model)
    clear(str(refused.value))
    assert kept(home) == before


@pytest.mark.parametrize("what", HOSTILE_TOKENIZERS)
def test_a_tokenizer_that_explodes(what: str, folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    document = json.loads((model / "tokenizer.json").read_text())
    HOSTILE_TOKENIZERS[what](document)
    (model / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(MiaotuiError) as refused:
        use(model, "a" * 60 + "c")
    clear(str(refused.value))


def test_a_tokenizer_that_draws_lots_always_gives_the_same(folder: Path, tmp_path: Path) -> None:
    """BPE dropout is for training; here the same text is the same tokens."""
    model = copied(folder, tmp_path)
    document = json.loads((model / "tokenizer.json").read_text())
    document["model"]["dropout"] = 0.9
    (model / "tokenizer.json").write_text(json.dumps(document))
    with miaotui.load(folder) as plain, miaotui.load(model) as drawn:
        text = "the and there and then the hand " * 4
        assert drawn.tokenizer.encode(text) == plain.tokenizer.encode(text)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("config.json", "llama-llama3"),
        ("config.json", "gemma3-linear"),
        ("config.json", "phi3-longrope"),
        ("config.json", "qwen2-yarn"),
        ("generation_config.json", "llama"),
        ("tokenizer_config.json", "llama"),
        ("tokenizer.json", "llama"),
    ],
)
def test_nonsense_in_any_place_of_a_configuration(name: str, variant: str, tmp_path: Path) -> None:
    """It is refused, or it does not matter; nothing else ever comes out."""
    model = make_tiny_folder(tmp_path, variant)
    document = json.loads((model / name).read_text())
    refused = 0
    for what, changed in nonsense(document, each=2):
        (model / name).write_text(json.dumps(changed))
        try:
            use(model)
        except MiaotuiError as error:
            refused += 1
            if "\n" in str(error):
                pytest.fail(f"{what}: {error}")
        except BaseException as error:
            raise AssertionError(f"{name}, {what}") from error
    assert refused or name == "generation_config.json"


def test_a_folder_with_a_pipe_among_its_files_does_not_hang(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path)
    os.mkfifo(model / "notes.json")
    use(model)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "/",
        "/dev/zero",
        "/dev/null",
        "\0",
        "a\0b",
        "\ud800",
        "x" * 5000,
        "x/" * 3000,
        "~no",
        "owner/name",
        "smollm2-13m",
        b"nothing",
        5,
        None,
        ["a"],
    ],
    ids=lambda name: repr(name)[:12],
)
def test_names_of_nothing(name: Any, home: Path) -> None:
    with pytest.raises(MiaotuiError) as refused:
        miaotui.load(name)
    clear(str(refused.value))


# requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"context": 2**27}, {"kv_tokens": 2**27}])
def test_more_memory_than_there_is(options: dict[str, int], home: Path, tmp_path: Path) -> None:
    """With a bound on what this process may take, as a container has one."""
    model = make_tiny_folder(tmp_path, "llama", max_position_embeddings=2**27)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, before[1]))
    try:
        with pytest.raises(RequestError, match="not enough memory") as refused:
            miaotui.load(model, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    clear(str(refused.value))
    use(model)


def test_a_prompt_of_megabytes_is_refused_without_being_cut(folder: Path) -> None:
    with miaotui.load(folder) as llm:
        cut: list[int] = []
        encoder = llm.tokenizer._encoder
        for name in ("encode", "encode_at"):
            encode = getattr(encoder, name)
            setattr(encoder, name, lambda text, how, encode=encode: cut.append(len(text)) or encode(text, how))
        for call in (llm.generate, llm.stream):
            with pytest.raises(PromptTooLongError, match="20,000,000 characters") as refused:
                call("word " * 4_000_000)
            clear(str(refused.value))
        with pytest.raises(PromptTooLongError, match="characters"):
            llm.chat([{"role": "user", "content": "word " * 4_000_000}])
        assert cut == []
        with pytest.raises(PromptTooLongError, match="tokens and the context holds 256"):
            llm.generate("word " * 60)
        assert llm.generate("word " * 40, max_tokens=1).prompt_tokens == cut[-1]


# the command line ---------------------------------------------------------------------------------


def one_line(capsys: pytest.CaptureFixture[str], *line: str, sign: str = "error: ") -> str:
    """Run a command line that cannot work; its one line on standard error."""
    assert main(list(line)) == 1
    out, err = capsys.readouterr()
    said = [part for part in err.splitlines() if not part.endswith("...")]  # progress
    assert out == ""
    assert len(said) == 1, err
    assert said[0].startswith(f"miaotui: {sign}")
    assert "Traceback" not in err
    return said[0]


@pytest.mark.parametrize(
    "what",
    ["half the tensors", "no tokenizer", "an unknown architecture", "weights that are not numbers", "2**63 tensors"],
)
def test_a_broken_model_is_one_line(
    what: str, gguf: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.gguf"
    shutil.copy(gguf, broken)
    BROKEN_GGUF[what](broken)
    before = kept(home)
    clear(one_line(capsys, "run", str(broken), "Hello", *SHORT))
    assert kept(home) == before


def test_errors_begin_in_the_readers_language(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "missing.gguf" in one_line(capsys, "run", "missing.gguf", "你好", sign="错误：")
    one_line(capsys, "run", " ", sign="错误：")


@pytest.mark.parametrize(
    "option",
    [
        ["--threads", "99999999999999999999"],
        ["--max-tokens", "0"],
        ["--temperature", "nan"],
        ["--top-p", "7"],
        ["--seed", "-1"],
        ["--stop", ""],
    ],
    ids=" ".join,
)
def test_nonsense_on_the_command_line(option: list[str], gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clear(one_line(capsys, "run", str(gguf), "Hello", "--raw", *option))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIAOTUI_OFFLINE", "maybe"),
        ("MIAOTUI_TIMEOUT_S", "soon"),
        ("MIAOTUI_PACKED_MAX_GB", "nan"),
        ("MIAOTUI_PACKED_MAX_GB", "-1"),
    ],
)
def test_nonsense_in_the_environment(
    name: str, value: str, gguf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert name in one_line(capsys, "run", str(gguf), "Hello", *SHORT)
