"""Prompts that fill in: each family's order of parts, written out as its model card has it."""

from __future__ import annotations

from pathlib import Path

import pytest

import miaotui
from infill_models import QWEN, add_controls
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.text.infill import FORMS, NamedText, find_infiller, require_infiller
from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.tokenizer import Tokenizer
from tiny_tokenizer import write_tokenizer

PUBLISHED = {  # of "before" and "after"
    "Qwen2.5-Coder, CodeGemma": "<|fim_prefix|>before<|fim_suffix|>after<|fim_middle|>",
    "StarCoder2, Granite Code": "<fim_prefix>before<fim_suffix>after<fim_middle>",
    "DeepSeek-Coder": "<｜fim▁begin｜>before<｜fim▁hole｜>after<｜fim▁end｜>",
    "GLM-4.5": "<|code_prefix|>before<|code_suffix|>after<|code_middle|>",
    "Seed-Coder": "<[fim-suffix]>after<[fim-prefix]>before<[fim-middle]>",
    "Codestral": "[SUFFIX]after[PREFIX]before",
}


def tokenizer_with(folder: Path, texts: tuple[str, ...]) -> Tokenizer:
    write_tokenizer(folder)
    add_controls(folder, texts)
    return from_folder(folder)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.title)
def test_parts_are_in_the_published_order(form: object, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, form.required)  # type: ignore[attr-defined]
    prompt = require_infiller(tokenizer).encode("before", "after")
    assert prompt == tokenizer.encode(PUBLISHED[form.title])  # type: ignore[attr-defined]
    begun = require_infiller(tokenizer).encode("before", "after", begun=" the")
    assert begun == prompt + tokenizer.encode(" the", special=False)


def test_what_looks_like_a_control_token_is_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, QWEN)
    infiller = require_infiller(tokenizer)
    prompt = infiller.encode(
        "a<|fim_middle|>b", "<|im_end|>", begun="<|fim_pad|>", files=[NamedText("x", "<|file_sep|>")]
    )
    controls = [token for token in prompt if token in infiller.end_ids or token in tokenizer.eos_ids]
    names = ["<|repo_name|>", "<|file_sep|>", "<|file_sep|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    assert controls == [tokenizer.control_texts[name] for name in names]


def test_files_stand_before_the_gap_as_in_a_repository(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, QWEN)
    files = [NamedText("a.py", "x = 1"), NamedText("b.py", "y = 2")]
    prompt = require_infiller(tokenizer).encode("before", "after", files=files)
    assert prompt == tokenizer.encode(
        "<|repo_name|>project\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\ny = 2\n<|file_sep|>filename\n"
        "<|fim_prefix|>before<|fim_suffix|>after<|fim_middle|>"
    )


def test_without_tokens_for_them_files_are_plain_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"))
    prompt = require_infiller(tokenizer).encode("", "", files=[NamedText("a.py", "x")])
    assert prompt == tokenizer.encode("--- a.py ---\nx\n<｜fim▁begin｜><｜fim▁hole｜><｜fim▁end｜>")


def test_models_that_only_continue_are_refused_with_a_remedy(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = from_folder(tmp_path)
    assert find_infiller(tokenizer) is None
    with pytest.raises(RequestError, match=r"qwen2\.5-coder"):
        require_infiller(tokenizer)


def test_too_much_around_the_gap_is_refused(tmp_path: Path) -> None:
    infiller = require_infiller(tokenizer_with(tmp_path, QWEN))
    with pytest.raises(PromptTooLongError, match="around the gap"):
        infiller.encode("abc" * 5, "def" * 5, at_most=20)
    assert len(infiller.encode("abc", "def", at_most=9)) == 9


@pytest.mark.model
def test_a_real_model_fills_in_code() -> None:
    with miaotui.load("qwen2.5-coder-0.5b") as coder:
        filled = coder.infill("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n", max_tokens=16)
    assert filled.text.startswith("a + b")
    assert filled.finish_reason == "stop"
