"""Text of PDF files, here or in a process of its own that is ended when it takes too long.

Owns the reading of one PDF and its bounds. Knows neither documents nor indexes. Invariant: whatever a file holds, the
result is its text or one `RequestError`; a file from the network is read by `pdf_text_apart`, which keeps its time and
its memory out of the server.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import subprocess
import sys
from typing import NamedTuple

from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.ingest.repair import repaired

MAX_PAGES = 5_000
APART_S = 30.0  # for one file in a process of its own
APART_BYTES = 2 << 30  # of that process's address space
PROGRAM = "miaotui.retrieval.ingest.pdf_text"


class PdfText(NamedTuple):
    """Text of a PDF file."""

    title: str
    body: str


def pdf_text(data: bytes) -> PdfText:
    """Return the text of a PDF. Raises `RequestError` for one that is encrypted, broken or no PDF."""
    pypdf = need("pypdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise RequestError("the PDF is encrypted")
        pages = [page.extract_text() for page in reader.pages[:MAX_PAGES]]
        title = str((reader.metadata or {}).get("/Title") or "")
    except RequestError:
        raise
    except (Exception, RecursionError) as error:  # a broken file may fail anywhere in the library
        raise RequestError(f"the PDF is broken: {type(error).__name__}: {str(error)[:200]}") from error
    return PdfText(repaired(title).strip(), repaired("\n\n".join(pages)).strip())


def pdf_text_apart(data: bytes, timeout_s: float = APART_S) -> PdfText:
    """Return the text of a PDF, read in a process of its own. Raises `RequestError`, also where it takes too long."""
    command = [sys.executable, "-m", PROGRAM]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603  (our own program; the file is its input)
            command, input=data, capture_output=True, timeout=timeout_s, check=False, env=environment
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise RequestError(f"the PDF takes more than {timeout_s:g} s to read: split it") from None
    except ValueError:
        raise RequestError("the PDF needs more memory than a file may take: split it") from None
    if "error" in found:
        raise RequestError(found["error"])
    return PdfText(found["title"], found["body"])


def decoded_file(text: str) -> bytes:
    """Return a file that is written in base64. Raises `RequestError`."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise RequestError("must be a file in base64") from None


def _main() -> None:
    """Read a PDF from standard input, and write its text as JSON."""
    _bound_memory()
    try:
        found = pdf_text(sys.stdin.buffer.read())._asdict()
    except RequestError as error:
        found = {"error": str(error)}
    json.dump(found, sys.stdout)


def _bound_memory() -> None:
    try:
        import resource  # noqa: PLC0415  (Unix alone has it)
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (APART_BYTES, APART_BYTES))


if __name__ == "__main__":
    _main()
