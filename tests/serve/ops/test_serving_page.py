"""The documentation's examples that need a server: run against one, and servers started as shown."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_server import Child, child_server
from prometheus_client.parser import text_string_to_metric_families

from adapter_files import random_pairs, write_peft
from miaotui.cli.options.parser import parse
from miaotui.cli.serve import options_from
from test_docs import SERVER, Example, commands, examples, is_served, named

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
CALLS = [pair for pair in commands() if SERVER in pair[1]]
STARTS = [pair for pair in commands() if is_served(pair[1]) and pair not in CALLS]


ADAPTER = "/models/law"  # of the examples; made for the model that is served


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = random_pairs({"model.layers.0.self_attn.q_proj": (576, 576)}, rank=4)
    return write_peft(tmp_path_factory.mktemp("adapter") / "law", pairs)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    answers = tmp_path_factory.mktemp("answers") / "answers.db"
    with child_server("smollm2-135m", "--answer-cache", str(answers), "--allow-adapters") as child:
        yield child


@pytest.mark.model
@pytest.mark.parametrize("command", named(CALLS))
def test_calls_succeed(command: str, server: Child, adapter: Path) -> None:
    words = shlex.split(command.replace(SERVER, server.url).replace(ADAPTER, str(adapter)))
    done = subprocess.run([*words, "--fail-with-body", "--silent"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.model
@pytest.mark.parametrize("example", [e for e in examples("python") if SERVER in e.code], ids=str)
def test_clients_get_answers(example: Example, server: Child, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example.code.replace(SERVER, server.url), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.model
@pytest.mark.parametrize("command", named(STARTS))
def test_servers_start_as_shown(command: str) -> None:
    with child_server(*shlex.split(command)[2:]) as child:
        assert child.ask("/ready")[0] == 200
        child.process.terminate()
        assert child.process.wait(30) == (0 if os.name == "posix" else 1)


@pytest.mark.model
def test_every_metric_of_the_page_is_exported(server: Child) -> None:
    body = {"prompt": "hello", "max_tokens": 4, "deadline_ms": 60_000}
    assert server.ask("/v1/completions", body)[0] == 200
    refused = {"prompt": "hello", "max_tokens": 200, "deadline_ms": 0.01}
    assert server.ask("/v1/completions", refused)[0] == 429
    assert server.ask("/health")[0] == 200
    exported = set()
    for family in text_string_to_metric_families(server.ask("/metrics")[1]):
        exported |= {family.name, *(sample.name for sample in family.samples)}
        if family.type == "counter":  # one with labels has no sample before it counts
            exported.add(family.name + "_total")
    rows = re.findall(r"^\| `.*?\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`([a-z_:0-9]+)`", row)}
    assert len(shown) > 20
    assert shown <= exported, shown - exported


@pytest.mark.parametrize("example", examples("toml"), ids=str)
def test_configurations_are_understood(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(example.code, encoding="utf-8")
    found = options_from(parse(["serve", "--config", str(path)])).checked()
    assert (found.deadline_s, found.max_requests, found.log_format) == (1.0, 128, "json")


@pytest.mark.parametrize("example", examples("ini"), ids=str)
def test_the_unit_waits_for_the_last_answers(example: Example) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(example.code)
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    assert Path(words[0]).name == "miaotui"
    parsed = parse(words[1:])
    assert parsed.command == "serve"
    assert int(service["TimeoutStopSec"]) > options_from(parse(["serve"])).drain_timeout_s


def test_commands_shown_as_text_parse() -> None:
    shown = [
        line for example in examples("text") for line in example.code.splitlines() if line.startswith("miaotui serve")
    ]
    assert shown
    for line in shown:
        options_from(parse(shlex.split(line)[1:])).checked()
