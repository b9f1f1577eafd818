"""Loss of quantised files at equal bytes: ours, llama.cpp's with its importance matrix, and one type for all matrices.

    python -m benchmarks.peers.install setup                         # once: llama.cpp, compiled for this CPU
    python -m benchmarks.optimize.quantize smollm2-135m --data DATA   # a table and one JSON line

DATA has the folders wikitext2 and ntrex-en-zh. llama.cpp quantises the model with the same calibration texts
(``llama-imatrix``, ``llama-quantize --imatrix``); ours gets the bytes of each of its files. "uniform" is one type for
all matrices, rounded plainly by importance, and ours again at those bytes. All files are measured alike: read by this
package, float32 arithmetic, mean divergence from the source over held-out texts (the model's own, English and Chinese
ones). For matrices of layers, ours leaves out types that hold the source's own values: a file on its source's grid
would prove nothing. Owns the order of a run. Knows no method. Invariant: no file of ours is larger than the one that it
is compared with.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.peers.install import Peers
from miaotui.config import Settings
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.resolve import resolve
from miaotui.optimize.card import quality_loss
from miaotui.optimize.folder_copy import as_gguf
from miaotui.optimize.layerwise import LayerwiseModel, head_divergence
from miaotui.optimize.quantization.quantize import Quantization, choose, surveyed, uniform, write_quantized
from miaotui.optimize.quantization.rounding import round_plainly
from miaotui.optimize.quantization.survey import hessian_of, layer_moments
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.calibration import TextSet, require_disjoint, token_rows
from miaotui.optimize.texts.own_texts import own_texts
from miaotui.text.load import load_tokenizer

ROW, CALIBRATION, PROBE = 256, 8192, 128  # tokens
PEER_TYPES = "Q2_K,Q3_K_M,IQ4_NL,Q4_0"
UNIFORM = "Q4_0"


@dataclass(frozen=True)
class Base:
    """Source, its streams on each set of held-out texts, and the calibration."""

    source: GgufSource
    quantization: Quantization
    tests: Mapping[str, Sequence[Sequence[int]]]
    states: Mapping[str, list[Any]]


def main() -> None:
    """Measure one model; print a table and a JSON line."""
    args = _arguments()
    path = as_gguf(resolve(args.model), Settings.from_env())
    name = Path(args.model).name
    folder = args.work / (f"{name}-seed-{args.texts_seed}" if args.texts_seed else name)
    folder.mkdir(parents=True, exist_ok=True)
    with open_source(path) as source:
        calibration, test = own_texts(path, source.digest(), Settings.from_env(), seed=args.texts_seed)
        base = _base(source, path, calibration, {"own": test, **_data(args.data)}, args.test_tokens)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        losses = surveyed(folder, base.quantization)
        survey_s, survey_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        rows = []
        for name, file in [*_peer_files(args, path, calibration, folder), *_uniform_files(args, base, losses, folder)]:
            peer = _measured(base, file)
            out = folder / f"ours-{name}.gguf"
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            choice = choose(base.quantization, losses, file.stat().st_size)
            write_quantized(base.quantization, choice, out, folder)
            took = {"seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - began_cpu_s}
            ours = _measured(base, out)
            text = "\n\n".join(test.texts)
            perplexity = {
                side: _llama_perplexity(args, each, text, folder) for side, each in (("theirs", file), ("ours", out))
            }
            row = {
                "against": name,
                "bytes": file.stat().st_size,
                "our_bytes": out.stat().st_size,
                "theirs": peer,
                "ours": ours,
            }
            rows.append({**row, "predicted": choice.predicted_kl, **took, "llama.cpp_perplexity": perplexity})
            _print_row(rows[-1])
    found = {
        "benchmark": "quantize",
        "model": args.model,
        "source_bytes": path.stat().st_size,
        "machine": describe().as_dict(),
        "texts_seed": args.texts_seed,
        "survey_s": survey_s,
        "survey_cpu_s": survey_cpu_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rows": rows,
    }
    print(json.dumps(found))


def _base(source: GgufSource, path: Path, calibration: TextSet, tests: Mapping[str, TextSet], test_tokens: int) -> Base:
    tokenizer = load_tokenizer(source.file.metadata, path.parent)
    for test in tests.values():
        require_disjoint(calibration, test)
    rows = token_rows(tokenizer, calibration, ROW, CALIBRATION)
    held_out = {name: token_rows(tokenizer, test, ROW, test_tokens) for name, test in tests.items()}
    model = LayerwiseModel(source.config, source.canonical())
    states = {name: model.states(each) for name, each in held_out.items()}
    return Base(source, Quantization(source, calibration, rows, PROBE, keep=False, off_grid=True), held_out, states)


def _data(folder: Path | None) -> dict[str, TextSet]:
    if folder is None:
        return {}
    english = (folder / "wikitext2" / "test.txt").read_text(encoding="utf-8")
    chinese = (folder / "ntrex-en-zh" / "newstest2019-ref.zho-CN.txt").read_text(encoding="utf-8")
    return {
        "wikitext2": TextSet("wikitext2", (english[:60_000],)),
        "ntrex-zh": TextSet("ntrex-zh", (chinese[:20_000],)),
    }


def _peer_files(args: argparse.Namespace, path: Path, calibration: TextSet, folder: Path) -> Iterator[tuple[str, Path]]:
    tools = args.tools or Peers(args.peers).build() / "bin"
    if not (tools / "llama-quantize").exists():
        print(f"no llama-quantize in {tools}: run benchmarks/peers/install.py setup", file=sys.stderr)
        return
    text, matrix = folder / "calibration.txt", folder / "imatrix.gguf"
    text.write_text("\n\n".join(calibration.texts), encoding="utf-8")
    if not matrix.exists():
        command = [tools / "llama-imatrix", "-m", path, "-f", text, "-o", matrix, "-c", str(ROW), "--process-output"]
        subprocess.run([*map(str, command), "-t", str(args.threads)], check=True, capture_output=True)
    for name in filter(None, args.peer_types.split(",")):
        out = folder / f"llama-{name}.gguf"
        if not out.exists():
            command = [tools / "llama-quantize", "--allow-requantize", "--imatrix", matrix, path, out, name]
            subprocess.run([*map(str, command), str(args.threads)], check=True, capture_output=True)
        yield f"llama.cpp {name}", out


def _llama_perplexity(args: argparse.Namespace, file: Path, text: str, folder: Path) -> float | None:
    """Return the perplexity that llama.cpp computes with a file: it reads and runs it. None without llama.cpp."""
    tool, written = (args.tools or Peers(args.peers).build() / "bin") / "llama-imatrix", folder / "test.txt"
    if not tool.exists():
        return None
    written.write_text(text, encoding="utf-8")
    command = [tool, "-m", file, "-f", written, "-o", folder / "unused.gguf", "-c", str(ROW), "-t", str(args.threads)]
    done = subprocess.run([*map(str, command), "--chunks", "8"], check=True, capture_output=True, text=True)
    found = re.search(r"PPL = ([0-9.]+)", done.stdout + done.stderr)
    return float(found[1]) if found else None


def _uniform_files(args: argparse.Namespace, base: Base, losses: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of one type: each weight rounded to the nearest, scales searched by importance, no error feedback."""
    source, quantization = base.source, base.quantization
    for name in filter(None, args.uniform.split(",")):
        choice = uniform(quantization, losses, BlockType[name])
        replaced: dict[str, StoredTensor] = {}
        model = LayerwiseModel(source.config, source.canonical())
        for layer, moments in layer_moments(source, model, quantization.rows):
            for matrix in (one for one in source.matrices if one.layer == layer):
                stored, kind = source.file.tensors[matrix.name], choice.kinds[matrix.name]
                importance = np.diag(hessian_of(moments, matrix, losses.lookup_share)).copy()
                step = max(1, (1 << 22) // stored.cols)
                parts = [
                    round_plainly(stored.float32(start, start + step), kind, importance)[0]
                    for start in range(0, stored.rows, step)
                ]
                replaced[matrix.name] = StoredTensor(matrix.name, stored.shape, kind, np.concatenate(parts))
        out = folder / f"uniform-{name}.gguf"
        _write(source, replaced, out)
        yield f"uniform {name}", out


def _write(source: GgufSource, replaced: Mapping[str, StoredTensor], out: Path) -> None:
    from miaotui.hub.formats.mapped import map_file
    from miaotui.hub.writers.gguf import write_gguf

    tensors = {**source.file.tensors, **replaced}
    with out.open("wb") as file:
        sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
        write_gguf(file, map_file(source.path), sizes, (tensor.data.reshape(-1) for tensor in tensors.values()))


def _measured(base: Base, file: Path) -> dict[str, Any]:
    with open_source(file) as made:
        other = LayerwiseModel(made.config, made.canonical())
        first = LayerwiseModel(base.source.config, base.source.canonical()).head()
        second = other.head()
        return {
            name: vars(quality_loss(head_divergence(first, base.states[name], second, other.states(rows), rows)))
            for name, rows in base.tests.items()
        }


def _print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['against']:22} {row['bytes']:12,} bytes, ours {row['our_bytes']:12,} in {row['seconds']:.0f} s "
        f"({row['cpu_s']:.0f} s of processor)"
    )
    print(f"    perplexity by llama.cpp: {row['llama.cpp_perplexity']}")
    for name in row["theirs"]:
        theirs, ours = row["theirs"][name], row["ours"][name]
        change = ours["mean_kl"] / theirs["mean_kl"] - 1
        print(
            f"    {name:10} KL {theirs['mean_kl']:.4f} -> {ours['mean_kl']:.4f} ({100 * change:+.0f}%), "
            f"p99 {theirs['p99_kl']:.3f} -> {ours['p99_kl']:.3f}, "
            f"same top {100 * theirs['same_top']:.1f}% -> {100 * ours['same_top']:.1f}%",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, help="folder of evaluation data")
    parser.add_argument("--peers", type=Path, default=Peers().folder)
    parser.add_argument("--tools", type=Path, help="folder with llama-quantize and llama-imatrix (default: the peers')")
    parser.add_argument("--peer-types", default=PEER_TYPES, help=f"llama.cpp's mixes (default: {PEER_TYPES})")
    parser.add_argument("--uniform", default=UNIFORM, help=f"types of whole files (default: {UNIFORM})")
    parser.add_argument("--work", type=Path, default=Path("quantize-files"), help="folder for files")
    parser.add_argument("--test-tokens", type=int, default=4096, help="of each set of held-out texts (default: 4096)")
    parser.add_argument("--texts-seed", type=int, default=0, help="another one: other calibration and own test texts")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
