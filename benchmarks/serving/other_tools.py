"""Time to the first token with one stream, by other tools and by `miaotui bench serve`, in turns.

    miaotui serve smollm2-135m --threads 1 &
    python -m venv tools && tools/bin/pip install guidellm
    python -m benchmarks.serving.other_tools http://127.0.0.1:8000 --tokenizer FOLDER --guidellm tools/bin/guidellm
    python -m benchmarks.serving.other_tools URL --tokenizer FOLDER --vllm v/bin/vllm --aiperf a/bin/aiperf --pairs 5

The tools run unmodified, from environments of their own. FOLDER has the model's ``tokenizer.json``, with which they
make prompts of so many tokens and count; ``AutoTokenizer.from_pretrained(..., gguf_file=...).save_pretrained(FOLDER)``
writes it. No tool is let onto the network. Prompts never repeat. Prints both medians of each pair, the prompt tokens of
each side, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe
from miaotui.bench.report import aligned

REPOSITORY = "local/tokenizer"  # by which AIPerf finds the tokenizer without a network
SNAPSHOT = "0" * 40


@dataclass(frozen=True)
class Asked:
    """Medians of one run: milliseconds to the first token, and tokens of a prompt as the server counts them."""

    ttft_ms: float
    prompt_tokens: float


@dataclass(frozen=True)
class Pair:
    """A run of a tool beside one of ours just before it."""

    tool: str
    ours: Asked
    theirs: Asked


def main() -> None:
    """Run all pairs."""
    args = _arguments()
    chosen = {name: run for name, run in TOOLS.items() if getattr(args, name)}
    if not chosen:
        raise SystemExit("name a tool: --vllm, --guidellm or --aiperf, each with the path of its program")
    found = []
    for _ in range(args.pairs):
        for name, run in chosen.items():
            with tempfile.TemporaryDirectory(prefix="tools-") as folder:
                found.append(Pair(name, ours(args), run(args, Path(folder))))
            print(f"  {name}: {found[-1].ours.ttft_ms:.1f} ms ours, {found[-1].theirs.ttft_ms:.1f} ms", file=sys.stderr)
    rows = [["tool", "ours [ms]", "theirs [ms]", "difference [ms]", "prompt tokens", "pairs"]]
    for name in chosen:
        pairs = [each for each in found if each.tool == name]
        one, other = (median(side) for side in zip(*((p.ours.ttft_ms, p.theirs.ttft_ms) for p in pairs), strict=True))
        difference = median(each.theirs.ttft_ms - each.ours.ttft_ms for each in pairs)
        tokens = f"{pairs[0].ours.prompt_tokens:.0f} and {pairs[0].theirs.prompt_tokens:.0f}"
        rows.append([name, f"{one:.1f}", f"{other:.1f}", f"{difference:+.1f}", tokens, str(len(pairs))])
    print(aligned(rows))
    about = {"benchmark": "other_tools", "url": args.url, "requests": args.requests, "machine": describe().as_dict()}
    print(json.dumps({**about, "pairs": [asdict(each) for each in found]}))


def ours(args: argparse.Namespace) -> Asked:
    """Ask with `miaotui bench serve`, which takes time and not a count: a request lasts about a tenth of a second."""
    command = [sys.executable, "-m", "miaotui", "bench", "serve", args.url, "--model", args.model, "--streams", "1"]
    command += ["--input-tokens", str(args.words), "--output-tokens", str(args.answer_tokens), "--ignore-eos"]
    (load,) = json.loads(_ran([*command, "--duration", f"{args.requests / 10:g}"]).splitlines()[-1])["loads"]
    return Asked(load["latencies"]["ttft"]["p50_ms"], load["prompt_tokens"] / max(load["answered"], 1))


def vllm(args: argparse.Namespace, folder: Path) -> Asked:
    """Ask with ``vllm bench serve``."""
    command = [args.vllm, "bench", "serve", "--backend", "openai-chat", "--base-url", args.url, "--model", args.model]
    command += ["--endpoint", "/v1/chat/completions", "--tokenizer", str(args.tokenizer), "--dataset-name", "random"]
    command += ["--random-input-len", str(args.prompt_tokens), "--random-output-len", str(args.answer_tokens)]
    command += ["--num-prompts", str(args.requests), "--max-concurrency", "1", "--ignore-eos", "--temperature", "0"]
    command += ["--seed", str(_seed()), "--save-result", "--result-dir", str(folder), "--result-filename", "found.json"]
    _ran(command)
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return Asked(found["median_ttft_ms"], found["total_input_tokens"] / found["completed"])


def guidellm(args: argparse.Namespace, folder: Path) -> Asked:
    """Ask with guidellm."""
    data = f"kind=synthetic_text,prompt_tokens={args.prompt_tokens},output_tokens={args.answer_tokens}"
    command = [args.guidellm, "run", "--backend", f"kind=openai_http,target={args.url}", "--data", data]
    command += ["--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={args.requests}"]
    command += ["--tokenizer", f"kind=huggingface_auto,model={args.tokenizer}", "--disable-progress"]
    _ran([*command, "--output", f"kind=json,path={folder / 'found.json'}"])
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))["benchmarks"][0]["metrics"]
    names = ("time_to_first_token_ms", "prompt_token_count")
    return Asked(*(found[name]["successful"]["median"] for name in names))


def aiperf(args: argparse.Namespace, folder: Path) -> Asked:
    """Ask with AIPerf. It takes a tokenizer without a network only from a cache of its hub, so that one is made."""
    cache = folder / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(SNAPSHOT, encoding="ascii")
    shutil.copytree(args.tokenizer, cache / "snapshots" / SNAPSHOT)
    command = [args.aiperf, "profile", "--model", args.model, "--url", args.url, "--endpoint-type", "chat"]
    command += ["--streaming", "--tokenizer", REPOSITORY, "--concurrency", "1", "--request-count", str(args.requests)]
    for name, tokens in (("synthetic-input", args.prompt_tokens), ("output", args.answer_tokens)):
        command += [f"--{name}-tokens-mean", str(tokens), f"--{name}-tokens-stddev", "0"]
    command += ["--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0", "--ui", "simple"]
    command += ["--random-seed", str(_seed()), "--output-artifact-dir", str(folder / "found")]
    _ran(command, HF_HOME=str(folder / "hf"))
    found = json.loads((folder / "found" / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    return Asked(found["time_to_first_token"]["p50"], found["usage_prompt_tokens"]["p50"])


TOOLS: Mapping[str, Callable[[argparse.Namespace, Path], Asked]] = {
    "vllm": vllm,
    "guidellm": guidellm,
    "aiperf": aiperf,
}


def _ran(command: Sequence[str], **environment: str) -> str:
    """Return a program's output. Ends with the last of what it said where it fails."""
    known: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=known, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command[:3])} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    return done.stdout


def _seed() -> int:
    return random.SystemRandom().randrange(1 << 31)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("url")
    add("--model", default="smollm2-135m", help="name of the model at the server")
    add("--tokenizer", type=Path, required=True, metavar="FOLDER")
    add("--vllm", metavar="PROGRAM")
    add("--guidellm", metavar="PROGRAM")
    add("--aiperf", metavar="PROGRAM")
    add("--pairs", type=int, default=3)
    add("--requests", type=int, default=60, help="of each run")
    add("--words", type=int, default=60, help="of our prompts; the table shows whether the tokens are as many")
    add("--prompt-tokens", type=int, default=60, help="of the tools' prompts, without the chat template")
    add("--answer-tokens", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
