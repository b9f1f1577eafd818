"""Recognises files that people name by mistake for a model, so that errors name the remedy.

Owns a few magic numbers. Only ever improves an error message: nothing is read on its word.
"""

from __future__ import annotations

import mmap

_OLD_GGML = "a GGML file from before GGUF; convert the model again with a current llama.cpp"
_WEB_PAGE = "a web page, not a download; use the address of the file itself"
_BY_FIRST_BYTES = {
    b"GGUF": "a GGUF file; read it as one, by its own path",
    b"lmgg": _OLD_GGML,
    b"fmgg": _OLD_GGML,
    b"tjgg": _OLD_GGML,
    b"PK\3\4": "a ZIP archive or a PyTorch checkpoint; unpack it, or get the model as GGUF",
    b"\x80\2": "a Python pickle, which is never loaded; get the model as GGUF or safetensors",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"<!": _WEB_PAGE,
    b"<h": _WEB_PAGE,
}


def looks_like(buffer: mmap.mmap | bytes) -> str:
    """Return a guess at the kind of the file and the remedy, for the end of an error message."""
    head = buffer[:32]
    for first_bytes, meaning in _BY_FIRST_BYTES.items():
        if head.startswith(first_bytes):
            return f"it looks like {meaning}"
    if head[8:9] == b"{":
        return "it looks like safetensors; give the path of its folder, or name it *.safetensors"
    return f"it starts with {head[:4]!r}; download it again"
