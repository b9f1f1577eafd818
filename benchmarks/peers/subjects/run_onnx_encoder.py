"""An ONNX encoder under ONNX Runtime, OpenVINO or fastembed, answering the encoder benchmark over a pipe.

Runs in the peers' environment. Texts of one batch are padded to the longest, as these engines need it; the time is that
of the graph alone, on arrays that are ready; fastembed gets words, and its time is from these to embeddings. One line
of JSON for each request: ``[[token ids], …]`` or ``[words, …]`` in, seconds out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[dict[str, Any]], Any]


def onnx_runtime(path: str, threads: int) -> tuple[Run, list[str]]:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs), [each.name for each in session.get_inputs()]


def openvino(path: str, threads: int) -> tuple[Run, list[str]]:
    """OpenVINO's CPU plugin, tuned for latency."""
    import openvino as ov

    properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = ov.Core().compile_model(path, "CPU", properties)
    request = model.create_infer_request()
    return request.infer, [each.get_any_name() for each in model.inputs]


def fastembed(path: str, threads: int) -> Callable[[list[str]], Any]:
    """fastembed on the folder of the same graph and tokenizer, nothing downloaded."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    file = Path(path)
    TextEmbedding.add_custom_model(
        model="benchmark/encoder",
        pooling=PoolingType.CLS,
        normalization=True,
        sources=ModelSource(hf="benchmark/encoder"),
        dim=384,
        model_file=file.name,
    )
    model = TextEmbedding(
        "benchmark/encoder", specific_model_path=str(file.parent), threads=threads, local_files_only=True
    )
    return lambda texts: list(model.embed(texts, batch_size=len(texts)))


def padded(texts: list[list[int]]) -> dict[str, Any]:
    """Arrays of a batch: int64 ``[texts, longest]``."""
    longest = max(map(len, texts))
    ids = np.zeros((len(texts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def main() -> None:
    """Load the model, then answer requests until the end of input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["onnxruntime", "openvino", "fastembed"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    run: Callable[[Any], Any]
    names: list[str] = []
    if options.engine == "fastembed":
        run = fastembed(options.model, options.threads)
    else:
        run, names = (onnx_runtime if options.engine == "onnxruntime" else openvino)(options.model, options.threads)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        inputs: Any = {name: array for name, array in padded(texts).items() if name in names} if names else texts
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        run(inputs)
        answer = [time.perf_counter() - begun_s, time.process_time() - begun_cpu_s]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
