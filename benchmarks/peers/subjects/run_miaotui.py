"""miaotui under test, through its public Python entry.

Streams every prompt and takes each new token's time when its piece of text is handed over, so that
decoding tokens into text counts against us alone. Knows nothing of other engines. As in the peers'
context, there is room for `KV_TOKENS` tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from protocol import Stopwatch, TokenTimes, claim_stdout, peak_rss_bytes, serve

import miaotui
from miaotui import SamplingParams

CONTEXT = 2048
KV_TOKENS = 4096  # all sequences together
KV_BYTES = 2  # float16


class Engine:
    """One loaded model."""

    def __init__(self, path: str, threads: int) -> None:
        # Peers verify no drafts either, and one token a pass is what is measured here.
        self._llm = miaotui.load(path, threads=threads, context=CONTEXT, kv_tokens=KV_TOKENS, speculate=False)

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> TokenTimes:
        """Greedy continuation of all ``prompts`` together: reading one stream advances all."""
        clock = Stopwatch()
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        streams = [self._llm.stream(prompt, params) for prompt in prompts]
        times: TokenTimes = [[] for _ in prompts]
        open_streams = list(zip(streams, times, strict=True))
        while open_streams:
            for stream, moments in tuple(open_streams):
                delta = next(stream)
                now = clock()
                moments.extend([now] * len(delta.token_ids))
                if delta.completion is not None:
                    open_streams.remove((stream, moments))
        return times

    def memory(self) -> dict[str, int]:
        """Peak resident set, and what of it are weights and reserved KV."""
        config = self._llm.config
        row_bytes = 2 * config.n_kv_heads * config.head_dim * KV_BYTES
        return {
            "peak_rss_bytes": peak_rss_bytes(),
            "weights_bytes": self._llm.weight_bytes,
            "kv_bytes": KV_TOKENS * config.n_layers * row_bytes,
        }


def main() -> None:
    """Serve one model until told to quit."""
    parser = argparse.ArgumentParser(description="miaotui behind the benchmark's protocol")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    pipe = claim_stdout()
    engine = Engine(args.model, args.threads)
    serve(pipe, engine.generate, engine.memory)


if __name__ == "__main__":
    main()
