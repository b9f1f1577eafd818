"""Measures eight streams with eight low-rank adapters beside the same streams without, in turns; prints a JSON line.

    python -m benchmarks.decode.adapters  # the default model, rank 16, all linear layers
    python -m benchmarks.decode.adapters --shape llama-1b --layers 4 --type Q4_0
    python -m benchmarks.decode.adapters --only q_proj v_proj                   # PEFT's default matrices of a Llama

Adapters are random, each its own; drafts are off. A sample is the decode rate of all streams together: all tokens but
the first of each, over the time in which they came. Where memory limits a pass, the adapters' share of the weights'
bytes is what they must cost. With ``--shape`` the model is a file of random weights (`block_files`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from benchmarks.decode.block_files import SHAPES, TYPES, random_model
from benchmarks.decode.block_types import default_source
from benchmarks.machine import describe
from benchmarks.places import PEERS
from miaotui.engine.reading.readers import whole
from miaotui.engine.request import RequestOptions
from miaotui.llm import LLM
from miaotui.types import SamplingParams

PROMPT = list(range(100, 140))
MATRICES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate", "up_proj": "up"}
MATRICES |= {"down_proj": "down"}


def main() -> None:
    """Measure what the arguments name."""
    args = _arguments()
    model = args.model
    if args.shape:
        model = random_model(default_source(), args.folder or PEERS, args.shape, args.layers, args.type)
    with (
        tempfile.TemporaryDirectory(prefix="adapters-") as folder,
        miaotui.load(model, threads=args.threads, speculate=False, context=2048) as llm,
    ):
        names = []
        for number in range(args.streams):
            path = write_adapter(Path(folder) / str(number), llm, args.rank, args.only, number)
            names.append(llm.load_adapter(f"adapter-{number}", path).name)
        report(args, llm, names)


def report(args: argparse.Namespace, llm: LLM, names: Sequence[str]) -> None:
    """Measure in turns and print."""
    nobody: list[str | None] = [None] * len(names)
    kinds: dict[str, Sequence[str | None]] = {
        "without": nobody,
        "each its own": list(names),
        "all one": [names[0]] * len(names),
        "one of them": [names[0], *nobody[1:]],
    }
    found: dict[str, list[float]] = {kind: [] for kind in (*kinds, "1 stream", "1 stream, adapter")}
    reads: dict[str, list[float]] = {"without": [], "adapter": []}
    for turn in range(args.repetitions + 1):  # the first warms up
        for kind, adapters in kinds.items():
            found[kind].append(decode_rate(llm, adapters, args.tokens))
        found["1 stream"].append(decode_rate(llm, [None], args.tokens))
        found["1 stream, adapter"].append(decode_rate(llm, [names[0]], args.tokens))
        reads["without"].append(prompt_rate(llm, None, turn))
        reads["adapter"].append(prompt_rate(llm, names[0], turn))
    medians = {kind: statistics.median(rates[1:]) for kind, rates in found.items()}
    shares = [own / plain for own, plain in zip(found["each its own"][1:], found["without"][1:], strict=True)]
    stats = llm.loop.engine.backend.stats()
    runner = llm.loop.engine.backend.runner  # type: ignore[attr-defined]  # the compiled one
    more = runner.adapter_bytes / stats.weight_bytes
    for kind, rate in medians.items():
        print(f"{kind:20} {rate:9.1f} tokens/s   ({min(found[kind][1:]):.1f} to {max(found[kind][1:]):.1f})")
    prompts = {kind: statistics.median(rates[1:]) for kind, rates in reads.items()}
    print(f"prompts: {prompts['without']:.0f} tokens/s without, {prompts['adapter']:.0f} with an adapter")
    share = statistics.median(shares)
    print(f"{len(names)} streams with {len(names)} adapters: {share:.1%} of the rate without")
    print(f"  ({min(shares):.1%} to {max(shares):.1%}); the adapters have {more:.1%} of the bytes of the weights")
    about: dict[str, Any] = {"benchmark": "adapters", "machine": describe().as_dict(), "rank": args.rank}
    about |= {"matrices": args.only, "threads": args.threads, "streams": len(names)}
    about["model"] = str(args.shape or args.model)
    numbers = {"tokens_per_s": medians, "prompt_tokens_per_s": prompts, "share": share, "bytes_share": more}
    print(json.dumps({**about, **numbers}))


def decode_rate(llm: LLM, adapters: Sequence[str | None], tokens: int) -> float:
    """Return the tokens of all streams in a second, after each one's first token."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    loop = llm.loop
    answers = whole(
        loop,
        lambda: (
            loop.submit([*PROMPT, 200 + number], params, RequestOptions(adapter=adapter))
            for number, adapter in enumerate(adapters)
        ),
    )
    return float(sum(answer.timing.decode_tokens_per_s for answer in answers))


def prompt_rate(llm: LLM, adapter: str | None, turn: int) -> float:
    """Return the prompt tokens that are read in a second."""
    tokens = np.random.default_rng(turn).integers(0, 4000, 512).tolist()
    timing = llm.generate(tokens, max_tokens=1, adapter=adapter).timing
    return float(len(tokens) / timing.ttft_s)


def write_adapter(folder: Path, llm: LLM, rank: int, only: Sequence[str], seed: int) -> Path:
    """Write a random adapter in PEFT's form."""
    from safetensors.numpy import save_file

    from miaotui.model.reading.names import tensor_shapes

    rng, tensors = np.random.default_rng(seed), {}
    shapes = tensor_shapes(llm.config)
    for layer in range(llm.config.n_layers):
        for module in only:
            outputs, inputs = shapes[f"layers.{layer}.{MATRICES[module]}"]
            part = "self_attn" if module[0] in "qkvo" else "mlp"
            name = f"base_model.model.model.layers.{layer}.{part}.{module}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(0, inputs**-0.5, (rank, inputs)).astype(np.float16)
            tensors[f"{name}.lora_B.weight"] = rng.normal(0, 0.02, (outputs, rank)).astype(np.float16)
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none", "target_modules": list(only)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a Llama: name, file or folder")
    add("--shape", choices=SHAPES, help="random weights of this shape instead")
    add("--layers", type=int, default=4)
    add("--type", choices=TYPES, default="Q4_0")
    add("--folder", type=Path, help="for files of random weights (default: beside the peers)")
    add("--streams", type=int, default=8)
    add("--rank", type=int, default=16)
    add("--only", nargs="+", choices=MATRICES, default=list(MATRICES), help="matrices that adapters change")
    add("--tokens", type=int, default=96)
    add("--repetitions", type=int, default=5)
    add("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
