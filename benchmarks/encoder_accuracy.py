"""How close the compiled encoder's embeddings are to the model's in float32, text by text and as a ranking.

The reference is transformers on all-MiniLM-L6-v2 (``--reference transformers``, needs torch), or this project's own
forward pass in NumPy, which is held to transformers, or the compiled backend in float32, which is held to both and
computes a thousand texts in a minute. Texts are stretches of 5 tokens to the model's limit,
log-uniform, of the prose in Python's documentation and of the files named by ``--text``, alone and mixed. For each
format of weights: the least and mean cosine, and the share of the reference's 100 nearest texts that are among the
format's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import miaotui
from miaotui.backends.cpu.encoder.build import build_encoder
from miaotui.backends.encoder_backend import TextRows
from miaotui.config import Settings
from miaotui.hub.formats.tensors import ComputedTensor, StoredTensor
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import Format, quantize, values
from miaotui.model.encoder.opened import OpenedEncoder, open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.pooling import Pooler, normalized
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer

Floats = NDArray[np.float32]
NEAREST = 100
TABLES = ("position_embed", "type_embed", "relative_bias", "relative_embed")  # kept in float32


def main() -> None:
    """Print a line for each format, then JSON."""
    arguments = read_arguments()
    path = resolve(arguments.model)
    with open_encoder(path) as opened:
        tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case)
        limit = opened.config.max_tokens
    texts = list(stretches(tokenizer, sources(arguments.text), arguments.texts, limit))
    expected = references(path, texts, arguments.reference)
    results = {}
    for form in arguments.formats:
        if arguments.packed:
            packed_by = "oracle" if arguments.reference == "transformers" else arguments.reference
            expected = references(path, texts, packed_by, Format(form))
        started_s = time.perf_counter()
        with miaotui.load_encoder(arguments.model, format=form) as encoder:
            found = np.asarray(encoder.embed(texts, prompt=None, normalize=True))
        results[form] = compared(found, expected) | {"seconds": time.perf_counter() - started_s}
        line = ", ".join(f"{name} {value:.6g}" for name, value in results[form].items())
        print(f"{form}: {line}")
    tokens = sum(map(len, texts))
    print(json.dumps({"model": arguments.model, "texts": len(texts), "tokens": tokens, "formats": results}))


def read_arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-minilm-l6-v2", help="catalog name or path")
    parser.add_argument("--texts", type=int, default=1000, help="how many")
    parser.add_argument(
        "--text", type=Path, action="append", default=[], help="a file of further prose, such as Chinese"
    )
    parser.add_argument("--formats", nargs="+", default=["f32", "q8"], help="of weights")
    parser.add_argument("--reference", choices=("transformers", "oracle", "compiled"), default="oracle")
    parser.add_argument("--packed", action="store_true", help="the reference has each format's own weights, in NumPy")
    return parser.parse_args()


def sources(files: list[Path]) -> list[str]:
    """Return long texts: English, each file, and all of them with their lines in turn."""
    from pydoc_data.topics import topics

    english = "\n".join(topics.values())
    given = [file.read_text(encoding="utf-8")[:400_000] for file in files]
    if not given:
        return [english]
    turns = zip(*(text.splitlines() for text in [english, *given]), strict=False)
    return [english, *given, " ".join(line for lines in turns for line in lines)]


def stretches(tokenizer: EncoderTokenizer, texts: list[str], count: int, limit: int) -> Iterator[list[int]]:
    """Yield token ids of ``count`` texts with their special tokens, of each source in turn."""
    rng = np.random.default_rng(0)
    around = tokenizer.encode_text("").tokens
    half = len(around) // 2
    bodies = [tokenizer.encode_text(text[:400_000]).tokens[half : half - len(around)] for text in texts]
    for index in range(count):
        body = bodies[index % len(bodies)]
        length = int(np.exp(rng.uniform(np.log(5), np.log(limit + 1)))) - len(around)
        start = int(rng.integers(0, max(len(body) - length, 1)))
        yield [*around[:half], *body[start : start + length], *around[half:]]


def references(path: Path, texts: list[list[int]], name: str, form: Format = Format.F32) -> Floats:
    """Return the reference's embeddings, float32 ``[texts, dimensions]``, each of length 1; weights as in ``form``."""
    with open_encoder(path) as opened:
        if opened.pooling is None:
            sys.exit(f"{path} does not say how its states become an embedding")
        pooler = Pooler(opened.pooling, opened.weights, opened.config.hidden_size)
        if name == "compiled":
            return normalized(np.stack(list(of_compiled(path, opened, form, texts, pooler))))
        states = (
            of_transformers(path)
            if name == "transformers"
            else EncoderOracle(opened.config, packed(opened, form)).states
        )
        return normalized(np.stack([pooler.embedding(states(text)) for text in texts]))


def of_compiled(
    path: Path, opened: OpenedEncoder, form: Format, texts: list[list[int]], pooler: Pooler
) -> Iterator[Floats]:
    """Yield the embeddings of the compiled backend in float32 over the weights that ``form`` packs."""
    weights = {
        name: ComputedTensor(name, tensor.shape, partial(rounded, name, tensor, form))
        for name, tensor in opened.weights.items()
    }
    with tempfile.TemporaryDirectory() as cache:  # of packed weights; compiled kernels stay where they are
        settings = Settings.from_env()
        packs = replace(settings, cache_dir=Path(cache))
        backend = build_encoder(path, replace(opened, weights=weights), packs, form=Format.F32)
        for text in texts:
            yield pooler.embedding(backend.encode([TextRows(text)]).states[0])
        backend.close()


def packed(opened: OpenedEncoder, form: Format) -> dict[str, Floats]:
    """Return an encoder's weights in float32 as the compiled encoder holds them in ``form``."""
    return {name: rounded(name, tensor, form) for name, tensor in opened.weights.items()}


def rounded(name: str, tensor: StoredTensor, form: Format) -> Floats:
    """Return one tensor's values as they are packed; blocks of 4 or 8 bits keep theirs."""
    is_kept = form is Format.F32 or not tensor.kind.is_float
    if is_kept or len(tensor.shape) != 2 or name in TABLES or name.startswith("head."):
        return tensor.float32()
    return values(quantize(form, tensor.float32()))


def of_transformers(path: Path) -> Any:
    """Return a function of token ids to transformers' states in float32."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path).float().eval()

    def states(tokens: list[int]) -> Floats:
        with torch.no_grad():
            found: Floats = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
        return found

    return states


def compared(found: Floats, expected: Floats) -> dict[str, float]:
    """Return the figures of one format. Every tenth text is a query to all."""
    cosines = (found * expected).sum(axis=1, dtype=np.float64)
    ours, theirs = (vectors[::10] @ vectors.T for vectors in (found, expected))
    most = min(NEAREST, len(found))
    shared, wrong = [], 0.0
    for mine, reference in zip(ours, theirs, strict=True):
        order = np.argsort(-mine, kind="stable")[:most]
        best = np.argsort(-reference, kind="stable")[:most]
        shared.append(len(set(order.tolist()) & set(best.tolist())) / most)
        drops = np.diff(reference[order])
        wrong = max(wrong, float(drops.max(initial=0.0)))
    return {
        "least cosine": float(cosines.min()),
        "mean cosine": float(cosines.mean()),
        "shared of the nearest": float(np.mean(shared)),
        "least shared": float(np.min(shared)),
        "largest step up in the order": wrong,
    }


if __name__ == "__main__":
    main()
