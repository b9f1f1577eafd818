"""Whatever a user or a file gets wrong ends in one clear error that names what to do, soon, and
leaves nothing behind: through `miaotui.load`, and through the command line.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import miaotui
from hostile_files import BROKEN_FOLDERS, BROKEN_GGUF, HOSTILE_TOKENIZERS, Spoiler, nonsense
from miaotui.cli import main
from miaotui.errors import MiaotuiError, PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from tiny_models import make_tiny_folder, make_tiny_gguf

# What a message asks the reader to do, in one of these words.
REMEDY = re.compile(
    r"\b(again|another|ask|change|check|choose|convert|correct|did you mean|download|expected|free"
    r"|generate|get|give|known|load|lower|make|must be|name|report|run|send|set|shorten|unset|use)\b",
    re.IGNORECASE,
)
SHORT = ["--max-tokens", "4", "--ignore-eos", "--raw"]


def clear(text: str) -> None:
    """One line of bearable length that names a remedy."""
    assert "\n" not in text
    assert 20 < len(text) < 1500
    assert REMEDY.search(text), text


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


def use(model: Path, prompt: str = "Hello there") -> None:
    with miaotui.load(model, threads=1) as llm:
        llm.generate(prompt, max_tokens=2)


def kept(home: Path) -> set[str]:
    packed = home / "packed"
    return {path.name for path in packed.iterdir()} if packed.is_dir() else set()


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


def process(
    home: Path, *line: str, stdin: bytes = b"", limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, with ``home`` as its home."""
    return subprocess.run(
        [sys.executable, "-m", "miaotui", *line],
        env={**os.environ, "MIAOTUI_HOME": str(home), "MIAOTUI_OFFLINE": "1"},
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )


def failed_clearly(done: subprocess.CompletedProcess[bytes], *expected: str) -> None:
    lines = [line for line in done.stderr.decode().splitlines() if not line.endswith("...")]
    assert done.returncode == 1, lines
    assert done.stdout == b""
    assert len(lines) == 1, lines
    clear(lines[0])
    for text in expected:
        assert text in lines[0]


@pytest.fixture
def fresh(home: Path, tmp_path: Path) -> Path:
    """A home where nothing is packed yet."""
    place = tmp_path / "fresh"
    place.mkdir()
    (place / "kernels").symlink_to((home / "kernels").resolve(), target_is_directory=True)
    return place


@pytest.fixture(scope="module")
def wide(home: Path) -> Path:
    """A model whose packed weights take about 2 MB."""
    return make_tiny_folder(home, "llama", seed=5, intermediate_size=6400)


def mount(*options: str) -> bool:
    """Whether a file system could be mounted; only root may."""
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


def test_a_full_disk_while_packing(fresh: Path, wide: Path) -> None:
    """A file system of 1 MB where one may be mounted, else files of at most 1 MB."""
    packed = fresh / "packed"
    packed.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(packed))
    try:
        limit = None if mounted else _small_files
        done = process(fresh, "run", str(wide), "Hello", *SHORT, limit=limit)
        failed_clearly(done, str(packed), "MIAOTUI_HOME", "bytes")
        assert list(packed.iterdir()) == []
    finally:
        if mounted:
            subprocess.run(["umount", str(packed)], check=True, timeout=10)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_file_size_limit_while_packing(fresh: Path, wide: Path) -> None:
    done = process(fresh, "run", str(wide), "Hello", *SHORT, limit=_small_files)
    failed_clearly(done, "MIAOTUI_HOME")
    assert kept(fresh) == set()


@pytest.mark.parametrize("place", ["", "packed"], ids=["home", "packed"])
def test_a_file_where_a_folder_belongs(place: str, fresh: Path, gguf: Path) -> None:
    target = (fresh if place else fresh / "home") / (place or ".")
    target.write_text("in the way")
    home = fresh if place else target
    failed_clearly(process(home, "run", str(gguf), "Hello", *SHORT), "MIAOTUI_HOME")
    assert target.read_text() == "in the way"


def test_a_home_that_is_read_only(fresh: Path, gguf: Path, home: Path, tmp_path: Path) -> None:
    """What is packed there is used; what is not gives one clear error."""
    mounted = mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(fresh))
    try:
        if mounted:
            (fresh / "kernels").symlink_to((home / "kernels").resolve(), target_is_directory=True)
        first = process(fresh, "run", str(gguf), "Hello", *SHORT)
        if not mounted or not mount("-o", "remount,ro", str(fresh)):
            (fresh / "packed").chmod(0o555)  # enough for whoever is not root
        again = process(fresh, "run", str(gguf), "Hello", *SHORT)
        assert again.returncode == 0, again.stderr
        assert again.stdout == first.stdout
        other = make_tiny_gguf(tmp_path, "llama", seed=1)
        failed_clearly(process(fresh, "run", str(other), "Hello", *SHORT), "MIAOTUI_HOME")
    finally:
        if mounted:
            subprocess.run(["umount", str(fresh)], check=True, timeout=10)


def test_torn_caches_are_made_again(fresh: Path, gguf: Path) -> None:
    """Packed weights cut short, zeroed, or of another model under this one's name."""
    whole = process(fresh, "run", str(gguf), "Hello", *SHORT)
    assert whole.returncode == 0, whole.stderr
    (packed,) = (fresh / "packed").glob("*.packed")
    good = packed.read_bytes()
    for torn in (good[: len(good) // 2], bytes(len(good)), good[:4096] + bytes(len(good) - 4096)):
        packed.write_bytes(torn)
        use_in(fresh, gguf)
        assert packed.read_bytes() == good
    (fresh / "packed" / f".{packed.stem}.0123abcd.part").write_bytes(b"left by a crash")
    assert process(fresh, "run", str(gguf), "Hello", *SHORT).stdout == whole.stdout


def use_in(home: Path, model: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(home))
        use(model)


def test_prompts_from_standard_input(fresh: Path, gguf: Path) -> None:
    failed_clearly(process(fresh, "run", str(gguf), "-", stdin=b"\xff\xfe half"), "UTF-8")
    failed_clearly(process(fresh, "run", str(gguf), "-", stdin=b"word " * 1_000_000), "characters")
