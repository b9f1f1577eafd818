"""OpenVINO GenAI under test: its continuous-batching pipeline on the CPU.

Reads a folder of OpenVINO IR made from the same GGUF file (see `benchmarks.peers.engines`). Knows nothing of other
engines. All prompts are submitted at once and the pipeline is stepped until they end, as its own
server does; prefix caching is off, since the prompts never repeat.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from protocol import Stopwatch, TokenTimes, claim_stdout, serve


class Engine:
    """One pipeline with a growing KV cache."""

    def __init__(self, folder: str, batch_tokens: int, properties: dict[str, str]) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = batch_tokens
        scheduler.enable_prefix_caching = False
        self._pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self._submitted = 0

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> TokenTimes:
        """Greedy continuation of all ``prompts`` together."""
        config = genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        clock = Stopwatch()
        handles = [self._submit(prompt, config) for prompt in prompts]
        times: TokenTimes = [[] for _ in handles]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = clock()
            for handle, moments in zip(handles, times, strict=True):
                if handle.can_read():
                    moments += [now for out in handle.read().values() for _ in out.generated_ids]
        return times

    def _submit(self, prompt: Sequence[int], config: genai.GenerationConfig) -> Any:
        self._submitted += 1
        tokens = openvino.Tensor(np.asarray([prompt], np.int64))
        return self._pipeline.add_request(self._submitted, tokens, config)


def main() -> None:
    """Serve one model until told to quit."""
    parser = argparse.ArgumentParser(description="OpenVINO GenAI behind the benchmark's protocol")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    pipe = claim_stdout()
    properties = {"INFERENCE_NUM_THREADS": str(args.threads)}
    properties.update(item.split("=", 1) for item in args.property)
    engine = Engine(args.model, args.batch_tokens, properties)
    serve(pipe, engine.generate)


if __name__ == "__main__":
    main()
