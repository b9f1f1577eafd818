"""Cosines of the compiled encoder's embeddings with the model's in float32, text by text and as a ranking.

    python -m benchmarks.encoders.accuracy --reference transformers --text CHINESE.txt --keep FOLDER
    python -m benchmarks.encoders.accuracy --cacm FOLDER --keep FOLDER      # and nDCG@10 on that collection

The reference (`encoder_references.py`) is transformers (needs torch), or this project's own forward pass in NumPy,
which is held to transformers, or the compiled backend in float32, which is held to both. Texts are stretches of 5
tokens to the model's limit, log-uniform, of the prose in Python's documentation and of the files named by ``--text``,
alone and mixed. For each format of weights: the least and mean cosine, the share of the reference's 100 nearest texts
that are among the format's, and whether scores of the format's order fall in the reference. With ``--keep`` embeddings
stay in a folder, and a run that was ended goes on where it was. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import miaotui
from benchmarks.encoders.references import REFERENCES, Floats, reference
from benchmarks.kept import kept
from benchmarks.retrieval.ranking import cacm, ndcg
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import Format
from miaotui.model.encoder.opened import open_encoder
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer

NEAREST = 100


def main() -> None:
    """Print a line for each format, then JSON."""
    arguments = read_arguments()
    path = resolve(arguments.model)
    with open_encoder(path) as opened:
        tokenizer = load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case)
        limit = opened.config.max_tokens
    results = {}
    if arguments.cacm:
        for form in arguments.formats:
            results[form] = of_collection(arguments, form)
            tell(form, results[form])
    else:
        texts = list(stretches(tokenizer, sources(arguments.text), arguments.texts, limit))
        for form in arguments.formats:
            expected = references(arguments, path, texts, Format(form) if arguments.packed else Format.F32)
            results[form] = compared(ours(arguments, texts, form), expected) | {"texts": len(texts)}
            tell(form, results[form])
    print(json.dumps({"model": arguments.model, "reference": arguments.reference, "formats": results}))


def tell(form: str, figures: dict[str, float]) -> None:
    """Print the figures of one format."""
    print(f"{form}: " + ", ".join(f"{name} {value:.8g}" for name, value in figures.items()), flush=True)


def read_arguments() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-minilm-l6-v2", help="catalog name or path")
    parser.add_argument("--texts", type=int, default=1000, help="how many")
    parser.add_argument(
        "--text", type=Path, action="append", default=[], help="a file of further prose, such as Chinese"
    )
    parser.add_argument("--formats", nargs="+", default=["f32", "q8"], help="of weights")
    parser.add_argument("--reference", choices=REFERENCES, default="oracle")
    parser.add_argument("--packed", action="store_true", help="the reference has each format's own weights")
    parser.add_argument("--cacm", type=Path, metavar="FOLDER", help="nDCG@10 of this collection instead")
    parser.add_argument("--threads", type=int, help="of ours")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where embeddings stay")
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


def references(arguments: argparse.Namespace, path: Path, texts: list[list[int]], form: Format) -> Floats:
    """Return the reference's embeddings of ``texts``, over the weights as ``form`` packs them."""
    with reference(path, arguments.reference, form) as embed:
        return kept(arguments.keep, f"{arguments.model}-{arguments.reference}-{form.value}", texts, embed)


def ours(arguments: argparse.Namespace, texts: Sequence[list[int]] | list[str], form: str, prompt: str = "") -> Floats:
    """Return the compiled backend's embeddings of texts or token ids."""
    with miaotui.load_encoder(arguments.model, format=form, threads=arguments.threads) as encoder:
        return kept(
            arguments.keep,
            f"{arguments.model}-ours-{form}",
            texts,
            lambda part: np.asarray(
                encoder.embed(list(part), prompt=prompt or None, normalize=True, truncate=bool(prompt))
            ),
        )


def of_collection(arguments: argparse.Namespace, form: str) -> dict[str, float]:
    """Return nDCG@10 of the collection's documents, one embedding each, by their cosines with the topics."""
    collection = cacm(arguments.cacm)
    topics = [topic for topic in collection.queries if collection.relevant.get(topic)]
    documents = ours(arguments, [f"{one.title} {one.body}".strip() for one in collection.documents], form, "passage")
    queries = ours(arguments, [collection.queries[topic] for topic in topics], form, "query")
    names = [one.id for one in collection.documents]
    gains = [
        ndcg([names[place] for place in np.argsort(-scores, kind="stable")[:10]], collection.relevant[topic])
        for topic, scores in zip(topics, queries @ documents.T, strict=True)
    ]
    return {"topics": len(topics), "documents": len(names), "nDCG@10": float(np.mean(gains))}


def compared(found: Floats, expected: Floats) -> dict[str, float]:
    """Return the figures of one format. Every tenth text is a query to all."""
    cosines = (found * expected).sum(axis=1, dtype=np.float64)
    mine_all, theirs = (vectors[::10].astype(np.float64) @ vectors.T for vectors in (found, expected))
    most = min(NEAREST, len(found))
    shared, wrong = [], 0.0
    for mine, wanted in zip(mine_all, theirs, strict=True):
        order = np.argsort(-mine, kind="stable")[:most]
        best = np.argsort(-wanted, kind="stable")[:most]
        shared.append(len(set(order.tolist()) & set(best.tolist())) / most)
        drops = np.diff(wanted[order])
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
