"""Coverage-guided fuzzing of the files by which models are found, and of adapters, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_stored_models.py -max_total_time=60``; other options are libFuzzer's. An input that leads
to anything but models, an adapter that fits, or an error on purpose is written to ``crash-*`` and ends the run. The
first byte of an input says which file the rest of it is: a manifest of Ollama's, a listing of ModelScope's, a part of
PEFT's adapter, or an adapter as GGUF.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import atheris
from fuzzing import fuzz

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import MiaotuiError
    from miaotui.hub.formats.untrusted_json import parse_object
    from miaotui.hub.local.ollama import ollama_models
    from miaotui.hub.sources.modelscope_pull import _listed
    from miaotui.model.adapters.reading import read_adapter
    from miaotui.model.reading.from_hf import config_from_hf

from adapter_files import random_pairs, write_gguf_adapter, write_peft
from tiny_models import tiny_values

FOLDER = Path(tempfile.mkdtemp())
MANIFEST = FOLDER / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
PAIRS = random_pairs({"model.layers.0.mlp.up_proj": (96, 64)}, 2)
CONFIG = config_from_hf(tiny_values("llama"))
PEFT, GGUF = FOLDER / "peft", FOLDER / "adapter.gguf"
KINDS = ("manifest", "listing", "adapter_config.json", "adapter_model.safetensors", "adapter.gguf")


def contents() -> dict[str, bytes]:
    """A valid file of each kind."""
    write_peft(PEFT, PAIRS)
    write_gguf_adapter(GGUF, {"blk.0.ffn_up.weight": PAIRS["model.layers.0.mlp.up_proj"]})
    MANIFEST.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "0" * 64, "size": 1}
    entry = {"Path": "model.safetensors", "Type": "blob", "Size": 1, "Sha256": "0" * 64}
    return {
        "manifest": json.dumps({"layers": [layer]}).encode(),
        "listing": json.dumps({"Data": {"Files": [entry]}}).encode(),
        "adapter_config.json": (PEFT / "adapter_config.json").read_bytes(),
        "adapter_model.safetensors": (PEFT / "adapter_model.safetensors").read_bytes(),
        "adapter.gguf": GGUF.read_bytes(),
    }


VALID = contents()


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only errors on purpose may come out of a reader."""
    kind = KINDS[content[0] % len(KINDS)] if content else KINDS[0]
    try:
        _read(kind, content[1:])
    except MiaotuiError as error:
        assert str(error)  # noqa: PT017 - libFuzzer wants no exception


def _read(kind: str, data: bytes) -> None:
    if kind == "manifest":
        MANIFEST.write_bytes(data)
        assert all(model.problem or model.path.parent == FOLDER / "blobs" for model in ollama_models(FOLDER))
    elif kind == "listing":
        found = parse_object(data, "the listing").get("Data")
        for entry in found.get("Files") or () if isinstance(found, dict) else ():
            listed = _listed(entry)
            assert listed is None or not (Path(listed[0]).is_absolute() or ".." in Path(listed[0]).parts)
    elif kind == "adapter.gguf":
        GGUF.write_bytes(data)
        _check(GGUF)
    else:
        for name in KINDS[2:4]:
            (PEFT / name).write_bytes(data if name == kind else VALID[name])
        _check(PEFT)


def _check(path: Path) -> None:
    for name, pair in read_adapter(path, CONFIG).items():
        assert pair.up.shape[1] == len(pair.down), name


if __name__ == "__main__":
    fuzz(test_one_input, (bytes([i]) + VALID[kind] for i, kind in enumerate(KINDS)))
