"""Runs lm-evaluation-harness, unchanged, in an environment of its own; started by `benchmarks.serving.lm_eval_scores`.

Reads a JSON file with the runs, and writes one with what each found: scores, and the raw answers of every sample.
Needs lm_eval with its ``api`` and ``hf`` needs. Invariant: nothing of the harness is replaced.

    PYTHON lm_eval_runs.py RUNS.json FOUND.json
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer


def evaluate(run: dict[str, Any], tasks: Path) -> dict[str, Any]:
    """Scores and samples of one run."""
    start_s = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model=run["model"],
        model_args=run["args"],
        tasks=run["tasks"],
        batch_size=run["batch"],
        limit=run["limit"],
        apply_chat_template=run["chat"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        device="cpu" if run["model"] == "hf" else None,
    )
    samples = {
        task: {str(sample["doc_id"]): sample["resps"] for sample in listed} for task, listed in found["samples"].items()
    }
    scores = {
        task: {name: value for name, value in values.items() if isinstance(value, float)}
        for task, values in found["results"].items()
    }
    return {"seconds": time.perf_counter() - start_s, "scores": scores, "samples": samples}


def compare_tokens(run: dict[str, Any]) -> dict[str, Any]:
    """Differences of the log-probabilities of single tokens, the server's and those of transformers in float32."""
    tokenizer = AutoTokenizer.from_pretrained(run["folder"])
    model = AutoModelForCausalLM.from_pretrained(run["folder"], dtype=torch.float32).eval()
    differences: list[float] = []
    of_texts: list[float] = []
    for text in run["texts"]:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids][:1024]
        body = {"model": run["name"], "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
        request = urllib.request.Request(run["url"], json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            ours = json.load(answer)["choices"][0]["logprobs"]["token_logprobs"][1:]
        with torch.no_grad():
            rows = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), -1)
        theirs = rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()
        found = [one - other for one, other in zip(ours, theirs, strict=True)]
        of_texts.append(abs(sum(found)) / len(found))
        differences += found
    sizes = sorted(map(abs, differences))
    return {
        "tokens": len(sizes),
        "mean_absolute": sum(sizes) / len(sizes),
        "mean": sum(differences) / len(sizes),
        "mean_of_texts": sum(of_texts) / len(of_texts),
        "p99": sizes[int(0.99 * len(sizes))],
    }


def main() -> None:
    """Do all runs of the first file and write what they found into the second, after each of them."""
    wanted = json.loads(Path(sys.argv[1]).read_text())
    found = []
    for run in wanted["runs"]:
        found.append(compare_tokens(run) if run["kind"] == "tokens" else evaluate(run, Path(wanted["tasks"])))
        print(f"done: {run['title']}", file=sys.stderr, flush=True)
        Path(sys.argv[2]).write_text(json.dumps({"runs": found, "version": lm_eval.__version__}))


if __name__ == "__main__":
    main()
