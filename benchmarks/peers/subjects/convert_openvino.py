"""GGUF file in, folder of OpenVINO IR and tokenizer out, by OpenVINO GenAI's own GGUF reader.

The reader keeps the values of every 4-bit and 8-bit block, so the peer computes with the same
weights; it is as fast as IR exported from float weights at 4 bits (symmetric, groups of 32; 8-bit
embedding) and far faster to make. It writes beside the file it reads, hence the link.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import openvino_genai as genai

MODEL = "openvino_model.xml"


def main() -> None:
    """Convert ``sys.argv[1]`` into the folder ``sys.argv[2]``, which appears only when whole."""
    source, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    part = target.with_suffix(".part")
    part.mkdir(exist_ok=True)
    link = part / "model.gguf"
    link.unlink(missing_ok=True)
    link.symlink_to(source)
    genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
    link.unlink()
    if not (part / MODEL).exists():
        raise OSError(f"OpenVINO GenAI wrote no {MODEL} into {part} for {source}")
    os.replace(part, target)


if __name__ == "__main__":
    main()
