"""lm-evaluation-harness against a running server: are its scores right, and equal in every way of asking?

Owns the runs and the table; the harness itself runs unchanged in an environment of its own (``--lm-eval``). Compares
with its ``hf`` model on the weights that the model file decodes to, in float32. Prints a table and one JSON line.
Invariant: nothing is downloaded; questions and texts are written by `evaluate_tasks`.

    python -m venv lm && lm/bin/pip install "lm_eval[api,hf]"
    python -m benchmarks.serving.lm_eval_scores --lm-eval lm/bin/python [MODEL] [--questions 500] [--few 24]
        [--choices FILE]

Needs torch and transformers here too (extra ``compare``). About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.places import SUBJECTS
from benchmarks.promises.goodput_servers import Server, ours
from benchmarks.serving.lm_eval_tasks import TASKS, Question, questions, write_tasks
from miaotui.config import Settings
from miaotui.hub.resolve import resolve
from miaotui.kernels.platform.cpu import probe
from miaotui.model.reading.files import open_model

RUNS = SUBJECTS / "lm_eval_runs.py"
CHOICE, PERPLEXITY, GENERATION = TASKS
TEXTS, TEXT_CHARACTERS, SINGLE = 6, 1200, 60  # of prose; and questions whose tokens are compared one by one


@dataclass(frozen=True)
class Run:
    """One run of the harness."""

    title: str
    model: str
    args: str
    tasks: Sequence[str]
    batch: int = 1
    limit: int | None = None
    chat: bool = False
    kind: str = "harness"


def runs_for(url: str, folder: Path, few: int) -> list[Run]:
    """The full run, the float32 reference, and a few questions in every way of asking."""

    def asked(way: str, batch: int, concurrent: int, limit: int | None, tasks: Sequence[str] = TASKS) -> Run:
        cut = f"tokenizer={folder},tokenizer_backend=huggingface,tokenized_requests={way == 'ids'}"
        if way == "remote":
            cut = "tokenizer_backend=remote,tokenized_requests=True"
        args = f"model=bench,base_url={url}/v1/completions,num_concurrent={concurrent},{cut}"
        title = f"{way}, batch {batch}, {concurrent} at once" + (", all questions" if limit is None else "")
        return Run(title, "local-completions", args, tasks, batch, limit)

    chats = [
        Run(
            f"chat, {concurrent} at once",
            "local-chat-completions",
            f"model=bench,base_url={url}/v1/chat/completions,num_concurrent={concurrent}",
            [GENERATION],
            limit=few,
            chat=True,
        )
        for concurrent in (1, 4)
    ]
    return [
        asked("ids", 8, 4, None, [CHOICE, PERPLEXITY]),
        Run("hf, float32, all questions", "hf", f"pretrained={folder},dtype=float32", [CHOICE, PERPLEXITY], 8),
        *(
            asked(way, batch, concurrent, few)
            for way in ("ids", "strings")
            for batch in (1, 4, 8)
            for concurrent in (1, 4)
        ),
        asked("remote", 4, 1, few),
        *chats,
    ]


def write_float32(path: Path, folder: Path) -> None:
    """The model file's weights as transformers reads them, in float32, with its tokenizer."""
    from transformers import AutoTokenizer

    from tests.made_models.reference_models import reference_model

    with open_model(path) as files:
        reference_model(files).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def texts() -> list[str]:
    """Plain English prose from Python's own documentation."""
    from tests.made_models.reference_models import english

    whole = english()
    step = len(whole) // TEXTS
    return [whole[at : at + TEXT_CHARACTERS] for at in range(0, step * TEXTS, step)]


