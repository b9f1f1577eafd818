"""Time of decoding in parallel: blocks with an exact cache, whole passes, and plain decoding of the same weights.

    python -m benchmarks.dmlm.decoding smollm2-135m --tokens 256

Any decoder will do: what is measured is arithmetic, so its layers are run as those of a model that restores masked
tokens, and a fixed number of tokens stays in each pass. What it writes means nothing. The last line is JSON: seconds,
passes and rows of each way; both ways of blocks must give the same tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import miaotui
from miaotui.backends.build import build_backend
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.dmlm.decoding.acceptance import Acceptance
from miaotui.dmlm.decoding.decode import DecodeOptions, decode
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.hub.resolve import resolve
from miaotui.model.masked import MaskedConfig
from miaotui.model.reading.files import open_model
from miaotui.types import SamplingParams

PROMPT = list(range(1000, 1064))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--counts", default="1,2,4,8", help="tokens that stay in each pass")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default: 3)")
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    path = resolve(chosen.model)
    with open_model(path) as files:
        config = files.config
    masked = MaskedConfig(mask_id=0, block=chosen.block)
    options = EngineOptions(max_sequences=64, chunk_size=1024, threads=chosen.threads)
    backend = build_backend(path, config, options, Settings.from_env()).backend
    rows = []
    for count in map(int, chosen.counts.split(",")):
        wanted = DecodeOptions(chosen.tokens, acceptance=Acceptance(count=count))
        ways = {exact: TextPasses(backend, masked, exact_cache=exact) for exact in (True, False)}
        times: dict[bool, list[float]] = {True: [], False: []}
        texts: dict[bool, list[int]] = {}
        for _ in range(chosen.rounds):  # in turns, so that a busy moment meets both
            for exact, passes in ways.items():
                began_s = time.perf_counter()
                *_, last = decode(passes, masked, PROMPT, wanted)
                times[exact].append(time.perf_counter() - began_s)
                texts[exact] = last.tokens
        found = [
            (texts[exact], statistics.median(times[exact]), passes.passes, passes.rows)
            for exact, passes in ways.items()
        ]
        (tokens, cached_s, n, cached_rows), (others, whole_s, _, whole_rows) = found
        assert tokens == others, "the cache must change no token"
        rows.append(
            {"count": count, "passes": n, "cached_s": cached_s, "cached_rows": cached_rows, "whole_s": whole_s}
            | {"whole_rows": whole_rows, "ratio": whole_s / cached_s, "cached_tokens_per_s": chosen.tokens / cached_s}
        )
        print(
            f"{count:2} tokens a pass: cached {cached_s:6.2f} s ({cached_rows:,} rows), whole {whole_s:6.2f} s "
            f"({whole_rows:,} rows): {whole_s / cached_s:.1f} times, {chosen.tokens / cached_s:.0f} tokens/s",
            flush=True,
        )
    backend.close()
    with miaotui.load(chosen.model, speculate=False, threads=chosen.threads) as llm:
        params = SamplingParams(max_tokens=chosen.tokens, ignore_eos=True)
        runs = [llm.generate([PROMPT[0] + number, *PROMPT[1:]], params).timing for number in range(1 + chosen.rounds)]
        plain = statistics.median(each.decode_tokens_per_s for each in runs[1:])
    print(f"plain decoding: {plain:.0f} tokens/s")
    about = {"benchmark": "dmlm_decoding", "model": chosen.model, "tokens": chosen.tokens, "block": chosen.block}
    print(json.dumps(about | {"plain_tokens_per_s": plain, "counts": rows}))


if __name__ == "__main__":
    main()