def alike(found: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """For each task, whether the raw answers to its first questions are equal in all of these runs."""
    equal = {}
    for task in TASKS:
        ways = [run["samples"][task] for run in found if task in run["samples"]]
        common = set.intersection(*map(set, ways)) if ways else set()
        equal[task] = len(ways) > 1 and bool(common) and all(way[doc] == ways[0][doc] for way in ways for doc in common)
    return equal


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, as it goes into the JSON line."""
    path = resolve(options.model, settings=Settings.from_env())
    asked = _read(options.choices) if options.choices else questions(options.questions)
    prose = texts()
    write_tasks(folder / "tasks", asked[: options.questions], prose)
    write_float32(path, folder / "hf")
    threads = options.threads or probe().cores
    with Server(ours(path, threads), folder / "server.log") as server:
        url = f"http://127.0.0.1:{server.port}"
        runs = runs_for(url, folder / "hf", options.few)
        single = {
            "kind": "tokens",
            "title": "single tokens",
            "folder": str(folder / "hf"),
            "name": "bench",
            "url": f"{url}/v1/completions",
            "texts": [*prose, *(_whole(question) for question in asked[:SINGLE])],
        }
        found = _harness(options.lm_eval, folder, [*map(asdict, runs), single])
    return _summary(runs, found, len(asked[: options.questions]))


def _harness(python: Path, folder: Path, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    wanted, answer = folder / "runs.json", folder / "found.json"
    wanted.write_text(json.dumps({"tasks": str(folder / "tasks"), "runs": list(runs)}))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    polite = {"TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**os.environ, **offline, **polite}
    subprocess.run([str(python), str(RUNS), str(wanted), str(answer)], check=True, env=environment)
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _summary(runs: Sequence[Run], found: dict[str, Any], count: int) -> dict[str, Any]:
    harness = dict(zip((run.title for run in runs), found["runs"], strict=False))
    served, reference = found["runs"][0], found["runs"][1]
    accuracy, theirs = (each["scores"][CHOICE]["acc,none"] for each in (served, reference))
    completions = [harness[run.title] for run in runs if run.model == "local-completions"]
    chats = [harness[run.title] for run in runs if run.chat]
    return {
        "questions": count,
        "accuracy": {"miaotui": accuracy, "hf float32": theirs},
        "word_perplexity": {
            "miaotui": served["scores"][PERPLEXITY]["word_perplexity,none"],
            "hf float32": reference["scores"][PERPLEXITY]["word_perplexity,none"],
        },
        "equal_in_all_ways": alike(completions),
        "equal_chats": alike(chats)[GENERATION],
        "tokens": found["runs"][-1],
        "runs": {title: {"seconds": run["seconds"], **run["scores"]} for title, run in harness.items()},
        "lm_eval": found["version"],
    }


def _whole(question: Question) -> str:
    return f"{question['question']} {question['choices'][question['answer']]}"


def _read(file: Path) -> list[Question]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"\n| run | accuracy, {found['questions']} questions or the first few | word perplexity | seconds |\n"
        "|---|---|---|---|"
    )
    for title, run in found["runs"].items():
        accuracy = run.get(CHOICE, {}).get("acc,none")
        perplexity = run.get(PERPLEXITY, {}).get("word_perplexity,none")
        cells = ["-" if value is None else f"{value:.4f}" for value in (accuracy, perplexity)]
        print(f"| {title} | {' | '.join(cells)} | {run['seconds']:.0f} |")
    tokens = found["tokens"]
    print(f"\nequal answers in all ways of asking: {found['equal_in_all_ways']}; in chats: {found['equal_chats']}")
    print(
        f"log-probabilities of {tokens['tokens']:,} single tokens, against float32: mean absolute difference "
        f"{tokens['mean_absolute']:.4f} nats, 99% within {tokens['p99']:.3f}, mean {tokens['mean']:+.4f}; "
        f"of a text's mean token {tokens['mean_of_texts']:.4f}"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--lm-eval", type=Path, required=True, help="a Python that has lm_eval[api,hf]")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--few", type=int, default=24, help="questions that are asked in every way")
    parser.add_argument("--choices", type=Path, help="JSON lines of question, choices, answer (an index): use these")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where to leave tasks, weights and answers")
    options = parser.parse_args()
    options.lm_eval = options.lm_eval.absolute()  # not resolved: a link is what makes an environment
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(options, folder)
    machine = describe()
    print(f"{machine.processor}, {machine.cores} cores, load {machine.load_average[0]:.1f}, lm_eval {found['lm_eval']}")
    show(found)
    print(json.dumps({"machine": machine.as_dict(), **found}))


if __name__ == "__main__":
    main()
